package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/health"
)

func checksCommand() *cli.Command {
	return &cli.Command{
		Name: "checks", Usage: "show which real servers are up, and why others are not",
		UsageText: "drover checks [-o FORMAT] [--director ADDRESS]",
		Flags:     []cli.Flag{directorFlag, outputFlag},
		Action:    ask(0, 0, checksAction),
	}
}

func checksAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	var list []health.Report
	if err := d.Do(ctx, "GET", "/v1/checks", nil, &list); err != nil {
		return err
	}
	if done, err := printAs(c.App.Writer, c.String("output"), list); done {
		return err
	}
	if len(list) == 0 {
		fmt.Fprintln(c.App.Writer, "no service has checks")
		return nil
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	printChecks(t, list, time.Now())
	return t.Flush()
}

// printChecks prints the table of real servers that are checked.
func printChecks(w io.Writer, list []health.Report, now time.Time) {
	fmt.Fprintf(w, "SERVICE\tREAL SERVER\tSTATE\tSINCE\tREASON\n")
	for _, s := range list {
		if s.Panics {
			fmt.Fprintf(w, "%s\t-\tPANIC\t-\ttoo many went down at once: they are served on\n", s.Name)
		}
		if s.Sorry {
			fmt.Fprintf(w, "%s\t-\tSORRY\t-\tthe quorum is lost: the sorry server answers\n", s.Name)
		}
		for _, x := range s.Servers {
			name, since := x.Server, "-"
			if x.Name != "" {
				name = x.Name
			}
			if !x.Since.IsZero() {
				since = ago(now.Sub(x.Since))
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Name, name, x.State, since, cmp.Or(x.Reason, "-"))
		}
	}
}
