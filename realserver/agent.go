package realserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drover-lb/drover/realserver/kernel"
	"github.com/drover-lb/drover/realserver/proof"
	"github.com/drover-lb/drover/sysctl"
)

// Kernel is the network configuration of the host; [kernel.Kernel] is. Its calls are bounded in time.
type Kernel interface {
	Snapshot() (*kernel.Snapshot, error)
	AddAddress(device string, a netip.Addr) error
	RemoveAddress(device string, p netip.Prefix) error
	AddDummy(name string) error
	RemoveDummy(name string) error
	ARPIgnore(link string) (int, error)
	Changed() <-chan struct{}
}

// Sysctls sets kernel settings and puts them back; [sysctl.Keeper] does.
type Sysctls interface {
	Apply(rows []sysctl.Row) ([]sysctl.Change, error)
	Repair() ([]sysctl.Change, error)
	Restore() ([]sysctl.Change, error)
}

// Prover finds out whether this host answers for addresses; [proof.Prover] does.
type Prover interface {
	Prove(ctx context.Context, ifi proof.Interface, addrs []netip.Addr) []proof.Verdict
}

// Settings are what a real server with IPv4 VIPs needs of the kernel, in the order in which it is
// written. The value that counts is the larger of conf.all's and that of the interface on which a
// request is received, or sent; conf.lo's is never looked at. So conf.all serves for all interfaces, those
// to come included. IPv6 needs none: a neighbour solicitation is answered only for addresses of the
// interface on which it is received (net/ipv6/ndisc.c, ndisc_recv_ns).
var Settings = []sysctl.Row{
	{Key: "net.ipv4.conf.all.arp_ignore", Value: "1", Compare: sysctl.AtLeast,
		Reason: "otherwise this host answers ARP requests for a VIP on loopback, and clients bypass the director (net/ipv4/arp.c, arp_ignore)"},
	{Key: "net.ipv4.conf.all.arp_announce", Value: "2",
		Reason: "otherwise ARP requests sent while answering a client name the VIP as their sender, and overwrite who has it in every neighbour's table (net/ipv4/arp.c, arp_solicit)"},
}

const (
	// settleGap is the least time between two looks that the kernel's notifications cause.
	settleGap = 20 * time.Millisecond
	// maxRetry bounds the time between two tries of a VIP that is answered for; it grows from the check
	// interval, because each try is a moment in which this host may answer.
	maxRetry = time.Minute
	// maxReprove bounds the time between two proofs that were not possible: the kernel may be too old, or
	// have been too busy.
	maxReprove = 10 * time.Minute
)

// Options of an Agent. Kernel, Sysctls, Prover and State are required.
type Options struct {
	Kernel  Kernel
	Sysctls Sysctls
	Prover  Prover
	State   string // path of the state file; its directory is made when absent
	Log     *slog.Logger
	// Turn is called each time the loop turns, at least every Heartbeat, and must not block.
	Turn      func()
	Heartbeat time.Duration // 0 for none
	// Summary is called with one line for people whenever it changes, and must not block.
	Summary func(string)
	// Changed is called whenever Status may be another, and must not block.
	Changed func()
}

// Phase is how far a VIP has got.
type Phase uint8

const (
	Pending  Phase = iota // not looked at yet
	Failed                // it cannot be put on, or must not be yet
	Silent                // bound, and this host proven not to answer for it
	Unproven              // bound, settings in place, but the proof was not possible
	Answered              // this host answers for it, so it is not bound
	Held                  // bound, and the director of this host has it on another interface, where it is to answer
)

var phaseNames = [...]string{"pending", "failed", "silent", "unproven", "answered", "held"}

func (p Phase) String() string {
	if int(p) < len(phaseNames) {
		return phaseNames[p]
	}
	return fmt.Sprintf("Phase(%d)", uint8(p))
}

// MarshalText implements encoding.TextMarshaler.
func (p Phase) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// VIPStatus is the state of one VIP.
type VIPStatus struct {
	Address  netip.Addr      `json:"address"`
	Device   string          `json:"device"`
	Bound    bool            `json:"bound"`
	Phase    Phase           `json:"phase"`
	Reason   string          `json:"reason,omitempty"` // why it is not silent
	Verdicts []proof.Verdict `json:"verdicts,omitempty"`
}

// Status is the state of an Agent.
type Status struct {
	VIPs     []VIPStatus `json:"vips"`
	Settings string      `json:"settings_error,omitempty"`
	Repairs  []Repair    `json:"repairs,omitempty"` // the newest last
}

// Agent keeps a real server as its Config says. Make one with [New]; it does nothing before [Agent.Run].
type Agent struct {
	opts  Options
	log   *slog.Logger
	ready chan struct{}

	mu       sync.Mutex // guards what follows
	next     *Config    // not taken in yet
	director bool       // see SetDirector
	status   Status
	wake     chan struct{} // capacity 1: next was set

	// What follows belongs to the goroutine of Run.

	cfg       *Config
	directed  bool // SetDirector, as of this pass
	store     *store
	vips      map[netip.Addr]*vip
	applied   bool // settings, for cfg
	settings  error
	troubles  map[string]string // what was last said about a lasting trouble, by kind
	links     map[int]string    // links on which VIPs are proven, by index: their name
	loud      string            // why the settings of a link let this host answer; empty: they do not
	repairs   []Repair
	summary   string
	readyDone bool
	lastPass  time.Time
}

// vip is the progress of one VIP.
type vip struct {
	addr      netip.Addr
	bound     bool // was, in the pass before
	phase     Phase
	reason    string
	verdicts  verdicts        // on the links on which it was proven
	elsewhere map[string]bool // other devices that have it; true: this host answers there
	tries     int
	retryAt   time.Time // not to be tried before
}

// verdicts are in the order of the links' indices. There is one for each link, so most often one.
type verdicts []linkVerdict

type linkVerdict struct {
	index int
	proof.Verdict
}

func (vs verdicts) find(index int) (int, bool) {
	return slices.BinarySearchFunc(vs, index, func(v linkVerdict, index int) int { return cmp.Compare(v.index, index) })
}

func (vs verdicts) on(index int) (proof.Verdict, bool) {
	if i, ok := vs.find(index); ok {
		return vs[i].Verdict, true
	}
	return proof.Verdict{}, false
}

func (vs *verdicts) set(index int, v proof.Verdict) {
	i, ok := vs.find(index)
	if !ok {
		*vs = slices.Insert(*vs, i, linkVerdict{})
	}
	(*vs)[i] = linkVerdict{index, v}
}

func (vs *verdicts) drop(index int) {
	if i, ok := vs.find(index); ok {
		*vs = slices.Delete(*vs, i, i+1)
	}
}

// retry lets the next pass try the VIP again, whatever was found before.
func (v *vip) retry() { v.retryAt, v.tries = time.Time{}, 0 }

// due reports whether the VIP may be tried now.
func (v *vip) due() bool { return !time.Now().Before(v.retryAt) }

// backoff returns the time before the next try, and counts it.
func (v *vip) backoff(first, most time.Duration) time.Time {
	d := min(first<<min(v.tries, 20), max(first, most))
	v.tries++
	return time.Now().Add(d)
}

// New returns an agent for a first configuration.
func New(opts Options, cfg *Config) (*Agent, error) {
	if opts.Kernel == nil || opts.Sysctls == nil || opts.Prover == nil || opts.State == "" {
		return nil, errors.New("realserver: kernel, sysctls, prover and state file must be given")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Turn == nil {
		opts.Turn = func() {}
	}
	if opts.Summary == nil {
		opts.Summary = func(string) {}
	}
	if opts.Changed == nil {
		opts.Changed = func() {}
	}
	return &Agent{
		opts: opts, log: opts.Log, ready: make(chan struct{}), next: cfg, wake: make(chan struct{}, 1),
		vips: make(map[netip.Addr]*vip), troubles: make(map[string]string), links: make(map[int]string),
	}, nil
}

func (a *Agent) String() string { return "real-server agent" }

// Ready is closed when every VIP of the first configuration, or of a later one, has been bound and
// proven silent, or, where the kernel has no way to prove it, has its settings in place.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Set makes cfg the configuration. It does not wait for that.
func (a *Agent) Set(cfg *Config) {
	a.mu.Lock()
	a.next = cfg
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// SetDirector says whether this host is a director, too. Then a VIP on another interface is there because the
// director has its lease, and that this host answers for it there is right; the VIP stays on the agent's device, for
// when the director gives it up. It does not wait for that.
func (a *Agent) SetDirector(yes bool) {
	a.mu.Lock()
	news := a.director != yes
	a.director = yes
	a.mu.Unlock()
	if !news {
		return
	}
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// Status returns how things were after the last look.
func (a *Agent) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.status
}

// Run keeps the host as configured until ctx ends, and then releases or keeps it. An error is about the
// state file at the start, or about what could not be released.
func (a *Agent) Run(ctx context.Context) error {
	var err error
	if a.store, err = openStore(a.opts.State); err != nil {
		return err
	}
	check := time.NewTimer(0)
	defer check.Stop()
	var beat <-chan time.Time
	if a.opts.Heartbeat > 0 {
		t := time.NewTicker(a.opts.Heartbeat)
		defer t.Stop()
		beat = t.C
	}
	changed := a.opts.Kernel.Changed()
	for {
		select {
		case <-ctx.Done():
			return a.stop()
		case <-beat:
			a.opts.Turn()
			continue
		case <-a.wake:
		case <-changed:
			// A program that fights with us for an address must not keep the loop busy.
			if gap := settleGap - time.Since(a.lastPass); gap > 0 {
				changed = nil
				check.Reset(gap)
				continue
			}
		case <-check.C:
		}
		a.opts.Turn()
		a.take()
		again := a.pass(ctx)
		a.lastPass = time.Now()
		changed = a.opts.Kernel.Changed()
		check.Reset(again)
	}
}

// take takes in a configuration that was set meanwhile.
func (a *Agent) take() {
	a.mu.Lock()
	next := a.next
	a.next = nil
	news := a.directed != a.director
	a.directed = a.director
	a.mu.Unlock()
	if news {
		for _, v := range a.vips {
			v.elsewhere = nil // said again, in the words that fit now
			v.retry()
		}
	}
	if next == nil {
		return
	}
	moved := a.cfg != nil && a.cfg.Device != next.Device
	a.cfg, a.applied = next, false
	vips := make(map[netip.Addr]*vip, len(next.VIPs))
	for _, addr := range next.VIPs {
		v := a.vips[addr]
		if v == nil {
			v = &vip{addr: addr}
		}
		if moved {
			v.bound = false
			v.verdicts = nil
		}
		v.retry()
		vips[addr] = v
	}
	a.vips = vips
}

// rows are the settings that the configuration needs.
func (a *Agent) rows() []sysctl.Row {
	if slices.ContainsFunc(a.cfg.VIPs, netip.Addr.Is4) {
		return Settings
	}
	return nil
}

// pass looks at everything once and puts it right. It returns when to look again at the latest.
func (a *Agent) pass(ctx context.Context) time.Duration {
	a.applySettings()
	snap, err := a.opts.Kernel.Snapshot()
	a.trouble("snapshot", "failed to read the network configuration", err)
	if err != nil {
		return a.cfg.CheckInterval
	}
	if err := a.device(snap); err != nil {
		for _, v := range a.order() {
			v.phase, v.reason, v.bound = Failed, err.Error(), false
		}
	} else {
		a.lookElsewhere(snap)
		a.refreshLinks(snap)
		a.bind(snap)
		a.prove(ctx, snap)
	}
	a.dropUnwanted(snap)
	if len(a.rows()) == 0 {
		// The last IPv4 VIP is off: only now may the settings go.
		a.applySettings()
	}
	return a.conclude()
}

func (a *Agent) order() []*vip {
	out := make([]*vip, len(a.cfg.VIPs))
	for i, addr := range a.cfg.VIPs {
		out[i] = a.vips[addr]
	}
	return out
}

// trouble logs an error that may last once, and its end.
func (a *Agent) trouble(kind, msg string, err error, attrs ...any) {
	before, was := a.troubles[kind]
	switch {
	case err != nil && before != err.Error():
		a.troubles[kind] = err.Error()
		a.log.Error(msg, append(attrs, "error", err)...)
	case err == nil && was:
		delete(a.troubles, kind)
		a.log.Info("trouble is over", append(attrs, "was", msg)...)
	}
}

// applySettings makes the kernel's settings as wanted. They are taken back only when no IPv4 VIP is left.
func (a *Agent) applySettings() {
	rows := a.rows()
	if len(rows) == 0 && a.store.ours(isIPv4) {
		return
	}
	var changes []sysctl.Change
	first := !a.applied
	if first {
		changes, a.settings = a.opts.Sysctls.Apply(rows)
		a.applied = a.settings == nil
	} else {
		changes, a.settings = a.opts.Sysctls.Repair()
	}
	a.trouble("settings", "failed to make the kernel's settings as they have to be", a.settings)
	for _, c := range changes {
		a.logChange(c, first)
	}
	if len(changes) > 0 {
		for _, v := range a.vips {
			if v.addr.Is4() {
				v.verdicts = nil
				v.retry()
			}
		}
	}
}

func (a *Agent) logChange(c sysctl.Change, ours bool) {
	attrs := []any{"setting", c.Key, "from", c.From, "to", c.To}
	switch {
	case c.Action == sysctl.Written && !ours:
		a.repairs = note(a.repairs, netip.Addr{}, fmt.Sprintf("%s was set to %s by somebody, and back to %s", c.Key, c.From, c.To), time.Now())
		a.log.Warn("setting was changed by somebody, set again", append(attrs, "reason", c.Reason)...)
	case c.Action == sysctl.Written:
		a.log.Info("setting made", append(attrs, "reason", c.Reason)...)
	case c.Action == sysctl.Restored:
		a.log.Info("setting put back", attrs...)
	default:
		a.log.Warn("setting not put back", "setting", c.Key, "value", c.From, "earlier", c.To, "why", c.Action.String())
	}
}

// device makes the dummy interface when one is wanted and missing.
func (a *Agent) device(snap *kernel.Snapshot) error {
	name := a.cfg.Device
	err := func() error {
		l, there := snap.Links[name]
		switch {
		case name == Loopback && !there:
			return errors.New("there is no interface lo")
		case name == Loopback:
			return nil
		case there && l.Type != "dummy":
			return fmt.Errorf("interface %q exists and is of type %s: choose another name for the dummy interface", name, l.Type)
		case there:
			return nil
		}
		again := a.store.Dummy == name
		if a.store.Dummy != "" && !again {
			// The old one goes when its VIPs are gone; the state file remembers one at a time.
			if err := a.removeDummy(snap); err != nil {
				return err
			}
		}
		a.store.setDummy(name)
		if err := a.store.save(); err != nil {
			return err
		}
		if err := a.opts.Kernel.AddDummy(name); err != nil {
			return err
		}
		if again {
			a.log.Warn("interface was removed by somebody, made again", "interface", name)
		} else {
			a.log.Info("interface made", "interface", name)
		}
		return nil
	}()
	a.trouble("device", "failed to make the device of the VIPs", err, "interface", name)
	return err
}

// removeDummy removes the interface that the agent made, and with it the VIPs on it.
func (a *Agent) removeDummy(snap *kernel.Snapshot) error {
	name := a.store.Dummy
	if name == "" {
		return nil
	}
	if _, there := snap.Links[name]; there {
		if err := a.opts.Kernel.RemoveDummy(name); err != nil {
			return err
		}
		a.log.Info("interface removed", "interface", name)
	}
	a.store.setDummy("")
	a.store.forget(func(v savedVIP) bool { return v.Device == name })
	return a.store.save()
}

// lookElsewhere notes VIPs that somebody has put on other interfaces, where they may be answered for.
func (a *Agent) lookElsewhere(snap *kernel.Snapshot) {
	now := make(map[netip.Addr]map[string]bool)
	for _, at := range snap.Addresses {
		v := a.vips[at.Prefix.Addr()]
		if v == nil || at.Device == a.cfg.Device {
			continue
		}
		if known, _ := a.store.find(v.addr, at.Device); known {
			continue // on its way from one device to the other
		}
		if now[v.addr] == nil {
			now[v.addr] = make(map[string]bool)
		}
		now[v.addr][at.Device] = snap.Links[at.Device].Answers
	}
	for _, v := range a.order() {
		here := now[v.addr]
		for _, dev := range slices.Sorted(maps.Keys(here)) {
			if was, known := v.elsewhere[dev]; known && was == here[dev] {
				continue
			}
			if here[dev] && a.directed {
				a.log.Info("the director of this host has the VIP", "address", v.addr, "interface", dev)
			} else if here[dev] {
				a.log.Warn("VIP is also on an interface where this host answers for it; it cannot be silent there", "address", v.addr, "interface", dev)
			} else {
				a.log.Info("VIP is also on another interface, where nobody asks for it", "address", v.addr, "interface", dev)
			}
			v.verdicts = nil
		}
		for _, dev := range slices.Sorted(maps.Keys(v.elsewhere)) {
			if _, still := here[dev]; !still {
				a.log.Info("VIP is no longer on the other interface", "address", v.addr, "interface", dev)
				v.verdicts = nil
				v.retry()
			}
		}
		v.elsewhere = here
	}
}

// refreshLinks forgets what was proven on interfaces that are gone or have changed.
func (a *Agent) refreshLinks(snap *kernel.Snapshot) {
	now := make(map[int]string)
	for name, l := range snap.Links {
		if l.Answers && l.Running && name != a.cfg.Device {
			now[l.Index] = name
		}
	}
	for index, name := range a.links {
		if now[index] != name {
			for _, v := range a.vips {
				v.verdicts.drop(index)
			}
		}
	}
	for index, name := range now {
		if a.links[index] != name {
			for _, v := range a.vips {
				if v.phase == Unproven {
					v.retry()
				}
			}
			break
		}
	}
	a.links = now
	a.loud = ""
	for _, index := range slices.Sorted(maps.Keys(now)) {
		a.loud = cmp.Or(a.loud, a.ignores(now[index]))
	}
}

// held reports whether the director of this host has a VIP on an interface on which it is to answer.
func (a *Agent) held(v *vip) bool {
	if !a.directed {
		return false
	}
	for _, answers := range v.elsewhere {
		if answers {
			return true
		}
	}
	return false
}

// obstacle returns why a VIP must not be on the device now, and the phase that it has therefore.
func (a *Agent) obstacle(v *vip) (Phase, string) {
	for _, dev := range slices.Sorted(maps.Keys(v.elsewhere)) {
		if v.elsewhere[dev] && !a.directed {
			return Answered, fmt.Sprintf("%s is on %s as well, where this host answers for it: remove it there (ip address del %s dev %s)", v.addr, dev, v.addr, dev)
		}
	}
	if v.addr.Is6() {
		return Pending, ""
	}
	if a.settings != nil {
		return Failed, "the kernel's settings are not as they have to be: " + a.settings.Error()
	}
	if a.loud != "" {
		return Answered, a.loud
	}
	return Pending, ""
}

// ignores returns why the settings of a link let this host answer for VIPs on other interfaces, or "".
func (a *Agent) ignores(link string) string {
	n, err := a.opts.Kernel.ARPIgnore(link)
	switch {
	case err != nil: // the link is just going
		return ""
	case n <= 0 || n >= 4 && n <= 7:
		return fmt.Sprintf("arp_ignore that counts on %s is %d, which the kernel takes for 0: set net.ipv4.conf.%s.arp_ignore to 0 or 1", link, n, link)
	}
	return ""
}

// bind puts VIPs on the device that may be there and are not, and takes those off that must not be.
func (a *Agent) bind(snap *kernel.Snapshot) {
	device := a.cfg.Device
	have := make(map[netip.Addr]netip.Prefix)
	for _, at := range snap.Addresses {
		if at.Device == device {
			have[at.Prefix.Addr()] = at.Prefix
		}
	}
	var add []*vip
	for _, v := range a.order() {
		at, there := have[v.addr]
		known, _ := a.store.find(v.addr, device)
		if there && !known {
			a.store.record(savedVIP{Address: v.addr, Device: device})
			a.log.Info("VIP was on the device before; it stays when the agent stops", "address", v.addr, "interface", device)
		}
		phase, why := a.obstacle(v)
		switch {
		case phase != Pending:
			a.retreat(v, phase, why)
			if there {
				a.unbind(v, at)
			}
			v.bound = false
		case there:
			v.bound = true
		case !v.due():
			v.bound = false
		default:
			if !known {
				a.store.record(savedVIP{Address: v.addr, Device: device, Ours: true})
			}
			add = append(add, v)
		}
	}
	if err := a.store.save(); err != nil {
		for _, v := range add {
			v.phase, v.reason, v.bound = Failed, err.Error(), false
		}
		return
	}
	for _, v := range add {
		if err := a.opts.Kernel.AddAddress(device, v.addr); err != nil {
			v.phase, v.reason, v.bound = Failed, err.Error(), false
			a.trouble("bind "+v.addr.String(), "failed to bind VIP", err, "address", v.addr)
			continue
		}
		a.trouble("bind "+v.addr.String(), "failed to bind VIP", nil, "address", v.addr)
		if v.bound {
			a.repairs = note(a.repairs, v.addr, fmt.Sprintf("%s was taken off %s by somebody, and put back", v.addr, device), time.Now())
			a.log.Warn("VIP was removed by somebody, put back", "address", v.addr, "interface", device)
		} else {
			a.log.Info("VIP bound", "address", v.addr, "interface", device)
		}
		v.bound = true
		v.verdicts = nil
	}
}

// retreat notes that a VIP is not, or no longer, to be had.
func (a *Agent) retreat(v *vip, phase Phase, why string) {
	if phase == Answered && (v.phase != Answered || v.reason != why) {
		a.log.Error("VIP is not kept: this host would answer for it", "address", v.addr, "why", why)
	}
	v.phase, v.reason = phase, why
	v.verdicts = nil
}

// unbind takes a VIP off the device if it is ours.
func (a *Agent) unbind(v *vip, at netip.Prefix) {
	if _, ours := a.store.find(v.addr, a.cfg.Device); !ours {
		return
	}
	err := a.opts.Kernel.RemoveAddress(a.cfg.Device, at)
	a.trouble("unbind "+v.addr.String(), "failed to take the VIP off", err, "address", v.addr)
	if err == nil {
		a.log.Warn("VIP taken off", "address", v.addr, "interface", a.cfg.Device)
		v.bound = false
	}
}

// prove has every bound VIP proven on every link on which it is not yet.
func (a *Agent) prove(ctx context.Context, snap *kernel.Snapshot) {
	for _, index := range slices.Sorted(maps.Keys(a.links)) {
		var ask []netip.Addr
		for _, v := range a.order() {
			verdict, known := v.verdicts.on(index)
			if v.bound && v.due() && !a.held(v) && (!known || verdict.Result == proof.Unproven) {
				ask = append(ask, v.addr)
			}
		}
		if len(ask) == 0 {
			continue
		}
		name := a.links[index]
		for _, verdict := range a.opts.Prover.Prove(ctx, snap.Links[name].Proof(name), ask) {
			v := a.vips[verdict.Addr]
			v.verdicts.set(index, verdict)
		}
		a.opts.Turn()
	}
	if ctx.Err() != nil {
		return
	}
	for _, v := range a.order() {
		if v.bound && v.due() {
			a.judge(v)
		}
	}
}

// judge draws the conclusion from the verdicts on a bound VIP.
func (a *Agent) judge(v *vip) {
	if a.held(v) {
		v.retry()
		v.phase, v.reason, v.verdicts = Held, "", nil
		return
	}
	var silent []string
	unproven := ""
	for _, verdict := range v.verdicts {
		switch verdict.Result {
		case proof.Answers:
			a.retreat(v, Answered, fmt.Sprintf("a question put into the kernel on %s was answered; something other than the usual settings makes it so (proxy ARP, a proxy neighbour entry, a program)", verdict.Interface))
			a.unbind(v, netip.PrefixFrom(v.addr, v.addr.BitLen()))
			v.retryAt = v.backoff(a.cfg.CheckInterval, maxRetry)
			return
		case proof.Unproven:
			unproven = cmp.Or(unproven, verdict.Interface+": "+verdict.Reason)
		case proof.Silent:
			silent = append(silent, verdict.Interface)
		}
	}
	if len(v.verdicts) == 0 {
		unproven = "no interface that speaks ARP is up"
	}
	before, reason := v.phase, v.reason
	if unproven != "" {
		v.retryAt = v.backoff(a.cfg.CheckInterval, maxReprove)
		v.phase, v.reason = Unproven, unproven
		if before != Unproven || reason != unproven {
			a.log.Warn("VIP is bound and its settings are in place, but silence is not proven", "address", v.addr, "why", unproven)
		}
		return
	}
	v.retry()
	v.phase, v.reason = Silent, ""
	if before != Silent {
		a.log.Info("VIP silent", "address", v.addr, "interfaces", silent)
	}
}

// dropUnwanted takes off what the agent has put on and the configuration no longer wants, last first.
func (a *Agent) dropUnwanted(snap *kernel.Snapshot) {
	err := a.release(func(saved savedVIP) bool {
		v := a.vips[saved.Address]
		if v != nil && saved.Device == a.cfg.Device {
			return false
		}
		// On a move to another device the VIP stays on the old one until it is on the new one.
		return v == nil || v.phase != Failed
	})
	a.trouble("release", "failed to take off VIPs that are no longer wanted", err)
	old := a.store.Dummy
	if old != "" && old != a.cfg.Device && !slices.ContainsFunc(a.store.VIPs, func(v savedVIP) bool { return v.Device == old }) {
		a.trouble("dummy", "failed to remove the interface that is no longer wanted", a.removeDummy(snap))
	}
	a.trouble("state", "failed to save what is the agent's own", a.store.save())
}

// release takes off the recorded VIPs that pick selects, if they are ours, in the reverse order, and
// forgets them.
func (a *Agent) release(pick func(savedVIP) bool) error {
	var errs []error
	done := make(map[savedVIP]bool)
	for _, saved := range slices.Backward(a.store.VIPs) {
		if !pick(saved) {
			continue
		}
		if saved.Ours {
			if err := a.opts.Kernel.RemoveAddress(saved.Device, netip.PrefixFrom(saved.Address, saved.Address.BitLen())); err != nil {
				errs = append(errs, err)
				continue
			}
			a.log.Info("VIP released", "address", saved.Address, "interface", saved.Device)
		}
		done[saved] = true
	}
	if len(done) > 0 {
		a.store.forget(func(v savedVIP) bool { return done[v] })
	}
	return errors.Join(errs...)
}

// conclude publishes the state and returns when to look again.
func (a *Agent) conclude() time.Duration {
	st := Status{VIPs: make([]VIPStatus, 0, len(a.cfg.VIPs)), Repairs: slices.Clone(a.repairs)}
	if a.settings != nil {
		st.Settings = a.settings.Error()
	}
	counts := map[Phase]int{}
	problem := ""
	again := a.cfg.CheckInterval
	for _, v := range a.order() {
		counts[v.phase]++
		s := VIPStatus{Address: v.addr, Device: a.cfg.Device, Bound: v.bound, Phase: v.phase, Reason: v.reason}
		for _, verdict := range v.verdicts {
			s.Verdicts = append(s.Verdicts, verdict.Verdict)
		}
		st.VIPs = append(st.VIPs, s)
		if v.reason != "" && problem == "" {
			problem = fmt.Sprintf("; %s %s: %s", v.addr, v.phase, v.reason)
		}
		if !v.retryAt.IsZero() {
			if d := time.Until(v.retryAt); d > 0 {
				again = min(again, d)
			}
		}
	}
	a.mu.Lock()
	a.status = st
	pending := a.next != nil
	a.mu.Unlock()
	a.opts.Changed()
	if !a.readyDone && !pending && counts[Silent]+counts[Unproven]+counts[Held] == len(st.VIPs) && a.settings == nil {
		a.readyDone = true
		a.log.Info("ready", "silent", counts[Silent], "unproven", counts[Unproven])
		close(a.ready)
	}
	line := fmt.Sprintf("%d of %d VIPs silent%s", counts[Silent], len(st.VIPs), strings.ReplaceAll(problem, "\n", " "))
	if n := counts[Held]; n > 0 {
		line = fmt.Sprintf("%d held by this host's director, %s", n, line)
	}
	if line != a.summary {
		a.summary = line
		a.opts.Summary(line)
	}
	return again
}

// stop leaves the host as the configuration says.
func (a *Agent) stop() error {
	if a.cfg == nil {
		a.take()
	}
	if a.cfg.OnStop == Keep {
		a.log.Info("stopped; VIPs and settings are kept", "vips", len(a.store.VIPs))
		return nil
	}
	errs := []error{a.release(func(savedVIP) bool { return true })}
	if snap, err := a.opts.Kernel.Snapshot(); err != nil {
		errs = append(errs, err)
	} else if err := a.removeDummy(snap); err != nil {
		errs = append(errs, err)
	}
	// The settings keep this host silent for as long as a VIP is on it.
	if !a.store.ours(isIPv4) {
		changes, err := a.opts.Sysctls.Restore()
		for _, c := range changes {
			a.logChange(c, true)
		}
		errs = append(errs, err)
	}
	errs = append(errs, a.store.remove())
	return errors.Join(errs...)
}
