package probe

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kind of an [Event].
type Kind string

const (
	Ready    Kind = "ready"    // the probe measures, the back end listens
	OK       Kind = "ok"       // a connection or datagram was answered
	Fail     Kind = "fail"     // it was not; Error says why
	Stall    Kind = "stall"    // an established stream went on after a pause: Start to At
	Broken   Kind = "broken"   // an established stream ended or lied; Error says how
	Tick     Kind = "tick"     // the state of all streams now
	Answers  Kind = "answers"  // who answered one ARP request or neighbour solicitation; At is when the next one was due
	Listened Kind = "listened" // a back end served a client
)

// Event is one line of a probe's output.
type Event struct {
	Kind   Kind          `json:"kind"`
	At     time.Duration `json:"at"`              // when it was complete, CLOCK_MONOTONIC, nanoseconds
	Start  time.Duration `json:"start,omitempty"` // when it began
	Server string        `json:"server,omitempty"`
	Client string        `json:"client,omitempty"` // the address that the server saw
	Stream int           `json:"stream,omitempty"`
	Error  string        `json:"error,omitempty"`
	MACs   []string      `json:"macs,omitempty"` // Answers: who claimed the address, by answers or unasked
	// Answered: who answered this very question. Two of them had the address at the same moment, and could be reached.
	Answered []string      `json:"answered,omitempty"`
	Alive    int           `json:"alive,omitempty"`  // Tick: streams that are not broken
	Silent   time.Duration `json:"silent,omitempty"` // Tick: the longest time a living stream has waited for its echo
}

// Now reads CLOCK_MONOTONIC.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("probe: no monotonic clock: " + err.Error()) // impossible on Linux
	}
	return time.Duration(ts.Nano())
}

// Writer writes events; its methods may be called from any goroutine.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Write writes one event. An error means that nobody listens any more; the probe goes on until it is told to stop.
func (w *Writer) Write(e Event) {
	b, err := json.Marshal(e)
	if err != nil {
		panic("probe: " + err.Error()) // impossible: plain fields
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, _ = w.w.Write(append(b, '\n'))
}

// ReadEvents reads events until the end of r and hands each to fn.
func ReadEvents(r io.Reader, fn func(Event)) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var e Event
		if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
			return fmt.Errorf("failed to read an event of a probe: %w: %.100q", err, sc.Text())
		}
		fn(e)
	}
	return sc.Err()
}
