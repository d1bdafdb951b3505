package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

const (
	maxPending = 1024 // requests of this node that wait for a reply
	maxServing = 8    // requests of others that are served at a time

	// DefaultRequestTimeout bounds a request whose context has no deadline, MaxRequestTimeout every one.
	DefaultRequestTimeout = 10 * time.Second
	MaxRequestTimeout     = 10 * time.Minute

	maxErrorText = 4096 // bytes
)

// RequestFunc answers a request. ctx ends when the asking node stops waiting, and when this one stops.
type RequestFunc func(ctx context.Context, from string, payload []byte) ([]byte, error)

// RemoteError is an error that the function of another node returned.
type RemoteError struct {
	Node string
	Text string
}

func (e *RemoteError) Error() string { return e.Node + ": " + e.Text }

// A request's payload is: id 8 | milliseconds 4 that its sender waits | length 1, address to answer to | payload.
// A reply's is: id 8 | 0 if well, 1 if the payload is the text of an error | payload.

type request struct {
	kind    byte
	id      uint64
	from    string
	answer  netip.AddrPort
	until   time.Time
	payload []byte
}

type reply struct {
	payload []byte
	err     error
}

type waiting struct {
	from  string
	reply chan reply // capacity 1
}

// pending are the requests of this node.
type pending struct {
	mu   sync.Mutex // guards everything below
	last uint64
	m    map[uint64]waiting
}

func newPending() *pending { return &pending{m: make(map[uint64]waiting)} }

func (p *pending) add(from string) (uint64, chan reply, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.m) >= maxPending {
		return 0, nil, fmt.Errorf("%d requests wait for a reply already", len(p.m))
	}
	p.last++
	ch := make(chan reply, 1)
	p.m[p.last] = waiting{from, ch}
	return p.last, ch, nil
}

func (p *pending) remove(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.m, id)
}

func (p *pending) resolve(id uint64, from string, r reply) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, ok := p.m[id]
	if !ok || w.from != from {
		return false
	}
	delete(p.m, id)
	w.reply <- r
	return true
}

// HandleRequest has fn answer the requests of a kind, several at a time, in goroutines of this node. fn may keep the
// payload. It panics for a kind that is reserved or has a function, and after Run. Kinds of requests and of messages
// do not interfere.
func (n *Node) HandleRequest(kind byte, fn RequestFunc) {
	if kind >= ReservedKind || n.serve[kind] != nil || n.started.Load() {
		panic(fmt.Sprintf("cluster: HandleRequest of kind %d: reserved, handled already, or after Run", kind))
	}
	n.serve[kind] = fn
}

// Request asks a member and waits for its answer, for as long as ctx lasts (DefaultRequestTimeout if that has no
// deadline), or until it is known to have been started again (ErrRestarted). An error of the other's function is a
// *RemoteError. An error of another kind leaves open whether the function ran.
func (n *Node) Request(ctx context.Context, to string, kind byte, payload []byte) ([]byte, error) {
	if to == n.opt.Name {
		return n.askSelf(ctx, kind, payload)
	}
	changed, unwatch := n.WatchMembers()
	defer unwatch()
	m, ok := n.Member(to)
	if !ok {
		return nil, fmt.Errorf("failed to ask %q: %w", to, ErrUnknownMember)
	}
	limit := DefaultRequestTimeout
	if d, ok := ctx.Deadline(); ok {
		limit = min(time.Until(d), MaxRequestTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	id, ch, err := n.pending.add(to)
	if err != nil {
		return nil, fmt.Errorf("failed to ask %q: %w", to, err)
	}
	defer n.pending.remove(id)
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 80+len(payload)), id)
	b = binary.BigEndian.AppendUint32(b, uint32(max(limit.Milliseconds(), 1)))
	b = append(appendName(b, n.Address().String()), payload...)
	if err := n.stream(ctx, msgRequest, to, m.Address, kind, b, len(payload)); err != nil {
		return nil, err
	}
	for {
		select {
		case r := <-ch:
			return r.payload, r.err
		case <-changed:
			if now, ok := n.Member(to); !ok || now.Start == m.Start {
				continue
			}
			select { // it may have answered before
			case r := <-ch:
				return r.payload, r.err
			default:
				return nil, fmt.Errorf("failed to ask %q: no answer: %w", to, ErrRestarted)
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("failed to ask %q: no answer: %w", to, context.Cause(ctx))
		case <-n.running.Done():
			return nil, ErrNotRunning
		}
	}
}

func (n *Node) askSelf(ctx context.Context, kind byte, payload []byte) ([]byte, error) {
	if n.ml.Load() == nil {
		return nil, ErrNotRunning
	}
	fn := n.serve[kind]
	if fn == nil {
		return nil, &RemoteError{n.opt.Name, noHandler(kind)}
	}
	out, err := fn(ctx, n.opt.Name, payload)
	if err != nil {
		return nil, &RemoteError{n.opt.Name, err.Error()}
	}
	return out, nil
}

func noHandler(kind byte) string { return fmt.Sprintf("does not answer requests of kind %d", kind) }

func (n *Node) requested(e *envelope) {
	r := reader{b: e.payload}
	q := request{kind: e.kind, from: e.from, id: r.uint64()}
	ms := r.uint32()
	addr, err := netip.ParseAddrPort(string(r.take(int(r.byte()))))
	if r.err != nil || err != nil {
		n.metrics.drop(kindLabel(e.kind), dropMalformed, 1)
		return
	}
	q.answer = addr
	q.until = time.Now().Add(min(time.Duration(ms)*time.Millisecond, MaxRequestTimeout))
	q.payload = append([]byte(nil), r.b...)
	if d := n.requests.push(q); len(d) > 0 {
		n.metrics.drop(kindLabel(e.kind), dropQueueFull, len(d))
	}
}

func (n *Node) serveRequests(ctx context.Context) {
	for {
		q, ok := n.requests.pop(ctx)
		if !ok {
			return
		}
		if time.Until(q.until) <= 0 {
			n.metrics.drop(kindLabel(q.kind), refuseLongWait, 1)
			continue
		}
		rctx, cancel := context.WithDeadline(ctx, q.until)
		var out []byte
		err := errors.New(noHandler(q.kind))
		if fn := n.serve[q.kind]; fn != nil {
			out, err = fn(rctx, q.from, q.payload)
			if err == nil && len(out) > MaxMessage {
				err = fmt.Errorf("the reply has %d bytes, at most %d", len(out), MaxMessage)
			}
		}
		b := binary.BigEndian.AppendUint64(make([]byte, 0, 9+len(out)), q.id)
		if err != nil {
			text := err.Error()
			b = append(append(b, 1), text[:min(len(text), maxErrorText)]...)
		} else {
			b = append(append(b, 0), out...)
		}
		if err := n.stream(rctx, msgReply, q.from, q.answer, q.kind, b, 0); err != nil && ctx.Err() == nil {
			n.log.Debug("failed to reply", "to", q.from, "err", err)
		}
		cancel()
	}
}

func (n *Node) replied(e *envelope) {
	r := reader{b: e.payload}
	id, code := r.uint64(), r.byte()
	if r.err != nil || code > 1 {
		n.metrics.drop(kindLabel(e.kind), dropMalformed, 1)
		return
	}
	res := reply{payload: append([]byte(nil), r.b...)}
	if code == 1 {
		res = reply{err: &RemoteError{e.from, string(r.b)}}
	}
	if !n.pending.resolve(id, e.from, res) {
		n.metrics.drop(kindLabel(e.kind), dropNoRequest, 1)
	}
}
