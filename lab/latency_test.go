package lab

import (
	"testing"
	"time"

	"github.com/drover-lb/drover/lab/probe"
)

func TestQuantile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(i+1))
	}
	for _, c := range []struct {
		list []time.Duration
		q    float64
		want time.Duration
		ok   bool
	}{{nil, 0.99, 0, false}, {hundred, 0.99, 99, true}, {hundred, 0.5, 50, true}, {hundred, 1, 100, true}, {hundred, 0, 1, true}, {hundred[:1], 0.99, 1, true}, {hundred[:3], 0.5, 2, true}} {
		if got, ok := quantile(c.list, c.q); got != c.want || ok != c.ok {
			t.Errorf("%v of %d: %v, %t", c.q, len(c.list), got, ok)
		}
	}
}

func TestLatencyIsCompared(t *testing.T) {
	s := probe.NewSeries()
	at := func(start, took time.Duration) {
		s.Add(probe.Event{Kind: probe.OK, Start: start * time.Millisecond, At: (start + took) * time.Millisecond})
	}
	for i := range 10 {
		at(time.Duration(100+i), 500)
		at(time.Duration(2000+i), 50)
	}
	r := &run{marks: map[string]time.Duration{"fixed": 100 * time.Millisecond, "switched": time.Second, "adaptive": 2 * time.Second}, procs: map[string]*process{"client/web": {series: s}}}
	c := checkLatency{probe: "client/web", since: "adaptive", quantile: 0.99, bounds: bounds[time.Duration]{0, maxTime}, from: "fixed", to: "switched", below: true, words: []string{"below"}}
	text, ok := c.check(t.Context(), r)
	if want := "p99 50ms, p50 50ms of 10; from fixed to switched p99 500ms, p50 500ms of 10"; text != want || !ok {
		t.Errorf("%q, %t", text, ok)
	}
	c.since, c.from, c.to = "fixed", "adaptive", "switched" // nothing lies between these
	if text, ok := c.check(t.Context(), r); ok {
		t.Errorf("%q holds", text)
	}
	c.below, c.bounds.max = false, 499*time.Millisecond
	if text, ok := c.check(t.Context(), r); ok {
		t.Errorf("%q is within %v", text, c.bounds)
	}
}
