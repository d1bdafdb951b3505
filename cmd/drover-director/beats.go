package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"sync"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/health"
)

const (
	// forgetAfter is after how long without a beat what an agent said last is forgotten.
	forgetAfter = time.Minute
	// maxAgents bounds the agents that are remembered.
	maxAgents = 10000
)

// lateAfter is after how long without a beat an agent is late: one that was a little late, or lost, costs a probe more.
func (x *beat) lateAfter() time.Duration { return x.Every() + x.Every()/4 }

// silentAfter is after how long without a beat an agent is not heard any more: two have been lost, which is
// enough to ask its services.
func (x *beat) silentAfter() time.Duration { return x.Every()*2 + x.Every()/20 }

// beats hears the agents of real servers, and tells the checks what they say.
type beats struct {
	health *health.Engine

	mu     sync.Mutex       // guards what follows
	agents map[string]*beat // by node
}

// beat is what an agent said last.
type beat struct {
	api.Beat
	when   time.Time
	late   bool
	silent bool
}

func newBeats(h *health.Engine) *beats { return &beats{health: h, agents: make(map[string]*beat)} }

// hear takes in a beat.
func (b *beats) hear(from string, message []byte) {
	now := &beat{when: time.Now()}
	if json.Unmarshal(message, &now.Beat) != nil || !now.Address.IsValid() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.agents[from]
	if old == nil && len(b.agents) >= maxAgents {
		return
	}
	b.agents[from] = now
	if now.Load != nil && *now.Load >= 0 {
		b.health.SetLoad(now.Address, float64(*now.Load)/1000, now.when, now.Every())
	}
	if old == nil || old.late || old.Address != now.Address || !maps.Equal(old.Down, now.Down) {
		b.tell()
	}
}

// tell tells the checks; mu is held.
func (b *beats) tell() {
	agents := make(map[netip.Addr]health.Agent, len(b.agents))
	for _, x := range b.agents {
		agents[x.Address] = health.Agent{Down: x.Down, Late: x.late, Silent: x.silent}
	}
	b.health.SetAgents(agents)
}

// run looks who is late or has fallen silent, until ctx ends.
func (b *beats) run(ctx context.Context) {
	const idle = api.BeatEvery // until the first is heard
	timer := time.NewTimer(idle)
	defer timer.Stop()
	due := time.Now().Add(idle)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		now := time.Now()
		next := now.Add(idle)
		if now.Sub(due) < idle { // else this process did not run, and what it was sent is still to be read
			next = b.look(now)
		}
		due = next
		timer.Reset(time.Until(next))
	}
}

// look notes who is late or has fallen silent, and returns when the next may be.
func (b *beats) look(now time.Time) (next time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	next = now.Add(api.BeatEvery) // one that is heard first now is late later
	for name, x := range b.agents {
		age := now.Sub(x.when)
		if age > forgetAfter {
			delete(b.agents, name)
			changed = true
			continue
		}
		late, silent := age >= x.lateAfter(), age >= x.silentAfter()
		changed = changed || late != x.late || silent != x.silent
		x.late, x.silent = late, silent
		for _, at := range []time.Time{x.when.Add(x.lateAfter()), x.when.Add(x.silentAfter())} {
			if at.After(now) && at.Before(next) {
				next = at
			}
		}
	}
	if changed {
		b.tell()
	}
	return next
}
