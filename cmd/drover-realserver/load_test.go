package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/clustertest"
	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/cmd/internal/gossip/gossiptest"
	"github.com/drover-lb/drover/realserver"
	"github.com/drover-lb/drover/realserver/load"
)

// Loads are told as long as a director asks for those of the pool, and beats only then, if nothing else asks for them.
func TestLoadIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net clustertest.Network
		n, _ := gossiptest.Join(t, &net, "r1", cluster.RealServer)
		var beats, loads atomic.Int64
		hear := func(_ string, message []byte) {
			var b api.Beat
			if err := json.Unmarshal(message, &b); err != nil {
				t.Error(err)
			}
			beats.Add(1)
			if b.Load != nil {
				loads.Add(1)
			}
		}
		d, _ := gossiptest.JoinWith(t, &net, "d1", cluster.Director, func(n *cluster.Node) { n.Handle(gossip.KindBeat, hear) }, n.Address().String())
		asks := func(pools ...string) {
			t.Helper()
			b, err := json.Marshal(api.Director{Adaptive: pools})
			if err == nil {
				err = d.Publish(gossip.DirectorRecord, b)
			}
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second) // the gossip settles
		}
		m := &member{log: slog.New(slog.DiscardHandler), node: n, tell: make(chan struct{}, 1), reload: make(chan struct{}, 1)}
		var cfg atomic.Pointer[realserver.Config]
		set := func(l *load.Config) {
			cfg.Store(&realserver.Config{Pool: "web", Address: netip.MustParseAddr("10.0.0.11"), Load: l, Cluster: &settings.Options{
				Voters: []settings.Voter{{Name: "d1", Address: d.Address(), Director: true}}}})
			m.reload <- struct{}{}
		}
		set(&load.Config{Source: load.RunQueue, Interval: time.Second, Timeout: time.Second, Full: 1})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			m.watchLoad(ctx, cfg.Load)
			close(done)
		}()
		in10s := func(what string, wantBeats, wantLoads int64) {
			t.Helper()
			select {
			case m.reload <- struct{}{}: // as follow does with each record
			default:
			}
			time.Sleep(500 * time.Millisecond)
			beats.Store(0)
			loads.Store(0)
			time.Sleep(10 * time.Second)
			if b, l := beats.Load(), loads.Load(); b != wantBeats || l != wantLoads {
				t.Errorf("%s: %d beats with %d loads, want %d and %d", what, b, l, wantBeats, wantLoads)
			}
		}
		asks("mail")
		in10s("nobody asks", 0, 0)
		asks("mail", "web")
		in10s("a director asks", 10, 10)
		m.beating.Store(true)
		in10s("beats are sent anyway", 0, 0)
		if m.load.Load() == nil {
			t.Error("those beats have no load")
		}
		m.beating.Store(false)
		set(&load.Config{Source: load.HTTP, URL: "http://127.0.0.1:1/", Interval: 2 * time.Second, Timeout: time.Second, Full: 1})
		in10s("it cannot be measured", 5, 0)
		set(nil)
		in10s("the file says nothing of it any more", 0, 0)
		asks()
		cancel()
		<-done
	})
}
