package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/drover-lb/drover/ipvs"
)

// listing prints tables.
func listing(ctx context.Context, g *guest) (Section, error) {
	s := Section{
		Title: "Listing: services x real servers, wlc",
		Peer:  "ipvsadm -Ln",
		Notes: []string{
			"processes from start to end, writing to a file: `drover-ipvsadm -Ln`, or `drover list`, and `ipvsadm -Ln`; all print the same bytes",
			"a page fault is dear in this kernel, and drover, which is more than this, takes hundreds of them to start: see the empty table",
		},
	}
	for _, sh := range []shape{{}, wide, square, deep} {
		rows, err := list(ctx, g, sh)
		s.Rows = append(s.Rows, rows...)
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// list prints a table by `drover-ipvsadm -Ln`, and by `drover list`.
func list(ctx context.Context, g *guest, sh shape) ([]Row, error) {
	dropin, whole := Row{What: sh.String(), Target: Target{Ratio: 1}}, Row{What: sh.String() + ", drover list"}
	if sh == (shape{}) {
		dropin.What, whole.What, dropin.Target = "empty table", "empty table, drover list", Target{}
	}
	dir, err := g.folder()
	if err != nil {
		return nil, err
	}
	// timed runs a command, and returns what it printed.
	timed := func(f *Figure, argv ...string) ([]byte, error) {
		path := filepath.Join(dir, "out")
		if err := printing(ctx, f, path, argv...); err != nil {
			return nil, err
		}
		return os.ReadFile(path)
	}
	err = inNamespace(func() error {
		c, err := ipvs.Dial(ctx, ipvs.Config{})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := sh.restore(ctx, c); err != nil {
			return err
		}
		var ours, theirs []byte
		compare := func() error {
			if ours == nil || theirs == nil || bytes.Equal(ours, theirs) {
				return nil
			}
			return fmt.Errorf("the listings differ: %d lines, and %d of ipvsadm -Ln", bytes.Count(ours, []byte("\n")), bytes.Count(theirs, []byte("\n")))
		}
		drover := func(f *Figure, argv ...string) func() error {
			return func() (err error) {
				if ours, err = timed(f, argv...); err != nil {
					return err
				}
				return compare()
			}
		}
		return g.repeat(
			drover(&dropin.Drover, g.program("drover-ipvsadm"), "-Ln"),
			drover(&whole.Drover, g.program("drover"), "list"),
			func() (err error) {
				if theirs, err = timed(&dropin.Peer, g.ipvsadm, "-Ln"); err != nil {
					return err
				}
				whole.Peer = dropin.Peer
				return compare()
			},
		)
	})
	return []Row{dropin, whole}, err
}

// restore makes the table in this namespace.
func (s shape) restore(ctx context.Context, c *ipvs.Client) error {
	var cmds []ipvs.Command
	for i := range s.services {
		k := ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: s.vip(i), Port: uint16(port(i))}
		cmds = append(cmds, ipvs.NewService(ipvs.Service{Key: k, Scheduler: "wlc", Netmask: 32}))
		for j := range s.servers {
			d := ipvs.Destination{DestKey: ipvs.DestKey{Addr: server(j), Port: k.Port}, Forward: ipvs.DirectRoute, Weight: 1}
			cmds = append(cmds, ipvs.NewDest(k, d))
		}
	}
	for _, err := range c.Apply(ctx, cmds) {
		if err != nil {
			return err
		}
	}
	return s.count(ctx, c)
}
