package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvsadm"
)

// listTimeout bounds the wait for an answer from the kernel.
const listTimeout = 10 * time.Second

// listed are the things that list can show, by the flag that asks for them: one at a time.
var listed = []struct {
	flag string
	view ipvsadm.View
}{
	{"stats", ipvsadm.Stats},
	{"rate", ipvsadm.Rate},
	{"thresholds", ipvsadm.Thresholds},
	{"persistent-conn", ipvsadm.PersistentConn},
	{"tun-info", ipvsadm.TunnelInfo},
	{"connections", 0},
	{"timeout", 0},
	{"daemon", 0},
}

func listCommand() *cli.Command {
	return &cli.Command{
		Name:    "list",
		Aliases: []string{"ls"},
		Usage:   "list the kernel's virtual services, real servers and connections",
		Description: "Prints the IPVS table of this network namespace byte for byte as `ipvsadm -Ln` does, with the\n" +
			"options of ipvsadm. Addresses and ports are always numeric. Needs root (CAP_NET_ADMIN).\n\n" +
			"With -o json the table has all numbers of all views, in full.\n\n" +
			"With --cluster it asks a director instead, as drover service list does: names, states, and why a real\n" +
			"server is out. -o may be text, wide, name, json or yaml then.",
		UseShortOptionHandling: true,
		HideHelpCommand:        true,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "stats", Usage: "connections, packets and bytes since a service was made or zeroed"},
			&cli.BoolFlag{Name: "rate", Usage: "connections, packets and bytes per second, an average over some seconds"},
			&cli.BoolFlag{Name: "thresholds", Usage: "connections from which a server gets no new ones, and below which it does again"},
			&cli.BoolFlag{Name: "persistent-conn", Usage: "persistence templates of each server; with -c, what their engine goes by"},
			&cli.BoolFlag{Name: "tun-info", Usage: "kind of tunnel to each server"},
			&cli.BoolFlag{Name: "connections", Aliases: []string{"connection", "c"}, Usage: "list the connections instead, and the persistence templates"},
			&cli.BoolFlag{Name: "timeout", Usage: "show the timeouts of connections instead"},
			&cli.BoolFlag{Name: "daemon", Usage: "show the connection sync daemons instead"},
			&cli.BoolFlag{Name: "exact", Usage: "numbers in full, not in K, M, G and T (powers of 1000)"},
			&cli.BoolFlag{Name: "nosort", Usage: "keep the kernel's order"},
			&cli.BoolFlag{Name: "numeric", Aliases: []string{"n"}, Usage: "does nothing: it is always numeric"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table or json"},
			&cli.BoolFlag{Name: "cluster", Usage: "list the services of the cluster, their real servers, and why one is out"},
			&cli.StringFlag{Name: "director", EnvVars: directorFlag.EnvVars, Usage: "with --cluster: ask the director at `ADDRESS`"},
		},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return listUsage(err.Error()) },
		Action: func(c *cli.Context) error {
			if c.Bool("cluster") {
				return listCluster(c)
			}
			if err := checkList(c); err != nil {
				return err
			}
			// Short and frugal: the first collection at 40 MiB is none, where one costs a fifth of the time.
			debug.SetGCPercent(1000)
			// The client bounds each of its calls; the whole takes as long as a reader of a pipe likes.
			ctx := c.Context
			client, err := ipvs.Dial(ctx, ipvs.Config{Timeout: listTimeout})
			if err != nil {
				return err
			}
			defer client.Close()
			return list(ctx, c, client)
		},
	}
}

// listCluster is drover service list under the name that everybody looks for.
func listCluster(c *cli.Context) error {
	for _, l := range listed {
		if c.Bool(l.flag) {
			return listUsage("--" + l.flag + " and --cluster exclude each other")
		}
	}
	format := c.String("output")
	switch format {
	case "table":
		format = "text"
	case "text", asWide, asName, asJSON, asYAML:
	default:
		return listUsage(fmt.Sprintf("output (%q) must be text, wide, name, json or yaml with --cluster", format))
	}
	return asking(c, func(ctx context.Context, c *cli.Context, d *api.Client) error {
		return printList(ctx, c, d, c.Args().Slice(), format)
	})
}

// listUsage is a wrong command line, exit status 2.
func listUsage(text string) error {
	return cli.Exit("list: "+text+" (drover list --help explains the options)", 2)
}

// checkList refuses what the flags' parser does not.
func checkList(c *cli.Context) error {
	if c.NArg() > 0 {
		return listUsage(fmt.Sprintf("unexpected argument %q", c.Args().First()))
	}
	if o := c.String("output"); o != "table" && o != "json" {
		return listUsage(fmt.Sprintf("output (%q) must be table or json", o))
	}
	var set []string
	for _, l := range listed {
		if c.Bool(l.flag) && (l.flag != "persistent-conn" || !c.Bool("connections")) {
			set = append(set, "--"+l.flag)
		}
	}
	if len(set) > 1 {
		return listUsage(strings.Join(set, " and ") + " exclude each other")
	}
	return nil
}

func list(ctx context.Context, c *cli.Context, client *ipvs.Client) error {
	w := c.App.Writer
	json := c.String("output") == "json"
	switch {
	case c.Bool("connections"):
		return listConnections(ctx, w, client, json, c.Bool("persistent-conn"))
	case c.Bool("timeout"):
		t, err := client.Timeouts(ctx)
		if err != nil {
			return err
		}
		if json {
			return ipvsadm.WriteTimeoutsJSON(w, t)
		}
		return ipvsadm.Timeouts(w, t)
	case c.Bool("daemon"):
		daemons, err := client.Daemons(ctx)
		if err != nil {
			return err
		}
		if json {
			return ipvsadm.WriteDaemonsJSON(w, daemons)
		}
		return ipvsadm.Daemons(w, daemons)
	}
	services, err := client.ListServices(ctx)
	if err != nil {
		return err
	}
	services = public(services)
	destinations := func(services []ipvs.ServiceEntry, each func(int, *ipvs.DestinationEntry)) error {
		return client.EachDestination(ctx, services, each)
	}
	if json {
		return ipvsadm.WriteTableJSON(w, client.Info(), services, destinations)
	}
	o := ipvsadm.Options{Exact: c.Bool("exact"), NoSort: c.Bool("nosort")}
	for _, l := range listed {
		if c.Bool(l.flag) {
			o.View = l.view
		}
	}
	return ipvsadm.Table(w, client.Info(), services, destinations, o)
}

func listConnections(ctx context.Context, w io.Writer, client *ipvs.Client, json, persistent bool) error {
	p := ipvsadm.NewConnections(w, persistent)
	if json {
		p = ipvsadm.NewConnectionsJSON(w)
	}
	if err := client.Connections(ctx, p.Print); err != nil {
		return err
	}
	return p.Close()
}
