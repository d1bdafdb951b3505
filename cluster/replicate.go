package cluster

import (
	"context"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

const maxAgain = 64 // records of one exchange that are gossiped on

// broadcast is a record on its way by gossip. A newer one of the same name takes its place.
type broadcast struct {
	name string
	msg  []byte
}

var _ memberlist.NamedBroadcast = broadcast{}

func (b broadcast) Name() string    { return b.name }
func (b broadcast) Message() []byte { return b.msg }
func (b broadcast) Finished()       {}
func (b broadcast) Invalidates(o memberlist.Broadcast) bool {
	other, ok := o.(broadcast)
	return ok && other.name == b.name
}

// setLocked gives an own record its next version and sends it on its way.
func (n *Node) setLocked(key string, e entry) error {
	id := recordID{n.opt.Name, key}
	e.version = Version{n.epoch, n.counter + 1}
	if _, err := n.records.merge(id, e, n.opt.now()); err != nil {
		return err
	}
	n.counter++
	n.spreadLocked(id)
	return nil
}

// spreadLocked tells others of a record.
func (n *Node) spreadLocked(id recordID) {
	if id.node == n.opt.Name && n.mutedLocked() != nil {
		return
	}
	e := n.records.m[id]
	if len(e.value) < smallRecord {
		if msg := n.encodeRecordsLocked([]recordID{id}); len(msg) <= smallRecord {
			gossips := n.gossipsLocked(id)
			if gossips {
				n.gossiped.QueueBroadcast(broadcast{id.node + " " + id.key, msg})
			}
			if id.node == n.opt.Name {
				d := &telling{set: time.Now()}
				if gossips {
					d.step = 1
				}
				n.telling[id.key] = d
				signal(n.news)
			}
			return
		}
	}
	if id.node == n.opt.Name {
		delete(n.telling, id.key)
		n.dirty[id.key] = true
		signal(n.large)
	}
}

func (n *Node) encodeRecordsLocked(ids []recordID) []byte {
	b := []byte{byte(msgRecords), stateFormat}
	for _, id := range ids {
		b = appendRecord(b, id, n.records.m[id])
	}
	return b
}

// encodeStateLocked encodes everything.
func (n *Node) encodeStateLocked() []byte {
	now := n.opt.now()
	muted := n.mutedLocked() != nil
	b := []byte{stateFormat}
	for name, s := range n.senders {
		if _, gone := n.gone[name]; !gone && s.epoch != 0 {
			b = appendNode(b, nodeInfo{name: name, epoch: s.epoch})
		}
	}
	for name, since := range n.gone {
		i := nodeInfo{name: name, away: max(now.Sub(since), time.Second)}
		if s := n.senders[name]; s != nil {
			i.epoch = s.epoch
		}
		b = appendNode(b, i)
	}
	for _, id := range n.records.ids() {
		if id.node == n.opt.Name && muted {
			continue
		}
		b = appendRecord(b, id, n.records.m[id])
	}
	return b
}

// mergeState takes in a part of the state that another node sent, and sends on what is new to this one.
func (n *Node) mergeState(b []byte, gossiped bool) {
	items, err := decodeState(b)
	if err != nil {
		n.metrics.drop("", dropMalformed, 1)
		return
	}
	now := n.opt.now()
	full, again := 0, 0
	var changed, settled bool
	n.mu.Lock()
	for _, it := range items {
		if it.node != nil {
			n.mergeNodeLocked(it.node, now)
			continue
		}
		if it.id.node == n.opt.Name {
			changed = n.reclaimLocked(it.id, it.entry, now) || changed
			continue
		}
		if f, ok := n.forgotten[it.id.node]; ok && it.entry.version.Epoch <= f.epoch {
			continue
		}
		fresh, err := n.records.merge(it.id, it.entry, now)
		if err != nil {
			full++
		}
		if !fresh {
			continue
		}
		changed = true
		m := n.members[it.id.node]
		if m == nil || m.State != Alive {
			if _, ok := n.gone[it.id.node]; !ok {
				n.gone[it.id.node] = now
			}
		}
		if m != nil && it.id.key == leavingKey && m.State != Alive {
			n.settleLocked(m)
			settled = true
		}
		if again < maxAgain {
			again++
			n.spreadLocked(it.id)
		}
	}
	n.metrics.records.Set(float64(len(n.records.m)))
	if settled {
		n.countLocked()
	}
	n.mu.Unlock()
	if full > 0 {
		n.metrics.drop("", dropFull, full)
	}
	if changed {
		n.onRecords.notify()
	}
	if settled {
		n.onMembers.notify()
	}
}

func (n *Node) mergeNodeLocked(i *nodeInfo, now time.Time) {
	if i.name == n.opt.Name {
		n.raiseLocked(i.epoch)
		return
	}
	if m := n.members[i.name]; i.away > 0 && (m == nil || m.State != Alive) {
		if since, ok := n.gone[i.name]; ok && now.Add(-i.away).Before(since) {
			n.gone[i.name] = now.Add(-i.away)
		}
	}
}

// raiseLocked takes an epoch above one that others remember of this node: its clock went back, and they would
// take what it says for old.
func (n *Node) raiseLocked(seen uint64) {
	if seen <= n.epoch || seen == 1<<64-1 || n.mutedLocked() != nil {
		return
	}
	n.epoch = seen + 1
	for id, e := range n.records.m {
		if id.node == n.opt.Name {
			n.counter++
			e.version = Version{n.epoch, n.counter}
			n.records.m[id] = e
			n.spreadLocked(id)
		}
	}
}

// reclaimLocked is told of an own record by another node. Only this node says what they are: what it does not
// have, from its earlier lives, is removed.
func (n *Node) reclaimLocked(id recordID, e entry, now time.Time) bool {
	own, ok := n.records.m[id]
	if ok && e.compare(own) <= 0 || n.mutedLocked() != nil || e.removed && e.expires <= now.Unix() {
		return false
	}
	n.raiseLocked(e.version.Epoch)
	n.counter = max(n.counter, e.version.Counter)
	if own, ok = n.records.m[id]; ok {
		if e.compare(own) > 0 {
			_ = n.setLocked(id.key, entry{removed: own.removed, expires: own.expires, value: own.value})
		}
		return false
	}
	if e.removed {
		_, err := n.records.merge(id, e, now)
		return err == nil
	}
	return n.setLocked(id.key, n.tombstone()) == nil
}

// sendLarge sends own records that do not fit a packet to every live member, by stream. Who misses one gets it
// with the next exchange of everything.
func (n *Node) sendLarge(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.large:
		}
		n.mu.Lock()
		var ids []recordID
		for key := range n.dirty {
			ids = append(ids, recordID{n.opt.Name, key})
		}
		clear(n.dirty)
		msg := n.encodeRecordsLocked(ids)
		to := make(map[string]netip.AddrPort)
		for _, m := range n.members {
			if m.State == Alive && m.Name != n.opt.Name {
				to[m.Name] = m.Address
			}
		}
		n.mu.Unlock()
		gate := make(chan struct{}, joinAtOnce)
		for name, addr := range to {
			gate <- struct{}{}
			go func() {
				defer func() { <-gate }()
				if err := n.streamBytes(ctx, name, addr, msg); err != nil {
					n.log.Debug("failed to send records", "to", name, "err", err)
					return
				}
				n.metrics.messages.WithLabelValues("out", msgRecords.String(), "").Inc()
			}()
		}
		for range cap(gate) {
			gate <- struct{}{}
		}
	}
}
