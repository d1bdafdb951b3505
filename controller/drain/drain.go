package drain

import (
	"cmp"
	"fmt"
	"time"

	"github.com/drover-lb/drover/controller/spec"
)

// State is how far a drain is.
type State uint8

const (
	Serving  State = iota // no drain
	Draining              // has connections left, or it is not known that it has none
	Drained               // had no connection left
	Expired               // has passed its deadline with connections left
)

// String returns a word such as "draining".
func (s State) String() string {
	switch s {
	case Serving:
		return "serving"
	case Draining:
		return "draining"
	case Drained:
		return "drained"
	case Expired:
		return "expired"
	}
	return fmt.Sprintf("State(%d)", uint8(s))
}

// MarshalText implements encoding.TextMarshaler.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Wish is what is asked of a real server: a drain, or weight 0, which is a drain without a deadline.
func Wish(r *spec.RealServer) spec.Drain {
	if !r.Drain.On && r.Weight == 0 {
		return spec.Drain{On: true}
	}
	return r.Drain
}

// Counts are the connections of a real server in the kernel.
type Counts struct {
	// Known: by the director that has the VIP, with weight 0 in the kernel already. Otherwise there may be more.
	Known                        bool
	Active, Inactive, Persistent uint64
}

// Record is what is remembered of a drain. The zero value is none.
type Record struct {
	Asked time.Time // Since of the wish: with another one it is another drain
	Since time.Time // when it began
	Done  bool      // no connection was left
	Quiet time.Time // since when none is active; zero: some are, or it is not known
}

// Input is what a step depends on beside the record.
type Input struct {
	Wish   spec.Drain
	Counts Counts
	// Templates: persistence templates bring clients to a server of weight 0, and have to end, too.
	Templates bool
	// Whole: also an inactive connection may be in use, as it is not, or need not be, one of TCP.
	Whole bool
	Now   time.Time
}

// Verdict is how a drain is.
type Verdict struct {
	State  State
	Since  time.Time // zero for Serving
	Until  time.Time // the deadline; zero for none
	Remove bool      // it is not to be in the table any more
	Counts Counts    // as last known
	Live   uint64    // of Counts, those that it waits for
	// Settles is when it is over although some are left, as none of them is active; zero if some are.
	Settles time.Time
}

// Step takes in what is wanted and what is counted at a time.
func Step(r Record, in Input) (Record, Verdict) {
	w := &in.Wish
	if !w.On {
		return Record{}, Verdict{}
	}
	if r.Since.IsZero() || !r.Asked.Equal(w.Since) {
		r = Record{Asked: w.Since, Since: in.Now}
		if !w.Since.IsZero() && w.Since.Before(in.Now) { // the clock of who wrote it may be ahead
			r.Since = w.Since
		}
	}
	v := Verdict{State: Draining, Since: r.Since, Counts: in.Counts, Live: in.Counts.Active + in.Counts.Inactive}
	active := in.Counts.Active
	if in.Templates {
		v.Live += in.Counts.Persistent
		active += in.Counts.Persistent
	}
	if in.Whole {
		active += in.Counts.Inactive
	}
	switch {
	case !in.Counts.Known:
		r.Quiet = time.Time{}
	case active > 0:
		r.Done, r.Quiet = false, time.Time{}
	case v.Live == 0:
		r.Done = true
	default:
		if r.Quiet.IsZero() {
			r.Quiet = in.Now
		}
		v.Settles = r.Quiet.Add(cmp.Or(w.Settle, spec.DefaultSettle))
		r.Done = r.Done || !in.Now.Before(v.Settles)
	}
	if w.Deadline > 0 {
		v.Until = r.Since.Add(w.Deadline)
	}
	switch {
	case r.Done:
		v.State = Drained
	case !v.Until.IsZero() && !in.Now.Before(v.Until):
		v.State = Expired
	}
	v.Remove = w.Remove && v.State != Draining
	return r, v
}

// Progress says how far it is at a time, such as "12 connections, 25 s left".
func (v *Verdict) Progress(now time.Time) string {
	if v.State == Draining && !v.Settles.IsZero() {
		return fmt.Sprintf("%s, none of them active, over in %s", connections(v.Live), seconds(v.Settles.Sub(now)))
	}
	return Progress(v.State, v.Live, v.Until, now)
}

func connections(n uint64) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

// Progress says how far a drain is with so many connections and that deadline, zero for none.
func Progress(s State, live uint64, until, now time.Time) string {
	switch {
	case s == Drained && live > 0:
		return fmt.Sprintf("no active connection left, and %d that clients have closed", live)
	case s == Drained:
		return "no connection left"
	case s == Expired:
		return fmt.Sprintf("%s left at the deadline %s ago", connections(live), seconds(now.Sub(until)))
	case until.IsZero():
		return connections(live) + ", no deadline"
	}
	return fmt.Sprintf("%s, %s left", connections(live), seconds(until.Sub(now)))
}

// seconds prints whole seconds, such as "25 s".
func seconds(d time.Duration) string {
	return fmt.Sprintf("%d s", max(0, d.Round(time.Second)/time.Second))
}
