package main

import (
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/lab/probe"
)

// labProbeCommand makes the lab's probes available by themselves: they measure a real cluster as well.
func labProbeCommand() *cli.Command {
	target := &cli.StringFlag{Name: "target", Required: true, Usage: "`ADDRESS:PORT` to measure"}
	listen := &cli.StringFlag{Name: "listen", Required: true, Usage: "`ADDRESS:PORT` to serve"}
	every := &cli.DurationFlag{Name: "every", Value: 20 * time.Millisecond, Usage: "begin one each `TIME`"}
	timeout := &cli.DurationFlag{Name: "timeout", Value: 2 * time.Second, Usage: "give one up after this `TIME`"}
	addrPort := func(c *cli.Context, name string) (netip.AddrPort, error) {
		ap, err := netip.ParseAddrPort(c.String(name))
		if err != nil {
			return ap, cli.Exit(fmt.Sprintf("--%s %q is not address:port", name, c.String(name)), 2)
		}
		return ap, nil
	}
	client := func(name, usage string, run func(c *cli.Context, w *probe.Writer, target netip.AddrPort), flags ...cli.Flag) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, Flags: append([]cli.Flag{target, every, timeout}, flags...),
			Action: func(c *cli.Context) error {
				ap, err := addrPort(c, "target")
				if err != nil {
					return err
				}
				run(c, probe.NewWriter(os.Stdout), ap)
				return nil
			}}
	}
	server := func(name, usage string, run func(c *cli.Context, w *probe.Writer, listen netip.AddrPort) error, flags ...cli.Flag) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, Flags: append([]cli.Flag{listen}, flags...),
			Action: func(c *cli.Context) error {
				ap, err := addrPort(c, "listen")
				if err != nil {
					return err
				}
				return run(c, probe.NewWriter(os.Stdout), ap)
			}}
	}
	return &cli.Command{
		Name:        "probe",
		Usage:       "run one of the lab's measuring clients or back ends by itself, here",
		Description: "Events are written to standard output, one JSON object a line.",
		Subcommands: []*cli.Command{
			client("connect", "open a new TCP connection again and again and ask for a page over each",
				func(c *cli.Context, w *probe.Writer, ap netip.AddrPort) {
					probe.Connect(c.Context, w, ap, c.Duration("every"), c.Duration("timeout"))
				}),
			client("udp", "send a datagram from a new port again and again and wait for its echo",
				func(c *cli.Context, w *probe.Writer, ap netip.AddrPort) {
					probe.Datagrams(c.Context, w, ap, c.Duration("every"), c.Duration("timeout"))
				}),
			client("stream", "keep TCP connections to an echo server and send a sequence number over each again and again",
				func(c *cli.Context, w *probe.Writer, ap netip.AddrPort) {
					probe.Stream(c.Context, w, probe.StreamOptions{Target: ap, Count: c.Int("count"), Every: c.Duration("every"), Timeout: c.Duration("timeout"), Lifetime: c.Duration("lifetime")})
				}, &cli.IntFlag{Name: "count", Value: 1, Usage: "`NUMBER` of connections"},
				&cli.DurationFlag{Name: "lifetime", Usage: "close each after so long and open it anew; 0: keep it"}),
			{
				Name: "arp", Usage: "ask on the link who has an address, again and again",
				Flags: []cli.Flag{&cli.StringFlag{Name: "address", Required: true, Usage: "the `ADDRESS` to ask for"}, every},
				Action: func(c *cli.Context) error {
					a, err := netip.ParseAddr(c.String("address"))
					if err != nil {
						return cli.Exit(fmt.Sprintf("--address %q is not an address", c.String("address")), 2)
					}
					return probe.Claimants(c.Context, probe.NewWriter(os.Stdout), a, c.Duration("every"))
				},
			},
			server("http", "serve pages that name this host and the client's address",
				func(c *cli.Context, w *probe.Writer, ap netip.AddrPort) error {
					return probe.HTTP(c.Context, w, probe.HTTPOptions{Listen: ap, ServiceTime: c.Duration("service-time"), Workers: c.Int("workers")})
				},
				&cli.DurationFlag{Name: "service-time", Usage: "a page keeps a worker busy for this `TIME`; " + probe.LoadPage + " tells how many requests there are for each worker"},
				&cli.IntFlag{Name: "workers", Value: 1, Usage: "`NUMBER` of pages at a time, with --service-time"}),
			server("echo", "echo TCP connections",
				func(c *cli.Context, w *probe.Writer, ap netip.AddrPort) error { return probe.Echo(c.Context, w, ap) }),
			server("udp-echo", "echo UDP datagrams with the name of this host",
				func(c *cli.Context, w *probe.Writer, ap netip.AddrPort) error { return probe.UDPEcho(c.Context, w, ap) }),
		},
	}
}
