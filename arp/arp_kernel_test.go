//go:build kernel

package arp

import (
	"context"
	"fmt"
	"net"
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

	"github.com/drover-lb/drover/arp/frame"
	"github.com/drover-lb/drover/lab/topology"
)

func TestMain(m *testing.M) {
	for _, module := range []string{"veth", "bridge", "ipv6"} {
		_ = exec.Command("modprobe", module).Run() // built in, or the test says what is missing
	}
	os.Exit(m.Run())
}

var bothFamilies = []netip.Addr{vip, netip.MustParseAddr("fd00::100")}

// newWorld makes hosts on one network; host n has the addresses 10.0.0.n and fd00::n.
func newWorld(t *testing.T, names ...string) *topology.World {
	t.Helper()
	lan := topology.Network{Name: "lan", Subnets: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00::/64")}}
	var hosts []topology.Host
	for i, name := range names {
		hosts = append(hosts, topology.Host{Name: name, Interfaces: []topology.Interface{{Network: "lan", Addresses: []netip.Prefix{
			netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", i+1)), netip.MustParsePrefix(fmt.Sprintf("fd00::%d/64", i+1)),
		}}}})
	}
	w, err := topology.New([]topology.Network{lan}, hosts, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	// The kernel reports the carrier of a new cable a moment later.
	for _, m := range w.Machines() {
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			var l netlink.Link
			do(t, m, func() (err error) {
				l, err = eth("eth0")
				return err
			})
			if linkOf(l.Attrs()).up {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s has no carrier", m.Name)
			}
		}
	}
	return w
}

// on runs fn on a thread of its own in the host's network namespace; the channel is closed when it has returned.
func on(t *testing.T, m *topology.Machine, fn func()) <-chan struct{} {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		ns, err := netns.GetFromPath(m.Namespaces()["net"])
		if err != nil {
			t.Error(err)
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			t.Error(err)
			return
		}
		fn()
	}()
	return done
}

func do(t *testing.T, m *topology.Machine, fn func() error) {
	t.Helper()
	if err := m.Do(fn); err != nil {
		t.Fatal(err)
	}
}

func macOf(m *topology.Machine) frame.MAC { return frame.MAC(m.MACs[0]) }

func eth(name string) (netlink.Link, error) { return netlink.LinkByName(name) }

// give puts addr on eth0, without duplicate address detection.
func give(t *testing.T, m *topology.Machine, addr netip.Addr) {
	t.Helper()
	do(t, m, func() error {
		l, err := eth("eth0")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, addrOf(addr))
	})
}

func addrOf(addr netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}, Flags: unix.IFA_F_NODAD}
}

// neighbour waits until the kernel's neighbour table says that addr is at mac.
func neighbour(t *testing.T, m *topology.Machine, addr netip.Addr, mac frame.MAC, within time.Duration) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		found := false
		do(t, m, func() error {
			l, err := eth("eth0")
			if err != nil {
				return err
			}
			list, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
			for _, n := range list {
				if a, _ := netip.AddrFromSlice(n.IP); a.Unmap() == addr {
					last = n.HardwareAddr.String()
					found = last == mac.String()
				}
			}
			return err
		})
		if found {
			return
		}
	}
	t.Fatalf("%s has %s at %q, want %s", m.Name, addr, last, mac)
}

// speak makes the host resolve addr.
func speak(t *testing.T, m *topology.Machine, addr netip.Addr) {
	t.Helper()
	do(t, m, func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(addr, 9).String())
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("x"))
		return err
	})
}

// announcer starts an Announcer on a host until the test ends.
func announcer(t *testing.T, m *topology.Machine, opts Options) *Announcer {
	t.Helper()
	a, err := NewAnnouncer(opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := on(t, m, func() {
		if err := a.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return a
}

func TestAnnouncementMovesTheNeighboursEntry(t *testing.T) {
	w := newWorld(t, "client", "first", "second")
	client, first, second := w.Machine("client"), w.Machine("first"), w.Machine("second")
	for _, addr := range bothFamilies {
		give(t, first, addr)
		speak(t, client, addr)
		neighbour(t, client, addr, macOf(first), 5*time.Second)
	}
	a := announcer(t, second, Options{})
	start := time.Now()
	if err := a.Set([]Claim{{"eth0", bothFamilies[0]}, {"eth0", bothFamilies[1]}}); err != nil {
		t.Fatal(err)
	}
	for _, addr := range bothFamilies {
		neighbour(t, client, addr, macOf(second), 5*time.Second)
	}
	t.Logf("both entries moved within %s", time.Since(start))
}

func TestProbe(t *testing.T) {
	w := newWorld(t, "client", "first", "second", "third")
	client := w.Machine("client")
	probe := func(addr netip.Addr, p Prober, window time.Duration) (r Result) {
		t.Helper()
		<-on(t, client, func() {
			var err error
			if r, err = p.Probe(context.Background(), "eth0", addr, window); err != nil {
				t.Error(err)
			}
		})
		return r
	}
	macs := func(r Result) (out []string) {
		for _, a := range r.Answers {
			out = append(out, a.MAC.String())
		}
		slices.Sort(out)
		return out
	}
	for _, addr := range bothFamilies {
		start := time.Now()
		r := probe(addr, Prober{}, 300*time.Millisecond)
		if len(r.Answers) != 0 || r.Asked != 2 || time.Since(start) < 300*time.Millisecond {
			t.Errorf("%s, nobody has it: %+v", addr, r)
		}
		give(t, w.Machine("first"), addr)
		give(t, w.Machine("second"), addr)
		r = probe(addr, Prober{Interval: 100 * time.Millisecond, Count: 4}, time.Second)
		want := []string{macOf(w.Machine("first")).String(), macOf(w.Machine("second")).String()}
		if !slices.Equal(macs(r), want) || r.Asked != 4 {
			t.Fatalf("%s: got %+v, want the MACs %s", addr, r, want)
		}
		for _, a := range r.Answers {
			// An IPv6 address is deaf to the first question while the kernel still joins its group.
			if a.Count < 3 || a.Count > 4 || a.Unasked != 0 || a.Last < 200*time.Millisecond || a.Last < a.First {
				t.Errorf("%s: got %+v", addr, a)
			}
		}
		if !r.Source.IsValid() {
			t.Errorf("%s: no source", addr)
		}
		// A third host claims it without being asked.
		c := announcer(t, w.Machine("third"), Options{})
		if err := c.Set([]Claim{{"eth0", addr}}); err != nil {
			t.Fatal(err)
		}
		r = probe(addr, Prober{}, 1500*time.Millisecond)
		i := slices.IndexFunc(r.Answers, func(a Answer) bool { return a.MAC == macOf(w.Machine("third")) })
		if i < 0 || r.Answers[i].Unasked == 0 || r.Answers[i].Unasked != r.Answers[i].Count {
			t.Errorf("%s: the third host's announcements: %+v", addr, r.Answers)
		}
		if err := c.Set(nil); err != nil {
			t.Fatal(err)
		}
	}
}

// Without an address of its own the prober uses the forms that name no asker.
func TestProbeWithoutAnAddress(t *testing.T) {
	w := newWorld(t, "client", "first")
	client := w.Machine("client")
	do(t, client, func() error {
		l, err := eth("eth0")
		if err != nil {
			return err
		}
		list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range list {
			if err := netlink.AddrDel(l, &a); err != nil {
				return err
			}
		}
		return nil
	})
	for _, addr := range []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("fd00::2")} {
		<-on(t, client, func() {
			r, err := Probe(context.Background(), "eth0", addr, 500*time.Millisecond)
			if err != nil || len(r.Answers) != 1 || r.Answers[0].MAC != macOf(w.Machine("first")) || r.Answers[0].Unasked != 0 || r.Source.IsValid() {
				t.Errorf("%s: %+v, %v", addr, r, err)
			}
		})
	}
}

func TestProbeErrorsAndCancel(t *testing.T) {
	w := newWorld(t, "client")
	<-on(t, w.Machine("client"), func() {
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(100*time.Millisecond, cancel)
		start := time.Now()
		if r, err := Probe(ctx, "eth0", vip, time.Hour); err != nil || r.Asked == 0 || time.Since(start) > 10*time.Second {
			t.Errorf("cancelled: %+v, %v after %s", r, err, time.Since(start))
		}
		for iface, want := range map[string]string{
			"eth9": `interface "eth9": route ip+net: no such network interface`,
			"lo":   `interface "lo": the interface does not speak Ethernet`,
		} {
			if _, err := Probe(context.Background(), iface, vip, time.Second); err == nil || err.Error() != want {
				t.Errorf("%s: got %v, want %s", iface, err, want)
			}
		}
	})
}

// The real link messages: a cable that is pulled, an interface that is renamed, removed, and made again.
func TestAnnouncerFollowsTheInterface(t *testing.T) {
	w := newWorld(t, "client", "director")
	client, director := w.Machine("client"), w.Machine("director")
	heard := make(chan frame.MAC, 1000)
	ctx, cancel := context.WithCancel(context.Background())
	listening := on(t, client, func() {
		p := Prober{Interval: time.Hour, Notify: func(mac frame.MAC, _ frame.Kind, _ time.Duration) { heard <- mac }}
		if _, err := p.Probe(ctx, "eth0", vip, time.Hour); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		<-listening
	})
	told := make(chan error, 100)
	expect := func(want error) {
		t.Helper()
		select {
		case err := <-told:
			if err != want {
				t.Fatalf("told %v, want %v", err, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told %v", want)
		}
	}
	hear := func(want frame.MAC) {
		t.Helper()
		for deadline := time.After(10 * time.Second); ; {
			select {
			case mac := <-heard:
				if mac == want {
					return
				}
			case <-deadline:
				t.Fatalf("%s has not announced", want)
			}
		}
	}
	a := announcer(t, director, Options{Refresh: time.Second, Notify: func(_ string, err error) { told <- err }})
	if err := a.Set([]Claim{{"eth0", vip}}); err != nil {
		t.Fatal(err)
	}
	hear(macOf(director))

	if err := w.Cut("director", "eth0"); err != nil {
		t.Fatal(err)
	}
	expect(errDown)
	if err := w.Restore("director", "eth0"); err != nil {
		t.Fatal(err)
	}
	expect(nil)
	hear(macOf(director))

	change := func(from string, fn func(l netlink.Link) error) {
		t.Helper()
		do(t, director, func() error {
			l, err := eth(from)
			if err != nil {
				return err
			}
			return fn(l)
		})
	}
	change("eth0", netlink.LinkSetDown)
	expect(errDown)
	change("eth0", func(l netlink.Link) error { return netlink.LinkSetName(l, "lan0") })
	expect(errNoInterface)
	change("lan0", func(l netlink.Link) error { return netlink.LinkSetName(l, "eth0") })
	expect(errDown)
	other := frame.MAC{2, 9, 9, 9, 9, 9}
	change("eth0", func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, other[:]) })
	change("eth0", netlink.LinkSetUp)
	expect(nil)
	hear(other)
	change("eth0", netlink.LinkDel)
	expect(errNoInterface)
}

// Whoever is asked must not be taught by the question that the asker has the address.
func TestProbeOfAnAddressOfOnesOwnTeachesNothing(t *testing.T) {
	w := newWorld(t, "client", "first")
	client, first := w.Machine("client"), w.Machine("first")
	for _, addr := range bothFamilies {
		give(t, first, addr)
		speak(t, client, addr)
		neighbour(t, client, addr, macOf(first), 5*time.Second)
		<-on(t, first, func() {
			if r, err := Probe(context.Background(), "eth0", addr, 300*time.Millisecond); err != nil || len(r.Answers) != 0 {
				t.Errorf("%s: %+v, %v", addr, r, err)
			}
		})
		give(t, client, addr) // now both have it, and the client asks
		<-on(t, client, func() {
			r, err := Probe(context.Background(), "eth0", addr, 300*time.Millisecond)
			if err != nil || len(r.Answers) != 1 || r.Source == addr {
				t.Errorf("%s: %+v, %v", addr, r, err)
			}
		})
	}
}
