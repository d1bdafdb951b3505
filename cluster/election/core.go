package election

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Role is what a node is for a group.
type Role uint8

const (
	Standby  Role = iota // must not have the address
	Active               // has the address, until the deadline
	Yielding             // takes the address away now; call [Core.Yielded] when it is off
)

func (r Role) String() string {
	switch r {
	case Standby:
		return "standby"
	case Active:
		return "active"
	case Yielding:
		return "yielding"
	}
	return fmt.Sprintf("role %d", uint8(r))
}

// Output is what the shell has to do after a call, in the order of the fields: first what is lost,
// then what is to be sent.
type Output struct {
	Roles    []RoleChange
	Extended []Extension
	Send     []Envelope
	Events   []Event
}

// RoleChange says that the role of this node changed.
type RoleChange struct {
	Group string
	Role  Role
	Epoch uint64
	// Until is, for Active and Yielding, when the address has to be gone, on the caller's clock. In PriorityMode
	// there is no such time: it is [Forever].
	Until time.Duration
	Why   string
}

// Extension says that an active group may be kept until a later time.
type Extension struct {
	Group string
	Until time.Duration
}

// Envelope is a message to be sent to another node. It may get lost; sending must not wait.
type Envelope struct {
	To      string
	Message Message
}

// EventKind says what an event is about.
type EventKind uint8

const (
	ConfigMismatch EventKind = 1 + iota // Peer has other voters, lease, groups or mode; once until it is right
	TooManyPeers                        // Peer is the 65th candidate that this voter hears of; its requests are refused
	VersionRefused                      // Peer refuses this node because its stored spec is older than Version
	HandOverAsked                       // Peer asked this active node to hand over Group
)

// Event is something an operator may want to know.
type Event struct {
	Kind    EventKind
	Peer    string
	Group   string
	Version Version
}

// Forever is a time that does not come.
const Forever = time.Duration(math.MaxInt64)

// broken switches single rules off, so that the simulator can show that it notices.
type broken struct {
	countFromReceipt, noSilence, noDrift, replay, anyRelease, halfQuorum, inherit, ignoreVersion, claimHeld bool
}

// Core is the election of one node. Methods that take a group panic if it is not one of [Config.Groups]. Times are on
// the caller's clock; one that is before that of an earlier call counts as that.
type Core struct {
	cfg                        Config
	voters, candidates, groups []string // sorted
	hash                       uint64
	quorum                     int
	self                       int // index in voters, -1: no voter
	now                        time.Duration
	seq                        uint64
	random                     uint64
	jitter, phase              time.Duration // of campaigns, of probes
	stored, acked              Version
	seen                       []uint64 // by group: largest epoch granted, as a voter
	known                      []uint64 // by group: largest epoch heard of, as a candidate
	broken                     broken

	// As a voter.
	silentUntil time.Duration // 0: passed
	peers       []peer
	full        string // last name that found no place in peers
	grants      []grant

	// As a candidate.
	links   []link      // by voter
	runs    []candidacy // by group
	roundAt time.Duration
	round   time.Duration // when the last renewal of all active groups was sent
	againAt time.Duration // when those who have not answered it are asked again
	// noPreempt: see HoldPreempt.
	noPreempt bool
	contests  []contest // PriorityMode, by group

	// Collected during one call.
	out     Output
	asks    [][]Entry // by voter
	pending bool
	notes   []note
	strange []string // peers whose configuration differs
}

type note struct {
	to    string
	entry Entry
}

// New starts the election of one node at time now, on the clock that all later calls use: a monotonic one that is not
// negative and goes on while the machine sleeps, such as CLOCK_BOOTTIME. The error names the field
// of cfg and its bound.
func New(cfg Config, now time.Duration) (*Core, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if now < 0 {
		return nil, fmt.Errorf("election: now (%v) must not be negative", now)
	}
	c := &Core{
		cfg:        cfg,
		voters:     slices.Sorted(slices.Values(cfg.Voters)),
		candidates: slices.Sorted(slices.Values(cfg.Candidates)),
		groups:     slices.Sorted(slices.Values(cfg.Groups)),
		hash:       cfg.hash(),
		self:       -1,
		now:        now,
		random:     cfg.Seed ^ cfg.Incarnation,
		seen:       make([]uint64, len(cfg.Groups)),
		known:      make([]uint64, len(cfg.Groups)),
		grants:     make([]grant, len(cfg.Groups)),
		links:      make([]link, len(cfg.Voters)),
		runs:       make([]candidacy, len(cfg.Groups)),
		asks:       make([][]Entry, len(cfg.Voters)),
		roundAt:    Forever,
		againAt:    Forever,
	}
	c.quorum = len(c.voters)/2 + 1
	c.jitter, c.phase = c.rand(cfg.Lease/200), c.rand(cfg.Lease/2)
	if i, ok := slices.BinarySearch(c.voters, cfg.Self); ok {
		c.self = i
		c.silentUntil = now + cfg.Lease
	}
	for g := range c.seen {
		c.seen[g], c.known[g] = cfg.Epoch, cfg.Epoch
		c.grants[g] = grant{holder: -1, successor: -1}
		c.runs[g] = candidacy{votes: make([]vote, len(c.voters)), tryAt: Forever, probeAt: Forever, why: "not yet said to be eligible"}
	}
	for _, name := range c.candidates {
		c.peers = append(c.peers, peer{name: name, seqs: make([]uint64, len(c.groups))})
	}
	if cfg.Mode == PriorityMode {
		c.contests = make([]contest, len(c.groups))
		for g := range c.contests {
			c.contests[g] = contest{heard: -1, takeAt: Forever, sendAt: Forever}
		}
	}
	return c, nil
}

// Receive handles m, which the transport got from the node called from.
func (c *Core) Receive(now time.Duration, from string, m Message) Output {
	c.begin(now)
	c.receive(from, &m)
	return c.finish()
}

// HoldPreempt keeps this node from asking a lower one to hand over for as long as on is set, however long it is well.
func (c *Core) HoldPreempt(now time.Duration, on bool) Output {
	c.begin(now)
	c.noPreempt = on
	return c.finish()
}

// Tick does what has become due. It has to be called at [Core.Next] or soon after; to call it more often is harmless.
func (c *Core) Tick(now time.Duration) Output {
	c.begin(now)
	return c.finish()
}

// begin sets the clock, which does not go back, and does what is due: a lease that ended while the process was
// stopped ends before a message that waited meanwhile is looked at.
func (c *Core) begin(now time.Duration) {
	c.now = max(c.now, now)
	c.out = Output{}
	if c.cfg.Mode == PriorityMode {
		c.tickContests()
		return
	}
	if c.self >= 0 {
		c.tickVoter()
	}
	if c.cfg.Candidate {
		c.tickCandidate()
	}
}

// finish delivers what the node says to itself, packs up the rest and returns it.
func (c *Core) finish() Output {
	for {
		if c.cfg.Candidate && c.cfg.Mode == LeaseMode && c.nextCandidate() <= c.now {
			c.tickCandidate() // a message may have made something due
		}
		if !c.pending && len(c.notes) == 0 {
			break
		}
		c.pending = false
		for v := range c.voters {
			entries := c.asks[v]
			if len(entries) == 0 {
				continue
			}
			l := &c.links[v]
			if v == c.self { // its handling may queue more, for itself too
				c.asks[v] = nil
			} else {
				c.asks[v] = c.asks[v][:0]
			}
			for len(entries) > 0 {
				n := fit(entries)
				m := c.message(Ask, slices.Clone(entries[:n]))
				m.To, m.Session, m.Sent = l.inc, l.session, c.now
				entries = entries[n:]
				if v == c.self {
					c.receive(c.cfg.Self, &m)
				} else {
					c.out.Send = append(c.out.Send, Envelope{c.voters[v], m})
				}
			}
		}
		c.packNotes()
	}
	for g := range c.runs {
		if r := &c.runs[g]; r.phase == active && r.deadline > r.told {
			r.told = r.deadline
			c.out.Extended = append(c.out.Extended, Extension{c.groups[g], r.deadline})
		}
	}
	out := c.out
	c.out = Output{}
	return out
}

// packNotes makes one message for each receiver, more if they do not fit.
func (c *Core) packNotes() {
	for len(c.notes) > 0 {
		to := c.notes[0].to
		var entries []Entry
		rest := c.notes[:0]
		for _, n := range c.notes {
			if n.to == to {
				entries = append(entries, n.entry)
			} else {
				rest = append(rest, n)
			}
		}
		c.notes = rest
		for len(entries) > 0 {
			n := fit(entries)
			class := Note
			if c.cfg.Mode == PriorityMode {
				class = Advert
			}
			m := c.message(class, entries[:n:n])
			m.Sent = c.now
			if p := c.findPeer(to); p >= 0 {
				m.To = c.peers[p].inc
			}
			entries = entries[n:]
			if to != c.cfg.Self {
				c.out.Send = append(c.out.Send, Envelope{to, m})
			} else {
				c.receive(to, &m)
			}
		}
	}
}

// fit returns how many of the entries go into one message.
func fit(entries []Entry) int {
	size := headSize
	for i, e := range entries {
		if size += e.size(); size > MaxMessage || i == MaxGroups {
			return i
		}
	}
	return len(entries)
}

func (c *Core) message(class Class, entries []Entry) Message {
	c.seq++
	return Message{Class: class, Hash: c.hash, Inc: c.cfg.Incarnation, Seq: c.seq, Stored: c.stored, Acked: c.acked,
		Priority: c.cfg.Priority, Entries: entries}
}

func (c *Core) receive(from string, m *Message) {
	if m.Inc == 0 || (from == c.cfg.Self) != (m.Inc == c.cfg.Incarnation) {
		return // not from a node that runs this; or an own packet that came back
	}
	if m.Hash != c.hash {
		c.mismatch(from, m)
		return
	}
	if i := slices.Index(c.strange, from); i >= 0 {
		c.strange = slices.Delete(c.strange, i, i+1)
	}
	if c.cfg.Mode == PriorityMode {
		if m.Class == Advert {
			c.hear(from, m)
		}
		return
	}
	switch m.Class {
	case Ask:
		c.handleAsk(from, m)
	case Answer:
		c.handleAnswer(from, m)
	case Note:
		c.handleNote(from, m)
	case Advert: // of PriorityMode, whose hash differs
	}
}

// mismatch reports a node that has another configuration, and lets it know.
func (c *Core) mismatch(from string, m *Message) {
	if !slices.Contains(c.strange, from) {
		if len(c.strange) >= MaxCandidates {
			c.strange = c.strange[1:]
		}
		c.strange = append(c.strange, from)
		c.out.Events = append(c.out.Events, Event{Kind: ConfigMismatch, Peer: from})
	}
	if m.Class == Ask && c.self >= 0 {
		a := c.message(Answer, nil)
		a.To, a.Seq, a.Sent = m.Inc, m.Seq, m.Sent
		c.out.Send = append(c.out.Send, Envelope{from, a})
	}
	v, ok := slices.BinarySearch(c.voters, from)
	if !ok || m.Class != Answer || m.To != c.cfg.Incarnation || m.Seq <= c.links[v].answered || m.Seq > c.seq {
		return
	}
	c.links[v].answered = m.Seq
	for g := range c.runs {
		if w := &c.runs[g].votes[v]; w.state != granted { // a grant that still runs was honest
			w.state, w.reason, w.name, w.left = refused, OtherConfig, "", 0
		}
	}
}

// ask queues an entry for a voter. The newest for a group replaces one that has not been sent.
func (c *Core) ask(v int, e Entry) {
	c.pending = true
	for i := range c.asks[v] {
		if c.asks[v][i].Group == e.Group {
			c.asks[v][i] = e
			return
		}
	}
	c.asks[v] = append(c.asks[v], e)
}

// rand returns a number in [0, n), the same one for the same seed and history (splitmix64).
func (c *Core) rand(n time.Duration) time.Duration {
	if n <= 0 {
		return 0
	}
	c.random += 0x9e3779b97f4a7c15
	z := c.random
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return time.Duration((z ^ z>>31) % uint64(n))
}

// group returns the index of a group; an unknown one is a mistake of the caller.
func (c *Core) group(name string) int {
	g, ok := slices.BinarySearch(c.groups, name)
	if !ok {
		panic(fmt.Sprintf("election: unknown group %q", name))
	}
	return g
}

// Next returns when Tick has to be called at the latest. Every call of another method may change it.
func (c *Core) Next() time.Duration {
	if c.cfg.Mode == PriorityMode {
		return c.nextContests()
	}
	next := Forever
	if c.self >= 0 {
		next = c.nextVoter()
	}
	if c.cfg.Candidate {
		next = min(next, c.nextCandidate())
	}
	return next
}
