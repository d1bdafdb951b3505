package probe

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"regexp"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// freePort is an address of the loopback interface on which nobody listens yet.
func freePort(t *testing.T, network string) netip.AddrPort {
	t.Helper()
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.LocalAddr().(*net.UDPAddr).AddrPort()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// measure runs a probe against a back end until enough events of a kind have come.
func measure(t *testing.T, serve func(context.Context, *Writer) error, ask func(context.Context, *Writer), kind Kind, enough int) *Series {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	ready := NewSeries()
	served := make(chan error, 1)
	collect := func(s *Series, each func(Event)) (*Writer, func()) {
		r, w := io.Pipe()
		read := make(chan struct{})
		go func() {
			defer close(read)
			_ = ReadEvents(r, func(e Event) { s.Add(e); each(e) })
		}()
		return NewWriter(w), func() { w.Close(); <-read }
	}
	if serve != nil {
		w, _ := collect(ready, func(Event) {})
		go func() { served <- serve(ctx, w) }()
		select {
		case <-ready.Ready():
		case err := <-served:
			t.Fatalf("the back end ended: %v", err)
		case <-ctx.Done():
			t.Fatal("the back end is not ready")
		}
	}
	seen := NewSeries()
	asking, stop := context.WithCancel(ctx)
	n := 0
	w, drain := collect(seen, func(e Event) {
		if e.Kind == kind {
			if n++; n == enough {
				stop()
			}
		}
	})
	ask(asking, w)
	drain()
	if ctx.Err() != nil {
		t.Fatalf("not %d events of kind %s in time: %+v", enough, kind, seen.Events())
	}
	return seen
}

func TestConnectNamesServerAndClient(t *testing.T) {
	ap := freePort(t, "tcp")
	s := measure(t, func(ctx context.Context, w *Writer) error { return HTTP(ctx, w, HTTPOptions{Listen: ap}) },
		func(ctx context.Context, w *Writer) { Connect(ctx, w, ap, 5*time.Millisecond, time.Second) }, OK, 20)
	got := s.Connections(Window{0, Now()})
	if got.OK < 20 || got.Failed != 0 || len(got.Servers()) != 1 {
		t.Errorf("got %+v", got)
	}
	for _, e := range s.Events() {
		if e.Kind == OK && netip.MustParseAddrPort(e.Client).Addr() != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("the server saw client %q", e.Client)
		}
	}
}

func TestConnectTellsRefusalFromSilence(t *testing.T) {
	ap := freePort(t, "tcp")
	s := measure(t, nil, func(ctx context.Context, w *Writer) { Connect(ctx, w, ap, 5*time.Millisecond, time.Second) }, Fail, 5)
	if got := s.Connections(Window{0, Now()}); got.OK != 0 || got.Errors["refused"] < 5 {
		t.Errorf("got %+v", got)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, in the kernel, and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	silent := l.Addr().(*net.TCPAddr).AddrPort()
	s = measure(t, nil, func(ctx context.Context, w *Writer) { Connect(ctx, w, silent, 5*time.Millisecond, 50*time.Millisecond) }, Fail, 5)
	if got := s.Connections(Window{0, Now()}); got.OK != 0 || got.Errors["timeout"] < 5 {
		t.Errorf("got %+v", got)
	}
}

func TestDatagrams(t *testing.T) {
	ap := freePort(t, "udp")
	s := measure(t, func(ctx context.Context, w *Writer) error { return UDPEcho(ctx, w, ap) },
		func(ctx context.Context, w *Writer) { Datagrams(ctx, w, ap, 5*time.Millisecond, time.Second) }, OK, 20)
	if got := s.Connections(Window{0, Now()}); got.OK < 20 || got.Failed != 0 {
		t.Errorf("got %+v", got)
	}
}

// Streams with a lifetime are opened again and again, and are not broken by that; one that cannot be opened again is.
func TestStreamsWithALifetime(t *testing.T) {
	ap := freePort(t, "tcp")
	var opened atomic.Int64
	var closed atomic.Int64
	s := measure(t, func(ctx context.Context, w *Writer) error {
		l, err := net.Listen("tcp", ap.String())
		if err != nil {
			return err
		}
		defer l.Close()
		w.Write(Event{Kind: Ready, At: Now()})
		for opened.Load() < 30 {
			c, err := l.Accept()
			if err != nil {
				return err
			}
			opened.Add(1)
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
		closed.Store(int64(Now()))
		l.Close()
		<-ctx.Done()
		return nil
	}, func(ctx context.Context, w *Writer) {
		Stream(ctx, w, StreamOptions{ap, 3, 5 * time.Millisecond, time.Second, 30 * time.Millisecond})
	}, Broken, 3)
	if got := s.Streams(Window{0, time.Duration(closed.Load())}); closed.Load() == 0 || got.Broken != 0 {
		t.Errorf("before the end: %+v", got)
	}
	if got := s.Streams(Window{0, Now()}); got.Broken != 3 || got.Alive != 0 {
		t.Errorf("%+v", got)
	}
}

func TestStreamsSeeABreak(t *testing.T) {
	ap := freePort(t, "tcp")
	s := measure(t, func(ctx context.Context, w *Writer) error { return Echo(ctx, w, ap) },
		func(ctx context.Context, w *Writer) {
			Stream(ctx, w, StreamOptions{ap, 3, 5 * time.Millisecond, time.Second, 0})
		}, Tick, 10)
	if got := s.Streams(Window{0, Now()}); got.Alive != 3 || got.Broken != 0 {
		t.Errorf("got %+v", got)
	}
	// A server that ends its connections after a while.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.CopyN(c, c, 40)
				c.Close()
			}()
		}
	}()
	s = measure(t, nil, func(ctx context.Context, w *Writer) {
		Stream(ctx, w, StreamOptions{l.Addr().(*net.TCPAddr).AddrPort(), 3, 5 * time.Millisecond, time.Second, 0})
	}, Broken, 3)
	if got := s.Streams(Window{0, Now()}); got.Broken != 3 || got.Alive != 0 {
		t.Errorf("got %+v", got)
	}
}

// A back end with a service time serves as many at once as it has workers, the others wait; and it says how many there
// are.
func TestServiceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(&HTTPOptions{ServiceTime: 100 * time.Millisecond, Workers: 2}, time.Now())
		start := time.Now()
		ended := make(chan time.Duration, 5)
		for range 5 {
			go func() {
				d.serve(t.Context())
				ended <- time.Since(start)
			}()
		}
		gone, cancel := context.WithCancel(t.Context())
		go d.serve(gone)
		synctest.Wait()
		cancel() // it waits for a worker, or it has one
		var got []time.Duration
		for range 5 {
			got = append(got, (<-ended).Round(time.Millisecond))
		}
		if first, last := got[0], got[4]; first != 100*time.Millisecond || last > 300*time.Millisecond || last < 200*time.Millisecond {
			t.Errorf("ended at %v", got)
		}
		time.Sleep(time.Until(start.Add(time.Second)))
		// Five of 0.1 to 0.3 s in a second, by two workers: (2*0.1+2*0.2+0.3)/2, and the sixth.
		if load := d.load(time.Now()); load < 0.4 || load > 0.65 {
			t.Errorf("load %v", load)
		}
		time.Sleep(time.Second)
		if load := d.load(time.Now()); load != 0 || d.load(time.Now()) != 0 {
			t.Errorf("load %v when idle", load)
		}
	})
}

func TestLoadPage(t *testing.T) {
	ap := freePort(t, "tcp")
	measure(t, func(ctx context.Context, w *Writer) error {
		return HTTP(ctx, w, HTTPOptions{Listen: ap, ServiceTime: time.Millisecond})
	}, func(ctx context.Context, w *Writer) {
		Connect(ctx, w, ap, 5*time.Millisecond, time.Second)
		resp, err := http.Get("http://" + ap.String() + LoadPage)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		if b, err := io.ReadAll(resp.Body); err != nil || !regexp.MustCompile(`^\d+\.\d{3}\n$`).Match(b) {
			t.Errorf("the page says %q, %v", b, err)
		}
	}, OK, 5)
}
