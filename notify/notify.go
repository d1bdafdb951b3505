package notify

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/notify/sink"
)

const (
	// MaxQueue is how many events wait for a sink at the most. Then the oldest are dropped.
	MaxQueue = 1000
	// maxInbox bounds the events for which it is not decided yet whether they are told: many real servers may go down at once.
	maxInbox = 20 * MaxQueue
	// DrainTimeout bounds how long a stop waits for what is queued.
	DrainTimeout = 3 * time.Second
	// testTimeout bounds one sink's part of a test, as somebody waits for it.
	testTimeout = 10 * time.Second
)

// Options of a Notifier; all may be left out.
type Options struct {
	Log      *slog.Logger
	Registry prometheus.Registerer
	Version  string // of this program, for the sinks
	// Tell says whether an event is told at all. It may take its time, in which later events wait; when ctx has ended it decides at once.
	Tell func(ctx context.Context, e *Event) bool
	// Trouble hears that a sink loses events, or works again after that. It must not block.
	Trouble func(level slog.Level, sink, text string)
}

// Notifier tells sinks of events. Its methods may be called from any goroutine.
type Notifier struct {
	opts Options
	log  *slog.Logger
	wake chan struct{} // capacity 1
	// sender makes what a sink is told by.
	sender func(*sink.Sink) sender

	mu      sync.Mutex // guards what follows
	sinks   []*queue   // in the order of the file
	inbox   []*Event
	over    uint64          // dropped, as the inbox was full
	run     context.Context // what is running ends with it; nil: nothing runs
	stop    chan struct{}   // closed when no more events come
	running sync.WaitGroup
}

// New makes a Notifier without sinks. It tells nobody before [Notifier.Run].
func New(o Options) (*Notifier, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Tell == nil {
		o.Tell = func(context.Context, *Event) bool { return true }
	}
	if o.Trouble == nil {
		o.Trouble = func(slog.Level, string, string) {}
	}
	n := &Notifier{opts: o, log: o.Log, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	n.sender = n.senderOf
	if o.Registry != nil {
		if err := o.Registry.Register(newCollector(n)); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Set makes list the sinks. One whose name stays keeps its queue and what was counted; what waits for one that is gone is dropped.
func (n *Notifier) Set(list []sink.Sink) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.sinks
	n.sinks = nil
	for i := range list {
		at := slices.IndexFunc(before, func(q *queue) bool { return q.name == list[i].Name })
		if at >= 0 {
			before[at].set(&list[i])
			n.sinks = append(n.sinks, before[at])
			continue
		}
		q := newQueue(&list[i], n)
		n.sinks = append(n.sinks, q)
		if n.run != nil {
			n.start(q)
		}
	}
	for _, q := range before {
		if !slices.Contains(n.sinks, q) {
			q.close()
		}
	}
}

// start runs a queue; mu is held.
func (n *Notifier) start(q *queue) {
	ctx := n.run
	n.running.Go(func() { q.run(ctx, n.stop) })
}

// Add takes an event in. It never blocks.
func (n *Notifier) Add(e Event) {
	n.mu.Lock()
	if len(n.sinks) == 0 || n.stopped() {
		n.mu.Unlock()
		return
	}
	e.Text = clean(e.Text, MaxText)
	if len(n.inbox) == maxInbox { // told later: who adds must not wait for a log
		n.inbox = n.inbox[1:]
		n.over++
	}
	n.inbox = append(n.inbox, &e)
	n.mu.Unlock()
	nudge(n.wake)
}

// stopped reports whether no more events are taken; mu is held.
func (n *Notifier) stopped() bool {
	select {
	case <-n.stop:
		return true
	default:
		return false
	}
}

// Run tells the sinks until ctx ends, and for at most [DrainTimeout] more what waits for them then. It returns nil, and is to be called
// once.
func (n *Notifier) Run(ctx context.Context) error {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	n.mu.Lock()
	n.run = run
	for _, q := range n.sinks {
		n.start(q)
	}
	n.mu.Unlock()
	for ctx.Err() == nil {
		n.deliver(ctx)
		select {
		case <-n.wake:
		case <-ctx.Done():
		}
	}
	n.deliver(ctx)
	n.mu.Lock()
	close(n.stop)
	n.mu.Unlock()
	end := time.AfterFunc(DrainTimeout, cancel)
	defer end.Stop()
	n.running.Wait()
	return nil
}

// deliver puts what has come into the queues of the sinks that take it.
func (n *Notifier) deliver(ctx context.Context) {
	for {
		n.mu.Lock()
		over, sinks := n.over, n.sinks
		n.over = 0
		var e *Event
		if len(n.inbox) > 0 {
			e, n.inbox = n.inbox[0], n.inbox[1:]
		} else {
			n.inbox = nil
		}
		n.mu.Unlock()
		if over > 0 {
			for _, q := range sinks {
				q.overflow(over)
			}
		}
		if e == nil {
			return
		}
		if !n.opts.Tell(ctx, e) {
			continue
		}
		n.mu.Lock()
		sinks = n.sinks
		n.mu.Unlock()
		for _, q := range sinks {
			q.add(e)
		}
	}
}

// Status says how a sink is.
type Status struct {
	Name    string
	Kind    string // webhook, script or mail
	Queued  int
	Sent    uint64 // events, since the start
	Dropped uint64 // likewise
	Failed  uint64 // tries
	Last    time.Time
	// Failing is since when every try has failed, zero if the last one has not; Error is what came of the last that did.
	Failing time.Time
	Error   string
	ErrorAt time.Time
}

// Status lists the sinks in the order of the file.
func (n *Notifier) Status() []Status {
	n.mu.Lock()
	sinks := n.sinks
	n.mu.Unlock()
	out := make([]Status, len(sinks))
	for i, q := range sinks {
		out[i] = q.status()
	}
	return out
}

// Answer is what came of testing a sink.
type Answer struct {
	Name string
	Kind string
	Took time.Duration
	Said string // in words; "" for nothing
	Err  error
}

// Test sends e to a sink, or to all if name is "", beside what is queued, once, and returns what each answered. An unknown name is
// an error.
func (n *Notifier) Test(ctx context.Context, name string, e Event) ([]Answer, error) {
	n.mu.Lock()
	sinks := slices.DeleteFunc(slices.Clone(n.sinks), func(q *queue) bool { return name != "" && q.name != name })
	names := make([]string, len(n.sinks))
	for i, q := range n.sinks {
		names[i] = q.name
	}
	n.mu.Unlock()
	switch {
	case len(names) == 0:
		return nil, fmt.Errorf("this director tells nobody: its file has no director: notify")
	case len(sinks) == 0:
		return nil, fmt.Errorf("there is no sink %q: the sinks are %v", name, names)
	}
	e.Text = clean(e.Text, MaxText)
	out := make([]Answer, len(sinks))
	var all sync.WaitGroup
	for i, q := range sinks {
		all.Go(func() {
			s, _ := q.how()
			begin := time.Now()
			send := n.sender(&s) // not that of the queue, which may be at work
			err := try(ctx, min(s.Timeout, testTimeout), send, []*Event{&e})
			out[i] = Answer{Name: s.Name, Kind: s.Kind(), Took: time.Since(begin), Err: err}
			if err == nil {
				out[i].Said = send.said()
			}
		})
	}
	all.Wait()
	return out, nil
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// try sends once, within a time.
func try(ctx context.Context, timeout time.Duration, s sender, list []*Event) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("no answer after %s", timeout))
	defer cancel()
	err := s.send(ctx, list)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
