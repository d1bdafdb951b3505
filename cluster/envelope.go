package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// msgType is the first byte of everything that this package has memberlist carry.
type msgType uint8

const (
	msgDatagram msgType = iota + 1
	msgReliable
	msgRequest
	msgReply
	msgRecords // no envelope: an encoded part of the replicated state
)

func (t msgType) String() string {
	switch t {
	case msgDatagram:
		return "datagram"
	case msgReliable:
		return "reliable"
	case msgRequest:
		return "request"
	case msgReply:
		return "reply"
	case msgRecords:
		return "records"
	}
	return "unknown"
}

// envelope is a message with who sent it to whom.
type envelope struct {
	typ          msgType
	epoch, count uint64
	kind         byte
	from, to     string
	payload      []byte
}

const envelopeFixed = 1 + 8 + 8 + 1 + 1 + 1

func (e *envelope) size() int { return envelopeFixed + len(e.from) + len(e.to) + len(e.payload) }

func (e *envelope) encode() []byte {
	b := make([]byte, 0, e.size())
	b = append(b, byte(e.typ))
	b = binary.BigEndian.AppendUint64(b, e.epoch)
	b = binary.BigEndian.AppendUint64(b, e.count)
	b = append(b, e.kind, byte(len(e.from)))
	b = append(b, e.from...)
	b = append(b, byte(len(e.to)))
	b = append(b, e.to...)
	return append(b, e.payload...)
}

var errTruncated = errors.New("truncated")

// decodeEnvelope reads a message of one of the types that have an envelope. The payload is a part of b.
func decodeEnvelope(b []byte) (e envelope, err error) {
	r := reader{b: b}
	e.typ = msgType(r.byte())
	e.epoch, e.count, e.kind = r.uint64(), r.uint64(), r.byte()
	e.from, e.to = string(r.take(int(r.byte()))), string(r.take(int(r.byte())))
	e.payload = r.b
	switch {
	case r.err != nil:
		return envelope{}, r.err
	case e.typ < msgDatagram || e.typ > msgReply:
		return envelope{}, fmt.Errorf("message of unknown type %d", e.typ)
	case !ValidName(e.from) || !ValidName(e.to):
		return envelope{}, fmt.Errorf("message from %q to %q: names must be %s", e.from, e.to, NameRule)
	}
	return e, nil
}

// reader takes a slice apart; after the first error it gives zeros.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.err, r.b = errTruncated, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if v := r.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if v := r.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}
