package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/net/ipv4"

	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/ipvs"
)

// dropin runs the same command lines by both programs.
func dropin(ctx context.Context, g *guest) (Section, error) {
	s := Section{
		Title: "Drover in ipvsadm's place: the same command line",
		Peer:  "ipvsadm",
		Notes: []string{
			"processes from start to end, `drover-ipvsadm ...` and `ipvsadm ...`, writing to a file",
			"-R: 10,000 real servers on the standard input, into an empty table",
		},
	}
	for _, sh := range []shape{square, deep} {
		r, err := restored(ctx, g, sh)
		s.Rows = append(s.Rows, r)
		if err != nil {
			return s, err
		}
	}
	for _, x := range []struct {
		what        string
		connections int
		args        []string
	}{
		{"-Ln, 1 x 10000", 0, []string{"-Ln"}},
		{"-Sn, 1 x 10000", 0, []string{"-Sn"}},
		{fmt.Sprintf("-Lcn, %d connections", manyConnections), manyConnections, []string{"-Lcn"}},
	} {
		r, err := printed(ctx, g, x.what, x.connections, x.args)
		s.Rows = append(s.Rows, r)
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func restored(ctx context.Context, g *guest, sh shape) (Row, error) {
	r := Row{What: "-R, " + sh.String(), Target: Target{Ratio: 1}}
	rules, err := g.write([]byte(sh.rules("wlc")))
	if err != nil {
		return r, err
	}
	restore := func(f *Figure, argv ...string) func() error {
		return func() error {
			return inNamespace(func() error {
				in, err := os.Open(rules)
				if err != nil {
					return err
				}
				defer in.Close()
				took, err := command(ctx, in, nil, argv...)
				if err != nil {
					return err
				}
				f.took(took)
				return check(ctx, sh)
			})
		}
	}
	return r, g.repeat(restore(&r.Drover, g.program("drover-ipvsadm"), "-R"), restore(&r.Peer, g.ipvsadm, "-R"))
}

func printed(ctx context.Context, g *guest, what string, connections int, args []string) (Row, error) {
	r := Row{What: what, Target: Target{Ratio: 1}}
	dir, err := g.folder()
	if err != nil {
		return r, err
	}
	timed := func(f *Figure, argv ...string) error { return printing(ctx, f, filepath.Join(dir, "out"), argv...) }
	return r, inNamespace(func() error {
		c, err := ipvs.Dial(ctx, ipvs.Config{})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := deep.restore(ctx, c); err != nil {
			return err
		}
		if err := connect(ctx, c, connections); err != nil {
			return err
		}
		return g.repeat(
			func() error { return timed(&r.Drover, append([]string{g.program("drover-ipvsadm")}, args...)...) },
			func() error { return timed(&r.Peer, append([]string{g.ipvsadm}, args...)...) },
		)
	})
}

const (
	manyConnections = 100000
	// perMessage connections make a message of the kernel's usual length.
	perMessage = 40
	// syncPatience bounds the wait for the kernel to take in what it was sent.
	syncPatience = 2 * time.Minute
)

// connect gives the kernel connections to the service of [deep], as the sync daemon of another director would: by
// messages of version 1 (struct ip_vs_sync_mesg and struct ip_vs_sync_v4 in net/netfilter/ipvs/ip_vs_sync.c).
func connect(ctx context.Context, c *ipvs.Client, n int) error {
	if n == 0 {
		return nil
	}
	group := netip.AddrFrom4([4]byte{224, 0, 0, 81})
	if err := c.StartDaemon(ctx, ipvs.Daemon{Role: ipvs.Backup, Interface: "eth0", SyncID: 1, Group: group, Port: settings.DefaultSyncPort, TTL: 1}); err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp4", "10.0.0.5:0")
	if err != nil {
		return err
	}
	defer conn.Close()
	p := ipv4.NewPacketConn(conn)
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	if err := errors.Join(p.SetMulticastInterface(eth0), p.SetMulticastLoopback(true)); err != nil {
		return err
	}
	to := &net.UDPAddr{IP: group.AsSlice(), Port: settings.DefaultSyncPort}
	end := time.Now().Add(syncPatience)
	for sent := 0; sent < n; {
		// What its socket's buffer has room for, and then no more before the kernel has taken that in.
		for batch := 0; batch < 50 && sent < n; batch++ {
			k := min(perMessage, n-sent)
			if _, err := conn.WriteTo(syncMessage(sent, k), to); err != nil {
				return err
			}
			sent += k
		}
		for {
			table, err := c.Services(ctx)
			if err != nil {
				return err
			}
			have := 0
			for _, d := range table[0].Destinations {
				have += int(d.Counts.Active)
			}
			if have >= sent {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("the kernel has %d of %d connections after %s", have, sent, syncPatience)
			}
			time.Sleep(10 * time.Millisecond) // of a connection there is no event
		}
	}
	return c.StopDaemon(ctx, ipvs.Backup)
}

// syncMessage tells of n connections, those from number first on.
func syncMessage(first, n int) []byte {
	const header, size = 8, 36
	b := make([]byte, header, header+n*size)
	b[1] = 1 // sync id
	binary.BigEndian.PutUint16(b[2:], uint16(header+n*size))
	b[4], b[5] = byte(n), 1 // version
	for i := first; i < first+n; i++ {
		vip, rip := deep.vip(0).As4(), server(i%deep.servers).As4()
		b = append(b, 0, 6)                                        // IPv4, TCP
		b = binary.BigEndian.AppendUint16(b, size)                 // version 0 of the entry
		b = binary.BigEndian.AppendUint32(b, 3)                    // IP_VS_CONN_F_DROUTE
		b = binary.BigEndian.AppendUint16(b, 1)                    // IP_VS_TCP_S_ESTABLISHED
		b = binary.BigEndian.AppendUint16(b, uint16(1024+i%50000)) // client
		b = binary.BigEndian.AppendUint16(b, uint16(port(0)))
		b = binary.BigEndian.AppendUint16(b, uint16(port(0)))
		b = binary.BigEndian.AppendUint32(b, 0)   // mark
		b = binary.BigEndian.AppendUint32(b, 900) // seconds
		b = append(b, 10, 9, 0, byte(1+i/50000))
		b = append(b, vip[:]...)
		b = append(b, rip[:]...)
	}
	return b
}
