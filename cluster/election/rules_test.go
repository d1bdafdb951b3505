package election

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestConfigRefused(t *testing.T) {
	long := strings.Repeat("n", 64)
	many := func(n int) (names []string) {
		for i := range n {
			names = append(names, fmt.Sprintf("n%02d", i))
		}
		return names
	}
	for _, test := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Self = "" }, "Self: a name (\"\") must be between 1 and 63 bytes"},
		{func(c *Config) { c.Self = long }, "between 1 and 63 bytes"},
		{func(c *Config) { c.Voters = nil }, "Voters: 0 names, must be between 1 and 15"},
		{func(c *Config) { c.Voters = many(16) }, "Voters: 16 names"},
		{func(c *Config) { c.Voters = []string{"a", "b", "a"} }, `Voters: "a" is named twice`},
		{func(c *Config) { c.Candidates = many(65) }, "Candidates: 65 names, must be between 0 and 64"},
		{func(c *Config) { c.Candidates = []string{"b"} }, `"a" is a candidate but not named there`},
		{func(c *Config) { c.Groups = many(65) }, "Groups: 65 names, must be between 1 and 64"},
		{func(c *Config) { c.Groups = []string{""} }, "Groups: a name"},
		{func(c *Config) { c.Lease = 99 * ms }, "Lease (99ms) must be between 100ms and 1m0s"},
		{func(c *Config) { c.Lease = 61 * time.Second }, "Lease (1m1s)"},
		{func(c *Config) { c.Drift = 201 * ms }, "Drift (201ms) must be between 0 and half of the lease (200ms)"},
		{func(c *Config) { c.Drift = -1 }, "Drift"},
		{func(c *Config) { c.GiveUp = 101 * ms }, "GiveUp (101ms) must be between 0 and a quarter of the lease (100ms)"},
		{func(c *Config) { c.Priority = 255 }, "Priority (255) must be between 1 and 254"},
		{func(c *Config) { c.Incarnation = 0 }, "Incarnation must not be 0"},
		{func(c *Config) { c.Mode = 2 }, "Mode (2) must be LeaseMode or PriorityMode"},
		{func(c *Config) { c.Mode = PriorityMode; c.Candidates = nil }, "Candidates: 0 names, must be between 1 and 64"},
	} {
		cfg := Config{Self: "a", Candidate: true, Voters: []string{"a"}, Groups: []string{"g"}, Lease: 400 * ms, Incarnation: 1}
		if _, err := New(cfg, 0); err != nil {
			t.Fatal(err)
		}
		test.change(&cfg)
		if _, err := New(cfg, 0); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v, want %q", err, test.want)
		}
	}
}

func TestOneVoter(t *testing.T) {
	n := newNet(t, Config{Self: "d1", Candidate: true, Voters: []string{"d1"}})
	n.run(500 * ms)
	n.want("g", "d1")
	n.run(time.Minute)
	if len(n.log) != 1 || n.sent != 0 {
		t.Errorf("%d messages, roles:\n%s", n.sent, strings.Join(n.log, "\n"))
	}
}

// Two voters are both needed: that is why a pair wants a witness.
func TestTwoVoters(t *testing.T) {
	v := []string{"d1", "d2"}
	n := newNet(t, Config{Self: "d1", Candidate: true, Voters: v}, Config{Self: "d2", Candidate: true, Voters: v})
	n.run(time.Second)
	first := n.active("g")
	if first == "" {
		t.Fatal("nobody is active")
	}
	n.down[map[string]string{"d1": "d2", "d2": "d1"}[first]] = true
	n.run(n.now + time.Second)
	n.want("g", "")
	if s := n.core(first).Status(n.now, "g"); !strings.Contains(s.Waiting, "1 of the needed 2 voters are free") {
		t.Errorf("status says %q", s.Waiting)
	}
}

func TestPreempts(t *testing.T) {
	cfgs := three()
	cfgs[0].PreemptDelay = 2 * time.Second
	n := newNet(t, cfgs...)
	n.down["d1"] = true
	n.run(time.Second)
	n.want("g", "d2")
	n.down["d1"] = false
	n.run(n.now + 1900*ms)
	n.want("g", "d2")
	n.run(n.now + 800*ms)
	n.want("g", "d1")
	if len(n.event) != 1 || n.event[0].Kind != HandOverAsked || n.event[0].Peer != "d1" {
		t.Errorf("events %+v", n.event)
	}
	n.run(n.now + 10*time.Second)
	n.want("g", "d1")
}

// A node that is to wait does not ask, however long it is well; one whom nobody has before it takes over all the same.
func TestHoldPreempt(t *testing.T) {
	for _, cfgs := range [][]Config{three(), priorities()} {
		cfgs[0].PreemptDelay = time.Second
		n := newNet(t, cfgs...)
		d1 := n.core("d1")
		n.do(d1, d1.SetEligible(n.now, "g", false, "test"))
		n.run(3 * time.Second)
		n.want("g", "d2")
		n.do(d1, d1.HoldPreempt(n.now, true))
		n.do(d1, d1.SetEligible(n.now, "g", true, ""))
		n.run(n.now + 20*time.Second)
		n.want("g", "d2")
		n.do(d1, d1.HoldPreempt(n.now, false))
		n.run(n.now + 2*time.Second)
		n.want("g", "d1")
		n.do(d1, d1.HoldPreempt(n.now, true))
		n.do(d1, d1.StepDown(n.now, "g", ""))
		n.run(n.now + 3*time.Second)
		n.want("g", "d2")
		n.down["d2"] = true
		n.run(n.now + 10*time.Second)
		if got := n.active("g"); !strings.Contains(got, "d1") {
			t.Errorf("active: %q", got)
		}
	}
}

// Both halves know each other's voter lists for different ones: neither elects with the other.
func TestOtherConfig(t *testing.T) {
	cfgs := three()
	cfgs[1].Lease = 500 * ms
	cfgs[2].Lease = 500 * ms
	n := newNet(t, cfgs...)
	n.run(5 * time.Second)
	n.want("g", "d2")
	peers := map[string]int{}
	for _, e := range n.event {
		if e.Kind == ConfigMismatch {
			peers[e.Peer]++
		}
	}
	// d1 about d2 and w, d2 about d1, w about d1
	if peers["d1"] != 2 || peers["d2"] != 1 || peers["w"] != 1 {
		t.Errorf("mismatches reported: %v", peers)
	}
	if s := n.core("d1").Status(n.now, "g"); !strings.Contains(s.Waiting, "d2 has other voters, lease, groups or mode") {
		t.Errorf("status says %q", s.Waiting)
	}
}

// The word that a grant ended may get lost.
func TestFreedLost(t *testing.T) {
	n := newNet(t, three()...)
	n.run(time.Second)
	n.down["d1"] = true
	n.run(n.now + 300*ms)
	for range 40 { // in steps, so that no Freed of a witness survives
		n.run(n.now + 10*ms)
		for i := 0; i < len(n.mail); i++ {
			if n.mail[i].m.Class == Note {
				n.mail = append(n.mail[:i], n.mail[i+1:]...)
				i--
			}
		}
	}
	n.run(n.now + 200*ms)
	n.want("g", "d2")
}

// A witness that restarts gives back to the active director what it had, even when it is needed for the majority.
func TestVoterRestartKeepsTheActive(t *testing.T) {
	n := newNet(t, three()...)
	n.run(time.Second)
	n.down["d2"] = true
	n.run(n.now + time.Second)
	for range 5 {
		cfg := n.core("w").cfg
		cfg.Incarnation += 100
		w, err := New(cfg, n.now)
		if err != nil {
			t.Fatal(err)
		}
		n.cores[2] = w
		n.run(n.now + 777*ms)
		n.want("g", "d1")
	}
	if len(n.log) != 1 {
		t.Errorf("roles changed:\n%s", strings.Join(n.log, "\n"))
	}
}

func TestOldVersionWaits(t *testing.T) {
	n := newNet(t, three()...)
	n.run(time.Second)
	v := Version{5, 1}
	n.do(n.core("d1"), n.core("d1").SetStored(n.now, v))
	n.do(n.core("d1"), n.core("d1").SetAcknowledged(n.now, v))
	if got := n.core("d1").Confirmed("g"); got != (Version{}) {
		t.Errorf("%v is confirmed before anybody heard of it", got)
	}
	n.run(n.now + 3*ms)
	if got := n.core("d1").Confirmed("g"); got != v {
		t.Errorf("%v is confirmed, want %v", got, v)
	}
	n.down["d1"] = true
	n.run(n.now + 3*time.Second)
	n.want("g", "")
	if len(n.event) != 1 || n.event[0].Kind != VersionRefused || n.event[0].Version != v {
		t.Errorf("events %+v", n.event)
	}
	n.do(n.core("d2"), n.core("d2").SetStored(n.now, v))
	n.run(n.now + 50*ms)
	n.want("g", "d2")

	n.down["d1"], n.down["d2"] = false, false
	n.do(n.core("d2"), n.core("d2").SetAcknowledged(n.now, Version{6, 1})) // stored nowhere
	n.run(n.now + time.Second)
	n.do(n.core("d2"), n.core("d2").SetEligible(n.now, "g", false, "maintenance"))
	n.run(n.now + time.Second)
	n.want("g", "")
	n.do(n.core("d1"), n.core("d1").Promote(n.now, "g", true))
	n.run(n.now + 100*ms)
	n.want("g", "d1")
}

// 64 groups with long names fit into one message for each voter and renewal.
func TestManyGroups(t *testing.T) {
	cfgs := three()
	var groups []string
	for i := range MaxGroups {
		groups = append(groups, fmt.Sprintf("%063d", i))
	}
	for i := range cfgs {
		cfgs[i].Groups = groups
	}
	n := newNet(t, cfgs...)
	n.run(5 * time.Second)
	for _, g := range groups {
		n.want(g, "d1")
	}
	n.sent = 0
	n.run(n.now + 4*time.Second)
	// In 4 s 40 renewals, and 20 or 21 probes by the standby; both to two other nodes. Answers to a probe name the
	// holder 64 times and need two messages.
	if n.sent > 40*2*2+21*2*3 {
		t.Errorf("%d messages in 10 leases", n.sent)
	}
	n.down["d1"] = true
	n.run(n.now + 460*ms)
	for _, g := range groups {
		n.want(g, "d2")
	}
}

// Two nodes may hold two groups.
func TestTwoGroups(t *testing.T) {
	cfgs := three()
	for i := range cfgs {
		cfgs[i].Groups = []string{"a", "b"}
	}
	n := newNet(t, cfgs...)
	n.run(time.Second)
	n.do(n.core("d1"), n.core("d1").StepDown(n.now, "b", "d2"))
	n.run(n.now + 3*time.Second)
	n.want("a", "d1")
	n.want("b", "d2")
	n.down["d1"] = true
	n.run(n.now + 420*ms)
	n.want("a", "d2")
	n.want("b", "d2")
}

// A shell that does not say that the address is off keeps the node from a new campaign, not others.
func TestYieldedMissing(t *testing.T) {
	n := newNet(t, three()...)
	n.run(time.Second)
	n.slow = true
	n.do(n.core("d1"), n.core("d1").StepDown(n.now, "g", "d2"))
	n.run(n.now + 250*ms)
	n.want("g", "")
	n.run(n.now + 300*ms)
	n.want("g", "d2")
	if s := n.core("d1").Status(n.now, "g"); s.Role != Yielding || s.Margin != 0 {
		t.Errorf("%+v", s)
	}
	n.do(n.core("d1"), n.core("d1").Yielded(n.now, "g"))
	n.run(n.now + time.Second)
	n.want("g", "d2")
	if s := n.core("d1").Status(n.now, "g"); s.Role != Standby || s.Holder != "d2" || s.Waiting != "d2 is active" {
		t.Errorf("%+v", s)
	}
}

func priorities() []Config {
	c := []string{"d1", "d2"}
	return []Config{{Self: "d1", Candidate: true, Candidates: c, Priority: 200, Mode: PriorityMode}, {Self: "d2", Candidate: true, Candidates: c, Mode: PriorityMode}}
}

func TestPriorityMode(t *testing.T) {
	n := newNet(t, priorities()...)
	n.run(600 * ms)
	n.want("g", "d1")
	n.run(10 * time.Second)
	n.want("g", "d1")
	if s := n.core("d2").Status(n.now, "g"); s.Holder != "d1" || s.Waiting != "d1 is active" {
		t.Errorf("%+v", s)
	}
	n.down["d1"] = true
	n.run(n.now + 600*ms)
	n.want("g", "d2")
	n.down["d1"] = false // as if only the network had been cut: both are active, the better one stays
	n.run(n.now + 200*ms)
	n.want("g", "d1")
	n.do(n.core("d1"), n.core("d1").StepDown(n.now, "g", "d2"))
	n.run(n.now + 2*ms)
	n.want("g", "d2")
	n.run(n.now + 10*time.Second)
	n.want("g", "d2") // preemption is off
	n.do(n.core("d1"), n.core("d1").Promote(n.now, "g", false))
	n.run(n.now + 4*ms)
	n.want("g", "d1")
	n.do(n.core("d1"), n.core("d1").SetEligible(n.now, "g", false, "maintenance"))
	n.run(n.now + 100*ms)
	n.want("g", "d2")
	var epoch uint64
	for _, c := range n.cores {
		epoch = max(epoch, c.Status(n.now, "g").Epoch)
	}
	if epoch < 5 {
		t.Errorf("epoch %d after five activations", epoch)
	}
}

// Whatever was cut and restarted: soon after the end one is active, and in a cut there is one on each side.
func TestPriorityModeHeals(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		cfgs := priorities()
		cfgs[0].Priority = uint8(100 + 50*r.IntN(2))
		for i := range cfgs {
			cfgs[i].Seed = seed
			cfgs[i].PreemptDelay = time.Duration(r.IntN(3)-1) * time.Second
		}
		n := newNet(t, cfgs...)
		for range 30 {
			n.cut = r.IntN(2) == 0
			name := []string{"d1", "d2"}[r.IntN(2)]
			switch c := n.core(name); r.IntN(4) {
			case 0:
				n.down[name] = !n.down[name]
			case 1:
				n.do(c, c.StepDown(n.now, "g", []string{"", "d1", "d2"}[r.IntN(3)]))
			case 2:
				n.do(c, c.Promote(n.now, "g", false))
			}
			n.run(n.now + time.Duration(r.Int64N(int64(time.Second))))
		}
		n.cut, n.down = true, map[string]bool{}
		n.run(n.now + 2*time.Second)
		n.want("g", "d1 d2")
		n.cut = false
		n.run(n.now + 200*ms)
		n.want("g", "d1") // higher, or equal and first by name
	}
}

func TestPriorityModePreempts(t *testing.T) {
	cfgs := priorities()
	cfgs[0].PreemptDelay = time.Second
	n := newNet(t, cfgs...)
	n.run(time.Second)
	n.do(n.core("d1"), n.core("d1").SetEligible(n.now, "g", false, "test"))
	n.run(n.now + 3*time.Second)
	n.want("g", "d2")
	n.do(n.core("d1"), n.core("d1").SetEligible(n.now, "g", true, ""))
	n.run(n.now + 900*ms)
	n.want("g", "d2")
	n.run(n.now + 1200*ms)
	n.want("g", "d1")
}

func TestRivalForgetsNoReplay(t *testing.T) {
	var r rival
	for i, step := range []struct {
		inc, seq uint64
		want     bool
	}{{1, 1, true}, {1, 1, false}, {1, 3, true}, {1, 2, false}, {2, 1, true}, {1, 4, false}, {3, 1, true}, {2, 9, false}, {3, 2, true}} {
		if got := r.fresh(step.inc, step.seq); got != step.want {
			t.Errorf("step %d: %v", i, got)
		}
	}
}

func TestTooManyPeers(t *testing.T) {
	c, err := New(Config{Self: "w", Voters: []string{"w"}, Groups: []string{"g"}, Lease: time.Second, Incarnation: 1}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 70 {
		m := Message{Class: Ask, Hash: c.hash, Inc: 2, Seq: 1, Entries: []Entry{{Kind: Probe}}}
		from := fmt.Sprintf("d%d", i)
		out := c.Receive(0, from, m)
		if fits := i < MaxCandidates; (len(out.Send) == 1) != fits || (len(out.Events) == 1) == fits {
			t.Errorf("%s: %+v", from, out)
		}
		if out = c.Receive(0, from, m); len(out.Events) != 0 {
			t.Errorf("%s is reported again", from)
		}
	}
	if len(c.peers) != MaxCandidates {
		t.Errorf("%d peers", len(c.peers))
	}
}

// A group that is not configured is a mistake of the caller.
func TestUnknownGroupPanics(t *testing.T) {
	n := newNet(t, three()...)
	defer func() {
		if r := recover(); r == nil || !strings.Contains(fmt.Sprint(r), `election: unknown group "h"`) {
			t.Errorf("%v", r)
		}
	}()
	n.core("d1").Status(0, "h")
}
