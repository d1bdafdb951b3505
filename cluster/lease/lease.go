package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/drover-lb/drover/cluster/election"
)

// maxQueue bounds the messages that wait to be taken in. More than that come only from a network gone mad, and
// an election survives the loss of messages.
const maxQueue = 1024

// Options of a Keeper. Config and Send are required.
type Options struct {
	Config election.Config
	// Send sends a message to a node, or loses it. It is called by the goroutine of Run and must not block.
	Send func(to string, message []byte)
	// Role is told of every change of a role of this node, in order, by the goroutine of Run. It must not
	// block. After Yielding the keeper waits for [Keeper.Yielded].
	Role func(election.RoleChange)
	// Extended is told that a lease was won or extended until a time of Now, before Role is told that it
	// was won. It must not block.
	Extended func(group string, until time.Duration)
	// Event is told of what an operator may want to know. It must not block.
	Event func(election.Event)
	// Late is told when this goroutine was kept from running for more than a quarter of the lease after it was due:
	// the process was stopped, or the processor is overloaded. It must not block.
	Late func(by time.Duration)
	// Now is the clock, which must not be negative nor go back; nil: [Now].
	Now func() time.Duration
	Log *slog.Logger
}

// Keeper runs one node's part of the election. Make one with [New]. Its methods may be called from any
// goroutine.
type Keeper struct {
	opts    Options
	log     *slog.Logger
	calls   chan func(now time.Duration, c *election.Core) election.Output
	inbox   chan inbound
	done    chan struct{}
	groups  map[string]*atomic.Int64 // deadline by group; 0: not active
	dropped atomic.Uint64
	refused atomic.Uint64

	// What follows belongs to the goroutine of Run.

	core       *election.Core
	confirming []confirming
}

// maxConfirming bounds the versions that wait for a confirmation. Those that were given up are forgotten then.
const maxConfirming = 1024

type confirming struct {
	group string
	v     election.Version
	heard chan struct{}
}

type inbound struct {
	from string
	m    election.Message
}

// New returns a keeper; the voter's silence of one lease begins now.
func New(opts Options) (*Keeper, error) {
	if opts.Send == nil {
		return nil, errors.New("lease: no way to send")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Role == nil {
		opts.Role = func(election.RoleChange) {}
	}
	if opts.Extended == nil {
		opts.Extended = func(string, time.Duration) {}
	}
	if opts.Late == nil {
		opts.Late = func(time.Duration) {}
	}
	if opts.Event == nil {
		opts.Event = func(election.Event) {}
	}
	if opts.Now == nil {
		opts.Now = Now
	}
	core, err := election.New(opts.Config, opts.Now())
	if err != nil {
		return nil, err
	}
	k := &Keeper{
		opts: opts, log: opts.Log, core: core,
		calls: make(chan func(time.Duration, *election.Core) election.Output), inbox: make(chan inbound, maxQueue),
		done: make(chan struct{}), groups: make(map[string]*atomic.Int64, len(opts.Config.Groups)),
	}
	for _, g := range opts.Config.Groups {
		k.groups[g] = new(atomic.Int64)
	}
	return k, nil
}

// String names the task.
func (k *Keeper) String() string { return "lease keeper" }

// Deliver takes in a message that came from the network. What makes no sense is counted and dropped.
func (k *Keeper) Deliver(from string, message []byte) {
	var m election.Message
	if err := m.UnmarshalBinary(message); err != nil {
		if k.refused.Add(1) == 1 {
			k.log.Warn("a message about leases makes no sense and is dropped, as all others like it", "from", from, "error", err)
		}
		return
	}
	select {
	case k.inbox <- inbound{from, m}:
	default:
		k.dropped.Add(1)
	}
}

// Run takes part in the election until ctx ends. Leases that are held then are not given back: call
// [Keeper.StepDown] before, and wait for the role to be Standby.
func (k *Keeper) Run(ctx context.Context) error {
	defer close(k.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	due := election.Forever
	for {
		var out election.Output
		select {
		case <-ctx.Done():
			return nil
		case in := <-k.inbox:
			out = k.core.Receive(k.opts.Now(), in.from, in.m)
		case f := <-k.calls:
			out = f(k.opts.Now(), k.core)
		case <-timer.C:
			out = k.core.Tick(k.opts.Now())
		}
		if late := k.opts.Now() - due; late > k.opts.Config.Lease/4 {
			k.opts.Late(late)
		}
		k.carryOut(out)
		// A deadline counts even if messages never cease to come.
		if now := k.opts.Now(); k.core.Next() <= now {
			k.carryOut(k.core.Tick(now))
		}
		k.confirmed()
		due = k.core.Next()
		timer.Reset(max(due-k.opts.Now(), 0))
	}
}

func (k *Keeper) carryOut(out election.Output) {
	for _, r := range out.Roles {
		switch r.Role {
		case election.Active:
			k.extend(r.Group, r.Until)
		case election.Standby:
			k.groups[r.Group].Store(0)
		case election.Yielding: // the lease goes on to its end
		}
		k.opts.Role(r)
	}
	for _, e := range out.Extended {
		k.extend(e.Group, e.Until)
	}
	for _, s := range out.Send {
		b, err := s.Message.MarshalBinary()
		if err != nil {
			k.log.Error("failed to encode a message about leases", "to", s.To, "error", err)
			continue
		}
		k.opts.Send(s.To, b)
	}
	for _, e := range out.Events {
		k.opts.Event(e)
	}
}

func (k *Keeper) extend(group string, until time.Duration) {
	k.groups[group].Store(int64(until))
	k.opts.Extended(group, until)
}

// Leased reports whether this node's lease of a group has not ended by now.
func (k *Keeper) Leased(group string) bool {
	until, ok := k.Until(group)
	return ok && k.opts.Now() < until
}

// Until returns when this node's lease of a group ends unless it is extended; ok is false if it has none.
func (k *Keeper) Until(group string) (until time.Duration, ok bool) {
	g := k.groups[group]
	if g == nil {
		return 0, false
	}
	until = time.Duration(g.Load())
	return until, until != 0
}

// errEnded is returned by calls on a keeper that does not run any more.
var errEnded = errors.New("the election is not running any more")

// call runs f in the goroutine of Run.
func (k *Keeper) call(ctx context.Context, f func(time.Duration, *election.Core) election.Output) error {
	ran := make(chan struct{})
	wrapped := func(now time.Duration, c *election.Core) election.Output {
		defer close(ran)
		return f(now, c)
	}
	select {
	case k.calls <- wrapped:
		<-ran
		return nil
	case <-k.done:
		return errEnded
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// callGroup is call for an f that is about a group; the core panics when there is none of that name.
func (k *Keeper) callGroup(ctx context.Context, group string, f func(time.Duration, *election.Core) election.Output) error {
	if k.groups[group] == nil {
		return fmt.Errorf("there is no group %q", group)
	}
	return k.call(ctx, f)
}

// SetEligible says whether this node could hold a group, and why not.
func (k *Keeper) SetEligible(ctx context.Context, group string, ok bool, reason string) error {
	return k.callGroup(ctx, group, func(now time.Duration, c *election.Core) election.Output {
		return c.SetEligible(now, group, ok, reason)
	})
}

// SetVersions says up to which version this node has stored the specification, and up to which one changes
// are acknowledged, as far as is known here.
func (k *Keeper) SetVersions(ctx context.Context, stored, acked election.Version) error {
	err := k.call(ctx, func(now time.Duration, c *election.Core) election.Output { return c.SetStored(now, stored) })
	if err != nil {
		return err
	}
	return k.call(ctx, func(now time.Duration, c *election.Core) election.Output { return c.SetAcknowledged(now, acked) })
}

// HoldPreempt keeps this node from asking one of lower priority to hand over, or lets it.
func (k *Keeper) HoldPreempt(ctx context.Context, on bool) error {
	return k.call(ctx, func(now time.Duration, c *election.Core) election.Output { return c.HoldPreempt(now, on) })
}

// StepDown gives a group up in an orderly way, to successor unless it is empty.
func (k *Keeper) StepDown(ctx context.Context, group, successor string) error {
	return k.callGroup(ctx, group, func(now time.Duration, c *election.Core) election.Output {
		return c.StepDown(now, group, successor)
	})
}

// Promote asks for a group, whoever has it and whatever the priorities. With force voters let it have the group for two
// leases even if it lacks an acknowledged change, which is lost then.
func (k *Keeper) Promote(ctx context.Context, group string, force bool) error {
	return k.callGroup(ctx, group, func(now time.Duration, c *election.Core) election.Output { return c.Promote(now, group, force) })
}

// Confirm tells the voters that v is acknowledged, and returns nil when a majority of them, and enough of those that
// have leased group to this node, has heard it.
func (k *Keeper) Confirm(ctx context.Context, group string, v election.Version) error {
	heard := make(chan struct{})
	err := k.callGroup(ctx, group, func(now time.Duration, c *election.Core) election.Output {
		out := c.SetAcknowledged(now, v)
		if len(k.confirming) == maxConfirming {
			k.confirming = k.confirming[1:]
		}
		k.confirming = append(k.confirming, confirming{group, v, heard})
		return out
	})
	if err != nil {
		return err
	}
	select {
	case <-heard:
		return nil
	case <-k.done:
		return errEnded
	case <-ctx.Done():
		return fmt.Errorf("a majority of the voters has not confirmed version %v: %w", v, context.Cause(ctx))
	}
}

// confirmed lets go of those whose version is confirmed.
func (k *Keeper) confirmed() {
	k.confirming = slices.DeleteFunc(k.confirming, func(c confirming) bool {
		done := !k.core.Confirmed(c.group).Less(c.v)
		if done {
			close(c.heard)
		}
		return done
	})
}

// Yielded says that the addresses of a group are off this node.
func (k *Keeper) Yielded(ctx context.Context, group string) error {
	return k.callGroup(ctx, group, func(now time.Duration, c *election.Core) election.Output { return c.Yielded(now, group) })
}

// Status tells how a group stands.
func (k *Keeper) Status(ctx context.Context, group string) (st election.Status, err error) {
	err = k.callGroup(ctx, group, func(now time.Duration, c *election.Core) election.Output {
		st = c.Status(now, group)
		return election.Output{}
	})
	return st, err
}

// Dropped counts the messages that were lost because the queue was full, and those that made no sense.
func (k *Keeper) Dropped() (overflow, refused uint64) { return k.dropped.Load(), k.refused.Load() }
