package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cluster/keyring"
	"github.com/drover-lb/drover/cmd/internal/api"
)

func keysCommand() *cli.Command {
	operation := func(op, usage string) *cli.Command {
		return &cli.Command{
			Name: op, Usage: usage, UsageText: "drover keys " + op + " [--director ADDRESS] KEY",
			Flags:  []cli.Flag{directorFlag},
			Action: ask(1, 1, func(ctx context.Context, c *cli.Context, d *api.Client) error { return keys(ctx, c, d, op) }),
		}
	}
	return &cli.Command{
		Name: "keys", Usage: "make, list and change the keys of the cluster",
		Description: "All nodes of a cluster have the same key, which encrypts what they say to each other. To change it\n" +
			"without an interruption: keys generate, keys add, keys use, and then keys remove with the old one.",
		Subcommands: []*cli.Command{
			{
				Name: "generate", Usage: "make a new key", UsageText: "drover keys generate [FILE]",
				Description: "Writes it to FILE, which must not exist, for its owner alone; or prints it.",
				Action: func(c *cli.Context) error {
					if c.NArg() > 1 {
						return cli.Exit(fmt.Sprintf("unexpected argument %q", c.Args().Get(1)), 2)
					}
					return generateKey(c.App.Writer, c.Args().First())
				},
			},
			{
				Name: "list", Usage: "list the keys of every node, by fingerprint, the one in use first", UsageText: "drover keys list [--director ADDRESS]",
				Flags:  []cli.Flag{directorFlag},
				Action: ask(0, 0, func(ctx context.Context, c *cli.Context, d *api.Client) error { return keys(ctx, c, d, "list") }),
			},
			operation("add", "give a key to all nodes, which from then on understand it"),
			operation("use", "let all nodes encrypt with a key that they have"),
			operation("remove", "take a key away from all nodes"),
		},
	}
}

func generateKey(w io.Writer, path string) error {
	key, err := keyring.Generate()
	if err != nil {
		return err
	}
	if path == "" {
		_, err := fmt.Fprintln(w, key)
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("failed to write the key: %w", err)
	}
	_, err = fmt.Fprintln(f, key)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path) // half a key is none
	}
	return err
}

func keys(ctx context.Context, c *cli.Context, d *api.Client, op string) error {
	var out []api.KeyAnswer
	if err := d.Do(ctx, "POST", "/v1/keys", api.Key{Op: op, Key: c.Args().First()}, &out); err != nil {
		return err
	}
	t := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "NODE\tKEYS\n")
	failed := 0
	for _, a := range out {
		text := strings.Join(a.Keys, " ")
		if a.Error != "" {
			text = "FAILED: " + a.Error
			failed++
		}
		fmt.Fprintf(t, "%s\t%s\n", a.Node, text)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d nodes failed", failed, len(out))
	}
	return nil
}
