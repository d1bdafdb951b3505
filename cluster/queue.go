package cluster

import (
	"context"
	"sync"
)

const (
	queueLength = 1024     // messages of one kind
	queueBytes  = 32 << 20 // of their payloads
)

type message struct {
	from    string
	payload []byte
}

// queue holds messages between the gossip, which never waits, and a handler, which may. What is too much
// pushes out the oldest.
type queue[T any] struct {
	mu    sync.Mutex // guards everything below
	items []T
	bytes int

	size func(T) int
	wake chan struct{} // capacity 1
}

func newQueue[T any](size func(T) int) *queue[T] {
	return &queue[T]{size: size, wake: make(chan struct{}, 1)}
}

// push adds an item and returns those that had to go, which may be the item itself.
func (q *queue[T]) push(v T) (dropped []T) {
	q.mu.Lock()
	q.items = append(q.items, v)
	q.bytes += q.size(v)
	for len(q.items) > queueLength || q.bytes > queueBytes {
		dropped = append(dropped, q.items[0])
		q.shift()
	}
	q.mu.Unlock()
	signal(q.wake)
	return dropped
}

func (q *queue[T]) shift() T {
	var zero T
	v := q.items[0]
	q.items[0] = zero
	if q.items = q.items[1:]; len(q.items) == 0 {
		q.items = nil
	}
	q.bytes -= q.size(v)
	return v
}

// pop waits for an item; false when ctx ends. Several may pop.
func (q *queue[T]) pop(ctx context.Context) (v T, ok bool) {
	for {
		if ctx.Err() != nil {
			return v, false
		}
		q.mu.Lock()
		if len(q.items) > 0 {
			v = q.shift()
			more := len(q.items) > 0
			q.mu.Unlock()
			if more {
				signal(q.wake)
			}
			return v, true
		}
		q.mu.Unlock()
		select {
		case <-ctx.Done():
			return v, false
		case <-q.wake:
		}
	}
}

// signal wakes whoever waits at a channel of capacity 1.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// watchers are those who want to know that something changed.
type watchers struct {
	mu sync.Mutex // guards everything below
	m  map[chan struct{}]struct{}
}

func (w *watchers) add() (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	ch <- struct{}{}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = make(map[chan struct{}]struct{})
	}
	w.m[ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.m, ch)
	}
}

func (w *watchers) notify() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for ch := range w.m {
		signal(ch)
	}
}
