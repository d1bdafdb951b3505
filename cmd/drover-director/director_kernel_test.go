//go:build kernel

package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

func TestMain(m *testing.M) {
	for _, module := range []string{"ip_vs", "veth", "bridge", "nlmon", "ipv6"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			panic("modprobe " + module + ": " + string(out))
		}
	}
	os.Exit(m.Run())
}

// host is a network namespace for a director: eth0 with 192.0.2.2/24, the other end of whose cable is a
// client with 192.0.2.1/24 in a namespace of its own.
type host struct {
	t      *testing.T
	ns     netns.NsHandle
	client netns.NsHandle
	dir    string
	config string
	socket string
	k      *kernel.Kernel // of somebody else
	tap    *tap
}

// newHost leaves the calling thread in the director's namespace.
func newHost(t *testing.T) *host {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	h := &host{t: t, dir: t.TempDir()}
	h.config, h.socket = filepath.Join(h.dir, "d.yaml"), filepath.Join(h.dir, "d.sock")
	var err error
	h.client, err = netns.New()
	check(err)
	t.Cleanup(func() { h.client.Close() })
	up := func(name, addr string) {
		t.Helper()
		l, err := netlink.LinkByName(name)
		check(err)
		if addr != "" {
			a, err := netlink.ParseAddr(addr)
			check(err)
			check(netlink.AddrAdd(l, a))
		}
		check(netlink.LinkSetUp(l))
	}
	h.ns, err = netns.New()
	check(err)
	t.Cleanup(func() { h.ns.Close() })
	check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer0", PeerNamespace: netlink.NsFd(h.client)}))
	up("lo", "")
	up("eth0", "192.0.2.2/24")
	check(netns.Set(h.client))
	up("peer0", "192.0.2.1/24")
	check(netns.Set(h.ns))
	h.k, err = kernel.Open(context.Background(), nil)
	check(err)
	t.Cleanup(func() { h.k.Close() })
	h.tap = newTap(t)
	return h
}

// tap counts what reaches the kernel's IPVS, whoever sends it: an interface of type nlmon shows every
// netlink message of the namespace.
type tap struct {
	t      *testing.T
	fd     int
	family uint16

	writes   int
	removals int // of services and real servers, since the beginning
}

func newTap(t *testing.T) *tap {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "nlmon0"}, LinkType: "nlmon"}); err != nil {
		t.Fatal(err)
	}
	l, err := netlink.LinkByName("nlmon0")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	f, err := netlink.GenlFamilyGet("IPVS")
	if err != nil {
		t.Fatal(err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // network byte order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 128<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}),
	); err != nil {
		t.Fatal(err)
	}
	return &tap{t: t, fd: fd, family: f.ID}
}

// count returns how many commands that change the table have been seen since the last call.
func (p *tap) count() int {
	p.t.Helper()
	// enum of include/uapi/linux/ip_vs.h: the GETs change nothing.
	const getService, getDest, getDaemon, getConfig, getInfo = 4, 8, 11, 13, 15
	const delService, delDest, flush = 3, 7, 17
	b := make([]byte, 1<<20)
	for {
		n, from, err := unix.Recvfrom(p.fd, b, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			p.t.Fatal(err)
		}
		protocol := from.(*unix.SockaddrLinklayer).Protocol
		if protocol>>8|protocol<<8 != unix.NETLINK_GENERIC {
			continue
		}
		for m := b[:n]; len(m) >= 20; {
			size := int(binary.NativeEndian.Uint32(m))
			if size < 16 || size > len(m) {
				break
			}
			typ, flags := binary.NativeEndian.Uint16(m[4:]), binary.NativeEndian.Uint16(m[6:])
			if typ == p.family && flags&unix.NLM_F_REQUEST != 0 && !slices.Contains([]byte{getService, getDest, getDaemon, getConfig, getInfo}, m[16]) {
				p.writes++
				if slices.Contains([]byte{delService, delDest, flush}, m[16]) {
					p.removals++
				}
			}
			m = m[min((size+3)&^3, len(m)):]
		}
	}
	if st, err := unix.GetsockoptTpacketStats(p.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || st.Drops != 0 {
		p.t.Fatalf("the tap lost messages: %+v, %v", st, err)
	}
	n := p.writes
	p.writes = 0
	return n
}

// write makes text the configuration; director: gets the socket of this host.
func (h *host) write(text string) {
	h.t.Helper()
	write(h.t, h.config, strings.Replace(text, "director: {", "director: {socket: "+h.socket+", ", 1))
}

// want is the table that the configuration asks for.
func (h *host) want() plan.State {
	h.t.Helper()
	f, err := spec.Load(h.config)
	if err != nil {
		h.t.Fatal(err)
	}
	return plan.Want(&f.Spec)
}

func (h *host) services() []ipvs.ServiceEntry {
	h.t.Helper()
	s, err := h.k.Services(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	return s
}

// differs says what would have to be done for the table to be the wanted one and the strangers.
func (h *host) differs(strangers ...plan.Service) string {
	h.t.Helper()
	want := plan.NewState(append(h.want().Services, strangers...))
	return plan.Diff(want, plan.StateOf(h.services()), plan.Owner(spec.OwnAll, nil)).String()
}

// lifetime of a VIP on eth0; ok is false when it is not there.
func (h *host) lifetime(addr string) (life time.Duration, ok bool) {
	h.t.Helper()
	list, err := h.k.Addresses(context.Background())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, a := range list {
		if a.Prefix.Addr().String() == addr {
			return a.Lifetime, true
		}
	}
	return 0, false
}

func (h *host) hand(cs ...ipvs.Command) {
	h.t.Helper()
	for _, err := range h.k.Apply(context.Background(), cs) {
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *host) eventually(what string, within time.Duration, ok func() bool) {
	h.t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// process is a running drover-director.
type process struct {
	h    *host
	cmd  *exec.Cmd
	done chan struct{}

	mu   sync.Mutex
	log  bytes.Buffer
	told []string // by sd_notify
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

func (p *process) wasTold(prefix string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.told {
		if strings.HasPrefix(s, prefix) {
			n++
		}
	}
	return n
}

// start runs drover-director in the host's namespace.
func (h *host) start(args ...string) *process {
	h.t.Helper()
	return h.startAs(nil, args...)
}

func (h *host) startAs(wrap []string, args ...string) *process {
	h.t.Helper()
	p := &process{h: h, done: make(chan struct{})}
	path := filepath.Join(h.dir, fmt.Sprintf("notify%d", rand.Uint32()))
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		h.t.Fatal(err)
	}
	argv := append(slices.Clone(wrap), os.Args[0], "--config", h.config, "--state-dir", h.dir+"/state")
	argv = append(argv, args...)
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append(os.Environ(), "DROVER_TEST_DIRECTOR=1", "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=2000000")
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil { // a child of this thread, and so in its namespace
		h.t.Fatal(err)
	}
	go func() {
		b := make([]byte, 4096)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			p.mu.Lock()
			p.told = append(p.told, string(b[:n]))
			p.mu.Unlock()
		}
	}()
	go func() {
		_ = p.cmd.Wait()
		c.Close()
		close(p.done)
	}()
	h.t.Cleanup(p.kill)
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) ready() *process {
	p.h.t.Helper()
	p.h.eventually("the director is ready", 20*time.Second, func() bool {
		if p.ended() {
			p.h.t.Fatalf("the director has ended:\n%s", p.text())
		}
		return p.wasTold("READY=1") > 0
	})
	return p
}

func (p *process) signal(s os.Signal) {
	p.h.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.h.t.Fatal(err)
	}
}

// wait returns the exit status.
func (p *process) wait() int {
	p.h.t.Helper()
	p.h.eventually("the director ends", 20*time.Second, p.ended)
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// get asks the status socket.
func (h *host) get(path string) []byte {
	h.t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", h.socket)
	}}}
	resp, err := client.Get("http://director" + path)
	if err != nil {
		h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		h.t.Fatalf("%s, %v: %s", resp.Status, err, b)
	}
	return b
}

type status struct {
	Healthy bool
	Summary string
	File    struct{ Rejected string }
	VIPs    []struct{ Address, Interface, State string }
	Writes  struct{ Messages int }
	Errors  []struct{ Error string }
	Pending struct{ Ops []any }
	Want    []struct{ Service string }
	Have    []struct{ Service string }
	Sysctls []struct{ Key, Value, Reason string }
}

func (h *host) status() (st status) {
	h.t.Helper()
	if err := json.Unmarshal(h.get("/v1/status"), &st); err != nil {
		h.t.Fatal(err)
	}
	return st
}

func (h *host) sysctl(key string) string {
	h.t.Helper()
	b, err := os.ReadFile("/proc/thread-self/root/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

const small = `
director: {interface: eth0, reconcile_interval: 500ms, vip_lifetime: 2s}
vips: [192.0.2.10]
services:
- {address: 192.0.2.10, port: 80, scheduler: rr, real_servers: [{address: 192.0.2.11, weight: 5}, {address: 192.0.2.12, weight: 5}]}
- {address: 192.0.2.10, port: 443, scheduler: mh, scheduler_flags: [mh-fallback], real_servers: [192.0.2.11, 192.0.2.12]}
`

var (
	vip    = netip.MustParseAddr("192.0.2.10")
	webKey = ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: vip, Port: 80}

	stranger = plan.Service{
		Service: ipvs.Service{Key: ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("198.51.100.1"), Port: 25}, Scheduler: "rr", Netmask: 32},
		Servers: []ipvs.Destination{{DestKey: ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.99"), Port: 25}, Forward: ipvs.DirectRoute, Weight: 1}},
	}
	addStranger = []ipvs.Command{ipvs.NewService(stranger.Service), ipvs.NewDest(stranger.Key, stranger.Servers[0])}
)

// large is a spec whose programming takes long enough to be hit in the middle of it.
func large(services int, weight int) string {
	var b strings.Builder
	b.WriteString("director: {interface: eth0, vip_lifetime: 30s}\nvips: [192.0.2.10]\nservices:\n")
	for i := range services {
		scheduler := [...]string{"wlc", "rr", "mh, scheduler_flags: [mh-fallback]"}[i%3]
		fmt.Fprintf(&b, "- {address: 192.0.2.10, port: %d, scheduler: %s, real_servers: [", 1000+i, scheduler)
		for j := range 8 {
			fmt.Fprintf(&b, "{address: 10.1.%d.%d, weight: %d}, ", i%200, j+1, weight)
		}
		b.WriteString("]}\n")
	}
	return b.String()
}

// A kernel without IPVS: one clear line, and no VIP. It is the first test, because the module can only
// be unloaded while no namespace uses it.
func TestNoIPVS(t *testing.T) {
	h := newHost(t)
	h.k.Close()
	// Neither the kernel nor the program finds the module.
	old, err := os.ReadFile("/proc/sys/kernel/modprobe")
	if err != nil {
		t.Fatal(err)
	}
	unload(t)
	write(t, "/proc/sys/kernel/modprobe", "/bin/false")
	defer func() {
		write(t, "/proc/sys/kernel/modprobe", string(old))
		if out, err := exec.Command("modprobe", "ip_vs").CombinedOutput(); err != nil {
			t.Fatalf("modprobe ip_vs: %s", out)
		}
	}()
	h.write(small)
	p := h.startAs([]string{"env", "PATH=/nonexistent"})
	if code := p.wait(); code != exitFailed || !strings.Contains(p.text(), "ip_vs") || strings.Count(p.text(), "\n") != 1 {
		t.Errorf("exit status %d:\n%s", code, p.text())
	}
	t.Log(strings.TrimSpace(p.text()))
	time.Sleep(100 * time.Millisecond)
	list, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		if a.IP.Equal(net.IP(vip.AsSlice())) {
			t.Error("there is a VIP")
		}
	}
}

// unload removes all modules of IPVS.
func unload(t *testing.T) {
	t.Helper()
	for range 50 {
		b, err := os.ReadFile("/proc/modules")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte("ip_vs")) {
			return
		}
		for line := range strings.Lines(string(b)) {
			if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "ip_vs") {
				_ = unix.DeleteModule(name, unix.O_NONBLOCK) // those that are needed still, the next time
			}
		}
		time.Sleep(100 * time.Millisecond) // namespaces of earlier tests are on their way out
	}
	t.Fatal("the modules of IPVS cannot be unloaded")
}

var (
	kills = flag.Int("kills", 8, "how often the director is killed at a random moment")
	oneIn = flag.Int("one-in", 4, "start the director with each n-th bad file")
)

// Killed at any moment and started again: the table is right, what was right is not written again, the
// stranger is left alone, and the VIP stays.
func TestKilledAtRandomMoments(t *testing.T) {
	h := newHost(t)
	h.hand(addStranger...)
	h.write(large(300, 1))
	h.tap.count()
	h.start().ready().kill()
	if n, want := h.tap.count(), 300+300*8+100; n != want { // 100 services of mh get their scheduler at the end
		t.Errorf("the tap saw %d writes at first, want %d", n, want)
	}
	h.k.Changes()

	specs := []string{large(300, 1), large(300, 2), large(200, 1), large(300, 1)}
	unchanged, midway := 0, 0
	for round := range *kills {
		if round%2 == 0 { // every other time nothing has changed
			h.write(specs[rand.IntN(len(specs))])
		}
		equal := h.differs(stranger) == ""
		before := h.differs(stranger)
		h.tap.count()
		p := h.start()
		if round%4 == 3 {
			p.ready()
		} else {
			time.Sleep(time.Duration(rand.IntN(1200)) * time.Millisecond)
		}
		p.kill()
		n := h.tap.count()
		after := h.differs(stranger)
		switch {
		case equal:
			unchanged++
			if n != 0 {
				t.Errorf("round %d: %d writes to a table that was right", round, n)
			}
		case after != "" && after != before:
			midway++
		}
		if equal && after != "" {
			t.Errorf("round %d: a table that was right is wrong:\n%s", round, after)
		}
	}
	h.start().ready()
	if d := h.differs(stranger); d != "" {
		t.Errorf("the table is wrong in the end:\n%s", d)
	}
	if st := h.status(); !st.Healthy {
		t.Errorf("status: %+v", st)
	}
	if c := h.k.Changes(); c.Lost || len(c.Removed) != 0 {
		t.Errorf("the VIP left in between: %+v", c)
	}
	t.Logf("%d of %d starts found a table that was right, %d were killed half way", unchanged, *kills, midway)
	if unchanged < *kills/8 {
		t.Error("too few starts found a table that was right")
	}
}

// The kernel's counters of a service begin anew when it is made again: they prove, independently of any
// count of writes, that a restart left services and servers alone.
func TestCountersSurviveRestarts(t *testing.T) {
	h := newHost(t)
	h.write(strings.Replace(small, "interface: eth0", "interface: eth0, on_stop: keep", 1))
	p := h.start().ready()
	syns := func(n int) {
		t.Helper()
		if err := netns.Set(h.client); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := netns.Set(h.ns); err != nil {
				t.Fatal(err)
			}
		}()
		for range n {
			// Nobody answers behind the director; it is its count of connections that matters. The socket is
			// made by this very thread, and so in the client's namespace.
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: vip.As4()}); !errors.Is(err, unix.EINPROGRESS) {
				t.Fatalf("connect: %v", err)
			}
			defer unix.Close(fd)
		}
	}
	counters := func() (all uint64, each []uint64) {
		for _, s := range h.services() {
			if s.Key == webKey {
				all = s.Stats.Connections
				for _, d := range s.Destinations {
					each = append(each, d.Stats.Connections)
				}
			}
		}
		return all, each
	}
	syns(6)
	h.eventually("six connections are counted", 5*time.Second, func() bool { n, _ := counters(); return n >= 6 })
	all, each := counters()
	for _, end := range []struct {
		name string
		end  func(*process)
	}{
		{"killed", (*process).kill},
		{"killed again", (*process).kill},
		{"stopped under keep", func(p *process) { p.signal(syscall.SIGTERM); p.wait() }},
	} {
		end.end(p)
		h.tap.count()
		p = h.start().ready()
		if n := h.tap.count(); n != 0 {
			t.Errorf("%s: %d writes", end.name, n)
		}
		if n := h.status().Writes.Messages; n != 0 {
			t.Errorf("%s: %d writes by its own count", end.name, n)
		}
		if a, e := counters(); a != all || !slices.Equal(e, each) {
			t.Errorf("%s: counters %d %v, were %d %v", end.name, a, e, all, each)
		}
	}
	p.signal(syscall.SIGHUP)
	h.eventually("reloaded", 5*time.Second, func() bool { return strings.Contains(p.text(), "asked to") })
	syns(2)
	h.eventually("counting goes on", 5*time.Second, func() bool { n, _ := counters(); return n >= all+2 })
}

func TestKilledAndNotRestarted(t *testing.T) {
	h := newHost(t)
	h.write(small)
	p := h.start().ready()
	time.Sleep(3 * time.Second)
	if life, ok := h.lifetime("192.0.2.10"); !ok || life == kernel.Forever {
		t.Fatalf("VIP: %s, %t\n%s", life, ok, p.text())
	}
	p.kill()
	begin := time.Now()
	h.eventually("the VIP leaves", 2*time.Second+time.Second/2, func() bool { _, ok := h.lifetime("192.0.2.10"); return !ok })
	t.Logf("the VIP left %s after SIGKILL, lifetime 2s", time.Since(begin).Round(10*time.Millisecond))
	if d := h.differs(); d != "" {
		t.Errorf("the table changed:\n%s", d)
	}
}

// A process that is stopped loses the VIP, and takes it back when it goes on.
func TestSuspended(t *testing.T) {
	h := newHost(t)
	h.write(small)
	p := h.start().ready()
	p.signal(syscall.SIGSTOP)
	h.eventually("the VIP leaves", 3*time.Second, func() bool { _, ok := h.lifetime("192.0.2.10"); return !ok })
	p.signal(syscall.SIGCONT)
	h.eventually("the VIP is back", time.Second, func() bool { _, ok := h.lifetime("192.0.2.10"); return ok })
	h.eventually("it is told", time.Second, func() bool {
		return strings.Contains(p.text(), "VIP was removed from the interface by somebody else")
	})
}

func TestReload(t *testing.T) {
	h := newHost(t)
	h.write(small)
	p := h.start().ready()
	h.tap.count()
	logged := func(s string) int { return strings.Count(p.text(), s) }

	// One weight, written in place: one message.
	h.write(strings.Replace(small, "weight: 5", "weight: 6", 1))
	h.eventually("the weight changes", 5*time.Second, func() bool { return h.differs() == "" })
	if n := h.tap.count(); n != 1 {
		t.Errorf("%d writes", n)
	}
	// Unchanged, by rename and by signal: nothing.
	h.write(strings.Replace(small, "weight: 5", "weight: 6", 1))
	h.eventually("reload", 5*time.Second, func() bool { return logged("the file changed") == 2 })
	p.signal(syscall.SIGHUP)
	h.eventually("reload", 5*time.Second, func() bool { return logged("asked to") == 1 })
	h.status()
	if n := h.tap.count(); n != 0 {
		t.Errorf("%d writes", n)
	}

	// Every bad file keeps the old spec and says why.
	good, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	before := p.text()
	for i, bad := range files(t, "bad") {
		b, err := os.ReadFile(bad)
		if err != nil {
			t.Fatal(err)
		}
		next := h.config + ".next"
		write(t, next, string(b))
		if err := os.Rename(next, h.config); err != nil {
			t.Fatal(err)
		}
		p.signal(syscall.SIGHUP)
		h.eventually(bad+" is refused", 5*time.Second, func() bool { return logged("the new file is not taken") > i })
	}
	if !strings.HasPrefix(h.status().File.Rejected, h.config+":") {
		t.Errorf("status: %q", h.status().File.Rejected)
	}
	if err := os.WriteFile(h.config, good, 0o644); err != nil {
		t.Fatal(err)
	}
	h.eventually("the good file is taken", 5*time.Second, func() bool { return h.status().File.Rejected == "" })
	if d, n := h.differs(), h.tap.count(); d != "" || n != 0 {
		t.Errorf("%d writes, table:\n%s\nlog:\n%s", n, d, strings.TrimPrefix(p.text(), before))
	}
}

func TestBadFileAtStart(t *testing.T) {
	h := newHost(t)
	h.hand(addStranger...)
	list := files(t, "bad")
	h.tap.count()
	// Which ones differs from run to run; all of them are read by the unit tests.
	begun := 0
	for i := rand.IntN(*oneIn); i < len(list); i += *oneIn {
		bad := list[i]
		begun++
		b, err := os.ReadFile(bad)
		if err != nil {
			t.Fatal(err)
		}
		write(t, h.config, string(b))
		p := h.start()
		if code := p.wait(); code != exitUsage || !strings.Contains(p.text(), h.config+":") {
			t.Errorf("%s: exit status %d:\n%s", bad, code, p.text())
		}
	}
	if n := h.tap.count(); n != 0 {
		t.Errorf("%d writes", n)
	}
	if _, ok := h.lifetime("192.0.2.10"); ok {
		t.Error("there is a VIP")
	}
	if _, err := os.Stat(h.dir + "/state"); err == nil {
		t.Error("there is a state directory")
	}
	t.Logf("started with %d of %d bad files", begun, len(list))
}

func TestStop(t *testing.T) {
	const expire = "net.ipv4.vs.expire_nodest_conn"
	for _, tc := range []struct {
		onStop string
		signal os.Signal
	}{{"release", syscall.SIGTERM}, {"release", os.Interrupt}, {"keep", syscall.SIGTERM}} {
		t.Run(fmt.Sprint(tc.onStop, " ", tc.signal), func(t *testing.T) {
			h := newHost(t)
			h.hand(addStranger...)
			h.write(strings.Replace(small, "interface: eth0", "interface: eth0, on_stop: "+tc.onStop, 1))
			if got := h.sysctl(expire); got != "0" {
				t.Fatalf("%s=%s", expire, got)
			}
			p := h.start().ready()
			if got := h.sysctl(expire); got != "1" {
				t.Errorf("%s=%s", expire, got)
			}
			p.signal(tc.signal)
			if code := p.wait(); code != 0 {
				t.Errorf("exit status %d:\n%s", code, p.text())
			}
			if p.wasTold("STOPPING=1") != 1 {
				t.Errorf("told %q", p.told)
			}
			life, there := h.lifetime("192.0.2.10")
			if tc.onStop == "keep" {
				if d := h.differs(stranger); d != "" || !there || life != kernel.Forever || h.sysctl(expire) != "1" {
					t.Errorf("not kept: VIP %t %s, %s=%s, table:\n%s", there, life, expire, h.sysctl(expire), d)
				}
				return
			}
			if n := len(h.services()); n != 1 || there || h.sysctl(expire) != "0" {
				t.Errorf("not released: %d services, VIP %t, %s=%s", n, there, expire, h.sysctl(expire))
			}
			left, err := os.ReadDir(h.dir + "/state")
			if err != nil || len(left) != 1 || left[0].Name() != "director.lock" {
				t.Errorf("state left: %v, %v", left, err)
			}
			if _, err := os.Lstat(h.socket); err == nil {
				t.Error("the socket is left")
			}
		})
	}
}

func TestSecondSignal(t *testing.T) {
	h := newHost(t)
	h.write(small)
	p := h.start().ready()
	p.signal(syscall.SIGSTOP) // so that both are there before it can act
	p.signal(syscall.SIGTERM)
	p.signal(syscall.SIGINT)
	p.signal(syscall.SIGCONT)
	if code := p.wait(); code != exitFailed && code != exitOK {
		t.Errorf("exit status %d:\n%s", code, p.text())
	}
}

func TestOneDirectorOnly(t *testing.T) {
	h := newHost(t)
	h.write(small)
	first := h.start().ready()
	second := h.start()
	if code := second.wait(); code != exitFailed || !strings.Contains(second.text(), fmt.Sprintf("process %d holds", first.cmd.Process.Pid)) {
		t.Errorf("exit status %d:\n%s", code, second.text())
	}
	if st := h.status(); !st.Healthy {
		t.Errorf("the first one: %+v", st)
	}
}

func TestSystemd(t *testing.T) {
	h := newHost(t)
	h.write(small)
	p := h.start().ready()
	if n := p.wasTold("STATUS=1 of 1 VIPs held, 2 services, 4 real servers"); n != 1 {
		t.Errorf("told %q", p.told)
	}
	n := p.wasTold("WATCHDOG=1")
	time.Sleep(2 * time.Second)
	if m := p.wasTold("WATCHDOG=1") - n; m < 2 {
		t.Errorf("the watchdog was fed %d times in its time", m)
	}
	p.signal(syscall.SIGHUP)
	h.eventually("reloading is told", 5*time.Second, func() bool { return p.wasTold("RELOADING=1") == 1 && p.wasTold("READY=1") == 2 })
}

func TestStatusAndMetrics(t *testing.T) {
	h := newHost(t)
	h.hand(addStranger...)
	h.write(small)
	h.start().ready()
	if fi, err := os.Stat(h.socket); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("%v, %v", fi, err)
	}
	st := h.status()
	if !st.Healthy || len(st.VIPs) != 1 || st.VIPs[0].State != "held" || st.VIPs[0].Address != "192.0.2.10/32" ||
		len(st.Want) != 2 || len(st.Have) != 3 || st.Writes.Messages != 7 || len(st.Pending.Ops) != 0 || len(st.Sysctls) != 3 {
		t.Errorf("status: %+v", st)
	}
	text := string(h.get("/metrics"))
	for _, line := range []string{
		`drover_director_ipvs_write_messages_total 7`,
		`drover_director_ipvs_changes_total{kind="add-server",result="done"} 4`,
		`drover_director_vip_held{interface="eth0",vip="192.0.2.10/32"} 1`,
		`drover_director_strangers 1`,
		`drover_director_real_servers 4`,
		`drover_director_ipvs_reachable 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no %s in:\n%s", line, text)
		}
	}
}

// As the service unit runs it: root without any right but two.
func TestWithFewRights(t *testing.T) {
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Fatal("setpriv is missing (Debian package util-linux)")
	}
	h := newHost(t)
	h.write(strings.Replace(small, "vips: [192.0.2.10]", "vips: [192.0.2.10/24]", 1))
	caps := "-all,+net_admin,+net_raw"
	p := h.startAs([]string{"setpriv", "--bounding-set", caps, "--inh-caps", caps, "--no-new-privs"}).ready()
	if st := h.status(); !st.Healthy {
		t.Errorf("status: %+v\n%s", st, p.text())
	}
	if d := h.differs(); d != "" {
		t.Errorf("table:\n%s\n%s", d, p.text())
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 || len(h.services()) != 0 {
		t.Errorf("exit status %d:\n%s", code, p.text())
	}
	if strings.Contains(p.text(), "level=ERROR") || strings.Contains(p.text(), "level=WARN") {
		t.Errorf("log:\n%s", p.text())
	}
	// Without them it says which.
	p = h.startAs([]string{"setpriv", "--bounding-set", "-all", "--inh-caps", "-all"})
	if code := p.wait(); code != exitFailed || !strings.Contains(p.text(), "CAP_NET_ADMIN") {
		t.Errorf("exit status %d:\n%s", code, p.text())
	}
}
