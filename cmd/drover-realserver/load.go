package main

import (
	"context"
	"math"
	"slices"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/realserver"
	"github.com/drover-lb/drover/realserver/load"
)

// maxLoad bounds a load as it is told, in thousandths.
const maxLoad = 1_000_000

// watchLoad measures the load of this host, and tells the directors, as long as one of them asks for it and the file says
// how. It goes with the beats where those are sent for the services of the host already, and costs no more messages.
func (m *member) watchLoad(ctx context.Context, cfg func() *realserver.Config) {
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	var meter *load.Meter
	var by *load.Config // of meter
	stop := func() {
		if meter != nil {
			meter.Close()
		}
		meter, by = nil, nil
		m.load.Store(nil)
	}
	defer stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.reload:
			want := cfg().Load
			if want != nil && !m.loadWanted(cfg().Pool) {
				want = nil
			}
			if want == by {
				continue
			}
			timer.Stop()
			stop()
			if want != nil {
				meter, by = load.New(want), want
				timer.Reset(m.loadInterval(by))
			}
			continue
		case <-timer.C:
		}
		if meter == nil {
			continue // a tick that was on its way
		}
		c := cfg()
		every := m.loadInterval(by)
		timer.Reset(every)
		x, err := meter.Measure(ctx, time.Now())
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			m.load.Store(nil)
			if err.Error() != failed {
				m.log.Warn("the load of this host is not known; after a while the directors go by its weight alone", "source", by.Source, "error", err)
			}
			failed = err.Error()
		default:
			if failed != "" {
				m.log.Info("the load of this host is known again", "source", by.Source)
			}
			failed = ""
			n := int64(math.Round(min(x*1000, maxLoad)))
			m.load.Store(&n)
		}
		if !m.beating.Load() {
			m.beat(c, every)
		}
	}
}

// loadInterval is how often the load is measured and told: in a large cluster no more often than beats are sent.
func (m *member) loadInterval(c *load.Config) time.Duration {
	return max(c.Interval, api.BeatInterval(len(m.node.Members())))
}

// loadWanted reports whether a director asks for the loads of a pool.
func (m *member) loadWanted(pool string) bool {
	if pool == "" {
		return false
	}
	for r, d := range m.directors() {
		if r.State == cluster.Alive && slices.Contains(d.Adaptive, pool) {
			return true
		}
	}
	return false
}
