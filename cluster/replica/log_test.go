package replica

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestParseVersion(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Version
		err  string
	}{
		{in: "3.17", want: Version{3, 17}},
		{in: "0.0"},
		{in: "9007199254740991.1", want: Version{maxNumber, 1}},
		{in: "9007199254740992.1", err: "numbers from 0 to 9007199254740991"},
		{in: "1.99999999999999999999999", err: "numbers from 0 to"},
		{in: "3", err: "must be EPOCH.INDEX"},
		{in: "", err: "must be EPOCH.INDEX"},
		{in: "3.", err: "must be EPOCH.INDEX"},
		{in: "3.017", err: "must be EPOCH.INDEX"},
		{in: "+3.1", err: "must be EPOCH.INDEX"},
		{in: "-3.1", err: "must be EPOCH.INDEX"},
		{in: "3.1.2", err: "must be EPOCH.INDEX"},
		{in: strings.Repeat("x", 1000), err: `xxx..." must be`},
	} {
		got, err := ParseVersion(tt.in)
		switch {
		case tt.err == "" && (err != nil || got != tt.want || got.String() != tt.in):
			t.Errorf("%q: %v, %v", tt.in, got, err)
		case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
			t.Errorf("%q: error %v, want %q", tt.in, err, tt.err)
		}
	}
	order := []Version{{}, {1, 1}, {1, 2}, {2, 1}, {2, 9}, {3, 0}}
	for i, a := range order {
		for j, b := range order {
			if got, want := a.Less(b), i < j; got != want {
				t.Errorf("%v.Less(%v) is %v", a, b, got)
			}
		}
	}
}

func meta(who string) Meta { return Meta{Who: who, Node: "a", When: time.Unix(1000, 5)} }

func mustPropose(t *testing.T, l Log, epoch uint64, text string) (Log, Entry) {
	t.Helper()
	l, e, err := l.Propose(epoch, Version{}, []byte(text), meta("me"))
	if err != nil {
		t.Fatal(err)
	}
	return l, e
}

func TestProposeRefuses(t *testing.T) {
	l, _ := mustPropose(t, Log{}, 3, "one")
	old := time.Unix(-1, 0)
	for _, tt := range []struct {
		name  string
		log   Log
		epoch uint64
		base  Version
		text  []byte
		meta  Meta
		is    error
		err   string
	}{
		{name: "another base", log: l, epoch: 3, base: Version{3, 2}, meta: meta("x"), is: ErrConflict, err: `version 3.2 is not in force, 3.1 is, by "me" at 1970-01-01 00:16:40Z`},
		{name: "base of nothing", epoch: 3, base: Version{3, 1}, meta: meta("x"), is: ErrConflict, err: "there is none yet"},
		{name: "lower epoch", log: l, epoch: 2, meta: meta("x"), is: ErrDeposed, err: "epoch 3 is known"},
		{name: "higher epoch seen", log: l.Seen(4), epoch: 3, meta: meta("x"), is: ErrDeposed, err: "epoch 4 is known"},
		{name: "behind", log: l.Acknowledge(Version{3, 2}), epoch: 3, meta: meta("x"), is: ErrBehind, err: "version 3.2 is acknowledged, the newest one here is 3.1"},
		{name: "no epoch", log: l, meta: meta("x"), err: "epoch 0 must be from 1"},
		{name: "too large", log: l, epoch: 3, text: make([]byte, MaxContent+1), meta: meta("x"), err: "content has 8388609 bytes, at most 8388608"},
		{name: "long who", log: l, epoch: 3, meta: meta(strings.Repeat("x", 129)), err: "who has 129 bytes, at most 128"},
		{name: "long what", log: l, epoch: 3, meta: Meta{What: strings.Repeat("x", 257), When: time.Unix(1, 0)}, err: "what has 257 bytes, at most 256"},
		{name: "control character", log: l, epoch: 3, meta: meta("a\x1b[2J"), err: "control character"},
		{name: "no UTF-8", log: l, epoch: 3, meta: meta("\xff"), err: "UTF-8"},
		{name: "time", log: l, epoch: 3, meta: Meta{When: old}, err: "from 1970 to 2261"},
	} {
		next, _, err := tt.log.Propose(tt.epoch, tt.base, tt.text, tt.meta)
		if err == nil || !strings.Contains(err.Error(), tt.err) || tt.is != nil && !errors.Is(err, tt.is) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
		if next.Digest().Hash != tt.log.Digest().Hash {
			t.Errorf("%s: the log was changed", tt.name)
		}
	}
}

func TestAppend(t *testing.T) {
	base, one := mustPropose(t, Log{}, 3, "one")
	all, two := mustPropose(t, base, 3, "two")
	all, three := mustPropose(t, all, 3, "three")
	_, other := mustPropose(t, base, 3, "other")
	restated, re, _, err := base.Restate(4)
	if err != nil {
		t.Fatal(err)
	}
	bad := two
	bad.Content = []byte("forged")
	for _, tt := range []struct {
		name    string
		log     Log
		e       Entry
		changed bool
		is      error
		head    Version
	}{
		{name: "the next", log: base, e: two, changed: true, head: Version{3, 2}},
		{name: "after a gap", log: base, e: three, changed: true, head: Version{3, 3}},
		{name: "into nothing", e: three, changed: true, head: Version{3, 3}},
		{name: "twice", log: all, e: three, head: Version{3, 3}},
		{name: "late", log: all, e: one, head: Version{3, 3}},
		{name: "a restatement", log: base, e: re, changed: true, head: Version{4, 1}},
		{name: "of a deposed director", log: restated, e: two, is: ErrDeposed, head: Version{4, 1}},
		{name: "of one known to be deposed", log: base.Seen(4), e: two, is: ErrDeposed, head: Version{3, 1}},
		{name: "the same version twice", log: all, e: other, is: ErrDiverged, head: Version{3, 3}},
	} {
		next, changed, err := tt.log.Append(tt.e)
		if changed != tt.changed || !errors.Is(err, tt.is) || next.Version() != tt.head {
			t.Errorf("%s: %v, %v, head %v", tt.name, changed, err, next.Version())
		}
	}
	if _, _, err := base.Append(bad); err == nil || !strings.Contains(err.Error(), "hash") {
		t.Errorf("forged content: %v", err)
	}
}

func TestHistory(t *testing.T) {
	var l Log
	for i := range MaxHistory + 10 {
		l, _ = mustPropose(t, l, 1, fmt.Sprint("text ", i))
	}
	if l.Len() != MaxHistory || l.List()[0].Version != (Version{1, MaxHistory + 10}) || l.oldest() != (Version{1, 11}) {
		t.Errorf("%d changes from %v to %v", l.Len(), l.oldest(), l.Version())
	}
	if _, err := l.Get(Version{1, 10}); !errors.Is(err, ErrUnknown) {
		t.Errorf("%v", err)
	}
	l, e, err := l.Rollback(2, Version{1, 60}, Version{1, 20}, meta("me"))
	if err != nil || string(e.Content) != "text 19" || e.What != "rollback to 1.20" || e.Version != (Version{2, 61}) {
		t.Errorf("%+v, %v", e, err)
	}
	l, re, ok, err := l.Restate(7)
	if err != nil || !ok || re.Version != (Version{7, 61}) || l.Len() != MaxHistory {
		t.Errorf("%+v, %v, %v", re, ok, err)
	}
	for _, v := range []Version{{2, 61}, {7, 61}} {
		if got, err := l.Get(v); err != nil || got.Version != re.Version {
			t.Errorf("%v: %v, %v", v, got.Version, err)
		}
		if err := l.CheckBase(v); err != nil {
			t.Error(err)
		}
	}
	if since := l.Since(Version{1, 58}); len(since) != 3 || since[0].Version != (Version{1, 59}) || since[2].Version != re.Version {
		t.Errorf("since 1.58: %d", len(since))
	}
	if len(l.Abandoned()) != 0 {
		t.Errorf("abandoned are %v", l.Abandoned())
	}
}

func TestHistoryIsBoundedInBytes(t *testing.T) {
	var l Log
	for i := range 10 {
		text := make([]byte, MaxContent)
		text[0] = byte(i)
		l, _, _ = l.Propose(1, Version{}, text, meta("me"))
	}
	if l.Len() != MaxHistoryBytes/MaxContent || l.Version() != (Version{1, 10}) {
		t.Errorf("%d changes, the newest is %v", l.Len(), l.Version())
	}
}

// randomLog returns what a director may hold of a random history with deposed directors and gaps.
func randomLog(rng *rand.Rand, universe []Entry) Log {
	var l Log
	for range rng.IntN(len(universe)) {
		e := universe[rng.IntN(len(universe))]
		if rng.IntN(2) == 0 {
			if next, _, err := l.Append(e); err == nil {
				l = next
				continue
			}
		}
		l = l.with(item{e.Ref(), e})
	}
	if rng.IntN(2) == 0 {
		l = l.Acknowledge(universe[rng.IntN(len(universe))].Version)
	}
	return l
}

func universe(rng *rand.Rand) []Entry {
	logs := []Log{{}}
	var all []Entry
	for epoch := uint64(1); len(all) < 150; epoch++ {
		l := logs[rng.IntN(len(logs))] // of a candidate that may lack some
		l, e, ok, err := l.Restate(max(epoch, l.Epoch()+1))
		if ok && err == nil {
			all = append(all, e)
		}
		epoch = max(epoch, l.Epoch())
		for range rng.IntN(12) {
			next, e, err := l.Propose(epoch, Version{}, fmt.Append(nil, rng.Uint64()), Meta{When: time.Unix(1, 0)})
			if err != nil {
				panic(err)
			}
			l, all = next, append(all, e)
			if rng.IntN(3) == 0 {
				logs = append(logs, l)
			}
		}
		logs = append(logs, l)
	}
	return all
}

func encoded(t *testing.T, l Log) string {
	t.Helper()
	b, err := l.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMergeProperties(t *testing.T) {
	for seed := range uint64(150) {
		rng := rand.New(rand.NewPCG(seed, 2))
		u := universe(rng)
		a, b, c := randomLog(rng, u), randomLog(rng, u), randomLog(rng, u)
		if encoded(t, a.Merge(b)) != encoded(t, b.Merge(a)) {
			t.Fatalf("seed %d: not commutative", seed)
		}
		if encoded(t, a.Merge(b).Merge(c)) != encoded(t, a.Merge(b.Merge(c))) {
			t.Fatalf("seed %d: not associative", seed)
		}
		if encoded(t, a.Merge(a)) != encoded(t, a) || encoded(t, a.Merge(b).Merge(b)) != encoded(t, a.Merge(b)) {
			t.Fatalf("seed %d: not idempotent", seed)
		}
		m := a.Merge(b)
		if m.Version() != max2(a.Version(), b.Version()) || m.Acked() != max2(a.Acked(), b.Acked()) {
			t.Fatalf("seed %d: %v and %v make %v", seed, a.Version(), b.Version(), m.Version())
		}

		// What is missing, and only that, makes the merge.
		got := a.Acknowledge(b.Acked())
		for _, ref := range a.Missing(b.Digest()) {
			i := slices.IndexFunc(b.items, func(it item) bool { return it.ref == ref })
			if i < 0 {
				t.Fatalf("seed %d: %v is not there", seed, ref.Version)
			}
			got = got.with(b.items[i])
		}
		if encoded(t, got) != encoded(t, m) {
			t.Fatalf("seed %d: catching up makes something else", seed)
		}

		var back Log
		if err := back.UnmarshalBinary([]byte(encoded(t, m))); err != nil || encoded(t, back) != encoded(t, m) {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

func max2(a, b Version) Version {
	if a.Less(b) {
		return b
	}
	return a
}

// TestKeepBySize merges sets whose bound is that of bytes.
func TestKeepBySize(t *testing.T) {
	self := func(r Ref) Ref { return r }
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		set := func() []Ref {
			var s []Ref
			for range rng.IntN(60) {
				index, epoch := uint64(1+rng.IntN(60)), uint64(1+rng.IntN(3))
				r := Ref{Version: Version{epoch, index}, Change: Version{1, index}, Size: MaxContent / int(1+index%5)}
				r.ID = sha256.Sum256(appendVersion(nil, r.Version))
				s = append(s, r)
			}
			return keep(s, self)
		}
		merge := func(a, b []Ref) []Ref { return keep(slices.Concat(a, b), self) }
		a, b, c := set(), set(), set()
		if !slices.Equal(merge(a, b), merge(b, a)) || !slices.Equal(merge(merge(a, b), c), merge(a, merge(b, c))) || !slices.Equal(merge(a, a), a) {
			t.Fatalf("seed %d: merges differ", seed)
		}
	}
}

// sealed appends the checksum, so that what is fuzzed is not the checksum.
func sealed(b []byte) []byte {
	return binary.BigEndian.AppendUint32(slices.Clone(b), crc32.Checksum(b, castagnoli))
}

func FuzzSnapshot(f *testing.F) {
	f.Add([]byte{})
	var l Log
	for i := range 3 {
		b, err := l.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[:len(b)-sumLen])
		l, _, _ = l.Propose(uint64(i+1), Version{}, fmt.Append(nil, i), meta("me"))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = sealed(b)
		var l Log
		if err := l.UnmarshalBinary(b); err != nil {
			if l.Len() > 0 || !l.Acked().IsZero() {
				t.Error("an error leaves something behind")
			}
			return
		}
		if again, err := l.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("decoded and encoded, something else comes out: %v", err)
		}
	})
}

func FuzzEntry(f *testing.F) {
	_, e, _ := Log{}.Propose(1, Version{}, []byte("text"), meta("me"))
	b, _ := e.MarshalBinary()
	f.Add(b[:len(b)-sumLen])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = sealed(b)
		var e Entry
		if e.UnmarshalBinary(b) != nil {
			return
		}
		if again, err := e.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("decoded and encoded, something else comes out: %v", err)
		}
	})
}

func FuzzDigest(f *testing.F) {
	l, _, _ := Log{}.Propose(1, Version{}, []byte("text"), meta("me"))
	b, _ := l.Digest().MarshalBinary()
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Digest
		if d.UnmarshalBinary(b) != nil {
			return
		}
		if again, err := d.MarshalBinary(); err != nil || !bytes.Equal(again, b) {
			t.Errorf("decoded and encoded, something else comes out: %v", err)
		}
		_ = l.Missing(d)
	})
}
