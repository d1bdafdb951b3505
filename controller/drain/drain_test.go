package drain

import (
	"cmp"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

var start = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func at(seconds int) time.Time { return start.Add(time.Duration(seconds) * time.Second) }

func wish(deadline int, remove bool) spec.Drain {
	return spec.Drain{On: true, DrainPolicy: spec.DrainPolicy{Deadline: time.Duration(deadline) * time.Second, Remove: remove}}
}

func since(w spec.Drain, seconds int) spec.Drain {
	w.Since = at(seconds)
	return w
}

func settle(w spec.Drain, seconds int) spec.Drain {
	w.Settle = time.Duration(seconds) * time.Second
	return w
}

func known(active, inactive uint64) Counts {
	return Counts{Known: true, Active: active, Inactive: inactive}
}

func TestSteps(t *testing.T) {
	type step struct {
		at    int
		in    Input
		state State
		since int // of the record
		out   bool
		words string
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"nobody asks", []step{{0, Input{Counts: known(3, 3)}, Serving, 0, false, ""}}},
		{"waits for active and inactive ones, is kept", []step{
			{0, Input{Wish: wish(0, false), Counts: Counts{Active: 9}}, Draining, 0, false, "9 connections, no deadline"},
			{1, Input{Wish: wish(0, false), Counts: known(1, 0)}, Draining, 0, false, "1 connection, no deadline"},
			{2, Input{Wish: wish(0, false), Counts: known(0, 1)}, Draining, 0, false, "1 connection, none of them active, over in 5 s"},
			{3, Input{Wish: wish(0, false), Counts: known(0, 0)}, Drained, 0, false, "no connection left"},
			{4, Input{Wish: wish(0, false), Counts: known(2, 0)}, Draining, 0, false, "2 connections, no deadline"},
		}},
		{"inactive ones are waited for a while after the last active one", []step{
			{0, Input{Wish: wish(0, false), Counts: known(1, 7)}, Draining, 0, false, "8 connections, no deadline"},
			{1, Input{Wish: wish(0, false), Counts: known(0, 8)}, Draining, 0, false, "8 connections, none of them active, over in 5 s"},
			{3, Input{Wish: wish(0, false), Counts: known(0, 8)}, Draining, 0, false, "8 connections, none of them active, over in 3 s"},
			{4, Input{Wish: wish(0, false), Counts: known(1, 7)}, Draining, 0, false, "8 connections, no deadline"}, // one goes on
			{5, Input{Wish: wish(0, false), Counts: known(0, 8)}, Draining, 0, false, "8 connections, none of them active, over in 5 s"},
			{6, Input{Wish: wish(0, false), Counts: Counts{Inactive: 8}}, Draining, 0, false, "8 connections, no deadline"}, // standby for a moment
			{7, Input{Wish: wish(0, false), Counts: known(0, 8)}, Draining, 0, false, "8 connections, none of them active, over in 5 s"},
			{12, Input{Wish: wish(0, false), Counts: known(0, 8)}, Drained, 0, false, "no active connection left, and 8 that clients have closed"},
			{13, Input{Wish: wish(0, false), Counts: known(0, 3)}, Drained, 0, false, "no active connection left, and 3 that clients have closed"},
			{14, Input{Wish: wish(0, false), Counts: known(1, 3)}, Draining, 0, false, "4 connections, no deadline"},
		}},
		{"for as long as is said", []step{
			{0, Input{Wish: settle(wish(0, true), 60), Counts: known(0, 2)}, Draining, 0, false, "2 connections, none of them active, over in 60 s"},
			{59, Input{Wish: settle(wish(0, true), 60), Counts: known(0, 1)}, Draining, 0, false, "1 connection, none of them active, over in 1 s"},
			{60, Input{Wish: settle(wish(0, true), 60), Counts: known(0, 1)}, Drained, 0, true, "no active connection left, and 1 that clients have closed"},
		}},
		{"the deadline comes first", []step{
			{0, Input{Wish: settle(wish(10, false), 60), Counts: known(0, 2)}, Draining, 0, false, "2 connections, none of them active, over in 60 s"},
			{10, Input{Wish: settle(wish(10, false), 60), Counts: known(0, 2)}, Expired, 0, false, "2 connections left at the deadline 0 s ago"},
		}},
		{"not TCP: an inactive one may be in use", []step{
			{0, Input{Wish: wish(0, false), Counts: known(0, 2), Whole: true}, Draining, 0, false, "2 connections, no deadline"},
			{99, Input{Wish: wish(0, false), Counts: known(0, 2), Whole: true}, Draining, 0, false, "2 connections, no deadline"},
			{100, Input{Wish: wish(0, false), Counts: known(0, 0), Whole: true}, Drained, 0, false, "no connection left"},
		}},
		{"is taken out, and stays out when nothing is counted any more", []step{
			{0, Input{Wish: wish(30, true), Counts: known(12, 0)}, Draining, 0, false, "12 connections, 30 s left"},
			{5, Input{Wish: wish(30, true), Counts: known(12, 0)}, Draining, 0, false, "12 connections, 25 s left"},
			{9, Input{Wish: wish(30, true), Counts: known(0, 0)}, Drained, 0, true, "no connection left"},
			{10, Input{Wish: wish(30, true)}, Drained, 0, true, "no connection left"},
			{99, Input{Wish: wish(30, true)}, Drained, 0, true, "no connection left"},
			{100, Input{Wish: wish(30, false)}, Drained, 0, false, "no connection left"}, // changed to keep
		}},
		{"the deadline", []step{
			{0, Input{Wish: wish(30, true), Counts: known(5, 5)}, Draining, 0, false, "10 connections, 30 s left"},
			{30, Input{Wish: wish(30, true), Counts: known(2, 0)}, Expired, 0, true, "2 connections left at the deadline 0 s ago"},
			{31, Input{Wish: wish(60, true), Counts: known(2, 0)}, Draining, 0, false, "2 connections, 29 s left"}, // put off
			{60, Input{Wish: wish(60, false), Counts: known(2, 0)}, Expired, 0, false, "2 connections left at the deadline 0 s ago"},
		}},
		{"what is not known to be none does not count as none", []step{
			{0, Input{Wish: wish(30, true)}, Draining, 0, false, "0 connections, 30 s left"},
			{29, Input{Wish: wish(30, true)}, Draining, 0, false, "0 connections, 1 s left"},
			{30, Input{Wish: wish(30, true)}, Expired, 0, true, "0 connections left at the deadline 0 s ago"},
		}},
		{"undrained and drained again", []step{
			{0, Input{Wish: wish(30, true), Counts: known(0, 0)}, Drained, 0, true, "no connection left"},
			{40, Input{Counts: known(0, 0)}, Serving, 0, false, ""},
			{50, Input{Wish: wish(30, true), Counts: Counts{}}, Draining, 50, false, "0 connections, 30 s left"},
		}},
		{"a director that comes late counts from when it was asked for", []step{
			{20, Input{Wish: since(wish(30, false), 0), Counts: known(1, 0)}, Draining, 0, false, "1 connection, 10 s left"},
		}},
		{"undrained and drained again unseen", []step{
			{0, Input{Wish: since(wish(30, true), 0), Counts: known(0, 0)}, Drained, 0, true, "no connection left"},
			{60, Input{Wish: since(wish(30, true), 55)}, Draining, 55, false, "0 connections, 25 s left"},
		}},
		{"the clock of who asked is ahead", []step{
			{0, Input{Wish: since(wish(30, false), 3600)}, Draining, 0, false, "0 connections, 30 s left"},
			{10, Input{Wish: since(wish(30, false), 3600)}, Draining, 0, false, "0 connections, 20 s left"},
		}},
		{"persistence templates", []step{
			{0, Input{Wish: wish(0, true), Counts: Counts{Known: true, Persistent: 4}, Templates: true}, Draining, 0, false, "4 connections, no deadline"},
			{1, Input{Wish: wish(0, true), Counts: Counts{Known: true, Persistent: 4}}, Drained, 0, true, "no connection left"},
		}},
	} {
		var r Record
		for i, s := range tc.steps {
			s.in.Now = at(s.at)
			var v Verdict
			r, v = Step(r, s.in)
			words := ""
			if v.State != Serving {
				words = v.Progress(s.in.Now)
			}
			if v.State != s.state || v.Remove != s.out || words != s.words {
				t.Errorf("%s, step %d: %s, out %t, %q; want %s, %t, %q", tc.name, i, v.State, v.Remove, words, s.state, s.out, s.words)
			}
			if v.State == Serving {
				if r != (Record{}) {
					t.Errorf("%s, step %d: remembers %+v", tc.name, i, r)
				}
			} else if !r.Since.Equal(at(s.since)) || !v.Since.Equal(r.Since) {
				t.Errorf("%s, step %d: since %s, want %s", tc.name, i, r.Since, at(s.since))
			}
		}
	}
}

func TestWish(t *testing.T) {
	for _, tc := range []struct {
		server spec.RealServer
		want   spec.Drain
	}{
		{spec.RealServer{Destination: ipvs.Destination{Weight: 1}}, spec.Drain{}},
		{spec.RealServer{}, spec.Drain{On: true}},
		{spec.RealServer{Drain: wish(30, true)}, wish(30, true)},
		{spec.RealServer{Destination: ipvs.Destination{Weight: 7}, Drain: wish(0, false)}, wish(0, false)},
	} {
		if got := Wish(&tc.server); got != tc.want {
			t.Errorf("%+v: %+v", tc.server, got)
		}
	}
}

// Whatever happens in whatever order: a server that nobody drains is never taken out; one is taken out only if that
// was asked for, and either nothing was left, or nothing active for long enough, or its deadline is over; two
// directors that were told at different times agree once it was written since when; and a restart, which keeps the
// record, changes nothing.
func TestProperties(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		var rec Record
		var w spec.Drain
		empty := false // nothing was left at the last time that was known, or nothing active for long enough
		var quiet time.Time
		now := start
		for range 40 {
			now = now.Add(time.Duration(r.IntN(5000)) * time.Millisecond)
			switch r.IntN(10) {
			case 0:
				w = spec.Drain{}
			case 1, 2:
				began := w
				w = wish(r.IntN(3)*10, r.IntN(2) == 0)
				w.Settle = time.Duration(r.IntN(3)) * 4 * time.Second
				w.Since = began.Since
				if !began.On && r.IntN(2) == 0 {
					w.Since = now.Truncate(time.Second)
				}
			}
			in := Input{Wish: w, Now: now, Templates: r.IntN(2) == 0}
			if r.IntN(3) > 0 {
				in.Counts = Counts{Known: r.IntN(2) == 0, Active: r.Uint64N(2), Inactive: r.Uint64N(2), Persistent: r.Uint64N(2)}
			}
			fresh := rec.Since.IsZero() || !rec.Asked.Equal(w.Since)
			next, v := Step(rec, in)
			if fresh {
				empty, quiet = false, time.Time{}
			}
			active := in.Counts.Active
			if in.Templates {
				active += in.Counts.Persistent
			}
			switch {
			case !in.Counts.Known:
				quiet = time.Time{}
			case active > 0:
				empty, quiet = false, time.Time{}
			case in.Counts.Inactive == 0:
				empty = true
			default:
				if quiet.IsZero() {
					quiet = now
				}
				empty = empty || now.Sub(quiet) >= cmp.Or(w.Settle, spec.DefaultSettle)
			}
			over := w.Deadline > 0 && !now.Before(next.Since.Add(w.Deadline))
			if want := w.On && w.Remove && (empty || over); v.Remove != want {
				t.Fatalf("seed %d: %+v: removed %t, want %t", seed, in, v.Remove, want)
			}
			if (v.State == Serving) != !w.On || (v.State == Drained) != (w.On && empty) {
				t.Fatalf("seed %d: %+v is %s", seed, in, v.State)
			}
			if again, same := Step(next, in); again != next || same != v {
				t.Fatalf("seed %d: the same once more is %+v, not %+v", seed, same, v)
			}
			if !w.Since.IsZero() && !w.Since.After(now) && !next.Since.Equal(w.Since) {
				t.Fatalf("seed %d: began %s, was asked for %s", seed, next.Since, w.Since)
			}
			rec = next
		}
	}
}

func TestStateString(t *testing.T) {
	for s, want := range map[State]string{Serving: "serving", Draining: "draining", Drained: "drained", Expired: "expired", 9: "State(9)"} {
		if b, err := s.MarshalText(); string(b) != want || err != nil {
			t.Errorf("%s, %v", b, err)
		}
	}
}
