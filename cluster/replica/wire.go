package replica

import (
	"errors"
	"fmt"
)

// A request is one byte and what belongs to it:
//
//	's'  store: the acknowledged version, then a change
//	'd'  digest: nothing; answered by a digest
//	'f'  fetch: a version; answered by a change
//
// An answer is a zero byte and what was asked for, or one of the codes below and a text.
const (
	kindStore  = 's'
	kindDigest = 'd'
	kindFetch  = 'f'

	// MaxMessage bounds requests and answers, bytes.
	MaxMessage = 1 + versionLen + MaxEntry

	maxErrorText = 1024
)

// codes: how errors travel that a caller acts on.
var codes = map[byte]error{
	2: ErrDeposed,
	3: ErrDiverged,
	4: ErrStorage,
	5: ErrUnknown,
}

const codeOther = 1

// remoteError is what another director answered.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

func encodeError(err error) []byte {
	code := byte(codeOther)
	for c, is := range codes {
		if errors.Is(err, is) {
			code = c
		}
	}
	text := err.Error()
	return append([]byte{code}, text[:min(len(text), maxErrorText)]...)
}

func decodeAnswer(b []byte) ([]byte, error) {
	switch {
	case len(b) == 0:
		return nil, errors.New("an empty answer")
	case b[0] == 0:
		return b[1:], nil
	}
	text := b[1:min(len(b), 1+maxErrorText)]
	return nil, &remoteError{text: fmt.Sprintf("%q", text)[1 : len(fmt.Sprintf("%q", text))-1], is: codes[b[0]]}
}

func encodeStore(e Entry, acked Version) ([]byte, error) {
	b := make([]byte, 0, 1+versionLen+headerLen+len(e.Who)+len(e.What)+len(e.Node)+len(e.Content)+sumLen)
	return e.AppendBinary(appendVersion(append(b, kindStore), acked))
}

// Serve answers a request of another director. The caller must know that it is one.
func (r *Replicator) Serve(request []byte) []byte {
	answer, err := r.serve(request)
	if err != nil {
		return encodeError(err)
	}
	return append([]byte{0}, answer...)
}

func (r *Replicator) serve(b []byte) ([]byte, error) {
	if len(b) == 0 || len(b) > MaxMessage {
		return nil, fmt.Errorf("a request has %d bytes, from 1 to %d are allowed", len(b), MaxMessage)
	}
	kind, b := b[0], b[1:]
	switch kind {
	case kindStore:
		acked, err := readVersion(b)
		if err != nil {
			return nil, err
		}
		var e Entry
		if err := e.UnmarshalBinary(b[versionLen:]); err != nil {
			return nil, err
		}
		return nil, r.Receive(e, acked)
	case kindDigest:
		if len(b) > 0 {
			return nil, errors.New("a request for a digest has bytes too many")
		}
		return r.Log().Digest().MarshalBinary()
	case kindFetch:
		v, err := readVersion(b)
		if err != nil {
			return nil, err
		}
		if len(b) != versionLen {
			return nil, errors.New("a request for a change has bytes too many")
		}
		e, err := r.Log().Get(v)
		if err != nil {
			return nil, err
		}
		return e.MarshalBinary()
	}
	return nil, fmt.Errorf("unknown request %#x", kind)
}
