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
			"processes from start to end, `drover list` and `ipvsadm -Ln`, writing to a file; both print the same bytes",
			"less the start: without the median for an empty table; a page fault is dear in this kernel, and the start of a program of Go takes some 600",
		},
	}
	empty, err := list(ctx, g, shape{})
	empty.What, empty.Target = "empty table", Target{}
	s.Rows = append(s.Rows, empty)
	if err != nil {
		return s, err
	}
	for _, sh := range []shape{wide, square, deep} {
		r, err := list(ctx, g, sh)
		s.Rows = append(s.Rows, r)
		if err != nil {
			return s, err
		}
		s.Rows = append(s.Rows, Row{What: sh.String() + ", less the start", Drover: r.Drover.less(empty.Drover), Peer: r.Peer.less(empty.Peer)})
	}
	return s, nil
}

func list(ctx context.Context, g *guest, sh shape) (Row, error) {
	r := Row{What: sh.String(), Target: Target{Ratio: 1}}
	dir, err := g.folder()
	if err != nil {
		return r, err
	}
	// timed runs a command, and returns what it printed.
	timed := func(f *Figure, argv ...string) ([]byte, error) {
		path := filepath.Join(dir, "out")
		out, err := os.Create(path)
		if err != nil {
			return nil, err
		}
		defer out.Close()
		took, err := command(ctx, nil, out, argv...)
		if err != nil {
			return nil, err
		}
		f.took(took)
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
		var drover, ipvsadm []byte
		return g.repeat(
			func() (err error) {
				drover, err = timed(&r.Drover, g.program("drover"), "list")
				return err
			},
			func() (err error) {
				ipvsadm, err = timed(&r.Peer, g.ipvsadm, "-Ln")
				if err == nil && drover != nil && !bytes.Equal(drover, ipvsadm) {
					err = fmt.Errorf("drover list and ipvsadm -Ln differ: %d and %d lines", bytes.Count(drover, []byte("\n")), bytes.Count(ipvsadm, []byte("\n")))
				}
				return err
			},
		)
	})
	return r, err
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
