package cluster

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Bounds of records.
const (
	MaxKey   = 128      // bytes of a record's key
	MaxValue = 64 << 10 // bytes of a record's value
	// MaxRecords bounds the records of one node, those counted that were removed within TombstoneLife.
	MaxRecords = 128

	maxRecordBytes = 12 << 20       // of all nodes; memberlist's exchange fails above 20 MiB
	tombstoneLife  = 24 * time.Hour // how long a removal is told to others

	// smallRecord is the largest encoded record that is gossiped; larger ones go to every member by stream. A
	// gossip packet of memberlist has 1,400 bytes, of which label and encryption take up to 300.
	smallRecord = 1000

	leavingKey = "_leaving" // value: the start (8 bytes) that is about to end
)

// Version orders the states of a record: by the epoch of its node's start, then by the counter within it.
type Version struct{ Epoch, Counter uint64 }

func (v Version) compare(o Version) int {
	return cmp.Or(cmp.Compare(v.Epoch, o.Epoch), cmp.Compare(v.Counter, o.Counter))
}

// Record is what a node published under a key.
type Record struct {
	Node    string
	Key     string
	Value   []byte // not to be changed
	Version Version
	State   State // of the node, as this one sees it
}

type recordID struct{ node, key string }

// entry is one state of a record. A removed one has an expiry instead of a value.
type entry struct {
	version Version
	removed bool
	expires int64 // Unix time in seconds
	value   []byte
}

// compare is a total order, so that any two nodes choose the same of two states.
func (e entry) compare(o entry) int {
	removed := func(e entry) int {
		if e.removed {
			return 1
		}
		return 0
	}
	return cmp.Or(e.version.compare(o.version), cmp.Compare(removed(e), removed(o)),
		cmp.Compare(e.expires, o.expires), bytes.Compare(e.value, o.value))
}

// recordSet is the replicated state. Its merge is commutative, associative and idempotent as long as no
// bound is reached.
type recordSet struct {
	m     map[recordID]entry
	count map[string]int // records of a node
	bytes int
}

var errFull = errors.New("no room for more records")

func newRecordSet() *recordSet {
	return &recordSet{m: make(map[recordID]entry), count: make(map[string]int)}
}

func (s *recordSet) cost(id recordID, e entry) int {
	return len(id.node) + len(id.key) + len(e.value) + 64
}

// merge takes a state in if it is newer than what is there, and reports whether it was.
func (s *recordSet) merge(id recordID, e entry, now time.Time) (bool, error) {
	if e.removed && e.expires <= now.Unix() {
		return false, nil
	}
	old, ok := s.m[id]
	if ok && e.compare(old) <= 0 {
		return false, nil
	}
	grow := s.cost(id, e)
	if ok {
		grow -= s.cost(id, old)
	} else if s.count[id.node] >= MaxRecords {
		return false, errFull
	}
	if grow > 0 && s.bytes+grow > maxRecordBytes {
		return false, errFull
	}
	if !ok {
		s.count[id.node]++
	}
	s.m[id] = e
	s.bytes += grow
	return true, nil
}

func (s *recordSet) delete(id recordID) {
	e, ok := s.m[id]
	if !ok {
		return
	}
	delete(s.m, id)
	s.bytes -= s.cost(id, e)
	if s.count[id.node]--; s.count[id.node] == 0 {
		delete(s.count, id.node)
	}
}

// expire drops removals that are old enough.
func (s *recordSet) expire(now time.Time) {
	for id, e := range s.m {
		if e.removed && e.expires <= now.Unix() {
			s.delete(id)
		}
	}
}

// forget drops everything of a node and returns the highest epoch it had.
func (s *recordSet) forget(node string) (epoch uint64) {
	for id, e := range s.m {
		if id.node == node {
			epoch = max(epoch, e.version.Epoch)
			s.delete(id)
		}
	}
	return epoch
}

func (s *recordSet) ids() []recordID {
	return slices.SortedFunc(maps.Keys(s.m), func(a, b recordID) int {
		return cmp.Or(strings.Compare(a.node, b.node), strings.Compare(a.key, b.key))
	})
}

// The encoded form is a format byte and items to the end:
//
//	1 | length 1, node | epoch 8 | seconds 4                          a node, and how long it has been away
//	2 | length 1, node | length 1, key | epoch 8 | counter 8 | length 4, value
//	3 | length 1, node | length 1, key | epoch 8 | counter 8 | expiry 8   a removed record
const (
	stateFormat = 1

	itemNode    = 1
	itemRecord  = 2
	itemRemoved = 3
)

// nodeInfo is what nodes tell each other about third ones beside records.
type nodeInfo struct {
	name  string
	epoch uint64        // the highest of which a message came, 0 if none
	away  time.Duration // since when it is not alive, in whole seconds; 0 if it is
}

type item struct {
	node  *nodeInfo // or:
	id    recordID
	entry entry
}

func appendName(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

func appendNode(b []byte, n nodeInfo) []byte {
	b = appendName(append(b, itemNode), n.name)
	b = binary.BigEndian.AppendUint64(b, n.epoch)
	return binary.BigEndian.AppendUint32(b, uint32(min(n.away/time.Second, 1<<32-1)))
}

func appendRecord(b []byte, id recordID, e entry) []byte {
	tag := byte(itemRecord)
	if e.removed {
		tag = itemRemoved
	}
	b = appendName(appendName(append(b, tag), id.node), id.key)
	b = binary.BigEndian.AppendUint64(b, e.version.Epoch)
	b = binary.BigEndian.AppendUint64(b, e.version.Counter)
	if e.removed {
		return binary.BigEndian.AppendUint64(b, uint64(e.expires))
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.value)))
	return append(b, e.value...)
}

// decodeState reads an encoded part of the replicated state, all of it or nothing. Values are copies.
func decodeState(b []byte) (items []item, err error) {
	r := reader{b: b}
	if f := r.byte(); r.err != nil || f != stateFormat {
		return nil, fmt.Errorf("state of unknown format %d", f)
	}
	for len(r.b) > 0 {
		tag := r.byte()
		name := string(r.take(int(r.byte())))
		if r.err == nil && !ValidName(name) {
			return nil, fmt.Errorf("state of node %q: must be %s", name, NameRule)
		}
		switch tag {
		case itemNode:
			items = append(items, item{node: &nodeInfo{name, r.uint64(), time.Duration(r.uint32()) * time.Second}})
		case itemRecord, itemRemoved:
			id := recordID{name, string(r.take(int(r.byte())))}
			e := entry{version: Version{r.uint64(), r.uint64()}, removed: tag == itemRemoved}
			if e.removed {
				e.expires = int64(r.uint64())
			} else {
				n := r.uint32()
				if n > MaxValue {
					return nil, fmt.Errorf("record %q of %s: %d bytes, at most %d", id.key, id.node, n, MaxValue)
				}
				e.value = bytes.Clone(r.take(int(n)))
			}
			if r.err == nil && !validKey(id.key) {
				return nil, fmt.Errorf("record %q of %s: key must be %s", id.key, id.node, keyRule)
			}
			items = append(items, item{id: id, entry: e})
		default:
			return nil, fmt.Errorf("state with unknown item %d", tag)
		}
		if r.err != nil {
			return nil, r.err
		}
	}
	return items, nil
}

const keyRule = "1 to 128 printable ASCII characters"

func validKey(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= MaxKey
}
