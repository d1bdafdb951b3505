package health

import (
	"encoding/json"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// adaptiveSite is a service of a pool with three members, whose weights follow loads.
func adaptiveSite(t *testing.T, more string) *spec.Spec {
	t.Helper()
	f, err := spec.Parse("test", []byte("director: {interface: eth0}\nvips: [192.0.2.10]\nservices:\n  - {name: web, address: 192.0.2.10, port: 80, scheduler: wrr, pool: web, "+
		"adaptive: {smoothing: 2s}, real_servers: [10.0.0.1, 10.0.0.2, 10.0.0.3]"+more+"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return &f.Spec
}

// weights are those in the table that is wanted.
func weights(s *spec.Spec, v View) string {
	var out []string
	want := Want(s, v, plan.State{})
	for _, d := range want.Services[0].Servers {
		out = append(out, fmt.Sprint(d.Weight))
	}
	return strings.Join(out, " ")
}

func tellLoads(e *Engine, loads ...float64) {
	for i, l := range loads {
		if l >= 0 {
			e.SetLoad(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)}), l, time.Now(), time.Second)
		}
	}
}

// Who has more to do gets less; another director goes on from there; who is not heard any more goes back; and a drain
// stays a drain.
func TestWeightsFollowLoads(t *testing.T) {
	var log []string
	var told Shared
	s := adaptiveSite(t, "")
	run(t, Options{Event: func(e Event) { log = append(log, e.String()) }}, func(e *Engine, _ *world) {
		e.SetLead(true)
		e.SetSpec(s)
		time.Sleep(100 * time.Millisecond)
		if got := weights(s, e.View()); got != "20 20 20" {
			t.Errorf("at first: %s", got)
		}
		before := e.Revision()
		for range 60 {
			tellLoads(e, 0.9, 0.5, 0.5)
			time.Sleep(time.Second)
		}
		if got := weights(s, e.View()); got != "2 28 28" {
			t.Errorf("after a minute: %s", got)
		}
		if n := e.Revision() - before; n > 45 {
			t.Errorf("%d new views in a minute", n)
		}
		x := e.Adapted()[s.Services[0].Key][s.Services[0].RealServers[0].DestKey]
		if text := Adaption(x); text != "adaptive weight, 10% of the configured one, which is the least: load 0.90, that of all is 0.51" {
			t.Errorf("it says: %s", text)
		}
		b, err := json.Marshal(Share(s, e.View(), time.Now()))
		if err != nil || json.Unmarshal(b, &told) != nil {
			t.Fatal(err)
		}
		e.SetLead(true)
		drained := s.Clone()
		drained.Services[0].RealServers[0].Drain.On = true
		e.SetSpec(&drained)
		for range 3 {
			tellLoads(e, 0, 0.5, 0.5)
			time.Sleep(time.Second)
		}
		if got := weights(&drained, e.View()); !strings.HasPrefix(got, "0 ") {
			t.Errorf("drained: %s", got)
		}
		e.SetSpec(s)
		for range 120 {
			tellLoads(e, -1, 0.5, 0.5)
			time.Sleep(time.Second)
		}
		if got := weights(s, e.View()); got != "20 20 20" {
			t.Errorf("not heard for two minutes: %s", got)
		}
		// Without adaptive the weights are as they are written.
		plain := s.Clone()
		plain.Services[0].Adaptive = spec.Adaptive{}
		e.SetSpec(&plain)
		time.Sleep(2 * time.Second)
		if got := weights(&plain, e.View()); got != "1 1 1" || len(e.Adapted()) != 0 {
			t.Errorf("not adaptive: %s", got)
		}
	})
	var adapted []string
	for _, l := range log {
		if strings.Contains(l, "adaptive") || strings.Contains(l, "no load") {
			adapted = append(adapted, l)
		}
	}
	// Large steps, and not each second.
	if len(adapted) < 5 || len(adapted) > 16 || !strings.HasPrefix(adapted[0], "web: 10.0.0.1 adaptive weight, ") {
		t.Errorf("events:\n%s", strings.Join(adapted, "\n"))
	}

	// Another director, which has heard nothing else.
	run(t, Options{}, func(e *Engine, _ *world) {
		e.SetSpec(s)
		time.Sleep(100 * time.Millisecond)
		e.SetShared(told.View(s, time.Now()))
		for range 20 { // a standby hears loads, and leaves the weights
			tellLoads(e, 0.1, 0.9, 0.9)
			time.Sleep(time.Second)
		}
		if got := weights(s, e.View()); got != "2 28 28" {
			t.Errorf("a standby: %s", got)
		}
		e.SetLead(true)
		time.Sleep(100 * time.Millisecond)
		if got := weights(s, e.View()); got != "2 28 28" {
			t.Errorf("taken over: %s", got)
		}
		for range 5 {
			tellLoads(e, 0.1, 0.9, 0.9)
			time.Sleep(time.Second)
		}
		if got := weights(s, e.View()); got == "2 28 28" || strings.HasPrefix(got, "2 ") {
			t.Errorf("it goes on: %s", got)
		}
	})
}

func TestScale(t *testing.T) {
	fine := func(large uint32, most float64) *pool { return &pool{fine: fineness{large, most}} }
	for _, c := range []struct {
		p       *pool
		weights []uint32
		factors []float64
		want    []uint32
	}{
		{fine(100, 2), []uint32{1, 1}, []float64{1, 1}, []uint32{100, 100}},
		{fine(100, 2), []uint32{1, 1}, []float64{0.554, 1.446}, []uint32{55, 145}},
		{fine(20, 2), []uint32{1, 3}, []float64{0.01, 1}, []uint32{1, 60}},      // never 0
		{fine(100, 2), []uint32{100, 50}, []float64{1, 1}, []uint32{200, 100}},  // fine enough soon
		{fine(100, 2), []uint32{1000, 0}, []float64{0.5, 1}, []uint32{500, 0}},  // 0 stays 0
		{fine(100, 2), []uint32{20000, 1}, []float64{2, 1}, []uint32{40000, 1}}, // no room
		{fine(100, 10), []uint32{20000, 1}, []float64{10, 1}, []uint32{65535, 1}},
	} {
		inputs := make([]Input, len(c.weights))
		for i, w := range c.weights {
			inputs[i] = Input{Key: ipvs.DestKey{Port: uint16(i)}, Weight: w, State: Up, Factor: c.factors[i]}
		}
		out, _, _ := c.p.step(&rules, inputs, time.Unix(1000, 0), time.Second)
		var got []uint32
		for i := range inputs {
			got = append(got, out.Servers[inputs[i].Key].Weight)
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v by %v: %v, want %v", c.weights, c.factors, got, c.want)
		}
	}
	// A slow start of a server with a factor.
	p := fine(100, 2)
	h := rules
	h.SlowStart = 10 * time.Second
	step := func(at float64, state State) uint32 {
		in := []Input{{Weight: 1, State: state, Factor: 0.5}, {Key: ipvs.DestKey{Port: 1}, Weight: 1, State: Up, Factor: 1.5}}
		out, _, _ := p.step(&h, in, time.Unix(1000, 0).Add(time.Duration(at*float64(time.Second))), time.Second)
		return out.Servers[in[0].Key].Weight
	}
	var got []uint32
	for i, at := range []float64{0, 1, 2, 7, 13} {
		state := Up
		if i == 1 {
			state = Down
		}
		got = append(got, step(at, state))
	}
	if want := []uint32{50, 50, 5, 30, 50}; !reflect.DeepEqual(got, want) {
		t.Errorf("slow start: %v, want %v", got, want)
	}
}

// Servers of which nothing is known, and such as are kept, have weights in the same measure as the others.
func TestOneMeasure(t *testing.T) {
	s := adaptiveSite(t, "")
	svc := &s.Services[0]
	v := View{svc.Key: {Servers: map[ipvs.DestKey]Verdict{
		svc.RealServers[0].DestKey: {State: Up, Weight: 30},
		svc.RealServers[1].DestKey: {State: Unknown, Weight: 20},
		svc.RealServers[2].DestKey: {State: Down, Kept: true, Weight: 10},
	}}}
	var got []uint32
	want := Intent(s, v)
	for _, d := range want.Services[0].Servers {
		got = append(got, d.Weight)
	}
	if !reflect.DeepEqual(got, []uint32{30, 20, 10}) {
		t.Errorf("weights %v", got)
	}
}

func TestPerMille(t *testing.T) {
	for factor, want := range map[float64]int{0: 0, 1: 0, 0.5: 500, 1.9996: 2000, 0.9996: 0} {
		if got := perMille(factor); got != want {
			t.Errorf("%v: %d, want %d", factor, got, want)
		}
	}
	if perMille(math.SmallestNonzeroFloat64) != 0 {
		t.Error("next to nothing")
	}
}
