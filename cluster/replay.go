package cluster

import "time"

const (
	windowBits = 2048 // how far apart messages of one sender may overtake each other

	// A sender's newer epoch is taken at once if the sender is not heard in its old one, or is a member with the new
	// one. Else it may be a second node of the same name, which must not silence the first.
	epochQuiet = time.Second
)

// window remembers which numbers have come: the highest, and a bit for each of the windowBits up to it, at
// number mod windowBits.
type window struct {
	top  uint64
	bits [windowBits / 64]uint64
}

// take reports whether n has not come before, and notes it. What is below the window counts as come.
func (w *window) take(n uint64) bool {
	switch {
	case n > w.top && n-w.top >= windowBits:
		clear(w.bits[:])
		w.top = n
	case n > w.top:
		for i := w.top + 1; i < n; i++ {
			w.bits[i%windowBits/64] &^= 1 << (i % 64)
		}
		w.top = n
	case w.top-n >= windowBits || w.bits[n%windowBits/64]&(1<<(n%64)) != 0:
		return false
	}
	w.bits[n%windowBits/64] |= 1 << (n % 64)
	return true
}

// sender is what is remembered of the messages of one node.
type sender struct {
	epoch              uint64
	last               time.Time // of the last message that was taken
	datagrams, streams *window
}

// take reports whether a message is new. known is the epoch of the start that the members' table has for
// the sender, 0 if none.
func (s *sender) take(e *envelope, known uint64, now time.Time) bool {
	switch {
	case e.epoch < s.epoch:
		return false
	case e.epoch > s.epoch:
		if s.epoch != 0 && e.epoch != known && now.Sub(s.last) < epochQuiet {
			return false
		}
		*s = sender{epoch: e.epoch}
	}
	w := &s.streams
	if e.typ == msgDatagram {
		w = &s.datagrams
	}
	if *w == nil {
		*w = new(window)
	}
	if !(*w).take(e.count) {
		return false
	}
	s.last = now
	return true
}
