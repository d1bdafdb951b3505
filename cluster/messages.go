package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/hashicorp/memberlist"
)

const (
	maxSends   = 64   // reliable messages under way
	maxSenders = 4096 // of which is remembered what came
)

// NodeMeta is asked by memberlist, which panics if it gets more than limit.
func (g gossip) NodeMeta(limit int) []byte {
	n := g.n
	n.mu.Lock()
	m := nodeMeta{n.opt.Role, n.start, n.opt.Version, n.opt.Meta}
	n.mu.Unlock()
	b := m.encode()
	if len(b) > limit {
		return nil // cannot be: check bounds the parts
	}
	return b
}

// GetBroadcasts gives memberlist what it may add to a packet.
func (g gossip) GetBroadcasts(overhead, limit int) [][]byte {
	return g.n.gossiped.GetBroadcasts(overhead, limit)
}

// NotifyMsg takes a message. It does not wait, and copies what it keeps.
func (g gossip) NotifyMsg(b []byte) {
	n := g.n
	if len(b) > 0 && msgType(b[0]) == msgRecords {
		n.metrics.messages.WithLabelValues("in", msgRecords.String(), "").Inc()
		n.mergeState(b[1:], true)
		return
	}
	e, err := decodeEnvelope(b)
	if err != nil {
		n.metrics.drop("", dropMalformed, 1)
		return
	}
	kind := kindLabel(e.kind)
	if e.to != n.opt.Name {
		n.metrics.drop(kind, dropMisdirect, 1)
		return
	}
	if !n.fresh(&e) {
		n.metrics.drop(kind, dropReplayed, 1)
		return
	}
	n.metrics.messages.WithLabelValues("in", e.typ.String(), kind).Inc()
	switch e.typ {
	case msgDatagram, msgReliable:
		h := n.handlers[e.kind]
		if h == nil {
			n.metrics.drop(kind, dropNoHandler, 1)
			return
		}
		if d := h.queue.push(message{e.from, bytes.Clone(e.payload)}); len(d) > 0 {
			n.metrics.drop(kind, dropQueueFull, len(d))
		}
	case msgRequest:
		n.requested(&e)
	case msgReply:
		n.replied(&e)
	}
}

// fresh reports whether a message is not one that came before.
func (n *Node) fresh(e *envelope) bool {
	now := n.opt.now()
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.senders[e.from]
	if s == nil {
		if len(n.senders) >= maxSenders {
			n.dropSenderLocked()
		}
		s = &sender{}
		n.senders[e.from] = s
	}
	known := uint64(0)
	if m := n.members[e.from]; m != nil && m.State == Alive {
		known = m.Start
	}
	return s.take(e, known, now)
}

// dropSenderLocked makes room: of a few, the one that was not heard for longest, preferably no live member.
func (n *Node) dropSenderLocked() {
	victim, looked := "", 0
	for name, s := range n.senders {
		if m := n.members[name]; m == nil || m.State != Alive {
			victim = name
			break
		}
		if victim == "" || s.last.Before(n.senders[victim].last) {
			victim = name
		}
		if looked++; looked == 16 {
			break
		}
	}
	delete(n.senders, victim)
}

func (n *Node) envelope(typ msgType, to string, kind byte, payload []byte) *envelope {
	n.mu.Lock()
	epoch := n.epoch
	n.mu.Unlock()
	return &envelope{typ: typ, epoch: epoch, count: n.count.Add(1), kind: kind, from: n.opt.Name, to: to, payload: payload}
}

// Send sends one datagram to a node: encrypted, perhaps lost, reordered, or twice on the wire, but given to the
// handler once. addr is where the node is configured to be, whatever the gossip thinks of it; the zero addr takes the
// member's. The payload may have as many bytes as MaxDatagram leaves. It does not wait for the network.
func (n *Node) Send(to string, addr netip.AddrPort, kind byte, payload []byte) error {
	ml := n.ml.Load()
	if ml == nil {
		return ErrNotRunning
	}
	if !ValidName(to) {
		return fmt.Errorf("failed to send to %q: name must be %s", to, NameRule)
	}
	if err := n.muted(); err != nil {
		return err
	}
	if !addr.IsValid() {
		m, ok := n.Member(to)
		if !ok {
			return fmt.Errorf("failed to send to %q: %w", to, ErrUnknownMember)
		}
		addr = m.Address
	}
	e := n.envelope(msgDatagram, to, kind, payload)
	if e.size() > MaxDatagram {
		return fmt.Errorf("failed to send to %q: %d bytes, at most %d", to, len(payload), MaxDatagram-e.size()+len(payload))
	}
	n.metrics.messages.WithLabelValues("out", e.typ.String(), kindLabel(kind)).Inc()
	if err := ml.SendToAddress(memberlist.Address{Addr: addr.String(), Name: to}, e.encode()); err != nil {
		return fmt.Errorf("failed to send to %q at %s: %w", to, addr, err)
	}
	return nil
}

// SendReliable sends one message over a stream of its own, and returns when it is written. That does not prove
// that it was taken: for that, ask by Request. Bounded by ctx and by Timing.StreamTimeout.
func (n *Node) SendReliable(ctx context.Context, to string, kind byte, payload []byte) error {
	m, ok := n.Member(to)
	if !ok {
		return fmt.Errorf("failed to send to %q: %w", to, ErrUnknownMember)
	}
	return n.stream(ctx, msgReliable, to, m.Address, kind, payload, len(payload))
}

// stream sends an envelope; size is the part of the payload that MaxMessage is for.
func (n *Node) stream(ctx context.Context, typ msgType, to string, addr netip.AddrPort, kind byte, payload []byte, size int) error {
	if size > MaxMessage {
		return fmt.Errorf("failed to send to %q: %d bytes, at most %d", to, size, MaxMessage)
	}
	if err := n.muted(); err != nil {
		return err
	}
	e := n.envelope(typ, to, kind, payload)
	if err := n.streamBytes(ctx, to, addr, e.encode()); err != nil {
		return fmt.Errorf("failed to send to %q at %s: %w", to, addr, err)
	}
	n.metrics.messages.WithLabelValues("out", typ.String(), kindLabel(kind)).Inc()
	return nil
}

// streamBytes sends what memberlist calls a reliable user message. memberlist knows no context; its connection has a
// deadline, and is left to it if ctx ends first.
func (n *Node) streamBytes(ctx context.Context, to string, addr netip.AddrPort, b []byte) error {
	ml := n.ml.Load()
	if ml == nil {
		return ErrNotRunning
	}
	select {
	case n.streams <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.running.Done():
		return ErrNotRunning
	}
	sent := make(chan error, 1)
	go func() {
		defer func() { <-n.streams }()
		sent <- ml.SendReliable(&memberlist.Node{Name: to, Addr: addr.Addr().AsSlice(), Port: addr.Port()}, b)
	}()
	select {
	case err := <-sent:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-n.running.Done():
		return ErrNotRunning
	}
}

// LocalState is what memberlist gives to the member with which it exchanges everything.
func (g gossip) LocalState(bool) []byte {
	n := g.n
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.encodeStateLocked()
}

// MergeRemoteState takes what the other one gave.
func (g gossip) MergeRemoteState(b []byte, _ bool) { g.n.mergeState(b, false) }

// Publish sets a record of this node, which all members will have. The value is copied. Publishing what is
// published does nothing.
func (n *Node) Publish(key string, value []byte) error {
	switch {
	case !validKey(key) || key[0] == '_':
		return fmt.Errorf("failed to publish %q: key must be %s, not beginning with _", key, keyRule)
	case len(value) > MaxValue:
		return fmt.Errorf("failed to publish %q: %d bytes, at most %d", key, len(value), MaxValue)
	}
	n.mu.Lock()
	old, ok := n.records.m[recordID{n.opt.Name, key}]
	if ok && !old.removed && old.version.Epoch == n.epoch && bytes.Equal(old.value, value) {
		n.mu.Unlock()
		return nil
	}
	err := n.setLocked(key, entry{value: bytes.Clone(value)})
	n.mu.Unlock()
	if errors.Is(err, errFull) {
		return fmt.Errorf("failed to publish %q: %w (at most %d of a node and %d bytes of all)", key, err, MaxRecords, maxRecordBytes)
	}
	n.onRecords.notify()
	return err
}

// Unpublish removes a record of this node. A record that is not there is no error.
func (n *Node) Unpublish(key string) {
	n.mu.Lock()
	old, ok := n.records.m[recordID{n.opt.Name, key}]
	if ok = ok && !old.removed; ok {
		_ = n.setLocked(key, n.tombstone()) // there is room, as it is smaller
	}
	n.mu.Unlock()
	if ok {
		n.onRecords.notify()
	}
}

func (n *Node) tombstone() entry {
	return entry{removed: true, expires: n.opt.now().Add(tombstoneLife).Unix()}
}

// Records lists the records of all nodes, this one's among them, by node and key. Those of a node that failed or left
// stay until it is forgotten.
func (n *Node) Records() []Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Record, 0, len(n.records.m))
	for _, id := range n.records.ids() {
		e := n.records.m[id]
		if e.removed || id.key[0] == '_' {
			continue
		}
		r := Record{Node: id.node, Key: id.key, Value: e.value, Version: e.version, State: Failed}
		if m := n.members[id.node]; m != nil {
			r.State = m.State
		} else if id.node == n.opt.Name {
			r.State = Alive // before Run
		}
		out = append(out, r)
	}
	return out
}

// WatchRecords gives a channel of capacity one that holds a value when Records may have changed, at first at once.
// The function ends it.
func (n *Node) WatchRecords() (<-chan struct{}, func()) { return n.onRecords.add() }
