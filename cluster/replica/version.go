package replica

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// maxNumber bounds epochs and indexes: JSON's numbers are exact up to here (RFC 8259 section 6).
const maxNumber = 1<<53 - 1

// Version is the place of a change in the order of all changes. The zero Version is before all of them.
type Version struct {
	Epoch uint64 // of the activation of the director that ordered it
	Index uint64 // one more than that of the change before
}

// Compare orders versions: first by epoch, then by index.
func (v Version) Compare(o Version) int {
	if c := cmp.Compare(v.Epoch, o.Epoch); c != 0 {
		return c
	}
	return cmp.Compare(v.Index, o.Index)
}

// Less reports whether v is before o.
func (v Version) Less(o Version) bool { return v.Compare(o) < 0 }

// IsZero reports whether v stands for no version.
func (v Version) IsZero() bool { return v == Version{} }

// String returns EPOCH.INDEX.
func (v Version) String() string {
	return strconv.FormatUint(v.Epoch, 10) + "." + strconv.FormatUint(v.Index, 10)
}

// ParseVersion reads what String writes, and nothing else.
func ParseVersion(s string) (Version, error) {
	bad := func(why string) (Version, error) {
		if len(s) > 48 {
			s = s[:48] + "..."
		}
		return Version{}, fmt.Errorf("version %q %s", s, why)
	}
	epoch, index, ok := strings.Cut(s, ".")
	if !ok {
		return bad("must be EPOCH.INDEX, for instance 3.17")
	}
	var v Version
	for _, part := range []struct {
		text string
		to   *uint64
	}{{epoch, &v.Epoch}, {index, &v.Index}} {
		n, err := strconv.ParseUint(part.text, 10, 64)
		if err != nil && len(part.text) <= 15 || err == nil && strconv.FormatUint(n, 10) != part.text {
			return bad("must be EPOCH.INDEX, for instance 3.17")
		}
		if err != nil || n > maxNumber {
			return bad(fmt.Sprintf("must have numbers from 0 to %d", uint64(maxNumber)))
		}
		*part.to = n
	}
	return v, nil
}

// MarshalText returns EPOCH.INDEX.
func (v Version) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads EPOCH.INDEX.
func (v *Version) UnmarshalText(b []byte) (err error) {
	*v, err = ParseVersion(string(b))
	return err
}

// versionLen is the length of an encoded version: epoch and index, 8 bytes each, big endian.
const versionLen = 16

func appendVersion(b []byte, v Version) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, v.Epoch), v.Index)
}
