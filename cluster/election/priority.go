package election

import (
	"slices"
	"time"
)

// contest is the state of a candidate for one group in PriorityMode. Phase, epoch and eligibility are in candidacy.
type contest struct {
	heard     int // index in peers of the last one that said it was active, -1: none
	heardAt   time.Duration
	theirs    uint64        // its epoch
	takeAt    time.Duration // take over, unless an advert comes before
	sendAt    time.Duration // active: next advert
	wellSince time.Duration
}

// rival is what is remembered of the sender of adverts and of HandOver, so that old ones change nothing.
type rival struct {
	inc  uint64
	seq  uint64
	past [8]uint64 // former incarnations, newest first
}

// fresh reports whether a message is newer than all before. Without a voter that hands out session numbers, a
// replay can be told from a restart only as long as the incarnation is remembered.
func (r *rival) fresh(inc, seq uint64) bool {
	switch {
	case inc == r.inc:
		if seq <= r.seq {
			return false
		}
	case slices.Contains(r.past[:], inc):
		return false
	default:
		copy(r.past[1:], r.past[:])
		r.past[0] = r.inc
		r.inc = inc
	}
	r.seq = seq
	return true
}

// skew lets better ones go first, as Skew_Time in RFC 5798 section 6.1.
func (c *Core) skew() time.Duration {
	return c.cfg.Lease/4*time.Duration(MaxPriority-c.cfg.Priority)/MaxPriority + c.rand(c.cfg.Lease/64)
}

// better reports whether the other node goes before this one.
func (c *Core) better(name string, priority uint8) bool {
	return priority > c.cfg.Priority || priority == c.cfg.Priority && name < c.cfg.Self
}

func (c *Core) advert(g int, e Entry) {
	e.Group, e.Epoch = uint8(g), c.runs[g].epoch
	for _, name := range c.candidates {
		if name != c.cfg.Self {
			c.notes = append(c.notes, note{name, e})
		}
	}
}

func (c *Core) contestEligible(g int) {
	r, t := &c.runs[g], &c.contests[g]
	switch {
	case r.eligible && r.phase == idle:
		c.enter(r, waiting)
		t.wellSince = c.now
		t.takeAt = c.now + c.cfg.Lease + c.skew()
	case !r.eligible && r.phase == waiting:
		c.enter(r, idle)
		t.takeAt = Forever
	case !r.eligible && r.phase == active:
		c.contestYield(g, r.why, "")
	}
}

func (c *Core) contestYield(g int, why, successor string) {
	r, t := &c.runs[g], &c.contests[g]
	r.why, r.successor, t.sendAt = why, successor, Forever
	c.enter(r, yielding)
	c.role(g, Yielding, why)
}

func (c *Core) contestStepDown(g int, why, successor string) {
	if r := &c.runs[g]; r.phase == active {
		if successor != "" {
			why += " in favour of " + successor
		}
		c.contestYield(g, why, successor)
		r.restAt = c.now + c.cfg.Lease
	}
}

func (c *Core) contestYielded(g int) {
	r, t := &c.runs[g], &c.contests[g]
	c.advert(g, Entry{Kind: Resigned, Name: r.successor})
	c.role(g, Standby, r.why)
	r.deadline, r.successor = 0, ""
	if !r.eligible {
		c.enter(r, idle)
		return
	}
	c.enter(r, waiting)
	t.takeAt = max(r.restAt, c.now+c.cfg.Lease) + c.skew()
}

func (c *Core) contestPromote(g int) {
	r, t := &c.runs[g], &c.contests[g]
	if r.phase != waiting {
		return
	}
	r.restAt = 0
	if t.heard >= 0 && c.now-t.heardAt < c.cfg.Lease {
		c.notes = append(c.notes, note{c.peers[t.heard].name, Entry{Kind: HandOver, Group: uint8(g), Flags: FlagForce, Epoch: t.theirs}})
		return
	}
	t.takeAt = c.now
	c.tickContests()
}

// hear takes an advert.
func (c *Core) hear(from string, m *Message) {
	p := c.findPeer(from)
	if p < 0 || !c.cfg.Candidate || !c.peers[p].rival.fresh(m.Inc, m.Seq) {
		return
	}
	for _, e := range m.Entries {
		g := int(e.Group)
		if g >= len(c.groups) {
			continue
		}
		r, t := &c.runs[g], &c.contests[g]
		c.known[g] = max(c.known[g], e.Epoch)
		switch e.Kind {
		case Alive:
			if r.phase == active {
				if c.better(from, m.Priority) {
					c.contestYield(g, "heard "+from+", which goes first", "")
				} else {
					t.sendAt = c.now // it does not know of this one
				}
			}
			t.heard, t.heardAt, t.theirs = p, c.now, e.Epoch
			overrule := c.cfg.PreemptDelay >= 0 && !c.noPreempt && !c.better(from, m.Priority) && c.now-t.wellSince >= c.cfg.PreemptDelay && c.now >= r.restAt
			if r.phase == waiting && !overrule {
				r.restAt = 0
				t.takeAt = c.now + c.cfg.Lease + c.skew()
			}
		case Resigned:
			if t.heard == p {
				t.heard = -1
			}
			if r.phase != waiting {
				break
			}
			switch e.Name {
			case c.cfg.Self:
				r.restAt, t.takeAt = 0, c.now
			case "":
				t.takeAt = max(c.now, r.restAt) + c.skew()
			default:
				t.takeAt = max(c.now+c.cfg.Lease/4, r.restAt) + c.skew()
			}
		case HandOver:
			if r.phase == active && e.Epoch == r.epoch {
				c.out.Events = append(c.out.Events, Event{Kind: HandOverAsked, Peer: from, Group: c.groups[g]})
				c.contestStepDown(g, "asked to hand over", from)
			}
		}
	}
	c.tickContests()
}

func (c *Core) tickContests() {
	for g := range c.contests {
		r, t := &c.runs[g], &c.contests[g]
		if r.phase == waiting && c.now >= t.takeAt {
			t.takeAt = Forever
			c.known[g]++
			r.epoch, r.deadline, r.lastHolder = c.known[g], Forever, c.cfg.Self
			c.enter(r, active)
			r.told = Forever
			c.role(g, Active, "heard nobody who goes first")
			t.sendAt = c.now
		}
		if r.phase == active && c.now >= t.sendAt {
			t.sendAt = c.now + c.cfg.Lease/4
			c.advert(g, Entry{Kind: Alive})
		}
	}
}

func (c *Core) nextContests() time.Duration {
	next := Forever
	for g := range c.contests {
		switch t := &c.contests[g]; c.runs[g].phase {
		case waiting:
			next = min(next, t.takeAt)
		case active:
			next = min(next, t.sendAt)
		}
	}
	return next
}
