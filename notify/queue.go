package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/drover-lb/drover/notify/sink"
)

const (
	// firstPause is how long a sink is left alone after it has failed; each failure doubles that, up to maxPause, a fifth more or
	// less at random.
	firstPause = time.Second
	maxPause   = time.Minute
	// maxRetryAfter bounds how long a sink can ask to be left alone.
	maxRetryAfter = 5 * time.Minute
)

// sender hands events to a sink.
type sender interface {
	// most is how many events it takes at a time.
	most() int
	// send returns nil if the sink has taken all of them. The error is a [*refused] if there is no use in trying again, and a [*later] if
	// the sink says when.
	send(ctx context.Context, list []*Event) error
	// said is what the sink answered when it last took something, in words, for whoever has sent that.
	said() string
}

// refused is the error of what the sink will not take later either.
type refused struct{ err error }

func (r *refused) Error() string { return r.err.Error() }
func (r *refused) Unwrap() error { return r.err }

// later is the error of what the sink will not take before a time has passed.
type later struct {
	err   error
	after time.Duration
}

func (l *later) Error() string { return l.err.Error() }
func (l *later) Unwrap() error { return l.err }

// queue has what a sink is to be told.
type queue struct {
	name string
	n    *Notifier
	wake chan struct{} // capacity 1
	gone chan struct{} // closed when the sink is not in the file any more

	mu     sync.Mutex // guards what follows
	sink   sink.Sink
	sender sender
	list   []*Event
	// answers: it refused what it was told last, and so may take what comes next.
	answers  bool
	troubled map[slog.Level]time.Time // when its troubles were told last
	flying   int                      // so many of the first are being sent
	st       Status
	lost     uint64 // dropped since it began to fail
}

func newQueue(s *sink.Sink, n *Notifier) *queue {
	q := &queue{name: s.Name, n: n, wake: make(chan struct{}, 1), gone: make(chan struct{})}
	q.set(s)
	return q
}

// set changes how the sink is told. A sink that failed is tried at once.
func (q *queue) set(s *sink.Sink) {
	q.mu.Lock()
	q.sink, q.sender = *s, q.n.sender(s)
	q.mu.Unlock()
	nudge(q.wake)
}

// senderOf is how a sink is told in earnest.
func (n *Notifier) senderOf(s *sink.Sink) sender {
	switch {
	case s.Webhook != nil:
		return newWebhook(s.Webhook, n.opts.Version)
	case s.Script != nil:
		return &script{set: s.Script}
	}
	return &mail{set: s.Mail, log: n.log}
}

func (q *queue) how() (sink.Sink, sender) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sink, q.sender
}

// add queues an event if the sink takes it.
func (q *queue) add(e *Event) {
	q.mu.Lock()
	if !q.sink.Takes(e.Kind, e.Level) || e.Sink == q.name {
		q.mu.Unlock()
		return
	}
	var out *Event
	if len(q.list) >= MaxQueue {
		out = q.list[q.flying]
		q.list = append(q.list[:q.flying:q.flying], q.list[q.flying+1:]...)
	}
	q.list = append(q.list, e)
	q.mu.Unlock()
	nudge(q.wake)
	if out != nil {
		q.drop([]*Event{out}, fmt.Errorf("%d events are waiting", MaxQueue))
	}
}

// overflow counts what came to no queue, as too much was waiting; it may be that the sink does not take all of it.
func (q *queue) overflow(n uint64) {
	q.n.log.Error("events are dropped", "sink", q.name, "events", n, "waiting", maxInbox)
	q.count(n, fmt.Errorf("%d events are waiting", maxInbox))
}

// drop counts events that the sink is not told, and says so.
func (q *queue) drop(list []*Event, why error) {
	if len(list) == 0 {
		return
	}
	for _, e := range list {
		q.n.log.Error("an event is dropped", "sink", q.name, "id", e.ID, "text", e.Text, "error", why)
	}
	q.count(uint64(len(list)), why)
}

// count counts events that are dropped, and tells of the first of an outage.
func (q *queue) count(n uint64, why error) {
	q.mu.Lock()
	first := q.lost == 0
	q.st.Dropped += n
	q.lost += n
	q.mu.Unlock()
	if first {
		q.trouble(slog.LevelError, fmt.Sprintf("sink %s is not told of an event, and maybe of more: %v", q.name, why))
	}
}

// troubleEvery is how often a sink's own troubles are events at the most: they are told to the other sinks, and so could go
// round for ever. All are in the log.
const troubleEvery = time.Minute

func (q *queue) trouble(level slog.Level, text string) {
	q.mu.Lock()
	now := time.Now()
	last, ok := q.troubled[level]
	due := !ok || now.Sub(last) >= troubleEvery
	if due {
		if q.troubled == nil {
			q.troubled = make(map[slog.Level]time.Time)
		}
		q.troubled[level] = now
	}
	q.mu.Unlock()
	if due {
		q.n.opts.Trouble(level, q.name, text)
		return
	}
	q.n.log.Log(context.Background(), level, text, "sink", q.name)
}

// close ends it, as the sink is not in the file any more.
func (q *queue) close() { close(q.gone) }

// take begins to send what comes first; nothing if nothing waits.
func (q *queue) take() (s sink.Sink, send sender, list []*Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flying = min(len(q.list), q.sender.most())
	return q.sink, q.sender, append([]*Event(nil), q.list[:q.flying]...)
}

// run tells the sink until ctx ends, the sink is gone, or stop is closed and nothing waits or the sink fails.
func (q *queue) run(ctx context.Context, stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-q.gone:
			cancel()
		case <-stop:
			if q.fails() { // whoever stops is not kept waiting by a sink that did not answer before
				cancel()
			}
		case <-ctx.Done():
		}
	}()
	defer q.rest()
	pause := firstPause
	for ctx.Err() == nil {
		s, send, list := q.take()
		if len(list) == 0 {
			select {
			case <-q.wake:
				continue
			default:
			}
			select {
			case <-q.wake:
			case <-stop:
				q.mu.Lock()
				done := len(q.list) == 0
				q.mu.Unlock()
				if done {
					return
				}
			case <-ctx.Done():
			}
			continue
		}
		err := try(ctx, s.Timeout, send, list)
		if ctx.Err() != nil && err != nil {
			return // not the sink's fault
		}
		wait := q.sent(s, list, err)
		if err == nil || !wait {
			pause = firstPause
			continue
		}
		var l *later
		d := pause
		if errors.As(err, &l) {
			d = max(d, min(l.after, maxRetryAfter))
		}
		pause = min(2*pause, maxPause)
		if !q.rests(ctx, stop, d-d/5+rand.N(2*d/5)) {
			return
		}
	}
}

// fails reports whether the last try failed.
func (q *queue) fails() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.st.Failing.IsZero() && !q.answers
}

// rests lets the sink alone for a while, unless its settings change. It reports whether to go on.
func (q *queue) rests(ctx context.Context, stop <-chan struct{}, d time.Duration) bool {
	_, was := q.how()
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			return true
		case <-q.wake: // more to tell can wait, too
			if _, is := q.how(); is != was {
				return true
			}
		case <-stop:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// sent takes in what came of sending the first events. It reports whether the sink is to be left alone for a while.
func (q *queue) sent(s sink.Sink, list []*Event, err error) (wait bool) {
	now := time.Now()
	var drop []*Event
	var no *refused
	q.mu.Lock()
	rest := q.list[q.flying:]
	q.flying = 0
	recovered, began := false, false
	lost := q.lost
	switch {
	case err == nil:
		recovered = !q.st.Failing.IsZero() || q.lost > 0
		q.st.Sent += uint64(len(list))
		q.st.Last, q.st.Failing, q.lost = now, time.Time{}, 0
		q.list = rest
	default:
		began = q.st.Failing.IsZero()
		if began {
			q.st.Failing = now
		}
		q.st.Failed++
		q.st.Error, q.st.ErrorAt = clean(err.Error(), 500), now
		q.answers = errors.As(err, &no)
		if q.answers {
			drop, q.list = list, rest
			break
		}
		wait = true
		keep := make([]*Event, 0, len(list)+len(rest))
		for _, e := range list {
			if now.Sub(e.Time) >= s.RetryFor {
				drop = append(drop, e)
			} else {
				keep = append(keep, e)
			}
		}
		q.list = append(keep, rest...)
	}
	q.mu.Unlock()
	if began && wait && len(drop) < len(list) {
		q.n.log.Warn("a sink cannot be told; it is tried again", "sink", q.name, "error", err)
	}
	q.drop(drop, err)
	switch {
	case recovered && lost > 0:
		q.trouble(slog.LevelWarn, fmt.Sprintf("sink %s works again; it was not told of %d events", q.name, lost))
	case recovered:
		q.n.log.Info("a sink works again", "sink", q.name)
	}
	return wait
}

// rest drops what is left at the end.
func (q *queue) rest() {
	q.mu.Lock()
	list := q.list
	q.list, q.flying = nil, 0
	q.mu.Unlock()
	why := errors.New("the director is being stopped")
	select {
	case <-q.gone:
		why = errors.New("the sink is not in the file any more")
	default:
	}
	q.drop(list, why)
}

func (q *queue) status() Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	st := q.st
	st.Name, st.Kind, st.Queued = q.name, q.sink.Kind(), len(q.list)
	return st
}
