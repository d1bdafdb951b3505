package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/health"
)

// maxEvents is how many events are kept.
const maxEvents = 1000

// events keeps what happened, for `drover events`. Its methods may be called from any goroutine and do not
// block.
type events struct {
	log *slog.Logger

	mu   sync.Mutex // guards what follows
	list []api.Event
	next uint64
	more chan struct{} // closed when there is a new one
}

func newEvents(log *slog.Logger) *events {
	return &events{log: log, next: 1, more: make(chan struct{})}
}

// add keeps an event, and logs it at a level.
func (e *events) add(level slog.Level, kind, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	e.log.Log(context.Background(), level, text, "event", kind)
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.list) == maxEvents {
		e.list = append(e.list[:0], e.list[1:]...)
	}
	e.list = append(e.list, api.Event{Seq: e.next, When: time.Now(), Kind: kind, Text: text})
	e.next++
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
func (e *events) drained(text string, bad bool) {
	level := slog.LevelInfo
	if bad {
		level = slog.LevelWarn
	}
	e.add(level, "drain", "%s", text)
}

// health keeps that a real server came up or went down.
func (e *events) health(h health.Event) {
	level := slog.LevelInfo
	if h.Bad {
		level = slog.LevelWarn
	}
	e.add(level, "health", "%s", h.String())
}
