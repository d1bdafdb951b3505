package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
)

func notifyCommand() *cli.Command {
	return &cli.Command{
		Name: "notify", Usage: "show whom a director tells of what happens, and try it",
		Description: "The sinks of a director are those of its own file (director: notify).",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the sinks of a director, and what was told",
				UsageText: "drover notify list [-o FORMAT] [--director ADDRESS]",
				Flags:     []cli.Flag{directorFlag, outputFlag},
				Action:    ask(0, 0, sinksAction),
			},
			{
				Name: "test", Usage: "send a test event to one sink, or to all, and show what each answers",
				UsageText: "drover notify test [-o FORMAT] [--director ADDRESS] [SINK]",
				Description: "The director sends it once, at once and beside what is queued, whatever kinds of events the sink\n" +
					"takes; its kind is test. Exit status 1: a sink has not taken it.",
				Flags:  []cli.Flag{directorFlag, outputFlag},
				Action: ask(0, 1, testSinks),
			},
		},
	}
}

func sinksAction(ctx context.Context, c *cli.Context, d *api.Client) error {
	var list []api.Sink
	if err := d.Do(ctx, "GET", "/v1/notify", nil, &list); err != nil {
		return err
	}
	if done, err := printAs(c.App.Writer, c.String("output"), list); done {
		return err
	}
	if len(list) == 0 {
		fmt.Fprintln(c.App.Writer, "this director tells nobody: its file has no director: notify")
		return nil
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "SINK\tKIND\tSENT\tQUEUED\tDROPPED\tLAST SENT\tSTATE\n")
	for _, s := range list {
		last, state := "-", "ok"
		if !s.Last.IsZero() {
			last = ago(time.Since(s.Last)) + " ago"
		} else if s.Error == "" {
			state = "-"
		}
		switch {
		case !s.Failing.IsZero():
			state = fmt.Sprintf("FAILS for %s: %s", ago(time.Since(s.Failing)), s.Error)
		case s.Error != "":
			state = fmt.Sprintf("ok (%s ago: %s)", ago(time.Since(s.ErrorAt)), s.Error)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%d\t%s\t%s\n", s.Name, s.Kind, s.Sent, s.Queued, s.Dropped, last, state)
	}
	return t.Flush()
}

// sinkTrouble says in one line what is wrong with a sink; "" if nothing is.
func sinkTrouble(s *api.Sink, now time.Time) string {
	if s.Failing.IsZero() {
		return ""
	}
	return fmt.Sprintf("notify: sink %s fails for %s: %s (%d queued, %d dropped)", s.Name, ago(now.Sub(s.Failing)), s.Error, s.Queued, s.Dropped)
}

func testSinks(ctx context.Context, c *cli.Context, d *api.Client) error {
	var list []api.SinkTested
	if err := d.Do(ctx, "POST", "/v1/notify/test", api.SinkTest{Sink: c.Args().First(), Who: whoami()}, &list); err != nil {
		return err
	}
	done, err := printAs(c.App.Writer, c.String("output"), list)
	if err != nil {
		return err
	}
	failed := 0
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	if !done {
		fmt.Fprintf(t, "SINK\tKIND\tTOOK\tANSWER\n")
	}
	for _, s := range list {
		answer := "taken"
		if s.Said != "" {
			answer += ": " + s.Said
		}
		if s.Error != "" {
			answer = "FAILED: " + s.Error
			failed++
		}
		if !done {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Name, s.Kind, seconds(s.Took), answer)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if failed > 0 {
		return cli.Exit(fmt.Sprintf("%d of %d sinks have not taken it", failed, len(list)), 1)
	}
	return nil
}
