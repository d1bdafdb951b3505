package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// world is a kernel with a director in it and a hand that meddles. The scenarios run in two worlds:
// the fake kernel under a fake clock, and the real one (build tag kernel).
type world struct {
	t      *testing.T
	kernel Kernel // what a director gets
	iface  string

	hand    func(...ipvs.Command)                                      // somebody else's ipvsadm
	addAddr func(iface string, p netip.Prefix, lifetime time.Duration) // somebody else's ip address
	delAddr func(iface string, p netip.Prefix)
	setLink func(iface string, up bool)
	table   func() plan.State
	addrs   func() []kernel.Address

	stateDir string
	interval time.Duration
	lifetime time.Duration
	more     []func(*Options) // of each director

	// Of the director that runs, or ran last.
	c    *Controller
	gate *gate
	end  func() error
	logs *buffer
	told *announced
}

// gate is a kernel that can be shut: what happens to a process that is killed is that nothing of it
// reaches the kernel any more.
type gate struct {
	Kernel
	mu   sync.Mutex
	dead bool
}

var errDead = errors.New("this director is dead")

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dead = true
}

func (g *gate) err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.dead {
		return errDead
	}
	return nil
}

func (g *gate) Services(ctx context.Context) ([]ipvs.ServiceEntry, error) {
	if err := g.err(); err != nil {
		return nil, err
	}
	return g.Kernel.Services(ctx)
}

func (g *gate) Apply(ctx context.Context, cs []ipvs.Command) []error {
	if err := g.err(); err != nil {
		errs := make([]error, len(cs))
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	return g.Kernel.Apply(ctx, cs)
}

func (g *gate) SetAddress(ctx context.Context, index int, p netip.Prefix, life time.Duration) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.Kernel.SetAddress(ctx, index, p, life)
}

func (g *gate) Renew(ctx context.Context, addresses []kernel.Held, life time.Duration) []error {
	if err := g.err(); err != nil {
		return slices.Repeat([]error{err}, len(addresses))
	}
	return g.Kernel.Renew(ctx, addresses, life)
}

func (g *gate) DeleteAddress(ctx context.Context, index int, p netip.Prefix) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.Kernel.DeleteAddress(ctx, index, p)
}

func (g *gate) StartDaemon(ctx context.Context, d ipvs.Daemon) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.Kernel.StartDaemon(ctx, d)
}

func (g *gate) StopDaemon(ctx context.Context, r ipvs.DaemonRole) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.Kernel.StopDaemon(ctx, r)
}

func (g *gate) SetBackupOnly(on bool) error {
	if err := g.err(); err != nil {
		return err
	}
	return g.Kernel.SetBackupOnly(on)
}

// buffer is a log that is written and read at the same time.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) count(s string) int { return strings.Count(b.String(), s) }

// announced remembers what was to be announced.
type announced struct {
	mu     sync.Mutex
	claims []Claim
	note   func(format string, args ...any)
}

func (a *announced) Set(claims []Claim) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.claims = claims
	if a.note != nil {
		words := []string{"announce"}
		for _, c := range claims {
			words = append(words, c.Addr.String())
		}
		a.note("%s", strings.Join(words, " "))
	}
}

func (a *announced) of(addr string) (epoch uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.claims {
		if c.Addr.String() == addr {
			return c.Epoch
		}
	}
	return 0
}

// file reads a spec; the interface and the times are those of the world unless written.
func (w *world) file(text string) *spec.File {
	w.t.Helper()
	f, err := spec.Parse("test.yaml", []byte(text))
	if err != nil {
		w.t.Fatalf("bad test:\n%v", err)
	}
	if f.Director.ReconcileInterval == spec.DefaultReconcileInterval {
		f.Director.ReconcileInterval = w.interval
	}
	if f.Director.VIPLifetime == spec.DefaultVIPLifetime {
		f.Director.VIPLifetime = w.lifetime
	}
	return f
}

// start runs a director with its own kernel handle, as a new process does.
func (w *world) start(text string, more ...func(*Options)) {
	w.t.Helper()
	w.launch(text, more...)
	<-w.c.Ready()
	w.status() // the first pass is over
}

// launch is start without waiting.
func (w *world) launch(text string, more ...func(*Options)) {
	w.t.Helper()
	w.logs, w.gate = &buffer{}, &gate{Kernel: w.kernel}
	note := w.told
	w.told = &announced{}
	if note != nil {
		w.told.note = note.note
	}
	opts := Options{
		Kernel:    w.gate,
		Announcer: w.told,
		StateDir:  w.stateDir,
		Log:       slog.New(slog.NewTextHandler(w.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range slices.Concat(w.more, more) {
		f(&opts)
	}
	c, err := New(opts, w.file(text), "test.yaml")
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { result <- c.Run(ctx) }()
	w.c = c
	w.end = sync.OnceValue(func() error {
		cancel()
		return <-result
	})
	w.t.Cleanup(func() { w.kill() })
}

// stop ends the director as SIGTERM does.
func (w *world) stop() {
	w.t.Helper()
	if err := w.end(); err != nil {
		w.t.Errorf("stopped with %v", err)
	}
}

// kill ends the director as SIGKILL does.
func (w *world) kill() {
	w.gate.shut()
	_ = w.end()
}

func (w *world) reload(text string) {
	w.t.Helper()
	if err := w.c.SetFile(context.Background(), w.file(text), "test.yaml"); err != nil {
		w.t.Fatal(err)
	}
	w.status() // after the pass
}

func (w *world) status() *Status {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, err := w.c.Status(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return st
}

// eventually waits for a condition, with the fake clock or the real one.
func (w *world) eventually(what string, within time.Duration, cond func() bool) {
	w.t.Helper()
	for end := time.Now().Add(within); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("not within %s: %s\ntable:\n%s\naddresses: %v\nlog:\n%s", within, what, tableText(w.table()), w.addrs(), w.logs)
		}
	}
}

func tableText(s plan.State) string { return plan.Diff(s, plan.State{}, nil).String() }

// wants checks that the table is that of a file, with strangers.
func (w *world) wants(text string, strangers ...plan.Service) {
	w.t.Helper()
	if diff := w.differs(text, strangers...); diff != "" {
		w.t.Errorf("the table differs; to do:\n%s\nlog:\n%s", diff, w.logs)
	}
}

func (w *world) differs(text string, strangers ...plan.Service) string {
	w.t.Helper()
	want := plan.NewState(append(plan.Want(&w.file(text).Spec).Services, strangers...))
	return plan.Diff(want, w.table(), plan.Owner(spec.OwnAll, nil)).String()
}

// address returns the entry of an address on the world's interface.
func (w *world) address(prefix string) *kernel.Address {
	w.t.Helper()
	link, err := w.kernel.Link(context.Background(), w.iface)
	if err != nil {
		return nil
	}
	for _, a := range w.addrs() {
		if a.Index == link.Index && a.Prefix == netip.MustParsePrefix(prefix) {
			return &a
		}
	}
	return nil
}

func (w *world) vipState(addr string) VIPState {
	w.t.Helper()
	for _, v := range w.status().VIPs {
		if v.Address.Addr().String() == addr {
			return v.State
		}
	}
	return ""
}

// spec of the scenarios; head is what the director's mapping says beyond the interface.
func config(head string) string {
	return fmt.Sprintf(`
director: {interface: eth0, %s}
vips: [192.0.2.10, "2001:db8::10"]
services:
- {address: 192.0.2.10, port: 80, scheduler: wlc, real_servers: [{address: 10.0.0.11, weight: 5}, {address: 10.0.0.12, weight: 5}]}
- {address: 192.0.2.10, port: 53, protocol: udp, scheduler: rr, one_packet: true, real_servers: [10.0.0.11]}
- {address: 192.0.2.10, port: 443, scheduler: mh, scheduler_flags: [mh-fallback], persistence: 60s, real_servers: [10.0.0.11, 10.0.0.12, 10.0.0.13]}
- {address: "2001:db8::10", port: 80, scheduler: wlc, real_servers: ["fd00::11", "fd00::12"]}
- {fwmark: 7, scheduler: sh, scheduler_flags: [sh-fallback], real_servers: [10.0.0.11]}
`, head)
}

var (
	vip4   = netip.MustParsePrefix("192.0.2.10/32")
	vip6   = netip.MustParsePrefix("2001:db8::10/128")
	webKey = ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: vip4.Addr(), Port: 80}
	mhKey  = ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: vip4.Addr(), Port: 443}
	rip11  = ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.11"), Port: 80}
	rip12  = ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.12"), Port: 80}

	stranger = plan.Service{
		Service: ipvs.Service{Key: ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("198.51.100.1"), Port: 25}, Scheduler: "rr", Netmask: 32},
		Servers: []ipvs.Destination{{DestKey: ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.99"), Port: 25}, Forward: ipvs.DirectRoute, Weight: 1}},
	}
	addStranger = []ipvs.Command{ipvs.NewService(stranger.Service), ipvs.NewDest(stranger.Key, stranger.Servers[0])}
)

func dest(k ipvs.DestKey, weight uint32) ipvs.Destination {
	return ipvs.Destination{DestKey: k, Forward: ipvs.DirectRoute, Weight: weight}
}

// scenarios run on the fake kernel and on the real one. Each begins with an empty table and an
// interface eth0 that is up.
var scenarios = []struct {
	name string
	run  func(w *world)
}{
	{"everything is put there, and nothing is written again", func(w *world) {
		text := config("")
		w.start(text)
		w.wants(text)
		if st := w.status(); !st.Healthy || len(st.VIPs) != 2 {
			w.t.Errorf("not healthy: %+v\n%s", st, w.logs)
		}
		for _, p := range []string{vip4.String(), vip6.String()} {
			if a := w.address(p); a == nil || a.Lifetime == kernel.Forever || a.Lifetime > w.lifetime {
				w.t.Errorf("%s is %+v", p, a)
			}
		}
		if w.told.of("192.0.2.10") == 0 || w.told.of("2001:db8::10") == 0 {
			w.t.Errorf("not announced: %+v", w.told.claims)
		}
		before, logged := w.kernel.Writes(), w.logs.String()
		passes := w.status().Reconcile.Passes
		w.eventually("five more passes", 10*w.interval+time.Second, func() bool { return w.status().Reconcile.Passes >= passes+5 })
		w.reload(text)
		if n := w.kernel.Writes() - before; n != 0 {
			w.t.Errorf("%d writes while nothing changed", n)
		}
		if now := strings.TrimPrefix(w.logs.String(), logged); strings.Count(now, "\n") > 1 {
			w.t.Errorf("an idle director logged:\n%s", now)
		}
	}},

	{"addresses live as long as they are renewed", func(w *world) {
		w.start(config(""))
		time.Sleep(2*w.lifetime + w.lifetime/2)
		if w.address(vip4.String()) == nil || w.address(vip6.String()) == nil {
			w.t.Fatalf("the VIP lapsed: %v", w.addrs())
		}
		w.kill()
		killed := time.Now()
		w.eventually("the VIP leaves by itself", w.lifetime+2*time.Second, func() bool {
			return w.address(vip4.String()) == nil && w.address(vip6.String()) == nil
		})
		w.t.Logf("the VIP left %s after the kill, lifetime %s", time.Since(killed).Round(10*time.Millisecond), w.lifetime)
		w.wants(config(""))
	}},

	{"a successor of a killed director adopts all without a write", func(w *world) {
		text := config("")
		w.start(text)
		for range 3 {
			w.kill()
			before := w.kernel.Writes()
			w.start(text)
			if n := w.kernel.Writes() - before; n != 0 {
				w.t.Errorf("%d writes", n)
			}
			if !strings.Contains(w.logs.String(), "nothing was written") {
				w.t.Errorf("log:\n%s", w.logs)
			}
			if w.vipState("192.0.2.10") != VIPHeld {
				w.t.Errorf("VIP is %s", w.vipState("192.0.2.10"))
			}
		}
		time.Sleep(w.lifetime + w.lifetime/2)
		if w.address(vip4.String()) == nil {
			w.t.Error("the adopted VIP lapsed")
		}
	}},

	{"a successor removes what its predecessor listed, and no more", func(w *world) {
		w.hand(addStranger...)
		w.start(config(""))
		w.kill()
		less := `
director: {interface: eth0}
vips: [192.0.2.10]
services:
- {address: 192.0.2.10, port: 80, scheduler: wlc, real_servers: [{address: 10.0.0.11, weight: 5}, {address: 10.0.0.12, weight: 5}]}
`
		w.start(less)
		w.wants(less, stranger)
		if a := w.address(vip6.String()); a != nil {
			w.t.Errorf("the old VIP is still there: %+v", a)
		}
	}},

	{"hand edits heal, a stranger stays", func(w *world) {
		text := config("")
		w.start(text)
		for _, tc := range []struct {
			what string
			hand []ipvs.Command
		}{
			{"a service deleted", []ipvs.Command{ipvs.DelService(mhKey)}},
			{"a weight changed", []ipvs.Command{ipvs.SetDest(webKey, dest(rip11, 77))}},
			{"a server deleted", []ipvs.Command{ipvs.DelDest(webKey, rip12)}},
			{"a server added", []ipvs.Command{ipvs.NewDest(webKey, dest(ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.66"), Port: 80}, 1))}},
			{"a scheduler changed", []ipvs.Command{ipvs.SetService(ipvs.Service{Key: webKey, Scheduler: "lc", Netmask: 32})}},
			{"everything flushed", []ipvs.Command{ipvs.Flush()}},
		} {
			heals := w.logs.count("healed")
			w.hand(tc.hand...)
			w.eventually(tc.what+" heals", w.interval+time.Second, func() bool { return w.differs(text) == "" })
			w.eventually(tc.what+" is told", time.Second, func() bool { return w.logs.count("healed") == heals+1 })
		}
		w.hand(addStranger...)
		w.eventually("the stranger is seen", 2*w.interval+time.Second, func() bool {
			return slices.Equal(w.status().Strangers, []string{"TCP 198.51.100.1:25"})
		})
		w.wants(text, stranger)
		w.stop()
		if d := plan.Diff(plan.NewState([]plan.Service{stranger}), w.table(), plan.Owner(spec.OwnAll, nil)).String(); d != "" {
			w.t.Errorf("after the stop the table should be the stranger alone; to do:\n%s", d)
		}
	}},

	{"under ownership all a stranger goes", func(w *world) {
		w.hand(addStranger...)
		text := config("ownership: all")
		w.start(text)
		w.wants(text)
		w.hand(addStranger...)
		w.eventually("the stranger goes", w.interval+time.Second, func() bool { return w.differs(text) == "" })
		w.hand(addStranger...)
		w.stop()
		if n := len(w.table().Services); n != 0 {
			w.t.Errorf("%d services left", n)
		}
	}},

	{"a service that was there before the spec listed it is ours then", func(w *world) {
		w.hand(ipvs.NewService(ipvs.Service{Key: webKey, Scheduler: "rr", Netmask: 32}), ipvs.NewDest(webKey, dest(rip12, 9)))
		w.start(config(""))
		w.wants(config(""))
		w.stop()
		if n := len(w.table().Services); n != 0 {
			w.t.Errorf("%d services left", n)
		}
	}},

	{"a VIP that somebody removes is put back at once and announced again", func(w *world) {
		w.start(config("reconcile_interval: 1h"))
		for _, p := range []netip.Prefix{vip4, vip6} {
			epoch := w.told.of(p.Addr().String())
			w.delAddr(w.iface, p)
			w.eventually("the VIP is back", 500*time.Millisecond, func() bool {
				return w.address(p.String()) != nil && w.told.of(p.Addr().String()) > epoch
			})
		}
		if n := w.logs.count("VIP was removed from the interface by somebody else"); n != 2 {
			w.t.Errorf("told %d times:\n%s", n, w.logs)
		}
	}},

	{"a VIP whose lifetime somebody takes away gets it back", func(w *world) {
		w.start(config(""))
		w.addAddr(w.iface, vip4, kernel.Forever)
		w.eventually("it has a lifetime", w.lifetime, func() bool {
			a := w.address(vip4.String())
			return a != nil && a.Lifetime != kernel.Forever
		})
	}},

	{"a VIP of somebody else's is left as it is", func(w *world) {
		w.addAddr(w.iface, vip4, kernel.Forever)
		w.start(config(""))
		if s := w.vipState("192.0.2.10"); s != VIPStatic {
			w.t.Errorf("VIP is %s", s)
		}
		if w.told.of("192.0.2.10") == 0 {
			w.t.Error("not announced")
		}
		time.Sleep(w.lifetime)
		if a := w.address(vip4.String()); a == nil || a.Lifetime != kernel.Forever {
			w.t.Errorf("it became %+v", a)
		}
		w.stop()
		if a := w.address(vip4.String()); a == nil || a.Lifetime != kernel.Forever {
			w.t.Errorf("after the stop it is %+v", a)
		}
		if a := w.address(vip6.String()); a != nil {
			w.t.Errorf("our own is still there: %+v", a)
		}
	}},

	{"a static VIP that goes away is taken", func(w *world) {
		w.addAddr(w.iface, vip4, kernel.Forever)
		w.start(config(""))
		w.delAddr(w.iface, vip4)
		w.eventually("it is held", time.Second, func() bool { return w.vipState("192.0.2.10") == VIPHeld })
	}},

	{"an interface that goes down and comes back", func(w *world) {
		w.start(config(""))
		w.setLink(w.iface, false)
		w.eventually("it is told", time.Second, func() bool { return w.vipState("2001:db8::10") == VIPDown })
		w.setLink(w.iface, true)
		w.eventually("both are held", time.Second, func() bool {
			return w.vipState("2001:db8::10") == VIPHeld && w.vipState("192.0.2.10") == VIPHeld && w.address(vip6.String()) != nil
		})
	}},

	{"a new file is applied, and only what differs", func(w *world) {
		w.start(config(""))
		before := w.kernel.Writes()
		text := strings.Replace(config(""), "{address: 10.0.0.12, weight: 5}", "{address: 10.0.0.12, weight: 6}", 1)
		w.reload(text)
		w.wants(text)
		if n := w.kernel.Writes() - before; n != 1 {
			w.t.Errorf("one weight took %d writes", n)
		}
	}},

	{"a VIP and its services leave with the file", func(w *world) {
		w.start(config(""))
		text := `
director: {interface: eth0}
vips: ["2001:db8::10"]
services:
- {address: "2001:db8::10", port: 80, scheduler: wlc, real_servers: ["fd00::11", "fd00::12"]}
`
		w.reload(text)
		w.wants(text)
		if a := w.address(vip4.String()); a != nil {
			w.t.Errorf("the VIP is still there: %+v", a)
		}
		if w.told.of("192.0.2.10") != 0 {
			w.t.Error("the VIP is still announced")
		}
	}},

	{"release gives everything back", func(w *world) {
		w.start(config("on_stop: release"))
		w.stop()
		if n := len(w.table().Services); n != 0 {
			w.t.Errorf("%d services left", n)
		}
		if w.address(vip4.String()) != nil || w.address(vip6.String()) != nil {
			w.t.Errorf("addresses left: %v", w.addrs())
		}
		if len(w.told.claims) != 0 {
			w.t.Errorf("claims left: %v", w.told.claims)
		}
	}},

	{"keep leaves everything, and a successor takes it over", func(w *world) {
		text := config("on_stop: keep")
		w.start(text)
		w.stop()
		w.wants(text)
		for _, p := range []string{vip4.String(), vip6.String()} {
			if a := w.address(p); a == nil || a.Lifetime != kernel.Forever {
				w.t.Errorf("%s is %+v", p, a)
			}
		}
		time.Sleep(w.lifetime + w.lifetime/2)
		before := w.kernel.Writes()
		w.start(text)
		if n := w.kernel.Writes() - before; n != 0 {
			w.t.Errorf("%d writes", n)
		}
		if a := w.address(vip4.String()); a == nil || a.Lifetime == kernel.Forever {
			w.t.Errorf("the VIP has no lifetime again: %+v", a)
		}
		w.stop()
		w.start(config("on_stop: release"))
		w.stop()
		if w.address(vip4.String()) != nil || len(w.table().Services) != 0 {
			w.t.Errorf("left: %v\n%s", w.addrs(), tableText(w.table()))
		}
	}},

	{"a missing scheduler holds up nothing else", func(w *world) {
		text := config("") + "- {address: 192.0.2.10, port: 8080, scheduler: twos, real_servers: [10.0.0.11]}\n"
		w.start(text)
		w.wants(config(""))
		st := w.status()
		if st.Healthy || len(st.Errors) != 1 || !strings.Contains(st.Errors[0].Error, "ip_vs_twos") {
			w.t.Errorf("errors: %+v", st.Errors)
		}
		if w.vipState("192.0.2.10") != VIPHeld {
			w.t.Errorf("VIP is %s", w.vipState("192.0.2.10"))
		}
		time.Sleep(3 * w.interval)
		if n := w.logs.count("the kernel refused a change"); n != 1 {
			w.t.Errorf("told %d times:\n%s", n, w.logs)
		}
		w.reload(config(""))
		if st := w.status(); !st.Healthy {
			w.t.Errorf("not healthy: %+v", st)
		}
	}},

	{"a VIP whose services all fail is not taken", func(w *world) {
		w.start(`
director: {interface: eth0}
vips: [192.0.2.10]
services: [{address: 192.0.2.10, port: 8080, scheduler: twos, real_servers: [10.0.0.11]}]
`)
		if s := w.vipState("192.0.2.10"); s != VIPWaiting || w.address(vip4.String()) != nil {
			w.t.Errorf("VIP is %s, %v", s, w.addrs())
		}
		w.reload(config(""))
		if s := w.vipState("192.0.2.10"); s != VIPHeld {
			w.t.Errorf("VIP is %s", s)
		}
	}},
}
