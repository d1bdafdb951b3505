package cluster

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
)

// State says whether a member is there.
type State uint8

const (
	Alive  State = iota + 1
	Left         // it said goodbye
	Failed       // it does not answer, or nothing is known of it but its records
)

func (s State) String() string {
	switch s {
	case Alive:
		return "alive"
	case Left:
		return "left"
	case Failed:
		return "failed"
	}
	return "state " + strconv.Itoa(int(s))
}

// Member is one node of the cluster, as this node sees it.
type Member struct {
	Name    string
	Role    Role
	Address netip.AddrPort
	State   State
	Since   time.Time // of State
	Version string    // of the product
	Meta    []byte    // not to be changed
	Start   uint64    // differs from start to start of the node; a later one is larger as long as its clock does not go back
}

// Conflict is a second node that has the name of a first one. The others go on with the first. All that exchange with
// the second learn of it, and the second itself; the first need not, as the second takes it for itself.
type Conflict struct {
	Name        string
	First       netip.AddrPort
	Second      netip.AddrPort
	Last        time.Time // when it was seen
	Times       int
	secondStart uint64
	// Muted is set in the second node itself: it sends nothing as long as the conflict stands.
	Muted bool
}

func (c *Conflict) String() string {
	return fmt.Sprintf("the name %q of %s is also that of %s", c.Name, c.First, c.Second)
}

const maxConflicts = 64 // that are remembered

// The metadata of memberlist are: format 1 | role 1 | start 8 | length 1, version | meta to the end.
const metaFormat = 1

type nodeMeta struct {
	role    Role
	start   uint64
	version string
	meta    []byte
}

func (m *nodeMeta) encode() []byte {
	b := binary.BigEndian.AppendUint64([]byte{metaFormat, byte(m.role)}, m.start)
	return append(appendName(b, m.version), m.meta...)
}

func decodeMeta(b []byte) (m nodeMeta, err error) {
	r := reader{b: b}
	if f := r.byte(); f != metaFormat {
		return m, fmt.Errorf("metadata of unknown format %d", f)
	}
	m.role, m.start = Role(r.byte()), r.uint64()
	m.version = string(r.take(int(r.byte())))
	m.meta = slices.Clone(r.b)
	switch {
	case r.err != nil:
		return nodeMeta{}, r.err
	case m.role < Director || m.role > Witness:
		return nodeMeta{}, fmt.Errorf("role (%d) must be %d to %d", m.role, Director, Witness)
	case len(m.version) > MaxVersion:
		return nodeMeta{}, fmt.Errorf("version: %d bytes, at most %d", len(m.version), MaxVersion)
	case len(m.meta) > MaxMeta:
		return nodeMeta{}, fmt.Errorf("meta: %d bytes, at most %d", len(m.meta), MaxMeta)
	}
	return m, nil
}

func addressOf(n *memberlist.Node) netip.AddrPort {
	a, _ := netip.AddrFromSlice(n.Addr)
	return netip.AddrPortFrom(a.Unmap(), n.Port)
}

// gossip is what memberlist calls. It holds its own lock while it does, so nothing here waits, or calls it.
type gossip struct{ n *Node }

var (
	_ memberlist.Delegate         = gossip{}
	_ memberlist.EventDelegate    = gossip{}
	_ memberlist.AliveDelegate    = gossip{}
	_ memberlist.ConflictDelegate = gossip{}
)

// NotifyAlive refuses nodes that are none of ours.
func (g gossip) NotifyAlive(p *memberlist.Node) error {
	if !ValidName(p.Name) {
		return fmt.Errorf("the name %q must be %s", p.Name, NameRule)
	}
	if !addressOf(p).IsValid() {
		return errors.New("it has no valid address")
	}
	_, err := decodeMeta(p.Meta)
	return err
}

func (g gossip) NotifyJoin(p *memberlist.Node)   { g.n.memberSeen(p, Alive) }
func (g gossip) NotifyUpdate(p *memberlist.Node) { g.n.memberSeen(p, Alive) }
func (g gossip) NotifyLeave(p *memberlist.Node)  { g.n.memberSeen(p, Failed) }

func (n *Node) memberSeen(p *memberlist.Node, state State) {
	if p.Name == n.opt.Name && state != Alive {
		return // memberlist tells the one that leaves, too
	}
	meta, err := decodeMeta(p.Meta)
	if err != nil {
		return
	}
	now := n.opt.now()
	m := Member{
		Name: p.Name, Role: meta.role, Address: addressOf(p), State: state, Since: now,
		Version: meta.version, Meta: meta.meta, Start: meta.start,
	}
	n.mu.Lock()
	old, known := n.members[m.Name]
	if known && (old.State == Alive) == (state == Alive) && old.Start == m.Start {
		m.Since = old.Since
	}
	n.members[m.Name] = &m
	if state == Alive {
		delete(n.gone, m.Name)
		delete(n.forgotten, m.Name)
	} else {
		n.gone[m.Name] = now
	}
	n.settleLocked(&m)
	n.countLocked()
	n.mu.Unlock()
	if !known || old.State != m.State || old.Start != m.Start {
		n.log.Info("member", "name", m.Name, "state", m.State.String(), "address", m.Address, "role", m.Role.String())
		n.onRecords.notify() // they tell the state of their node
	}
	n.onMembers.notify()
}

// settleLocked tells a member that left from one that failed.
func (n *Node) settleLocked(m *Member) {
	if m.State == Alive {
		return
	}
	m.State = Failed
	e := n.records.m[recordID{m.Name, leavingKey}]
	if !e.removed && len(e.value) == 8 && binary.BigEndian.Uint64(e.value) == m.Start {
		m.State = Left
	}
}

func (n *Node) countLocked() {
	var count [Failed + 1]int
	n.directors = 0
	for _, m := range n.members {
		count[m.State]++
		if m.State == Alive && m.Role == Director && m.Name != n.opt.Name {
			n.directors++
		}
	}
	n.alive.Store(int64(max(count[Alive], 1)))
	for s := Alive; s <= Failed; s++ {
		n.metrics.members.WithLabelValues(s.String()).Set(float64(count[s]))
	}
}

// Members lists the members, this node among them, and those that failed or left not too long ago, by name.
func (n *Node) Members() []Member {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Member, 0, len(n.members))
	for _, name := range slices.Sorted(maps.Keys(n.members)) {
		out = append(out, *n.members[name])
	}
	return out
}

// Member returns one of Members.
func (n *Node) Member(name string) (Member, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m, ok := n.members[name]
	if !ok {
		return Member{}, false
	}
	return *m, true
}

// WatchMembers gives a channel of capacity one that holds a value when Members or Conflicts may have changed,
// at first at once. The function ends it.
func (n *Node) WatchMembers() (<-chan struct{}, func()) { return n.onMembers.add() }

// NotifyConflict is called when a node comes with the name of another that is alive.
func (g gossip) NotifyConflict(existing, other *memberlist.Node) {
	n := g.n
	now := n.opt.now()
	meta, err := decodeMeta(other.Meta)
	if err != nil {
		return
	}
	first, second := addressOf(existing), addressOf(other)
	secondStart, muted := meta.start, false
	n.metrics.conflicts.Inc()
	n.mu.Lock()
	if existing.Name == n.opt.Name {
		// One of the two is this node, and who started later is the second.
		if meta.start < n.start || meta.start == n.start && second.Compare(first) < 0 {
			first, second, secondStart, muted = second, first, n.start, true
			n.mutedUntil = now.Add(4 * n.opt.Timing.ReconnectInterval) // join asks again before that
		}
	} else if m := n.members[existing.Name]; m == nil || m.State != Alive {
		n.mu.Unlock()
		return // a failed member that comes back from another address before memberlist lets it
	}
	c := n.conflicts[second]
	fresh := c == nil || c.secondStart != secondStart
	if fresh {
		if len(n.conflicts) >= maxConflicts {
			oldest := slices.MinFunc(slices.Collect(maps.Values(n.conflicts)), func(a, b *Conflict) int { return a.Last.Compare(b.Last) })
			delete(n.conflicts, oldest.Second)
		}
		c = &Conflict{}
		n.conflicts[second] = c
	}
	*c = Conflict{Name: existing.Name, First: first, Second: second, Last: now, Times: c.Times + 1, secondStart: secondStart, Muted: muted}
	n.mu.Unlock()
	if fresh {
		n.log.Error("two nodes have the same name", "name", existing.Name, "first", first, "second", second, "this_is_the_second", muted)
		n.onMembers.notify()
	}
}

// Conflicts lists the second nodes of a name that were seen lately, the newest first.
func (n *Node) Conflicts() []Conflict {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]Conflict, 0, len(n.conflicts))
	for _, c := range n.conflicts {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Conflict) int { return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Name, b.Name)) })
	return out
}

// muted says why this node must not send, if it is the second of its name.
func (n *Node) muted() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mutedLocked()
}

func (n *Node) mutedLocked() error {
	if n.opt.now().Before(n.mutedUntil) {
		for _, c := range n.conflicts {
			if c.Muted {
				return fmt.Errorf("%w: %s", ErrNameTaken, c)
			}
		}
		return ErrNameTaken
	}
	return nil
}

// forget drops members that are gone for long, and their records.
func (n *Node) forget() {
	now := n.opt.now()
	n.mu.Lock()
	names := slices.SortedFunc(maps.Keys(n.gone), func(a, b string) int { return n.gone[a].Compare(n.gone[b]) })
	changed := false
	for i, name := range names {
		if now.Sub(n.gone[name]) < n.opt.RememberFor && len(names)-i <= n.opt.Remember {
			break
		}
		// Others, whose clocks differ, may still tell of it for a while.
		n.forgotten[name] = forgotten{n.records.forget(name), now.Add(forgottenFor)}
		delete(n.gone, name)
		delete(n.members, name)
		delete(n.senders, name)
		changed = true
	}
	for name, f := range n.forgotten {
		if now.After(f.until) {
			delete(n.forgotten, name)
		}
	}
	for len(n.forgotten) > n.opt.Remember {
		for name := range n.forgotten {
			delete(n.forgotten, name)
			break
		}
	}
	for at, c := range n.conflicts {
		if now.Sub(c.Last) > max(10*n.opt.Timing.PushPullInterval, time.Minute) {
			delete(n.conflicts, at)
			changed = true
		}
	}
	n.records.expire(now)
	n.metrics.records.Set(float64(len(n.records.m)))
	n.countLocked()
	n.mu.Unlock()
	if changed {
		n.onMembers.notify()
		n.onRecords.notify()
	}
}
