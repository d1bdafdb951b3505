package cluster

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/cluster/clustertest"
)

// await waits until ok, which is asked when the members or records of a node change, and at times.
func await(t *testing.T, what string, n *node, ok func() bool) {
	t.Helper()
	members, end := n.WatchMembers()
	defer end()
	limit := time.After(15 * time.Second)
	for !ok() {
		select {
		case <-members:
		case <-time.After(10 * time.Millisecond): // counters tell nobody
		case <-limit:
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

func sees(n *node, name string) bool {
	m, ok := n.Member(name)
	return ok && m.State == Alive
}

func TestSockets(t *testing.T) {
	before := runtime.NumGoroutine()
	a := start(t, options("a"))
	opt := options("b")
	opt.Bind = netip.MustParseAddrPort("127.0.0.2:0")
	opt.Seeds = []string{a.Address().String()}
	b := start(t, opt)
	await(t, "members", b, func() bool { return sees(b, "a") && sees(a, "b") })
	if m, _ := a.Member("b"); m.Address.Addr() != opt.Bind.Addr() || m.Address.Port() == 0 {
		t.Errorf("b is at %s", m.Address)
	}
	if err := b.Send("a", netip.AddrPort{}, testKind, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	await(t, "hello", a, func() bool { return slices.Equal(a.received(), []string{"b: hello"}) })
	if out, err := a.Request(t.Context(), "b", testKind, []byte("x")); err != nil || string(out) != "re: x" {
		t.Errorf("%q, %v", out, err)
	}
	// Streams that say nothing do not keep the node from stopping, nor others from being heard.
	var idle []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", a.Address().String())
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	await(t, "too many streams of one address refused", a, func() bool {
		return a.metric(t, metricRefused, "reason", refuseTooMany) >= 100-maxConnsOfOne
	})
	if _, err := b.Request(t.Context(), "b", testKind, nil); err != nil {
		t.Error(err)
	}
	b.stop()
	await(t, "b left", a, func() bool { m, _ := a.Member("b"); return m.State == Left })
	a.stop()
	for _, c := range idle {
		c.Close()
	}
	for end := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
}

func TestStrangersAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var network clustertest.Network
		c := startAll(t, &network, "a", "b")
		a := c["a"]
		_ = a.Publish("secret", []byte("s"))
		for _, x := range []struct {
			name   string
			change func(*Options)
			reason string
		}{
			{"wrong-key", func(o *Options) { o.Keys = [][]byte{bytes.Repeat([]byte{8}, 32)} }, refuseDecrypt},
			{"wrong-label", func(o *Options) { o.Label = "other" }, refuseLabel},
			{"plain", func(o *Options) { o.Keys, o.Insecure = nil, true }, refusePlain},
			{"plain-packet", func(o *Options) { o.Keys, o.Insecure = nil, true }, refuseDecrypt},
		} {
			before := a.metric(t, metricRefused, "reason", x.reason)
			opt := options(x.name)
			x.change(&opt)
			opt.Transport = network.Host(x.name)
			if x.name != "plain-packet" {
				opt.Seeds = []string{a.Address().String()}
			}
			s := start(t, opt)
			if err := s.Send("a", a.Address(), testKind, []byte("let me in")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
			if n := a.metric(t, metricRefused, "reason", x.reason) - before; n == 0 {
				t.Errorf("%s: not counted as %s", x.name, x.reason)
			}
			if got := members(a); got != "a alive, b alive" {
				t.Errorf("%s: members are %s", x.name, got)
			}
			if got := members(s) + records(s); got != x.name+" alive" {
				t.Errorf("%s learned %s", x.name, got)
			}
			s.stop()
		}
		if got := a.received(); len(got) != 0 {
			t.Errorf("a took %q", got)
		}
	})
}

// A recorded packet that comes again changes nothing.
func TestReplay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var network clustertest.Network
		c := startAll(t, &network, "a", "b")
		var recorded [][]byte
		network.Tap(func(_, to string, p []byte) {
			if to == "a" && len(recorded) < 1000 {
				recorded = append(recorded, bytes.Clone(p))
			}
		})
		for i := range 10 {
			_ = c["b"].Send("a", netip.AddrPort{}, testKind, []byte(strconv.Itoa(i)))
		}
		_ = c["b"].Publish("k", []byte("old"))
		time.Sleep(time.Second)
		network.Tap(nil)
		_ = c["b"].Publish("k", []byte("new"))
		time.Sleep(time.Second)
		from := netip.MustParseAddrPort("10.9.9.9:7")
		for range 3 {
			for _, p := range recorded {
				network.Inject(from, c["a"].Address(), p)
				time.Sleep(time.Millisecond)
			}
		}
		time.Sleep(time.Second)
		if got := c["a"].received(); len(got) != 10 {
			t.Errorf("%d messages for 10: %v", len(got), got)
		}
		if n := c["a"].metric(t, metricDropped, "reason", dropReplayed); n != 30 {
			t.Errorf("%v replayed messages counted, want 30", n)
		}
		if got := records(c["a"]) + members(c["a"]); got != "b/k=new(alive)a alive, b alive" {
			t.Errorf("after the replay: %s", got)
		}
	})
}

// Random and repeated packets on the port, DROVER_SOAK_PACKETS of them or 100,000: all are counted, nothing
// grows, and the members go on.
func TestFlood(t *testing.T) {
	packets := 100_000
	if s := os.Getenv("DROVER_SOAK_PACKETS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		packets = n
	}
	log := &countingWriter{}
	opt := options("a")
	opt.Log = newTestLog(log)
	a := start(t, opt)
	opt = options("b")
	opt.Bind, opt.Seeds = netip.MustParseAddrPort("127.0.0.2:0"), []string{a.Address().String()}
	b := start(t, opt)
	await(t, "members", b, func() bool { return sees(b, "a") && sees(a, "b") })

	conn, err := net.Dial("udp", a.Address().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := rand.New(rand.NewPCG(5, 6))
	label := append([]byte{244, byte(len("test"))}, "test"...)
	buf := make([]byte, 1400)
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	goroutines, memory, lines := runtime.NumGoroutine(), heap(), log.lines()
	in := func() int { return int(a.metric(t, metricBytes, "direction", "in", "transport", "packet")) }
	sent, base := 0, in()
	for i := range packets {
		n := 1 + r.IntN(len(buf)-1)
		for j := 0; j < n; j += 8 {
			v := r.Uint64()
			for k := j; k < min(n, j+8); k++ {
				buf[k] = byte(v >> (8 * (k - j)))
			}
		}
		switch p := buf[:n]; i % 4 {
		case 0: // the right label
			copy(p, label)
		case 1: // and the right version of the encryption
			if copy(p, label) == len(label) && n > len(label) {
				p[len(label)] = 1
			}
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			t.Fatal(err)
		}
		if sent += n; i%64 == 63 { // not faster than the node reads, so that all are counted
			await(t, "the node reads", a, func() bool { return in()-base >= sent-(256<<10) })
		}
	}
	await(t, "all packets counted", a, func() bool { return int(a.metric(t, metricRefused)) >= packets*999/1000 })
	told := make(map[string]Refusal)
	for _, r := range a.Refused() {
		told[r.Reason] = r
	}
	if r := told[refuseDecrypt]; !r.Alarming() || float64(r.Count) > a.metric(t, metricRefused, "reason", refuseDecrypt) || r.Count < uint64(packets/5) ||
		r.From != conn.LocalAddr().String() || !strings.Contains(r.String(), "packets could not be decrypted, the last from 127.0.0.1:") || time.Since(r.Last) > time.Minute {
		t.Errorf("told of %+v: %s", r, r)
	}
	if r := told[refuseLabel]; !r.Alarming() || r.Count < uint64(packets/5) {
		t.Errorf("told of %+v: %s", r, r)
	}
	if n := runtime.NumGoroutine(); n > goroutines+50 {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	if m := heap(); m > memory+8<<20 {
		t.Errorf("%d bytes of heap, %d before", m, memory)
	}
	if n := log.lines() - lines; n > 100 {
		t.Errorf("%d lines logged", n)
	}
	if !sees(a, "b") || !sees(b, "a") {
		t.Errorf("members: %s, %s", members(a), members(b))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := b.Request(ctx, "a", testKind, nil); err != nil {
		t.Error(err)
	}
	// Streams of garbage.
	refused := a.metric(t, metricRefused)
	for i := range 200 {
		c, err := net.Dial("tcp", a.Address().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "%s%s", []string{"", string(label)}[i%2], strings.Repeat(string(rune(i)), 100))
		c.Close()
	}
	await(t, "streams counted", a, func() bool { return a.metric(t, metricRefused)-refused >= 190 })
	await(t, "no goroutines of streams left", a, func() bool { return runtime.NumGoroutine() <= goroutines+10 })
}
