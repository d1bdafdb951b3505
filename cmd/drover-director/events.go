package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/notify"
	"github.com/drover-lb/drover/notify/sink"
)

// maxEvents is how many events are kept.
const maxEvents = 1000

// events keeps what happened, for `drover events`. Its methods may be called from any goroutine and do not
// block.
type events struct {
	log *slog.Logger
	// told hears of each event that is news to people, in their order, and must not block. It is set before the first one.
	told func(slog.Level, *api.Event)

	mu   sync.Mutex // guards what follows
	list []api.Event
	// crowd is how many of them are about real servers. There may be very many at once, so the oldest of these go first as
	// long as they are more than half of all: how this director fared is still told then.
	crowd int
	next  uint64
	more  chan struct{} // closed when there is a new one
}

func newEvents(log *slog.Logger) *events {
	return &events{log: log, next: 1, more: make(chan struct{})}
}

// ofServers reports whether an event is about a service or a real server.
func ofServers(x api.Event) bool { return x.Service != "" || x.Server != "" }

// add keeps an event, logs it at a level, and has it told.
func (e *events) add(level slog.Level, kind, format string, args ...any) {
	e.put(level, api.Event{Kind: kind, Text: fmt.Sprintf(format, args...)}, true)
}

// put is add for an event that says what it is about; tell says whether it is news to people.
func (e *events) put(level slog.Level, x api.Event, tell bool) {
	e.log.Log(context.Background(), level, x.Text, "event", x.Kind)
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) == maxEvents {
		i := 0
		if e.crowd > maxEvents/2 {
			i = slices.IndexFunc(e.list, ofServers)
		}
		if ofServers(e.list[i]) {
			e.crowd--
		}
		e.list = slices.Delete(e.list, i, i+1)
	}
	if ofServers(x) {
		e.crowd++
	}
	x.Seq, x.When, x.Level = e.next, time.Now(), notify.LevelWord(level)
	e.list = append(e.list, x)
	e.next++
	if tell && e.told != nil {
		e.told(level, &x)
	}
	close(e.more)
	e.more = make(chan struct{})
}

// after returns the events with a higher number, and waits for one at most until ctx ends. A number that no event
// has had yet is from before a restart: then it returns all.
func (e *events) after(ctx context.Context, seq uint64) []api.Event {
	for {
		e.mu.Lock()
		if seq >= e.next {
			seq = 0
		}
		out := []api.Event{}
		for _, x := range e.list {
			if x.Seq > seq {
				out = append(out, x)
			}
		}
		more := e.more
		e.mu.Unlock()
		if len(out) > 0 {
			return out
		}
		select {
		case <-more:
		case <-ctx.Done():
			return out
		}
	}
}

// drained keeps how far the drain of a real server is.
func (e *events) drained(d controller.DrainEvent) {
	level := slog.LevelInfo
	if d.Bad {
		level = slog.LevelWarn
	}
	e.put(level, api.Event{Kind: sink.Drain, Service: d.Service, Server: d.Server, State: d.State, Text: d.Text}, true)
}

// health keeps that a real server came up or went down, or what its load has come to. That one is up which nothing was
// known of, such as at the start, is not told.
func (e *events) health(h health.Event) {
	level := slog.LevelInfo
	if h.Bad {
		level = slog.LevelWarn
	}
	kind := sink.Health
	if h.Weight {
		kind = sink.Weights
	}
	e.put(level, api.Event{Kind: kind, Service: h.Service, Server: h.Server, State: h.State, Text: h.String()}, h.Bad || !h.First)
}

// trouble keeps that a sink loses events, or works again.
func (e *events) trouble(level slog.Level, name, text string) {
	e.put(level, api.Event{Kind: sink.Notify, Sink: name, Text: text}, true)
}
