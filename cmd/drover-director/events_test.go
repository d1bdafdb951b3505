package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/health"
)

func texts(list []api.Event) string {
	var out []string
	for _, e := range list {
		out = append(out, fmt.Sprintf("%d %s %s", e.Seq, e.Kind, e.Text))
	}
	return strings.Join(out, ", ")
}

func TestEvents(t *testing.T) {
	var logged bytes.Buffer
	e := newEvents(slog.New(slog.NewTextHandler(&logged, nil)))
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if got := e.after(over, 0); got == nil || len(got) != 0 { // nil would be null in JSON
		t.Errorf("at first: %#v", got)
	}
	e.add(slog.LevelWarn, "tracker", "interface %s has no carrier", "eth0")
	e.add(slog.LevelDebug, "role", "active")
	for after, want := range map[uint64]string{
		0: "1 tracker interface eth0 has no carrier, 2 role active", 1: "2 role active", 2: "",
		3: "1 tracker interface eth0 has no carrier, 2 role active", // of a former life
	} {
		if got := texts(e.after(over, after)); got != want {
			t.Errorf("after %d: %s, want %s", after, got, want)
		}
	}
	if got := logged.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, `level=WARN msg="interface eth0 has no carrier" event=tracker`) {
		t.Errorf("logged %s", got)
	}
}

func TestEventsAreBounded(t *testing.T) {
	e := newEvents(slog.New(slog.DiscardHandler))
	for i := range maxEvents + 5 {
		e.add(slog.LevelInfo, "x", "%d", i+1)
	}
	got := e.after(t.Context(), 0)
	if len(got) != maxEvents || got[0].Seq != 6 || got[maxEvents-1].Seq != maxEvents+5 {
		t.Fatalf("%d events, from %d", len(got), got[0].Seq)
	}
	for i, x := range got {
		if x.Seq != uint64(i+6) || x.Text != fmt.Sprint(x.Seq) {
			t.Fatalf("event %d of the list: %+v", i, x)
		}
	}
	// What was handed out does not change with what comes.
	e.add(slog.LevelInfo, "x", "new")
	if got[0].Seq != 6 || got[0].Text != "6" {
		t.Errorf("the first is now %+v", got[0])
	}
}

// A rack that goes down does not make the others forgotten.
func TestRealServersDoNotCrowdOut(t *testing.T) {
	e := newEvents(slog.New(slog.DiscardHandler))
	server := func(kind, text string) {
		e.put(slog.LevelInfo, api.Event{Kind: kind, Service: "web", Text: text}, true)
	}
	server("health", "first")
	for i := range 10 {
		e.add(slog.LevelInfo, "role", "%d", i)
	}
	for i := range 5 * maxEvents {
		server([]string{"health", "drain", "weights"}[i%3], fmt.Sprint(i))
	}
	got := e.after(t.Context(), 0)
	if len(got) != maxEvents || got[0].Text != "0" || got[9].Kind != "role" || got[10].Text != fmt.Sprint(4*maxEvents+10) || got[maxEvents-1].Text != fmt.Sprint(5*maxEvents-1) {
		t.Errorf("%d events: %+v, %+v, %+v", len(got), got[0], got[10], got[len(got)-1])
	}
	for i := range maxEvents { // and the others do not make those forgotten
		e.add(slog.LevelInfo, "spec", "%d", i)
	}
	got = e.after(t.Context(), 0)
	crowd := 0
	for i, x := range got {
		if ofServers(x) {
			crowd++
		}
		if i > 0 && x.Seq <= got[i-1].Seq {
			t.Fatalf("%d comes after %d", x.Seq, got[i-1].Seq)
		}
	}
	if len(got) != maxEvents || crowd != e.crowd || crowd > maxEvents/2 {
		t.Errorf("%d events, %d about real servers, counted %d", len(got), crowd, e.crowd)
	}
}

func TestEventsAreWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEvents(slog.New(slog.DiscardHandler))
		e.add(slog.LevelInfo, "a", "old")
		got := make(chan []api.Event)
		for range 2 { // askers do not take events from each other
			go func() { got <- e.after(t.Context(), 1) }()
		}
		synctest.Wait()
		select {
		case x := <-got:
			t.Fatalf("did not wait: %v", x)
		default:
		}
		e.add(slog.LevelInfo, "b", "new")
		for range 2 {
			if x := texts(<-got); x != "2 b new" {
				t.Errorf("got %s", x)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		if x := e.after(ctx, 2); len(x) != 0 || time.Since(begin) != time.Minute {
			t.Errorf("after %s: %v", time.Since(begin), x)
		}
	})
}

// What a load has come to is of a kind of its own.
func TestEventsOfWeights(t *testing.T) {
	e := newEvents(slog.New(slog.DiscardHandler))
	e.health(health.Event{Service: "web", Server: "web1", Text: "adaptive weight, 50% of the configured one", Weight: true})
	e.health(health.Event{Service: "web", Server: "web1", State: "down", Text: "is down: x", Bad: true})
	got := ""
	for _, x := range e.after(t.Context(), 0) {
		got += x.Kind + " " + x.Level + " " + x.Text + "; "
	}
	if want := "weights info web: web1 adaptive weight, 50% of the configured one; health warn web: web1 is down: x; "; got != want {
		t.Errorf("got %s", got)
	}
}
