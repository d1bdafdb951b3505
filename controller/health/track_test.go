package health

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// Results are + for a good probe and - for a bad one; states are u for up, d for down, ? for unknown, after each.
func TestTrack(t *testing.T) {
	for _, tc := range []struct {
		rise, fall      int
		results, states string
	}{
		{2, 3, "+", "u"},
		{2, 3, "---", "??d"},
		{2, 3, "--+", "??u"},
		{2, 3, "+--+---", "uuuuuud"},
		{2, 3, "+---+-++", "uuudddd" + "u"},
		{1, 1, "+-+-", "udud"},
		{3, 1, "-+++", "dddu"},
	} {
		var x Track
		got := ""
		for i, r := range tc.results {
			now, before := time.Unix(int64(i), 0), x.State
			changed := x.Add(strings.Trim(string(r), "+"), now, tc.rise, tc.fall)
			if changed != (x.State != before) || changed && x.Since != now {
				t.Errorf("%s: changed %v, since %v", tc.results, changed, x.Since)
			}
			got += map[State]string{Unknown: "?", Up: "u", Down: "d"}[x.State]
		}
		if got != tc.states {
			t.Errorf("rise %d, fall %d, %s: got %s, want %s", tc.rise, tc.fall, tc.results, got, tc.states)
		}
	}
}

// Whatever comes, a state changes only after as many results in a row as were asked for.
func TestTrackProperties(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		rise, fall := 1+r.IntN(5), 1+r.IntN(5)
		var x Track
		good, bad := 0, 0 // in a row
		for range 200 {
			before := x.State
			reason := ""
			if r.IntN(2) == 0 {
				reason = "bad"
				good, bad = 0, bad+1
			} else {
				good, bad = good+1, 0
			}
			x.Add(reason, time.Time{}, rise, fall)
			want := before
			switch {
			case bad >= fall:
				want = Down
			case good >= rise, before == Unknown && good > 0:
				want = Up
			}
			if x.State != want || x.Reason != reason || x.Changing() != (x.State == Unknown || x.State == Up && bad > 0 || x.State == Down && good > 0) {
				t.Fatalf("seed %d, rise %d, fall %d: %d good, %d bad, from %s to %s, want %s; %+v", seed, rise, fall, good, bad, before, x.State, want, x)
			}
		}
	}
}
