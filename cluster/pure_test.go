package cluster

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cluster/keyring"
)

func TestWindow(t *testing.T) {
	// A dumb version: everything that came, and the highest.
	r := rand.New(rand.NewPCG(1, 2))
	var w window
	seen, top := map[uint64]bool{}, uint64(0)
	for i := range 50_000 {
		n := top + uint64(r.IntN(40))
		switch r.IntN(10) {
		case 0:
			n = top + uint64(r.IntN(3*windowBits))
		case 1, 2, 3:
			n = max(top, 3*windowBits) - uint64(r.IntN(3*windowBits))
		}
		want := !seen[n] && (n > top || top-n < windowBits)
		if got := w.take(n); got != want {
			t.Fatalf("step %d: take(%d) = %v with the top at %d, want %v", i, n, got, top, want)
		}
		seen[n], top = true, max(top, n)
	}
	w = window{}
	if !w.take(1<<64-1) || w.take(1<<64-1) || w.take(0) || !w.take(1<<64-2) {
		t.Error("the end of the numbers")
	}
}

func TestEpochs(t *testing.T) {
	at := time.Unix(1000, 0)
	var s sender
	for i, x := range []struct {
		after        time.Duration
		epoch, count uint64
		known        uint64
		want         bool
	}{
		{0, 5, 1, 0, true},
		{0, 5, 1, 0, false},
		{0, 4, 9, 4, false},                            // an earlier start
		{0, 6, 1, 5, false},                            // a second node of the name?
		{0, 5, 2, 5, true},                             // the first goes on
		{0, 6, 1, 6, true},                             // the gossip says that it started again
		{0, 5, 3, 6, false},                            //
		{epochQuiet - time.Nanosecond, 7, 1, 6, false}, //
		{time.Nanosecond, 7, 1, 6, true},               // the old one is silent for long enough
		{0, 7, 2, 6, true},
	} {
		at = at.Add(x.after)
		if got := s.take(&envelope{typ: msgDatagram, epoch: x.epoch, count: x.count}, x.known, at); got != x.want {
			t.Errorf("row %d: %v, want %v", i, got, x.want)
		}
	}
	// Streams and datagrams overtake each other without bound.
	if !s.take(&envelope{typ: msgReliable, epoch: 7, count: 9_000_000}, 7, at) || !s.take(&envelope{typ: msgDatagram, epoch: 7, count: 3}, 7, at) {
		t.Error("streams and datagrams have one window")
	}
}

func randomEntries(r *rand.Rand, now time.Time) (out []item) {
	for range 1 + r.IntN(30) {
		e := entry{version: Version{uint64(r.IntN(3)), uint64(r.IntN(4))}}
		if r.IntN(3) == 0 {
			e.removed, e.expires = true, now.Unix()+int64(r.IntN(5))-1
		} else {
			e.value = []byte{byte(r.IntN(3))}
		}
		out = append(out, item{id: recordID{string('a' + rune(r.IntN(2))), string('k' + rune(r.IntN(2)))}, entry: e})
	}
	return out
}

func mergeAll(t *testing.T, now time.Time, lists ...[]item) map[recordID]entry {
	t.Helper()
	s := newRecordSet()
	for _, l := range lists {
		for _, it := range l {
			if _, err := s.merge(it.id, it.entry, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Accounts are right.
	n, count := 0, map[string]int{}
	for id, e := range s.m {
		n += s.cost(id, e)
		count[id.node]++
	}
	if n != s.bytes || !maps.Equal(count, s.count) {
		t.Fatalf("%d bytes, %v counted, of %d, %v", s.bytes, s.count, n, count)
	}
	return s.m
}

func itemsOf(m map[recordID]entry) (out []item) {
	for id, e := range m {
		out = append(out, item{id: id, entry: e})
	}
	return out
}

func TestMergeProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	now := time.Unix(1_000_000, 0)
	for i := range 1000 {
		a, b, c := randomEntries(r, now), randomEntries(r, now), randomEntries(r, now)
		want := mergeAll(t, now, a, b, c)
		shuffled := slices.Concat(a, b, c, a)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		for what, got := range map[string]map[recordID]entry{
			"commutative": mergeAll(t, now, c, b, a),
			"associative": mergeAll(t, now, a, itemsOf(mergeAll(t, now, b, c))),
			"idempotent":  mergeAll(t, now, shuffled, itemsOf(want)),
		} {
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("round %d: merge is not %s: %v, want %v", i, what, got, want)
			}
		}
		for id, e := range want {
			if e.removed && e.expires <= now.Unix() {
				t.Fatalf("round %d: %v is there although its removal has expired", i, id)
			}
		}
	}
}

func TestRecordBounds(t *testing.T) {
	s, now := newRecordSet(), time.Unix(1, 0)
	value := make([]byte, MaxValue)
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ {
		_, err = s.merge(recordID{fmt.Sprintf("n%d", n/100), fmt.Sprint(n)}, entry{version: Version{1, 1}, value: value}, now)
	}
	if err != errFull || s.bytes > maxRecordBytes || n < maxRecordBytes/MaxValue-2 {
		t.Errorf("%d records, %d bytes: %v", n, s.bytes, err)
	}
	if _, err := s.merge(recordID{"n0", "0"}, entry{version: Version{1, 2}, removed: true, expires: 100}, now); err != nil {
		t.Errorf("no removal when full: %v", err)
	}
	if e := s.forget("n0"); e != 1 || s.count["n0"] != 0 {
		t.Errorf("forget: epoch %d, %d left", e, s.count["n0"])
	}
}

func sampleState() []byte {
	b := []byte{stateFormat}
	b = appendNode(b, nodeInfo{"gone", 7, 90 * time.Second})
	b = appendRecord(b, recordID{"a", "key"}, entry{version: Version{1, 2}, value: []byte("value")})
	return appendRecord(b, recordID{"b", "key"}, entry{version: Version{3, 4}, removed: true, expires: 99})
}

func TestDecodeState(t *testing.T) {
	b := sampleState()
	items, err := decodeState(b)
	want := []item{
		{node: &nodeInfo{"gone", 7, 90 * time.Second}},
		{id: recordID{"a", "key"}, entry: entry{version: Version{1, 2}, value: []byte("value")}},
		{id: recordID{"b", "key"}, entry: entry{version: Version{3, 4}, removed: true, expires: 99}},
	}
	if err != nil || !reflect.DeepEqual(items, want) {
		t.Errorf("%+v, %v", items, err)
	}
	ends := map[int]bool{1: true, 19: true, 19 + 1 + 2 + 4 + 16 + 4 + 5: true}
	for i := range b {
		if items, err := decodeState(b[:i]); (err == nil) != ends[i] {
			t.Errorf("the first %d bytes: %+v, %v", i, items, err)
		}
	}
	for _, x := range []struct{ name, want string }{
		{"\x02", "format 2"},
		{"\x01\x09", "item"},
		{"\x01\x02\x01A", "must be"},
		{"\x01\x02\x01a\x01 ", "truncated"},
		{"\x01\x02\x01a\x01k" + strings.Repeat("\x00", 16) + "\x00\x01\x00\x01", "65537 bytes, at most 65536"},
	} {
		if _, err := decodeState([]byte(x.name)); err == nil || !strings.Contains(err.Error(), x.want) && !strings.Contains(err.Error(), "must be") {
			t.Errorf("%q: %v, want %q", x.name, err, x.want)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add(sampleState())
	f.Add([]byte{stateFormat})
	f.Fuzz(func(t *testing.T, b []byte) {
		items, err := decodeState(b)
		if err != nil {
			return
		}
		again := []byte{stateFormat}
		for _, it := range items {
			if it.node != nil {
				again = appendNode(again, *it.node)
			} else {
				again = appendRecord(again, it.id, it.entry)
			}
		}
		if !bytes.Equal(again, b) {
			t.Errorf("%x is read as %+v, which is %x", b, items, again)
		}
	})
}

func FuzzEnvelope(f *testing.F) {
	e := envelope{msgRequest, 1, 2, 3, "a", "b.c", []byte("payload")}
	f.Add(e.encode())
	m := nodeMeta{Witness, 5, "v1", []byte("meta")}
	f.Add(m.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := decodeEnvelope(b); err == nil && (!bytes.Equal(e.encode(), b) || e.size() != len(b)) {
			t.Errorf("%x is read as %+v", b, e)
		}
		if m, err := decodeMeta(b); err == nil && !bytes.Equal(m.encode(), b) {
			t.Errorf("%x is read as %+v", b, m)
		}
	})
}

func TestKeyringKeepsItsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	a, b, c := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32), bytes.Repeat([]byte{3}, 32)
	k, err := newKeyring([][]byte{a}, path)
	if err != nil {
		t.Fatal(err)
	}
	same := func(want ...[]byte) {
		t.Helper()
		file, err := keyring.ReadFile(path)
		if err != nil || !reflect.DeepEqual(file, want) || !reflect.DeepEqual(k.ring.GetKeys(), want) {
			t.Errorf("the file has %v, the ring %v, want %v: %v", file, k.ring.GetKeys(), want, err)
		}
	}
	step := func(err error, want string) {
		t.Helper()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	step(k.use(keyring.Fingerprint(b)), "does not have")
	step(k.add(b), "")
	same(a, b)
	step(k.add(c), "remove one first")
	step(k.remove(keyring.Fingerprint(a)), "use another first")
	step(k.use(keyring.Fingerprint(b)), "")
	same(b, a)
	step(k.remove(keyring.Fingerprint(a)), "")
	step(k.remove(keyring.Fingerprint(a)), "")
	same(b)
	// What cannot be stored is not done.
	k.file = filepath.Join(path, "no", "such")
	step(k.add(c), "failed to write")
	if len(k.ring.GetKeys()) != 1 || len(k.keys) != 1 {
		t.Error("the key was added although it was not stored")
	}
	empty, _ := newKeyring(nil, "")
	step(empty.add(a), "insecure")
	step(empty.remove(keyring.Fingerprint(a)), "")
}

func TestOptions(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"name \"A\" must be":                   func(o *Options) { o.Name = "A" },
		"name \"\" must be":                    func(o *Options) { o.Name = "" },
		"role (0) must be 1 to 3":              func(o *Options) { o.Role = 0 },
		"label: 256 bytes, at most 255":        func(o *Options) { o.Label = strings.Repeat("l", 256) },
		"meta: 401 bytes, at most 400":         func(o *Options) { o.Meta = make([]byte, 401) },
		"version: 65 bytes, at most 64":        func(o *Options) { o.Version = strings.Repeat("v", 65) },
		"a key is required":                    func(o *Options) { o.Keys = nil },
		"exclude each other":                   func(o *Options) { o.Insecure = true },
		"3 keys: at most 2":                    func(o *Options) { o.Keys = make([][]byte, 3) },
		"key of 5 bytes: must be 16, 24 or 32": func(o *Options) { o.Keys = [][]byte{make([]byte, 5)} },
		"seed \"a/b\"":                         func(o *Options) { o.Seeds = []string{"a/b"} },
		"port \"0\" must be 1 to 65535":        func(o *Options) { o.Seeds = []string{"a:0"} },
		"probe interval (1ns) must be between": func(o *Options) { o.Timing.ProbeInterval = 1 },
		"suspicion multiplier (99)":            func(o *Options) { o.Timing.SuspicionMult = 99 },
		"advertise address is required":        func(o *Options) { o.Bind = options("a").Bind; o.Bind = (&Options{}).Bind },
	} {
		o := options("a")
		change(&o)
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	o := options("a")
	o.Meta, o.Version = make([]byte, MaxMeta), strings.Repeat("v", MaxVersion)
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if got := len(gossip{n}.NodeMeta(512)); got == 0 || got > 512 {
		t.Errorf("the largest metadata have %d bytes", got)
	}
	for in, want := range map[string]string{"h": "h 7946", "h.x:1": "h.x 1", "10.0.0.1": "10.0.0.1 7946", "fd00::1": "fd00::1 7946", "[fd00::1]:80": "fd00::1 80"} {
		host, port, err := splitSeed(in)
		if got := fmt.Sprint(host, " ", port); err != nil || got != want {
			t.Errorf("seed %q: %s, %v", in, got, err)
		}
	}
}

func TestLogIsCoalesced(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	a := newLogAdapter(slog.New(slog.NewTextHandler(&out, nil)), m, func() time.Time { return now }, &refusals{})
	for i := range 10_000 {
		fmt.Fprintf(a, "[ERR] memberlist: Decrypt packet failed: unsupported encryption version %d from=10.0.0.%d:1\n", i, i)
		fmt.Fprintf(a, "[ERR] memberlist: discarding packet with unacceptable label %q: from=10.0.0.1:1\n", fmt.Sprint(i))
		fmt.Fprintf(a, "[DEBUG] memberlist: Stream connection from=%d\n", i)
	}
	if n := strings.Count(out.String(), "\n"); n != 2 {
		t.Errorf("%d lines: %s", n, out.String())
	}
	now = now.Add(logEvery)
	fmt.Fprintf(a, "[ERR] memberlist: Decrypt packet failed: unsupported encryption version 7\n")
	if !strings.Contains(out.String(), "left_out=9999") {
		t.Errorf("what was left out is not said: %s", out.String())
	}
	// Lines that are all different take no more room than there is.
	for i := range 10_000 {
		fmt.Fprintf(a, "[WARN] memberlist: %c%c%c\n", 'a'+i%26, 'a'+i/26%26, 'a'+i/676)
	}
	if len(a.classes) > logClasses+1 || strings.Count(out.String(), "\n") > logClasses+5 {
		t.Errorf("%d classes, %d lines", len(a.classes), strings.Count(out.String(), "\n"))
	}
}
