package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"
)

// Defaults and bounds of a Replicator.
const (
	DefaultTimeout = 10 * time.Second
	DefaultAttempt = 2 * time.Second
	DefaultRetry   = 50 * time.Millisecond

	maxWaiting = 64 // changes that wait for their turn
)

var (
	// ErrNotAcknowledged says that a change is stored here, but not where it must be. It may survive.
	ErrNotAcknowledged = errors.New("not acknowledged")

	// ErrBusy says that too many changes wait already.
	ErrBusy = fmt.Errorf("%d changes are waiting already", maxWaiting)
)

// Peers are the other directors.
type Peers interface {
	// Live returns the names of those that are live now.
	Live() []string

	// All returns the names of all that are known, live or not. It serves the answer "1 of 2 directors".
	All() []string

	// Request sends a request, at most MaxMessage bytes, to the Serve method of a live one and returns the
	// answer.
	Request(ctx context.Context, peer string, request []byte) ([]byte, error)
}

// Options of a Replicator.
type Options struct {
	Node  string // name of this director
	Store *Store
	Peers Peers

	// Confirm is asked when a change is stored everywhere and before it is acknowledged. It returns nil
	// when a majority of voters has been told that v is acknowledged, and the lease of v.Epoch was still
	// held after that. Nil confirms always: a deposed director may then acknowledge what is lost.
	Confirm func(ctx context.Context, v Version) error

	Timeout time.Duration // bounds a change with everything it needs; default DefaultTimeout
	Attempt time.Duration // bounds one request; default DefaultAttempt
	Retry   time.Duration // pause after a failed request to a live director; default DefaultRetry

	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default none
}

// Replicator orders changes on the active director, and stores them on the others.
type Replicator struct {
	opts    Options
	turn    chan struct{} // holds a token while a change is under way
	waiting chan struct{} // a token for each change under way or waiting
	changed chan struct{}
}

// Result says where a change is.
type Result struct {
	Version   Version
	Unchanged bool             // the content was in force already
	Stored    []string         // directors that have it on disk, sorted
	Missing   map[string]error // the others, and why
}

func (r Result) String() string {
	s := fmt.Sprintf("%v stored on %d of %d directors (%s)", r.Version, len(r.Stored), len(r.Stored)+len(r.Missing), strings.Join(r.Stored, ", "))
	for _, peer := range slices.Sorted(maps.Keys(r.Missing)) {
		s += fmt.Sprintf("; not on %s: %v", peer, r.Missing[peer])
	}
	return s
}

// New returns a Replicator.
func New(opts Options) (*Replicator, error) {
	if opts.Node == "" || len(opts.Node) > MaxNode {
		return nil, fmt.Errorf("the name of the node has %d bytes, from 1 to %d are allowed", len(opts.Node), MaxNode)
	}
	if opts.Store == nil || opts.Peers == nil {
		return nil, errors.New("a replicator needs a store and peers")
	}
	if opts.Confirm == nil {
		opts.Confirm = func(context.Context, Version) error { return nil }
	}
	for _, d := range []struct {
		name string
		d    *time.Duration
		or   time.Duration
	}{{"timeout", &opts.Timeout, DefaultTimeout}, {"attempt", &opts.Attempt, DefaultAttempt}, {"retry", &opts.Retry, DefaultRetry}} {
		if *d.d < 0 {
			return nil, fmt.Errorf("%s (%v) must not be negative", d.name, *d.d)
		}
		if *d.d == 0 {
			*d.d = d.or
		}
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	return &Replicator{opts: opts, turn: make(chan struct{}, 1), waiting: make(chan struct{}, maxWaiting+1), changed: make(chan struct{}, 1)}, nil
}

// Log returns what is stored here.
func (r *Replicator) Log() Log { return r.opts.Store.Log() }

// Recheck returns why the disk of this director does not take changes, nil if it does; see [Store.Recheck].
func (r *Replicator) Recheck() error { return r.opts.Store.Recheck() }

// Lost returns an error that wraps ErrDamaged if every stored change was damaged and none has come since.
func (r *Replicator) Lost() error { return r.opts.Store.Lost() }

// Changed receives after the newest change or the acknowledged version has become another one. It has
// capacity one: several changes may be one signal.
func (r *Replicator) Changed() <-chan struct{} { return r.changed }

func (r *Replicator) update(change func(Log) (Log, error)) error {
	var was, is Log
	err := r.opts.Store.Update(func(l Log) (Log, error) {
		was, is = l, l
		next, err := change(l)
		if err == nil {
			is = next
		}
		return next, err
	})
	if err == nil && (was.Version() != is.Version() || was.Acked() != is.Acked()) {
		select {
		case r.changed <- struct{}{}:
		default:
		}
	}
	return err
}

// Seen notes that a director is active in epoch, so that nothing is taken from older ones.
func (r *Replicator) Seen(epoch uint64) {
	_ = r.update(func(l Log) (Log, error) { return l.Seen(epoch), nil })
}

// Acknowledged notes that v is acknowledged, as said by another director.
func (r *Replicator) Acknowledged(v Version) {
	_ = r.update(func(l Log) (Log, error) { return l.Acknowledge(v), nil })
}

// Receive stores what the active director has ordered. acked is the newest version that it has acknowledged.
// Nil means that the change, or one that was built on it, is on this disk.
func (r *Replicator) Receive(e Entry, acked Version) error {
	return r.update(func(l Log) (Log, error) {
		next, _, err := l.Append(e)
		return next.Acknowledge(acked), err
	})
}

// Change makes content the newest change, on the director that is active in epoch. Changes are made one at a
// time. base, unless zero, must be in force. Content that is in force already makes no new change, but is
// acknowledged like one.
//
// The error wraps ErrConflict, ErrDeposed, ErrBehind, ErrDamaged or ErrStorage if nothing was changed, and
// ErrNotAcknowledged, together with a Result, if the change is stored here but is not acknowledged.
func (r *Replicator) Change(ctx context.Context, epoch uint64, base Version, content []byte, m Meta) (Result, error) {
	return r.order(ctx, func(l Log) (Log, Entry, bool, error) { return r.propose(l, epoch, base, content, m) })
}

// Rollback makes the content of an earlier version the newest change.
func (r *Replicator) Rollback(ctx context.Context, epoch uint64, base, to Version, m Meta) (Result, error) {
	return r.order(ctx, func(l Log) (Log, Entry, bool, error) {
		old, err := l.Get(to)
		if err != nil {
			return l, Entry{}, false, err
		}
		return r.propose(l, epoch, base, old.Content, rollbackMeta(to, m))
	})
}

// Activate restates the newest change under epoch, and acknowledges it. It is to be called when an epoch of
// this director begins, beside taking over, and again if it fails. With an empty log it does nothing.
func (r *Replicator) Activate(ctx context.Context, epoch uint64) (Result, error) {
	if r.Log().Len() == 0 {
		return Result{}, r.opts.Store.Lost()
	}
	return r.order(ctx, func(l Log) (Log, Entry, bool, error) { return restateHead(l, epoch) })
}

func restateHead(l Log, epoch uint64) (Log, Entry, bool, error) {
	next, e, ok, err := l.Restate(epoch)
	if err == nil && !ok {
		e, _ = l.Head()
		err = l.mayOrder(epoch)
	}
	return next, e, true, err
}

func (r *Replicator) propose(l Log, epoch uint64, base Version, content []byte, m Meta) (Log, Entry, bool, error) {
	if head, ok := l.Head(); ok && string(head.Content) == string(content) {
		if err := l.CheckBase(base); err != nil {
			return l, Entry{}, false, err
		}
		return restateHead(l, epoch)
	}
	if m.When.IsZero() {
		m.When = r.opts.Now()
	}
	if m.Node == "" {
		m.Node = r.opts.Node
	}
	next, e, err := l.Propose(epoch, base, content, m)
	return next, e, false, err
}

func (r *Replicator) order(ctx context.Context, prepare func(Log) (Log, Entry, bool, error)) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	select {
	case r.waiting <- struct{}{}:
		defer func() { <-r.waiting }()
	default:
		return Result{}, ErrBusy
	}
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return Result{}, fmt.Errorf("waited for another change: %w", context.Cause(ctx))
	}
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	if err := r.opts.Store.Lost(); err != nil {
		return Result{}, err
	}
	var e Entry
	var unchanged bool
	err := r.update(func(l Log) (next Log, err error) {
		next, e, unchanged, err = prepare(l)
		return next, err
	})
	if err != nil {
		return Result{}, err
	}
	res, err := r.spread(ctx, e)
	res.Unchanged = unchanged
	if err != nil {
		return res, err
	}
	if err := r.opts.Confirm(ctx, e.Version); err != nil {
		return res, fmt.Errorf("version %v is %w: %w", e.Version, ErrNotAcknowledged, err)
	}
	r.Acknowledged(e.Version)
	return res, nil
}

// spread stores e on every other director that is live, and returns when each has answered, is no longer
// live, or cannot store it.
func (r *Replicator) spread(ctx context.Context, e Entry) (Result, error) {
	rd := newRound(e.Version, r.opts.Node)
	request, err := encodeStore(e, r.Log().Acked())
	if err != nil {
		return rd.result(r.opts.Peers.All(), nil), err
	}
	type answer struct {
		peer string
		err  error
	}
	answers := make(chan answer)
	ctx, cancel := context.WithCancel(ctx)
	under := 0
	defer func() {
		cancel()
		for ; under > 0; under-- {
			<-answers
		}
	}()
	retry := time.NewTicker(r.opts.Retry) // it also looks whether those that do not answer are still live
	defer retry.Stop()
	for {
		live := r.opts.Peers.Live()
		ask, open := rd.next(live)
		if !open || ctx.Err() != nil {
			return rd.result(r.opts.Peers.All(), live), rd.verdict(live)
		}
		for _, peer := range ask {
			under++
			go func() {
				_, err := r.ask(ctx, peer, request)
				answers <- answer{peer, err}
			}()
		}
		select {
		case a := <-answers:
			under--
			rd.answer(a.peer, a.err)
		case <-retry.C:
			rd.retry()
		case <-ctx.Done():
		}
	}
}

// CatchUp takes from a peer what is missing here, the newest change first, and its acknowledged version. It
// is to be called at the start, when a director joins, and when its digest differs. The other direction is
// the peer's own.
func (r *Replicator) CatchUp(ctx context.Context, peer string) error {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Timeout)
	defer cancel()
	b, err := r.ask(ctx, peer, []byte{kindDigest})
	if err != nil {
		return fmt.Errorf("failed to ask %q for what it has: %w", peer, err)
	}
	var d Digest
	if err := d.UnmarshalBinary(b); err != nil {
		return fmt.Errorf("failed to read what %q has: %w", peer, err)
	}
	for _, ref := range r.Log().Missing(d) {
		b, err := r.ask(ctx, peer, appendVersion([]byte{kindFetch}, ref.Version))
		if errors.Is(err, ErrUnknown) {
			continue // a newer one has pushed it out meanwhile
		}
		var e Entry
		if err == nil {
			err = e.UnmarshalBinary(b)
		}
		if err == nil {
			err = r.update(func(l Log) (Log, error) { return l.with(item{e.Ref(), e}), nil })
		}
		if err != nil {
			return fmt.Errorf("failed to take version %v from %q: %w", ref.Version, peer, err)
		}
	}
	r.Acknowledged(d.Acked)
	return nil
}

func (r *Replicator) ask(ctx context.Context, peer string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opts.Attempt)
	defer cancel()
	b, err := r.opts.Peers.Request(ctx, peer, request)
	if err != nil {
		return nil, err
	}
	return decodeAnswer(b)
}
