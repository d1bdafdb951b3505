package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// programming makes tables from nothing.
func programming(ctx context.Context, g *guest) (Section, error) {
	s := Section{
		Title: "Programming: services x real servers, from an empty table",
		Peer:  "ipvsadm -R",
		Notes: []string{
			"table: read the kernel's table, plan, apply, as the director does for a file that it has read",
			"director: drover-director from its start until it says that it is ready, with the reading of the file, 10 VIPs on the interface, and kernel settings",
			"ipvsadm -R: the process, with the same table on its standard input",
		},
	}
	for _, sh := range []shape{wide, square} {
		for _, scheduler := range []string{"wlc", "rr", "mh"} {
			rows, err := program(ctx, g, sh, scheduler)
			s.Rows = append(s.Rows, rows...)
			if err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

func program(ctx context.Context, g *guest, sh shape, scheduler string) ([]Row, error) {
	name := sh.String() + " " + scheduler
	table := Row{What: name + ", table", Target: Target{Ratio: 30}}
	whole := Row{What: name + ", director"}
	file, err := spec.Parse("bench.yaml", sh.yaml(scheduler, g.dir, 1))
	if err != nil {
		return nil, err
	}
	rules, err := g.write([]byte(sh.rules(scheduler)))
	if err != nil {
		return nil, err
	}
	err = g.repeat(
		func() error {
			return inNamespace(func() error {
				began := time.Now()
				c, err := ipvs.Dial(ctx, ipvs.Config{})
				if err != nil {
					return err
				}
				defer c.Close()
				if _, err := reconcile(ctx, c, file); err != nil {
					return err
				}
				table.Drover.took(time.Since(began))
				return sh.count(ctx, c)
			})
		},
		func() error {
			return inNamespace(func() error {
				in, err := os.Open(rules)
				if err != nil {
					return err
				}
				defer in.Close()
				took, err := command(ctx, in, nil, g.ipvsadm, "-R")
				if err != nil {
					return err
				}
				table.Peer.took(took)
				return check(ctx, sh)
			})
		},
		func() error {
			return inNamespace(func() error {
				d, err := g.director(here, func(dir string) []byte { return sh.yaml(scheduler, dir, 1) })
				if err != nil {
					return err
				}
				defer d.kill()
				if err := d.await(); err != nil {
					return err
				}
				whole.Drover.took(time.Since(d.began))
				return errors.Join(check(ctx, sh), d.kill())
			})
		},
	)
	whole.Peer = table.Peer
	return []Row{table, whole}, err
}

// reconcile makes the table of this namespace that of the file, and returns how many commands that took.
func reconcile(ctx context.Context, c *ipvs.Client, f *spec.File) (commands int, err error) {
	have, err := c.Services(ctx)
	if err != nil {
		return 0, err
	}
	p := plan.Diff(plan.Want(&f.Spec), plan.StateOf(have), plan.Owner(f.Director.Ownership, nil))
	return len(p.Ops), errors.Join(p.Apply(ctx, c.Apply)...)
}

// check fails unless the table of this namespace has the shape.
func check(ctx context.Context, sh shape) error {
	table, err := tableHere(ctx)
	if err != nil {
		return err
	}
	return sh.of(table)
}
