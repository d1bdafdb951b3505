package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// wholeCommands are about the whole specification, and what the kernels keep beside it.
func wholeCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "save", Usage: "print the specification in force, as drover restore takes it",
			UsageText:   "drover save [--director ADDRESS]",
			Description: "It is the text that was applied, with its comments. A director whose VIPs and services stand in its\nown file prints those.",
			Flags:       []cli.Flag{directorFlag},
			Action:      ask(0, 0, saveAction),
		},
		{
			Name: "restore", Usage: "make what drover save has printed the specification of all directors",
			UsageText:   "drover restore [--if-version VERSION] [--dry-run] [--message TEXT] [--director ADDRESS] [FILE]",
			Description: "Does what drover apply does, and reads the standard input if there is no FILE.",
			Flags:       editFlags,
			Action:      ask(0, 1, restoreAction),
		},
		{
			Name: "diff", Usage: "show in what the kernel, or a file, differs from the specification in force",
			UsageText: "drover diff [--director ADDRESS] [FILE]",
			Description: "Without FILE: what the director would change in its own kernel, which is nothing when all is well. With\n" +
				"FILE: what drover restore FILE would change. In the words of ipvsadm.\n\n" +
				"Exit status 0 if nothing differs, 1 if something does. What goes wrong is told on the standard error.",
			Flags:  []cli.Flag{directorFlag},
			Action: ask(0, 1, diffAction),
		},
		{
			Name: "zero", Usage: "set counters back to zero, on all directors",
			UsageText:   "drover zero [options] [SERVICE]",
			Description: serviceArg + " Without one it is all services.",
			Flags:       flags(keyFlags, []cli.Flag{directorFlag}),
			Action:      ask(0, 1, zeroAction),
		},
		{
			Name: "timeouts", Usage: "show or set how long connections without packets are kept, on all directors",
			UsageText: "drover timeouts [-o FORMAT] [--director ADDRESS] [TCP TCPFIN UDP]",
			Description: "Sets the timeouts of established TCP connections, of TCP connections after a FIN, and of UDP, in seconds,\n" +
				"as ipvsadm --set does; 0 leaves one as it is. They are in force until the host is started anew.",
			Flags:  []cli.Flag{directorFlag, outputFlag},
			Action: ask(0, 3, timeoutsAction),
		},
		{
			Name: "explain", Usage: "say why a service or a real server is in or out, since when, and what would change it",
			UsageText:   "drover explain [-o FORMAT] [--director ADDRESS] SERVICE|SERVER|SERVICE/SERVER",
			Description: "SERVICE is a name or an address with port, SERVER a name or an address.",
			Flags:       []cli.Flag{directorFlag, outputFlag},
			Action:      ask(1, 1, explainAction),
		},
	}
}

func saveAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	doc, err := document(ctx, d)
	if err != nil {
		return err
	}
	text := doc.Content
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	_, err = io.WriteString(c.App.Writer, text)
	return err
}

func restoreAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	path := c.Args().First()
	if path == "" {
		path = "-"
	}
	return applyFile(ctx, c, d, path)
}

func diffAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	w := c.App.Writer
	if c.NArg() == 0 {
		var diff api.Diff
		if err := d.Do(ctx, "GET", "/v1/diff", nil, &diff); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s# %s\n", diff.Plan, diff.Summary)
		for _, s := range diff.Strangers {
			fmt.Fprintf(w, "# left alone: %s\n", s)
		}
		if !diff.Equal {
			return cli.Exit("", 1)
		}
		return nil
	}
	doc, err := document(ctx, d)
	if err != nil {
		return err
	}
	have := &spec.File{}
	if doc.Content != "" {
		if have, err = spec.ParseSpec("the specification in force", []byte(doc.Content)); err != nil {
			return err
		}
	}
	_, want, err := readSpec(c, c.Args().First())
	if err != nil {
		return err
	}
	text := specDiff(&have.Spec, &want.Spec)
	if _, err := io.WriteString(w, text); err != nil {
		return err
	}
	if !have.Spec.Equal(&want.Spec) {
		return cli.Exit("", 1)
	}
	return nil
}

// specDiff says what would have to change for have to be want.
func specDiff(have, want *spec.Spec) string {
	var b strings.Builder
	lack := func(mark string, list, of []spec.VIP) {
		known := make(map[spec.VIP]bool)
		for _, v := range of {
			known[v] = true
		}
		for _, v := range list {
			if !known[v] {
				fmt.Fprintf(&b, "%s vip %s\n", mark, v.Format())
			}
		}
	}
	lack("-", have.VIPs, want.VIPs)
	lack("+", want.VIPs, have.VIPs)
	p := plan.Diff(plan.Want(want), plan.Want(have), plan.Owner(spec.OwnAll, nil))
	b.WriteString(p.String())
	old := make(map[ipvs.Key]*spec.Service)
	for i := range have.Services {
		old[have.Services[i].Key] = &have.Services[i]
	}
	for i := range want.Services {
		s := &want.Services[i]
		o := old[s.Key]
		if o == nil {
			continue
		}
		if o.Name != s.Name {
			fmt.Fprintf(&b, "# %s: name %q, was %q\n", s.Key, s.Name, o.Name)
		}
		if o.Pool != s.Pool {
			fmt.Fprintf(&b, "# %s: pool %q, was %q\n", s.Key, s.Pool, o.Pool)
		}
	}
	if b.Len() == 0 && !have.Equal(want) {
		b.WriteString("# names or the order differ\n")
	}
	fmt.Fprintf(&b, "# %s\n", p.Summary())
	return b.String()
}

// serviceArgument is the service that the command line names, "" for none.
func serviceArgument(c *cli.Context) (string, error) {
	k, err := keyOf(c)
	switch {
	case err != nil:
		return "", err
	case k != (ipvs.Key{}) && c.NArg() > 0:
		return "", wrong(c, "%q and %s both name a service", c.Args().First(), k)
	case k != (ipvs.Key{}):
		return k.String(), nil
	}
	if ap, err := netip.ParseAddrPort(c.Args().First()); err == nil {
		return (ipvs.Key{Family: ipvs.FamilyOf(ap.Addr()), Protocol: ipvs.TCP, Addr: ap.Addr(), Port: ap.Port()}).String(), nil
	}
	return c.Args().First(), nil
}

func zeroAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	name, err := serviceArgument(c)
	if err != nil {
		return err
	}
	var out api.Zeroed
	if err := d.Do(ctx, "POST", "/v1/zero", api.Zero{Service: name}, &out); err != nil {
		return err
	}
	for _, node := range sortedKeys(out.Failed) {
		fmt.Fprintf(c.App.ErrWriter, "drover: not on %s: %s\n", node, out.Failed[node])
	}
	if len(out.Failed) > 0 {
		return cli.Exit("", 1)
	}
	return nil
}

func timeoutsAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	method, in := "GET", any(nil)
	if c.NArg() > 0 {
		if c.NArg() != 3 {
			return wrong(c, "three timeouts are needed, 0 for one that stays")
		}
		var t api.Timeouts
		for i, to := range []*uint32{&t.TCP, &t.TCPFin, &t.UDP} {
			if _, err := fmt.Sscanf(c.Args().Get(i)+"\n", "%d\n", to); err != nil {
				return wrong(c, "%q is not a number of seconds", c.Args().Get(i))
			}
		}
		if t == (api.Timeouts{}) {
			return wrong(c, "one of the timeouts has to be something else than 0")
		}
		method, in = "PUT", t
	}
	var list []api.NodeTimeouts
	if err := d.Do(ctx, method, "/v1/timeouts", in, &list); err != nil {
		return err
	}
	if done, err := printAs(c.App.Writer, c.String("output"), list); done {
		return err
	}
	var t table
	t.row("DIRECTOR", "TCP", "TCPFIN", "UDP")
	failed := 0
	for _, n := range list {
		if n.Error != "" {
			t.row(n.Node, "FAILED: "+n.Error)
			failed++
			continue
		}
		name := n.Node
		if name == "" {
			name = "-"
		}
		t.row(name, fmt.Sprint(n.TCP), fmt.Sprint(n.TCPFin), fmt.Sprint(n.UDP))
	}
	if err := t.write(c.App.Writer); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d directors failed", failed, len(list))
	}
	return nil
}

func explainAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	list, err := fetchServices(ctx, d, nil)
	if err != nil {
		return err
	}
	found, err := meant(list, c.Args().First())
	if err != nil {
		return err
	}
	if done, err := printAs(c.App.Writer, c.String("output"), found); done {
		return err
	}
	_, err = io.WriteString(c.App.Writer, explain(found, paintFor(c), time.Now()))
	return err
}

// meant finds what text names: a service, a real server in one service, or one in all that have it. A service that
// is asked for itself comes with its servers, others with the servers that are.
func meant(list *api.Services, text string) ([]api.Service, error) {
	var out []api.Service
	var names []string
	service, server, both := strings.Cut(text, "/")
	for _, s := range list.Services {
		names = append(names, s.Name)
		if isService(&s, text) {
			return []api.Service{s}, nil
		}
		if both && !isService(&s, service) {
			continue
		}
		word := text
		if both {
			word = server
		}
		var servers []api.Server
		for _, d := range s.Servers {
			names = append(names, d.Name)
			if isServer(&d, word) {
				servers = append(servers, d)
			}
		}
		if len(servers) > 0 {
			s.Servers = servers
			out = append(out, s)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("there is no service and no real server %q%s (drover service list -o name lists them)", text, didYouMean(text, names))
	}
	return out, nil
}

// explain tells in words how services and their servers are.
func explain(list []api.Service, p paint, now time.Time) string {
	var b strings.Builder
	why := func(indent string, reasons []api.Reason) {
		for _, r := range reasons {
			fmt.Fprintf(&b, "%s- %s (%s", indent, r.Text, r.Source)
			if r.Since != nil {
				fmt.Fprintf(&b, ", for %s", ago(now.Sub(*r.Since)))
			}
			b.WriteString(")\n")
			if r.Change != "" {
				fmt.Fprintf(&b, "%s  to change that: %s\n", indent, r.Change)
			}
		}
	}
	for _, s := range list {
		fmt.Fprintf(&b, "service %s (%s) is %s", s.Name, s.Service, p.state(s.State))
		if s.Active != "" {
			fmt.Fprintf(&b, ", served by %s", s.Active)
		}
		b.WriteString("\n")
		why("  ", s.Reasons)
		for _, d := range s.Servers {
			fmt.Fprintf(&b, "  real server %s (%s) is %s", d.Name, d.Server, p.state(d.State))
			if d.Since != nil {
				fmt.Fprintf(&b, ", for %s", ago(now.Sub(*d.Since)))
			}
			fmt.Fprintf(&b, ": weight %d, %d active and %d inactive connections\n", d.Weight, d.Counts.Active, d.Counts.Inactive)
			if len(d.Reasons) == 0 {
				from := "the specification lists it"
				if !d.Listed {
					from = fmt.Sprintf("%s announces it as a member of the pool %s, with the VIP and silent", d.Node, s.Pool)
				}
				fmt.Fprintf(&b, "    - %s, and nothing is against it\n", from)
			}
			if d.Adaptive != nil {
				fmt.Fprintf(&b, "    - %s\n", d.Adaptive.Text)
			}
			why("    ", d.Reasons)
		}
	}
	return b.String()
}
