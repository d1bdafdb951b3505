package election

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// MaxMessage is the largest encoded message in bytes; it goes into one packet of the gossip (1,400).
const MaxMessage = 1300

// Version orders the changes of the spec.
type Version struct{ Epoch, Index uint64 }

// Less reports whether v is older than w.
func (v Version) Less(w Version) bool {
	return v.Epoch < w.Epoch || v.Epoch == w.Epoch && v.Index < w.Index
}

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Epoch, v.Index) }

// Class is the direction of a message.
type Class uint8

const (
	Ask    Class = 1 + iota // candidate to voter
	Answer                  // voter to candidate; Seq and Sent are those of the Ask
	Note                    // unasked: voter to candidate (Freed), candidate to candidate (HandOver)
	Advert                  // candidate to candidate, PriorityMode
)

// Kind is what an entry says.
type Kind uint8

const (
	Request  Kind = 1 + iota // Ask: grant me the group
	Probe                    // Ask: would you?
	Release                  // Ask: my grant is free, Name is the preferred successor or empty
	Granted                  // Answer to Request
	Free                     // Answer to Probe
	Refused                  // Answer to Request and Probe
	Released                 // Answer to Release
	Freed                    // Note: the group may be had. Name is the preferred successor or empty
	HandOver                 // Note, Advert: hand the group over to me
	Alive                    // Advert: I am active
	Resigned                 // Advert: I am active no more, Name is the preferred successor or empty
)

// Flags of an entry.
const (
	FlagActive uint8 = 1 << iota // Request: the sender is active in this epoch
	FlagHeld                     // Request: the sender holds an unexpired grant of this voter, perhaps of a former life
	FlagForce                    // Request: regardless of the version; HandOver: regardless of priority

	flagsKnown = FlagActive | FlagHeld | FlagForce
)

// Reason says why a voter refuses.
type Reason uint8

const (
	NoReason        Reason = iota
	HeldByOther            // Name holds it, for Left at the longest
	Reserved               // kept for the successor Name, for Left
	Silent                 // the voter has just started
	OldEpoch               // the epoch is not above Epoch
	OldVersion             // the candidate lacks an acknowledged change
	NewSession             // the voter does not know this incarnation; ask again with the session of this answer
	OtherConfig            // voters, lease, groups or mode differ
	reasonsAreBelow        // not a reason
)

func (r Reason) String() string {
	switch r {
	case NoReason:
		return "none"
	case HeldByOther:
		return "granted to another"
	case Reserved:
		return "reserved for a successor"
	case Silent:
		return "has just started"
	case OldEpoch:
		return "has granted a newer epoch"
	case OldVersion:
		return "knows of a newer acknowledged spec"
	case NewSession:
		return "new session"
	case OtherConfig:
		return "has other voters, lease, groups or mode"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Message is what nodes say to each other. The transport tells who sent it.
type Message struct {
	Class    Class
	Hash     uint64        // of the configuration
	Inc      uint64        // incarnation of the sender
	To       uint64        // incarnation of the receiver as the sender knows it, 0: unknown
	Session  uint64        // given by the voter
	Seq      uint64        // rises with every message of the sender; in an Answer that of the Ask
	Sent     time.Duration // sender's clock; in an Answer that of the Ask
	Stored   Version       // newest the sender has stored
	Acked    Version       // newest acknowledged one the sender knows of
	Priority uint8         // of the sender
	Entries  []Entry       // at most 64
}

// Entry is the part of a message that concerns one group.
type Entry struct {
	Kind     Kind
	Group    uint8 // index in the sorted groups, which Hash pins
	Reason   Reason
	Flags    uint8
	Priority uint8 // Refused: of the holder
	Epoch    uint64
	Left     time.Duration // Refused: how long at the longest; whole microseconds, 0..71m
	Name     string        // a node, at most 63 bytes
}

// Layout, big endian:
//
//	 0 format (1)   1 class     2 hash     10 inc      18 to       26 session
//	34 seq         42 sent     50 stored (epoch, index)            66 acked (epoch, index)
//	82 priority    83 number of entries   84 entries:
//	   0 kind  1 group  2 reason  3 flags  4 priority  5 epoch  13 left, microseconds  17 length of name  18 name
const (
	format    = 1
	headSize  = 84
	entrySize = 18 // without name
)

func (e Entry) size() int { return entrySize + len(e.Name) }

// MarshalBinary encodes m; it fails on what the decoder would refuse.
func (m Message) MarshalBinary() ([]byte, error) {
	b := make([]byte, 0, headSize+len(m.Entries)*(entrySize+8))
	b = append(b, format, byte(m.Class))
	for _, u := range [...]uint64{m.Hash, m.Inc, m.To, m.Session, m.Seq, uint64(m.Sent),
		m.Stored.Epoch, m.Stored.Index, m.Acked.Epoch, m.Acked.Index} {
		b = binary.BigEndian.AppendUint64(b, u)
	}
	b = append(b, m.Priority, byte(min(len(m.Entries), 255)))
	for _, e := range m.Entries {
		if len(e.Name) > MaxName {
			return nil, fmt.Errorf("election: name in a message has %d bytes, at most %d", len(e.Name), MaxName)
		}
		left := e.Left / time.Microsecond
		if left < 0 || left > 1<<32-1 {
			return nil, fmt.Errorf("election: time left in a message (%v) must be between 0 and %v", e.Left, (1<<32-1)*time.Microsecond)
		}
		b = append(b, byte(e.Kind), e.Group, byte(e.Reason), e.Flags, e.Priority)
		b = binary.BigEndian.AppendUint64(b, e.Epoch)
		b = binary.BigEndian.AppendUint32(b, uint32(left))
		b = append(b, byte(len(e.Name)))
		b = append(b, e.Name...)
	}
	var check Message
	if err := check.UnmarshalBinary(b); err != nil {
		return nil, err
	}
	return b, nil
}

var errShort = errors.New("election: message is cut short")

// UnmarshalBinary decodes b, which may come from anybody. What it accepts, MarshalBinary encodes to the same bytes.
func (m *Message) UnmarshalBinary(b []byte) error {
	if len(b) > MaxMessage {
		return fmt.Errorf("election: message has %d bytes, at most %d", len(b), MaxMessage)
	}
	if len(b) < headSize {
		return errShort
	}
	if b[0] != format {
		return fmt.Errorf("election: message has format %d, known is %d", b[0], format)
	}
	u := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	d := Message{
		Class: Class(b[1]), Hash: u(2), Inc: u(10), To: u(18), Session: u(26), Seq: u(34), Sent: time.Duration(u(42)),
		Stored: Version{u(50), u(58)}, Acked: Version{u(66), u(74)}, Priority: b[82],
	}
	if d.Class < Ask || d.Class > Advert {
		return fmt.Errorf("election: message has unknown class %d", d.Class)
	}
	if d.Inc == 0 {
		return errors.New("election: message has incarnation 0")
	}
	n := int(b[83])
	if n > MaxGroups {
		return fmt.Errorf("election: message has %d entries, at most %d", n, MaxGroups)
	}
	b = b[headSize:]
	if n > 0 {
		d.Entries = make([]Entry, 0, n)
	}
	for range n {
		if len(b) < entrySize {
			return errShort
		}
		e := Entry{Kind: Kind(b[0]), Group: b[1], Reason: Reason(b[2]), Flags: b[3], Priority: b[4],
			Epoch: binary.BigEndian.Uint64(b[5:]), Left: time.Duration(binary.BigEndian.Uint32(b[13:])) * time.Microsecond}
		name := int(b[17])
		switch {
		case !kindOf(d.Class, e.Kind):
			return fmt.Errorf("election: message of class %d has an entry of kind %d", d.Class, e.Kind)
		case e.Group >= MaxGroups:
			return fmt.Errorf("election: message names group %d, at most %d", e.Group, MaxGroups-1)
		case e.Reason >= reasonsAreBelow:
			return fmt.Errorf("election: message has unknown reason %d", e.Reason)
		case e.Flags&^flagsKnown != 0:
			return fmt.Errorf("election: message has unknown flags %#x", e.Flags)
		case name > MaxName:
			return fmt.Errorf("election: name in a message has %d bytes, at most %d", name, MaxName)
		case len(b) < entrySize+name:
			return errShort
		}
		e.Name = string(b[entrySize : entrySize+name])
		b = b[entrySize+name:]
		d.Entries = append(d.Entries, e)
	}
	if len(b) > 0 {
		return fmt.Errorf("election: message has %d bytes too many", len(b))
	}
	*m = d
	return nil
}

// kindOf reports whether messages of class c may say k.
func kindOf(c Class, k Kind) bool {
	switch c {
	case Ask:
		return k >= Request && k <= Release
	case Answer:
		return k >= Granted && k <= Released
	case Note:
		return k == Freed || k == HandOver
	case Advert:
		return k == Alive || k == Resigned || k == HandOver
	}
	return false
}
