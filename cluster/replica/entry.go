package replica

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of a change, bytes.
const (
	MaxContent = 8 << 20
	MaxWho     = 128
	MaxWhat    = 256
	MaxNode    = 128

	// MaxEntry bounds an encoded change.
	MaxEntry = MaxContent + headerLen + MaxWho + MaxWhat + MaxNode + sumLen
)

// Meta says where a change comes from.
type Meta struct {
	Who  string    // free text
	What string    // summary
	When time.Time // kept in nanoseconds
	Node string    // the director that orders it
}

// Entry is a change. Its content must not be modified.
type Entry struct {
	Version Version
	Change  Version // under which it was first ordered; differs from Version after a restatement
	Parent  Version // Change of the entry on which it was built; zero for the first
	Hash    [sha256.Size]byte
	When    int64 // nanoseconds since 1970
	Who     string
	What    string
	Node    string // the director that ordered it as Change
	Content []byte
}

// Layout of an encoded change, numbers big endian. In every format the first 5 bytes and the checksum at the
// end are as here, so that damage is told from a format to come.
//
//	 0  4  magic "DRVc"
//	 4  1  format, 1
//	 5 16  version
//	21 16  change
//	37 16  parent
//	53 32  SHA-256 of the content
//	85  8  when
//	93  1  length of who
//	94  2  length of what
//	96  1  length of node
//	97  4  length of the content
//	101    who, what, node, content
//	 n  4  CRC-32C of everything before
const (
	magic     = "DRVc"
	format    = 1
	headerLen = 101
	sumLen    = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errFormat says that the bytes come from a later version of this program.
var errFormat = errors.New("unknown format")

func (e Entry) appendHeader(b []byte) []byte {
	b = append(append(b, magic...), format)
	for _, v := range []Version{e.Version, e.Change, e.Parent} {
		b = appendVersion(b, v)
	}
	b = append(b, e.Hash[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.When))
	b = append(b, byte(len(e.Who)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(e.What)))
	b = append(b, byte(len(e.Node)))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Content)))
	return append(append(append(b, e.Who...), e.What...), e.Node...)
}

// AppendBinary appends the encoded change to b.
func (e Entry) AppendBinary(b []byte) ([]byte, error) {
	if err := e.check(); err != nil {
		return b, err
	}
	start := len(b)
	b = append(e.appendHeader(b), e.Content...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli)), nil
}

// MarshalBinary encodes the change; see the layout above.
func (e Entry) MarshalBinary() ([]byte, error) {
	return e.AppendBinary(make([]byte, 0, headerLen+len(e.Who)+len(e.What)+len(e.Node)+len(e.Content)+sumLen))
}

// UnmarshalBinary decodes what MarshalBinary made, and nothing else. The content is a copy.
func (e *Entry) UnmarshalBinary(b []byte) error {
	switch {
	case len(b) < headerLen+sumLen:
		return fmt.Errorf("a change has %d bytes, at least %d are needed", len(b), headerLen+sumLen)
	case string(b[:4]) != magic:
		return errors.New("these bytes are no change")
	case len(b) > MaxEntry:
		return fmt.Errorf("a change has %d bytes, at most %d are allowed", len(b), MaxEntry)
	}
	body := b[:len(b)-sumLen]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[len(body):]) {
		return errors.New("wrong checksum of a change")
	}
	if b[4] != format {
		return fmt.Errorf("%w %d of a change, this program knows format %d", errFormat, b[4], format)
	}
	number := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	out := Entry{
		Version: Version{number(5), number(13)},
		Change:  Version{number(21), number(29)},
		Parent:  Version{number(37), number(45)},
		Hash:    [sha256.Size]byte(b[53:85]),
		When:    int64(number(85)),
	}
	who, what, node := int(b[93]), int(binary.BigEndian.Uint16(b[94:])), int(b[96])
	content := uint64(binary.BigEndian.Uint32(b[97:]))
	rest := body[headerLen:]
	if uint64(who+what+node)+content != uint64(len(rest)) {
		return errors.New("the lengths in a change do not add up")
	}
	out.Who, rest = string(rest[:who]), rest[who:]
	out.What, rest = string(rest[:what]), rest[what:]
	out.Node, rest = string(rest[:node]), rest[node:]
	out.Content = bytes.Clone(rest)
	if out.Content == nil {
		out.Content = []byte{}
	}
	if err := out.check(); err != nil {
		return err
	}
	*e = out
	return nil
}

// check refuses what no director can have ordered.
func (e Entry) check() error {
	v, c, p := e.Version, e.Change, e.Parent
	switch {
	case v.Epoch < 1 || v.Epoch > maxNumber || v.Index < 1 || v.Index > maxNumber:
		return fmt.Errorf("version %v must have numbers from 1 to %d", v, uint64(maxNumber))
	case c.Epoch < 1 || c.Epoch > v.Epoch || c.Index != v.Index:
		return fmt.Errorf("version %v cannot restate %v", v, c)
	case p.IsZero() && c.Index != 1 || !p.IsZero() && (p.Epoch < 1 || p.Epoch > c.Epoch || p.Index != c.Index-1 || p.Index < 1):
		return fmt.Errorf("version %v cannot follow %v", c, p)
	}
	if err := e.checkTexts(); err != nil {
		return err
	}
	if sha256.Sum256(e.Content) != e.Hash {
		return fmt.Errorf("version %v: the content has another hash", v)
	}
	return nil
}

func (e Entry) checkTexts() error {
	for _, f := range []struct {
		name, text string
		max        int
	}{{"who", e.Who, MaxWho}, {"what", e.What, MaxWhat}, {"node", e.Node, MaxNode}} {
		if len(f.text) > f.max {
			return fmt.Errorf("%s has %d bytes, at most %d are allowed", f.name, len(f.text), f.max)
		}
		if !utf8.ValidString(f.text) {
			return fmt.Errorf("%s %q is not valid UTF-8", f.name, f.text)
		}
		for _, r := range f.text {
			if unicode.IsControl(r) {
				return fmt.Errorf("%s %q has a control character", f.name, f.text)
			}
		}
	}
	if len(e.Content) > MaxContent {
		return fmt.Errorf("the content has %d bytes, at most %d are allowed", len(e.Content), MaxContent)
	}
	return nil
}

// Time returns when the change was made.
func (e Entry) Time() time.Time { return time.Unix(0, e.When) }

// Ref names a change without its content.
type Ref struct {
	Version, Change Version
	ID              [sha256.Size]byte // of everything in it
	Size            int               // of the content, bytes
}

// Ref returns the name of e.
func (e Entry) Ref() Ref {
	return Ref{Version: e.Version, Change: e.Change, ID: sha256.Sum256(e.appendHeader(nil)), Size: len(e.Content)}
}

// compare orders changes. Two different ones have the same version only if two directors were active in the
// same epoch; the ID makes the order total even then.
func (r Ref) compare(o Ref) int {
	return cmp.Or(r.Version.Compare(o.Version), bytes.Compare(r.ID[:], o.ID[:]))
}

func nanoseconds(t time.Time) (int64, error) {
	if y := t.Year(); y < 1970 || y > 2261 {
		return 0, fmt.Errorf("the time of a change (year %d) must be from 1970 to 2261", y)
	}
	return min(t.UnixNano(), math.MaxInt64), nil
}
