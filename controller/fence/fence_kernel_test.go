//go:build kernel

package fence

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	for _, module := range []string{"veth", "dummy", "ipv6", "sch_ingress", "cls_bpf"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			panic("modprobe " + module + ": " + string(out))
		}
	}
	os.Exit(m.Run())
}

var (
	vip4  = netip.MustParseAddr("192.0.2.10")
	vip6  = netip.MustParseAddr("2001:db8::10")
	own4  = netip.MustParseAddr("192.0.2.1")
	own6  = netip.MustParseAddr("2001:db8::1")
	other = netip.MustParseAddr("192.0.2.20") // of another group
	all   = map[netip.Addr]string{vip4: "web", vip6: "web", other: "mail"}
)

// pair is a director's namespace, in which the test's thread is, and a client's at the other end of a
// cable. The director answers datagrams on every address.
type pair struct {
	t      *testing.T
	client netns.NsHandle
	here   netns.NsHandle
	h      *netlink.Handle // of the client
	conns  map[netip.Addr]*net.UDPConn

	sendErr error // of the newest datagram
}

const port = 7000

func newPair(t *testing.T) *pair {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	p := &pair{t: t, conns: make(map[netip.Addr]*net.UDPConn)}
	var err error
	if p.client, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	if p.here, err = netns.New(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close(); p.here.Close() })
	if p.h, err = netlink.NewHandleAt(p.client); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.h.Close)
	p.cable()
	lo, err := netlink.LinkByName("lo")
	if err := errors.Join(err, netlink.LinkSetUp(lo)); err != nil {
		t.Fatal(err)
	}
	s, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	rc, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// Answers come from the address that was asked.
	rc.Control(func(fd uintptr) {
		err = errors.Join(unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1), unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		b, oob := make([]byte, 100), make([]byte, 200)
		for {
			n, oobn, _, from, err := s.ReadMsgUDP(b, oob)
			if err != nil {
				return
			}
			_, _, _ = s.WriteMsgUDP(b[:n], oob[:oobn], from)
		}
	}()
	return p
}

// cable makes the interfaces eth0 of both and their addresses, and waits until both ends carry packets. The
// client's sockets begin anew with it.
func (p *pair) cable() {
	p.t.Helper()
	for a, c := range p.conns {
		c.Close()
		delete(p.conns, a)
	}
	err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(p.client)})
	if err != nil {
		p.t.Fatal(err)
	}
	set := func(h *netlink.Handle, addrs ...netip.Addr) {
		l, err := h.LinkByName("eth0")
		if err != nil {
			p.t.Fatal(err)
		}
		errs := []error{h.LinkSetUp(l)}
		for _, a := range addrs {
			bits := 24
			if a.Is6() {
				bits = 64
			}
			errs = append(errs, h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}, Flags: unix.IFA_F_NODAD}))
		}
		if err := errors.Join(errs...); err != nil {
			p.t.Fatal(err)
		}
	}
	h, err := netlink.NewHandle()
	if err != nil {
		p.t.Fatal(err)
	}
	defer h.Close()
	set(h, own4, own6, vip4, vip6, other)
	set(p.h, netip.MustParseAddr("192.0.2.99"), netip.MustParseAddr("2001:db8::99"))
	for name, ns := range map[string]netns.NsHandle{"director": p.here, "client": p.client} {
		p.running(name, ns)
	}
}

// running waits until the kernel says that eth0 is operational: it makes a new interface transmit up to a
// second after there is a carrier (linkwatch_schedule_work() in net/core/link_watch.c).
func (p *pair) running(name string, ns netns.NsHandle) {
	p.t.Helper()
	updates, done := make(chan netlink.LinkUpdate), make(chan struct{})
	defer func() {
		close(done)
		go func() { // until the subscription has noticed
			for range updates {
			}
		}()
	}()
	if err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &ns, ListExisting: true}); err != nil {
		close(updates)
		p.t.Fatal(err)
	}
	timeout := time.After(time.Minute) // it needs the kernel's RTNL lock, which the end of other namespaces may hold
	for {
		select {
		case u, ok := <-updates:
			if !ok {
				p.t.Fatalf("%s: no news of eth0\n%s", name, p.state())
			}
			if u.Attrs().Name == "eth0" && u.Attrs().OperState == netlink.OperUp {
				return
			}
		case <-timeout:
			p.t.Fatalf("%s: eth0 is not operational\n%s", name, p.state())
		}
	}
}

func (p *pair) open(opts Options) *Fence {
	p.t.Helper()
	f, err := Open(opts)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { f.Close() })
	return f
}

// conn returns the client's socket to an address.
func (p *pair) conn(a netip.Addr) *net.UDPConn {
	p.t.Helper()
	if c := p.conns[a]; c != nil {
		return c
	}
	if err := netns.Set(p.client); err != nil {
		p.t.Fatal(err)
	}
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
	if err := errors.Join(err, netns.Set(p.here)); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close() })
	p.conns[a] = c
	return c
}

// forget makes the client ask for the link address of a again.
func (p *pair) forget(a netip.Addr) {
	p.t.Helper()
	l, err := p.h.LinkByName("eth0")
	if err != nil {
		p.t.Fatal(err)
	}
	family := netlink.FAMILY_V4
	if a.Is6() {
		family = netlink.FAMILY_V6
	}
	list, err := p.h.NeighList(l.Attrs().Index, family)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, n := range list {
		if n.IP.Equal(a.AsSlice()) {
			if err := p.h.NeighDel(&n); err != nil && !errors.Is(err, unix.ENOENT) {
				p.t.Fatal(err)
			}
		}
	}
}

// answers reports whether a datagram to a comes back before the time is up or until has become true.
func (p *pair) answers(a netip.Addr, within time.Duration, until func() bool) bool {
	p.t.Helper()
	c := p.conn(a)
	word := fmt.Sprint(time.Now().UnixNano())
	b := make([]byte, 100)
	for end := time.Now().Add(within); time.Now().Before(end); {
		if _, p.sendErr = c.Write([]byte(word)); errors.Is(p.sendErr, unix.EBADF) {
			p.t.Fatal(p.sendErr) // others are those of an earlier datagram
		}
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		for {
			n, err := c.Read(b)
			if err != nil {
				break
			}
			if string(b[:n]) == word {
				return true
			}
		}
		if until != nil && until() {
			return false
		}
	}
	return false
}

const (
	patience = 10 * time.Second       // for an answer, or for the kernel's asking for a link address, once a second
	quiet    = 250 * time.Millisecond // without an answer where nobody counts what is dropped
)

// want checks who answers, with the client's memory of link addresses and without.
func (p *pair) want(f *Fence, what string, addrs map[netip.Addr]bool) {
	p.t.Helper()
	for a, yes := range addrs {
		for _, forget := range []bool{false, true} {
			if forget {
				p.forget(a)
			}
			within, dropped := patience, func() bool { return false }
			switch {
			case yes:
			case f == nil:
				within = quiet
			default:
				before, _ := f.Silenced(all[a])
				dropped = func() bool {
					after, _ := f.Silenced(all[a])
					return after > before
				}
			}
			if got := p.answers(a, within, dropped); got != yes {
				p.t.Errorf("%s: %s answers: %t (forgotten %t)\n%s", what, a, got, forget, p.state())
			}
			if !yes && f != nil && !dropped() {
				p.t.Errorf("%s: %s: nothing was dropped (forgotten %t)\n%s", what, a, forget, p.state())
			}
		}
	}
}

// state describes both ends.
func (p *pair) state() string {
	here, err := netlink.NewHandle()
	if err != nil {
		return err.Error()
	}
	defer here.Close()
	var out strings.Builder
	fmt.Fprintln(&out, "newest datagram:", p.sendErr)
	for _, ns := range []netns.NsHandle{p.here, p.client} {
		var info unix.Stat_t
		err := unix.Fstat(int(ns), &info)
		fmt.Fprintln(&out, "namespace", info.Ino, err)
	}
	for name, h := range map[string]*netlink.Handle{"director": here, "client": p.h} {
		l, err := h.LinkByName("eth0")
		if err != nil {
			fmt.Fprintln(&out, name, err)
			continue
		}
		fmt.Fprintln(&out, name, l.Attrs().Index, l.Attrs().HardwareAddr, l.Attrs().Flags, l.Attrs().OperState)
		addrs, _ := h.AddrList(l, netlink.FAMILY_ALL)
		fmt.Fprintln(&out, "  addresses", addrs)
		neighs, _ := h.NeighList(l.Attrs().Index, netlink.FAMILY_ALL)
		for _, n := range neighs {
			fmt.Fprintf(&out, "  neighbour %s state %#x\n", n.String(), n.State)
		}
	}
	return out.String()
}

func set(t *testing.T, f *Fence) {
	t.Helper()
	if err := f.Set([]string{"eth0"}, all); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestLease(t *testing.T) {
	p := newPair(t)
	p.want(nil, "no fence", map[netip.Addr]bool{vip4: true, vip6: true, own4: true, own6: true, other: true})
	f := p.open(Options{})
	t.Logf("clock: %s", f.Clock())
	set(t, f)
	silent := map[netip.Addr]bool{vip4: false, vip6: false, own4: true, own6: true}
	p.want(f, "new", silent)
	must(t, f.Extend("web", Now()+time.Hour))
	p.want(f, "extended", map[netip.Addr]bool{vip4: true, vip6: true, own4: true, own6: true, other: false})
	must(t, f.Extend("mail", Now()+time.Hour))
	must(t, f.Extend("web", Now()-1))
	p.want(f, "deadline passed", map[netip.Addr]bool{vip4: false, vip6: false, own4: true, own6: true, other: true})
	must(t, f.Extend("web", Now()+time.Hour))
	p.want(f, "extended again", map[netip.Addr]bool{vip4: true, vip6: true})
	must(t, f.Drop("web"))
	p.want(f, "dropped", silent)
	must(t, f.Lift("web"))
	p.want(f, "lifted", map[netip.Addr]bool{vip4: true, vip6: true})

	// The deadline comes by itself.
	until := Now() + 2*time.Second
	must(t, f.Extend("web", until))
	p.want(f, "for two seconds", map[netip.Addr]bool{vip4: true})
	for Now() <= until {
		p.answers(own4, time.Millisecond, nil)
	}
	p.want(f, "after two seconds", silent)

	must(t, f.Set([]string{"eth0"}, map[netip.Addr]string{other: "mail"}))
	p.want(f, "let go", map[netip.Addr]bool{vip4: true, vip6: true, other: true})
	set(t, f)
	p.want(f, "guarded again", silent)
	must(t, f.Close())
	p.want(nil, "closed", map[netip.Addr]bool{vip4: true, vip6: true, own4: true, own6: true, other: true})
	if q := qdiscs(t); q != 0 {
		t.Errorf("%d clsact disciplines left", q)
	}
	if err := f.Repair(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("repair after close: %v", err)
	}
}

// vanish makes a connection to an address of which the director's TCP then knows nothing any more, and returns
// the client's end.
func (p *pair) vanish(l *net.TCPListener, a netip.Addr) *net.TCPConn {
	p.t.Helper()
	must(p.t, netns.Set(p.client))
	c, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, port)))
	must(p.t, errors.Join(err, netns.Set(p.here)))
	p.t.Cleanup(func() { c.Close() })
	s, err := l.AcceptTCP()
	must(p.t, err)
	rc, err := s.SyscallConn()
	must(p.t, err)
	// A socket in repair mode is closed without a word (tcp_close() in net/ipv4/tcp.c).
	must(p.t, rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) }))
	must(p.t, errors.Join(err, s.Close()))
	return c
}

// The resets for connections that are not known here are kept back for a while, and only those.
func TestHush(t *testing.T) {
	p := newPair(t)
	l, err := net.ListenTCP("tcp", &net.TCPAddr{Port: port})
	must(t, err)
	defer l.Close()
	f := p.open(Options{})
	set(t, f)
	must(t, f.Extend("web", Now()+time.Hour))
	must(t, f.Extend("mail", Now()+time.Hour))

	guarded := map[netip.Addr]*net.TCPConn{vip4: p.vanish(l, vip4), vip6: p.vanish(l, vip6)}
	read := func(c *net.TCPConn, within time.Duration) error {
		must(t, c.SetReadDeadline(time.Now().Add(within)))
		_, err := c.Read(make([]byte, 1))
		return err
	}
	must(t, f.Hush("web", time.Hour))
	must(t, f.Extend("web", Now()+time.Hour)) // as with each renewal of the lease
	for a, c := range guarded {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if err := read(c, quiet); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s, hushed: %v", a, err)
		}
	}
	for _, a := range []netip.Addr{own4, other} {
		c := p.vanish(l, a)
		_, err := c.Write([]byte("x"))
		must(t, err)
		if err := read(c, patience); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s, not of the hushed group: %v", a, err)
		}
	}
	must(t, netns.Set(p.client))
	d := net.Dialer{Timeout: patience}
	_, err = d.Dial("tcp", netip.AddrPortFrom(vip4, port+1).String())
	must(t, netns.Set(p.here))
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("new connection to a port where nobody listens, hushed: %v", err)
	}
	must(t, f.Hush("web", 0))
	for a, c := range guarded { // it has sent again
		if err := read(c, 3*patience); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("%s, not hushed any more: %v", a, err)
		}
	}
	must(t, f.Hush("web", time.Hour))
	must(t, f.Drop("web"))
	must(t, f.Lift("web"))
	c := p.vanish(l, vip4)
	_, err = c.Write([]byte("x"))
	must(t, err)
	if err := read(c, quiet); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("hushed, dropped and lifted: %v", err)
	}
	must(t, f.Hush("web", 0))
	if err := read(c, 3*patience); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("lifted, and not hushed any more: %v", err)
	}
}

// After the addresses are off for certain, what arrives is for a real server on this host.
func TestHold(t *testing.T) {
	p := newPair(t)
	f := p.open(Options{Hold: time.Minute})
	set(t, f)
	must(t, f.Extend("web", Now()-time.Second))
	p.want(f, "held", map[netip.Addr]bool{vip4: false, vip6: false})
	must(t, f.Extend("web", Now()-time.Minute))
	p.want(f, "lapsed", map[netip.Addr]bool{vip4: true, vip6: true})
}

// A longer hold is for the deadlines that are set already, too; a shorter one is not taken.
func TestSetHold(t *testing.T) {
	p := newPair(t)
	f := p.open(Options{Hold: time.Minute})
	set(t, f)
	must(t, f.Extend("web", Now()-2*time.Minute))
	must(t, f.Drop("mail"))
	p.want(f, "lapsed", map[netip.Addr]bool{vip4: true, vip6: true, other: false})
	must(t, f.SetHold(time.Hour))
	p.want(f, "held for an hour", map[netip.Addr]bool{vip4: false, vip6: false, other: false})
	must(t, f.SetHold(time.Second))
	p.want(f, "not shortened", map[netip.Addr]bool{vip4: false, other: false})
	must(t, f.Extend("web", Now()-time.Minute))
	p.want(f, "a new deadline", map[netip.Addr]bool{vip4: false})
	must(t, f.Extend("web", Now()-time.Hour))
	p.want(f, "lapsed after an hour", map[netip.Addr]bool{vip4: true})
	must(t, f.SetHold(0))
	p.want(f, "for ever", map[netip.Addr]bool{vip4: false})
	must(t, f.SetHold(time.Hour))
	must(t, f.Extend("web", 1))
	p.want(f, "still for ever", map[netip.Addr]bool{vip4: false})
	if err := f.SetHold(-1); err == nil {
		t.Error("a negative hold is taken")
	}
}

// A process that is killed closes its file descriptors, and no more.
func TestKilledProcessKeepsFencing(t *testing.T) {
	p := newPair(t)
	f := p.open(Options{})
	set(t, f)
	until := Now() + time.Second
	must(t, f.Extend("web", until))
	p.want(f, "before", map[netip.Addr]bool{vip4: true})
	f.mu.Lock()
	f.release()
	f.mu.Unlock()
	for Now() <= until {
		p.answers(own4, time.Millisecond, nil)
	}
	p.want(nil, "after", map[netip.Addr]bool{vip4: false, vip6: false, own4: true})

	next := p.open(Options{})
	set(t, next)
	if n := count(t); n != 1 {
		t.Errorf("%d filters", n)
	}
	p.want(next, "successor", map[netip.Addr]bool{vip4: false, own4: true})
	must(t, next.Extend("web", Now()+time.Hour))
	p.want(next, "successor extended", map[netip.Addr]bool{vip4: true, vip6: true})
	must(t, next.Close())
	if n := count(t); n != 0 {
		t.Errorf("%d filters left", n)
	}
}

// A successor without a fence removes what a killed process has left, and nothing of others.
func TestRemove(t *testing.T) {
	p := newPair(t)
	must(t, Remove(nil)) // of nothing
	stranger := p.open(Options{})
	f := p.open(Options{})
	must(t, f.Set([]string{"eth0", "lo"}, all))
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	for i, foreign := range []netlink.BpfFilter{
		{FilterAttrs: netlink.FilterAttrs{Handle: 1, Priority: 1}, Name: name},
		{FilterAttrs: netlink.FilterAttrs{Handle: handle, Priority: 2}, Name: name},
	} {
		foreign.LinkIndex, foreign.Parent, foreign.Protocol = l.Attrs().Index, netlink.HANDLE_MIN_INGRESS, unix.ETH_P_ALL
		foreign.Fd, foreign.DirectAction = stranger.sides[0].prog.FD(), true
		if err := netlink.FilterAdd(&foreign); err != nil {
			t.Fatalf("stranger %d: %v", i, err)
		}
	}
	f.mu.Lock()
	f.release()
	f.mu.Unlock()
	p.want(nil, "left behind", map[netip.Addr]bool{vip4: false, vip6: false, own4: true})
	var logs strings.Builder
	must(t, Remove(slog.New(slog.NewTextHandler(&logs, nil))))
	p.want(nil, "removed", map[netip.Addr]bool{vip4: true, vip6: true, own4: true})
	if n := count(t); n != 2 {
		t.Errorf("%d filters of others, want 2", n)
	}
	if n := strings.Count(logs.String(), "interface="); n != 2 || !strings.Contains(logs.String(), "interface=eth0") {
		t.Errorf("log:\n%s", logs.String())
	}
	logs.Reset()
	must(t, Remove(slog.New(slog.NewTextHandler(&logs, nil))))
	if logs.Len() > 0 {
		t.Errorf("removed twice:\n%s", logs.String())
	}
}

func TestOthersAreLeftAlone(t *testing.T) {
	p := newPair(t)
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	must(t, netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
	foreign := p.open(Options{}) // its program does for a stranger's
	must(t, netlink.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL},
		Fd:          foreign.sides[0].prog.FD(), Name: "stranger", DirectAction: true,
	}))
	f := p.open(Options{})
	set(t, f)
	p.want(f, "guarded", map[netip.Addr]bool{vip4: false, own4: true})
	must(t, f.Close())
	if q, n := qdiscs(t), count(t); q != 1 || n != 1 {
		t.Errorf("%d disciplines, %d filters", q, n)
	}
	p.want(nil, "closed", map[netip.Addr]bool{vip4: true})
}

func TestRepair(t *testing.T) {
	p := newPair(t)
	f := p.open(Options{})
	set(t, f)
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	must(t, netlink.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
	p.want(nil, "removed by somebody", map[netip.Addr]bool{vip4: true})
	must(t, f.Repair())
	p.want(f, "repaired", map[netip.Addr]bool{vip4: false, own4: true})
	must(t, f.Repair())
	if n := count(t); n != 1 {
		t.Errorf("%d filters", n)
	}

	must(t, netlink.LinkDel(l))
	if err := f.Repair(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the interface: %v", err)
	}
	p.cable()
	p.want(nil, "made anew", map[netip.Addr]bool{vip4: true})
	must(t, f.Repair())
	p.want(f, "repaired", map[netip.Addr]bool{vip4: false, own4: true})
	must(t, f.Set([]string{"lo"}, all))
	p.want(nil, "another interface", map[netip.Addr]bool{vip4: true})
}

func TestBounds(t *testing.T) {
	p := newPair(t)
	f := p.open(Options{})
	for i := range MaxGroups {
		must(t, f.Drop(fmt.Sprint(i)))
	}
	if err := f.Drop("one more"); err == nil || err.Error() != `no room to guard group "one more": at most 1024 groups` {
		t.Errorf("error %v", err)
	}
	set(t, f) // forgets those that guard nothing
	set(t, f)
	must(t, f.Drop("one more"))
	if _, err := Open(Options{Hold: -1}); err == nil {
		t.Error("a negative hold is taken")
	}
}

// qdiscs and count count what is on eth0's ingress.
func qdiscs(t *testing.T) (n int) {
	t.Helper()
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	list, err := netlink.QdiscList(l)
	must(t, err)
	for _, q := range list {
		if q.Type() == "clsact" {
			n++
		}
	}
	return n
}

func count(t *testing.T) int {
	t.Helper()
	l, err := netlink.LinkByName("eth0")
	must(t, err)
	list, err := netlink.FilterList(l, netlink.HANDLE_MIN_INGRESS)
	must(t, err)
	return len(list)
}
