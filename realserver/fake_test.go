package realserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/realserver/kernel"
	"github.com/drover-lb/drover/realserver/proof"
	"github.com/drover-lb/drover/sysctl"
)

var (
	vipA = netip.MustParseAddr("10.0.0.100")
	vipB = netip.MustParseAddr("10.0.0.101")
	vip6 = netip.MustParseAddr("2001:db8::100")
)

// host is a fake kernel that answers ARP as the real one does. Settings are files, so that the real
// sysctl.Keeper works on them.
type host struct {
	t   *testing.T
	dir string

	mu       sync.Mutex
	links    map[string]kernel.Link
	addrs    []kernel.Address
	changed  chan struct{}
	trace    []string // what the agent did, in order
	left     int      // operations until the agent is killed; below 0: never
	fail     map[string]error
	stubborn bool   // answers for everything that is on it, for a reason that no setting shows
	cannot   string // why nothing can be proven
	proofs   int
	alarm    []string // moments at which the host answered for a VIP on lo
}

func newHost(t *testing.T) *host {
	h := &host{t: t, dir: t.TempDir(), left: -1, changed: make(chan struct{}, 1), fail: make(map[string]error)}
	h.links = map[string]kernel.Link{
		"lo":   {Index: 1, Type: "device", Running: true},
		"eth0": {Index: 2, Type: "device", Answers: true, Running: true},
	}
	h.set("all/arp_ignore", "0")
	h.set("all/arp_announce", "0")
	h.set("eth0/arp_ignore", "0")
	return h
}

func (h *host) file(name string) string { return filepath.Join(h.dir, "sys/net/ipv4/conf", name) }

// set is somebody changing a setting.
func (h *host) set(name, value string) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Dir(h.file(name)), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(h.file(name), []byte(value+"\n"), 0o644); err != nil {
		h.t.Fatal(err)
	}
	h.wake()
}

func (h *host) get(name string) int {
	b, err := os.ReadFile(h.file(name))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return n
}

func (h *host) wake() {
	select {
	case h.changed <- struct{}{}:
	default:
	}
}

// op is called at the beginning of everything that the agent does to the host. It ends the agent's
// goroutine, as a kill does, when its time has come.
func (h *host) op(format string, args ...any) error {
	s := fmt.Sprintf(format, args...)
	if h.left == 0 {
		runtime.Goexit()
	}
	h.left--
	h.trace = append(h.trace, s)
	return h.fail[s]
}

// watchful notes when the host answers for a VIP: at that moment a client may have asked.
func (h *host) watchful() {
	on := func(a kernel.Address) bool { return a.Device == "lo" && a.Prefix.Addr().Is4() }
	if slices.ContainsFunc(h.addrs, on) && max(h.get("all/arp_ignore"), h.get("eth0/arp_ignore")) == 0 {
		h.alarm = append(h.alarm, fmt.Sprintf("after %s", strings.Join(h.trace, ", ")))
	}
}

func (h *host) Snapshot() (*kernel.Snapshot, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.fail["snapshot"]; err != nil {
		return nil, err
	}
	return &kernel.Snapshot{Links: maps.Clone(h.links), Addresses: slices.Clone(h.addrs)}, nil
}

func (h *host) Changed() <-chan struct{} { return h.changed }

func (h *host) add(dev, prefix string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := netip.MustParsePrefix(prefix)
	h.addrs = append(h.addrs, kernel.Address{Prefix: p, Device: dev, Index: h.links[dev].Index})
	h.wake()
}

func (h *host) del(dev, prefix string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.addrs = slices.DeleteFunc(h.addrs, func(a kernel.Address) bool { return a.Device == dev && a.Prefix.String() == prefix })
	h.wake()
}

func (h *host) link(name string, l kernel.Link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l.Index == 0 {
		delete(h.links, name)
		h.addrs = slices.DeleteFunc(h.addrs, func(a kernel.Address) bool { return a.Device == name })
	} else {
		h.links[name] = l
	}
	h.wake()
}

func (h *host) AddAddress(device string, a netip.Addr) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.op("add %s %s", device, a); err != nil {
		return err
	}
	if _, ok := h.links[device]; !ok {
		return fmt.Errorf("failed to find interface %q", device)
	}
	h.addrs = append(h.addrs, kernel.Address{Prefix: netip.PrefixFrom(a, a.BitLen()), Device: device, Index: h.links[device].Index})
	h.watchful()
	h.wake()
	return nil
}

func (h *host) RemoveAddress(device string, p netip.Prefix) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.op("del %s %s", device, p); err != nil {
		return err
	}
	h.addrs = slices.DeleteFunc(h.addrs, func(a kernel.Address) bool { return a.Device == device && a.Prefix == p })
	h.wake()
	return nil
}

func (h *host) AddDummy(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.op("add interface %s", name); err != nil {
		return err
	}
	h.links[name] = kernel.Link{Index: 50 + len(h.links), Type: "dummy", Running: true}
	return nil
}

func (h *host) RemoveDummy(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.op("del interface %s", name); err != nil {
		return err
	}
	delete(h.links, name)
	h.addrs = slices.DeleteFunc(h.addrs, func(a kernel.Address) bool { return a.Device == name })
	return nil
}

func (h *host) ARPIgnore(link string) (int, error) {
	return max(h.get("all/arp_ignore"), h.get(link+"/arp_ignore")), nil
}

// Prove asks the fake kernel.
func (h *host) Prove(_ context.Context, ifi proof.Interface, addrs []netip.Addr) []proof.Verdict {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.proofs++
	ignore := max(h.get("all/arp_ignore"), h.get(ifi.Name+"/arp_ignore"))
	var out []proof.Verdict
	for _, a := range addrs {
		v := proof.Verdict{Addr: a, Interface: ifi.Name, Result: proof.Silent}
		for _, at := range h.addrs {
			if at.Prefix.Addr() != a {
				continue
			}
			own := at.Index == ifi.Index
			if own || h.stubborn || a.Is4() && ignore == 0 {
				v.Result = proof.Answers
			}
		}
		if h.cannot != "" {
			v.Result, v.Reason = proof.Unproven, h.cannot
		}
		out = append(out, v)
	}
	return out
}

// keeper is the real thing on the fake settings, with its writes in the trace.
type keeper struct {
	*sysctl.Keeper
	h *host
}

func (k keeper) note(cs []sysctl.Change, err error) ([]sysctl.Change, error) {
	k.h.mu.Lock()
	defer k.h.mu.Unlock()
	for _, c := range cs {
		if c.Action == sysctl.Written || c.Action == sysctl.Restored {
			k.h.trace = append(k.h.trace, fmt.Sprintf("set %s %s", c.Key[strings.LastIndex(c.Key, ".")+1:], c.To))
		}
	}
	k.h.watchful()
	return cs, err
}

func (k keeper) begin(what string) error {
	k.h.mu.Lock()
	defer k.h.mu.Unlock()
	if k.h.left == 0 {
		runtime.Goexit()
	}
	k.h.left--
	return k.h.fail[what]
}

func (k keeper) Apply(rows []sysctl.Row) ([]sysctl.Change, error) {
	if err := k.begin("settings"); err != nil {
		return nil, err
	}
	return k.note(k.Keeper.Apply(rows))
}

func (k keeper) Repair() ([]sysctl.Change, error) { return k.note(k.Keeper.Repair()) }

func (k keeper) Restore() ([]sysctl.Change, error) {
	if err := k.begin("restore"); err != nil {
		return nil, err
	}
	return k.note(k.Keeper.Restore())
}

// running is an agent on a fake host.
type running struct {
	t    *testing.T
	h    *host
	a    *Agent
	log  *bytes.Buffer
	stop func() error
}

func config(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start runs an agent on h.
func (h *host) start(t *testing.T, text string) *running {
	t.Helper()
	k, err := sysctl.New(sysctl.Options{State: filepath.Join(h.dir, "run/sysctl.json"), Holder: "realserver", Root: filepath.Join(h.dir, "sys")})
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, h: h, log: new(bytes.Buffer)}
	handler := slog.NewTextHandler(r.log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	r.a, err = New(Options{Kernel: h, Sysctls: keeper{k, h}, Prover: h, State: filepath.Join(h.dir, "run/realserver.json"), Log: slog.New(handler)}, config(t, text))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- r.a.Run(ctx)
	}()
	r.stop = func() error {
		cancel()
		return <-done
	}
	synctest.Wait()
	return r
}

func (r *running) ready(want bool) {
	r.t.Helper()
	select {
	case <-r.a.Ready():
		if !want {
			r.t.Error("ready, but should not be")
		}
	default:
		if want {
			r.t.Errorf("not ready: %+v", r.a.Status())
		}
	}
}

// did checks what the agent did to the host since the last call.
func (r *running) did(want ...string) {
	r.t.Helper()
	synctest.Wait()
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	if !slices.Equal(r.h.trace, want) {
		r.t.Errorf("did\n%s\nwant\n%s", strings.Join(r.h.trace, "\n"), strings.Join(want, "\n"))
	}
	r.h.trace = nil
}

// said checks the log since the last call: the messages, each with as much as want has of it.
func (r *running) said(want ...string) {
	r.t.Helper()
	got := strings.Split(strings.TrimSuffix(r.log.String(), "\n"), "\n")
	r.log.Reset()
	if len(got) == 1 && got[0] == "" {
		got = nil
	}
	ok := len(got) == len(want)
	for i := range min(len(got), len(want)) {
		ok = ok && strings.Contains(got[i], want[i])
	}
	if !ok {
		r.t.Errorf("said\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (r *running) phase(a netip.Addr, want Phase, reason string) {
	r.t.Helper()
	for _, v := range r.a.Status().VIPs {
		if v.Address == a {
			if v.Phase != want || !strings.Contains(v.Reason, reason) || (reason == "") != (v.Reason == "") {
				r.t.Errorf("%s is %s (%s), want %s (%s)", a, v.Phase, v.Reason, want, reason)
			}
			return
		}
	}
	r.t.Errorf("no status of %s", a)
}

// asBefore checks that the host is as newHost made it.
func (h *host) asBefore() {
	h.t.Helper()
	for _, name := range []string{"all/arp_ignore", "all/arp_announce", "eth0/arp_ignore"} {
		if v := h.get(name); v != 0 {
			h.t.Errorf("%s is %d", name, v)
		}
	}
	if len(h.addrs) != 0 || len(h.links) != 2 {
		h.t.Errorf("left: addresses %v, links %v", h.addrs, h.links)
	}
	for _, f := range []string{"realserver.json", "sysctl.json"} {
		if _, err := os.Stat(filepath.Join(h.dir, "run", f)); !errors.Is(err, os.ErrNotExist) {
			h.t.Errorf("%s: %v", f, err)
		}
	}
	if len(h.alarm) > 0 {
		h.t.Errorf("the host answered for a VIP %s", strings.Join(h.alarm, "; "))
	}
}

var errNo = fmt.Errorf("no: %w", unix.EPERM)

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
