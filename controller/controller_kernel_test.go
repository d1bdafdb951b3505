//go:build kernel

package controller

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/ipvs"
)

func TestMain(m *testing.M) {
	for _, module := range []string{"ip_vs", "veth", "dummy", "ipv6", "bridge", "sch_ingress", "cls_bpf"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			panic("modprobe " + module + ": " + string(out))
		}
	}
	os.Exit(m.Run())
}

// newNamespace makes a network namespace for the test, with the interfaces lo and eth0, and leaves the
// calling thread in it.
func newNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "port0"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lo", "eth0", "port0"} {
		setLink(t, name, true)
	}
}

func setLink(t *testing.T, name string, up bool) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	f := netlink.LinkSetDown
	if up {
		f = netlink.LinkSetUp
	}
	if err := f(l); err != nil {
		t.Fatal(err)
	}
}

// realWorld is a world with the real kernel in the namespace of the calling thread.
func realWorld(t *testing.T) *world {
	t.Helper()
	newNamespace(t)
	ctx := context.Background()
	k, err := kernel.Open(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	other, err := kernel.Open(ctx, nil) // of somebody else
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	index := func(name string) int {
		l, err := other.Link(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		return l.Index
	}
	return &world{
		t: t, kernel: k, iface: "eth0",
		hand: func(cs ...ipvs.Command) {
			for _, err := range other.Apply(ctx, cs) {
				if err != nil {
					t.Fatal(err)
				}
			}
		},
		addAddr: func(name string, p netip.Prefix, life time.Duration) {
			if err := other.SetAddress(ctx, index(name), p, life); err != nil {
				t.Fatal(err)
			}
		},
		delAddr: func(name string, p netip.Prefix) {
			if err := other.DeleteAddress(ctx, index(name), p); err != nil {
				t.Fatal(err)
			}
		},
		setLink: func(name string, up bool) { setLink(t, name, up) },
		table: func() plan.State {
			s, err := other.Services(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return plan.StateOf(s)
		},
		addrs: func() []kernel.Address {
			a, err := other.Addresses(ctx)
			if err != nil {
				t.Fatal(err)
			}
			return a
		},
		stateDir: t.TempDir(),
		interval: 500 * time.Millisecond,
		lifetime: 2 * time.Second,
	}
}

func TestScenariosOnRealKernel(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) { s.run(realWorld(t)) })
	}
}

// Many addresses are renewed at once; one that cannot be keeps none of the others.
func TestRenewOnRealKernel(t *testing.T) {
	w := realWorld(t)
	k := w.kernel.(*kernel.Kernel)
	ctx := t.Context()
	l, err := k.Link(ctx, "eth0")
	if err != nil {
		t.Fatal(err)
	}
	var held []kernel.Held
	for _, p := range []string{"192.0.2.10/32", "192.0.2.11/32", "2001:db8::10/128"} {
		held = append(held, kernel.Held{Index: l.Index, Prefix: netip.MustParsePrefix(p)})
		w.addAddr("eth0", held[len(held)-1].Prefix, 5*time.Second)
	}
	check := func(from, to time.Duration) {
		t.Helper()
		found := 0
		for _, a := range w.addrs() {
			if slices.ContainsFunc(held, func(h kernel.Held) bool { return h.Prefix == a.Prefix && h.Index == a.Index }) {
				found++
				if a.Failed || a.Lifetime < from || a.Lifetime > to {
					t.Errorf("%+v: want a lifetime of %v to %v", a, from, to)
				}
			}
		}
		if found != len(held) {
			t.Errorf("%d of %d addresses are there", found, len(held))
		}
	}
	for _, err := range k.Renew(ctx, held, time.Minute) {
		if err != nil {
			t.Error(err)
		}
	}
	check(55*time.Second, time.Minute)
	bad := append([]kernel.Held{{Index: 9999, Prefix: netip.MustParsePrefix("192.0.2.12/32")}}, held...)
	for i, err := range k.Renew(ctx, bad, 2*time.Minute) {
		if wrong := i == 0; wrong != errors.Is(err, unix.ENODEV) || !wrong && err != nil {
			t.Errorf("%v: %v", bad[i], err)
		}
	}
	check(115*time.Second, 2*time.Minute)
	for _, err := range k.Renew(ctx, held, 90*time.Second) { // with what was left in the socket
		if err != nil {
			t.Error(err)
		}
	}
	check(85*time.Second, 90*time.Second)
}
