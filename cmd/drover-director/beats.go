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
	// silentAfter is after how long without a beat an agent is not heard any more: three have been lost.
	silentAfter = 3*api.BeatEvery + api.BeatEvery/5
	// forgetAfter is after how long without a beat what an agent said last is forgotten.
	forgetAfter = time.Minute
	// beatsEvery is how often it is looked who has fallen silent.
	beatsEvery = api.BeatEvery / 5
	// maxAgents bounds the agents that are remembered.
	maxAgents = 10000
)

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
	if old == nil || old.silent || old.Address != now.Address || !maps.Equal(old.Down, now.Down) {
		b.tell()
	}
}

// tell tells the checks; mu is held.
func (b *beats) tell() {
	agents := make(map[netip.Addr]health.Agent, len(b.agents))
	for _, x := range b.agents {
		agents[x.Address] = health.Agent{Down: x.Down, Silent: x.silent}
	}
	b.health.SetAgents(agents)
}

// run looks who has fallen silent, until ctx ends.
func (b *beats) run(ctx context.Context) {
	tick := time.NewTicker(beatsEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(last) < silentAfter/2 { // else this process did not run, and what it was sent is still to be read
			b.look(now)
		}
		last = now
	}
}

func (b *beats) look(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for name, x := range b.agents {
		switch age := now.Sub(x.when); {
		case age > forgetAfter:
			delete(b.agents, name)
			changed = true
		case age > silentAfter && !x.silent:
			x.silent, changed = true, true
		}
	}
	if changed {
		b.tell()
	}
}
