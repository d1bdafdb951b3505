package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Bounds of what is decoded, bytes.
const (
	// MaxSnapshot bounds an encoded log.
	MaxSnapshot = snapshotHeader + MaxHistory*(4+MaxEntry-MaxContent) + MaxHistoryBytes + sumLen

	refLen         = 2*versionLen + sha256.Size + 4
	snapshotHeader = 4 + 1 + versionLen + 1
	maxDigest      = versionLen + 1 + MaxHistory*refLen
)

const snapshotMagic = "DRVs"

// MarshalBinary encodes the log: magic "DRVs", format 1, the acknowledged version, the number of changes (1
// byte), each change (newest first) after its length (4 bytes), and CRC-32C of everything before.
func (l Log) MarshalBinary() ([]byte, error) {
	b := append([]byte(snapshotMagic), format)
	b = append(appendVersion(b, l.acked), byte(len(l.items)))
	for _, it := range l.items {
		at := len(b)
		b = append(b, 0, 0, 0, 0)
		var err error
		if b, err = it.entry.AppendBinary(b); err != nil {
			return nil, err
		}
		binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// UnmarshalBinary decodes what MarshalBinary made, and nothing else.
func (l *Log) UnmarshalBinary(b []byte) error {
	switch {
	case len(b) < snapshotHeader+sumLen || string(b[:4]) != snapshotMagic:
		return errors.New("these bytes are no snapshot")
	case b[4] != format:
		return fmt.Errorf("%w %d of a snapshot, this program knows format %d", errFormat, b[4], format)
	case len(b) > MaxSnapshot:
		return fmt.Errorf("a snapshot has %d bytes, at most %d are allowed", len(b), MaxSnapshot)
	}
	body := b[:len(b)-sumLen]
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(b[len(body):]) {
		return errors.New("wrong checksum of a snapshot")
	}
	acked, err := readVersion(b[5:])
	if err != nil {
		return err
	}
	count := int(b[21])
	if count > MaxHistory {
		return fmt.Errorf("a snapshot has %d changes, at most %d are allowed", count, MaxHistory)
	}
	rest := body[snapshotHeader:]
	all := make([]item, 0, count)
	for range count {
		if len(rest) < 4 {
			return errors.New("a snapshot is cut off")
		}
		n := uint64(binary.BigEndian.Uint32(rest))
		rest = rest[4:]
		if n > uint64(len(rest)) {
			return errors.New("a snapshot is cut off")
		}
		var e Entry
		if err := e.UnmarshalBinary(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
		it := item{e.Ref(), e}
		if len(all) > 0 && all[len(all)-1].ref.compare(it.ref) <= 0 {
			return errors.New("the changes in a snapshot are out of order")
		}
		all = append(all, it)
	}
	if len(rest) > 0 {
		return fmt.Errorf("a snapshot has %d bytes too many", len(rest))
	}
	out := Log{acked: acked}.with(all...)
	if len(out.items) != count {
		return errors.New("a snapshot has changes that a log does not keep")
	}
	*l = out
	return nil
}

func readVersion(b []byte) (Version, error) {
	if len(b) < versionLen {
		return Version{}, errors.New("a version is cut off")
	}
	v := Version{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])}
	if v.Epoch > maxNumber || v.Index > maxNumber {
		return Version{}, fmt.Errorf("version %v must have numbers from 0 to %d", v, uint64(maxNumber))
	}
	return v, nil
}

// MarshalBinary encodes the digest: the acknowledged version, the number of changes (1 byte), and of each
// its version, its first version, its ID and its size (4 bytes).
func (d Digest) MarshalBinary() ([]byte, error) {
	b := append(appendVersion(nil, d.Acked), byte(len(d.Refs)))
	for _, r := range d.Refs {
		b = appendVersion(appendVersion(b, r.Version), r.Change)
		b = append(b, r.ID[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(r.Size))
	}
	return b, nil
}

// UnmarshalBinary decodes what MarshalBinary made, and nothing else.
func (d *Digest) UnmarshalBinary(b []byte) error {
	if len(b) < versionLen+1 || len(b) > maxDigest || len(b) != versionLen+1+int(b[versionLen])*refLen {
		return fmt.Errorf("a digest has %d bytes, from %d to %d in whole changes are needed", len(b), versionLen+1, maxDigest)
	}
	acked, err := readVersion(b)
	if err != nil {
		return err
	}
	out := Digest{Acked: acked, Refs: make([]Ref, int(b[versionLen]))}
	b = b[versionLen+1:]
	for i := range out.Refs {
		r := &out.Refs[i]
		if r.Version, err = readVersion(b); err != nil {
			return err
		}
		if r.Change, err = readVersion(b[versionLen:]); err != nil {
			return err
		}
		r.ID = [sha256.Size]byte(b[2*versionLen:])
		size := binary.BigEndian.Uint32(b[2*versionLen+sha256.Size:])
		if size > MaxContent {
			return fmt.Errorf("a digest names a content of %d bytes, at most %d are allowed", size, MaxContent)
		}
		r.Size = int(size)
		if i > 0 && out.Refs[i-1].compare(*r) <= 0 {
			return errors.New("the changes in a digest are out of order")
		}
		b = b[refLen:]
	}
	if len(out.Refs) > 0 {
		out.Head = out.Refs[0].Version
	}
	out.Hash = hashRefs(out.Refs)
	*d = out
	return nil
}
