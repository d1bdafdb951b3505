package arp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// MaxClaims bounds what one Announcer announces. A round of so many is some 8,000 frames, a few
// milliseconds of a 1 Gbit/s link.
const MaxClaims = 4096

// resubscribeDelay is how long the Announcer waits after it has lost the kernel's link messages.
const resubscribeDelay = time.Second

// DefaultBurst is when a new claim is announced, counted from the moment it was made. Linux learns from
// the first frame; the others are for frames that got lost and for switches that have just seen the
// port come up.
var DefaultBurst = []time.Duration{0, 100 * time.Millisecond, 300 * time.Millisecond, time.Second, 3 * time.Second}

// DefaultRefresh is the time between announcements after the burst.
const DefaultRefresh = time.Minute

// Claim is one address that this host has on an interface.
type Claim struct {
	Interface string
	Addr      netip.Addr
}

// Options of an Announcer.
type Options struct {
	Burst   []time.Duration // rising; default DefaultBurst
	Refresh time.Duration   // default DefaultRefresh
	Log     *slog.Logger    // default: nothing is logged
	// Notify, when given, is told when an interface can no longer announce, with the reason, and with nil
	// when it can again. It must return quickly and must not call the Announcer.
	Notify func(iface string, err error)
}

// Stats counts since the start.
type Stats struct {
	Announcements uint64 // one a claim and round, of two frames for IPv4
	Failures      uint64
}

// wire is the link as the Announcer needs it.
type wire interface {
	// Links returns the interfaces that there are and a channel of what changes from then on. The channel
	// is closed when messages were lost, or when stop is closed.
	Links(stop <-chan struct{}) ([]link, <-chan link, error)
	// Open returns a port on an interface.
	Open(l link) (port, error)
}

type port interface {
	Announce(addr netip.Addr) error
	Close() error
}

// Announcer announces a declared set of claims. Its methods may be called from any goroutine, before Run
// and while it runs.
type Announcer struct {
	opts Options
	wire wire
	wake chan struct{} // capacity 1

	mu     sync.Mutex // guards everything below; frames are written only while it is held
	claims map[Claim]*schedule
	stats  Stats

	// The rest belongs to Run.
	links map[int]link    // by index
	ports map[string]port // open, by name of interface
	bad   map[string]error
}

// schedule is the progress of one claim.
type schedule struct {
	start time.Time // of the burst; zero: with the next round
	step  int       // announcements of the burst that are done or were missed
	due   time.Time
	sent  bool // at least one announcement has gone out
}

// begin starts the burst at now.
func (s *schedule) begin(now time.Time, burst []time.Duration) {
	s.start, s.step, s.due = now, 0, now.Add(burst[0])
}

// advance sets the next due time after an announcement at now. Steps that were missed, because the
// process or the machine stood still, are not made up for.
func (s *schedule) advance(now time.Time, burst []time.Duration, refresh time.Duration) {
	for s.step++; s.step < len(burst); s.step++ {
		if s.due = s.start.Add(burst[s.step]); s.due.After(now) {
			return
		}
	}
	s.due = now.Add(refresh)
}

// NewAnnouncer returns an Announcer; nothing is sent before Run.
func NewAnnouncer(opts Options) (*Announcer, error) { return newAnnouncer(opts, netWire{}) }

func newAnnouncer(opts Options, w wire) (*Announcer, error) {
	if opts.Burst == nil {
		opts.Burst = DefaultBurst
	}
	if opts.Refresh == 0 {
		opts.Refresh = DefaultRefresh
	}
	if opts.Refresh < time.Second {
		return nil, fmt.Errorf("refresh of announcements every %s: must be at least 1s", opts.Refresh)
	}
	if len(opts.Burst) == 0 || opts.Burst[0] < 0 || !slices.IsSorted(opts.Burst) {
		return nil, fmt.Errorf("burst of announcements at %v: times must rise from 0", opts.Burst)
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Notify == nil {
		opts.Notify = func(string, error) {}
	}
	return &Announcer{
		opts: opts, wire: w, wake: make(chan struct{}, 1),
		claims: make(map[Claim]*schedule),
		links:  make(map[int]link), ports: make(map[string]port), bad: make(map[string]error),
	}, nil
}

// Set makes claims all that is announced. What is new gets its burst at once; what is no longer claimed is
// not announced any more when Set returns. With an error nothing has changed.
func (a *Announcer) Set(claims []Claim) error {
	if len(claims) > MaxClaims {
		return fmt.Errorf("%d addresses to announce: at most %d", len(claims), MaxClaims)
	}
	for _, c := range claims {
		switch ad := c.Addr; {
		case c.Interface == "":
			return fmt.Errorf("no interface to announce %s on", ad)
		case !ad.IsValid() || ad.IsUnspecified() || ad.IsMulticast() || ad.IsLoopback() || ad.Is4In6() || ad.Zone() != "":
			return fmt.Errorf("%s on %s is not an address that can be announced", ad, c.Interface)
		}
	}
	a.mu.Lock()
	old := a.claims
	a.claims = make(map[Claim]*schedule, len(claims))
	for _, c := range claims {
		if s := old[c]; s != nil {
			a.claims[c] = s
		} else {
			a.claims[c] = &schedule{}
		}
	}
	a.mu.Unlock()
	a.kick()
	return nil
}

// AnnounceNow starts the burst again for the given addresses, or for all when none is given: for a caller
// who has just put an address on an interface.
func (a *Announcer) AnnounceNow(addrs ...netip.Addr) {
	a.mu.Lock()
	for c, s := range a.claims {
		if len(addrs) == 0 || slices.Contains(addrs, c.Addr) {
			s.start = time.Time{}
		}
	}
	a.mu.Unlock()
	a.kick()
}

// Stats returns the counters.
func (a *Announcer) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stats
}

func (a *Announcer) kick() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *Announcer) String() string { return "announcer" }

// Run announces until ctx ends, and then returns nil. An interface that is missing, down, or not Ethernet
// is logged and waited for. All sockets are opened by the calling goroutine, and so in its network namespace.
func (a *Announcer) Run(ctx context.Context) error {
	stop := make(chan struct{})
	defer close(stop)
	defer func() {
		for _, p := range a.ports {
			p.Close()
		}
		clear(a.ports)
	}()

	var updates <-chan link
	resubscribe := time.After(0)
	known, lost := false, false // the interfaces have been listed; the last try to do so failed
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-timer.C:
		case l, ok := <-updates:
			if !ok {
				updates, resubscribe = nil, time.After(resubscribeDelay)
				continue
			}
			a.update(l)
			// Many links may change at once; all that has arrived goes into this round.
			for more := true; more; {
				select {
				case l, ok := <-updates:
					if !ok {
						updates, resubscribe, more = nil, time.After(resubscribeDelay), false
						break
					}
					a.update(l)
				default:
					more = false
				}
			}
		case <-resubscribe:
			resubscribe = nil
			links, ch, err := a.wire.Links(stop)
			if err != nil {
				if !lost {
					a.opts.Log.Warn("failed to watch the interfaces, trying again", "error", err)
				}
				lost, resubscribe = true, time.After(resubscribeDelay)
				continue
			}
			known, lost, updates = true, false, ch
			a.replace(links)
		}
		if !known {
			continue
		}
		next := a.round(time.Now())
		timer.Reset(time.Until(next))
	}
}

// replace makes links all that there are.
func (a *Announcer) replace(links []link) {
	seen := make(map[int]bool, len(links))
	for _, l := range links {
		seen[l.index] = true
		a.update(l)
	}
	for index, l := range a.links {
		if !seen[index] {
			l.gone = true
			a.update(l)
		}
	}
}

// update takes in the new state of one interface. When it can announce now and could not before, or has
// another MAC or name, the burst starts again for its claims: the switch may have forgotten them.
func (a *Announcer) update(l link) {
	before, known := a.links[l.index]
	if l.gone {
		delete(a.links, l.index)
		a.closePort(before.name)
		return
	}
	if known && before == l {
		return
	}
	a.links[l.index] = l
	if known {
		a.closePort(before.name)
	}
	if l.up {
		a.restart(l.name)
	}
}

func (a *Announcer) closePort(name string) {
	if p := a.ports[name]; p != nil {
		p.Close()
		delete(a.ports, name)
	}
}

func (a *Announcer) restart(iface string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c, s := range a.claims {
		if c.Interface == iface {
			s.start = time.Time{}
		}
	}
}

// round announces what is due and returns when the next is.
func (a *Announcer) round(now time.Time) (next time.Time) {
	next = now.Add(a.opts.Refresh)
	a.mu.Lock()
	var due []Claim
	for c, s := range a.claims {
		if s.start.IsZero() {
			s.begin(now, a.opts.Burst)
		}
		if !s.due.After(now) {
			due = append(due, c)
		} else if s.due.Before(next) {
			next = s.due
		}
	}
	a.mu.Unlock()
	slices.SortFunc(due, func(x, y Claim) int {
		if x.Interface != y.Interface {
			if x.Interface < y.Interface {
				return -1
			}
			return 1
		}
		return x.Addr.Compare(y.Addr)
	})
	failed := make(map[string]error)
	tried := make(map[string]bool)
	for _, c := range due {
		tried[c.Interface] = true
		when, err := a.announce(c, now)
		if err != nil {
			failed[c.Interface] = err
		}
		if !when.IsZero() && when.Before(next) {
			next = when
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tried)) {
		a.report(name, failed[name])
	}
	a.forget()
	return next
}

// announce sends one announcement and returns when the next one of this claim is due. A claim that was
// withdrawn meanwhile is not announced.
func (a *Announcer) announce(c Claim, now time.Time) (time.Time, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.claims[c]
	if s == nil {
		return time.Time{}, nil
	}
	p, err := a.port(c.Interface)
	if err == nil {
		if err = p.Announce(c.Addr); err != nil {
			a.closePort(c.Interface)
		}
	}
	s.advance(now, a.opts.Burst, a.opts.Refresh)
	if err != nil {
		a.stats.Failures++
		return s.due, err
	}
	a.stats.Announcements++
	if !s.sent {
		s.sent = true
		a.opts.Log.Info("address announced", "address", c.Addr, "interface", c.Interface)
	}
	return s.due, nil
}

var (
	errNoInterface = errors.New("there is no such interface")
	errDown        = errors.New("the interface is down or has no carrier")
	errNotEthernet = errors.New("the interface does not speak Ethernet")
)

// port returns the open port of an interface.
func (a *Announcer) port(name string) (port, error) {
	if p := a.ports[name]; p != nil {
		return p, nil
	}
	for _, l := range a.links {
		switch {
		case l.name != name:
			continue
		case !l.ethernet:
			return nil, errNotEthernet
		case !l.up:
			return nil, errDown
		}
		p, err := a.wire.Open(l)
		if err != nil {
			return nil, err
		}
		a.ports[name] = p
		return p, nil
	}
	return nil, errNoInterface
}

// report tells of an interface that has stopped or begun to work.
func (a *Announcer) report(iface string, err error) {
	before, was := a.bad[iface]
	switch {
	case err == nil && was:
		delete(a.bad, iface)
		a.opts.Log.Info("interface announces again", "interface", iface)
		a.opts.Notify(iface, nil)
	case err != nil && (!was || before.Error() != err.Error()):
		a.bad[iface] = err
		a.opts.Log.Warn("addresses cannot be announced on interface", "interface", iface, "error", err)
		a.opts.Notify(iface, err)
	}
}

// forget drops what is kept of interfaces without claims.
func (a *Announcer) forget() {
	a.mu.Lock()
	used := make(map[string]bool, len(a.claims))
	for c := range a.claims {
		used[c.Interface] = true
	}
	a.mu.Unlock()
	for name := range a.ports {
		if !used[name] {
			a.closePort(name)
		}
	}
	for name := range a.bad {
		if !used[name] {
			delete(a.bad, name)
		}
	}
}
