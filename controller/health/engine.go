package health

import (
	"cmp"
	"container/heap"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drover-lb/drover/controller/adapt"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// Target is one probe: what is asked, and where. It is comparable; servers with the same targets share them.
type Target struct {
	Check spec.Check
	Place spec.Place
}

// Prober asks once. weight is that which the server is to have, or AsConfigured. mark is the firewall mark of what it sends, 0 for none. The error says why the answer is not
// as it should be, for people. It is called from many goroutines, and returns soon after ctx ends.
type Prober interface {
	Probe(ctx context.Context, t Target, mark uint32) (weight int, err error)
}

// AsConfigured is the weight that probes give which say nothing about it.
const AsConfigured = -1

// DefaultInFlight is how many probes are under way at a time.
const DefaultInFlight = 512

// Options of an Engine. Only Prober is required.
type Options struct {
	Prober   Prober
	Marks    uint32 // the first mark of private services; 0: there are none, and probes go to RIPs
	InFlight int    // default DefaultInFlight
	Log      *slog.Logger
	// Event is told of each change of a server's state, and must not block.
	Event func(Event)
	// Viewed is called after each new View, and must not block.
	Viewed func()
}

// Event is a change of a service or of one of its real servers.
type Event struct {
	Service string // its name
	Server  string // its name; "" if it is about the service
	State   string // that the server has now: up or down; "" if it is about the service
	Text    string
	Bad     bool
	First   bool // nothing was known of the server before
	Weight  bool // it is about a weight that follows loads
}

// Engine has real servers probed as a spec says. Make one with [New]; it does nothing before [Engine.Run].
type Engine struct {
	opts    Options
	log     *slog.Logger
	view    atomic.Pointer[View]
	private atomic.Pointer[plan.State]
	changed chan struct{} // capacity 1
	wake    chan struct{} // capacity 1
	results chan result
	probes  atomic.Uint64
	views   atomic.Uint64
	adapted atomic.Pointer[Adapted]

	mu         sync.Mutex // guards what follows
	spec       *spec.Spec // the newest, nil once it is taken in
	viaVIP     bool
	programmed map[uint32]ipvs.Destination // marks whose services are in the kernel
	news       bool                        // programmed has changed
	agents     map[netip.Addr]Agent
	heard      bool                // agents has changed
	shared     View                // what the active director has told
	told       bool                // shared is new
	loads      map[netip.Addr]load // that agents tell, by the servers' addresses
	lead       bool                // this director is active

	// What follows belongs to the goroutine of Run.

	current  *spec.Spec
	path     bool // viaVIP as taken in
	targets  map[Target]*target
	queue    queue
	waiting  []*target // for their private service
	inFlight int
	marks    marks
	ready    map[uint32]ipvs.Destination // programmed as taken in
	services map[ipvs.Key]*service
	known    map[netip.Addr]Agent // agents as taken in
	reorder  bool                 // the queue is out of order
	others   View                 // shared as taken in
	leads    bool                 // lead as taken in
	dirty    map[ipvs.Key]bool    // services to be judged
	judged   time.Time
	fresh    bool      // the spec or the way is new
	next     time.Time // the earliest of the services' own; zero: none
	follows  bool      // the weights of a service follow loads
	adapting time.Time // when weights were last adapted; zero: they are not
}

// target is a probe with its state and those who share it.
type target struct {
	Target
	track  Track
	due    time.Time
	queued bool // or else it is under way, or waits
	users  []ipvs.Key
	gone   bool
	weight int       // that the last good result gave
	silent bool      // the agent of the server is not heard
	cancel func()    // ends the probe that is under way; nil if there is none
	began  time.Time // when it was started
}

type result struct {
	t      *target
	reason string
	weight int
	began  time.Time
}

// service is a service of the spec with the targets of each server.
type service struct {
	spec    *spec.Service
	targets [][]*target // by server
	pool    *pool
	inputs  []Input
	next    time.Time     // when it is to be judged even if nothing changes; zero: never
	within  time.Duration // falls that are so close count as one
	adaptive
}

// New returns an engine for no services.
func New(o Options) *Engine {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Event == nil {
		o.Event = func(Event) {}
	}
	if o.Viewed == nil {
		o.Viewed = func() {}
	}
	o.InFlight = cmp.Or(o.InFlight, DefaultInFlight)
	e := &Engine{
		opts: o, log: o.Log, changed: make(chan struct{}, 1), wake: make(chan struct{}, 1), results: make(chan result, o.InFlight),
		current: &spec.Spec{}, targets: make(map[Target]*target), services: make(map[ipvs.Key]*service), dirty: make(map[ipvs.Key]bool),
	}
	e.marks.first = o.Marks
	e.view.Store(&View{})
	e.adapted.Store(&Adapted{})
	e.private.Store(&plan.State{})
	return e
}

// String names the task.
func (e *Engine) String() string { return "health checks" }

// Changed has a value when View or Private may say something new.
func (e *Engine) Changed() <-chan struct{} { return e.changed }

// View is what is known now.
func (e *Engine) View() View { return *e.view.Load() }

// Private are the services that probes to VIPs need in the kernel.
func (e *Engine) Private() plan.State { return *e.private.Load() }

// Revision rises with each new View.
func (e *Engine) Revision() uint64 { return e.views.Load() }

// Probes counts the probes that were started.
func (e *Engine) Probes() uint64 { return e.probes.Load() }

// SetSpec makes s what is checked. The engine keeps s, which must not be changed any more.
func (e *Engine) SetSpec(s *spec.Spec) {
	e.mu.Lock()
	e.spec = s
	e.mu.Unlock()
	nudge(e.wake)
}

// SetPath says whether packets that carry a mark are forwarded by this host. If not, all probes go to the real
// servers' own addresses.
func (e *Engine) SetPath(viaVIP bool) {
	e.mu.Lock()
	same := e.viaVIP == viaVIP
	e.viaVIP = viaVIP
	e.mu.Unlock()
	if !same {
		nudge(e.wake)
	}
}

// Programmed says which private services are in the kernel.
func (e *Engine) Programmed(st plan.State) {
	in := make(map[uint32]ipvs.Destination, len(st.Services))
	for i := range st.Services {
		if s := &st.Services[i]; len(s.Servers) == 1 && s.Servers[0].Weight > 0 {
			in[s.FWMark] = s.Servers[0]
		}
	}
	e.mu.Lock()
	same := maps.Equal(e.programmed, in)
	e.programmed = in
	e.news = e.news || !same
	e.mu.Unlock()
	if !same {
		nudge(e.wake)
	}
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run checks until ctx ends, and returns nil.
func (e *Engine) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		e.takeIn()
		e.revive()
		e.adapt(time.Now())
		wait := e.start(ctx, &running)
		if len(e.dirty) > 0 || e.fresh {
			if soon := judgeGap - time.Since(e.judged); soon > 0 {
				wait = min(wait, soon)
			} else {
				e.judge()
			}
		}
		if !e.next.IsZero() {
			wait = min(wait, time.Until(e.next))
		}
		if !e.adapting.IsZero() {
			wait = min(wait, time.Until(e.adapting.Add(adapt.Every)))
		}
		timer.Reset(max(wait, 0))
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-timer.C:
		case r := <-e.results:
			e.result(r)
			for more := true; more; {
				select {
				case r := <-e.results:
					e.result(r)
				default:
					more = false
				}
			}
		}
	}
}

// takeIn takes in what others have set.
func (e *Engine) takeIn() {
	e.mu.Lock()
	s, path, news := e.spec, e.viaVIP && e.opts.Marks != 0, e.news
	agents, heard := e.agents, e.heard
	shared, told := e.shared, e.told
	turned := e.leads != e.lead
	if e.leads = e.lead; turned {
		e.others = nil
	}
	e.spec, e.news, e.heard, e.told = nil, false, false, false
	if news {
		e.ready = e.programmed
	}
	e.mu.Unlock()
	if news {
		for _, t := range e.waiting {
			if !t.gone {
				e.enqueue(t)
			}
		}
		e.waiting = nil
	}
	if s != nil || path != e.path {
		if s != nil {
			e.current = s
		}
		e.path = path
		e.assign(time.Now())
	}
	if heard || s != nil {
		e.hear(agents, time.Now())
	}
	if told && !e.leads {
		e.follow(shared)
	}
	if turned {
		e.pace(time.Now())
	}
	if e.reorder {
		heap.Init(&e.queue)
		e.reorder = false
	}
}

// assign makes targets of the current spec. Those that go on keep their state, and so do those of which only the
// way changes.
func (e *Engine) assign(now time.Time) {
	old, before := e.targets, e.services
	e.targets, e.services = make(map[Target]*target), make(map[ipvs.Key]*service)
	used := make(map[via]bool)
	e.follows = false
	for i := range e.current.Services {
		s := &e.current.Services[i]
		if !s.Checked() {
			continue
		}
		svc := &service{spec: s, targets: make([][]*target, len(s.RealServers)), pool: &pool{}, inputs: make([]Input, len(s.RealServers))}
		if b := before[s.Key]; b != nil {
			svc.pool = b.pool
			svc.adaptive = b.adaptive
		}
		svc.adaptive.set(s)
		e.follows = e.follows || s.Adaptive.On
		for k := range s.Checks {
			c := &s.Checks[k]
			svc.within = max(svc.within, minWithin, 2*(c.Interval+time.Duration(c.Fall)*(c.Fast+c.Timeout)))
		}
		e.services[s.Key] = svc
		for j := range s.RealServers {
			d := &s.RealServers[j].Destination
			for k := range s.Checks {
				c := &s.Checks[k]
				path := c.Path
				if !e.path || d.Forward == ipvs.Masq { // such a server does not have the VIP
					path = spec.PathRIP
				}
				t := e.target(old, Target{*c, s.Place(c, path, d)}, now)
				if t.track.State == Unknown {
					t.track = inherited(before[s.Key], c, d.DestKey)
				}
				if n := len(t.users); n == 0 || t.users[n-1] != s.Key {
					t.users = append(t.users, s.Key)
				}
				svc.targets[j] = append(svc.targets[j], t)
				if t.Place.Via.Addr.IsValid() {
					used[viaOf(t.Place)] = true
				}
			}
		}
	}
	e.queue = e.queue[:0]
	for _, t := range old {
		t.gone = e.targets[t.Target] != t
	}
	for _, t := range e.targets {
		if t.queued {
			e.queue = append(e.queue, t)
		}
	}
	heap.Init(&e.queue)
	e.marks.assign(used)
	private := e.marks.table()
	e.private.Store(&private)
	clear(e.dirty)
	for k := range e.services {
		e.dirty[k] = true
	}
	e.judged, e.fresh = time.Time{}, true
}

// enqueue puts a target into the queue.
func (e *Engine) enqueue(t *target) {
	t.queued = true
	heap.Push(&e.queue, t)
}

// target finds a target among the old ones or the new ones, or makes it.
func (e *Engine) target(old map[Target]*target, key Target, now time.Time) *target {
	if t := e.targets[key]; t != nil {
		return t
	}
	t := old[key]
	if t == nil {
		t = &target{Target: key, due: now, queued: true, weight: AsConfigured}
	}
	t.users = nil
	e.targets[key] = t
	return t
}

// inherited is the state of the same check of the same server by another way, if there was one.
func inherited(before *service, c *spec.Check, k ipvs.DestKey) Track {
	if before == nil {
		return Track{}
	}
	for j := range before.spec.RealServers {
		if before.spec.RealServers[j].DestKey != k {
			continue
		}
		for _, t := range before.targets[j] {
			if t.Check == *c {
				return Track{State: t.track.State, Since: t.track.Since, Reason: t.track.Reason}
			}
		}
	}
	return Track{}
}

// start starts what is due, and returns how long nothing else will be.
func (e *Engine) start(ctx context.Context, running *sync.WaitGroup) time.Duration {
	now := time.Now()
	for len(e.queue) > 0 && e.inFlight < e.opts.InFlight {
		t := e.queue[0]
		if wait := t.due.Sub(now); wait > 0 {
			return wait
		}
		heap.Pop(&e.queue)
		t.queued = false
		mark := t.Check.Mark
		if t.Place.Via.Addr.IsValid() {
			mark = e.marks.of[viaOf(t.Place)]
			if in, ok := e.ready[mark]; mark == 0 || !ok || in != t.Place.Via {
				e.waiting = append(e.waiting, t)
				continue
			}
		}
		t.due = now.Add(jitter(e.interval(t)))
		e.inFlight++
		e.probes.Add(1)
		ctx, cancel := context.WithTimeout(ctx, t.timeout())
		t.cancel, t.began = cancel, now
		running.Go(func() {
			defer cancel()
			r := result{t: t, began: now}
			var err error
			if r.weight, err = e.opts.Prober.Probe(ctx, t.Target, mark); err != nil {
				r.reason = err.Error()
			}
			e.results <- r // there is room for all that are under way
		})
	}
	return time.Hour
}

// interval is how long after the start of a probe the next one starts.
func (e *Engine) interval(t *target) time.Duration {
	switch {
	case !e.leads && e.others != nil:
		return t.Check.Interval * standbyPace
	case t.track.Changing():
		return t.Check.Fast
	}
	return t.Check.Interval
}

// pace makes what is in the queue due no later than this director's pace has it.
func (e *Engine) pace(now time.Time) {
	if e.leads {
		for _, t := range e.targets {
			if latest := now.Add(jitter(e.interval(t))); t.due.After(latest) {
				t.due = latest
			}
		}
		e.reorder = true
	}
	for k := range e.services {
		e.dirty[k] = true
	}
	e.judged = time.Time{}
}

// jitter is d, up to a tenth more or less.
func jitter(d time.Duration) time.Duration {
	return d + time.Duration((rand.Float64()-0.5)/5*float64(d))
}

// result takes in the result of a probe.
func (e *Engine) result(r result) {
	e.inFlight--
	t := r.t
	t.cancel = nil
	if t.gone {
		return
	}
	now := time.Now()
	was := t.track.Changing()
	fall := t.Check.Fall
	if t.silent {
		fall = 1 // there are two witnesses
	}
	changed := t.track.Add(r.reason, now, t.Check.Rise, fall)
	if r.reason != "" && !was && t.Place.Via.Addr.IsValid() {
		nudge(e.changed) // it may be the table: somebody else may have deleted the private service, or all
	}
	weighed := r.reason == "" && r.weight != t.weight
	if r.reason == "" {
		t.weight = r.weight
	}
	if was != t.track.Changing() {
		t.due = r.began.Add(jitter(e.interval(t)))
	}
	if t.due.Before(now) {
		t.due = now
	}
	e.enqueue(t)
	if changed || weighed || was || t.track.Changing() {
		for _, k := range t.users {
			e.dirty[k] = true
		}
	}
}

// minWithin is how close falls have to be at least to count as one.
const minWithin = 5 * time.Second

// revive makes those services dirty whose time has come.
func (e *Engine) revive() {
	now := time.Now()
	if e.next.IsZero() || now.Before(e.next) {
		return
	}
	e.next = time.Time{}
	for k, s := range e.services {
		switch {
		case s.next.IsZero():
		case now.Before(s.next):
			e.wakeAt(s.next)
		default:
			e.dirty[k] = true
		}
	}
}

func (e *Engine) wakeAt(t time.Time) {
	if !t.IsZero() && (e.next.IsZero() || t.Before(e.next)) {
		e.next = t
	}
}

// judgeGap is the least time between two judgements, so that many results at once cost one.
const judgeGap = 5 * time.Millisecond

// judge renews the view of the services that are dirty.
func (e *Engine) judge() {
	now := time.Now()
	old := e.View()
	loud := false
	view := make(View, len(e.services))
	for k := range e.services {
		view[k] = old[k]
	}
	for k := range e.dirty {
		svc := e.services[k]
		for j, targets := range svc.targets {
			d := &svc.spec.RealServers[j]
			x := e.said(svc.spec, d.Addr, e.heardOf(svc.spec, d.DestKey, worst(targets)), now)
			svc.inputs[j] = Input{Key: d.DestKey, Name: d.Name, Weight: weigh(targets, d.InForce()), State: x.State, Since: x.Since, Reason: x.Reason, Factor: svc.factor(d.DestKey)}
		}
		rules := svc.spec.Reaction()
		svc.pool.fine = svc.fine()
		out, next, news := svc.pool.step(&rules, svc.inputs, now, svc.within)
		svc.next = next
		e.wakeAt(next)
		view[k] = out
		loud = loud || !out.same(old[k])
		e.tell(svc, old[k], out, news)
	}
	e.view.Store(&view)
	e.views.Add(1)
	e.opts.Viewed()
	if loud || e.fresh {
		nudge(e.changed)
	}
	e.fresh = false
	clear(e.dirty)
	e.judged = now
}

// tell tells what is new about a service.
func (e *Engine) tell(svc *service, before, now *Service, news []string) {
	for i := range svc.inputs {
		in := &svc.inputs[i]
		was := Verdict{}
		if before != nil {
			was = before.Servers[in.Key]
		}
		if v := now.Servers[in.Key]; v.State != was.State && v.State != Unknown {
			text := "is " + v.State.String()
			if v.State == Down {
				text += ": " + in.Reason
			}
			e.opts.Event(Event{Service: svc.spec.Name, Server: in.Name, State: v.State.String(), Text: text, Bad: v.State == Down, First: was.State == Unknown})
		}
	}
	for _, text := range news {
		e.opts.Event(Event{Service: svc.spec.Name, Text: text, Bad: now.Panics || now.Sorry})
	}
}

// weigh is the weight of a server whose spec gives it a configured one: the least that its checks give. A server
// whose weight is 0 stays so.
func weigh(targets []*target, configured uint32) uint32 {
	least := configured
	given := false
	for _, t := range targets {
		if w := t.weight; w >= 0 && configured > 0 && (!given || uint32(w) < least) {
			least, given = uint32(w), true
		}
	}
	return least
}

// worst is the worst of what the targets of a server say.
func worst(targets []*target) Track {
	v := Track{State: Up}
	for _, t := range targets {
		x := &t.track
		reason := ""
		if x.Reason != "" {
			reason = string(t.Check.Kind) + " " + t.Place.To.String() + ": " + x.Reason
		}
		switch {
		case x.State == Down && v.State != Down:
			v = Track{State: Down, Since: x.Since, Reason: reason}
		case x.State == Down:
		case x.State == Unknown && v.State == Up:
			v = Track{State: Unknown, Reason: reason}
		case v.State == Up:
			if x.Since.After(v.Since) {
				v.Since = x.Since
			}
			v.Reason = cmp.Or(v.Reason, reason)
		}
	}
	return v
}

// queue has what is not under way, what is due first on top.
type queue []*target

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*target)) }

func (q *queue) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return t
}
