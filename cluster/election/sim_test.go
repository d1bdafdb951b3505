package election

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	simSteps = flag.Int("sim.steps", 0, "steps of the simulator; 0: ten million, a million under -race or -short")
	simSeed  = flag.Uint64("sim.seed", 0, "first seed of the simulator; 0: 1")
)

func budget() int {
	switch {
	case *simSteps > 0:
		return *simSteps
	case raceEnabled || testing.Short():
		return 1_000_000
	}
	return 10_000_000
}

// sim runs the cores of one cluster in real time with clocks of their own, and breaks what can be broken. Only what it
// draws from its seed decides what happens.
//
// A node holds a group from Active until its shell says that the address is off, or until its deadline on its
// own clock, also if it is paused or dead: the kernel takes the address away at the deadline, not before.
type sim struct {
	seed    uint64
	r       *rand.Rand
	now     time.Duration
	steps   int
	queue   []event // heap
	order   uint64
	nodes   []*simNode
	groups  []string
	voters  []string
	names   []string
	lease   time.Duration
	cut     [][]bool
	lag     []time.Duration // of all that is sent to a node
	loss    float64
	slow    float64 // share of messages with long delays
	quiet   bool    // no faults any more
	past    []*flight
	broken  broken
	epochs  []uint64 // by group: of the last activation
	promise Version  // acknowledged and confirmed
	trace   []record
	traceAt int
	fault   string // what was violated
	stats   simStats
}

type simStats struct{ activations, restarts, pauses, replays, lost, late, changes int }

type simNode struct {
	name     string
	i        int
	director bool
	voter    bool
	core     *Core
	rate     float64
	offset   time.Duration
	life     int
	down     bool
	paused   bool
	waiting  []*flight
	timer    time.Duration   // real time of the earliest timer event in the queue
	holds    []hold          // by group
	ghost    []time.Duration // by group: how long the address of a former life may be there
	stored   Version         // on disk
	acked    Version         // on disk
	odd      bool            // has another configuration
}

type hold struct {
	on    bool
	until time.Duration // real time
	gen   int
}

type flight struct {
	from, to int
	life     int  // of the receiver when it was sent
	got      bool // has been delivered once
	m        Message
}

type event struct {
	at    time.Duration
	order uint64
	what  string
	node  int
	group int
	gen   int
	fl    *flight
	do    func()
}

type record struct {
	at   time.Duration
	node int
	what string
	fl   *flight
	text string
}

func (s *sim) push(e event) {
	s.order++
	e.order = s.order
	q := append(s.queue, e)
	i := len(q) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !before(&q[i], &q[p]) {
			break
		}
		q[i], q[p] = q[p], q[i]
		i = p
	}
	s.queue = q
}

func before(a, b *event) bool { return a.at < b.at || a.at == b.at && a.order < b.order }

func (s *sim) pop() event {
	q := s.queue
	e := q[0]
	n := len(q) - 1
	q[0] = q[n]
	q[n] = event{}
	q = q[:n]
	for i := 0; ; {
		l := 2*i + 1
		if l >= n {
			break
		}
		if l+1 < n && before(&q[l+1], &q[l]) {
			l++
		}
		if !before(&q[l], &q[i]) {
			break
		}
		q[i], q[l] = q[l], q[i]
		i = l
	}
	s.queue = q
	return e
}

func (s *sim) note(node int, what string, fl *flight, text string) {
	if len(s.trace) < 120 {
		s.trace = append(s.trace, record{})
	}
	s.trace[s.traceAt] = record{s.now, node, what, fl, text}
	s.traceAt = (s.traceAt + 1) % 120
}

func (s *sim) story() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, step %d, voters %v, directors", s.seed, s.steps, s.voters)
	for _, n := range s.nodes {
		fmt.Fprintf(&b, " %s(rate %.3f)", n.name, n.rate)
	}
	b.WriteByte('\n')
	for i := range s.trace {
		r := s.trace[(s.traceAt+i)%len(s.trace)]
		if r.what == "" {
			continue
		}
		fmt.Fprintf(&b, "%14v %s %s %s", r.at, s.nodes[r.node].name, r.what, r.text)
		if r.fl != nil {
			fmt.Fprintf(&b, "%s->%s class %d session %d seq %d sent %v %+v", s.names[r.fl.from], s.names[r.fl.to], r.fl.m.Class,
				r.fl.m.Session, r.fl.m.Seq, r.fl.m.Sent, r.fl.m.Entries)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (n *simNode) local(t time.Duration) time.Duration {
	return n.offset + time.Duration(float64(t)*n.rate)
}

func (n *simNode) real(local time.Duration) time.Duration {
	if local == Forever {
		return Forever
	}
	return time.Duration(float64(local-n.offset)/n.rate) + 1
}

func (s *sim) between(a, b time.Duration) time.Duration {
	return a + time.Duration(s.r.Int64N(int64(b-a)+1))
}

func newSim(seed uint64, br broken) *sim {
	s := &sim{seed: seed, r: rand.New(rand.NewPCG(seed, 7)), lease: 400 * time.Millisecond, broken: br}
	directors := 2 + s.r.IntN(2)
	witnesses := s.r.IntN(4)
	if directors == 2 && witnesses == 0 {
		witnesses = s.r.IntN(2)
	}
	for g := range 1 + s.r.IntN(2) {
		s.groups = append(s.groups, fmt.Sprintf("g%d", g))
	}
	s.epochs = make([]uint64, len(s.groups))
	for i := range directors + witnesses {
		n := &simNode{i: i, director: i < directors, voter: true}
		n.name = fmt.Sprintf("d%d", i)
		if !n.director {
			n.name = fmt.Sprintf("w%d", i)
		} else if witnesses >= 2 && s.r.IntN(4) == 0 {
			n.voter = false
		}
		switch s.r.IntN(4) {
		case 0:
			n.rate = 0.9
		case 1:
			n.rate = 1.1
		default:
			n.rate = 0.9 + 0.2*s.r.Float64()
		}
		n.offset = s.between(0, time.Hour)
		n.holds = make([]hold, len(s.groups))
		n.ghost = make([]time.Duration, len(s.groups))
		s.nodes = append(s.nodes, n)
		s.names = append(s.names, n.name)
		if n.voter {
			s.voters = append(s.voters, n.name)
		}
		s.lag = append(s.lag, 0)
		s.cut = append(s.cut, make([]bool, directors+witnesses))
	}
	s.mood()
	for _, n := range s.nodes {
		s.start(n)
	}
	s.plan()
	return s
}

// mood draws how bad the network is for a while.
func (s *sim) mood() {
	s.loss, s.slow = 0, 0
	if s.r.IntN(2) == 0 {
		s.loss = 0.4 * s.r.Float64() * s.r.Float64()
	}
	switch s.r.IntN(4) {
	case 0:
		s.slow = 0.3 * s.r.Float64() * s.r.Float64()
	case 1:
		s.slow = 0.7 * s.r.Float64()
	}
}

func (s *sim) start(n *simNode) {
	n.life++
	n.down, n.paused, n.waiting, n.timer = false, false, nil, Forever
	cfg := Config{Self: n.name, Candidate: n.director, Voters: s.voters, Groups: s.groups, Lease: s.lease,
		Priority: uint8(50 + 50*s.r.IntN(4)), PreemptDelay: -1, Incarnation: s.r.Uint64() | 1, Seed: s.r.Uint64(),
		Epoch: uint64(s.now / time.Millisecond)}
	for _, o := range s.nodes {
		if o.director {
			cfg.Candidates = append(cfg.Candidates, o.name)
		}
	}
	if n.odd {
		cfg.Voters = append(slices.Clone(s.voters), "x")
	}
	if s.r.IntN(3) == 0 {
		cfg.PreemptDelay = s.between(0, 3*s.lease)
	}
	c, err := New(cfg, n.local(s.now))
	if err != nil {
		panic(err)
	}
	c.broken = s.broken
	n.core = c
	s.note(n.i, "starts", nil, fmt.Sprintf("life %d, odd %v", n.life, n.odd))
	s.act(n, c.SetStored(n.local(s.now), n.stored))
	s.act(n, c.SetAcknowledged(n.local(s.now), n.acked))
	for _, g := range s.groups {
		if n.director && (s.quiet || s.r.IntN(8) > 0) {
			s.act(n, c.SetEligible(n.local(s.now), g, true, ""))
		}
	}
	s.forget()
}

// forget takes back the promise for a version that a majority of the voters does not know of any more: the
// cluster promises to survive less than that.
func (s *sim) forget() {
	n := 0
	for _, o := range s.nodes {
		if o.voter && o.core != nil && !o.core.acked.Less(s.promise) {
			n++
		}
	}
	if n <= len(s.voters)/2 {
		s.promise = Version{}
	}
}

// act does what a core wants.
func (s *sim) act(n *simNode, out Output) {
	for _, r := range out.Roles {
		g := slices.Index(s.groups, r.Group)
		h := &n.holds[g]
		s.note(n.i, r.Role.String(), nil, fmt.Sprintf("%s epoch %d until %v (%s)", r.Group, r.Epoch, n.real(r.Until), r.Why))
		switch r.Role {
		case Active:
			s.stats.activations++
			if r.Epoch <= s.epochs[g] {
				s.violated(fmt.Sprintf("%s: epoch %d of %s after %d", r.Group, r.Epoch, n.name, s.epochs[g]))
			}
			s.epochs[g] = max(s.epochs[g], r.Epoch)
			if g == 0 && n.stored.Less(s.promise) { // the active one of this group orders changes
				s.violated(fmt.Sprintf("%s active with version %v, acknowledged is %v", n.name, n.stored, s.promise))
			}
			h.gen++
			h.on = true
			h.until = n.real(r.Until)
		case Yielding:
			h.gen++
			late := s.between(0, s.lease/10)
			if s.r.IntN(20) == 0 && !s.quiet {
				late = s.between(0, s.lease)
			}
			s.push(event{at: s.now + late, what: "yielded", node: n.i, group: g, gen: h.gen})
		case Standby:
			h.gen++
			h.on, h.until = false, s.now
		}
	}
	for _, x := range out.Extended {
		g := slices.Index(s.groups, x.Group)
		if h := &n.holds[g]; h.on {
			h.until = max(h.until, n.real(x.Until))
		}
	}
	for i := range out.Send {
		e := &out.Send[i]
		to := slices.Index(s.names, e.To)
		if to < 0 {
			continue // the name of a node that does not exist, of an odd configuration
		}
		fl := &flight{from: n.i, to: to, life: s.nodes[to].life, m: e.Message}
		if s.steps%64 == 0 {
			if _, err := e.Message.MarshalBinary(); err != nil {
				s.violated(err.Error())
			}
		}
		if len(s.past) < 1024 {
			s.past = append(s.past, fl)
		} else if s.r.IntN(16) == 0 {
			s.past[s.r.IntN(1024)] = fl
		}
		s.send(fl)
		if !s.quiet && s.r.IntN(50) == 0 {
			s.send(fl)
		}
	}
	if !n.down && !n.paused {
		s.arm(n)
	}
}

// deliver hands a packet over. One that was delivered before, or was sent to a former life, must change nothing.
func (s *sim) deliver(n *simNode, fl *flight) {
	s.note(n.i, "gets", fl, "")
	if !fl.got && fl.life == n.life {
		fl.got = true
		s.act(n, n.core.Receive(n.local(s.now), s.names[fl.from], fl.m))
		return
	}
	s.act(n, n.core.Tick(n.local(s.now)))
	if s.broken != (broken{}) && !s.broken.replay {
		s.act(n, n.core.Receive(n.local(s.now), s.names[fl.from], fl.m))
		return
	}
	had := n.core.memory(nil)
	s.act(n, n.core.Receive(n.local(s.now), s.names[fl.from], fl.m))
	if has := n.core.memory(nil); !slices.Equal(had, has) {
		s.violated(fmt.Sprintf("an old packet changed %s: %v, before %v", n.name, has, had))
	}
}

// memory is all that decides about who may be active.
func (c *Core) memory(m []uint64) []uint64 {
	for g := range c.groups {
		t, r := &c.grants[g], &c.runs[g]
		if t.held {
			m = append(m, uint64(t.holder), t.inc, t.epoch, uint64(t.until))
		}
		m = append(m, uint64(t.successor), c.seen[g], uint64(r.phase), r.epoch, uint64(r.deadline))
		for i := range r.votes {
			m = append(m, uint64(r.votes[i].state), uint64(r.votes[i].until))
		}
	}
	for i := range c.peers {
		m = append(m, c.peers[i].inc, c.peers[i].session)
	}
	return m
}

func (s *sim) send(fl *flight) {
	if s.loss > 0 && s.r.Float64() < s.loss {
		s.stats.lost++
		return
	}
	delay := s.lag[fl.to] + s.between(50*time.Microsecond, time.Millisecond)
	if s.slow > 0 && s.r.Float64() < s.slow {
		s.stats.late++
		delay = s.lag[fl.to] + s.between(0, s.lease/4)
		if s.r.IntN(3) == 0 {
			delay = s.between(0, 2*s.lease)
		}
	}
	s.push(event{at: s.now + delay, what: "gets", node: fl.to, fl: fl})
}

func (s *sim) arm(n *simNode) {
	at := n.real(n.core.Next())
	if at == Forever {
		return
	}
	at = max(at, s.now)
	if s.r.IntN(8) == 0 {
		at += s.between(0, 3*time.Millisecond)
	}
	if n.timer <= at && n.timer >= s.now {
		return
	}
	n.timer = at
	s.push(event{at: at, what: "tick", node: n.i})
}

func (s *sim) violated(what string) {
	if s.fault == "" {
		s.fault = what
	}
}

// step does one event and checks.
func (s *sim) step() {
	e := s.pop()
	s.now = e.at
	s.steps++
	switch e.what {
	case "gets":
		n := s.nodes[e.node]
		if s.cut[e.fl.from][e.fl.to] || n.down {
			break
		}
		if n.paused {
			if len(n.waiting) < 256 {
				n.waiting = append(n.waiting, e.fl)
			}
			break
		}
		s.deliver(n, e.fl)
	case "tick":
		n := s.nodes[e.node]
		if n.timer == e.at {
			n.timer = Forever
		}
		if n.down || n.paused {
			break
		}
		if n.core.Next() <= n.local(s.now) {
			s.act(n, n.core.Tick(n.local(s.now)))
		} else {
			s.arm(n)
		}
	case "yielded":
		n := s.nodes[e.node]
		if n.down || n.holds[e.group].gen != e.gen {
			break
		}
		if n.paused {
			e.at = s.now + 10*time.Millisecond
			s.push(e)
			break
		}
		s.act(n, n.core.Yielded(n.local(s.now), s.groups[e.group]))
	case "do":
		e.do()
	}
	for g := range s.groups {
		holder := -1
		for i, n := range s.nodes {
			if n.has(g, s.now) {
				if holder >= 0 {
					s.violated(fmt.Sprintf("%s is held by %s and %s", s.groups[g], s.names[holder], n.name))
				}
				holder = i
			}
		}
	}
}

// plan does one fault and plans the next.
func (s *sim) plan() {
	s.push(event{at: s.now + s.between(0, s.lease), what: "do", do: func() {
		if !s.quiet {
			s.breakSomething()
			s.plan()
		}
	}})
}

func (s *sim) after(d time.Duration, f func()) {
	s.push(event{at: s.now + d, what: "do", do: f})
}

func (s *sim) breakSomething() {
	n := s.nodes[s.r.IntN(len(s.nodes))]
	if s.r.IntN(3) == 0 { // more happens to those that are active
		for _, o := range s.nodes {
			if o.has(0, s.now) {
				n = o
			}
		}
	}
	g := s.r.IntN(len(s.groups))
	switch s.r.IntN(18) {
	case 0, 1:
		s.pause(n, s.between(0, 2*s.lease))
	case 2, 3:
		if s.r.IntN(2) == 0 {
			for _, o := range s.nodes {
				if o.has(g, s.now) {
					n = o
				}
			}
		}
		if !n.down {
			s.crash(n)
			life := n.life
			pause := []time.Duration{0, s.between(0, s.lease/4), s.between(0, 2*s.lease)}[s.r.IntN(3)]
			s.after(pause, func() {
				if n.life == life {
					n.odd = s.r.IntN(12) == 0 && !s.quiet
					s.start(n)
				}
			})
		}
	case 4: // two halves
		side := make([]bool, len(s.nodes))
		for i := range side {
			side[i] = s.r.IntN(2) == 0
		}
		for i := range s.cut {
			for j := range s.cut[i] {
				s.cut[i][j] = side[i] != side[j]
			}
		}
		s.note(n.i, "cut", nil, fmt.Sprint(side))
		s.after(s.between(0, 4*s.lease), s.heal)
	case 5: // one direction
		if s.r.IntN(2) == 0 { // what comes is late, what is sent gets lost some time later
			s.lag[n.i] = s.between(0, s.lease)
			s.note(n.i, "lags", nil, s.lag[n.i].String())
			s.after(s.between(0, 2*s.lease), func() {
				for i := range s.cut {
					s.cut[n.i][i] = s.cut[n.i][i] || !s.quiet
				}
			})
			s.after(s.between(2*s.lease, 5*s.lease), s.heal)
			break
		}
		s.cut[n.i][s.r.IntN(len(s.nodes))] = true
		s.note(n.i, "cut one-way", nil, "")
		s.after(s.between(0, 4*s.lease), s.heal)
	case 6, 7: // one host, perhaps in one direction
		way := s.r.IntN(3)
		for i := range s.cut {
			s.cut[i][n.i] = s.cut[i][n.i] || way != 0
			s.cut[n.i][i] = s.cut[n.i][i] || way != 1
		}
		s.note(n.i, "cut host", nil, fmt.Sprint(way))
		s.after(s.between(0, 4*s.lease), s.heal)
	case 8:
		if up(n) {
			s.note(n.i, "step-down", nil, s.groups[g])
			s.act(n, n.core.StepDown(n.local(s.now), s.groups[g], []string{"", s.names[s.r.IntN(len(s.names))]}[s.r.IntN(2)]))
		}
	case 9:
		if up(n) && n.director {
			s.note(n.i, "promote", nil, s.groups[g])
			s.act(n, n.core.Promote(n.local(s.now), s.groups[g], false))
		}
	case 10:
		if up(n) && n.director {
			ok := s.r.IntN(3) > 0
			s.note(n.i, "eligible", nil, fmt.Sprint(ok))
			s.act(n, n.core.SetEligible(n.local(s.now), s.groups[g], ok, "drawn"))
		}
	case 11:
		s.mood()
	case 12, 13: // what was recorded comes again
		for range 1 + s.r.IntN(20) {
			if len(s.past) > 0 {
				s.stats.replays++
				fl := s.past[s.r.IntN(len(s.past))]
				s.push(event{at: s.now + s.between(0, s.lease/4), what: "gets", node: fl.to, fl: fl})
			}
		}
	case 14, 15: // a voter forgets, and the active one is cut off
		v := s.nodes[s.r.IntN(len(s.nodes))]
		for _, o := range s.nodes {
			if o != v && o.has(g, s.now) && s.r.IntN(2) == 0 {
				s.after(s.between(0, s.lease), func() {
					s.note(o.i, "cut off", nil, "")
					for i := range s.cut {
						s.cut[o.i][i], s.cut[i][o.i] = !s.quiet, !s.quiet && i%2 == 0
					}
					s.after(s.between(0, 4*s.lease), s.heal)
				})
			}
		}
		if up(v) && !v.odd {
			s.crash(v)
			s.start(v)
		}
	default:
		s.change()
	}
}

func up(n *simNode) bool { return !n.down && !n.paused }

func (s *sim) heal() {
	for i := range s.cut {
		clear(s.cut[i])
		s.lag[i] = 0
	}
	s.note(0, "heal", nil, "")
}

func (s *sim) pause(n *simNode, d time.Duration) {
	if !up(n) {
		return
	}
	s.stats.pauses++
	n.paused = true
	life := n.life
	s.note(n.i, "pauses", nil, d.String())
	s.after(d, func() {
		if n.life != life || !n.paused || n.down {
			return
		}
		s.note(n.i, "resumes", nil, "")
		n.paused = false
		mail := n.waiting
		n.waiting = nil
		if s.r.IntN(2) == 0 {
			s.act(n, n.core.Tick(n.local(s.now)))
		}
		for _, fl := range mail {
			s.deliver(n, fl)
		}
		s.arm(n)
	})
}

func (s *sim) crash(n *simNode) {
	s.stats.restarts++
	s.note(n.i, "crashes", nil, "")
	n.down = true
	n.life++
	for g := range n.holds {
		h := &n.holds[g]
		h.gen++
		if h.on {
			n.ghost[g] = max(n.ghost[g], h.until)
		}
		h.on = false
	}
}

// has reports whether the address may be on the host.
func (n *simNode) has(g int, now time.Duration) bool {
	return n.holds[g].on && n.holds[g].until > now || n.ghost[g] > now
}

// change is what an active director's shell does with a change of the spec: store it here and at the directors that can
// be reached, tell the core, acknowledge when a majority of the voters has confirmed it.
func (s *sim) change() {
	for _, n := range s.nodes {
		g := s.groups[0]
		if !up(n) || n.odd || n.core.runs[0].phase != active || !(n.holds[0].on && n.holds[0].until > s.now) {
			continue
		}
		s.stats.changes++
		v := Version{n.core.runs[0].epoch, n.stored.Index + 1}
		for _, o := range s.nodes {
			if o.director && up(o) && (o == n || !s.cut[n.i][o.i] && !s.cut[o.i][n.i]) {
				o.stored = v
				s.act(o, o.core.SetStored(o.local(s.now), v))
			}
		}
		s.act(n, n.core.SetAcknowledged(n.local(s.now), v))
		n.acked = v
		life, epoch := n.life, n.core.runs[0].epoch
		var look func()
		look = func() {
			if n.life != life || n.core.runs[0].epoch != epoch || n.core.runs[0].phase != active {
				return
			}
			if up(n) && n.holds[0].until > s.now && !n.core.Confirmed(g).Less(v) {
				if s.promise.Less(v) {
					s.note(n.i, "acknowledges", nil, v.String())
					s.promise = v
				}
				return
			}
			s.after(s.lease/8, look)
		}
		s.after(2*time.Millisecond, look)
	}
}

// calm ends all faults and returns what is not well after a bounded time.
func (s *sim) calm() string {
	s.quiet, s.loss, s.slow = true, 0, 0
	s.heal()
	newest := Version{}
	for _, n := range s.nodes {
		if n.stored.Epoch != 0 && newest.Less(n.stored) {
			newest = n.stored
		}
	}
	for _, n := range s.nodes {
		if n.down || n.odd {
			n.odd = false
			if !n.down {
				s.crash(n)
			}
			s.start(n)
		}
		if n.paused {
			n.paused = false
			n.waiting = nil
		}
		if n.director {
			n.stored = newest
			s.act(n, n.core.SetStored(n.local(s.now), n.stored))
			for _, g := range s.groups {
				s.act(n, n.core.SetEligible(n.local(s.now), g, true, ""))
			}
		}
		s.arm(n)
	}
	end := s.now + 6*s.lease
	for s.now < end && s.fault == "" {
		s.step()
	}
	if s.fault != "" {
		return ""
	}
	for g, name := range s.groups {
		n := 0
		for _, o := range s.nodes {
			if o.has(g, s.now) {
				n++
			}
		}
		if n != 1 {
			var b strings.Builder
			for _, o := range s.nodes {
				fmt.Fprintf(&b, "\n%s: %+v", o.name, o.core.Status(o.local(s.now), name))
			}
			return fmt.Sprintf("%s: %d active after six leases without faults%s", name, n, b.String())
		}
	}
	return ""
}

// simulate runs clusters of successive seeds until the budget is used up, and returns the first that went wrong.
func simulate(seed uint64, steps int, br broken) (bad *sim, used int, total simStats, runs int) {
	for used < steps {
		s := newSim(seed, br)
		limit := min(20_000, steps-used)
		for s.steps < limit && s.fault == "" {
			s.step()
		}
		if s.fault == "" {
			if what := s.calm(); what != "" && s.fault == "" {
				s.violated(what)
			}
		}
		used += s.steps
		runs++
		total.activations += s.stats.activations
		total.restarts += s.stats.restarts
		total.pauses += s.stats.pauses
		total.replays += s.stats.replays
		total.lost += s.stats.lost
		total.late += s.stats.late
		total.changes += s.stats.changes
		if s.fault != "" {
			return s, used, total, runs
		}
		seed++
	}
	return nil, used, total, runs
}

func TestSimulator(t *testing.T) {
	bad, used, stats, runs := simulate(max(*simSeed, 1), budget(), broken{})
	if bad != nil {
		t.Fatalf("%s\nrun again with -run TestSimulator -sim.seed=%d\n%s", bad.fault, bad.seed, bad.story())
	}
	t.Logf("%d steps in %d clusters: %+v", used, runs, stats)
	if stats.activations < used/5000 || stats.replays == 0 || stats.changes == 0 || stats.pauses == 0 {
		t.Errorf("too little happened: %+v", stats)
	}
}

// The simulator finds each rule that is switched off.
func TestSimulatorNotices(t *testing.T) {
	for _, test := range []struct {
		name string
		rule broken
		want string
	}{
		{"lease counted from the receipt of the grant", broken{countFromReceipt: true}, "is held by"},
		{"a voter is not silent after a start", broken{noSilence: true}, "is held by"},
		{"no drift allowance", broken{noDrift: true}, "is held by"},
		{"old packets accepted", broken{replay: true}, "an old packet changed"},
		{"anybody may release", broken{anyRelease: true}, "is held by"},
		{"a candidate claims to hold what it does not", broken{claimHeld: true}, "is held by"},
		{"half of the voters are enough", broken{halfQuorum: true}, "is held by"},
		{"a restarted candidate takes over its grant", broken{inherit: true}, "is held by"},
		{"versions do not matter", broken{ignoreVersion: true}, "acknowledged"},
	} {
		t.Run(test.name, func(t *testing.T) {
			bad, used, _, _ := simulate(max(*simSeed, 1), budget(), test.rule)
			if bad == nil {
				t.Fatalf("not noticed in %d steps", used)
			}
			t.Logf("noticed after %d steps: %s", used, bad.fault)
			if !strings.Contains(bad.fault, test.want) {
				t.Errorf("want %q", test.want)
			}
		})
	}
}

// The same seed gives the same history.
func TestSimulatorRepeats(t *testing.T) {
	for seed := range uint64(5) {
		var stories [2]string
		for i := range stories {
			s := newSim(seed, broken{})
			for range 10_000 {
				s.step()
			}
			stories[i] = s.story()
		}
		if stories[0] != stories[1] {
			t.Errorf("seed %d: two histories:\n%s\n\n%s", seed, stories[0], stories[1])
		}
	}
}
