package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/controller/health"
)

// shareEvery is the least time between two tellings of what the checks find.
const shareEvery = 100 * time.Millisecond

// viewed notes that the checks may have found something new.
func (m *member) viewed() { nudge(m.reshare) }

// share tells the other directors what the checks of an active one find, until ctx ends.
func (m *member) share(ctx context.Context) {
	var told uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.reshare:
		}
		if !m.leads() {
			told = 0
			continue
		}
		n := m.health.Revision()
		if n == told {
			continue
		}
		told = n
		m.mu.Lock()
		f := m.effective()
		m.mu.Unlock()
		b, err := json.Marshal(health.Share(&f.Spec, m.health.View(), time.Now()))
		if err == nil {
			err = m.node.Publish(gossip.HealthRecord, b)
		}
		if err != nil {
			m.log.Warn("failed to tell the other directors what the checks find", "error", err)
		}
		select { // what else is found soon is told together
		case <-ctx.Done():
			return
		case <-time.After(shareEvery):
		}
	}
}

// leads reports whether this director is active for any group.
func (m *member) leads() bool {
	for _, s := range m.seats {
		if r, _, _ := s.get(); r.Role == election.Active {
			return true
		}
	}
	return false
}

// sharedBy remembers which record of an active director was taken in.
type sharedBy struct {
	node    string
	version cluster.Version
}

// takeShared takes in what an active director has told of its checks, if that is new.
func (m *member) takeShared(before sharedBy) sharedBy {
	others := m.others()
	for _, r := range m.node.Records() {
		if r.Key != gossip.HealthRecord || len(others[r.Node].Active) == 0 {
			continue
		}
		now := sharedBy{r.Node, r.Version}
		if now == before {
			return before
		}
		var s health.Shared
		if err := json.Unmarshal(r.Value, &s); err != nil {
			m.log.Warn("what another director says of its checks makes no sense", "director", r.Node, "error", err)
			return now
		}
		m.mu.Lock()
		f := m.effective()
		m.mu.Unlock()
		m.health.SetShared(s.View(&f.Spec, time.Now()))
		return now
	}
	if before != (sharedBy{}) {
		m.health.SetShared(nil)
	}
	return sharedBy{}
}
