package election

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"
)

func full(n int, name string) Message {
	m := Message{Class: Answer, Hash: 1, Inc: 2, To: 3, Session: 4, Seq: 5, Sent: -6, Stored: Version{7, 8}, Acked: Version{9, 10}, Priority: 11}
	for i := range n {
		m.Entries = append(m.Entries, Entry{Kind: Refused, Group: uint8(i % MaxGroups), Reason: HeldByOther, Flags: FlagForce, Priority: 12,
			Epoch: 13, Left: 14 * time.Microsecond, Name: name})
	}
	return m
}

func TestMessageRoundTrip(t *testing.T) {
	for _, m := range []Message{full(0, ""), full(1, "d1"), full(12, strings.Repeat("n", MaxName)), full(MaxGroups, "")} {
		b, err := m.MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		var got Message
		if err := got.UnmarshalBinary(b); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, m) {
			t.Errorf("got %+v, want %+v", got, m)
		}
	}
}

func TestMessageRefused(t *testing.T) {
	good, err := full(2, "d1").MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	for _, test := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "cut short"},
		{"half a head", good[:headSize-1], "cut short"},
		{"half an entry", good[:headSize+5], "cut short"},
		{"half a name", good[:len(good)-1], "cut short"},
		{"trailing", append(bytes.Clone(good), 0), "1 bytes too many"},
		{"too long", make([]byte, MaxMessage+1), "at most 1300"},
		{"format", change(0, 2), "format 2"},
		{"class", change(1, 9), "class 9"},
		{"incarnation", append(append(bytes.Clone(good[:10]), make([]byte, 8)...), good[18:]...), "incarnation 0"},
		{"count", change(83, 65), "at most 64"},
		{"kind of another class", change(headSize, byte(Request)), "kind 1"},
		{"group", change(headSize+1, 64), "at most 63"},
		{"reason", change(headSize+2, byte(reasonsAreBelow)), "unknown reason"},
		{"flags", change(headSize+3, 0x80), "unknown flags"},
		{"name", change(headSize+17, 64), "at most 63"},
	} {
		var m Message
		if err := m.UnmarshalBinary(test.b); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	for _, m := range []Message{full(65, ""), full(1, strings.Repeat("n", 64)), full(64, "a name"), {Class: Ask},
		{Class: Answer, Inc: 1, Entries: []Entry{{Kind: Refused, Left: -1 * time.Second}}}} {
		if b, err := m.MarshalBinary(); err == nil {
			t.Errorf("%+v became %d bytes", m, len(b))
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range []Message{full(0, ""), full(1, "d1"), full(64, "")} {
		b, err := m.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{format})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m Message
		if m.UnmarshalBinary(b) != nil {
			return
		}
		again, err := m.MarshalBinary()
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x became %x (%v)", b, again, err)
		}
		for _, mode := range []Mode{LeaseMode, PriorityMode} { // and no message makes a core panic
			c, err := New(Config{Self: "a", Candidate: true, Voters: []string{"a", "b", "c"}, Candidates: []string{"a", "b"},
				Groups: []string{"x", "y"}, Lease: time.Second, Incarnation: 9, Mode: mode}, 0)
			if err != nil {
				t.Fatal(err)
			}
			c.SetEligible(0, "x", true, "")
			for i, from := range []string{"a", "b", "c", "z", "b"} {
				now := time.Duration(i) * time.Second
				m.Hash, m.To = c.hash, 9
				c.Receive(now, from, m)
				m.Session++
				c.Receive(now, from, m)
				c.Tick(now)
				c.Status(now, "x")
			}
		}
	})
}
