package controller

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/kernel/kerneltest"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// checker is a prober for which servers are up that are not named, and which notes the marks.
type checker struct {
	mu    sync.Mutex
	down  map[netip.Addr]bool
	marks map[uint32]bool
}

func (c *checker) Probe(_ context.Context, t health.Target, mark uint32) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marks[mark] = true
	if c.down[t.Place.Via.Addr] || c.down[t.Place.To.Addr()] {
		return health.AsConfigured, errors.New("connection refused")
	}
	return health.AsConfigured, nil
}

func (c *checker) set(addr string, down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down[netip.MustParseAddr(addr)] = down
}

// The table has the servers that are up; the services by which they are asked are there and shown to nobody.
func TestHealthInTheTable(t *testing.T) {
	const text = `
director: {interface: eth0, ownership: all, reconcile_interval: 1h}
vips: [192.0.2.10]
services:
  - address: 192.0.2.10
    port: 80
    scheduler: rr
    checks: [{type: tcp, interval: 1s, fast_interval: 100ms, rise: 2, fall: 2}]
    real_servers: [10.0.0.11, 10.0.0.12]
`
	fake(t, func(w *world, k *kerneltest.Kernel) {
		probes := &checker{down: make(map[netip.Addr]bool), marks: make(map[uint32]bool)}
		engine := health.New(health.Options{Prober: probes, Marks: spec.DefaultCheckMark})
		ctx, cancel := context.WithCancel(w.t.Context())
		done := make(chan error, 1)
		go func() { done <- engine.Run(ctx) }()
		defer func() {
			cancel()
			<-done
		}()
		private := ipvs.Key{Family: ipvs.IPv4, FWMark: spec.DefaultCheckMark}
		expect := func(when, public string) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			st := w.status()
			var got []string
			for _, s := range st.have.Services {
				for _, d := range s.Servers {
					got = append(got, d.Addr.String())
				}
			}
			if words := strings.Join(got, " "); words != public || len(st.have.Services) != 1 || len(st.Strangers) > 0 || len(st.Pending.Ops) > 0 || !st.Healthy {
				t.Errorf("%s: servers %q in %d services, strangers %v, pending %v, healthy %v", when, words, len(st.have.Services), st.Strangers, st.Pending, st.Healthy)
			}
			if n := len(w.table().Services); n != 3 {
				t.Errorf("%s: %d services in the kernel", when, n)
			}
			if st.Reconcile.Heals != 0 {
				t.Errorf("%s: healed, says the status", when)
			}
		}
		w.start(text, func(o *Options) { o.Health = engine })
		expect("at first", "10.0.0.11 10.0.0.12")
		if len(probes.marks) != 2 || probes.marks[0] {
			t.Errorf("marks %v", probes.marks)
		}
		probes.set("10.0.0.11", true)
		time.Sleep(time.Second)
		expect("one is down", "10.0.0.12")
		if c := w.status().Checks; len(c) != 1 || c[0].Servers[0].State != "down" || c[0].Servers[0].Reason != "tcp 192.0.2.10:80: connection refused" {
			t.Errorf("checks %+v", c)
		}
		// A private service that somebody deletes comes back with the next pass, and nobody is told of it.
		k.Hand(ipvs.Command{Op: ipvs.OpDelService, Service: ipvs.Service{Key: private}})
		probes.set("10.0.0.11", false)
		time.Sleep(2 * time.Second)
		expect("it is up again", "10.0.0.11 10.0.0.12")
		// Without checks there are no private services.
		w.reload(strings.Replace(text, "checks:", "# checks:", 1))
		time.Sleep(time.Second)
		if n := len(w.table().Services); n != 1 {
			t.Errorf("without checks: %d services in the kernel", n)
		}
		w.reload(text)
		expect("with checks again", "10.0.0.11 10.0.0.12")
		w.stop()
		if got := w.table().Services; len(got) != 0 {
			t.Errorf("left behind: %v", got)
		}
	})
}

// A director that starts again leaves the servers in the table of which it knows nothing yet.
func TestUnknownServersStay(t *testing.T) {
	const text = `
director: {interface: eth0}
vips: [192.0.2.10]
services:
  - {address: 192.0.2.10, port: 80, scheduler: rr, checks: [{type: tcp, timeout: 1m}], real_servers: [10.0.0.11, 10.0.0.12]}
`
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(strings.Replace(text, ", 10.0.0.12", "", 1))
		w.kill()
		engine := health.New(health.Options{Prober: &checker{}}) // it does not run: nothing is known
		w.start(text, func(o *Options) { o.Health = engine })
		if got := w.table(); len(got.Services) != 1 || len(got.Services[0].Servers) != 1 || got.Services[0].Servers[0].Addr != netip.MustParseAddr("10.0.0.11") {
			t.Errorf("%+v", got)
		}
	})
}

// leading notes whether the health is told that this director is active.
type leading struct {
	noHealth
	active atomic.Bool
}

func (l *leading) SetLead(active bool) { l.active.Store(active) }

// A director that is active before it has a VIP of the group, as one of an empty cluster is, leads when it gets one.
func TestLeadOfAGroupThatComesLate(t *testing.T) {
	fake(t, func(w *world, _ *kerneltest.Kernel) {
		l := &leading{}
		w.start("director: {interface: eth0}\nvips: []\nservices: []\n", member, func(o *Options) { o.Health = l })
		w.mustRole("default", Role{Active: true, Epoch: 7, Why: "elected"})
		if l.active.Load() {
			t.Error("it leads without a VIP")
		}
		w.reload(two)
		w.status()
		if !l.active.Load() {
			t.Error("it does not lead")
		}
		w.mustRole("default", Role{Why: "stepped down"})
		if l.active.Load() {
			t.Error("it leads as a standby")
		}
	})
}
