package election

import (
	"cmp"
	"slices"
	"time"
)

// peer is a candidate as a voter knows it.
type peer struct {
	name    string
	inc     uint64   // of the session, 0: none yet
	session uint64   // number of the session, rises with every new incarnation
	seqs    []uint64 // by group: newest of the session
	rival   rival    // as the sender of adverts and of HandOver
}

// grant is what a voter has promised for a group.
type grant struct {
	holder   int // index in peers, the last one if not held; -1: nobody yet
	inc      uint64
	epoch    uint64
	priority uint8
	held     bool
	until    time.Duration
	waiting  uint64 // bit i: peers[i] was refused and wants to be told

	successor     int // index in peers, -1: none
	reservedUntil time.Duration
}

func (c *Core) findPeer(name string) int {
	for i := range c.peers {
		if c.peers[i].name == name {
			return i
		}
	}
	return -1
}

// handleAsk answers a candidate.
func (c *Core) handleAsk(from string, m *Message) {
	if c.self < 0 {
		return
	}
	p := c.findPeer(from)
	if p < 0 {
		if len(c.peers) >= MaxCandidates {
			if c.full != from {
				c.full = from
				c.out.Events = append(c.out.Events, Event{Kind: TooManyPeers, Peer: from})
			}
			return
		}
		p = len(c.peers)
		c.peers = append(c.peers, peer{name: from, seqs: make([]uint64, len(c.groups))})
	}
	who := &c.peers[p]
	switch {
	case m.To == c.cfg.Incarnation && m.Inc == who.inc && m.Session == who.session:
	case m.To == c.cfg.Incarnation && m.Inc != who.inc && m.Session == who.session+1:
		// A live incarnation: it was told this number after the last one began.
		who.inc, who.session = m.Inc, m.Session
		clear(who.seqs)
	case c.broken.replay:
	default:
		c.offerSession(who, m)
		return
	}
	if c.acked.Less(m.Acked) {
		c.acked = m.Acked
	}
	answers := make([]Entry, 0, len(m.Entries))
	for _, e := range m.Entries {
		if int(e.Group) >= len(c.groups) || m.Seq <= who.seqs[e.Group] && !c.broken.replay {
			continue // a duplicate, or overtaken by a newer one
		}
		who.seqs[e.Group] = m.Seq
		switch e.Kind {
		case Request, Probe:
			answers = append(answers, c.decide(p, m, e))
		case Release:
			c.release(p, m.Inc, e)
			answers = append(answers, Entry{Kind: Released, Group: e.Group, Epoch: c.seen[e.Group]})
		}
	}
	if len(answers) > 0 {
		c.answer(who, m, answers)
	}
}

// offerSession tells a candidate that this voter does not know, or not any more, how to ask.
func (c *Core) offerSession(who *peer, m *Message) {
	answers := make([]Entry, 0, len(m.Entries))
	for _, e := range m.Entries {
		if int(e.Group) < len(c.groups) {
			answers = append(answers, Entry{Kind: Refused, Group: e.Group, Reason: NewSession, Epoch: c.seen[e.Group]})
		}
	}
	c.answer(who, m, answers)
}

func (c *Core) answer(who *peer, m *Message, entries []Entry) {
	for len(entries) > 0 {
		n := fit(entries)
		a := c.message(Answer, entries[:n:n])
		a.To, a.Seq, a.Sent, a.Session = m.Inc, m.Seq, m.Sent, who.session
		if m.Inc != who.inc {
			a.Session = who.session + 1
		}
		entries = entries[n:]
		if who.name == c.cfg.Self {
			c.receive(who.name, &a)
		} else {
			c.out.Send = append(c.out.Send, Envelope{who.name, a})
		}
	}
}

// decide answers a Request or a Probe, and grants if it is a Request that can be granted.
func (c *Core) decide(p int, m *Message, e Entry) Entry {
	g := int(e.Group)
	t := &c.grants[g]
	a := Entry{Kind: Refused, Group: e.Group, Epoch: max(c.seen[g], t.epoch)}
	mine := t.held && t.holder == p && t.inc == m.Inc
	if c.broken.inherit {
		mine = t.held && t.holder == p
	}
	switch {
	case mine && (e.Epoch == t.epoch || e.Epoch > t.epoch && e.Flags&FlagActive != 0):
		// A renewal: nobody else is concerned. The version does not count, it is the active one that makes new
		// versions, and with several groups another one may be ahead for a moment.
	case t.held && !mine:
		a.Reason, a.Epoch, a.Name, a.Priority = HeldByOther, t.epoch, c.peers[t.holder].name, t.priority
		a.Left = (t.until - c.now).Truncate(time.Microsecond)
		t.waiting |= 1 << p
		return a
	case c.now < c.silentUntil && e.Flags&FlagHeld == 0 && !c.broken.noSilence:
		a.Reason, a.Left = Silent, (c.silentUntil - c.now).Truncate(time.Microsecond)
		t.waiting |= 1 << p
		return a
	case c.now < t.reservedUntil && t.successor != p:
		a.Reason, a.Name = Reserved, c.peers[t.successor].name
		a.Left = (t.reservedUntil - c.now).Truncate(time.Microsecond)
		t.waiting |= 1 << p
		return a
	case e.Flags&(FlagActive|FlagForce) == 0 && m.Stored.Less(c.acked) && !c.broken.ignoreVersion:
		a.Reason = OldVersion
		t.waiting |= 1 << p
		return a
	case e.Kind == Request && e.Flags&FlagActive == 0 && e.Epoch <= c.seen[g], mine && e.Epoch < t.epoch && e.Kind == Request:
		a.Reason = OldEpoch
		return a
	}
	if e.Kind == Probe {
		a.Kind = Free
		return a
	}
	c.seen[g] = max(c.seen[g], e.Epoch)
	t.holder, t.inc, t.epoch, t.priority = p, m.Inc, e.Epoch, m.Priority
	t.held, t.until = true, c.now+c.cfg.Lease
	t.waiting &^= 1 << p
	t.successor, t.reservedUntil = -1, 0
	a.Kind, a.Epoch = Granted, e.Epoch
	return a
}

// release ends a grant before its time if it is the one that its holder means.
func (c *Core) release(p int, inc uint64, e Entry) {
	t := &c.grants[e.Group]
	if !t.held || (t.holder != p || t.inc != inc || e.Epoch < t.epoch) && !c.broken.anyRelease {
		return
	}
	t.held = false
	if s := c.findPeer(e.Name); e.Name != "" && s >= 0 && s != p {
		t.successor, t.reservedUntil = s, c.now+c.cfg.Lease/4
		t.waiting &^= 1 << s
		c.notes = append(c.notes, note{e.Name, Entry{Kind: Freed, Group: e.Group, Epoch: t.epoch, Name: e.Name}})
		return
	}
	c.tellWaiting(int(e.Group))
}

// tellWaiting tells those who were refused that they may ask again.
func (c *Core) tellWaiting(g int) {
	t := &c.grants[g]
	for p := range c.peers {
		if t.waiting&(1<<p) != 0 {
			c.notes = append(c.notes, note{c.peers[p].name, Entry{Kind: Freed, Group: uint8(g), Epoch: t.epoch}})
		}
	}
	t.waiting = 0
}

func (c *Core) tickVoter() {
	spoke := c.silentUntil != 0 && c.now >= c.silentUntil
	if spoke {
		c.silentUntil = 0
	}
	for g := range c.grants {
		t := &c.grants[g]
		ended := t.held && c.now >= t.until
		if ended {
			t.held = false
		}
		kept := t.reservedUntil != 0 && c.now >= t.reservedUntil
		if kept {
			t.successor, t.reservedUntil = -1, 0
		}
		if (ended || kept || spoke) && !t.held && t.waiting != 0 {
			c.tellWaiting(g)
		}
	}
}

func (c *Core) nextVoter() time.Duration {
	next := Forever
	if c.silentUntil != 0 {
		next = c.silentUntil
	}
	for g := range c.grants {
		t := &c.grants[g]
		if t.held {
			next = min(next, t.until)
		}
		if t.reservedUntil != 0 {
			next = min(next, t.reservedUntil)
		}
	}
	return next
}

// SetAcknowledged tells the newest version that was acknowledged, as far as this node knows. An older one than before
// changes nothing. An active node lets the voters know at once.
func (c *Core) SetAcknowledged(now time.Duration, v Version) Output {
	c.begin(now)
	if c.acked.Less(v) {
		c.acked = v
		c.renewSoon()
	}
	return c.finish()
}

// SetStored tells the newest version that this node has stored.
func (c *Core) SetStored(now time.Duration, v Version) Output {
	c.begin(now)
	if c.stored != v {
		c.stored = v
		for g := range c.runs { // it may have been refused for that
			if r := &c.runs[g]; r.phase == waiting && slices.ContainsFunc(r.votes, func(w vote) bool { return w.reason == OldVersion }) {
				r.probeAt = min(r.probeAt, c.now)
			}
		}
		c.tickCandidate()
	}
	return c.finish()
}

// Confirmed returns the newest acknowledged version of which a majority of the voters knew while they granted the group
// to this node; zero if it is not active. A voter that knew of it before the grant but lets another have the
// group does not count: it may have promised itself already to a candidate that lacks the change.
func (c *Core) Confirmed(group string) Version {
	r := &c.runs[c.group(group)]
	if r.phase != active {
		return Version{}
	}
	known := make([]Version, 0, MaxVoters)
	for i := range r.votes {
		if w := &r.votes[i]; w.state == granted && w.until > c.now {
			known = append(known, w.acked)
		}
	}
	if len(known) < c.quorum {
		return Version{}
	}
	slices.SortFunc(known, func(a, b Version) int {
		return cmp.Or(cmp.Compare(b.Epoch, a.Epoch), cmp.Compare(b.Index, a.Index))
	})
	return known[c.quorum-1]
}
