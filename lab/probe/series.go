package probe

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Series is what one probe has seen so far. Its methods may be called from any goroutine.
type Series struct {
	mu     sync.Mutex
	events []Event
	ready  chan struct{}
}

// NewSeries returns an empty Series.
func NewSeries() *Series { return &Series{ready: make(chan struct{})} }

// Add takes the next event.
func (s *Series) Add(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Kind == Ready {
		select {
		case <-s.ready:
		default:
			close(s.ready)
		}
	}
	s.events = append(s.events, e)
}

// Ready is closed when the probe has said that it measures, since the last Rearm.
func (s *Series) Ready() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ready
}

// Rearm waits for the readiness of a probe that is started anew.
func (s *Series) Rearm() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ready = make(chan struct{})
}

// Events returns a copy of all events.
func (s *Series) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// each calls fn with every event in turn; fn must not call s.
func (s *Series) each(fn func(Event)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		fn(e)
	}
}

// Window is a stretch of time that a question is about.
type Window struct{ From, To time.Duration }

// Connections sums up connections, or datagrams, in a window.
type Connections struct {
	OK, Failed int
	Errors     map[string]int // by kind of failure
	ByServer   map[string]int
	// Gap is the longest time in the window in which no new connection was completed, from GapFrom on.
	Gap, GapFrom time.Duration
	// Worst is the longest time that one successful connection took.
	Worst time.Duration
	// LastFailed is when the last one that failed was begun; 0 if none did.
	LastFailed time.Duration
}

// Connections answers for the attempts begun in w, so that one which was under way when something was
// changed, and has been answered by the state before, does not count for the time after it.
//
// The gap is measured between completions, and between the last completion and the end of the window.
// At the beginning it counts from the last completion before the window when there is one, so that a
// window that opens inside an outage shows all of it.
func (s *Series) Connections(w Window) Connections {
	out := Connections{Errors: map[string]int{}, ByServer: map[string]int{}}
	ready, before := time.Duration(0), time.Duration(0)
	done := []time.Duration{}
	s.each(func(e Event) {
		switch e.Kind {
		case Ready:
			ready = e.At
		case OK:
			if e.At < w.From {
				before = max(before, e.At)
				return
			}
			if e.At > w.To {
				return
			}
			done = append(done, e.At)
			if e.Start < w.From {
				return
			}
			out.OK++
			out.ByServer[e.Server]++
			out.Worst = max(out.Worst, e.At-e.Start)
		case Fail:
			if e.Start >= w.From && e.Start <= w.To {
				out.Failed++
				out.Errors[e.Error]++
				out.LastFailed = max(out.LastFailed, e.Start)
			}
		}
	})
	last := max(w.From, ready)
	if before > 0 {
		last = before
	}
	slices.Sort(done)
	for _, at := range append(done, w.To) {
		if gap := at - last; gap > out.Gap {
			out.Gap, out.GapFrom = gap, last
		}
		last = at
	}
	return out
}

// Latencies lists how long the attempts took that were begun in w and have ended, the shortest first. One that failed
// counts for as long as its client has waited.
func (s *Series) Latencies(w Window) []time.Duration {
	var out []time.Duration
	s.each(func(e Event) {
		if (e.Kind == OK || e.Kind == Fail) && e.Start >= w.From && e.Start <= w.To {
			out = append(out, e.At-e.Start)
		}
	})
	slices.Sort(out)
	return out
}

// Share returns the part of the successful connections that server answered, 0 to 1.
func (c Connections) Share(server string) float64 {
	if c.OK == 0 {
		return 0
	}
	return float64(c.ByServer[server]) / float64(c.OK)
}

// Servers returns the servers that answered, sorted.
func (c Connections) Servers() []string {
	out := make([]string, 0, len(c.ByServer))
	for s := range c.ByServer {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// Streams sums up long-lived streams.
type Streams struct {
	Alive  int // not broken at the end of the window
	Broken int // broken in the window
	Errors map[string]int
	Worst  time.Duration // longest pause of a stream in the window, those still going on included
}

// Streams answers for a window.
func (s *Series) Streams(w Window) Streams {
	out := Streams{Errors: map[string]int{}}
	s.each(func(e Event) {
		if e.At < w.From || e.At > w.To {
			return
		}
		switch e.Kind {
		case Stall:
			out.Worst = max(out.Worst, e.At-e.Start)
		case Broken:
			out.Alive-- // until the next tick tells anew
			out.Broken++
			out.Errors[e.Error]++
		case Tick:
			out.Alive = e.Alive
			out.Worst = max(out.Worst, e.Silent)
		}
	})
	out.Alive = max(out.Alive, 0)
	return out
}

// Claims sums up who answered for an address.
type Claims struct {
	Requests int
	ByMAC    map[string]int // requests during which the host claimed the address, by an answer or unasked
	Several  int            // requests that more than one answered
	Nobody   int
	Last     []string // who claimed it at the last request
	// Overlap is the time for which more than one answered: each request counts until the next one.
	Overlap     time.Duration
	OverlapFrom time.Duration // when it began first
	// Silence is the longest time from an answered request to the next one, or to the end of the window.
	Silence time.Duration
	// Coarsest is the longest time between two requests: what is shorter may have been missed.
	Coarsest time.Duration
}

// Claims answers for the requests made in w. Like the gap of connections, the silence counts from the
// last answer before the window when there is one.
func (s *Series) Claims(w Window) Claims {
	out := Claims{ByMAC: map[string]int{}}
	answered := time.Duration(-1)
	s.each(func(e Event) {
		if e.Kind == Ready {
			if answered < 0 {
				answered = max(e.At, w.From)
			}
			return
		}
		if e.Kind != Answers || e.Start > w.To {
			return
		}
		if e.Start < w.From {
			if len(e.Answered) > 0 {
				answered = e.Start
			}
			return
		}
		out.Coarsest = max(out.Coarsest, min(e.At, w.To)-e.Start)
		if len(e.Answered) > 0 {
			if answered >= 0 {
				out.Silence = max(out.Silence, e.Start-answered)
			}
			answered = e.Start
		}
		if e.At > w.To {
			return
		}
		out.Requests++
		for _, m := range e.MACs {
			out.ByMAC[m]++
		}
		if len(e.MACs) == 0 {
			out.Nobody++
		}
		if len(e.Answered) > 1 {
			if out.Several++; out.Several == 1 {
				out.OverlapFrom = e.Start
			}
			out.Overlap += e.At - e.Start
		}
		out.Last = e.MACs
	})
	if answered >= 0 {
		out.Silence = max(out.Silence, w.To-answered)
	}
	return out
}

// Wrong counts the requests made in w at which somebody claimed the address who is none of those that right accepts,
// and tells when the last of them was made; 0 if there is none. right must not call s.
func (s *Series) Wrong(w Window, right func(mac string) bool) (n int, last time.Duration) {
	s.each(func(e Event) {
		if e.Kind != Answers || e.Start < w.From || e.Start > w.To || e.At > w.To {
			return
		}
		if slices.ContainsFunc(e.MACs, func(m string) bool { return !right(m) }) {
			n, last = n+1, max(last, e.Start)
		}
	})
	return n, last
}

// Most formats counts such as "3 timeout, 1 refused", most frequent first.
func Most(counts map[string]int, format func(string, int) string) string {
	keys := make([]string, 0, len(counts))
	for k := range counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return cmp.Or(counts[b]-counts[a], strings.Compare(a, b)) })
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = format(k, counts[k])
	}
	return strings.Join(parts, ", ")
}
