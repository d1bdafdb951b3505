package arp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/arp/frame"
)

var (
	eth0  = link{index: 2, name: "eth0", mac: frame.MAC{2, 0, 0, 0, 0, 1}, ethernet: true, up: true}
	vip   = netip.MustParseAddr("10.0.0.100")
	vip2  = netip.MustParseAddr("10.0.0.101")
	vip6  = netip.MustParseAddr("2001:db8::100")
	claim = Claim{"eth0", vip}
)

// fakeWire is a link of which everything that is announced is kept, with the time.
type fakeWire struct {
	mu      sync.Mutex
	start   time.Time
	links   []link
	updates chan link
	failing error // of Links
	sendErr error
	block   chan struct{} // when not nil, Announce waits for it
	sent    []string      // "100ms eth0 10.0.0.100"
	opened  int
	closed  int
}

func newFakeWire(links ...link) *fakeWire {
	return &fakeWire{start: time.Now(), links: links}
}

func (w *fakeWire) Links(<-chan struct{}) ([]link, <-chan link, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failing != nil {
		return nil, nil, w.failing
	}
	w.updates = make(chan link, 64)
	return slices.Clone(w.links), w.updates, nil
}

func (w *fakeWire) Open(l link) (port, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened++
	return &fakePort{w, l}, nil
}

// change makes l the state of its interface and tells it.
func (w *fakeWire) change(l link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.links = slices.DeleteFunc(w.links, func(o link) bool { return o.index == l.index })
	if !l.gone {
		w.links = append(w.links, l)
	}
	w.updates <- l
}

func (w *fakeWire) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := w.sent
	w.sent, w.start = nil, time.Now()
	return sent
}

type fakePort struct {
	w *fakeWire
	l link
}

func (p *fakePort) Announce(a netip.Addr) error {
	p.w.mu.Lock()
	block := p.w.block
	p.w.mu.Unlock()
	if block != nil {
		<-block
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	if p.w.sendErr != nil {
		return p.w.sendErr
	}
	p.w.sent = append(p.w.sent, fmt.Sprintf("%s %s %s", time.Since(p.w.start), p.l.mac.String()[15:], a))
	return nil
}

func (p *fakePort) Close() error {
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.closed++
	return nil
}

// run starts an Announcer on w; the returned function stops it and checks that it left nothing behind.
func run(t *testing.T, w *fakeWire, opts Options) (*Announcer, func()) {
	t.Helper()
	a, err := newAnnouncer(opts, w)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	return a, func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if w.opened != w.closed {
			t.Errorf("%d ports opened, %d closed", w.opened, w.closed)
		}
	}
}

func set(t *testing.T, a *Announcer, claims ...Claim) {
	t.Helper()
	if err := a.Set(claims); err != nil {
		t.Fatal(err)
	}
}

func sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func expect(t *testing.T, w *fakeWire, want ...string) {
	t.Helper()
	if got := w.take(); !slices.Equal(got, want) {
		t.Errorf("\n got %q\nwant %q", got, want)
	}
}

func TestBurstThenRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWire(eth0)
		a, stop := run(t, w, Options{})
		defer stop()
		set(t, a, claim)
		sleep(3*time.Minute + 4*time.Second)
		expect(t, w, "0s 01 10.0.0.100", "100ms 01 10.0.0.100", "300ms 01 10.0.0.100", "1s 01 10.0.0.100", "3s 01 10.0.0.100",
			"1m3s 01 10.0.0.100", "2m3s 01 10.0.0.100", "3m3s 01 10.0.0.100")
		if s := a.Stats(); s != (Stats{Announcements: 8}) {
			t.Errorf("got %+v", s)
		}
	})
}

func TestOnlyNewClaimsGetABurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWire(eth0)
		a, stop := run(t, w, Options{Burst: []time.Duration{0, time.Second}})
		defer stop()
		set(t, a, claim)
		sleep(5 * time.Second)
		expect(t, w, "0s 01 10.0.0.100", "1s 01 10.0.0.100")
		set(t, a, claim, Claim{"eth0", vip2}, Claim{"eth0", vip6}, Claim{"eth0", vip6})
		sleep(5 * time.Second)
		expect(t, w, "0s 01 10.0.0.101", "0s 01 2001:db8::100", "1s 01 10.0.0.101", "1s 01 2001:db8::100")
		set(t, a, claim)
		sleep(time.Minute)
		expect(t, w, "51s 01 10.0.0.100")
		set(t, a)
		sleep(time.Hour)
		expect(t, w)
	})
}

func TestAnnounceNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWire(eth0)
		a, stop := run(t, w, Options{Burst: []time.Duration{0, time.Second}})
		defer stop()
		set(t, a, claim, Claim{"eth0", vip2})
		sleep(5 * time.Second)
		w.take()
		a.AnnounceNow(vip2, vip6)
		sleep(5 * time.Second)
		expect(t, w, "0s 01 10.0.0.101", "1s 01 10.0.0.101")
		a.AnnounceNow()
		sleep(500 * time.Millisecond)
		expect(t, w, "0s 01 10.0.0.100", "0s 01 10.0.0.101")
	})
}

func TestNothingGoesOutAfterSetHasReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWire(eth0)
		w.block = make(chan struct{})
		a, stop := run(t, w, Options{})
		defer stop()
		set(t, a, claim, Claim{"eth0", vip2}, Claim{"eth0", vip6})
		synctest.Wait() // the first announcement is on its way, and holds the lock
		done := make(chan error)
		go func() { done <- a.Set(nil) }()
		close(w.block)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		w.take()
		sleep(time.Hour)
		expect(t, w)
	})
}

func TestInterfaceComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		h := slog.NewTextHandler(&log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})
		var told []string
		w := newFakeWire()
		a, stop := run(t, w, Options{Burst: []time.Duration{0, time.Second}, Refresh: 10 * time.Second, Log: slog.New(h),
			Notify: func(iface string, err error) { told = append(told, fmt.Sprint(iface, ": ", err)) }})
		defer stop()
		set(t, a, claim)
		sleep(time.Minute)
		expect(t, w) // missing

		down := eth0
		down.up = false
		w.change(down)
		sleep(time.Minute)
		expect(t, w) // without carrier

		w.change(eth0)
		sleep(5 * time.Second)
		expect(t, w, "0s 01 10.0.0.100", "1s 01 10.0.0.100")

		w.change(eth0) // a message that says nothing new
		sleep(time.Second)
		expect(t, w)

		other := eth0
		other.mac[5] = 7 // a new MAC: neighbours must hear at once
		w.change(other)
		sleep(2 * time.Second)
		expect(t, w, "0s 07 10.0.0.100", "1s 07 10.0.0.100")

		renamed := other
		renamed.name = "lan0"
		w.change(renamed)
		sleep(20 * time.Second)
		expect(t, w)
		w.change(other)
		sleep(2 * time.Second)
		expect(t, w, "0s 07 10.0.0.100", "1s 07 10.0.0.100")

		w.change(link{index: other.index, name: other.name, gone: true})
		sleep(20 * time.Second)
		expect(t, w)
		again := other
		again.index = 9
		again.ethernet = false
		w.change(again)
		sleep(20 * time.Second)
		expect(t, w)

		want := []string{"eth0: there is no such interface", "eth0: the interface is down or has no carrier", "eth0: <nil>",
			"eth0: there is no such interface", "eth0: <nil>", "eth0: there is no such interface", "eth0: the interface does not speak Ethernet"}
		if !slices.Equal(told, want) {
			t.Errorf("told:\n%q\nwant:\n%q", told, want)
		}
		const wantLog = `level=WARN msg="addresses cannot be announced on interface" interface=eth0 error="there is no such interface"
level=WARN msg="addresses cannot be announced on interface" interface=eth0 error="the interface is down or has no carrier"
level=INFO msg="address announced" address=10.0.0.100 interface=eth0
level=INFO msg="interface announces again" interface=eth0
`
		if !strings.HasPrefix(log.String(), wantLog) {
			t.Errorf("log:\n%s\nwant it to begin with:\n%s", &log, wantLog)
		}
	})
}

func TestSendFailuresAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWire(eth0)
		w.sendErr = errors.New("no buffer space")
		a, stop := run(t, w, Options{})
		defer stop()
		set(t, a, claim)
		sleep(500 * time.Millisecond)
		w.mu.Lock()
		w.sendErr = nil
		w.mu.Unlock()
		sleep(time.Minute)
		expect(t, w, "1s 01 10.0.0.100", "3s 01 10.0.0.100")
		if s := a.Stats(); s != (Stats{Announcements: 2, Failures: 3}) {
			t.Errorf("got %+v", s)
		}
	})
}

// The kernel drops link messages when they come faster than they are read.
func TestLostLinkMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWire(eth0)
		a, stop := run(t, w, Options{Burst: []time.Duration{0}})
		defer stop()
		set(t, a, claim)
		synctest.Wait()
		expect(t, w, "0s 01 10.0.0.100")

		w.mu.Lock()
		w.failing = errors.New("too many open files")
		w.links[0].mac[5] = 2
		close(w.updates)
		w.mu.Unlock()
		sleep(10 * time.Second)
		expect(t, w)
		w.mu.Lock()
		w.failing = nil
		w.mu.Unlock()
		sleep(time.Second)
		if got := w.take(); len(got) != 1 || !strings.HasSuffix(got[0], " 02 10.0.0.100") {
			t.Errorf("got %q", got)
		}
	})
}

func TestMissedStepsAreNotMadeUpFor(t *testing.T) {
	now := time.Unix(1000, 0)
	var s schedule
	s.begin(now, DefaultBurst)
	s.advance(now.Add(500*time.Millisecond), DefaultBurst, DefaultRefresh) // the 100 ms and 300 ms steps were missed
	if got := s.due.Sub(now); got != time.Second {
		t.Errorf("due after %s", got)
	}
	s.advance(now.Add(time.Hour), DefaultBurst, DefaultRefresh)
	if got := s.due.Sub(now); got != time.Hour+time.Minute {
		t.Errorf("due after %s", got)
	}
}

func TestRefused(t *testing.T) {
	a, err := newAnnouncer(Options{}, newFakeWire())
	if err != nil {
		t.Fatal(err)
	}
	set(t, a, claim)
	for _, bad := range []Claim{{"", vip}, {"eth0", netip.Addr{}}, {"eth0", netip.MustParseAddr("0.0.0.0")}, {"eth0", netip.MustParseAddr("224.0.0.1")},
		{"eth0", netip.MustParseAddr("::1")}, {"eth0", netip.MustParseAddr("::ffff:10.0.0.1")}, {"eth0", netip.MustParseAddr("fe80::1%eth0")}} {
		if err := a.Set([]Claim{claim, bad}); err == nil {
			t.Errorf("%v is accepted", bad)
		}
	}
	if err := a.Set(make([]Claim, MaxClaims+1)); err == nil {
		t.Error("too many claims are accepted")
	}
	if len(a.claims) != 1 {
		t.Errorf("a refused set has changed the claims: %v", a.claims)
	}
	for _, bad := range []Options{{Refresh: time.Millisecond}, {Burst: []time.Duration{}}, {Burst: []time.Duration{time.Second, 0}}, {Burst: []time.Duration{-1}}} {
		if _, err := NewAnnouncer(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
}
