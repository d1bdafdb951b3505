package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"os/user"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/spec"
)

// Exit statuses beside 0, 1 and 2.
const (
	exitNoDirector = 3
	exitConflict   = 4
)

// clusterTimeout bounds one question to a director.
const clusterTimeout = 15 * time.Second

var directorFlag = &cli.StringFlag{Name: "director", EnvVars: []string{"DROVER_DIRECTOR"}, Value: api.DefaultSocket, DefaultText: api.DefaultSocket, Usage: "ask the director at `ADDRESS`: the path of its socket, or http://127.0.0.1:PORT for a tunnel to it"}

var outputFlag = &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "print as `FORMAT`: text, json, yaml"}

var eventFlag = &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "print as `FORMAT`: text, json"}

var groupFlag = &cli.StringFlag{Name: "group", Aliases: []string{"g"}, Usage: "only this `GROUP` of VIPs; default all"}

func clusterCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "status", Usage: "show who is active, since when and why, and how the cluster is",
			UsageText: "drover status [-o FORMAT] [--director ADDRESS]",
			Flags:     []cli.Flag{directorFlag, outputFlag},
			Action:    ask(0, 0, statusAction),
		},
		{
			Name: "members", Usage: "list the nodes of the cluster",
			UsageText: "drover members [-o FORMAT] [--director ADDRESS]",
			Flags:     []cli.Flag{directorFlag, formatFlag},
			Action:    ask(0, 0, membersAction),
		},
		{
			Name: "promote", Usage: "make a director the active one",
			UsageText: "drover promote [--group GROUP] [--force] [--director ADDRESS] NODE",
			Description: "The active director gives the VIPs up and the named one takes them: clients see no failed\n" +
				"connection. It is refused if the named one cannot take them.\n\n" +
				"With --force voters let it be active even if it lacks a change of the specification that was\n" +
				"acknowledged: that change is lost. It is for when the directors that have it do not come back.",
			Flags: []cli.Flag{directorFlag, groupFlag, &cli.BoolFlag{Name: "force", Usage: "even if acknowledged changes are lost by it"}},
			Action: ask(1, 1, func(ctx context.Context, c *cli.Context, d *api.Client) error {
				return handover(ctx, c, d, api.Handover{Group: c.String("group"), To: c.Args().First(), Force: c.Bool("force"), Why: "drover promote, by " + whoami()})
			}),
		},
		{
			Name: "stepdown", Usage: "make the active director give its VIPs to another one",
			UsageText: "drover stepdown [--group GROUP] [--director ADDRESS]",
			Flags:     []cli.Flag{directorFlag, groupFlag},
			Action: ask(0, 0, func(ctx context.Context, c *cli.Context, d *api.Client) error {
				return handover(ctx, c, d, api.Handover{Group: c.String("group"), Why: "drover stepdown, by " + whoami()})
			}),
		},
		{
			Name: "maintenance", Usage: "take a director out of the election, or put it back",
			UsageText: "drover maintenance [--director ADDRESS] on|off",
			Description: "A director in maintenance gives up what it has and is not active again before maintenance is\n" +
				"switched off or the director is restarted. It goes on voting.",
			Flags: []cli.Flag{directorFlag},
			Action: ask(1, 1, func(ctx context.Context, c *cli.Context, d *api.Client) error {
				on := c.Args().First() == "on"
				if !on && c.Args().First() != "off" {
					return cli.Exit(fmt.Sprintf("maintenance: %q is neither on nor off", c.Args().First()), 2)
				}
				return d.Do(ctx, "POST", "/v1/maintenance", api.Maintenance{On: on}, nil)
			}),
		},
		{
			Name: "apply", Usage: "make a file the specification of all directors",
			UsageText: "drover apply -f FILE [--if-version VERSION] [--dry-run] [-m TEXT] [--director ADDRESS]",
			Description: "The file has the keys vips and services. It is checked here and by the active director, which\n" +
				"answers when every director that can be reached has it on disk, and prints on which.\n\n" +
				"Exit status 4: --if-version names another version than the one in force.",
			Flags: []cli.Flag{directorFlag,
				&cli.PathFlag{Name: "file", Aliases: []string{"f"}, Usage: "read `FILE`; - is the standard input"},
				&cli.StringFlag{Name: "if-version", Usage: "only if `VERSION` is in force"},
				&cli.StringFlag{Name: "message", Aliases: []string{"m"}, Usage: "say `TEXT` in the history; default: the command"},
				&cli.BoolFlag{Name: "dry-run", Usage: "print what would change in the active director's table, and change nothing"},
			},
			Action: ask(0, 0, applyAction),
		},
		{
			Name: "history", Usage: "list the changes of the specification, the newest first",
			UsageText:   "drover history [-o FORMAT] [--director ADDRESS] [VERSION]",
			Description: "With a version, prints that specification.",
			Flags:       []cli.Flag{directorFlag, outputFlag},
			Action:      ask(0, 1, historyAction),
		},
		{
			Name: "rollback", Usage: "bring back an earlier specification, as a new change",
			UsageText: "drover rollback [--if-version VERSION] [--director ADDRESS] VERSION",
			Flags:     []cli.Flag{directorFlag, &cli.StringFlag{Name: "if-version", Usage: "only if `VERSION` is in force"}},
			Action: ask(1, 1, func(ctx context.Context, c *cli.Context, d *api.Client) error {
				var out api.Changed
				in := api.Change{Who: whoami(), IfVersion: c.String("if-version")}
				if err := d.Do(ctx, "POST", "/v1/history/"+url.PathEscape(c.Args().First())+"/rollback", in, &out); err != nil {
					return err
				}
				return printChanged(c.App.Writer, &out)
			}),
		},
		{
			Name: "events", Usage: "list what happened in the cluster, as this director saw it",
			UsageText: "drover events [--watch] [-o text|json] [--director ADDRESS]",
			Flags:     []cli.Flag{directorFlag, eventFlag, &cli.BoolFlag{Name: "watch", Aliases: []string{"w"}, Usage: "go on until interrupted"}},
			Action:    ask(0, 0, eventsAction),
		},
		checksCommand(),
		notifyCommand(),
		keysCommand(),
	}
}

// ask makes an action out of one that speaks with a director, for a command of so many arguments.
func ask(least, most int, f func(context.Context, *cli.Context, *api.Client) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		switch n := c.NArg(); {
		case n > most:
			return cli.Exit(fmt.Sprintf("%s: unexpected argument %q (usage: %s)", c.Command.Name, c.Args().Get(most), c.Command.UsageText), 2)
		case n < least:
			return cli.Exit(fmt.Sprintf("%s: an argument is missing (usage: %s)", c.Command.Name, c.Command.UsageText), 2)
		}
		if err := checkFormat(c); err != nil {
			return err
		}
		return asking(c, f)
	}
}

// asking runs f with the director that the command line names.
func asking(c *cli.Context, f func(context.Context, *cli.Context, *api.Client) error) error {
	d, err := api.NewClient(c.String("director"))
	if err != nil {
		return cli.Exit(err, 2)
	}
	ctx, cancel := contextWithTimeout(c, clusterTimeout)
	defer cancel()
	return askFailed(f(ctx, c, d))
}

// askFailed gives what came of asking a director its exit status.
func askFailed(err error) error {
	var none *api.ErrNoDirector
	var refused *api.Error
	switch {
	case errors.As(err, &none):
		return cli.Exit(err.Error()+" (is drover-director running? --director names another one)", exitNoDirector)
	case errors.As(err, &refused) && refused.Conflict():
		return cli.Exit(err, exitConflict)
	}
	return err
}

// whoami names the person at the keyboard, for the history.
func whoami() string {
	name := os.Getenv("SUDO_USER")
	if u, err := user.Current(); name == "" && err == nil {
		name = u.Username
	}
	host, _ := os.Hostname()
	return name + "@" + host
}

func handover(ctx context.Context, c *cli.Context, d *api.Client, h api.Handover) error {
	var out api.Cluster
	if err := d.Do(ctx, "POST", "/v1/handover", h, &out); err != nil {
		return err
	}
	for _, g := range out.Groups {
		if h.Group == "" || g.Name == h.Group {
			active := g.Active
			if active == "" {
				active = "nobody"
			}
			fmt.Fprintf(c.App.Writer, "%s: %s is active\n", g.Name, active)
		}
	}
	return nil
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func statusAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	var st api.Cluster
	if err := d.Do(ctx, "GET", "/v1/cluster", nil, &st); err != nil {
		return err
	}
	if done, err := printAs(c.App.Writer, c.String("output"), &st); done {
		return err
	}
	return printStatus(c.App.Writer, &st, time.Now())
}

// ago is a time span for people.
func ago(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

func seconds(s float64) string {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond).String()
}

// printStatus prints one screen.
func printStatus(w io.Writer, st *api.Cluster, now time.Time) error {
	alive, voting := 0, 0
	for _, m := range st.Members {
		if m.State == "alive" {
			alive++
			if m.Voter {
				voting++
			}
		}
	}
	voters := 0
	for _, m := range st.Members {
		if m.Voter {
			voters++
		}
	}
	fmt.Fprintf(w, "cluster %s, seen from %s: %d of %d nodes alive, %d of %d voters; mode %s, lease %s\n",
		st.Label, st.Node, alive, len(st.Members), voting, voters, st.Mode, seconds(st.Lease))
	source := st.Spec.Source
	if st.Spec.Version != "" {
		source += " version " + st.Spec.Version
		if st.Spec.Acked != "" && st.Spec.Acked != st.Spec.Version {
			source += " (acknowledged: " + st.Spec.Acked + ")"
		}
	}
	if st.Spec.Hash == "" {
		fmt.Fprintf(w, "spec %s: %s has none in force, and leaves its IPVS table as it is\n", source, st.Node)
	} else {
		fmt.Fprintf(w, "spec %s, %.12s\n", source, st.Spec.Hash)
	}
	fmt.Fprintf(w, "lease enforced by %s\n", st.Fence)
	if st.Maintenance {
		fmt.Fprintf(w, "%s is in maintenance: it will not be active\n", st.Node)
	}
	for _, text := range st.Warnings {
		fmt.Fprintf(w, "WARNING: %s\n", text)
	}
	for i := range st.Notify {
		if text := sinkTrouble(&st.Notify[i], now); text != "" {
			fmt.Fprintf(w, "WARNING: %s\n", text)
		}
	}

	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "\nGROUP\tACTIVE\t%s IS\tSINCE\tEPOCH\tMARGIN\tWHY\n", strings.ToUpper(st.Node))
	for _, g := range st.Groups {
		margin := "-"
		if g.Margin > 0 {
			margin = seconds(g.Margin)
		}
		why := g.Why
		if !g.Eligible {
			why = "not eligible: " + g.Reason
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\t%s\n", g.Name, cmp.Or(g.Active, "nobody"), g.Role, ago(now.Sub(g.Since)), g.Epoch, margin, why)
	}
	fmt.Fprintf(t, "\nVOTER\tGROUP\tVOTES FOR\tLEFT\tREMARK\n")
	for _, g := range st.Groups {
		for _, v := range g.Votes {
			left := "-"
			if v.Left > 0 {
				left = seconds(v.Left)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", v.Voter, g.Name, cmp.Or(v.For, "-"), left, cmp.Or(v.Reason, "-"))
		}
	}
	fmt.Fprintf(t, "\nDIRECTOR\tSTATE\tSINCE\tACTIVE FOR\tSPEC\tSYNC\tCONNECTIONS\tVERSION\n")
	for _, m := range st.Members {
		if m.Role != "director" {
			continue
		}
		spec, sync, conns := "-", "-", "-"
		if m.Spec != nil {
			spec = fmt.Sprintf("%.12s", m.Spec.Hash)
			if m.Spec.Version != "" {
				spec = m.Spec.Version
			}
		}
		if m.Sync != nil {
			if sync = cmp.Or(strings.Join(m.Sync.Roles, "+"), "off"); m.Sync.Error != "" {
				sync += ": " + m.Sync.Error
			}
		}
		if m.Conns != nil {
			conns = fmt.Sprintf("%d active, %d inactive", m.Conns.Active, m.Conns.Inactive)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.State, ago(now.Sub(m.Since)), cmp.Or(strings.Join(m.Active, ", "), "-"), spec, sync, conns, cmp.Or(m.Version, "-"))
	}
	if len(st.Checks) > 0 {
		fmt.Fprintln(t)
		printChecks(t, st.Checks, now)
	}
	if len(st.Drains) > 0 {
		fmt.Fprintf(t, "\nDRAIN\tSERVICE\tSTATE\tSINCE\tTHEN\tPROGRESS\n")
		for _, d := range st.Drains {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Server, d.Service, d.State, ago(now.Sub(d.Since)), d.Then, d.Text)
		}
	}
	if slices.ContainsFunc(st.Members, func(m api.Member) bool { return m.Role != "director" }) {
		fmt.Fprintf(t, "\nSERVER\tSTATE\tSINCE\tPOOL\tWEIGHT\tREADY\tOUT BECAUSE\n")
		for _, m := range st.Members {
			if m.Role == "director" {
				continue
			}
			pool, weight, ready, out := "-", "-", "-", ""
			switch a := m.Agent; {
			case m.Role == "witness":
				pool = "(witness)"
			case a == nil:
				out = "has announced nothing"
			default:
				n := 0
				for _, v := range a.VIPs {
					if v.Ready {
						n++
					} else if out == "" {
						out = fmt.Sprintf("%s %s: %s", vipTrouble(v), v.Address, v.Reason)
					}
				}
				pool, weight, ready = cmp.Or(a.Pool, "(static)"), fmt.Sprint(a.Weight), fmt.Sprintf("%d of %d VIPs", n, len(a.VIPs))
				for _, s := range slices.Sorted(maps.Keys(a.Down)) {
					out = cmp.Or(out, "service down: "+a.Down[s])
				}
				if a.Draining {
					out = "draining"
				}
			}
			if m.State == "failed" {
				out = "host gone: nothing is heard of it"
			} else if m.State != "alive" {
				out = m.State
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.State, ago(now.Sub(m.Since)), pool, weight, ready, cmp.Or(out, "-"))
		}
	}
	return t.Flush()
}

// vipTrouble says in two words what is wrong with a VIP on a real server.
func vipTrouble(v api.AgentVIP) string {
	if v.Phase == "answered" {
		return "ARP not silent"
	}
	return "VIP not bound"
}

func membersAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	var st api.Cluster
	if err := d.Do(ctx, "GET", "/v1/cluster", nil, &st); err != nil {
		return err
	}
	if done, err := printAs(c.App.Writer, c.String("output"), st.Members); done {
		return err
	}
	if c.String("output") == asName {
		for _, m := range st.Members {
			fmt.Fprintln(c.App.Writer, m.Name)
		}
		return nil
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "NAME\tROLE\tADDRESS\tSTATE\tSINCE\tVOTER\tVERSION\n")
	for _, m := range st.Members {
		voter := "no"
		if m.Voter {
			voter = "yes"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Role, m.Address, m.State, ago(time.Since(m.Since)), voter, cmp.Or(m.Version, "-"))
	}
	return t.Flush()
}

func applyAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	if c.Path("file") == "" {
		return cli.Exit("apply: -f is missing (usage: "+c.Command.UsageText+")", 2)
	}
	return applyFile(ctx, c, d, c.Path("file"))
}

// readSpec reads a specification from a file, or from the standard input if path is "-".
func readSpec(c *cli.Context, path string) (content []byte, s *spec.File, err error) {
	switch path {
	case "-":
		path = "standard input"
		content, err = io.ReadAll(io.LimitReader(c.App.Reader, api.MaxBody+1))
		if len(content) > api.MaxBody {
			err = fmt.Errorf("standard input is longer than %d bytes", api.MaxBody)
		}
	default:
		content, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, nil, cli.Exit(err, 2)
	}
	s, err = spec.ParseSpec(path, content)
	if err != nil {
		fmt.Fprintln(c.App.ErrWriter, err)
		return nil, nil, cli.Exit("", 2)
	}
	for _, w := range s.Warnings {
		fmt.Fprintf(c.App.ErrWriter, "%s (warning)\n", w)
	}
	return content, s, nil
}

func applyFile(ctx context.Context, c *cli.Context, d *api.Client, path string) error {
	content, _, err := readSpec(c, path)
	if err != nil {
		return err
	}
	var out api.Changed
	in := api.Change{Content: string(content), Who: whoami(), What: whatFor(c), IfVersion: c.String("if-version"), DryRun: c.Bool("dry-run")}
	if err := d.Do(ctx, "PUT", "/v1/spec", in, &out); err != nil {
		return err
	}
	return printChanged(c.App.Writer, &out)
}

func printChanged(w io.Writer, out *api.Changed) error {
	if out.Plan != nil {
		var text string
		if err := json.Unmarshal(out.Plan, &text); err != nil {
			return err
		}
		_, err := io.WriteString(w, text)
		return err
	}
	if out.Unchanged {
		fmt.Fprintf(w, "unchanged: this is version %s already\n", out.Version)
		return nil
	}
	fmt.Fprintf(w, "version %s is on %d of %d directors: %s\n", out.Version, len(out.Stored), len(out.Stored)+len(out.Missing), strings.Join(out.Stored, ", "))
	for _, node := range slices.Sorted(maps.Keys(out.Missing)) {
		fmt.Fprintf(w, "  %s will get it when it is back: %s\n", node, out.Missing[node])
	}
	return nil
}

func historyAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	if v := c.Args().First(); v != "" {
		var e api.Entry
		if err := d.Do(ctx, "GET", "/v1/history/"+url.PathEscape(v), nil, &e); err != nil {
			return err
		}
		if done, err := printAs(c.App.Writer, c.String("output"), &e); done {
			return err
		}
		_, err := io.WriteString(c.App.Writer, e.Content)
		return err
	}
	var list []api.Entry
	if err := d.Do(ctx, "GET", "/v1/history", nil, &list); err != nil {
		return err
	}
	if done, err := printAs(c.App.Writer, c.String("output"), list); done {
		return err
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "VERSION\tWHEN\tWHO\tBY\tWHAT\n")
	for _, e := range list {
		what := e.What
		if !e.Acked {
			what += " (not acknowledged yet)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", e.Version, e.When.Format(time.DateTime), cmp.Or(e.Who, "-"), e.Node, cmp.Or(strings.TrimSpace(what), "-"))
	}
	return t.Flush()
}

func eventsAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	last, path, cancel := uint64(0), "/v1/events?after=0", context.CancelFunc(func() {})
	for {
		var list []api.Event
		err := d.Do(ctx, "GET", path, nil, &list)
		cancel()
		if err != nil && c.Bool("watch") && c.Context.Err() != nil {
			return nil // interrupted
		}
		if err != nil {
			return err
		}
		for _, e := range list {
			last = e.Seq
			if c.String("output") == "json" {
				err = json.NewEncoder(c.App.Writer).Encode(e)
			} else {
				_, err = fmt.Fprintf(c.App.Writer, "%s  %-12s  %s\n", e.When.Format(time.DateTime+".000"), e.Kind, e.Text)
			}
			if err != nil {
				return err
			}
		}
		if !c.Bool("watch") {
			return nil
		}
		// The director answers when there is something new, or with nothing after a while.
		path = fmt.Sprintf("/v1/events?after=%d&wait=10s", last)
		ctx, cancel = contextWithTimeout(c, clusterTimeout)
	}
}
