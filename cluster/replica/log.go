package replica

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// Bounds of a log.
const (
	MaxHistory      = 50
	MaxHistoryBytes = 64 << 20
)

var (
	// ErrConflict says that another version is in force than the one a change was made for.
	ErrConflict = errors.New("the specification was changed meanwhile")

	// ErrDeposed says that a director with a higher epoch has taken over.
	ErrDeposed = errors.New("a director with a higher epoch has taken over")

	// ErrDiverged says that another change has the same version.
	ErrDiverged = errors.New("another change has the same version")

	// ErrBehind says that a newer acknowledged change is known than the newest one that is stored.
	ErrBehind = errors.New("an acknowledged change is missing here")

	// ErrUnknown says that a version is not in the history.
	ErrUnknown = errors.New("not in the history")
)

// item is a change in a log, with its name computed once.
type item struct {
	ref   Ref
	entry Entry
}

// Log is the order of changes as one director knows it. It is a value: its methods return changed copies.
// The zero Log is empty.
type Log struct {
	items []item // newest first, Change is unique; never modified in place
	acked Version
	seen  uint64 // highest epoch told to Seen
}

// keep sorts refs, newest first, and cuts off what a log does not hold. Of changes that restate the same one
// only the newest stays. What is cut off a set is cut off every larger set, so that merges commute.
func keep[T any](all []T, ref func(T) Ref) []T {
	slices.SortFunc(all, func(a, b T) int { return ref(b).compare(ref(a)) })
	out := all[:0]
	size := 0
	for _, it := range all {
		r := ref(it)
		if slices.ContainsFunc(out, func(o T) bool { return ref(o).Change == r.Change }) {
			continue
		}
		// Whether one stays must depend on newer ones only: with its own size in the sum, one that is cut
		// off would make room for older ones in the next merge.
		if len(out) == MaxHistory || size > MaxHistoryBytes-MaxContent {
			break
		}
		size += r.Size
		out = append(out, it)
	}
	clear(all[len(out):])
	return out
}

func (l Log) with(more ...item) Log {
	all := make([]item, 0, len(l.items)+len(more))
	all = append(append(all, l.items...), more...)
	l.items = keep(all, func(it item) Ref { return it.ref })
	return l
}

// Len returns the number of changes in the history.
func (l Log) Len() int { return len(l.items) }

// Head returns the newest change, which is the one in force.
func (l Log) Head() (Entry, bool) {
	if len(l.items) == 0 {
		return Entry{}, false
	}
	return l.items[0].entry, true
}

// Version returns the version of the newest change, zero if there is none.
func (l Log) Version() Version {
	e, _ := l.Head()
	return e.Version
}

// Acked returns the newest version that is known to be acknowledged. It is newer than Version if this
// director is behind.
func (l Log) Acked() Version { return l.acked }

// Epoch returns the highest epoch that is known. An activation must have a higher one, also after all
// directors were down.
func (l Log) Epoch() uint64 { return max(l.Version().Epoch, l.acked.Epoch, l.seen) }

// Seen notes that a director is active in epoch: Append refuses what older ones ordered.
func (l Log) Seen(epoch uint64) Log {
	if epoch <= maxNumber {
		l.seen = max(l.seen, epoch)
	}
	return l
}

// Acknowledge notes that v, with all before it, is acknowledged.
func (l Log) Acknowledge(v Version) Log {
	if l.acked.Less(v) {
		l.acked = v
	}
	return l
}

// mayOrder says why a director active in epoch cannot order a change.
func (l Log) mayOrder(epoch uint64) error {
	switch {
	case epoch < 1 || epoch > maxNumber:
		return fmt.Errorf("epoch %d must be from 1 to %d", epoch, uint64(maxNumber))
	case epoch < l.Epoch():
		return fmt.Errorf("epoch %d cannot order a change, epoch %d is known: %w", epoch, l.Epoch(), ErrDeposed)
	case l.Version().Less(l.acked):
		return fmt.Errorf("version %v is acknowledged, the newest one here is %v: %w", l.acked, l.Version(), ErrBehind)
	}
	return nil
}

// CheckBase returns an error that wraps ErrConflict unless base is zero or the version in force.
func (l Log) CheckBase(base Version) error {
	if base.IsZero() {
		return nil
	}
	head, ok := l.Head()
	if !ok {
		return fmt.Errorf("version %v is not in force, there is none yet: %w", base, ErrConflict)
	}
	if base != head.Version && base != head.Change {
		return fmt.Errorf("version %v is not in force, %v is, by %q at %s (%s): %w", base, head.Version, head.Who,
			head.Time().UTC().Format("2006-01-02 15:04:05Z"), head.What, ErrConflict)
	}
	return nil
}

// Propose orders content as the newest change, on behalf of the director that is active in epoch. Unless
// base is zero, it must be the version in force, or the error wraps ErrConflict.
func (l Log) Propose(epoch uint64, base Version, content []byte, m Meta) (Log, Entry, error) {
	if err := l.mayOrder(epoch); err != nil {
		return l, Entry{}, err
	}
	if err := l.CheckBase(base); err != nil {
		return l, Entry{}, err
	}
	when, err := nanoseconds(m.When)
	if err != nil {
		return l, Entry{}, err
	}
	head, _ := l.Head()
	v := Version{Epoch: epoch, Index: head.Version.Index + 1}
	e := Entry{Version: v, Change: v, Parent: head.Change, When: when, Who: m.Who, What: m.What, Node: m.Node}
	if len(content) <= MaxContent {
		e.Content = append([]byte{}, content...)
		e.Hash = sha256.Sum256(e.Content)
	} else {
		e.Content = content // refused below
	}
	if err := e.checkTexts(); err != nil {
		return l, Entry{}, err
	}
	if err := e.check(); err != nil {
		return l, Entry{}, err
	}
	return l.with(item{e.Ref(), e}), e, nil
}

// Restate orders the newest change again under epoch, with its index. It returns false, and changes nothing,
// if the log is empty or already ends in that epoch.
func (l Log) Restate(epoch uint64) (Log, Entry, bool, error) {
	head, ok := l.Head()
	if !ok || head.Version.Epoch == epoch {
		return l, Entry{}, false, nil
	}
	if err := l.mayOrder(epoch); err != nil {
		return l, Entry{}, false, err
	}
	head.Version.Epoch = epoch
	return l.with(item{head.Ref(), head}), head, true, nil
}

// Rollback orders the content of an earlier version as a new change.
func (l Log) Rollback(epoch uint64, base, to Version, m Meta) (Log, Entry, error) {
	old, err := l.Get(to)
	if err != nil {
		return l, Entry{}, err
	}
	return l.Propose(epoch, base, old.Content, rollbackMeta(to, m))
}

func rollbackMeta(to Version, m Meta) Meta {
	if m.What == "" {
		m.What = "rollback to " + to.String()
	}
	return m
}

// Append takes a change that another director ordered. It returns false, and changes nothing, for one that
// is here already or on which the newest one here was built. An error says that it is not taken.
func (l Log) Append(e Entry) (Log, bool, error) {
	if err := e.check(); err != nil {
		return l, false, err
	}
	it := item{e.Ref(), e}
	head := l.Version()
	switch {
	case e.Version.Epoch < max(head.Epoch, l.seen):
		return l, false, fmt.Errorf("version %v is refused, epoch %d is known: %w", e.Version, max(head.Epoch, l.seen), ErrDeposed)
	case head.Less(e.Version):
		return l.with(it), true, nil
	}
	for _, have := range l.items {
		if have.ref.Version != e.Version {
			continue
		}
		if have.ref.ID != it.ref.ID {
			return l, false, fmt.Errorf("version %v by %q is refused, it is here by %q: %w", e.Version, e.Node, have.entry.Node, ErrDiverged)
		}
		return l, false, nil
	}
	// The same director ordered something newer, which is here and was built on this one.
	return l, false, nil
}

// Merge returns everything that l and o know. It is commutative, associative and idempotent, but for what
// was told to Seen, of which the higher stays.
func (l Log) Merge(o Log) Log {
	m := l.with(o.items...).Acknowledge(o.acked)
	return m.Seen(o.seen)
}

// Since returns the changes that are newer than v, oldest first.
func (l Log) Since(v Version) []Entry {
	var out []Entry
	for _, it := range slices.Backward(l.items) {
		if v.Less(it.ref.Version) {
			out = append(out, it.entry)
		}
	}
	return out
}

// List returns the history, newest first.
func (l Log) List() []Entry {
	out := make([]Entry, len(l.items))
	for i, it := range l.items {
		out[i] = it.entry
	}
	return out
}

// Get returns the change with version v, or that was first ordered as v.
func (l Log) Get(v Version) (Entry, error) {
	for _, it := range l.items {
		if it.ref.Version == v || it.ref.Change == v {
			return it.entry, nil
		}
	}
	return Entry{}, fmt.Errorf("version %v is %w (%d changes, the oldest is %v)", v, ErrUnknown, len(l.items), l.oldest())
}

func (l Log) oldest() Version {
	if len(l.items) == 0 {
		return Version{}
	}
	return l.items[len(l.items)-1].ref.Version
}

// Abandoned returns the versions in the history that no later change was built on: a director ordered them
// when it was about to lose its lease, and they were not acknowledged.
func (l Log) Abandoned() []Version {
	var out []Version
	for at := 0; at < len(l.items); {
		parent := l.items[at].entry.Parent
		next := slices.IndexFunc(l.items, func(it item) bool { return it.ref.Change == parent })
		if next <= at {
			break
		}
		for _, it := range l.items[at+1 : next] {
			out = append(out, it.ref.Version)
		}
		at = next
	}
	return out
}

// Digest says what a log holds.
type Digest struct {
	Head  Version
	Acked Version
	Hash  [sha256.Size]byte // over the IDs in Refs; equal for equal histories
	Refs  []Ref             // newest first
}

// Digest returns what l holds, to be compared with a peer's.
func (l Log) Digest() Digest {
	d := Digest{Head: l.Version(), Acked: l.acked, Refs: make([]Ref, len(l.items))}
	for i, it := range l.items {
		d.Refs[i] = it.ref
	}
	d.Hash = hashRefs(d.Refs)
	return d
}

func hashRefs(refs []Ref) [sha256.Size]byte {
	var b bytes.Buffer
	for _, r := range refs {
		b.Write(r.ID[:])
	}
	return sha256.Sum256(b.Bytes())
}

// Missing returns what a peer with digest d holds and l would keep, newest first.
func (l Log) Missing(d Digest) []Ref {
	have := l.Digest().Refs
	var out []Ref
	for _, r := range keep(append(slices.Clone(have), d.Refs...), func(r Ref) Ref { return r }) {
		if !slices.Contains(have, r) {
			out = append(out, r)
		}
	}
	return out
}
