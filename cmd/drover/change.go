package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/spec/edit"
)

const (
	// changeTries bounds how often an edit is made again because somebody else was faster.
	changeTries = 6
	// changeWait is how long it waits then, and twice as long each time: a standby director may lag behind.
	changeWait = 50 * time.Millisecond
)

// document asks for the specification.
func document(ctx context.Context, d *api.Client) (*api.Document, error) {
	var doc api.Document
	if err := d.Do(ctx, "GET", "/v1/spec", nil, &doc); err != nil {
		return nil, err
	}
	return &doc, nil
}

// change makes edits of the specification: it reads it, edits it, and has the active director take it if nobody
// has changed it meanwhile. Otherwise it does so again, unless the user named a version.
func change(ctx context.Context, c *cli.Context, d *api.Client, list ...edit.Change) error {
	given := c.String("if-version")
	wait := changeWait
	for try := 1; ; try++ {
		doc, err := document(ctx, d)
		switch {
		case err != nil:
			return err
		case !doc.Replicated:
			return fmt.Errorf("VIPs and services stand in the director's own file: edit %s, which is read again when it changes", doc.Path)
		case given != "" && given != doc.Version:
			return &api.Error{Status: 409, Text: fmt.Sprintf("version %s is in force, not %s", orNone(doc.Version), given)}
		}
		r, err := edit.Apply([]byte(doc.Content), list...)
		var invalid *edit.InvalidError
		if errors.As(err, &invalid) && try == 1 {
			return cli.Exit(err, 2)
		}
		if err != nil && try > 1 {
			return &api.Error{Status: 409, Text: fmt.Sprintf("somebody else has changed the specification meanwhile, and the edit does not apply to version %s: %v", doc.Version, err)}
		}
		if err != nil {
			return err
		}
		var out api.Changed
		in := api.Change{Content: string(r.Text), Who: whoami(), What: whatFor(c), IfVersion: doc.Version, DryRun: c.Bool("dry-run")}
		err = d.Do(ctx, "PUT", "/v1/spec", in, &out)
		var refused *api.Error
		if errors.As(err, &refused) && refused.Conflict() && given == "" && try < changeTries {
			select {
			case <-time.After(wait):
				wait *= 2
				continue
			case <-ctx.Done():
				return err
			}
		}
		if err != nil {
			return err
		}
		for _, w := range r.Warnings {
			fmt.Fprintf(c.App.ErrWriter, "warning: %s\n", w)
		}
		if r.Rewritten {
			fmt.Fprintln(c.App.ErrWriter, "note: the document is written anew, without its comments: its anchors or aliases are about what changed (drover history has the old one)")
		}
		return printChanged(c.App.Writer, &out)
	}
}

// whatFor is what the history is to say of a change: what the user says, or else the command.
func whatFor(c *cli.Context) string {
	typed, _ := c.App.Metadata["typed"].(string)
	return cmp.Or(c.String("message"), typed)
}

func orNone(version string) string {
	if version == "" {
		return "none"
	}
	return version
}
