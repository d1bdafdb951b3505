package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/controller/spec/edit"
	"github.com/drover-lb/drover/ipvs"
)

// Formats of what is read from a director, beside text.
const (
	asJSON = "json"
	asYAML = "yaml"
	asWide = "wide"
	asName = "name"
)

var formatFlag = &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "print as `FORMAT`: text, wide, name, json, yaml"}

const listHelp = "STATE is in, out, draining (weight 0, with connections left), drained, or for a service standby (no\n" +
	"director is active for its VIP). Connections are those in the kernel of the active director; counters,\n" +
	"which -o wide shows, are summed up over all directors. drover explain says more about one of them."

// checkFormat refuses an --output that is not one of those that its option lists.
func checkFormat(c *cli.Context) error {
	for _, f := range c.Command.Flags {
		f, ok := f.(*cli.StringFlag)
		if !ok || f.Name != "output" {
			continue
		}
		_, list, _ := strings.Cut(f.Usage, ": ")
		if o := c.String("output"); !slices.Contains(strings.Split(list, ", "), o) {
			return cli.Exit(fmt.Sprintf("%s: output %q is not one of: %s", c.Command.Name, o, list), 2)
		}
	}
	return nil
}

// printAs prints v as json or yaml; done is false for another format.
func printAs(w io.Writer, format string, v any) (done bool, err error) {
	switch format {
	case asJSON:
		return true, printJSON(w, v)
	case asYAML:
		b, err := json.Marshal(v)
		if err == nil {
			b, err = yaml.JSONToYAML(b)
		}
		if err == nil {
			_, err = w.Write(b)
		}
		return true, err
	}
	return false, nil
}

// fetchServices asks for the services; names choose some of them, all if there are none.
func fetchServices(ctx context.Context, d *api.Client, names []string) (*api.Services, error) {
	var list api.Services
	if err := d.Do(ctx, "GET", "/v1/services", nil, &list); err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return &list, nil
	}
	var chosen []api.Service
	for _, n := range names {
		i := slices.IndexFunc(list.Services, func(s api.Service) bool { return isService(&s, n) })
		if i < 0 {
			var all []string
			for _, s := range list.Services {
				all = append(all, s.Name)
			}
			return nil, fmt.Errorf("there is no service %q%s: the services are %s", n, didYouMean(n, all), strings.Join(all, ", "))
		}
		chosen = append(chosen, list.Services[i])
	}
	list.Services = chosen
	return &list, nil
}

// isService reports whether people mean s by text.
func isService(s *api.Service, text string) bool {
	_, addr, _ := strings.Cut(s.Service, " ")
	return s.Name == text || s.Service == text || addr == text
}

// isServer reports whether people mean d by text.
func isServer(d *api.Server, text string) bool {
	a, b := edit.ParseServer(text), edit.ParseServer(d.Server)
	return d.Name == text || d.Node == text || a.Addr.IsValid() && a.Addr == b.Addr && (a.Port == 0 || a.Port == b.Port)
}

func listServices(ctx context.Context, c *cli.Context, d *api.Client) error {
	return printList(ctx, c, d, c.Args().Slice(), c.String("output"))
}

// printList prints the services of those names, or all.
func printList(ctx context.Context, c *cli.Context, d *api.Client, names []string, format string) error {
	list, err := fetchServices(ctx, d, names)
	if err != nil {
		return err
	}
	if done, err := printAs(c.App.Writer, format, list); done {
		return err
	}
	if format == asName {
		for _, s := range list.Services {
			fmt.Fprintln(c.App.Writer, s.Name)
			for _, r := range s.Servers {
				fmt.Fprintf(c.App.Writer, "%s/%s\n", s.Name, r.Name)
			}
		}
		return nil
	}
	for _, node := range sortedKeys(list.Missing) {
		fmt.Fprintf(c.App.ErrWriter, "warning: without the counters of %s: %s\n", node, list.Missing[node])
	}
	return printServices(c.App.Writer, list, format == asWide, paintFor(c), time.Now())
}

// printServices prints a line for each service and real server.
func printServices(w io.Writer, list *api.Services, wide bool, p paint, now time.Time) error {
	var t table
	head := []string{"NAME", "ADDRESS", "SCHED", "STATE", "SINCE", "WEIGHT", "ACTIVE", "INACTIVE"}
	if wide {
		head = append(head, "PERSIST", "CONNS", "INPKTS", "OUTPKTS", "INBYTES", "OUTBYTES", "FORWARD", "POOL/NODE")
	}
	t.row(append(head, "REMARK")...)
	counters := func(c api.Counts, x api.Traffic) []string {
		return []string{fmt.Sprint(c.Persistent), short(x.Connections), short(x.InPackets), short(x.OutPackets), short(x.InBytes), short(x.OutBytes)}
	}
	for i := range list.Services {
		s := &list.Services[i]
		row := []string{s.Name, s.Service, s.Scheduler, p.state(s.State), "-", "-", fmt.Sprint(s.Counts.Active), fmt.Sprint(s.Counts.Inactive)}
		if wide {
			row = append(append(row, counters(s.Counts, s.Traffic)...), "-", cmp.Or(s.Pool, "-"))
		}
		remark := reasons(s.Reasons)
		if remark == "-" && s.Active != "" {
			remark = "served by " + s.Active
		}
		t.row(append(row, remark)...)
		for j := range s.Servers {
			d := &s.Servers[j]
			since := "-"
			if d.Since != nil {
				since = ago(now.Sub(*d.Since))
			}
			row := []string{"  " + d.Name, d.Server, "", p.state(d.State), since, fmt.Sprint(d.Weight), fmt.Sprint(d.Counts.Active), fmt.Sprint(d.Counts.Inactive)}
			if wide {
				row = append(append(row, counters(d.Counts, d.Traffic)...), d.Forward, cmp.Or(d.Node, "-"))
			}
			remark := reasons(d.Reasons)
			if a := d.Adaptive; a != nil && remark == "-" {
				remark = fmt.Sprintf("load %.2f, %.0f%% of its weight", a.Load, a.Factor*100)
			}
			t.row(append(row, remark)...)
		}
	}
	return t.write(w)
}

// reasons are the texts of reasons in one line.
func reasons(list []api.Reason) string {
	if len(list) == 0 {
		return "-"
	}
	texts := make([]string, len(list))
	for i, r := range list {
		texts[i] = r.Text
	}
	return strings.Join(texts, "; ")
}

// short is a number in at most four digits and a letter, in powers of 1000.
func short(n uint64) string {
	for _, unit := range []string{"", "K", "M", "G", "T", "P"} {
		if n < 10000 {
			return fmt.Sprint(n) + unit
		}
		n /= 1000
	}
	return fmt.Sprint(n) + "E"
}

func showService(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, err := oneService(c)
	if err != nil {
		return err
	}
	name := ref.Name
	if ref.Key != (ipvs.Key{}) {
		name = ref.Key.String()
	}
	switch format := c.String("output"); format {
	case asJSON, asYAML:
		list, err := fetchServices(ctx, d, []string{name})
		if err != nil {
			return err
		}
		_, err = printAs(c.App.Writer, format, list.Services[0])
		return err
	}
	doc, err := document(ctx, d)
	if err != nil {
		return err
	}
	f, err := spec.ParseSpec("the specification in force", []byte(doc.Content))
	if err != nil {
		return err
	}
	s, err := ref.Find(&f.Spec)
	if err != nil {
		return err
	}
	if c.String("output") == asName {
		_, err := fmt.Fprintln(c.App.Writer, s.Name)
		return err
	}
	_, err = io.Copy(c.App.Writer, bytes.NewReader(s.Format()))
	return err
}
