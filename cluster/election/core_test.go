package election

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// net joins cores with a constant delay, in one time.
type net struct {
	t     *testing.T
	now   time.Duration
	delay time.Duration
	cores []*Core
	down  map[string]bool
	mail  []letter
	log   []string
	event []Event
	slow  bool // Yielded is not called
	sent  int
	cut   bool // nothing arrives
}

type letter struct {
	at       time.Duration
	from, to string
	m        Message
}

const ms = time.Millisecond

func newNet(t *testing.T, cfgs ...Config) *net {
	n := &net{t: t, delay: ms, down: map[string]bool{}}
	for i, cfg := range cfgs {
		if cfg.Lease == 0 {
			cfg.Lease = 400 * ms
		}
		if cfg.Groups == nil {
			cfg.Groups = []string{"g"}
		}
		cfg.Incarnation, cfg.Seed = uint64(i+1), cfg.Seed+uint64(i)
		if cfg.PreemptDelay == 0 {
			cfg.PreemptDelay = -1
		}
		c, err := New(cfg, 0)
		if err != nil {
			t.Fatal(err)
		}
		n.cores = append(n.cores, c)
	}
	for _, c := range n.cores {
		for _, g := range c.groups {
			n.do(c, c.SetEligible(0, g, true, ""))
		}
	}
	return n
}

func (n *net) core(name string) *Core {
	return n.cores[slices.IndexFunc(n.cores, func(c *Core) bool { return c.cfg.Self == name })]
}

func (n *net) do(c *Core, out Output) {
	for _, r := range out.Roles {
		n.log = append(n.log, fmt.Sprintf("%v %s %s %s", n.now, c.cfg.Self, r.Role, r.Why))
		if r.Role == Yielding && !n.slow {
			defer func() { n.do(c, c.Yielded(n.now, r.Group)) }()
		}
	}
	n.event = append(n.event, out.Events...)
	for _, e := range out.Send {
		b, err := e.Message.MarshalBinary()
		if err != nil {
			n.t.Fatal(err)
		}
		n.sent++
		if n.cut {
			continue
		}
		var m Message
		if err := m.UnmarshalBinary(b); err != nil {
			n.t.Fatal(err)
		}
		n.mail = append(n.mail, letter{n.now + n.delay, c.cfg.Self, e.To, m})
	}
}

func (n *net) run(until time.Duration) {
	for steps := 0; ; steps++ {
		if steps > 1e6 {
			n.t.Fatalf("no progress at %v", n.now)
		}
		next := until + 1
		for _, c := range n.cores {
			if !n.down[c.cfg.Self] {
				next = min(next, max(c.Next(), n.now))
			}
		}
		for _, l := range n.mail {
			next = min(next, l.at)
		}
		if next > until {
			n.now = until
			return
		}
		n.now = next
		if i := slices.IndexFunc(n.mail, func(l letter) bool { return l.at <= next }); i >= 0 {
			l := n.mail[i]
			n.mail = slices.Delete(n.mail, i, i+1)
			if !n.down[l.to] && slices.ContainsFunc(n.cores, func(c *Core) bool { return c.cfg.Self == l.to }) {
				c := n.core(l.to)
				n.do(c, c.Receive(n.now, l.from, l.m))
			}
			continue
		}
		for _, c := range n.cores {
			if !n.down[c.cfg.Self] && c.Next() <= n.now {
				n.do(c, c.Tick(n.now))
				if c.Next() <= n.now {
					n.t.Fatalf("%s: after Tick at %v the next is due at %v", c.cfg.Self, n.now, c.Next())
				}
			}
		}
	}
}

// active returns the names of those who are active for group.
func (n *net) active(group string) string {
	var names []string
	for _, c := range n.cores {
		if !n.down[c.cfg.Self] && c.Status(n.now, group).Role == Active {
			names = append(names, c.cfg.Self)
		}
	}
	return strings.Join(names, " ")
}

func (n *net) want(group, names string) {
	n.t.Helper()
	if got := n.active(group); got != names {
		n.t.Fatalf("active at %v: %q, want %q\n%s", n.now, got, names, strings.Join(n.log, "\n"))
	}
}

func three() []Config {
	v := []string{"d1", "d2", "w"}
	return []Config{{Self: "d1", Candidate: true, Voters: v, Candidates: v[:2], Priority: 200}, {Self: "d2", Candidate: true, Voters: v, Candidates: v[:2]}, {Self: "w", Voters: v, Candidates: v[:2]}}
}

func TestElects(t *testing.T) {
	n := newNet(t, three()...)
	n.run(390 * ms)
	n.want("g", "")
	n.run(500 * ms)
	n.want("g", "d1")
	n.run(10 * time.Second)
	n.want("g", "d1")
	if len(n.log) != 1 {
		t.Errorf("roles changed in quiet times:\n%s", strings.Join(n.log, "\n"))
	}
	n.down["d1"] = true
	n.run(n.now + 420*ms)
	n.want("g", "d2")
	start := n.now
	n.do(n.core("d2"), n.core("d2").StepDown(n.now, "g", "")) // nobody else is there: it comes back
	n.run(start + 10*ms)
	n.want("g", "")
	n.run(start + 1000*ms)
	n.want("g", "d2")
}

func TestHandsOver(t *testing.T) {
	n := newNet(t, three()...)
	n.run(time.Second)
	n.want("g", "d1")
	n.do(n.core("d1"), n.core("d1").StepDown(n.now, "g", "d2"))
	n.run(n.now + 5*ms)
	n.want("g", "d2")
	n.run(n.now + 5*time.Second)
	n.want("g", "d2")
	n.do(n.core("d1"), n.core("d1").Promote(n.now, "g", false))
	n.run(n.now + 6*ms)
	n.want("g", "d1")
	n.run(n.now + 500*ms)
	n.do(n.core("d1"), n.core("d1").SetEligible(n.now, "g", false, "maintenance"))
	n.run(n.now + 20*ms)
	n.want("g", "d2")
	if got := n.core("d1").Status(n.now, "g").Waiting; got != "not eligible: maintenance" {
		t.Errorf("status says %q", got)
	}
}

// distribution returns the least, the median, the 95th of a hundred and the largest.
func distribution(ds []time.Duration) string {
	slices.Sort(ds)
	n := len(ds)
	return fmt.Sprintf("%d times: %v .. median %v .. p95 %v .. %v", n, ds[0], ds[n/2], ds[n*95/100], ds[n-1])
}

// until runs until somebody is active and returns how long that took.
func (n *net) until(group string, limit time.Duration) time.Duration {
	n.t.Helper()
	start := n.now
	for n.active(group) == "" {
		if n.now-start > limit {
			n.t.Fatalf("nobody is active %v after %v\n%s", n.now-start, start, strings.Join(n.log, "\n"))
		}
		n.run(n.now + ms/4)
	}
	return n.now - start
}

// Without other faults, clocks equal: after a crash of the active one a director is active within the lease, plus what
// a campaign takes; a planned handover takes a few message delays.
func TestHowLongTakeoverTakes(t *testing.T) {
	const lease, delay = 400 * ms, ms / 2
	for _, five := range []bool{false, true} {
		var crash, planned []time.Duration
		for i := range 200 {
			cfgs := three()
			if five {
				v := []string{"d1", "d2", "d3", "w1", "w2"}
				cfgs = nil
				for _, name := range v {
					cfgs = append(cfgs, Config{Self: name, Candidate: name[0] == 'd', Voters: v, Candidates: v[:3]})
				}
			}
			for j := range cfgs {
				cfgs[j].Seed = uint64(i)
			}
			n := newNet(t, cfgs...)
			n.delay = delay
			n.run(2 * time.Second)
			first := n.active("g")
			n.run(n.now + time.Duration(i)*lease/200)
			n.down[first] = true
			crash = append(crash, n.until("g", 2*lease))
			n.run(n.now + time.Second)
			second := n.active("g")
			n.down[first] = false
			n.run(n.now + time.Second + time.Duration(i)*lease/200)
			n.want("g", second)
			n.do(n.core(second), n.core(second).StepDown(n.now, "g", first))
			planned = append(planned, n.until("g", lease))
			n.want("g", first)
		}
		t.Logf("five voters %v, lease %v, delay %v: crash %s", five, lease, delay, distribution(crash))
		t.Logf("planned %s", distribution(planned))
		if most := crash[len(crash)-1]; most > lease+lease/8 {
			t.Errorf("a crash took %v", most)
		}
		if most := planned[len(planned)-1]; most > 6*delay {
			t.Errorf("a handover took %v", most)
		}
	}
}
