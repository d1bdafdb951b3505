package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// world answers probes: what it has an error for is bad.
type world struct {
	mu    sync.Mutex
	bad   map[netip.Addr]error // by real server
	count map[string]int       // probes by place and mark
	most  int                  // under way at a time
	now   int
	takes time.Duration
}

func (w *world) Probe(ctx context.Context, t Target, mark uint32) (int, error) {
	server := t.Place.To.Addr()
	if t.Place.Via.Addr.IsValid() {
		server = t.Place.Via.Addr
	}
	w.mu.Lock()
	w.count[fmt.Sprintf("%s mark %d", t.Place.To, mark)]++
	w.now++
	w.most = max(w.most, w.now)
	err := w.bad[server]
	w.mu.Unlock()
	select {
	case <-time.After(w.takes):
	case <-ctx.Done():
		err = ctx.Err()
	}
	w.mu.Lock()
	w.now--
	w.mu.Unlock()
	return AsConfigured, err
}

func (w *world) set(addr string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bad[netip.MustParseAddr(addr)] = err
}

func (w *world) probes() (places, all int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.count {
		all += n
	}
	return len(w.count), all
}

// sites is a spec of services at ports from 80 on, with real servers 10.0.0.1 and on, all with the checks.
func sites(t *testing.T, services, servers int, checks string) *spec.Spec {
	t.Helper()
	var b strings.Builder
	b.WriteString("director: {interface: eth0}\nvips: [192.0.2.10]\nservices:\n")
	for i := range services {
		fmt.Fprintf(&b, "  - {name: s%d, address: 192.0.2.10, port: %d, checks: [%s], real_servers: [", i, 80+i, checks)
		for j := range servers {
			fmt.Fprintf(&b, "10.0.%d.%d, ", j/250, 1+j%250)
		}
		b.WriteString("]}\n")
	}
	f, err := spec.Parse("test", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	return &f.Spec
}

// run runs an engine in a bubble of synctest, until f returns.
func run(t *testing.T, o Options, f func(e *Engine, w *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := &world{bad: make(map[netip.Addr]error), count: make(map[string]int), takes: time.Millisecond}
		o.Prober = w
		e := New(o)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		f(e, w)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// states is the state of each server of a service, by its address.
func states(v View, s *spec.Spec, i int) string {
	out := ""
	for j := range s.Services[i].RealServers {
		out += v.of(s.Services[i].Key, s.Services[i].RealServers[j].DestKey).State.String() + " "
	}
	return strings.TrimSpace(out)
}

const fast = "{type: tcp, path: rip, interval: 1s, fast_interval: 100ms, timeout: 500ms, rise: 2, fall: 3}"

func TestEngineFollowsServers(t *testing.T) {
	var log []string
	run(t, Options{Event: func(e Event) { log = append(log, e.String()) }}, func(e *Engine, w *world) {
		s := sites(t, 1, 2, fast)
		w.set("10.0.0.2", errors.New("connection refused"))
		e.SetSpec(s)
		time.Sleep(50 * time.Millisecond)
		if got := states(e.View(), s, 0); got != "up unknown" {
			t.Errorf("at first: %s", got)
		}
		time.Sleep(time.Second)
		if got := states(e.View(), s, 0); got != "up down" {
			t.Errorf("after a second: %s", got)
		}
		// From the first bad one on the pace is the fast one.
		w.set("10.0.0.2", nil)
		time.Sleep(1500 * time.Millisecond)
		w.set("10.0.0.1", errors.New("no route to host"))
		time.Sleep(1500 * time.Millisecond)
		if got := states(e.View(), s, 0); got != "down up" {
			t.Errorf("the other way round: %s", got)
		}
		// The same spec again changes nothing, a server that goes is forgotten.
		<-e.Changed()
		again := s.Clone()
		e.SetSpec(&again)
		synctest.Wait()
		if got := states(e.View(), &again, 0); got != "down up" {
			t.Errorf("after the same spec: %s", got)
		}
		again = s.Clone()
		again.Services[0].RealServers = again.Services[0].RealServers[1:]
		e.SetSpec(&again)
		synctest.Wait()
		if got := states(e.View(), s, 0); got != "unknown up" {
			t.Errorf("without the first: %s", got)
		}
		_, before := w.probes()
		time.Sleep(10 * time.Second)
		if _, after := w.probes(); after-before < 9 || after-before > 12 {
			t.Errorf("%d probes in 10 s", after-before)
		}
	})
	want := "s0: 10.0.0.1 is up\ns0: 10.0.0.2 is down: tcp 10.0.0.2:80: connection refused\n" +
		"s0: 10.0.0.2 is up\ns0: 10.0.0.1 is down: tcp 10.0.0.1:80: no route to host"
	if got := strings.Join(log, "\n"); got != want {
		t.Errorf("events:\n%s", got)
	}
}

// Services that would send the same probe share it: 40 services on 50 servers, all checked at one port, are 50
// probes an interval.
func TestEngineSharesProbes(t *testing.T) {
	run(t, Options{InFlight: 10}, func(e *Engine, w *world) {
		e.SetSpec(sites(t, 40, 50, "{type: tcp, path: rip, port: 9, interval: 1s}"))
		time.Sleep(10500 * time.Millisecond)
		places, all := w.probes()
		if places != 50 || all < 9*50 || all > 12*50 || w.most > 10 {
			t.Errorf("%d places, %d probes in 10.5 s, %d at a time", places, all, w.most)
		}
		if uint64(all) != e.Probes() {
			t.Errorf("%d probes are counted, %d were made", e.Probes(), all)
		}
	})
}

// A probe through a server waits until its private service is in the kernel, and carries its mark.
func TestEngineProbesThrough(t *testing.T) {
	run(t, Options{Marks: 1000}, func(e *Engine, w *world) {
		s := sites(t, 2, 3, "{type: tcp, interval: 1s}")
		e.SetPath(true)
		e.SetSpec(s)
		time.Sleep(5 * time.Second)
		if _, n := w.probes(); n != 0 {
			t.Errorf("%d probes before there is a private service", n)
		}
		private := e.Private()
		if len(private.Services) != 3 {
			t.Fatalf("private services: %v", private)
		}
		for i, p := range private.Services {
			if p.FWMark != uint32(1000+i) || len(p.Servers) != 1 || p.Servers[0].Addr != s.Services[0].RealServers[i].Addr || p.Servers[0].Port != 0 || !plan.Private(p.Key, 1000) {
				t.Errorf("private service %+v", p)
			}
		}
		e.Programmed(plan.State{Services: private.Services[:2]})
		time.Sleep(100 * time.Millisecond)
		if got := states(e.View(), s, 0); got != "up up unknown" {
			t.Errorf("with two private services: %s", got)
		}
		e.Programmed(private)
		time.Sleep(100 * time.Millisecond)
		if got := states(e.View(), s, 1); got != "up up up" {
			t.Errorf("with all private services: %s", got)
		}
		if w.count["192.0.2.10:81 mark 1002"] != 1 {
			t.Errorf("probes: %v", w.count)
		}
		// A server that goes gives its mark back, and the others keep theirs.
		fewer := s.Clone()
		for i := range fewer.Services {
			fewer.Services[i].RealServers = fewer.Services[i].RealServers[1:]
		}
		e.SetSpec(&fewer)
		synctest.Wait()
		if p := e.Private(); len(p.Services) != 2 || p.Services[0].FWMark != 1001 {
			t.Errorf("private services: %v", p)
		}
		// On a standby the servers are asked at their own addresses, and what is known stays.
		w.set("10.0.0.2", errors.New("bad"))
		e.SetPath(false)
		synctest.Wait()
		if got := states(e.View(), s, 0); got != "unknown up up" || len(e.Private().Services) != 0 {
			t.Errorf("after the change of the way: %s; %v", got, e.Private())
		}
		time.Sleep(5 * time.Second)
		if got := states(e.View(), s, 0); got != "unknown down up" {
			t.Errorf("5 s later: %s", got)
		}
	})
}

func TestWant(t *testing.T) {
	s := sites(t, 2, 4, fast)
	s.Services[1].Health.OnFail = spec.WeightZero
	up, down := Verdict{State: Up, Weight: 1}, Verdict{State: Down}
	view := make(View)
	for i := range s.Services {
		view[s.Services[i].Key] = &Service{Servers: map[ipvs.DestKey]Verdict{
			s.Services[i].RealServers[0].DestKey: up, s.Services[i].RealServers[1].DestKey: down}}
	}
	// Of the third and the fourth nothing is known.
	text := func(st plan.State) string { return plan.Diff(st, plan.State{}, nil).String() }
	want := "-A -t 192.0.2.10:80 -s wlc\n-a -t 192.0.2.10:80 -r 10.0.0.1:80 -g -w 1\n" +
		"-A -t 192.0.2.10:81 -s wlc\n-a -t 192.0.2.10:81 -r 10.0.0.1:81 -g -w 1\n-a -t 192.0.2.10:81 -r 10.0.0.2:81 -g -w 0\n"
	if got := text(Want(s, view, plan.State{})); got != want {
		t.Errorf("with an empty table:\n%s", got)
	}
	have := plan.Want(s)
	have.Find(s.Services[1].Key).Servers[3].Weight = 0
	want = "-A -t 192.0.2.10:80 -s wlc\n-a -t 192.0.2.10:80 -r 10.0.0.1:80 -g -w 1\n-a -t 192.0.2.10:80 -r 10.0.0.3:80 -g -w 1\n-a -t 192.0.2.10:80 -r 10.0.0.4:80 -g -w 1\n" +
		"-A -t 192.0.2.10:81 -s wlc\n-a -t 192.0.2.10:81 -r 10.0.0.1:81 -g -w 1\n-a -t 192.0.2.10:81 -r 10.0.0.2:81 -g -w 0\n-a -t 192.0.2.10:81 -r 10.0.0.3:81 -g -w 1\n-a -t 192.0.2.10:81 -r 10.0.0.4:81 -g -w 0\n"
	if got := text(Want(s, view, have)); got != want {
		t.Errorf("with a table:\n%s", got)
	}
	s.Services[0].Checks = nil
	if got := Want(s, View{}, plan.State{}); len(got.Services[0].Servers) != 4 {
		t.Errorf("without checks: %v", got.Services[0])
	}
}

// What the agent of a server says about a service counts at once, and what the checks say counts too.
func TestEngineHearsAgents(t *testing.T) {
	var log []string
	run(t, Options{Event: func(e Event) { log = append(log, e.String()) }}, func(e *Engine, w *world) {
		s := sites(t, 2, 2, fast)
		e.SetSpec(s)
		time.Sleep(50 * time.Millisecond)
		server := s.Services[0].RealServers[0].Addr
		e.SetAgents(map[netip.Addr]Agent{server: {Down: map[string]string{"TCP 192.0.2.10:80": "nobody listens"}}})
		synctest.Wait()
		if got := states(e.View(), s, 0) + ", " + states(e.View(), s, 1); got != "down up, up up" {
			t.Errorf("the agent says down: %s", got)
		}
		if got := e.View().of(s.Services[0].Key, s.Services[0].RealServers[0].DestKey).Reason; got != "service down: nobody listens (its agent)" {
			t.Errorf("reason %q", got)
		}
		e.SetAgents(map[netip.Addr]Agent{server: {}})
		synctest.Wait()
		if got := states(e.View(), s, 0); got != "up up" {
			t.Errorf("the agent says no more: %s", got)
		}
		// A new spec keeps what agents said.
		e.SetAgents(map[netip.Addr]Agent{server: {Down: map[string]string{"TCP 192.0.2.10:81": "nobody listens"}}})
		again := s.Clone()
		e.SetSpec(&again)
		synctest.Wait()
		if got := states(e.View(), s, 0) + ", " + states(e.View(), s, 1); got != "up up, down up" {
			t.Errorf("after a new spec: %s", got)
		}
	})
	if got := strings.Join(log[len(log)-3:], "\n"); !strings.Contains(got, "s0: 10.0.0.1 is down: service down: nobody listens (its agent)\ns0: 10.0.0.1 is up") {
		t.Errorf("events:\n%s", got)
	}
}

// The host of a silent agent is probed at once, with little patience, and one bad probe is enough; a good one, and
// nothing happens.
func TestEngineProbesSilentHosts(t *testing.T) {
	const slow = "{type: tcp, path: rip, interval: 10s, timeout: 5s, fall: 3}"
	for _, dead := range []bool{true, false} {
		for _, wait := range []time.Duration{0, 10 * time.Second} { // the next probe is far away, or just under way
			run(t, Options{}, func(e *Engine, w *world) {
				s := sites(t, 1, 2, slow)
				e.SetSpec(s)
				time.Sleep(wait + time.Second)
				if dead {
					w.mu.Lock()
					w.takes = time.Hour
					w.mu.Unlock()
				}
				time.Sleep(wait / 8)
				begin := time.Now()
				server := s.Services[0].RealServers[0].Addr
				e.SetAgents(map[netip.Addr]Agent{server: {Silent: true}})
				want := "up up"
				if dead {
					want = "down up"
				}
				time.Sleep(200 * time.Millisecond)
				if got := states(e.View(), s, 0); got != want {
					t.Errorf("dead %v, %s later: %s", dead, time.Since(begin), got)
				}
				if reason := e.View().of(s.Services[0].Key, s.Services[0].RealServers[0].DestKey).Reason; dead && !strings.HasPrefix(reason, "host gone: its agent is not heard; tcp 10.0.0.1:80: ") {
					t.Errorf("reason %q", reason)
				}
			})
		}
	}
}

// The host of an agent that is late is probed at once, and that is all: a good probe is good, a bad one counts as any
// other. When it is silent by then, what is known is not waited for longer than that of one that is probed only now.
func TestEngineProbesLateHosts(t *testing.T) {
	const slow = "{type: tcp, path: rip, interval: 10s, timeout: 5s, fall: 3}"
	for _, dead := range []bool{true, false} {
		run(t, Options{}, func(e *Engine, w *world) {
			s := sites(t, 1, 2, slow)
			e.SetSpec(s)
			time.Sleep(time.Second)
			if dead {
				w.mu.Lock()
				w.takes = time.Hour
				w.mu.Unlock()
			}
			server := s.Services[0].RealServers[0].Addr
			before := e.Probes()
			e.SetAgents(map[netip.Addr]Agent{server: {Late: true}})
			time.Sleep(silentTimeout + 10*time.Millisecond)
			if n := e.Probes() - before; n != 1 {
				t.Errorf("dead %v: %d probes when it was late", dead, n)
			}
			if got := states(e.View(), s, 0); got != "up up" {
				t.Errorf("dead %v, late: %s", dead, got)
			}
			e.SetAgents(map[netip.Addr]Agent{server: {Late: true, Silent: true}})
			time.Sleep(10 * time.Millisecond) // the probe has had its time
			want := "up up"
			if dead {
				want = "down up"
			}
			if got := states(e.View(), s, 0); got != want {
				t.Errorf("dead %v, silent: %s", dead, got)
			}
		})
	}
}

// What an active director knows is told to a standby, which goes on from there when it takes over: with the state,
// the slow start, and the count of falls.
func TestTakeoverGoesOn(t *testing.T) {
	s := sites(t, 1, 4, "{type: tcp, path: rip, interval: 1s, fast_interval: 100ms, timeout: 500ms, rise: 2, fall: 3}")
	s.Services[0].Health = spec.Health{OnFail: spec.Remove, SlowStart: 20 * time.Second, FlapHold: 5 * time.Second, Quorum: 1, Panic: 100}
	key := func(i int) ipvs.DestKey { return s.Services[0].RealServers[i].DestKey }
	var told []byte
	run(t, Options{}, func(e *Engine, w *world) {
		e.SetLead(true)
		e.SetSpec(s)
		time.Sleep(15 * time.Second)
		w.set("10.0.0.2", errors.New("bad")) // stays down
		w.set("10.0.0.3", errors.New("bad")) // comes back, slowly
		w.set("10.0.0.4", errors.New("bad")) // comes back, falls again, and is held
		time.Sleep(3 * time.Second)
		w.set("10.0.0.4", nil)
		time.Sleep(3 * time.Second)
		w.set("10.0.0.3", nil)
		w.set("10.0.0.4", errors.New("bad"))
		time.Sleep(3 * time.Second)
		w.set("10.0.0.4", nil)
		time.Sleep(3 * time.Second)
		v := e.View()
		if got := states(v, s, 0); got != "up down up down" || v.of(s.Services[0].Key, key(3)).Memory.Checks != Up || v.of(s.Services[0].Key, key(2)).Weight >= 10 {
			t.Fatalf("%s; %+v", got, v[s.Services[0].Key])
		}
		var err error
		if told, err = json.Marshal(Share(s, v, time.Now())); err != nil {
			t.Fatal(err)
		}
	})
	run(t, Options{}, func(e *Engine, w *world) {
		w.set("10.0.0.2", errors.New("bad"))
		var x Shared
		if err := json.Unmarshal(told, &x); err != nil {
			t.Fatal(err)
		}
		e.SetSpec(s)
		e.SetShared(x.View(s, time.Now()))
		synctest.Wait()
		if got := states(e.View(), s, 0); got != "up down up down" {
			t.Errorf("a standby that was told: %s", got)
		}
		time.Sleep(time.Second)
		_, before := w.probes()
		time.Sleep(20 * time.Second)
		if _, n := w.probes(); n-before > 4*5 {
			t.Errorf("%d probes of a standby in 20 s", n-before)
		}
		e.SetShared(x.View(s, time.Now()))
		synctest.Wait()
		e.SetLead(true)
		synctest.Wait()
		v := e.View()
		if got := states(v, s, 0); got != "up down up down" {
			t.Errorf("taking over: %s", got)
		}
		if w := v.of(s.Services[0].Key, key(2)).Weight; w >= 10 || w == 0 {
			t.Errorf("the slow start does not go on: weight %d of 10", w)
		}
		time.Sleep(6 * time.Second)
		if got := states(e.View(), s, 0); got != "up down up up" {
			t.Errorf("when the hold is over: %s", got)
		}
		time.Sleep(30 * time.Second)
		if w := e.View().of(s.Services[0].Key, key(2)).Weight; w != 1 {
			t.Errorf("at the end of the slow start: weight %d", w)
		}
	})
}
