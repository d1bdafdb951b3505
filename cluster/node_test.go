package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cluster/clustertest"
	"github.com/drover-lb/drover/cluster/keyring"
)

var testKey = bytes.Repeat([]byte{7}, 32)

const testKind = 1

// node is a running Node of a test, with what it received.
type node struct {
	*Node
	reg  *prometheus.Registry
	stop func() // and wait

	mu  sync.Mutex
	got []string // "sender: payload"
}

func (n *node) received() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.got...)
}

// metric sums the values of a metric over the label values given.
func (n *node) metric(t *testing.T, name string, labels ...string) (sum float64) {
	t.Helper()
	families, err := n.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	next:
		for _, m := range f.GetMetric() {
			for i := 0; i+1 < len(labels); i += 2 {
				found := false
				for _, l := range m.GetLabel() {
					found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
				}
				if !found {
					continue next
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return sum
}

func options(name string) Options {
	return Options{
		Name: name, Role: Director, Label: "test", Bind: netip.MustParseAddrPort("127.0.0.1:0"),
		Keys: [][]byte{testKey}, Timing: FastTiming(), Version: "v1", RememberFor: time.Minute,
	}
}

func start(t *testing.T, opt Options, more ...func(*Node)) *node {
	t.Helper()
	reg := prometheus.NewRegistry()
	opt.Registry = reg
	n, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	out := &node{Node: n, reg: reg}
	n.Handle(testKind, func(from string, payload []byte) {
		out.mu.Lock()
		defer out.mu.Unlock()
		out.got = append(out.got, from+": "+string(payload))
	})
	n.HandleRequest(testKind, func(_ context.Context, from string, payload []byte) ([]byte, error) {
		if string(payload) == "fail" {
			return nil, errors.New("no, " + from)
		}
		return append([]byte("re: "), payload...), nil
	})
	for _, f := range more {
		f(n)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	out.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: Run: %v", n.Name(), err)
		}
	})
	t.Cleanup(out.stop)
	select {
	case <-n.Ready():
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	return out
}

// bubble runs a test on a clock of its own. Everything that it started has to end.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		// After all nodes have stopped: probes that memberlist was about to end.
		t.Cleanup(func() { time.Sleep(time.Minute) })
		f(t)
	})
}

// until waits, in the bubble's time, until ok, for at most limit.
func until(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		synctest.Wait()
		if ok() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// members prints the members that a node sees.
func members(n *node) string {
	var out []string
	for _, m := range n.Members() {
		out = append(out, m.Name+" "+m.State.String())
	}
	return strings.Join(out, ", ")
}

func records(n *node) string {
	var out []string
	for _, r := range n.Records() {
		v := string(r.Value)
		if len(v) > 20 {
			v = fmt.Sprintf("%d bytes", len(v))
		}
		out = append(out, fmt.Sprintf("%s/%s=%s(%s)", r.Node, r.Key, v, r.State))
	}
	return strings.Join(out, " ")
}

// startAll starts nodes that all have the first as seed.
func startAll(t *testing.T, net *clustertest.Network, names ...string) map[string]*node {
	out := make(map[string]*node)
	var seed string
	for _, name := range names {
		opt := options(name)
		h := net.Host(name)
		opt.Transport = h
		if seed == "" {
			seed = h.Address().String()
		}
		opt.Seeds = []string{seed}
		opt.Meta = []byte("meta of " + name)
		out[name] = start(t, opt)
	}
	until(t, 5*time.Second, "all see all", func() bool {
		for _, n := range out {
			for _, m := range names {
				if x, ok := n.Member(m); !ok || x.State != Alive {
					return false
				}
			}
		}
		return true
	})
	return out
}

func TestJoinAndMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		c := startAll(t, &net, "a", "b", "c")
		m, _ := c["c"].Member("b")
		if m.Role != Director || m.Version != "v1" || string(m.Meta) != "meta of b" || m.Address != c["b"].Address() || m.Start == 0 || m.Since.IsZero() {
			t.Errorf("member b as c sees it: %+v", m)
		}
		ctx := t.Context()
		big := bytes.Repeat([]byte("x"), 3<<20)
		for _, err := range []error{
			c["a"].Send("b", netip.AddrPort{}, testKind, []byte("one")),
			c["a"].Send("b", c["b"].Address(), testKind, []byte("two")),
			c["a"].SendReliable(ctx, "b", testKind, []byte("three")),
			c["a"].SendReliable(ctx, "b", testKind, big),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		until(t, time.Second, "four messages", func() bool { return len(c["b"].received()) == 4 })
		got := c["b"].received()
		for _, want := range []string{"a: one", "a: two", "a: three", "a: " + string(big)} {
			found := false
			for _, g := range got {
				found = found || g == want
			}
			if !found {
				t.Errorf("%.20q did not come", want)
			}
		}
		for _, to := range []string{"a", "b", "c"} {
			out, err := c["a"].Request(ctx, to, testKind, []byte("hello"))
			if err != nil || string(out) != "re: hello" {
				t.Errorf("request to %s: %q, %v", to, out, err)
			}
			_, err = c["a"].Request(ctx, to, testKind, []byte("fail"))
			var remote *RemoteError
			if !errors.As(err, &remote) || remote.Node != to || remote.Text != "no, a" {
				t.Errorf("failing request to %s: %v", to, err)
			}
			if _, err = c["a"].Request(ctx, to, testKind+1, nil); err == nil || !strings.Contains(err.Error(), "does not answer requests of kind 2") {
				t.Errorf("request of unknown kind: %v", err)
			}
		}
		large, err := c["a"].Request(ctx, "c", testKind, make([]byte, 4<<20))
		if err != nil || len(large) != 4<<20+4 {
			t.Errorf("large request: %d bytes, %v", len(large), err)
		}
		if n := c["b"].metric(t, metricMessages, "direction", "in", "kind", "1"); n < 4 {
			t.Errorf("%v messages counted", n)
		}
		if n := c["b"].metric(t, metricMembers, "state", "alive"); n != 3 {
			t.Errorf("%v members counted", n)
		}
	})
}

func TestBoundsOfMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		c := startAll(t, &net, "a", "b")
		a, ctx := c["a"], t.Context()
		fits := MaxDatagram - envelopeFixed - len("ab")
		if err := a.Send("b", netip.AddrPort{}, testKind, make([]byte, fits)); err != nil {
			t.Error(err)
		}
		err := a.Send("b", netip.AddrPort{}, testKind, make([]byte, fits+1))
		if want := fmt.Sprintf("%d bytes, at most %d", fits+1, fits); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("too large a datagram: %v, want %q", err, want)
		}
		tooLarge := make([]byte, MaxMessage+1)
		if err := a.SendReliable(ctx, "b", testKind, tooLarge); err == nil || !strings.Contains(err.Error(), "at most 16777216") {
			t.Errorf("too large a message: %v", err)
		}
		if _, err := a.Request(ctx, "b", testKind, tooLarge); err == nil || !strings.Contains(err.Error(), "at most 16777216") {
			t.Errorf("too large a request: %v", err)
		}
		if err := a.SendReliable(ctx, "b", testKind, tooLarge[1:]); err != nil {
			t.Error(err)
		}
		until(t, time.Second, "what fits arrives", func() bool { return len(c["b"].received()) == 2 })
		for _, err := range []error{
			a.Send("x", netip.AddrPort{}, testKind, nil),
			a.SendReliable(ctx, "x", testKind, nil),
		} {
			if !errors.Is(err, ErrUnknownMember) {
				t.Errorf("to nobody: %v", err)
			}
		}
		if err := a.Publish("k", make([]byte, MaxValue+1)); err == nil || !strings.Contains(err.Error(), "at most 65536") {
			t.Errorf("too large a record: %v", err)
		}
		for _, key := range []string{"", "_x", "a b", strings.Repeat("k", MaxKey+1)} {
			if err := a.Publish(key, nil); err == nil {
				t.Errorf("published %q", key)
			}
		}
		for i := range MaxRecords {
			if err := a.Publish(fmt.Sprint(i), []byte("v")); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.Publish("more", nil); err == nil || !strings.Contains(err.Error(), "at most 128") {
			t.Errorf("one record too many: %v", err)
		}
		// A request that nobody answers ends with its context.
		net.Split("a")
		rctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := a.Request(rctx, "b", testKind, nil); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 300*time.Millisecond {
			t.Errorf("request into a cut cable: %v after %s", err, time.Since(began))
		}
	})
}

func TestNotRunning(t *testing.T) {
	opt := options("a")
	n, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		if err := n.Send("b", netip.MustParseAddrPort("127.0.0.1:9"), 1, nil); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: Send: %v", when, err)
		}
		if _, err := n.Request(t.Context(), "a", 1, nil); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s: Request: %v", when, err)
		}
	}
	check("before Run")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
	check("after Run")
	if err := n.Run(t.Context()); err == nil {
		t.Error("Run twice")
	}
}

func TestLeaveIsToldFromFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		c := startAll(t, &net, "a", "b", "c", "d")
		_ = c["c"].Publish("k", []byte("v"))
		until(t, time.Second, "record of c", func() bool { return strings.Contains(records(c["a"]), "c/k=v(alive)") })
		c["b"].stop()
		net.Split("c") // as good as dead
		until(t, 10*time.Second, "b left and c failed", func() bool {
			want := "a alive, b left, c failed, d alive"
			return members(c["a"]) == want && members(c["d"]) == want
		})
		if got := records(c["a"]); got != "c/k=v(failed)" {
			t.Errorf("records: %s", got)
		}
		// The time is that of the change, not of the last word about it.
		m, _ := c["a"].Member("b")
		time.Sleep(30 * time.Second)
		if again, ok := c["a"].Member("b"); !ok || again.Since != m.Since || again.State != Left {
			t.Errorf("member b: %+v, half a minute ago %+v", again, m)
		}
	})
}

func TestMembersAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		c := startAll(t, &net, "a", "b", "c")
		_ = c["c"].Publish("k", []byte("v"))
		until(t, time.Second, "record of c", func() bool { return strings.Contains(records(c["b"]), "c/k") })
		c["c"].stop()
		time.Sleep(50 * time.Second)
		if got := members(c["a"]) + records(c["a"]); got != "a alive, b alive, c leftc/k=v(left)" {
			t.Errorf("before it is forgotten: %s", got)
		}
		// Who comes now learns of c by its record only, and forgets it with the others.
		opt := options("d")
		opt.Transport, opt.Seeds = net.Host("d"), []string{c["a"].Address().String()}
		d := start(t, opt)
		until(t, 5*time.Second, "d has the record", func() bool { return records(d) == "c/k=v(failed)" })
		time.Sleep(20 * time.Second)
		for _, n := range []*node{c["a"], c["b"], d} {
			if got := members(n) + records(n); got != "a alive, b alive, d alive" {
				t.Errorf("%s did not forget: %s", n.Name(), got)
			}
		}
	})
}

func TestRejoinForEver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		c := startAll(t, &net, "a", "b", "c", "d", "e")
		net.Split("a", "b")
		until(t, 20*time.Second, "two halves", func() bool {
			return members(c["a"]) == "a alive, b alive, c failed, d failed, e failed" && members(c["e"]) == "a failed, b failed, c alive, d alive, e alive"
		})
		time.Sleep(80 * time.Second)
		if got := members(c["a"]) + " | " + members(c["e"]); got != "a alive, b alive | c alive, d alive, e alive" {
			t.Errorf("the sides have not forgotten each other: %s", got)
		}
		_ = c["a"].Publish("k", []byte("from a"))
		_ = c["e"].Publish("k", []byte("from e"))
		net.Cut(nil)
		until(t, 10*time.Second, "one whole", func() bool {
			for _, n := range c {
				if members(n) != "a alive, b alive, c alive, d alive, e alive" || records(n) != "a/k=from a(alive) e/k=from e(alive)" {
					return false
				}
			}
			return true
		})
	})
}

// A datagram to a configured address arrives although the gossip gave the member up, or does not know it.
func TestSendByAddress(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		opt := options("a")
		opt.Transport = net.Host("a")
		a := start(t, opt)
		opt = options("b")
		opt.Transport = net.Host("b")
		b := start(t, opt)
		if err := a.Send("b", b.Address(), testKind, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		until(t, time.Second, "hello", func() bool { return len(b.received()) == 1 })
		if err := a.Send("c", b.Address(), testKind, []byte("misdirected")); err != nil {
			t.Fatal(err)
		}
		until(t, time.Second, "misdirected message counted", func() bool { return b.metric(t, metricDropped, "reason", dropMisdirect) == 1 })
		if len(b.received()) != 1 {
			t.Error("b took what is for c")
		}
	})
}

func TestHandlerQueueDropsTheOldest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		opt := options("a")
		opt.Transport = net.Host("a")
		release := make(chan struct{})
		var got []byte
		a := start(t, opt, func(n *Node) {
			n.Handle(2, func(_ string, p []byte) { <-release; got = append(got, p[0]) })
		})
		opt = options("b")
		opt.Transport = net.Host("b")
		b := start(t, opt)
		for i := range queueLength + 11 {
			if err := b.Send("a", a.Address(), 2, []byte{byte(i / 100)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n := a.metric(t, metricDropped, "reason", dropQueueFull, "kind", "2"); n != 10 {
			t.Errorf("%v dropped, want 10", n)
		}
		close(release)
		synctest.Wait()
		if len(got) != queueLength+1 || got[len(got)-1] != byte((queueLength+10)/100) {
			t.Errorf("%d came, the last is %d", len(got), got[len(got)-1])
		}
	})
}

func TestDuplicateName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		c := startAll(t, &net, "a", "b", "c")
		_ = c["b"].Publish("k", []byte("of the first"))
		until(t, time.Second, "record of b", func() bool { return strings.Contains(records(c["a"]), "of the first") })

		var log bytes.Buffer
		opt := options("b")
		opt.Transport, opt.Seeds = net.Host("b2"), []string{c["a"].Address().String()}
		opt.Log = slog.New(slog.NewTextHandler(&log, nil))
		second := start(t, opt)
		_ = second.Publish("k", []byte("of the second"))
		first, at := c["b"].Address(), second.Address()
		until(t, 10*time.Second, "all but the first know of the conflict", func() bool {
			for _, n := range []*node{c["a"], c["c"], second} {
				if x := n.Conflicts(); len(x) != 1 || x[0].First != first || x[0].Second != at || x[0].Muted != (n == second) {
					return false
				}
			}
			return true
		})
		if n := c["a"].metric(t, metricConflicts); n == 0 {
			t.Error("conflicts are not counted")
		}
		err := second.Send("a", c["a"].Address(), testKind, []byte("from the second"))
		if !errors.Is(err, ErrNameTaken) || !strings.Contains(err.Error(), first.String()) {
			t.Errorf("the second node may send: %v", err)
		}
		if !strings.Contains(log.String(), first.String()) || !strings.Contains(log.String(), at.String()) {
			t.Errorf("the second node's log: %s", log.String())
		}
		// The first goes on as before.
		for i := range 20 {
			time.Sleep(time.Second)
			if err := c["b"].Send("a", c["a"].Address(), testKind, fmt.Appendf(nil, "%d", i)); err != nil {
				t.Fatal(err)
			}
		}
		until(t, time.Second, "messages of the first", func() bool { return len(c["a"].received()) == 20 })
		for _, n := range c {
			if got := records(n); got != "b/k=of the first(alive)" {
				t.Errorf("%s has %s", n.Name(), got)
			}
			if m, _ := n.Member("b"); m.Address != first || m.State != Alive {
				t.Errorf("%s sees b at %s", n.Name(), m.Address)
			}
		}
		// When the first is gone, the second takes its place.
		c["b"].stop()
		until(t, 30*time.Second, "the second in place of the first", func() bool {
			m, _ := c["a"].Member("b")
			return m.Address == at && m.State == Alive && records(c["c"]) == "b/k=of the second(alive)"
		})
		if err := second.Send("a", c["a"].Address(), testKind, nil); err != nil {
			t.Errorf("the only node of its name may not send: %v", err)
		}
	})
}

func TestKeyRotation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		c := startAll(t, &net, "a", "b", "c")
		ctx := t.Context()
		fresh, err := keyring.Generate()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c["a"].UseKey(ctx, fresh); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("use of a key that nobody has: %v", err)
		}
		old := keyring.Fingerprint(testKey)
		if _, err := c["a"].RemoveKey(ctx, old); err == nil || !strings.Contains(err.Error(), "use another first") {
			t.Errorf("removal of the primary: %v", err)
		}
		// Everybody talks to everybody, and nothing gets lost.
		stop, talked := make(chan struct{}), make(chan int)
		for _, from := range c {
			go func() {
				for i := 0; ; i++ {
					select {
					case <-stop:
						talked <- i
						return
					case <-time.After(5 * time.Millisecond):
					}
					for _, to := range c {
						if to != from {
							if err := from.Send(to.Name(), netip.AddrPort{}, testKind, fmt.Appendf(nil, "%d", i)); err != nil {
								t.Error(err)
							}
						}
					}
				}
			}()
		}
		b, _ := keyring.Parse(fresh)
		want := func(states []KeyState, err error, keys ...string) {
			t.Helper()
			if err != nil || len(states) != 3 {
				t.Fatalf("%v, %v", states, err)
			}
			for _, s := range states {
				if strings.Join(s.Keys, " ") != strings.Join(keys, " ") {
					t.Errorf("node %s has the keys %v, want %v", s.Node, s.Keys, keys)
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		states, err := c["a"].AddKey(ctx, fresh)
		want(states, err, old, keyring.Fingerprint(b))
		states, err = c["b"].UseKey(ctx, fresh)
		want(states, err, keyring.Fingerprint(b), old)
		states, err = c["c"].RemoveKey(ctx, old)
		want(states, err, keyring.Fingerprint(b))
		states, err = c["a"].Keys(ctx)
		want(states, err, keyring.Fingerprint(b))
		close(stop)
		sent := 0
		for range c {
			sent += 2 * <-talked
		}
		got := 0
		synctest.Wait()
		for _, n := range c {
			got += len(n.received())
			if x := n.metric(t, metricRefused); x != 0 {
				t.Errorf("%s refused %v packets", n.Name(), x)
			}
		}
		if got != sent || sent == 0 {
			t.Errorf("%d of %d messages came", got, sent)
		}
		// A node that does not answer stops a change.
		third, _ := keyring.Generate()
		states, err = c["a"].AddKey(ctx, third)
		want(states, err, keyring.Fingerprint(b), func() string { k, _ := keyring.Parse(third); return keyring.Fingerprint(k) }())
		net.Split("c")
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		states, err = c["a"].UseKey(short, third)
		if err == nil || !strings.Contains(err.Error(), "nothing was changed") || !strings.Contains(err.Error(), "node c") {
			t.Errorf("use of a key while c is away: %v, %v", states, err)
		}
	})
}

func TestRecordsConverge(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		names := []string{"a", "b", "c", "d", "e"}
		c := startAll(t, &net, names...)
		same := func() bool {
			for _, n := range c {
				if records(n) != records(c["a"]) {
					return false
				}
			}
			return true
		}
		for _, name := range names {
			if err := c[name].Publish("small", []byte(name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := c["b"].Publish("large", make([]byte, MaxValue)); err != nil {
			t.Fatal(err)
		}
		const all = "a/small=a(alive) b/large=65536 bytes(alive) b/small=b(alive) c/small=c(alive) d/small=d(alive) e/small=e(alive)"
		// Less than a push/pull interval, as the records were sent.
		until(t, 900*time.Millisecond, "all have all", func() bool { return same() && records(c["a"]) == all })
		ch, end := c["e"].WatchRecords()
		defer end()
		<-ch
		c["b"].Unpublish("large")
		_ = c["c"].Publish("small", []byte("cc"))
		until(t, 900*time.Millisecond, "change and removal", func() bool {
			return same() && strings.Contains(records(c["a"]), "c/small=cc") && !strings.Contains(records(c["a"]), "large")
		})
		select {
		case <-ch:
		default:
			t.Error("no word of the change")
		}
		// Changes on both sides of a partition.
		net.Split("a", "b")
		_ = c["a"].Publish("small", []byte("a2"))
		c["c"].Unpublish("small")
		_ = c["d"].Publish("big", make([]byte, 5000))
		time.Sleep(10 * time.Second)
		if same() {
			t.Error("there is no partition")
		}
		net.Cut(nil)
		until(t, 10*time.Second, "the partition healed", func() bool {
			return same() && records(c["a"]) == "a/small=a2(alive) b/small=b(alive) d/big=5000 bytes(alive) d/small=d(alive) e/small=e(alive)"
		})
	})
}

// Who asks a node that is killed and started again does not wait for an answer that cannot come.
func TestRequestToOneThatIsStartedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		a := start(t, func() Options { o := options("a"); o.Transport = net.Host("a"); return o }())
		opt := func(h *clustertest.Host) Options {
			o := options("b")
			o.Transport, o.Seeds = h, []string{a.Address().String()}
			return o
		}
		asked := make(chan struct{}, 1)
		const slow = testKind + 2
		b := start(t, opt(net.Host("b")), func(n *Node) {
			n.HandleRequest(slow, func(ctx context.Context, _ string, _ []byte) ([]byte, error) {
				asked <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			})
		})
		until(t, time.Second, "both know each other", func() bool {
			m, ok := a.Member("b")
			return ok && m.State == Alive
		})
		failed := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			_, err := a.Request(ctx, "b", slow, nil)
			failed <- err
		}()
		<-asked
		at := b.Address()
		net.Split("b") // nothing of its end is heard
		b.stop()
		net.Cut(nil)
		began := time.Now()
		start(t, opt(net.HostAt("b", at)))
		if err := <-failed; !errors.Is(err, ErrRestarted) || time.Since(began) > 5*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// A node that starts again does not have to know what it published, even if its clock went back.
func TestRestart(t *testing.T) {
	for _, clock := range []time.Duration{0, -time.Hour} {
		bubble(t, func(t *testing.T) {
			var net clustertest.Network
			c := startAll(t, &net, "a", "b")
			_ = c["b"].Publish("kept", []byte("1"))
			_ = c["b"].Publish("lost", []byte("1"))
			_ = c["b"].Send("a", netip.AddrPort{}, testKind, []byte("first life"))
			until(t, time.Second, "records and message", func() bool {
				return records(c["a"]) == "b/kept=1(alive) b/lost=1(alive)" && len(c["a"].received()) == 1
			})
			at := c["b"].Address()
			c["b"].stop()
			opt := options("b")
			opt.Transport, opt.Seeds = net.HostAt("b", at), []string{c["a"].Address().String()}
			opt.now = func() time.Time { return time.Now().Add(clock) }
			b := start(t, opt)
			_ = b.Publish("kept", []byte("2"))
			until(t, 5*time.Second, "records of the second life", func() bool {
				return records(c["a"]) == "b/kept=2(alive)" && records(b) == "b/kept=2(alive)"
			})
			if clock < 0 {
				time.Sleep(epochQuiet) // its epoch is not that of the metadata
			}
			_ = b.Send("a", c["a"].Address(), testKind, []byte("second life"))
			until(t, time.Second, "message of the second life", func() bool { return len(c["a"].received()) == 2 })
		})
	}
}
