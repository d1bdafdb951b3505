package health

import "time"

// State is what probes say about a real server.
type State uint8

const (
	Unknown State = iota // nothing yet
	Up
	Down
)

// String returns unknown, up or down.
func (s State) String() string {
	switch s {
	case Up:
		return "up"
	case Down:
		return "down"
	}
	return "unknown"
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Track turns the results of one probe, which come one after the other, into a state. Its zero value is
// unknown.
type Track struct {
	State  State
	Since  time.Time // of State; zero for unknown
	Reason string    // of the last result that was bad, "" if the last was good
	// Streak counts the results in a row that speak against State.
	Streak int
}

// Add takes in a result that came at now; reason is "" for a good one. rise good ones in a row bring a server
// up that was down, fall bad ones in a row bring any other down. The first good one is enough for a server of
// which nothing is known.
func (t *Track) Add(reason string, now time.Time, rise, fall int) (changed bool) {
	t.Reason = reason
	to, need := Up, rise
	switch {
	case reason != "":
		to, need = Down, fall
	case t.State == Unknown:
		need = 1
	}
	if t.State == to {
		t.Streak = 0
		return false
	}
	if t.Streak++; t.Streak < need {
		return false
	}
	t.State, t.Since, t.Streak = to, now, 0
	return true
}

// Changing reports whether the last result spoke against the state, or there is none yet.
func (t *Track) Changing() bool { return t.State == Unknown || t.Streak > 0 }
