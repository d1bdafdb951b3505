package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/memberlist"
)

// manyMembers is how many members there may be at most for all small records to be gossiped. A record that is gossiped
// passes through every node a dozen times, so when each of n nodes changes one at the same moment, as real servers
// do that take a new VIP, there are n * n of them on their way; a hundred nodes need ten seconds for that. Above it
// only the records of directors are gossiped, which concern everybody. The others go to the directors, and to all
// others with the exchange of everything.
const manyMembers = 32

// directAt is when a record is sent to the directors after it was set: datagrams may be lost.
var directAt = []time.Duration{0, 200 * time.Millisecond, time.Second, 4 * time.Second}

// direct is the way of an own record to the directors.
type direct struct {
	set  time.Time
	step int // next of directAt
}

func (d *direct) due() time.Time { return d.set.Add(directAt[d.step]) }

// gossipsLocked reports whether a record is gossiped.
func (n *Node) gossipsLocked(id recordID) bool {
	if n.alive.Load() <= manyMembers || n.directors == 0 || id.key == leavingKey {
		return true
	}
	if id.node == n.opt.Name {
		return n.opt.Role == Director
	}
	m := n.members[id.node]
	return m != nil && m.Role == Director
}

// sendDirect sends own records that are not gossiped to the directors, until ctx ends.
func (n *Node) sendDirect(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.toDirectors:
		case <-timer.C:
		}
		timer.Reset(time.Until(n.sendDue()))
	}
}

// sendDue sends what is due, and returns when the next is.
func (n *Node) sendDue() time.Time {
	now := time.Now()
	next := now.Add(time.Hour)
	var msgs [][]byte
	var to []memberlist.Address
	n.mu.Lock()
	for key, d := range n.direct {
		if !d.due().After(now) {
			msgs = append(msgs, n.encodeRecordsLocked([]recordID{{n.opt.Name, key}}))
			if d.step++; d.step == len(directAt) {
				delete(n.direct, key)
				continue
			}
		}
		if at := d.due(); at.Before(next) {
			next = at
		}
	}
	if len(msgs) > 0 {
		for _, m := range n.members {
			if m.Role == Director && m.State == Alive && m.Name != n.opt.Name {
				to = append(to, memberlist.Address{Addr: m.Address.String(), Name: m.Name})
			}
		}
	}
	n.mu.Unlock()
	ml := n.ml.Load()
	for _, msg := range msgs {
		for _, a := range to {
			if ml == nil {
				return next
			}
			if err := ml.SendToAddress(a, msg); err != nil {
				n.log.Debug("failed to send records", "to", a.Name, "err", err)
				continue
			}
			n.metrics.messages.WithLabelValues("out", msgRecords.String(), "").Inc()
		}
	}
	return next
}
