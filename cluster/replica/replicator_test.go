package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// room is a network of directors in one process.
type room struct {
	mu   sync.Mutex
	all  map[string]*Replicator
	disk map[string]*memDisk
	down map[string]bool // not live
	mute map[string]bool // live and does not answer
}

type seat struct {
	r    *room
	self string
}

func (s seat) All() []string {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.r.all)), func(n string) bool { return n == s.self })
}

func (s seat) Live() []string {
	all := s.All()
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	return slices.DeleteFunc(all, func(n string) bool { return s.r.down[n] })
}

func (s seat) Request(ctx context.Context, peer string, b []byte) ([]byte, error) {
	s.r.mu.Lock()
	to, mute := s.r.all[peer], s.r.mute[peer] || s.r.down[peer]
	s.r.mu.Unlock()
	if mute {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return to.Serve(b), nil
}

func (r *room) set(of map[string]bool, name string, v bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	of[name] = v
}

func newRoom(t *testing.T, names ...string) *room {
	t.Helper()
	r := &room{all: make(map[string]*Replicator), disk: make(map[string]*memDisk), down: make(map[string]bool), mute: make(map[string]bool)}
	for _, n := range names {
		r.disk[n] = newMemDisk()
		r.start(t, n, nil)
	}
	return r
}

func (r *room) start(t *testing.T, name string, confirm func(context.Context, Version) error) {
	t.Helper()
	s, err := open(r.disk[name])
	if err != nil {
		t.Fatal(err)
	}
	rep, err := New(Options{Node: name, Store: s, Peers: seat{r, name}, Confirm: confirm})
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[name] = rep
}

func TestChangeIsStoredOnEveryLiveDirector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, "a", "b", "c")
		res, err := r.all["a"].Change(t.Context(), 3, Version{}, []byte("one"), Meta{Who: "me"})
		if err != nil {
			t.Fatal(err)
		}
		if got, want := res.String(), "3.1 stored on 3 of 3 directors (a, b, c)"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		for name, rep := range r.all {
			if e, _ := rep.Log().Head(); string(e.Content) != "one" || e.Who != "me" || e.Node != "a" {
				t.Errorf("%s has %+v", name, e)
			}
			select {
			case <-rep.Changed():
			default:
				t.Errorf("%s gave no signal", name)
			}
		}
		if v := r.all["a"].Log().Acked(); v != (Version{3, 1}) {
			t.Errorf("acknowledged is %v", v)
		}

		r.set(r.down, "b", true)
		r.set(r.down, "c", true)
		res, err = r.all["a"].Change(t.Context(), 3, Version{3, 1}, []byte("two"), Meta{})
		if got, want := res.String(), "3.2 stored on 1 of 3 directors (a); not on b: not live; not on c: not live"; err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
		r.set(r.down, "b", false)
		if err := r.all["b"].CatchUp(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if l := r.all["b"].Log(); l.Version() != (Version{3, 2}) || l.Acked() != (Version{3, 2}) || l.Len() != 2 {
			t.Errorf("b has %v, acknowledged %v, %d changes", l.Version(), l.Acked(), l.Len())
		}

		if _, err := r.all["a"].Change(t.Context(), 3, Version{3, 1}, []byte("three"), Meta{}); !errors.Is(err, ErrConflict) {
			t.Errorf("a change of an older version: %v", err)
		}
		res, err = r.all["a"].Change(t.Context(), 3, Version{}, []byte("two"), Meta{})
		if err != nil || !res.Unchanged || res.Version != (Version{3, 2}) {
			t.Errorf("the same content: %v, %v", res, err)
		}
	})
}

func TestFollowerThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, "a", "b")
		r.set(r.mute, "b", true)
		res, err := r.all["a"].Change(t.Context(), 1, Version{}, []byte("x"), Meta{})
		if !errors.Is(err, ErrNotAcknowledged) || res.Missing["b"] == nil {
			t.Errorf("b is live and mute: %v, %v", res, err)
		}
		if v := r.all["a"].Log().Acked(); !v.IsZero() {
			t.Errorf("%v is acknowledged", v)
		}

		// It is no longer live after a while: then the change needs it no longer.
		time.AfterFunc(3*time.Second, func() { r.set(r.down, "b", true) })
		res, err = r.all["a"].Change(t.Context(), 1, Version{}, []byte("y"), Meta{})
		if err != nil || len(res.Stored) != 1 || res.Missing["b"] == nil {
			t.Errorf("b dies: %v, %v", res, err)
		}

		// It answers again after a while.
		r.set(r.down, "b", false)
		time.AfterFunc(3*time.Second, func() { r.set(r.mute, "b", false) })
		res, err = r.all["a"].Change(t.Context(), 1, Version{}, []byte("z"), Meta{})
		if err != nil || len(res.Stored) != 2 || len(res.Missing) != 0 {
			t.Errorf("b recovers: %v, %v", res, err)
		}
	})
}

func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, "a", "b")
		if _, err := r.all["a"].Change(t.Context(), 1, Version{}, []byte("old"), Meta{}); err != nil {
			t.Fatal(err)
		}
		r.disk["b"].fail(syscall.ENOSPC)
		res, err := r.all["a"].Change(t.Context(), 1, Version{}, []byte("new"), Meta{})
		if !errors.Is(err, ErrNotAcknowledged) || !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), `director "b"`) || !strings.Contains(err.Error(), "no space left") {
			t.Errorf("%v, %v", res, err)
		}
		if e, _ := r.all["b"].Log().Head(); string(e.Content) != "old" {
			t.Errorf("b has %q in force", e.Content)
		}
		r.disk["a"].fail(syscall.ENOSPC)
		if _, err = r.all["a"].Change(t.Context(), 1, Version{}, []byte("newer"), Meta{}); !errors.Is(err, ErrStorage) || errors.Is(err, ErrNotAcknowledged) {
			t.Errorf("the disk of the orderer is full: %v", err)
		}
		if e, _ := r.all["a"].Log().Head(); string(e.Content) != "new" {
			t.Errorf("a has %q in force", e.Content)
		}
	})
}

func TestDeposedDirector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, "a", "b")
		change := func(node string, epoch uint64, text string) error {
			_, err := r.all[node].Change(t.Context(), epoch, Version{}, []byte(text), Meta{})
			return err
		}
		if err := change("a", 3, "one"); err != nil {
			t.Fatal(err)
		}
		res, err := r.all["b"].Activate(t.Context(), 4)
		if err != nil || res.Version != (Version{4, 1}) || len(res.Stored) != 2 {
			t.Fatalf("%v, %v", res, err)
		}
		if err := change("a", 3, "late"); !errors.Is(err, ErrDeposed) {
			t.Errorf("a knows of epoch 4: %v", err)
		}
		if err := r.all["b"].Log().CheckBase(Version{3, 1}); err != nil {
			t.Errorf("3.1 was restated only: %v", err)
		}

		// b is cut off, a is active again and b does not know.
		r.set(r.down, "b", true)
		if err := change("a", 5, "two"); err != nil {
			t.Fatal(err)
		}
		r.set(r.down, "b", false)
		if err := change("b", 4, "three"); !errors.Is(err, ErrNotAcknowledged) || !errors.Is(err, ErrDeposed) {
			t.Errorf("b is deposed: %v", err)
		}
		if err := r.all["b"].CatchUp(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		if err := r.all["a"].CatchUp(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
		a, b := r.all["a"].Log(), r.all["b"].Log()
		if a.Digest().Hash != b.Digest().Hash || a.Version() != (Version{5, 2}) {
			t.Errorf("a has %v, b has %v", a.Version(), b.Version())
		}
		if got := a.Abandoned(); !slices.Equal(got, []Version{{4, 2}}) {
			t.Errorf("abandoned are %v", got)
		}
	})
}

func TestConfirm(t *testing.T) {
	r := newRoom(t, "a")
	lost := errors.New("the lease is lost")
	var told []Version
	r.start(t, "a", func(_ context.Context, v Version) error {
		told = append(told, v)
		if len(told) > 1 {
			return lost
		}
		return nil
	})
	if _, err := r.all["a"].Change(t.Context(), 1, Version{}, []byte("one"), Meta{}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.all["a"].Change(t.Context(), 1, Version{}, []byte("two"), Meta{}); !errors.Is(err, lost) || !errors.Is(err, ErrNotAcknowledged) {
		t.Errorf("%v", err)
	}
	if got := r.all["a"].Log().Acked(); got != (Version{1, 1}) {
		t.Errorf("acknowledged is %v", got)
	}
}

func TestChangesWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom(t, "a", "b")
		r.set(r.mute, "b", true)
		var busy int
		errs := make(chan error)
		const n = maxWaiting + 5
		for i := range n {
			go func() {
				_, err := r.all["a"].Change(t.Context(), 1, Version{}, fmt.Append(nil, i), Meta{})
				errs <- err
			}()
		}
		synctest.Wait()
		r.set(r.mute, "b", false)
		for range n {
			if err := <-errs; errors.Is(err, ErrBusy) {
				busy++
			} else if err != nil {
				t.Error(err)
			}
		}
		if busy != n-maxWaiting-1 {
			t.Errorf("%d changes were turned away", busy)
		}
		if v := r.all["b"].Log().Version(); v != (Version{1, maxWaiting + 1}) {
			t.Errorf("b has %v", v)
		}
	})
}

func TestServeRefusesRubbish(t *testing.T) {
	r := newRoom(t, "a")
	for _, request := range []string{"", "x", "s", "d1", "f", "f12345678123456781", "s" + strings.Repeat("\xff", 200), strings.Repeat("s", MaxMessage+1)} {
		if b := r.all["a"].Serve([]byte(request)); len(b) < 2 || b[0] == 0 {
			t.Errorf("request %.20q is answered by %q", request, b)
		}
	}
	if r.all["a"].Log().Len() != 0 {
		t.Error("something was stored")
	}
}

func FuzzServe(f *testing.F) {
	l, _, err := Log{}.Propose(1, Version{}, []byte("text"), Meta{When: time.Unix(1, 0)})
	if err != nil {
		f.Fatal(err)
	}
	e, _ := l.Head()
	store, _ := encodeStore(e, Version{})
	f.Add(store)
	f.Add([]byte{kindDigest})
	f.Add(appendVersion([]byte{kindFetch}, Version{1, 1}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := open(newMemDisk())
		if err != nil {
			t.Fatal(err)
		}
		rep, err := New(Options{Node: "a", Store: s, Peers: seat{}})
		if err != nil {
			t.Fatal(err)
		}
		if a := rep.Serve(b); len(a) == 0 {
			t.Error("no answer")
		}
	})
}
