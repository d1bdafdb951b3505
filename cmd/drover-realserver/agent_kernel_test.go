//go:build kernel

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/arp"
	"github.com/drover-lb/drover/arp/frame"
	"github.com/drover-lb/drover/internal/dump"
	"github.com/drover-lb/drover/lab/topology"
)

const both = "vips: [10.0.0.100, 'fd00::100']\ncheck_interval: 1s\n"

var vips = []netip.Addr{netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("fd00::100")}

// inLab reports whether this is the lab's kernel, which has all that is needed.
func inLab() bool {
	b, _ := os.ReadFile("/proc/cpuinfo")
	return bytes.Contains(b, []byte("User Mode Linux"))
}

// world is a client and a real server on one network.
type world struct {
	t           *testing.T
	client, web *topology.Machine
	config      string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	for _, module := range []string{"veth", "bridge", "dummy", "ipv6", "sch_ingress", "cls_matchall", "act_mirred"} {
		_ = exec.Command("modprobe", module).Run() // built in, or the test says what is missing
	}
	host := func(name, last string) topology.Host {
		return topology.Host{Name: name, Interfaces: []topology.Interface{{Network: "lan", Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.0.0." + last + "/24"), netip.MustParsePrefix("fd00::" + last + "/64")}}}}
	}
	top, err := topology.New([]topology.Network{{Name: "lan"}}, []topology.Host{host("client", "2"), host("web", "11")}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(top.Close)
	w := &world{t: t, client: top.Machine("client"), web: top.Machine("web")}
	w.config = filepath.Join(w.web.Dir, "realserver.yaml")
	write(t, w.config, both)
	// Until the cable's carrier is there and every address is in full use.
	w.eventually("the network is up", func() bool {
		up := true
		for _, m := range top.Machines() {
			w.do(m, func() error {
				l, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				addrs, err := addresses(l)
				up = up && l.Attrs().RawFlags&unix.IFF_RUNNING != 0 && len(addrs) == 3
				for _, a := range addrs {
					up = up && a.Flags&unix.IFA_F_TENTATIVE == 0
				}
				return err
			})
		}
		return up
	})
	return w
}

func (w *world) do(m *topology.Machine, fn func() error) {
	w.t.Helper()
	if err := m.Do(fn); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// process is a running drover-realserver.
type process struct {
	w      *world
	cmd    *exec.Cmd
	notify *net.UnixConn
	done   chan struct{}
	mu     sync.Mutex
	log    bytes.Buffer
	told   []string // by sd_notify
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) said(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Contains(p.log.String(), text)
}

func (p *process) wasTold(text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Contains(p.told, text)
}

func (p *process) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log.Reset()
}

var sockets int

// start starts drover-realserver on the real server.
func (w *world) start(args ...string) *process {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	p := &process{w: w, done: make(chan struct{})}
	sockets++
	path := filepath.Join(w.web.Dir, fmt.Sprintf("notify%d", sockets))
	if p.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := p.notify.Read(b)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.told = append(p.told, string(b[:n]))
			p.mu.Unlock()
		}
	}()
	p.cmd = exec.Command(self, append([]string{"--config", w.config}, args...)...)
	p.cmd.Env = append(os.Environ(), "DROVER_TEST_REALSERVER=1", "NOTIFY_SOCKET="+path)
	p.cmd.Stderr, p.cmd.Stdout = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.web.Start(p.cmd); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		p.notify.Close()
		if w.t.Failed() {
			w.t.Logf("log of process %d:\n%s", p.cmd.Process.Pid, &p.log)
		}
	})
	return p
}

func (p *process) ready() *process {
	p.w.t.Helper()
	p.w.eventually("the agent is ready", func() bool { return p.wasTold("READY=1") })
	return p
}

// end signals the process and returns its exit status; -1 when it was killed.
func (p *process) end(s syscall.Signal) int {
	p.w.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.w.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.w.t.Fatalf("it has not ended 20 s after signal %s", s)
	}
	return p.cmd.ProcessState.ExitCode()
}

// snapshot is all addresses and all settings of interfaces of the real server.
func (w *world) snapshot() string {
	w.t.Helper()
	var b strings.Builder
	w.do(w.web, func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			addrs, err := addresses(l)
			if err != nil {
				return err
			}
			for _, a := range addrs {
				fmt.Fprintf(&b, "%s %s scope %d flags %#x label %q preferred %d\n", l.Attrs().Name, a.IPNet, a.Scope, a.Flags, a.Label, a.PreferedLft)
			}
		}
		for _, dir := range []string{"/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"} {
			err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				v, err := os.ReadFile(path)
				if err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EIO) { // stable_secret
					return err
				}
				fmt.Fprintf(&b, "%s=%s", path, v)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return b.String()
}

func (w *world) same(before string) {
	w.t.Helper()
	after := w.snapshot()
	if before == after {
		return
	}
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range old {
		if !slices.Contains(now, l) {
			w.t.Errorf("was, and is not: %s", l)
		}
	}
	for _, l := range now {
		if !slices.Contains(old, l) {
			w.t.Errorf("is, and was not: %s", l)
		}
	}
	if !w.t.Failed() {
		w.t.Error("the order has changed")
	}
}

func addrOf(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: unix.IFA_F_NODAD}
}

func (w *world) address(dev string, a netip.Addr, add bool) {
	w.t.Helper()
	w.do(w.web, func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		if add {
			return netlink.AddrAdd(l, addrOf(a))
		}
		return netlink.AddrDel(l, addrOf(a))
	})
}

func (w *world) has(dev string, a netip.Addr) (found bool) {
	w.t.Helper()
	w.do(w.web, func() error {
		l, err := netlink.LinkByName(dev)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil
		}
		if err != nil {
			return err
		}
		list, err := addresses(l)
		for _, have := range list {
			found = found || have.IPNet.IP.Equal(a.AsSlice())
		}
		return err
	})
	return found
}

func (w *world) set(name, value string) {
	w.t.Helper()
	w.do(w.web, func() error { return os.WriteFile("/proc/sys/net/"+name, []byte(value), 0) })
}

func (w *world) get(name string) (value string) {
	w.t.Helper()
	w.do(w.web, func() error {
		b, err := os.ReadFile("/proc/sys/net/" + name)
		value = strings.TrimSpace(string(b))
		return err
	})
	return value
}

// on runs fn on a thread of its own in the network namespace of m.
func (w *world) on(m *topology.Machine, fn func()) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends here
		ns, err := netns.GetFromPath(m.Namespaces()["net"])
		if err != nil {
			w.t.Error(err)
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			w.t.Error(err)
			return
		}
		fn()
	}()
	return done
}

// ask probes from the client for the VIP until the returned function is called, which tells how
// often it asked and what claims it heard.
func (w *world) ask(a netip.Addr, every time.Duration) (stop func() (asked int, claims []string)) {
	ctx, cancel := context.WithCancel(context.Background())
	var claims []string
	var res arp.Result
	done := w.on(w.client, func() {
		p := arp.Prober{Interval: every, Notify: func(mac frame.MAC, kind frame.Kind, after time.Duration) {
			claims = append(claims, fmt.Sprintf("%s by %s after %s", kind, mac, after))
		}}
		var err error
		if res, err = p.Probe(ctx, "eth0", a, time.Hour); err != nil {
			w.t.Error(err)
		}
	})
	return func() (int, []string) {
		cancel()
		<-done
		return res.Asked, claims
	}
}

// asked probes for a moment and returns the number of claims.
func (w *world) answers(a netip.Addr) int {
	w.t.Helper()
	stop := w.ask(a, 20*time.Millisecond)
	time.Sleep(200 * time.Millisecond)
	asked, claims := stop()
	if asked == 0 {
		w.t.Error("the prober has not asked")
	}
	return len(claims)
}

// reach makes the real server answer the client from the VIP, when it has forgotten where the client is:
// then it asks by ARP first, and must not name the VIP as the sender.
func (w *world) reach(a netip.Addr) error {
	client := netip.MustParseAddr("10.0.0.2")
	if a.Is6() {
		client = netip.MustParseAddr("fd00::2")
	}
	w.do(w.client, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		if err := netlink.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: a.AsSlice(), HardwareAddr: w.web.MACs[0], State: netlink.NUD_PERMANENT}); err != nil {
			return err
		}
		// To the VIP by this cable, as a director would send it.
		return netlink.RouteReplace(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: addrOf(a).IPNet})
	})
	w.do(w.web, func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		err = netlink.NeighDel(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: client.AsSlice()})
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
	var err error
	<-w.on(w.client, func() {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", netip.AddrPortFrom(a, 9).String(), 3*time.Second); err == nil {
			c.Close()
		}
	})
	return err // refused, by the kernel of the real server, if all went well
}

func TestSilentAtEveryMoment(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	stop4, stop6 := w.ask(vips[0], time.Millisecond), w.ask(vips[1], time.Millisecond)
	for round := range 5 {
		p := w.start().ready()
		for _, a := range vips {
			if err := w.reach(a); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("round %d: connecting to %s: %v, want it refused by the real server", round, a, err)
			}
		}
		if status := p.end(syscall.SIGTERM); status != 0 {
			t.Errorf("exit status %d", status)
		}
		w.same(before)
	}
	for i, stop := range []func() (int, []string){stop4, stop6} {
		asked, claims := stop()
		t.Logf("%s: %d questions", vips[i], asked)
		if asked < 100 || len(claims) > 0 {
			t.Errorf("%s: %d questions were answered %d times: %q", vips[i], asked, len(claims), claims)
		}
	}

	// That this test would notice: without the agent, by hand.
	w.address("lo", vips[0], true)
	if w.answers(vips[0]) == 0 {
		t.Error("a host with the VIP on lo and without the settings did not answer")
	}
	stop := w.ask(vips[0], time.Hour)
	time.Sleep(200 * time.Millisecond) // its one question teaches the host where the client is; then reach makes it forget
	_ = w.reach(vips[0])
	if _, claims := stop(); !slices.ContainsFunc(claims, func(s string) bool { return strings.HasPrefix(s, "question by") }) {
		t.Errorf("a host without the settings did not name the VIP in its ARP requests: %q", claims)
	}
}

func TestRestoresExactly(t *testing.T) {
	w := newWorld(t)
	// Odd values, and a VIP that is there already in a form that is not ours.
	w.set("ipv4/conf/all/arp_ignore", "2")
	w.set("ipv4/conf/all/arp_announce", "1")
	w.set("ipv4/conf/eth0/arp_announce", "1")
	w.address("lo", vips[0], true)
	before := w.snapshot()
	p := w.start().ready()
	if w.get("ipv4/conf/all/arp_ignore") != "2" || w.get("ipv4/conf/all/arp_announce") != "2" || !w.has("lo", vips[1]) {
		t.Errorf("arp_ignore %s, arp_announce %s", w.get("ipv4/conf/all/arp_ignore"), w.get("ipv4/conf/all/arp_announce"))
	}
	if status := p.end(syscall.SIGINT); status != 0 {
		t.Errorf("exit status %d", status)
	}
	w.same(before)

	// Somebody's third value is left.
	p = w.start().ready()
	w.set("ipv4/conf/all/arp_ignore", "3")
	p.end(syscall.SIGTERM)
	if v := w.get("ipv4/conf/all/arp_ignore"); v != "3" || !p.said("setting not put back") {
		t.Errorf("arp_ignore is %s", v)
	}
}

// Killed at any moment, and its successor stopped: everything is as it was before the first.
func TestKilledAndRestarted(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	stop := w.ask(vips[0], time.Millisecond)
	for round := range 8 {
		p := w.start()
		// From before the first write to long after the last.
		time.Sleep(time.Duration(round*round) * 4 * time.Millisecond)
		p.end(syscall.SIGKILL)
	}
	w.start().ready().end(syscall.SIGKILL)
	if !w.has("lo", vips[0]) || w.get("ipv4/conf/all/arp_ignore") != "1" {
		t.Error("a killed agent has not left the VIP serving")
	}
	p := w.start().ready()
	if p.said("VIP bound") || p.said("setting made") {
		t.Error("the successor did again what was done")
	}
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
	w.same(before)
	if asked, claims := stop(); len(claims) > 0 {
		t.Errorf("%d questions were answered: %q", asked, claims)
	}
}

func TestRepairs(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	write(t, w.config, "vips: [10.0.0.100, 'fd00::100']\ncheck_interval: 1h\n") // so that only notifications help
	p := w.start().ready()
	for _, s := range []struct{ name, broken, want string }{{"ipv4/conf/all/arp_ignore", "0", "1"}, {"ipv4/conf/all/arp_announce", "0", "2"}} {
		start := time.Now()
		w.set(s.name, s.broken)
		w.eventually(s.name+" is repaired", func() bool { return w.get(s.name) == s.want })
		t.Logf("%s was repaired within %s", s.name, time.Since(start))
	}
	for _, a := range vips {
		start := time.Now()
		w.address("lo", a, false)
		w.eventually(a.String()+" is put back", func() bool { return w.has("lo", a) })
		t.Logf("%s was put back within %s", a, time.Since(start))
	}
	// A VIP by hand on eth0 breaks silence: the agent gives up its own, and says why.
	for _, a := range vips {
		w.address("eth0", a, true)
		w.eventually(a.String()+" is off lo", func() bool { return !w.has("lo", a) })
		w.eventually(a.String()+": the log names the interface", func() bool {
			return p.said(fmt.Sprintf("level=WARN msg=\"VIP is also on an interface where this host answers for it; it cannot be silent there\" address=%s interface=eth0", a))
		})
		if w.answers(a) == 0 {
			t.Errorf("%s: the host does not answer: this test tests nothing", a)
		}
		w.address("eth0", a, false)
		w.eventually(a.String()+" is back on lo", func() bool { return w.has("lo", a) })
		w.eventually(a.String()+" is silent again", func() bool { return p.said(fmt.Sprintf("msg=\"VIP bound\" address=%s", a)) })
		if n := w.answers(a); n != 0 {
			t.Errorf("%s: answered %d times", a, n)
		}
		p.forget()
	}
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
	w.same(before)
}

// What no setting and no address shows, the proof finds: here a proxy neighbour entry.
func TestProofFindsWhatSettingsDoNotShow(t *testing.T) {
	w := newWorld(t)
	w.set("ipv6/conf/all/forwarding", "1")
	w.set("ipv6/conf/eth0/proxy_ndp", "1")
	proxy := func(add bool) {
		w.do(w.web, func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			n := &netlink.Neigh{LinkIndex: l.Attrs().Index, Family: unix.AF_INET6, IP: vips[1].AsSlice(), Flags: netlink.NTF_PROXY}
			if add {
				return netlink.NeighAdd(n)
			}
			return netlink.NeighDel(n)
		})
	}
	proxy(true)
	p := w.start()
	w.eventually("the proof fails", func() bool {
		return p.said("level=ERROR msg=\"VIP is not kept: this host would answer for it\" address=fd00::100")
	})
	w.eventually("the VIP is off", func() bool { return !w.has("lo", vips[1]) })
	if p.wasTold("READY=1") {
		t.Error("ready, although this host answers for a VIP")
	}
	if !w.has("lo", vips[0]) {
		t.Error("the other VIP suffers for it")
	}
	proxy(false)
	p.ready()
	if !w.has("lo", vips[1]) || w.answers(vips[1]) != 0 {
		t.Error("the VIP is not bound, or answered for")
	}
	p.end(syscall.SIGTERM)
}

func TestReload(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	p := w.start().ready()
	third := netip.MustParseAddr("10.0.0.103")

	write(t, w.config+".new", "vips: [10.0.0.103, 'fd00::100']\n")
	if err := os.Rename(w.config+".new", w.config); err != nil {
		t.Fatal(err)
	}
	w.eventually("the changed file is in force", func() bool { return w.has("lo", third) && !w.has("lo", vips[0]) })

	write(t, w.config, "vips: [10.0.0.103]\ndevcie: lo\n")
	w.eventually("the bad file is refused", func() bool { return p.said("realserver.yaml:2:1: unknown field \\\"devcie\\\"") })
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.eventually("the bad file is refused again", func() bool { return p.said("why=\"asked to\"") })
	if !w.has("lo", third) || !w.has("lo", vips[1]) {
		t.Error("a bad file has changed something")
	}
	write(t, w.config, both)
	w.eventually("the first file is in force again", func() bool { return w.has("lo", vips[0]) && !w.has("lo", third) })
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
	w.same(before)
}

func TestDummyInterface(t *testing.T) {
	w := newWorld(t)
	if err := w.web.Do(func() error {
		d := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "try"}}
		if err := netlink.LinkAdd(d); err != nil {
			return err
		}
		return netlink.LinkDel(d)
	}); err != nil {
		if inLab() {
			t.Fatal(err)
		}
		t.Skipf("no dummy interfaces on this kernel: %v", err)
	}
	before := w.snapshot()
	write(t, w.config, both+"device: dummy\n")
	stop := w.ask(vips[0], time.Millisecond)
	p := w.start().ready()
	for _, a := range vips {
		if err := w.reach(a); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connecting to %s: %v, want it refused by the real server", a, err)
		}
	}
	w.do(w.web, func() error {
		l, err := netlink.LinkByName("drover")
		if err != nil {
			return err
		}
		if addrs, err := addresses(l); err != nil || len(addrs) != len(vips) {
			t.Errorf("the dummy interface has %v, %v", addrs, err)
		}
		return netlink.LinkDel(l)
	})
	w.eventually("the interface and the VIPs are back", func() bool { return w.has("drover", vips[0]) && w.has("drover", vips[1]) })
	p.end(syscall.SIGKILL)
	p = w.start().ready()
	if status := p.end(syscall.SIGTERM); status != 0 {
		t.Errorf("exit status %d", status)
	}
	w.same(before)
	if asked, claims := stop(); len(claims) > 0 {
		t.Errorf("%d questions were answered: %q", asked, claims)
	}
}

func TestKeepsAndTakesOver(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	write(t, w.config, both+"on_stop: keep\n")
	if status := w.start().ready().end(syscall.SIGTERM); status != 0 || !w.has("lo", vips[0]) {
		t.Errorf("exit status %d, or the VIP is gone", status)
	}
	if n := w.answers(vips[0]); n != 0 {
		t.Errorf("answered %d times", n)
	}
	write(t, w.config, both)
	w.start().ready().end(syscall.SIGTERM)
	w.same(before)
}

func TestOneAgentANamespace(t *testing.T) {
	w := newWorld(t)
	p := w.start().ready()
	second := w.start()
	<-second.done
	if second.cmd.ProcessState.ExitCode() != 1 || !second.said(fmt.Sprintf("it runs already: process %d holds", p.cmd.Process.Pid)) {
		t.Errorf("status %d, log %q", second.cmd.ProcessState.ExitCode(), &second.log)
	}
	if !w.has("lo", vips[0]) {
		t.Error("the second has disturbed the first")
	}
	p.end(syscall.SIGTERM)
}

func TestNeedsRights(t *testing.T) {
	w := newWorld(t)
	before := w.snapshot()
	p := w.startAs(65534)
	w.eventually("it says what it lacks", func() bool { return p.said("needs root or CAP_NET_ADMIN") })
	if p.wasTold("READY=1") {
		t.Error("ready")
	}
	p.end(syscall.SIGTERM)
	w.same(before)
}

// startAs starts the agent as another user.
func (w *world) startAs(uid uint32) *process {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "drover-test-")
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { os.RemoveAll(dir) })
	program := filepath.Join(dir, "agent")
	b, err := os.ReadFile(self)
	if err == nil {
		err = errors.Join(os.WriteFile(program, b, 0o755), os.Chmod(dir, 0o777))
	}
	if err != nil {
		w.t.Fatal(err)
	}
	write(w.t, filepath.Join(dir, "c.yaml"), both)
	p := &process{w: w, done: make(chan struct{})}
	p.cmd = exec.Command(program, "--config", filepath.Join(dir, "c.yaml"), "--state", filepath.Join(dir, "run/state.json"))
	p.cmd.Env = append(os.Environ(), "DROVER_TEST_REALSERVER=1")
	p.cmd.Dir = dir
	p.cmd.Stderr = p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	if err := w.web.Start(p.cmd); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	w.t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
	})
	return p
}

// The target is 20 MiB with everything loaded; an idle agent uses next to no time.
func TestMemoryAndTime(t *testing.T) {
	if !inLab() {
		t.Skip("measured in the lab, where the test is not built with the race detector")
	}
	w := newWorld(t)
	p := w.start().ready()
	number := func(file, pattern string) int {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, file))
		if err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(pattern).FindSubmatch(b)
		if m == nil {
			t.Fatalf("%s has no %s", file, pattern)
		}
		n, err := strconv.Atoi(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	const cpu = `\) \S(?: \S+){10} (\d+)` // utime in ticks of 10 ms, proc(5)
	before := number("stat", cpu)
	time.Sleep(5 * time.Second)
	used := number("stat", cpu) - before
	rss := number("status", `VmRSS:\s+(\d+) kB`)
	t.Logf("resident memory %d KiB, %d ms of processor time in 5 s", rss, used*10)
	if rss > 20<<10 {
		t.Errorf("resident memory is %d KiB, at most %d", rss, 20<<10)
	}
	p.end(syscall.SIGTERM)
}

// addresses lists the addresses of an interface.
func addresses(l netlink.Link) ([]netlink.Addr, error) {
	return dump.All(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_ALL) })
}
