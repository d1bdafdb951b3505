//go:build kernel

package controller

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/drover-lb/drover/controller/fence"
)

// cables joins the interfaces eth0 of all namespaces by a bridge in one more.
func cables(t *testing.T, hosts ...netns.NsHandle) {
	t.Helper()
	bridge, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bridge.Close() })
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := errors.Join(netlink.LinkAdd(br), netlink.LinkSetUp(br)); err != nil {
		t.Fatal(err)
	}
	for i, h := range hosts {
		port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("p%d", i), MasterIndex: br.Index}, PeerName: "eth0", PeerNamespace: netlink.NsFd(h)}
		if err := errors.Join(netlink.LinkAdd(port), netlink.LinkSetUp(port)); err != nil {
			t.Fatal(err)
		}
	}
}

// configure enters a namespace and gives its eth0 and lo addresses; it returns eth0.
func configure(t *testing.T, ns netns.NsHandle, own string, onLo ...string) netlink.Link {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(netns.Set(ns))
	for name, addrs := range map[string][]string{"eth0": {own}, "lo": onLo} {
		l, err := netlink.LinkByName(name)
		must(err)
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			must(errors.Join(err, netlink.AddrAdd(l, addr)))
		}
		must(netlink.LinkSetUp(l))
	}
	l, err := netlink.LinkByName("eth0")
	must(err)
	return l
}

// A connection that begins right before a planned handover goes on at the new director: the kernel of the old one
// still holds the message about it, which comes seconds later, and until then the client is not reset.
func TestNewestConnectionSurvivesHandover(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	a, b := &host{t: t}, &host{t: t}
	var client, server netns.NsHandle
	for _, ns := range []*netns.NsHandle{&a.ns, &b.ns, &client, &server} {
		var err error
		if *ns, err = netns.New(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ns.Close() })
	}
	cables(t, a.ns, b.ns, client, server)
	const text = `
director: {interface: eth0, reconcile_interval: 1h}
vips: [192.0.2.10]
services: [{address: 192.0.2.10, port: 80, scheduler: rr, real_servers: [192.0.2.4]}]
`
	vip := netip.MustParseAddr("192.0.2.10")
	macs := make(map[*host]net.HardwareAddr)
	for h, own := range map[*host]string{a: "192.0.2.1/24", b: "192.0.2.2/24"} {
		h.enter()
		f, err := fence.Open(fence.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		h.fence = f
		h.up(own, text)
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		macs[h] = l.Attrs().HardwareAddr
	}

	configure(t, server, "192.0.2.4/24", "192.0.2.10/32")
	for _, key := range []string{"arp_ignore", "arp_announce"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/"+key, []byte("2"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c) }()
		}
	}()

	eth0 := configure(t, client, "192.0.2.3/24")
	neigh, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(neigh.Close)
	points := func(h *host) {
		t.Helper()
		if err := neigh.NeighSet(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, IP: vip.AsSlice(), HardwareAddr: macs[h], State: netlink.NUD_PERMANENT}); err != nil {
			t.Fatal(err)
		}
	}
	hold := func(h *host) {
		t.Helper()
		if err := h.fence.Extend("default", fence.Now()+time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	echo := func(c net.Conn, word string) error {
		got := make([]byte, len(word))
		err := c.SetDeadline(time.Now().Add(20 * time.Second))
		if err == nil {
			_, err = c.Write([]byte(word))
		}
		if err == nil {
			_, err = io.ReadFull(c, got)
		}
		if err == nil && string(got) != word {
			err = fmt.Errorf("%q came back as %q", word, got)
		}
		return err
	}

	hold(a)
	a.role(Role{Active: true, Epoch: 1})
	points(a)
	if err := netns.Set(client); err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(vip, 80)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := echo(c, "before"); err != nil {
		t.Fatal(err)
	}
	a.role(Role{Epoch: 1})
	hold(b)
	b.role(Role{Active: true, Epoch: 2})
	points(b)
	if n := b.connections(); n != 0 {
		t.Fatalf("the new director knows of %d connections already: this test is about one that it does not know", n)
	}
	began := time.Now()
	if err := echo(c, "after"); err != nil {
		t.Fatalf("the connection did not survive: %v", err)
	}
	t.Logf("the connection goes on after %s", time.Since(began).Round(time.Millisecond))
	if n := b.connections(); n != 1 {
		t.Errorf("the new director knows of %d connections", n)
	}
	a.daemons("backup")
	b.daemons("master")
}
