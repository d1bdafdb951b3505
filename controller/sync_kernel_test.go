//go:build kernel

package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/drover-lb/drover/controller/fence"
	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/sysctl"
)

// host is a director in a namespace of its own.
type host struct {
	t     *testing.T
	ns    netns.NsHandle
	fence *fence.Fence // nil: none
	k     *kernel.Kernel
	c     *Controller
	logs  buffer
}

// enter puts the thread of the test into the host's namespace.
func (h *host) enter() {
	h.t.Helper()
	if err := netns.Set(h.ns); err != nil {
		h.t.Fatal(err)
	}
}

// up gives the host's eth0 an address, sets what a director of a cluster sets, and runs a director.
func (h *host) up(own, text string) {
	h.t.Helper()
	h.enter()
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		h.t.Fatal(err)
	}
	addr, err := netlink.ParseAddr(own)
	if err := errors.Join(err, netlink.LinkSetUp(l), netlink.AddrAdd(l, addr)); err != nil {
		h.t.Fatal(err)
	}
	setLink(h.t, "lo", true)
	f, err := spec.Parse("f.yaml", []byte(text))
	if err != nil {
		h.t.Fatal(err)
	}
	if h.k, err = kernel.Open(context.Background(), nil); err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { h.k.Close() })
	// The loop's goroutine is on threads of another namespace, so the test does this for it.
	for _, s := range append(Settings(f), ClusterSettings(f, true)...) {
		path, err := sysctl.Path(s.Key)
		if err := errors.Join(err, os.WriteFile("/proc/sys/"+path, []byte(s.Value), 0o644)); err != nil {
			h.t.Errorf("%s = %s: %v", s.Key, s.Value, err)
		}
	}
	opts := Options{
		Kernel: h.k, Roles: map[string]Role{}, Sync: &Sync{ID: 1},
		Log: slog.New(slog.NewTextHandler(&h.logs, nil)),
	}
	if h.fence != nil {
		opts.Fence = h.fence
	}
	h.c, err = New(opts, f, "f.yaml")
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.c.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			h.t.Error(err)
		}
	})
	<-h.c.Ready()
}

func (h *host) role(r Role) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := h.c.SetRole(ctx, "default", r); err != nil {
		h.t.Errorf("%v\n%s", err, h.logs.String())
	}
}

// daemons waits until the sync daemons are those.
func (h *host) daemons(role string) {
	h.t.Helper()
	h.eventually("sync role "+role, func() bool {
		st, err := h.c.Status(context.Background())
		return err == nil && st.Sync.Role == role && st.Sync.Error == ""
	})
}

// connections counts established connections as the kernel has them.
func (h *host) connections() (n uint64) {
	h.t.Helper()
	list, err := h.k.Services(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return count(list, 0).Active
}

func (h *host) eventually(what string, cond func() bool) {
	h.t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("not in time: %s\n%s", what, h.logs.String())
		}
	}
}

// An idle connection is known to the standby with the end of its handshake, and goes on at the standby
// after it has taken over; and while a standby has its table ready, it forwards nothing.
func TestConnectionsAreSynchronised(t *testing.T) {
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	a, b := &host{t: t}, &host{t: t}
	var err error
	for _, h := range []*host{a, b} {
		if h.ns, err = netns.New(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { h.ns.Close() })
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(a.ns)}); err != nil {
		t.Fatal(err)
	}
	// The real server is on the first director; the client on the standby, so that a standby which forwards
	// would take its packets on their way out.
	const text = `
director: {interface: eth0, reconcile_interval: 1h}
vips: [192.0.2.10]
services: [{address: 192.0.2.10, port: 80, scheduler: rr, real_servers: [192.0.2.1]}]
`
	a.up("192.0.2.1/24", text)
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{Port: 80})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b.up("192.0.2.2/24", text)
	a.daemons("backup")
	b.daemons("backup")
	a.role(Role{Active: true, Epoch: 1})
	a.daemons("master")
	for h, want := range map[*host]bool{a: false, b: true} {
		if on, err := h.k.BackupOnly(); on != want || err != nil {
			t.Errorf("backup_only %t, %v; want %t", on, err, want)
		}
	}

	var took []time.Duration
	const n = 20
	for i := range n {
		c, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.10:80")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		begin := time.Now()
		// All but the newest are pushed out by the one after them.
		b.eventually(fmt.Sprintf("%d connections at the standby", i), func() bool { return b.connections() >= uint64(i) })
		took = append(took, time.Since(begin).Round(time.Millisecond))
	}
	t.Logf("the connection before the newest was at the standby after %v", took)
	begin := time.Now()
	b.eventually("all at the standby", func() bool { return b.connections() == n })
	t.Logf("the newest after %s", time.Since(begin).Round(time.Millisecond))
	if got := a.connections(); got != n {
		t.Errorf("%d connections at the active director", got)
	}
	if list, err := b.k.Services(context.Background()); err != nil || list[0].Stats.InPackets != 0 {
		t.Errorf("the standby has forwarded %d packets, %v", list[0].Stats.InPackets, err)
	}
	st, err := b.c.Status(context.Background())
	if err != nil || st.Connections == nil {
		t.Errorf("status: %+v, %v", st, err)
	}
	d, err := a.k.Daemons(context.Background())
	if err != nil || len(d) != 1 || d[0].MaxLen != DefaultSyncMaxLen {
		t.Errorf("daemons %+v, %v", d, err)
	}
}
