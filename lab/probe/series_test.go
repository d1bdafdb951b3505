package probe

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

const ms = time.Millisecond

func series(events ...Event) *Series {
	s := NewSeries()
	for _, e := range events {
		s.Add(e)
	}
	return s
}

func answered(at time.Duration, server string) Event {
	return Event{Kind: OK, Start: at - ms, At: at, Server: server}
}

func TestConnectionsMeasureTheLongestGap(t *testing.T) {
	s := series(
		Event{Kind: Ready, At: 100 * ms},
		answered(110*ms, "a"), answered(120*ms, "b"),
		Event{Kind: Fail, Start: 130 * ms, At: 1130 * ms, Error: "timeout"},
		answered(420*ms, "a"), answered(430*ms, "b"), answered(425*ms, "a"), // events come in the order of their end, nearly
	)
	for _, tc := range []struct {
		name       string
		w          Window
		ok, failed int
		gap, gapAt time.Duration
		shareOfA   float64
	}{
		{"whole run", Window{0, 430 * ms}, 5, 1, 300 * ms, 120 * ms, 0.6},
		{"opens inside the outage: all of it counts", Window{200 * ms, 430 * ms}, 3, 0, 300 * ms, 120 * ms, 2.0 / 3},
		{"ends inside the outage", Window{0, 400 * ms}, 2, 1, 280 * ms, 120 * ms, 0.5},
		{"before the outage", Window{0, 121 * ms}, 2, 0, 10 * ms, 100 * ms, 0.5},
		{"begun before, answered after: no gap, and no answer of the state since", Window{419500 * time.Microsecond, 421 * ms}, 0, 0, 300 * ms, 120 * ms, 0},
		{"nothing ever since", Window{440 * ms, 2000 * ms}, 0, 0, 1570 * ms, 430 * ms, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := s.Connections(tc.w)
			if got.OK != tc.ok || got.Failed != tc.failed || got.Gap != tc.gap || got.GapFrom != tc.gapAt || got.Share("a") != tc.shareOfA {
				t.Errorf("got %+v, share of a %g", got, got.Share("a"))
			}
		})
	}
}

// What counts is when one that failed was begun, not when its client gave up.
func TestLastFailed(t *testing.T) {
	s := series(
		Event{Kind: Fail, Start: 90 * ms, At: 190 * ms, Error: "timeout"},
		Event{Kind: Fail, Start: 130 * ms, At: 1130 * ms, Error: "timeout"},
		Event{Kind: Fail, Start: 120 * ms, At: 1120 * ms, Error: "timeout"},
		answered(420*ms, "a"),
	)
	for w, want := range map[Window]time.Duration{
		{100 * ms, 2000 * ms}: 130 * ms, {0, 125 * ms}: 120 * ms, {131 * ms, 2000 * ms}: 0,
	} {
		if got := s.Connections(w).LastFailed; got != want {
			t.Errorf("%v: %s, want %s", w, got, want)
		}
	}
}

func TestWrong(t *testing.T) {
	ask := func(at time.Duration, macs ...string) Event {
		return Event{Kind: Answers, Start: at, At: at + 10*ms, MACs: macs, Answered: macs}
	}
	s := series(Event{Kind: Ready, At: 5 * ms}, ask(10*ms, "web"), ask(20*ms, "d"), ask(30*ms, "d", "web"), ask(40*ms), ask(50*ms, "web"), ask(60*ms, "d"))
	right := func(mac string) bool { return mac == "d" }
	for _, tc := range []struct {
		w    Window
		n    int
		last time.Duration
	}{
		{Window{0, 100 * ms}, 3, 50 * ms}, {Window{15 * ms, 55 * ms}, 1, 30 * ms}, {Window{51 * ms, 100 * ms}, 0, 0},
	} {
		if n, last := s.Wrong(tc.w, right); n != tc.n || last != tc.last {
			t.Errorf("%v: %d, the last at %s", tc.w, n, last)
		}
	}
}

func TestConnectionsBeforeAnythingIsReady(t *testing.T) {
	got := NewSeries().Connections(Window{0, 100 * ms})
	if got.OK != 0 || got.Gap != 100*ms {
		t.Errorf("got %+v", got)
	}
}

func TestStreamsCountSilentOnes(t *testing.T) {
	s := series(
		Event{Kind: Tick, At: 100 * ms, Alive: 5, Silent: 10 * ms},
		Event{Kind: Stall, Start: 110 * ms, At: 360 * ms, Stream: 2},
		Event{Kind: Broken, At: 400 * ms, Stream: 3, Error: "reset"},
		Event{Kind: Tick, At: 500 * ms, Alive: 4, Silent: 400 * ms},
	)
	got := s.Streams(Window{0, time.Second})
	if got.Alive != 4 || got.Broken != 1 || got.Errors["reset"] != 1 || got.Worst != 400*ms {
		t.Errorf("got %+v", got)
	}
	if got := s.Streams(Window{0, 399 * ms}); got.Worst != 250*ms || got.Broken != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestClaims(t *testing.T) {
	one, both := []string{"02::1"}, []string{"02::1", "02::2"}
	s := series(
		Event{Kind: Ready, At: 5 * ms},
		Event{Kind: Answers, Start: 10 * ms, At: 20 * ms, MACs: one, Answered: one},
		Event{Kind: Answers, Start: 20 * ms, At: 30 * ms, MACs: both, Answered: one}, // the other announces itself: no overlap yet
		Event{Kind: Answers, Start: 30 * ms, At: 42 * ms, MACs: both, Answered: both},
		Event{Kind: Answers, Start: 42 * ms, At: 50 * ms, MACs: both, Answered: both},
		Event{Kind: Answers, Start: 50 * ms, At: 60 * ms},
		Event{Kind: Answers, Start: 60 * ms, At: 95 * ms},
		Event{Kind: Answers, Start: 95 * ms, At: 105 * ms, MACs: one, Answered: one},
	)
	for _, tc := range []struct {
		name string
		w    Window
		want Claims
	}{
		{"whole run", Window{0, 105 * ms}, Claims{Requests: 7, Several: 2, Nobody: 2, Overlap: 20 * ms, OverlapFrom: 30 * ms, Silence: 53 * ms, Coarsest: 35 * ms}},
		{"before the overlap", Window{0, 30 * ms}, Claims{Requests: 2, Silence: 10 * ms, Coarsest: 10 * ms}},
		{"silence that began before", Window{52 * ms, 94 * ms}, Claims{Nobody: 0, Silence: 52 * ms, Coarsest: 34 * ms}},
		{"nobody asked ever since", Window{200 * ms, 300 * ms}, Claims{Silence: 205 * ms}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := s.Claims(tc.w)
			got.ByMAC, got.Last = nil, nil
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("\n got %+v\nwant %+v", got, tc.want)
			}
		})
	}
	if got := s.Claims(Window{0, time.Second}); got.ByMAC["02::1"] != 5 || got.ByMAC["02::2"] != 3 || !slices.Equal(got.Last, one) {
		t.Errorf("got %+v", got)
	}
}

func TestEventsSurviveTheirPipe(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	want := Event{Kind: OK, At: 5, Start: 3, Server: "web1", Client: "198.51.100.2:4711"}
	w.Write(want)
	var got []Event
	if err := ReadEvents(&b, func(e Event) { got = append(got, e) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Server != want.Server || got[0].At != want.At || got[0].Client != want.Client {
		t.Errorf("got %+v", got)
	}
	if err := ReadEvents(strings.NewReader("{\"kind\":\n"), func(Event) {}); err == nil {
		t.Error("half an event was taken for a whole one")
	}
}

func TestLatencies(t *testing.T) {
	s := NewSeries()
	for _, e := range []Event{
		{Kind: OK, Start: 5 * ms, At: 15 * ms}, // before
		{Kind: OK, Start: 10 * ms, At: 40 * ms},
		{Kind: Fail, Start: 11 * ms, At: 2011 * ms},
		{Kind: OK, Start: 12 * ms, At: 13 * ms},
		{Kind: Stall, Start: 12 * ms, At: 500 * ms},
		{Kind: OK, Start: 21 * ms, At: 22 * ms}, // after
	} {
		s.Add(e)
	}
	if got := fmt.Sprint(s.Latencies(Window{10 * ms, 20 * ms})); got != "[1ms 30ms 2s]" {
		t.Errorf("got %s", got)
	}
}
