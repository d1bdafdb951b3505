//go:build kernel

package proof

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/arp/frame"
	"github.com/drover-lb/drover/lab/topology"
)

func TestMain(m *testing.M) {
	for _, module := range []string{"veth", "bridge", "dummy", "ipv6", "sch_ingress", "cls_matchall", "act_mirred"} {
		_ = exec.Command("modprobe", module).Run() // built in, or the test says what is missing
	}
	os.Exit(m.Run())
}

var (
	vip4 = netip.MustParseAddr("10.0.0.100")
	vip6 = netip.MustParseAddr("fd00::100")
	own4 = netip.MustParseAddr("10.0.0.1")
	own6 = netip.MustParseAddr("fd00::1")
)

// inLab reports whether this is the lab's kernel, which has all that is needed.
func inLab() bool {
	b, _ := os.ReadFile("/proc/cpuinfo")
	return bytes.Contains(b, []byte("User Mode Linux"))
}

// host is a real server with one cable; the test runs on its thread.
type host struct {
	t    *testing.T
	ifi  Interface
	p    *Prover
	peer *packet.Conn // what leaves the host
}

func newHost(t *testing.T, w way) *host {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	lan := topology.Network{Name: "lan"}
	hosts := []topology.Host{
		{Name: "web", Interfaces: []topology.Interface{{Network: "lan", Addresses: []netip.Prefix{netip.PrefixFrom(own4, 24), netip.PrefixFrom(own6, 64)}}}},
		{Name: "peer", Interfaces: []topology.Interface{{Network: "lan"}}},
	}
	world, err := topology.New([]topology.Network{lan}, hosts, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(world.Close)
	h := &host{t: t, p: &Prover{ways: []way{w}}}
	if err := world.Machine("peer").Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		h.peer, err = packet.Listen(&net.Interface{Index: l.Attrs().Index}, packet.Raw, unix.ETH_P_ALL, nil)
		if err != nil {
			return err
		}
		return h.peer.SetPromiscuous(true)
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.peer.Close() })
	ns, err := netns.GetFromPath(world.Machine("web").Namespaces()["net"])
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	h.ifi = Interface{Index: l.Attrs().Index, Name: "eth0", MAC: frame.MAC(l.Attrs().HardwareAddr), Own: []netip.Addr{own4, own6}}
	if inj, err := w.open(h.ifi); err == nil {
		inj.close()
	} else if inLab() {
		t.Fatalf("this kernel must be able to do it by %s: %v", w, err)
	} else {
		t.Skipf("not by %s on this kernel: %v", w, err)
	}
	t.Cleanup(h.p.Close)
	h.p.Prove(context.Background(), h.ifi, []netip.Addr{netip.MustParseAddr("10.0.0.77")}) // the carrier may be a moment late
	return h
}

func (h *host) set(key, value string) {
	h.t.Helper()
	if err := os.WriteFile("/proc/sys/net/ipv4/conf/"+key, []byte(value), 0); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) address(dev string, a netip.Addr, add bool) {
	h.t.Helper()
	l, err := netlink.LinkByName(dev)
	if err != nil {
		h.t.Fatal(err)
	}
	bits := a.BitLen()
	if a == own4 {
		bits = 24
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}, Flags: unix.IFA_F_NODAD}
	if add {
		err = netlink.AddrAdd(l, addr)
	} else {
		err = netlink.AddrDel(l, addr)
	}
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) want(name, want string, addrs ...netip.Addr) {
	h.t.Helper()
	start := time.Now()
	var got []string
	for i, v := range h.p.Prove(context.Background(), h.ifi, addrs) {
		if v.Addr != addrs[i] || v.Interface != "eth0" {
			h.t.Errorf("%s: verdict %d is about %s on %s", name, i, v.Addr, v.Interface)
		}
		s := v.Result.String()
		if v.Reason != "" {
			s += " (" + v.Reason + ")"
		}
		got = append(got, s)
	}
	h.t.Logf("%s: %v in %s", name, got, time.Since(start).Round(time.Millisecond))
	if strings.Join(got, ", ") != want {
		h.t.Errorf("%s: got %s, want %s", name, strings.Join(got, ", "), want)
	}
}

func TestProof(t *testing.T) {
	for _, w := range []way{&xdp{}, &redirect{}} {
		t.Run(w.String(), func(t *testing.T) {
			h := newHost(t, w)
			h.want("nothing there", "silent, silent", vip4, vip6)

			h.address("lo", vip4, true)
			h.address("lo", vip6, true)
			h.want("on lo, defaults", "answers, silent", vip4, vip6)
			h.set("lo/arp_ignore", "1")
			h.want("lo.arp_ignore is folklore", "answers, silent", vip4, vip6)
			h.set("all/arp_ignore", "1")
			h.want("all.arp_ignore=1", "silent, silent", vip4, vip6)
			h.set("all/arp_ignore", "0")
			h.set("eth0/arp_ignore", "1")
			h.want("eth0.arp_ignore=1", "silent, silent", vip6, vip4)
			h.set("eth0/arp_ignore", "8")
			h.want("the host is deaf", "unproven (the control failed: the kernel did not answer for 10.0.0.1, which eth0 has, either), silent", vip4, vip6)
			h.set("eth0/arp_ignore", "0")
			h.set("all/arp_ignore", "1")

			h.address("eth0", vip4, true)
			h.address("eth0", vip6, true)
			h.want("by hand on eth0", "answers, answers", vip4, vip6)
			h.address("eth0", vip4, false)
			h.address("eth0", vip6, false)
			h.want("and off again", "silent, silent", vip4, vip6)

			h.address("eth0", own4, false)
			h.ifi.Own = []netip.Addr{own6}
			const blind = "silent (without control: eth0 has no address of this family that must be answered for), silent"
			h.want("no address to compare with", blind, vip4, vip6)
			h.set("all/arp_ignore", "0")
			h.want("no address to compare with, broken", "answers, silent", vip4, vip6)
		})
	}
}

func TestProofOfManyAddresses(t *testing.T) {
	h := newHost(t, &xdp{})
	h.set("all/arp_ignore", "1")
	var addrs []netip.Addr
	for i := range 3 * chunk {
		addrs = append(addrs, netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), netip.MustParseAddr(fmt.Sprintf("fd01::%x", i)))
	}
	bad := netip.MustParseAddr("10.1.0.50")
	h.address("eth0", bad, true)
	for _, v := range h.p.Prove(context.Background(), h.ifi, addrs) {
		if want := map[bool]Result{true: Answers, false: Silent}[v.Addr == bad]; v.Result != want {
			t.Errorf("got %+v, want %s", v, want)
		}
	}
}

// Answers that do not fit the socket's buffer must not pass for silence.
func TestManyAnswers(t *testing.T) {
	h := newHost(t, &xdp{})
	var addrs []netip.Addr
	for i := range 500 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		addrs = append(addrs, a)
		h.address("lo", a, true)
	}
	for _, own := range [][]netip.Addr{h.ifi.Own, nil} {
		h.ifi.Own = own
		counts := map[Result]int{}
		for _, v := range h.p.Prove(context.Background(), h.ifi, addrs) {
			counts[v.Result]++
		}
		if counts[Answers] != len(addrs) {
			t.Errorf("with %d controls: %v, want all %d to answer", len(own), counts, len(addrs))
		}
	}
}

// A proof must not do to the network what it is to prevent.
func TestNobodyOutsideLearnsFromAProof(t *testing.T) {
	for _, w := range []way{&xdp{}, &redirect{}} {
		t.Run(w.String(), func(t *testing.T) {
			h := newHost(t, w)
			for _, dev := range []string{"lo", "eth0"} {
				h.address(dev, vip4, true)
				h.address(dev, vip6, true)
			}
			h.want("the worst case", "answers, answers", vip4, vip6)
			buf := make([]byte, 2048)
			answers := 0
			for {
				if err := h.peer.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
					t.Fatal(err)
				}
				n, _, err := h.peer.ReadFrom(buf)
				if err != nil {
					break
				}
				c, ok := frame.ParseClaim(buf[:n])
				if !ok {
					if q := frame.EtherType(uint16(buf[12])<<8 | uint16(buf[13])); q == frame.TypeARP || q == 0x88b5 {
						t.Errorf("a question has left the host: %x", buf[:n])
					}
					continue
				}
				if c.Addr == vip4 || c.Addr == vip6 {
					answers++
				}
				if c.To[0]&1 != 0 {
					t.Errorf("an answer was sent to everybody: %+v", c)
				}
			}
			if answers == 0 {
				t.Error("the peer has not seen the answers: this test watches the wrong place")
			}
			list, err := netlink.NeighList(h.ifi.Index, netlink.FAMILY_ALL)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range list {
				if n.State != netlink.NUD_NOARP {
					t.Errorf("the kernel remembers a neighbour that does not exist: %s", &n)
				}
			}
			if _, err := netlink.LinkByName(redirectName); err == nil {
				t.Errorf("%s is still there", redirectName)
			}
		})
	}
}

func TestKilledRedirectionIsCleanedUp(t *testing.T) {
	h := newHost(t, &redirect{})
	if _, err := (redirect{}).open(h.ifi); err != nil { // and never closed
		t.Fatal(err)
	}
	h.want("after a crash", "silent", vip4)
	if _, err := netlink.LinkByName(redirectName); err == nil {
		t.Errorf("%s is still there", redirectName)
	}
}

func TestNoWay(t *testing.T) {
	h := newHost(t, &xdp{})
	h.ifi.Index = 4711
	v := h.p.Prove(context.Background(), h.ifi, []netip.Addr{vip4, vip6})
	for _, v := range v {
		if v.Result != Unproven || !strings.Contains(v.Reason, "failed to open a packet socket on eth0") {
			t.Errorf("got %+v", v)
		}
	}
}
