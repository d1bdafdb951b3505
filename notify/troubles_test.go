package notify

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/notify/sink"
)

// picky takes what f says.
type picky struct{ f func(*Event) error }

func (p *picky) most() int                                   { return 1 }
func (p *picky) said() string                                { return "" }
func (p *picky) send(_ context.Context, list []*Event) error { return p.f(list[0]) }

// running is a notifier with sinks that take every kind of event.
func running(t *testing.T, o Options, f func(*Event) error, names ...string) (n *Notifier, stop func()) {
	t.Helper()
	n, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	n.sender = func(*sink.Sink) sender { return &picky{f} }
	var list []sink.Sink
	for _, name := range names {
		list = append(list, sink.Sink{Name: name, Events: sink.Kinds, Timeout: time.Second, RetryFor: time.Hour, Script: &sink.Script{}})
	}
	n.Set(list)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.Run(ctx)
	}()
	return n, func() { cancel(); <-done }
}

// A sink that has refused one event for good is told the next one, also at a stop.
func TestStopAfterARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, stop := running(t, Options{}, func(e *Event) error {
			if e.Kind == sink.Health {
				return &refused{errors.New("400")}
			}
			time.Sleep(100 * time.Millisecond)
			return nil
		}, "a")
		n.Add(Event{ID: "x", Time: time.Now(), Kind: sink.Health})
		time.Sleep(time.Minute)
		n.Add(Event{ID: "y", Time: time.Now(), Kind: sink.Role})
		n.Add(Event{ID: "z", Time: time.Now(), Kind: sink.Role})
		stop()
		if st := n.Status()[0]; st.Sent != 2 || st.Dropped != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// The troubles of two sinks, each of which is told of the other's, do not go round for ever.
func TestTroublesDoNotGoRound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var troubles, tries atomic.Int64
		var n *Notifier
		o := Options{Trouble: func(_ slog.Level, name, text string) {
			if troubles.Add(1) < 1000 {
				n.Add(Event{ID: text, Time: time.Now(), Kind: sink.Notify, Sink: name, Text: text})
			}
		}}
		n, stop := running(t, o, func(*Event) error {
			if tries.Add(1)%2 == 0 {
				return nil
			}
			return &refused{errors.New("404")} // one of two back ends
		}, "a", "b")
		n.Add(Event{ID: "x", Time: time.Now(), Kind: sink.Role})
		time.Sleep(10 * time.Minute)
		if got := troubles.Load(); got == 0 || got > 4*11 {
			t.Errorf("%d troubles in ten minutes, from %d tries", got, tries.Load())
		}
		stop()
	})
}

// A connection that is gone without a word, as behind a firewall that has failed over, is not tried again.
func TestDeadConnection(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var conns atomic.Int64
	var dead atomic.Bool
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			first := conns.Add(1) == 1
			b, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				return
			}
			pass := func(to, from net.Conn) {
				defer to.Close()
				buf := make([]byte, 4096)
				for {
					n, err := from.Read(buf)
					if err != nil {
						return
					}
					if first && dead.Load() {
						continue // forgotten
					}
					if _, err := to.Write(buf[:n]); err != nil {
						return
					}
				}
			}
			go pass(b, c)
			go pass(c, b)
		}
	}()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWebhook(&sink.Webhook{URL: "https://" + l.Addr().String() + "/", CA: ca}, "x")
	list := []*Event{{ID: "1", Kind: sink.Role, Time: time.Now()}}
	if err := try(t.Context(), 10*time.Second, w, list); err != nil {
		t.Fatal(err)
	}
	dead.Store(true)
	if err := try(t.Context(), 200*time.Millisecond, w, list); err == nil {
		t.Error("taken over a dead connection")
	}
	if err := try(t.Context(), 10*time.Second, w, list); err != nil || conns.Load() != 2 {
		t.Errorf("after that: %v, %d connections", err, conns.Load())
	}
}
