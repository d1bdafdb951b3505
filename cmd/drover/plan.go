package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/controller/owned"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// planTimeout bounds the reading of the kernel's table, and the loading of its module.
const planTimeout = 30 * time.Second

func planCommand() *cli.Command {
	return &cli.Command{
		Name:      "plan",
		Usage:     "show what a director with a given file would change in this host's IPVS table",
		UsageText: "drover plan -f FILE [--ownership all|listed] [-o text|json]",
		Description: "Prints the changes in the order in which the director would make them, in the words of\n" +
			"ipvsadm, one to a line; an edit ends in what was there before. Nothing is written.\n\n" +
			"Under \"listed\" a service that the file does not list is deleted if a director on this host\n" +
			"put it there or took it over, which its state directory tells. Others are left alone.\n\n" +
			"If the director runs, comments say what the file changes beside the table: checks, what\n" +
			"becomes of servers that are down, how drains end, names, VIPs.\n\n" +
			"The exit status is 0 whether or not there is something to do, 1 if the table cannot be read,\n" +
			"and 2 if the file is wrong.",
		Flags: []cli.Flag{
			&cli.PathFlag{Name: "file", Aliases: []string{"f"}, Usage: "read the director's `FILE`"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "text", Usage: "print as `FORMAT`: text, json"},
			&cli.StringFlag{Name: "ownership", Usage: "delete `WHICH` services that the file does not list: all, listed (default: as the file says)"},
			&cli.PathFlag{Name: "state-dir", Value: "/run/drover", Usage: "the director's state `DIR`, which knows what it owns"},
		},
		Action: runPlan,
	}
}

func runPlan(c *cli.Context) error {
	if c.Args().Present() {
		return cli.Exit(fmt.Sprintf("unexpected argument %q", c.Args().First()), 2)
	}
	if c.Path("file") == "" {
		return cli.Exit("plan: -f is missing (usage: "+c.Command.UsageText+")", 2)
	}
	output, ownership := c.String("output"), spec.Ownership(c.String("ownership"))
	if output != "text" && output != "json" {
		return cli.Exit(fmt.Sprintf("output %q is not one of: text, json", output), 2)
	}
	switch ownership {
	case "", spec.OwnAll, spec.OwnListed:
	default:
		return cli.Exit(fmt.Sprintf("ownership %q is not one of: all, listed", ownership), 2)
	}

	file, err := spec.Load(c.Path("file"))
	var wrong conf.Errors
	switch {
	case errors.As(err, &wrong):
		fmt.Fprintln(c.App.ErrWriter, err) // one to a line, as compilers do
		return cli.Exit("", 2)
	case err != nil:
		return cli.Exit(err, 2)
	}
	for _, w := range file.Warnings {
		fmt.Fprintf(c.App.ErrWriter, "%s (warning)\n", w)
	}
	if ownership == "" {
		ownership = file.Director.Ownership
	}
	ours, err := owned.Services(c.Path("state-dir"))
	if err != nil {
		return err
	}

	ctx, cancel := contextWithTimeout(c, planTimeout)
	defer cancel()
	client, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		return err
	}
	defer client.Close()
	table, err := client.Services(ctx)
	if err != nil {
		return err
	}
	have, _ := plan.Split(plan.StateOf(table), file.Director.CheckMark)
	p := plan.Diff(plan.Want(&file.Spec), have, plan.Owner(ownership, ours))
	if !file.Replicated {
		if p.Beside, err = beside(ctx, file); err != nil {
			fmt.Fprintf(c.App.ErrWriter, "checks and the like are not compared: %v\n", err)
		}
	}
	return printPlan(c.App.Writer, p, output)
}

// besideTimeout bounds the question to the director.
const besideTimeout = 2 * time.Second

// beside says what a file changes beside the table, of what the director that runs here has in force. Without one there
// is nothing to compare.
func beside(ctx context.Context, file *spec.File) ([]string, error) {
	if file.Director.Socket == "" {
		return nil, nil
	}
	d, err := api.NewClient(file.Director.Socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, besideTimeout)
	defer cancel()
	doc, err := document(ctx, d)
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED): // none runs
		return nil, nil
	case err != nil:
		return nil, err
	}
	now, err := spec.ParseSpec("the specification of the director", []byte(doc.Content))
	if err != nil {
		return nil, err
	}
	return spec.Beside(&now.Spec, &file.Spec), nil
}

func printPlan(w io.Writer, p plan.Plan, output string) error {
	if output == "json" {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(p)
	}
	_, err := io.WriteString(w, p.Text())
	return err
}
