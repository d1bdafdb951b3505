package election

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// link is a voter as a candidate knows it.
type link struct {
	inc, session uint64        // to be named in an Ask, 0: not known yet
	answered     uint64        // largest Seq of an Ask that was answered
	noted        uint64        // largest Seq of a Note of this incarnation
	heard        time.Duration // of the last fresh answer
	ever         bool
}

type phase uint8

const (
	idle        phase = iota // not eligible
	waiting                  // for the group to become free
	campaigning              // requests are out
	active
	yielding
)

type voteState uint8

const (
	unknown voteState = iota
	free
	granted
	refused
)

// vote is what a candidate knows about one voter for one group.
type vote struct {
	state    voteState
	until    time.Duration // granted: counted from the sending of the request, less the drift
	floor    uint64        // answers to an Ask with a smaller Seq do not count
	sent     time.Duration // of the newest answered request
	acked    Version       // granted: what the voter knew of
	reason   Reason        // refused
	name     string        // refused: the holder or successor
	priority uint8         // refused: of the holder
	epoch    uint64        // refused: of the holder
	left     time.Duration // refused: until when at the longest, on the own clock

	releasing   bool // a release is not confirmed yet
	releaseAt   time.Duration
	releaseEnd  time.Duration
	releaseName string
}

// candidacy is the state of a candidate for one group.
type candidacy struct {
	eligible bool
	why      string // not eligible or yielding: why
	phase    phase
	epoch    uint64
	deadline time.Duration
	told     time.Duration // deadline that the shell knows
	since    time.Duration // of the phase
	votes    []vote

	tryAt    time.Duration // campaign
	probeAt  time.Duration // ask without taking anything
	probed   time.Duration // last time
	endAt    time.Duration // of the campaign
	againAt  time.Duration // ask again who has not answered the campaign
	restAt   time.Duration // do not try before, after a step-down
	attempts int
	forceEnd time.Duration // until then regardless of the version
	reserved bool          // the last holder named this node

	lastHolder string
	successor  string
	below      time.Duration // since when a lower priority is active while this one is well; Forever: not
	oldVersion bool          // reported
}

func (c *Core) counted() time.Duration {
	if c.broken.noDrift {
		return c.cfg.Lease
	}
	return c.cfg.Lease - c.cfg.Drift
}

// enter changes the phase and everything that is due in the old one.
func (c *Core) enter(r *candidacy, p phase) {
	r.phase, r.since = p, c.now
	r.tryAt, r.probeAt, r.endAt, r.againAt = Forever, Forever, Forever, Forever
	r.below = Forever
	r.reserved = false
	if p == waiting {
		r.probeAt = c.now
	}
}

func (c *Core) role(g int, role Role, why string) {
	r := &c.runs[g]
	change := RoleChange{Group: c.groups[g], Role: role, Epoch: r.epoch, Why: why}
	if role != Standby {
		change.Until = r.deadline
	}
	c.out.Roles = append(c.out.Roles, change)
}

// SetEligible says whether this candidate may be active for a group. It is not at the start. An active one that becomes
// ineligible yields; reason says why in words.
func (c *Core) SetEligible(now time.Duration, group string, ok bool, reason string) Output {
	c.begin(now)
	g := c.group(group)
	r := &c.runs[g]
	if !c.cfg.Candidate {
		return c.finish()
	}
	changed := r.eligible != ok
	r.eligible = ok
	if !ok && r.phase != yielding {
		r.why = reason
	}
	if c.cfg.Mode == PriorityMode {
		if changed {
			c.contestEligible(g)
		}
		return c.finish()
	}
	switch {
	case !changed:
	case ok && r.phase == idle:
		c.enter(r, waiting)
		for v := range r.votes {
			if r.votes[v].state != granted {
				r.votes[v].state = unknown
			}
		}
	case !ok && r.phase == waiting:
		c.enter(r, idle)
	case !ok && r.phase == campaigning:
		c.giveBack(g, "")
		c.enter(r, idle)
	case !ok && r.phase == active:
		c.yield(g, reason, "")
	}
	c.tickCandidate()
	return c.finish()
}

// StepDown makes an active node give the group up. It then leaves it to others for one Lease; successor, if not
// empty, is the one that is preferred for a quarter of a Lease. If this node is not active, nothing happens.
func (c *Core) StepDown(now time.Duration, group, successor string) Output {
	c.begin(now)
	c.stepDown(c.group(group), "step-down", successor)
	return c.finish()
}

func (c *Core) stepDown(g int, why, successor string) {
	r := &c.runs[g]
	if c.cfg.Mode == PriorityMode {
		c.contestStepDown(g, why, successor)
		return
	}
	if r.phase != active {
		return
	}
	if successor != "" {
		why += " in favour of " + successor
	}
	c.yield(g, why, successor)
	r.restAt = c.now + c.cfg.Lease
}

// Promote asks the active node, if there is one, to hand the group over to this one, whatever the priorities; a
// voter's refusal for an old version stands unless force is set, which may lose acknowledged changes; it counts for
// two leases.
func (c *Core) Promote(now time.Duration, group string, force bool) Output {
	c.begin(now)
	g := c.group(group)
	r := &c.runs[g]
	if c.cfg.Mode == PriorityMode {
		c.contestPromote(g)
		return c.finish()
	}
	if r.phase == waiting {
		r.restAt = 0
		if r.forceEnd = 0; force {
			r.forceEnd = c.now + 2*c.cfg.Lease
		}
		r.probeAt = c.now
		c.askHandOver(r, g, FlagForce)
		c.tickCandidate()
	}
	return c.finish()
}

// askHandOver asks the one that most voters name as holder.
func (c *Core) askHandOver(r *candidacy, g int, flags uint8) {
	best, epoch, most := "", uint64(0), 0
	for i := range r.votes {
		w := &r.votes[i]
		if w.state != refused || w.reason != HeldByOther {
			continue
		}
		n := 0
		for j := range r.votes {
			if o := &r.votes[j]; o.state == refused && o.reason == HeldByOther && o.name == w.name && o.epoch == w.epoch {
				n++
			}
		}
		if n > most {
			best, epoch, most = w.name, w.epoch, n
		}
	}
	if best != "" && best != c.cfg.Self {
		c.notes = append(c.notes, note{best, Entry{Kind: HandOver, Group: uint8(g), Flags: flags, Epoch: epoch}})
	}
}

// Yielded says that the address of a group is off, after a RoleChange to Yielding. The grants are given back, and the
// node is on standby.
func (c *Core) Yielded(now time.Duration, group string) Output {
	c.begin(now)
	g := c.group(group)
	r := &c.runs[g]
	if r.phase != yielding {
		return c.finish()
	}
	if c.cfg.Mode == PriorityMode {
		c.contestYielded(g)
		return c.finish()
	}
	c.giveBack(g, r.successor)
	c.role(g, Standby, r.why)
	r.deadline, r.told = 0, 0
	if r.eligible {
		c.enter(r, waiting)
		r.probeAt = c.now + c.cfg.Lease/8
	} else {
		c.enter(r, idle)
	}
	r.successor = ""
	c.tickCandidate()
	return c.finish()
}

func (c *Core) yield(g int, why, successor string) {
	r := &c.runs[g]
	r.why, r.successor = why, successor
	c.enter(r, yielding)
	c.role(g, Yielding, why)
}

// giveBack releases all that may be granted. From now on no answer to an earlier request counts.
func (c *Core) giveBack(g int, successor string) {
	r := &c.runs[g]
	for v := range r.votes {
		w := &r.votes[v]
		w.floor, w.until = c.seq+1, 0
		if w.state == refused {
			continue
		}
		if w.state == granted {
			w.state = free
		}
		w.releasing, w.releaseName = true, successor
		w.releaseAt, w.releaseEnd = c.now, c.now+2*c.cfg.Lease
		c.sendRelease(g, v)
	}
}

func (c *Core) sendRelease(g, v int) {
	w := &c.runs[g].votes[v]
	w.releaseAt = c.now + c.cfg.Lease/8
	c.ask(v, Entry{Kind: Release, Group: uint8(g), Epoch: c.runs[g].epoch, Name: w.releaseName})
}

func (c *Core) sendRequest(g, v int) {
	r := &c.runs[g]
	w := &r.votes[v]
	w.releasing = false
	e := Entry{Kind: Request, Group: uint8(g), Epoch: r.epoch}
	if r.phase == active {
		e.Flags |= FlagActive
	}
	if w.until > c.now || c.broken.claimHeld {
		e.Flags |= FlagHeld
	}
	if c.now < r.forceEnd {
		e.Flags |= FlagForce
	}
	c.ask(v, e)
}

func (c *Core) sendProbe(g, v int) {
	r := &c.runs[g]
	w := &r.votes[v]
	if w.releasing { // the newest entry for a group counts, and this one is more important
		c.sendRelease(g, v)
		return
	}
	e := Entry{Kind: Probe, Group: uint8(g)}
	if c.now < r.forceEnd {
		e.Flags = FlagForce
	}
	c.ask(v, e)
}

// campaign asks all voters for their grants, in a new epoch.
func (c *Core) campaign(g int) {
	r := &c.runs[g]
	c.enter(r, campaigning)
	r.attempts++
	r.endAt, r.againAt = c.now+c.cfg.Lease/4, c.now+c.cfg.Lease/16
	c.newEpoch(g)
}

func (c *Core) newEpoch(g int) {
	r := &c.runs[g]
	c.known[g]++
	r.epoch = c.known[g]
	for v := range r.votes {
		w := &r.votes[v]
		w.state, w.until, w.sent, w.floor = unknown, 0, 0, c.seq+1
		c.sendRequest(g, v)
	}
}

// lose ends a campaign that was not won.
func (c *Core) lose(g int) {
	r := &c.runs[g]
	c.giveBack(g, "")
	c.enter(r, waiting)
	r.probeAt = c.now + c.cfg.Lease/8 + c.rand(c.cfg.Lease/8)
	c.consider(g)
}

// consider plans a campaign if a majority of the voters is known to be free.
func (c *Core) consider(g int) {
	r := &c.runs[g]
	if r.phase != waiting {
		return
	}
	n := 0
	for v := range r.votes {
		if r.votes[v].state == free {
			n++
		}
	}
	switch {
	case n < c.quorum:
		r.tryAt = Forever
	case r.tryAt == Forever:
		r.tryAt = max(c.now+c.stagger(r), r.restAt)
	}
}

// stagger is how long a candidate lets better ones go first: (254-priority)/254 of a twentieth of the lease, and
// a jitter that grows with failed attempts. The named successor, and the only one left besides the last holder,
// need not wait.
func (c *Core) stagger(r *candidacy) time.Duration {
	if c.now-r.since >= c.cfg.Lease/2 { // the last failure is long ago
		r.attempts = 0
	}
	others := len(c.candidates) - 1
	if r.lastHolder != "" && r.lastHolder != c.cfg.Self {
		others--
	}
	if r.attempts == 0 && (r.reserved || len(c.candidates) > 0 && others <= 0) {
		return 0
	}
	jitter := c.jitter // the same for all groups, so that they share messages
	if r.attempts > 0 {
		jitter = c.rand(c.cfg.Lease / 40 << min(r.attempts, 4))
	}
	return c.cfg.Lease/100 + c.cfg.Lease/20*time.Duration(MaxPriority-c.cfg.Priority)/MaxPriority + jitter
}

// count looks whether a campaign is won or lost, or how long an active one may go on.
func (c *Core) count(g int) {
	r := &c.runs[g]
	var untils [MaxVoters]time.Duration
	n, possible := 0, 0
	for v := range r.votes {
		w := &r.votes[v]
		if w.state == granted && w.until > c.now {
			untils[n] = w.until
			n++
		}
		if w.state != refused {
			possible++
		}
	}
	quorum := c.quorum
	if c.broken.halfQuorum {
		quorum = max(1, len(c.voters)/2)
	}
	if n < quorum {
		if r.phase == campaigning && possible < quorum {
			c.lose(g)
		}
		return
	}
	slices.SortFunc(untils[:n], func(a, b time.Duration) int { return cmp.Compare(b, a) })
	deadline := untils[quorum-1]
	switch r.phase {
	case active:
		r.deadline = max(r.deadline, deadline)
	case campaigning:
		if deadline-c.cfg.GiveUp <= c.now {
			return
		}
		r.deadline, r.told = deadline, deadline
		attempts := r.attempts
		c.enter(r, active)
		r.attempts, r.forceEnd, r.oldVersion, r.lastHolder = 0, 0, false, c.cfg.Self
		why := fmt.Sprintf("granted by %d of %d voters", n, len(c.voters))
		if attempts > 1 {
			why += fmt.Sprintf(" at attempt %d", attempts)
		}
		c.role(g, Active, why)
		if c.roundAt == Forever {
			c.roundAt = c.now + c.cfg.Lease/4
		}
	}
}

// handleAnswer takes what a voter answered.
func (c *Core) handleAnswer(from string, m *Message) {
	v, ok := slices.BinarySearch(c.voters, from)
	if !ok || !c.cfg.Candidate || m.To != c.cfg.Incarnation || m.Seq > c.seq {
		return
	}
	l := &c.links[v]
	if m.Seq > l.answered {
		l.answered, l.heard, l.ever = m.Seq, c.now, true
		if l.inc != m.Inc {
			l.inc, l.noted = m.Inc, 0
		}
		l.session = m.Session
		if c.acked.Less(m.Acked) {
			c.acked = m.Acked
		}
	}
	for _, e := range m.Entries {
		g := int(e.Group)
		if g >= len(c.groups) {
			continue
		}
		c.known[g] = max(c.known[g], e.Epoch)
		w := &c.runs[g].votes[v]
		if m.Seq < w.floor && !c.broken.replay {
			continue // a duplicate, overtaken, or to a request of before a release
		}
		w.floor = max(w.floor, m.Seq+1)
		if e.Reason == NewSession {
			if m.Seq == l.answered {
				c.askAgain(g, v)
			}
			continue
		}
		c.takeAnswer(g, v, m, e)
	}
}

// askAgain repeats what a voter did not understand because it did not know the session.
func (c *Core) askAgain(g, v int) {
	r := &c.runs[g]
	w := &r.votes[v]
	switch {
	case w.releasing: // that life of the voter, or ours there, is over
		w.releasing = false
		if r.phase == waiting {
			c.sendProbe(g, v)
		}
	case r.phase == campaigning || r.phase == active:
		c.sendRequest(g, v)
	case r.phase == waiting:
		c.sendProbe(g, v)
	}
}

func (c *Core) takeAnswer(g, v int, m *Message, e Entry) {
	r := &c.runs[g]
	w := &r.votes[v]
	switch e.Kind {
	case Granted:
		if r.phase != campaigning && r.phase != active {
			if r.phase != yielding && !w.releasing { // nobody wants it any more
				w.releasing, w.releaseName, w.releaseEnd = true, "", c.now+2*c.cfg.Lease
				w.floor = c.seq + 1
				c.sendRelease(g, v)
			}
			return
		}
		if e.Epoch != r.epoch {
			return
		}
		until := m.Sent + c.counted()
		if c.broken.countFromReceipt {
			until = c.now + c.counted()
		}
		w.sent = max(w.sent, m.Sent)
		if until > w.until {
			w.state, w.until, w.reason, w.name = granted, until, NoReason, ""
			w.acked = m.Acked
		}
		c.count(g)
	case Free:
		if r.phase == waiting {
			w.sent = m.Sent
			w.state, w.reason, w.name = free, NoReason, ""
			c.consider(g)
		}
	case Released:
		w.releasing = false
	case Refused:
		w.sent = m.Sent
		w.state, w.until, w.reason, w.name, w.priority, w.epoch = refused, 0, e.Reason, e.Name, e.Priority, e.Epoch
		w.left = c.now + e.Left
		if e.Reason == HeldByOther {
			r.lastHolder, r.restAt = e.Name, 0
		}
		switch r.phase {
		case waiting:
			if e.Left > 0 && e.Left < c.cfg.Lease/2 {
				r.probeAt = min(r.probeAt, c.now+e.Left+c.cfg.Lease/64)
			}
			c.consider(g)
			if e.Reason == OldVersion && !r.oldVersion {
				r.oldVersion = true
				c.out.Events = append(c.out.Events, Event{VersionRefused, c.voters[v], c.groups[g], m.Acked})
			}
		case campaigning:
			if e.Reason == OldEpoch && e.Epoch >= r.epoch {
				c.newEpoch(g)
				return
			}
			c.count(g)
		}
	}
}

// handleNote takes what somebody says unasked.
func (c *Core) handleNote(from string, m *Message) {
	if !c.cfg.Candidate {
		return
	}
	v, voter := slices.BinarySearch(c.voters, from)
	if voter && m.To == c.cfg.Incarnation {
		l := &c.links[v]
		voter = m.Inc == l.inc && m.Seq > l.noted
		if voter {
			l.noted = m.Seq
		}
	} else {
		voter = false
	}
	asked := slices.ContainsFunc(m.Entries, func(e Entry) bool { return e.Kind == HandOver })
	if p := c.findPeer(from); asked && p >= 0 {
		asked = c.peers[p].rival.fresh(m.Inc, m.Seq)
	}
	for _, e := range m.Entries {
		g := int(e.Group)
		if g >= len(c.groups) {
			continue
		}
		r := &c.runs[g]
		switch {
		case e.Kind == HandOver && asked && r.phase == active && e.Epoch == r.epoch &&
			(e.Flags&FlagForce != 0 || m.Priority > c.cfg.Priority):
			// The epoch makes one of another activation harmless.
			c.out.Events = append(c.out.Events, Event{Kind: HandOverAsked, Peer: from, Group: c.groups[g]})
			c.stepDown(g, "asked to hand over", from)
		case e.Kind == Freed && voter:
			c.known[g] = max(c.known[g], e.Epoch)
			c.freed(g, v, e)
		}
	}
}

// freed notes that a voter may be asked now.
func (c *Core) freed(g, v int, e Entry) {
	r := &c.runs[g]
	w := &r.votes[v]
	switch r.phase {
	case campaigning, active:
		c.sendRequest(g, v)
	case waiting:
		w.state, w.sent, w.reason, w.name = free, c.now, NoReason, ""
		r.reserved = r.reserved || e.Name == c.cfg.Self
		if r.reserved {
			r.restAt = 0
			r.tryAt = Forever
		}
		c.consider(g)
		if r.tryAt == Forever { // the others may be free too, but their word was lost or is late
			r.probeAt = min(r.probeAt, max(c.now, r.probed+c.cfg.Lease/16))
		}
	}
}

// renewSoon makes the next renewal due now.
func (c *Core) renewSoon() {
	if c.roundAt != Forever {
		c.roundAt = c.now
		c.tickCandidate()
	}
}

// tickCandidate does all that is due.
func (c *Core) tickCandidate() {
	if c.cfg.Mode == PriorityMode || !c.cfg.Candidate {
		return
	}
	anyActive := false
	for g := range c.runs {
		r := &c.runs[g]
		if r.phase == active && c.now >= r.deadline-c.cfg.GiveUp {
			c.yield(g, "lease not renewed: "+c.missing(r), "")
		}
		anyActive = anyActive || r.phase == active
	}
	if !anyActive {
		c.roundAt, c.againAt = Forever, Forever
	}
	if c.now >= c.roundAt {
		c.round = c.now
		c.roundAt, c.againAt = c.now+c.cfg.Lease/4, c.now+c.cfg.Lease/16
		for g := range c.runs {
			if c.runs[g].phase == active {
				for v := range c.voters {
					c.sendRequest(g, v)
				}
			}
		}
	} else if c.now >= c.againAt {
		c.againAt = Forever
		for g := range c.runs {
			if r := &c.runs[g]; r.phase == active {
				for v := range r.votes {
					if r.votes[v].sent < c.round && c.links[v].heard > c.now-c.cfg.Lease {
						c.sendRequest(g, v)
						c.againAt = c.now + c.cfg.Lease/16
					}
				}
			}
		}
	}
	for g := range c.runs {
		r := &c.runs[g]
		switch r.phase {
		case waiting:
			if c.now >= r.tryAt {
				c.campaign(g)
			} else if c.now >= r.probeAt {
				c.probe(g)
			}
		case campaigning:
			if c.now >= r.endAt {
				c.lose(g)
			} else if c.now >= r.againAt {
				r.againAt = c.now + c.cfg.Lease/16
				for v := range r.votes {
					if r.votes[v].state == unknown {
						c.sendRequest(g, v)
					}
				}
			}
		}
		for v := range r.votes {
			if w := &r.votes[v]; w.releasing && c.now >= w.releaseAt {
				if c.now >= w.releaseEnd {
					w.releasing = false
				} else {
					c.sendRelease(g, v)
				}
			}
		}
	}
}

func (c *Core) probe(g int) {
	r := &c.runs[g]
	r.probed = c.now
	// On a grid, so that all groups share messages.
	half := c.cfg.Lease / 2
	r.probeAt = (c.now-c.phase+half/2)/half*half + half + c.phase
	for v := range r.votes {
		if w := &r.votes[v]; w.state == free && c.links[v].heard < c.now-c.cfg.Lease {
			w.state = unknown // it said so long ago
		}
		c.sendProbe(g, v)
	}
	c.preempt(g)
}

// preempt asks a lower active one to hand over when it is time.
func (c *Core) preempt(g int) {
	r := &c.runs[g]
	if c.cfg.PreemptDelay < 0 {
		return
	}
	n := 0
	for v := range r.votes {
		w := &r.votes[v]
		if w.state == refused && w.reason == HeldByOther && w.priority < c.cfg.Priority && c.links[v].heard > c.now-c.cfg.Lease {
			n++
		}
	}
	switch {
	case n < c.quorum || c.now < r.restAt:
		r.below = Forever
	case r.below == Forever:
		r.below = c.now
		fallthrough
	default:
		if c.now-r.below >= c.cfg.PreemptDelay && !c.noPreempt {
			c.askHandOver(r, g, 0)
		}
	}
}

// missing names the voters whose grants have ended.
func (c *Core) missing(r *candidacy) string {
	var b strings.Builder
	for v, w := range r.votes {
		if w.until-c.cfg.GiveUp > c.now {
			continue
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.voters[v])
		if w.state == refused {
			b.WriteString(" (" + w.reason.String() + ")")
		} else {
			b.WriteString(" (no answer)")
		}
	}
	return b.String()
}

func (c *Core) nextCandidate() time.Duration {
	next := min(c.roundAt, c.againAt)
	for g := range c.runs {
		r := &c.runs[g]
		switch r.phase {
		case waiting:
			next = min(next, r.tryAt, r.probeAt)
		case campaigning:
			next = min(next, r.endAt, r.againAt)
		case active:
			next = min(next, r.deadline-c.cfg.GiveUp)
		}
		for v := range r.votes {
			if w := &r.votes[v]; w.releasing {
				next = min(next, w.releaseAt)
			}
		}
	}
	return next
}
