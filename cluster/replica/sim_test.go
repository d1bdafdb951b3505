package replica

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var simSteps = flag.Int("simsteps", 20_000, "steps of each seed of the simulation")

// rules are what the simulated directors go by. A test breaks one of them and expects the simulation to
// notice.
type rules struct {
	appendTo func(Log, Entry) (Log, bool, error)
	next     func(r *round, live []string) (ask []string, open bool)
	verdict  func(r *round, live []string) error
	confirm  func(s *sim, v Version) error
	elect    func(s *sim, l Log) bool
	restate  bool
}

func goodRules() rules {
	return rules{
		appendTo: Log.Append,
		next:     (*round).next,
		verdict:  (*round).verdict,
		confirm: func(s *sim, v Version) error {
			if v.Epoch != s.epoch {
				return errors.New("the lease is lost")
			}
			if s.told.Less(v) {
				s.told = v
			}
			return nil
		},
		elect:   func(s *sim, l Log) bool { return !l.Version().Less(s.told) && !l.Version().Less(l.Acked()) },
		restate: true,
	}
}

// sim is a cluster of directors on one thread, with everything that can go wrong chosen by rng.
type sim struct {
	rng   *rand.Rand
	rules rules
	step  int
	trace []string

	nodes  []*simNode
	flight []message
	cut    map[[2]string]bool // from, to

	epoch   uint64  // of the last activation
	current string  // who has it
	told    Version // what the voters know to be acknowledged

	last    Version             // Change of the newest acknowledged one
	acked   int                 // changes
	parents map[Version]Version // by Change
	ids     map[Version][32]byte
	text    int
	events  map[string]int
}

type simNode struct {
	name   string
	disk   *memDisk
	store  *Store // nil: down
	active uint64 // epoch in which it believes to be active, or 0
	live   []string
	round  *round
	entry  Entry
	began  int // step of the round
	wiped  int // step at which its disk lost something
}

type message struct {
	from, to string
	entry    Entry
	acked    Version
	answer   bool
	err      error
}

type simFailure string

func (s *sim) failf(f string, args ...any) {
	panic(simFailure(fmt.Sprintf("step %d: %s\n%s", s.step, fmt.Sprintf(f, args...), strings.Join(s.trace[max(0, len(s.trace)-30):], "\n"))))
}

func (s *sim) note(f string, args ...any) {
	kind, _, _ := strings.Cut(f, ":")
	s.events[kind]++
	if len(s.trace) > 1000 {
		s.trace = append(s.trace[:0], s.trace[900:]...)
	}
	s.trace = append(s.trace, fmt.Sprintf("%d ", s.step)+fmt.Sprintf(f, args...))
}

func newSim(seed uint64, n int, r rules) *sim {
	s := &sim{rng: rand.New(rand.NewPCG(seed, 1)), rules: r, cut: make(map[[2]string]bool), parents: make(map[Version]Version), ids: make(map[Version][32]byte), events: make(map[string]int)}
	for i := range n {
		s.nodes = append(s.nodes, &simNode{name: string(rune('a' + i)), disk: newMemDisk(), wiped: -1})
	}
	for _, n := range s.nodes {
		s.start(n)
	}
	return s
}

func (s *sim) node(name string) *simNode { return s.nodes[name[0]-'a'] }

func (s *sim) start(n *simNode) {
	store, err := open(n.disk)
	if err != nil {
		s.failf("%s does not start: %v", n.name, err)
	}
	n.store = store
	n.active, n.round = 0, nil
	s.look(n)
	s.note("start: %s has %v", n.name, store.Log().Version())
}

// look lets n learn which directors are live.
func (s *sim) look(n *simNode) {
	n.live = nil
	for _, o := range s.nodes {
		if o != n && o.store != nil && !s.cut[[2]string{n.name, o.name}] && !s.cut[[2]string{o.name, n.name}] {
			n.live = append(n.live, o.name)
		}
	}
}

// ordered notes what a director has ordered.
func (s *sim) ordered(n *simNode, e Entry) {
	ref := e.Ref()
	if id, ok := s.ids[e.Version]; ok && id != ref.ID {
		s.failf("%s orders another %v", n.name, e.Version)
	}
	s.ids[e.Version] = ref.ID
	if p, ok := s.parents[e.Change]; ok && p != e.Parent {
		s.failf("%v has the parents %v and %v", e.Change, p, e.Parent)
	}
	s.parents[e.Change] = e.Parent
}

// builtOn reports whether the change is older or was built on it.
func (s *sim) builtOn(change, older Version) bool {
	for ; ; change = s.parents[change] {
		if change == older || older.IsZero() {
			return true
		}
		if change.IsZero() {
			return false
		}
	}
}

func (s *sim) begin(n *simNode, e Entry) {
	s.ordered(n, e)
	n.entry, n.round, n.began = e, newRound(e.Version, n.name), s.step
}

func (s *sim) propose(n *simNode) {
	s.text++
	var e Entry
	err := n.store.Lost()
	if err == nil {
		err = n.store.Update(func(l Log) (next Log, err error) {
			next, e, err = l.Propose(n.active, Version{}, fmt.Append(nil, "text ", s.text), Meta{Node: n.name, When: time.Unix(int64(s.text), 0)})
			if err == nil {
				s.parents[e.Change] = e.Parent // a failed write can be found after a crash
			}
			return next, err
		})
	}
	switch {
	case err == nil:
		s.note("order: %s orders %v after %v", n.name, e.Version, e.Parent)
		s.begin(n, e)
	case errors.Is(err, ErrDeposed), errors.Is(err, ErrBehind):
		n.active = 0
	case !errors.Is(err, ErrStorage) && !errors.Is(err, ErrDamaged):
		s.failf("%s orders: %v", n.name, err)
	}
}

func (s *sim) activate(n *simNode) {
	s.epoch = max(s.epoch, n.store.Log().Epoch()) + 1
	s.current, n.active, n.round = n.name, s.epoch, nil
	s.note("active: %s with epoch %d, newest is %v", n.name, s.epoch, n.store.Log().Version())
	if s.rules.restate {
		s.restate(n)
	}
}

func (s *sim) restate(n *simNode) {
	var e Entry
	var ok bool
	err := n.store.Update(func(l Log) (next Log, err error) {
		next, e, ok, err = l.Restate(n.active)
		return next, err
	})
	if err != nil && !errors.Is(err, ErrStorage) {
		s.failf("%s restates: %v", n.name, err)
	}
	if ok && err == nil {
		s.note("restate: %s restates %v as %v", n.name, e.Change, e.Version)
		s.begin(n, e)
	}
}

// pump goes on with a director's change.
func (s *sim) pump(n *simNode) {
	ask, open := s.rules.next(n.round, n.live)
	for _, to := range ask {
		s.send(message{from: n.name, to: to, entry: n.entry, acked: n.store.Log().Acked()})
	}
	if open {
		return
	}
	if err := s.rules.verdict(n.round, n.live); err != nil {
		s.note("unacknowledged: %s: %v", n.name, err)
		if errors.Is(err, ErrDeposed) {
			n.active = 0
		}
		n.round = nil
		return
	}
	if err := s.rules.confirm(s, n.entry.Version); err != nil {
		s.note("unconfirmed: %s: %v", n.name, err)
		n.round, n.active = nil, 0
		return
	}
	s.acknowledged(n)
}

func (s *sim) acknowledged(n *simNode) {
	e := n.entry
	s.note("acknowledge: %s acknowledges %v on %d", n.name, e.Version, len(n.round.stored))
	for _, name := range append([]string{n.name}, n.live...) {
		o := s.node(name)
		if o.wiped >= n.began || o.store == nil {
			continue
		}
		again, err := open(&memDisk{files: o.disk.files})
		if err != nil {
			s.failf("%s: %v", name, err)
		}
		if head, _ := again.Log().Head(); !s.builtOn(head.Change, e.Change) {
			s.failf("%s acknowledges %v, and %s has %v on its disk", n.name, e.Version, name, head.Version)
		}
	}
	if !s.builtOn(e.Change, s.last) {
		s.failf("%s acknowledges %v, which was not built on the acknowledged %v", n.name, e.Version, s.last)
	}
	if e.Version == e.Change {
		s.acked++
	}
	s.last = e.Change
	n.round = nil
	_ = n.store.Update(func(l Log) (Log, error) { return l.Acknowledge(e.Version), nil })
}

func (s *sim) send(m message) {
	if len(s.flight) < 200 {
		s.flight = append(s.flight, m)
	}
}

func (s *sim) deliver() {
	if len(s.flight) == 0 {
		return
	}
	i := s.rng.IntN(len(s.flight))
	m := s.flight[i]
	if s.rng.IntN(10) != 0 { // else it comes again
		s.flight[i] = s.flight[len(s.flight)-1]
		s.flight = s.flight[:len(s.flight)-1]
	}
	to := s.node(m.to)
	if s.rng.IntN(12) == 0 || to.store == nil || s.cut[[2]string{m.from, m.to}] {
		return
	}
	if m.answer {
		if to.round != nil && to.entry.Version == m.entry.Version && to.round.asked[m.from] {
			to.round.answer(m.from, m.err)
		}
		return
	}
	err := to.store.Update(func(l Log) (Log, error) {
		next, _, err := s.rules.appendTo(l, m.entry)
		return next.Acknowledge(m.acked), err
	})
	if err != nil {
		_, err = decodeAnswer(encodeError(err))
	}
	s.send(message{from: m.to, to: m.from, entry: m.entry, answer: true, err: err})
}

// catchUp takes from o what n lacks; it may break off.
func (s *sim) catchUp(n, o *simNode, whole bool) {
	d := o.store.Log().Digest()
	b, _ := d.MarshalBinary()
	if err := d.UnmarshalBinary(b); err != nil {
		s.failf("digest: %v", err)
	}
	for _, ref := range n.store.Log().Missing(d) {
		if !whole && s.rng.IntN(6) == 0 {
			return
		}
		e, err := o.store.Log().Get(ref.Version)
		if err != nil {
			s.failf("%s names %v: %v", o.name, ref.Version, err)
		}
		if err := n.store.Update(func(l Log) (Log, error) { return l.with(item{e.Ref(), e}), nil }); err != nil {
			return
		}
	}
	_ = n.store.Update(func(l Log) (Log, error) { return l.Acknowledge(d.Acked), nil })
}

// spare reports whether n's disk may lose something: only what another running director has too.
func (s *sim) spare(n *simNode) bool {
	return slices.ContainsFunc(s.nodes, func(o *simNode) bool {
		if o == n || o.store == nil {
			return false
		}
		head, _ := o.store.Log().Head()
		return !s.last.IsZero() && s.builtOn(head.Change, s.last) && !head.Version.Less(s.told)
	})
}

func (s *sim) elect() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if n.store != nil && n.name != s.current && s.rules.elect(s, n.store.Log()) {
		s.activate(n)
	}
}

func (s *sim) random() {
	s.step++
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	o := s.nodes[s.rng.IntN(len(s.nodes))]
	switch p := s.rng.IntN(1000); {
	case p < 450:
		s.deliver()
	case p < 700:
		if n.store != nil && n.round != nil {
			s.pump(n)
		}
	case p < 800:
		if n.store != nil && n.round == nil && n.active > 0 {
			s.propose(n)
		}
	case p < 860:
		if n.round != nil {
			n.round.retry()
			for peer := range n.round.asked {
				n.round.answer(peer, errNoAnswer)
			}
		}
	case p < 900:
		if n.store != nil && o.store != nil && o != n && !s.cut[[2]string{n.name, o.name}] && !s.cut[[2]string{o.name, n.name}] {
			s.catchUp(n, o, false)
		}
	case p < 930:
		if n.store != nil {
			s.look(n)
		}
	case p < 940:
		if n.round != nil {
			n.round = nil
			s.note("timeout: %s", n.name)
		}
	case p < 950:
		s.elect()
	case p < 953:
		if n.store != nil && s.current == n.name || s.rng.IntN(3) == 0 {
			if n.store != nil {
				s.note("crash: %s", n.name)
			}
			n.store, n.round, n.active = nil, nil, 0
			if s.current == n.name {
				s.current = ""
			}
		}
	case p < 965:
		if n.store == nil {
			s.start(n)
		}
	case p < 972:
		if o != n {
			s.cut[[2]string{n.name, o.name}] = s.rng.IntN(3) == 0
		}
	case p < 976:
		clear(s.cut)
	case p < 982:
		n.disk.fail([]error{nil, nil, syscall.ENOSPC}[s.rng.IntN(3)])
		n.disk.after = s.rng.IntN(2) == 0
		n.disk.stuck = []error{nil, syscall.EIO}[s.rng.IntN(2)]
	case p < 986:
		n.disk.fail(nil)
		n.disk.stuck = nil
	case p < 999:
		if n.store == nil && s.spare(n) {
			s.damage(n)
		}
	}
}

// damage takes something off a disk.
func (s *sim) damage(n *simNode) {
	n.wiped = s.step
	if s.rng.IntN(3) == 0 {
		s.note("wipe: %s", n.name)
		clear(n.disk.files)
		return
	}
	names, _ := n.disk.list()
	names = slices.DeleteFunc(names, func(name string) bool { return strings.Contains(name, badInfix) })
	if len(names) == 0 {
		return
	}
	name := names[len(names)-1]
	s.note("tear: %s %s", n.name, name)
	b := n.disk.files[name]
	if s.rng.IntN(2) == 0 || len(b) == 0 {
		n.disk.files[name] = b[:s.rng.IntN(len(b)+1)]
	} else {
		b[s.rng.IntN(len(b))] ^= 1 << s.rng.IntN(8)
	}
}

// heal ends all faults and checks that every director has the same, and nothing is lost.
func (s *sim) heal() {
	clear(s.cut)
	s.flight = nil
	for _, n := range s.nodes {
		n.disk.fail(nil)
		n.disk.stuck = nil
		if n.store == nil {
			s.start(n)
		}
	}
	for _, n := range s.nodes {
		s.look(n)
	}
	for range 2 {
		for _, n := range s.nodes {
			for _, o := range s.nodes {
				if o != n {
					s.catchUp(n, o, true)
				}
			}
		}
	}
	for try := 0; s.current == "" || s.node(s.current).active != s.epoch; try++ {
		if s.current = ""; try > 1000 {
			s.failf("nobody can become active")
		}
		s.elect()
	}
	n := s.node(s.current)
	n.round = nil
	if s.propose(n); n.round == nil {
		s.failf("%s cannot order a change", n.name)
	}
	for try := 0; n.round != nil; try++ {
		if try > 1000 {
			s.failf("%s cannot have a change acknowledged", n.name)
		}
		s.pump(n)
		for range 1000 {
			s.deliver()
		}
		if n.round != nil {
			n.round.retry()
			for peer := range n.round.asked {
				n.round.answer(peer, errNoAnswer)
			}
		}
	}
	for range 2 {
		for _, n := range s.nodes {
			for _, o := range s.nodes {
				if o != n {
					s.catchUp(n, o, true)
				}
			}
		}
	}
	first := s.nodes[0].store.Log()
	for _, n := range s.nodes {
		l := n.store.Log()
		if l.Digest().Hash != first.Digest().Hash || l.Acked() != first.Acked() {
			s.failf("%s has %v (acknowledged %v), %s has %v (acknowledged %v)", n.name, l.Version(), l.Acked(), s.nodes[0].name, first.Version(), first.Acked())
		}
		again, err := open(&memDisk{files: n.disk.files})
		if err != nil {
			s.failf("%s: %v", n.name, err)
		}
		if again.Log().Digest().Hash != l.Digest().Hash {
			s.failf("%s has something else on its disk", n.name)
		}
		if len(n.disk.files) > MaxHistory+1+maxBad {
			s.failf("%s has %d files", n.name, len(n.disk.files))
		}
	}
	if head, _ := first.Head(); head.Change != s.last {
		s.failf("%v is in force, %v was acknowledged last", head.Change, s.last)
	}
}

// run returns what went wrong.
func runSim(seed uint64, nodes, steps int, r rules) (s *sim, err error) {
	s = newSim(seed, nodes, r)
	defer func() {
		if f, ok := recover().(simFailure); ok {
			err = errors.New(string(f))
		}
	}()
	for range steps {
		s.random()
		if s.rng.IntN(2000) == 0 {
			s.heal()
		}
	}
	s.heal()
	return s, nil
}

func TestSimulation(t *testing.T) {
	events := make(map[string]int)
	acked := 0
	for seed := range uint64(12) {
		s, err := runSim(seed, 2+int(seed%3), *simSteps, goodRules())
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for k, n := range s.events {
			events[k] += n
		}
		acked += s.acked
	}
	t.Logf("%d changes acknowledged, %v", acked, events)
	if acked < *simSteps*12/1000 {
		t.Errorf("only %d changes were acknowledged", acked)
	}
	for _, kind := range []string{"crash", "restate", "unacknowledged", "unconfirmed", "wipe", "tear", "timeout"} {
		if events[kind] < 10 {
			t.Errorf("only %d times %q: the simulation shows little", events[kind], kind)
		}
	}
}

func TestSimulationNoticesBrokenRules(t *testing.T) {
	for _, tt := range []struct {
		name   string
		broken func(*rules)
	}{
		{"acknowledged before followers have stored it", func(r *rules) {
			r.next = func(rd *round, live []string) ([]string, bool) { ask, _ := rd.next(live); return ask, false }
			r.verdict = func(*round, []string) error { return nil }
		}},
		{"acknowledged by one follower of two", func(r *rules) {
			r.next = func(rd *round, live []string) ([]string, bool) {
				ask, open := rd.next(live)
				return ask, open && len(rd.stored) < 2
			}
			r.verdict = func(*round, []string) error { return nil }
		}},
		{"a refusal counts as stored", func(r *rules) { r.verdict = func(*round, []string) error { return nil } }},
		{"a follower takes what a deposed director sends", func(r *rules) {
			r.appendTo = func(l Log, e Entry) (Log, bool, error) {
				next, ok, err := l.Append(e)
				if errors.Is(err, ErrDeposed) {
					err = nil
				}
				return next, ok, err
			}
			r.confirm = func(s *sim, v Version) error {
				if s.told.Less(v) {
					s.told = v
				}
				return nil
			}
		}},
		{"a deposed director acknowledges", func(r *rules) {
			r.confirm = func(s *sim, v Version) error {
				if s.told.Less(v) {
					s.told = v
				}
				return nil
			}
		}},
		{"voters do not compare versions", func(r *rules) { r.elect = func(*sim, Log) bool { return true } }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(12) {
				r := goodRules()
				tt.broken(&r)
				if s, err := runSim(seed, 2+int(seed%3), *simSteps, r); err != nil {
					first, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("seed %d, step %d: %s", seed, s.step, first)
					return
				}
			}
			t.Error("not noticed")
		})
	}
}
