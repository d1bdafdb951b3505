package main

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/spec"
)

// bad answers every probe with an error, after its time is up.
type bad struct{}

func (bad) Probe(ctx context.Context, _ health.Target, _ uint32) (int, error) {
	<-ctx.Done()
	return health.AsConfigured, ctx.Err()
}

// An agent that says that a service is down is heard at once, one that falls silent within 0.42 s: its
// services are probed when it is late, which alone harms nobody.
func TestBeats(t *testing.T) {
	f, err := spec.Parse("test", []byte("director: {interface: eth0}\nvips: [192.0.2.10]\nservices: [{address: 192.0.2.10, port: 80, real_servers: [10.0.0.11, 10.0.0.12], "+
		"checks: [{type: tcp, path: rip, interval: 10s, timeout: 5s}]}]"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		e := health.New(health.Options{Prober: bad{}})
		e.SetSpec(&f.Spec)
		b := newBeats(e)
		done := make(chan struct{}, 2)
		go func() { _ = e.Run(ctx); done <- struct{}{} }()
		go func() { b.run(ctx); done <- struct{}{} }()
		reasons := func() string {
			synctest.Wait()
			var out []string
			for _, x := range health.Reports(&f.Spec, e.View())[0].Servers {
				out = append(out, x.State+" "+x.Reason)
			}
			return strings.Join(out, "; ")
		}
		beat := func() {
			b.hear("web1", []byte(`{"address":"10.0.0.11"}`))
			time.Sleep(api.BeatEvery)
		}
		beat()
		b.hear("web1", []byte(`no JSON`))
		b.hear("web1", []byte(`{"down":{"TCP 192.0.2.10:80":"x"}}`)) // of nobody
		if got := reasons(); got != "unknown ; unknown " {
			t.Errorf("at first: %s", got)
		}
		b.hear("web1", []byte(`{"address":"10.0.0.11","down":{"TCP 192.0.2.10:80":"nobody listens"}}`))
		if got := reasons(); got != "down service down: nobody listens (its agent); unknown " {
			t.Errorf("after it said so: %s", got)
		}
		beat()
		if got := reasons(); got != "unknown ; unknown " {
			t.Errorf("after it says so no more: %s", got)
		}
		for range 10 {
			beat()
		}
		time.Sleep(200 * time.Millisecond) // 0.4 s after the last beat: late, and being probed
		if got := reasons(); got != "unknown ; unknown " {
			t.Errorf("0.4 s after the last beat: %s", got)
		}
		beat()
		time.Sleep(220 * time.Millisecond)
		if got := reasons(); !strings.HasPrefix(got, "down host gone: its agent is not heard; tcp 10.0.0.11:80: ") || !strings.HasSuffix(got, "; unknown ") {
			t.Errorf("0.42 s after the last beat: %s", got)
		}
		time.Sleep(2 * forgetAfter)
		b.mu.Lock()
		if len(b.agents) != 0 {
			t.Errorf("remembered: %v", b.agents)
		}
		b.mu.Unlock()
		cancel()
		<-done
		<-done
	})
}

// Loads come with beats. What is none is not taken in, and is told of in the status.
func TestLoadsAreHeard(t *testing.T) {
	f, err := spec.Parse("test", []byte("director: {interface: eth0}\nvips: [192.0.2.10]\nservices: [{name: web, address: 192.0.2.10, port: 80, pool: web, adaptive: true, real_servers: [10.0.0.11, 10.0.0.12]}]"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		e := health.New(health.Options{Prober: bad{}})
		e.SetLead(true)
		e.SetSpec(&f.Spec)
		b := newBeats(e)
		done := make(chan struct{})
		go func() { _ = e.Run(ctx); close(done) }()
		for range 60 {
			b.hear("web1", []byte(`{"address":"10.0.0.11","load":1500}`))
			b.hear("web2", []byte(`{"address":"10.0.0.12","load":500}`))
			b.hear("web2", []byte(`{"address":"10.0.0.12","load":-1}`))
			b.hear("web2", []byte(`{"address":"10.0.0.12","load":"much"}`))
			time.Sleep(time.Second)
		}
		v := &view{base: &f.Spec, full: &f.Spec, health: e.View(), loads: e.Adapted()}
		servers := v.services()[0].Servers
		for i, want := range []api.Adaptive{{Load: 1.5}, {Load: 0.5}} {
			got := servers[i].Adaptive
			if got == nil || got.Load != want.Load || got.Text == "" || (i == 0) != (got.Factor < 0.9) || (i == 1) != (got.Factor > 1.1) {
				t.Errorf("%s: %+v", servers[i].Name, got)
			}
		}
		cancel()
		<-done
	})
}

// An agent sends when it looks after its services, every [api.BeatStep]. One beat that is lost does not make it silent.
func TestOneBeatMayBeLost(t *testing.T) {
	for nodes := range 3000 {
		b := &beat{Beat: api.Beat{EveryMS: api.BeatInterval(nodes).Milliseconds()}}
		if e := b.Every(); e%api.BeatStep != 0 || b.lateAfter() < e+api.BeatStep/2 || b.silentAfter() < 2*e || nodes*int(time.Second) > 500*int(e) && e < 10*time.Second {
			t.Errorf("%d nodes: every %v, late after %v, silent after %v", nodes, e, b.lateAfter(), b.silentAfter())
		}
	}
}
