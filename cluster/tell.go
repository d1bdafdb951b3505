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

// tellAt is when others are told of an own record after it was set. Datagrams may be lost, and a network that is
// in two for less time than it takes to find out that a member failed heals without an exchange of everything.
// The first time it is gossiped. Gossip goes to some members that are chosen at random, and who has a record already
// does not pass it on, so later every member is told by a datagram of its own; if there are many, every director.
var tellAt = []time.Duration{0, 200 * time.Millisecond, time.Second, 4 * time.Second, 10 * time.Second}

// telling is how far the telling of an own record is.
type telling struct {
	set  time.Time
	step int // next of tellAt
}

func (d *telling) due() time.Time { return d.set.Add(tellAt[d.step]) }

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

// tellAgain tells others of own records, again and again for some seconds, until ctx ends.
func (n *Node) tellAgain(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.news:
		case <-timer.C:
		}
		timer.Reset(time.Until(n.tellDue()))
	}
}

// tellDue tells what is due, by gossip or to each whom it concerns, and returns when the next is.
func (n *Node) tellDue() time.Time {
	type datagram struct {
		to  memberlist.Address
		msg []byte
	}
	now := time.Now()
	next := now.Add(time.Hour)
	var out []datagram
	n.mu.Lock()
	for key, d := range n.telling {
		if !d.due().After(now) {
			id := recordID{n.opt.Name, key}
			msg, gossips := n.encodeRecordsLocked([]recordID{id}), n.gossipsLocked(id)
			many := n.alive.Load() > manyMembers
			if gossips && (many || d.step == 0) {
				n.gossiped.QueueBroadcast(broadcast{id.node + " " + id.key, msg})
			}
			for _, m := range n.members {
				if (m.Role == Director || gossips && !many) && m.State == Alive && m.Name != n.opt.Name {
					out = append(out, datagram{memberlist.Address{Addr: m.Address.String(), Name: m.Name}, msg})
				}
			}
			if d.step++; d.step == len(tellAt) {
				delete(n.telling, key)
				continue
			}
		}
		if at := d.due(); at.Before(next) {
			next = at
		}
	}
	n.mu.Unlock()
	ml := n.ml.Load()
	for _, d := range out {
		if ml == nil {
			return next
		}
		if err := ml.SendToAddress(d.to, d.msg); err != nil {
			n.log.Debug("failed to send records", "to", d.to.Name, "err", err)
			continue
		}
		n.metrics.messages.WithLabelValues("out", msgRecords.String(), "").Inc()
	}
	return next
}
