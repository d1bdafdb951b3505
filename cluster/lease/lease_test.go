package lease

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/cluster/election"
)

const (
	group   = "default"
	length  = 400 * time.Millisecond // of a lease
	latency = time.Millisecond       // of a message
)

// mesh is two directors, d1 and d2, and a voter, w, whose messages take one latency.
type mesh struct {
	t     *testing.T
	nodes map[string]*node
	wire  chan packet

	mu  sync.Mutex
	cut map[string]bool // off the network
}

type packet struct {
	from, to string
	message  []byte
	due      time.Time
}

// node is a keeper that notes what it is told.
type node struct {
	*Keeper
	mu    sync.Mutex
	heard []note
}

type note struct {
	what  string // "extended", or a role
	until time.Duration
}

func config(self string) election.Config {
	return election.Config{
		Self: self, Candidate: self != "w", Voters: []string{"d1", "d2", "w"}, Candidates: []string{"d1", "d2"}, Groups: []string{group},
		Lease: length, PreemptDelay: -1, Incarnation: uint64(self[len(self)-1]), Epoch: 1,
	}
}

// inMesh runs f with three keepers on the clock of testing/synctest.
func inMesh(t *testing.T, f func(t *testing.T, m *mesh)) {
	synctest.Test(t, func(t *testing.T) {
		m := &mesh{t: t, nodes: make(map[string]*node), wire: make(chan packet, 1000), cut: make(map[string]bool)}
		start := time.Now()
		for _, self := range []string{"d1", "d2", "w"} {
			n := new(node)
			add := func(what string, until time.Duration) {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.heard = append(n.heard, note{what, until})
			}
			k, err := New(Options{
				Config:   config(self),
				Now:      func() time.Duration { return time.Hour + time.Since(start) },
				Send:     func(to string, message []byte) { m.send(self, to, message) },
				Role:     func(r election.RoleChange) { add(r.Role.String(), r.Until) },
				Extended: func(_ string, until time.Duration) { add("extended", until) },
			})
			if err != nil {
				t.Fatal(err)
			}
			n.Keeper = k
			m.nodes[self] = n
		}
		ctx, stop := context.WithCancel(t.Context())
		for _, n := range m.nodes {
			go func() {
				if err := n.Run(ctx); err != nil {
					t.Errorf("Run: %v", err)
				}
			}()
		}
		go m.carry()
		f(t, m)
		stop()
		for _, n := range m.nodes {
			<-n.done
		}
		close(m.wire)
	})
}

func (m *mesh) send(from, to string, message []byte) {
	select {
	case m.wire <- packet{from, to, message, time.Now().Add(latency)}:
	default: // lost
	}
}

// carry brings the messages to where they belong until wire is closed.
func (m *mesh) carry() {
	for p := range m.wire {
		time.Sleep(time.Until(p.due))
		m.mu.Lock()
		lost := m.cut[p.from] || m.cut[p.to]
		m.mu.Unlock()
		if !lost {
			m.nodes[p.to].Deliver(p.from, p.message)
		}
	}
}

func (m *mesh) isolate(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut[name] = true
}

func (m *mesh) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

// elect makes d1 active and d2 able to follow.
func (m *mesh) elect() {
	m.t.Helper()
	m.must(m.nodes["d1"].SetEligible(m.t.Context(), group, true, ""))
	time.Sleep(2 * length) // the voters' silence, and some
	m.must(m.nodes["d2"].SetEligible(m.t.Context(), group, true, ""))
	if !m.nodes["d1"].Leased(group) {
		m.t.Fatal("d1 is not active")
	}
}

// notes returns what a node was told, extensions left out if roles is set.
func (n *node) notes(roles bool) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, x := range n.heard {
		if !roles || x.what != "extended" {
			out = append(out, x.what)
		}
	}
	return out
}

func (n *node) last() note {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.heard[len(n.heard)-1]
}

func (m *mesh) expect(name string, roles ...election.Role) {
	m.t.Helper()
	var want []string
	for _, r := range roles {
		want = append(want, r.String())
	}
	if got := m.nodes[name].notes(true); !slices.Equal(got, want) {
		m.t.Errorf("roles of %s: %v, want %v", name, got, want)
	}
}

func TestOneBecomesActive(t *testing.T) {
	inMesh(t, func(t *testing.T, m *mesh) {
		for _, d := range []string{"d1", "d2"} {
			m.must(m.nodes[d].SetEligible(t.Context(), group, true, ""))
		}
		time.Sleep(length - time.Millisecond)
		synctest.Wait()
		if m.nodes["d1"].Leased(group) || m.nodes["d2"].Leased(group) {
			t.Error("a lease while the voters are silent")
		}
		time.Sleep(4 * length)
		synctest.Wait()
		active, other := m.nodes["d1"], m.nodes["d2"]
		if !active.Leased(group) {
			active, other = other, active
		}
		if !active.Leased(group) || other.Leased(group) || m.nodes["w"].Leased(group) || active.Leased("other") {
			t.Fatalf("leases: %t, %t", active.Leased(group), other.Leased(group))
		}
		// Who guards the address has to know the lease before the address is put up.
		got := active.notes(false)
		if i := slices.Index(got, election.Active.String()); i != 1 || got[0] != "extended" {
			t.Errorf("was told %v", got)
		}
		if n := len(got); n < 5 || got[n-1] != "extended" {
			t.Errorf("the lease was not extended: %v", got)
		}
		if got := other.notes(false); len(got) != 0 {
			t.Errorf("the other one was told %v", got)
		}
		st, err := active.Status(t.Context(), group)
		if err != nil || st.Role != election.Active || st.Margin <= 0 || st.Margin > length {
			t.Errorf("status %+v, %v", st, err)
		}
		if k := active.Keeper; k.String() != "lease keeper" {
			t.Errorf("is called %q", k)
		}
	})
}

func TestLeaseEnds(t *testing.T) {
	inMesh(t, func(t *testing.T, m *mesh) {
		m.elect()
		d1 := m.nodes["d1"]
		m.isolate("d1")
		until := d1.last().until
		if left := until - d1.opts.Now(); left <= 0 || left > length {
			t.Fatalf("the lease is for %s", left)
		}
		time.Sleep(until - d1.opts.Now() - time.Nanosecond)
		synctest.Wait()
		m.expect("d1", election.Active, election.Yielding)
		if !d1.Leased(group) {
			t.Error("not leased just before the end")
		}
		if m.nodes["d2"].Leased(group) {
			t.Error("leased to both")
		}
		time.Sleep(time.Nanosecond)
		if d1.Leased(group) {
			t.Error("leased at the end")
		}
		synctest.Wait()
		if d1.Leased(group) {
			t.Error("leased after the end")
		}
		time.Sleep(2 * length)
		synctest.Wait()
		m.expect("d2", election.Active)
		if d1.Leased(group) || !m.nodes["d2"].Leased(group) {
			t.Error("d2 does not have it")
		}
	})
}

func TestHandOver(t *testing.T) {
	inMesh(t, func(t *testing.T, m *mesh) {
		m.elect()
		d1, d2 := m.nodes["d1"], m.nodes["d2"]
		m.must(d1.StepDown(t.Context(), group, ""))
		synctest.Wait()
		m.expect("d1", election.Active, election.Yielding)
		if !d1.Leased(group) || d2.Leased(group) {
			t.Error("given up before the addresses are off")
		}
		m.must(d1.Yielded(t.Context(), group))
		synctest.Wait() // the call returns before the role is told
		if d1.Leased(group) {
			t.Error("leased still")
		}
		time.Sleep(length / 4)
		synctest.Wait()
		m.expect("d1", election.Active, election.Yielding, election.Standby)
		m.expect("d2", election.Active)

		m.must(d1.Promote(t.Context(), group, false))
		time.Sleep(10 * latency)
		synctest.Wait()
		m.expect("d2", election.Active, election.Yielding)
		m.must(d2.Yielded(t.Context(), group))
		time.Sleep(length / 4)
		synctest.Wait()
		m.expect("d2", election.Active, election.Yielding, election.Standby)
		m.expect("d1", election.Active, election.Yielding, election.Standby, election.Active)
		if !d1.Leased(group) || d2.Leased(group) {
			t.Errorf("leases: %t, %t", d1.Leased(group), d2.Leased(group))
		}

		m.must(d1.SetEligible(t.Context(), group, false, "no carrier"))
		synctest.Wait()
		m.expect("d1", election.Active, election.Yielding, election.Standby, election.Active, election.Yielding)
		if st, err := d1.Status(t.Context(), group); err != nil || st.Eligible || !strings.Contains(st.Waiting, "no carrier") {
			t.Errorf("status %+v, %v", st, err)
		}
	})
}

func TestConfirm(t *testing.T) {
	inMesh(t, func(t *testing.T, m *mesh) {
		m.elect()
		d1, d2 := m.nodes["d1"], m.nodes["d2"]
		v := election.Version{Epoch: 2, Index: 7}
		m.must(d1.SetVersions(t.Context(), v, election.Version{}))
		begin := time.Now()
		m.must(d1.Confirm(t.Context(), group, v))
		if took := time.Since(begin); took < 2*latency {
			t.Errorf("confirmed after %s, before a voter could answer", took)
		}
		short, cancel := context.WithTimeout(t.Context(), length)
		defer cancel()
		// One that is not active has no say.
		if err := d2.Confirm(short, group, v); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "has not confirmed version "+v.String()) {
			t.Errorf("on standby: %v", err)
		}
		// A majority has to hear of it.
		m.isolate("d2")
		m.isolate("w")
		short, cancel = context.WithTimeout(t.Context(), length/10)
		defer cancel()
		next := election.Version{Epoch: 2, Index: 8}
		if err := d1.Confirm(short, group, next); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without voters: %v", err)
		}
	})
}

func TestConfirmIsBounded(t *testing.T) {
	var k *Keeper
	inMesh(t, func(t *testing.T, m *mesh) {
		k = m.nodes["d2"].Keeper
		for i := range maxConfirming + 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
			if err := k.Confirm(ctx, group, election.Version{Epoch: 10, Index: uint64(i)}); err == nil {
				t.Fatal("confirmed")
			}
			cancel()
		}
	})
	if n := len(k.confirming); n != maxConfirming {
		t.Errorf("%d wait, want %d", n, maxConfirming)
	}
	if v := k.confirming[maxConfirming-1].v; v.Epoch != 10 || v.Index != maxConfirming+4 {
		t.Errorf("the newest is %v", v)
	}
}

// calls are all that ask the goroutine of Run, of a group.
var calls = map[string]func(ctx context.Context, k *Keeper, group string) error{
	"SetEligible": func(ctx context.Context, k *Keeper, g string) error { return k.SetEligible(ctx, g, true, "") },
	"StepDown":    func(ctx context.Context, k *Keeper, g string) error { return k.StepDown(ctx, g, "") },
	"Promote":     func(ctx context.Context, k *Keeper, g string) error { return k.Promote(ctx, g, false) },
	"Yielded":     func(ctx context.Context, k *Keeper, g string) error { return k.Yielded(ctx, g) },
	"Confirm": func(ctx context.Context, k *Keeper, g string) error {
		return k.Confirm(ctx, g, election.Version{Epoch: 1, Index: 1})
	},
	"Status": func(ctx context.Context, k *Keeper, g string) error {
		_, err := k.Status(ctx, g)
		return err
	},
}

func TestUnknownGroup(t *testing.T) {
	inMesh(t, func(t *testing.T, m *mesh) {
		for name, call := range calls {
			if err := call(t.Context(), m.nodes["d1"].Keeper, "nope"); err == nil || err.Error() != `there is no group "nope"` {
				t.Errorf("%s: %v", name, err)
			}
		}
		if st, err := m.nodes["d1"].Status(t.Context(), group); err != nil || st.Role != election.Standby {
			t.Errorf("afterwards: %+v, %v", st, err)
		}
	})
}

func TestCallsWithoutRun(t *testing.T) {
	k, err := New(Options{Config: config("d1"), Send: func(string, []byte) {}})
	if err != nil {
		t.Fatal(err)
	}
	calls := maps.Clone(calls)
	calls["SetVersions"] = func(ctx context.Context, k *Keeper, _ string) error {
		return k.SetVersions(ctx, election.Version{}, election.Version{})
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	for name, call := range calls { // not running yet
		if err := call(ctx, k, group); !errors.Is(err, cause) {
			t.Errorf("%s before Run: %v", name, err)
		}
	}
	if err := k.Run(ctx); err != nil {
		t.Fatal(err)
	}
	for name, call := range calls {
		if err := call(t.Context(), k, group); !errors.Is(err, errEnded) {
			t.Errorf("%s after Run: %v", name, err)
		}
	}
	if k.Leased(group) {
		t.Error("leased")
	}
}

// A confirmation that is waited for ends with Run.
func TestConfirmEndsWithRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		k, err := New(Options{Config: config("d1"), Send: func(string, []byte) {}, Now: func() time.Duration { return time.Since(start) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go k.Run(ctx)
		go func() { ended <- k.Confirm(t.Context(), group, election.Version{Epoch: 1}) }()
		synctest.Wait()
		stop()
		if err := <-ended; !errors.Is(err, errEnded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestDeliver(t *testing.T) {
	k, err := New(Options{Config: config("d1"), Send: func(string, []byte) {}})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{nil, {0}, []byte("GET / HTTP/1.1\r\n\r\n"), make([]byte, election.MaxMessage+1)} {
		k.Deliver("stranger", b)
	}
	if over, refused := k.Dropped(); over != 0 || refused != 4 || len(k.inbox) != 0 {
		t.Errorf("dropped %d, refused %d, taken in %d; want 0, 4, 0", over, refused, len(k.inbox))
	}
	m := election.Message{Class: election.Ask, Inc: 1, Seq: 1, Entries: []election.Entry{{Kind: election.Probe}}}
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for range maxQueue + 3 { // nobody takes them out
		k.Deliver("d2", b)
	}
	if over, refused := k.Dropped(); over != 3 || refused != 4 || len(k.inbox) != maxQueue {
		t.Errorf("dropped %d, refused %d, taken in %d; want 3, 4, %d", over, refused, len(k.inbox), maxQueue)
	}
}

func TestNewComplains(t *testing.T) {
	if _, err := New(Options{Config: config("d1")}); err == nil || err.Error() != "lease: no way to send" {
		t.Errorf("no Send: %v", err)
	}
	c := config("d1")
	c.Lease = time.Millisecond
	if _, err := New(Options{Config: c, Send: func(string, []byte) {}}); err == nil || !strings.Contains(err.Error(), fmt.Sprint(election.MinLease)) {
		t.Errorf("short lease: %v", err)
	}
}

func TestNowGoesOn(t *testing.T) {
	a := Now()
	if b := Now(); a <= 0 || b < a {
		t.Errorf("%s, then %s", a, b)
	}
}

// A process that did not run when it was due is told so, and one that ran is not.
func TestLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopped atomic.Int64 // how long, on the clock
		start := time.Now()
		told := make(chan time.Duration, 1)
		c := config("d1")
		c.Voters, c.Candidates = []string{"d1"}, nil
		k, err := New(Options{
			Config: c, Send: func(string, []byte) {},
			Now:  func() time.Duration { return time.Hour + time.Since(start) + time.Duration(stopped.Load()) },
			Late: func(by time.Duration) { told <- by },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			if err := k.Run(ctx); err != nil {
				t.Error(err)
			}
		}()
		if err := k.SetEligible(ctx, group, true, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * length)
		synctest.Wait()
		if len(told) != 0 {
			t.Errorf("told to be late by %s", <-told)
		}
		stopped.Store(int64(3 * length))
		time.Sleep(length)
		synctest.Wait()
		if by := <-told; by < 2*length || by > 3*length {
			t.Errorf("late by %s", by)
		}
		stop()
		<-k.done
	})
}
