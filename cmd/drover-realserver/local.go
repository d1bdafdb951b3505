package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/realserver"
	"github.com/drover-lb/drover/realserver/local"
)

// localEvery is how often the services of this host are looked after. Of the end of a listener there is no event.
const localEvery = api.BeatStep

// watchServices looks after the services of the pool at this host that have checks, and tells the directors: at once
// what changed, and in between that this host is alive. Where no service has checks nobody asks for it.
func (m *member) watchServices(ctx context.Context, cfg func() *realserver.Config) {
	look := time.NewTicker(localEvery)
	look.Stop() // until a director names a service
	records, end := m.node.WatchRecords()
	defer end()
	sockets, err := local.OpenSockets()
	if err != nil {
		m.log.Error("the services of this host are not looked after here", "error", err)
	} else {
		defer sockets.Close()
	}
	var tracker local.Tracker
	var failed string
	var services []local.Service
	every, next := api.BeatEvery, time.Time{}
	ticking := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-records: // those of this host among them: it says there of which pool it is
			services, every = m.services(cfg().Pool), api.BeatInterval(len(m.node.Members()))
			switch wanted := len(services) > 0; {
			case wanted && !ticking:
				look.Reset(localEvery)
			case !wanted && ticking:
				look.Stop()
				if _, changed := tracker.Step(nil, nil); changed {
					m.setDown(nil)
				}
			}
			ticking = len(services) > 0
			m.beating.Store(ticking)
			continue
		case <-look.C:
		}
		c := cfg()
		if len(services) == 0 {
			continue // a tick that was on its way
		}
		if sockets != nil {
			listeners, err := sockets.Listeners(services)
			switch {
			case err != nil:
				if err.Error() != failed {
					m.log.Error("the services of this host are not looked after here", "error", err)
				}
				failed = err.Error()
			default:
				failed = ""
				if down, changed := tracker.Step(services, listeners); changed {
					m.setDown(down)
					next = time.Time{}
				}
			}
		}
		if now := time.Now(); !now.Before(next) {
			m.beat(c, every)
			next = now.Add(every - localEvery/2) // a tick may come a moment early
		}
	}
}

// setDown notes which services are down, and has that published.
func (m *member) setDown(down map[local.Service]string) {
	words := make(map[string]string, len(down))
	for s, why := range down {
		words[s.String()] = why
	}
	old := m.down.Swap(&words)
	for _, s := range slices.Sorted(maps.Keys(words)) {
		if old == nil || (*old)[s] == "" {
			m.log.Warn("a service of this host is down", "service", s, "reason", words[s])
		}
	}
	if old != nil {
		for _, s := range slices.Sorted(maps.Keys(*old)) {
			if words[s] == "" {
				m.log.Info("a service of this host is there again", "service", s)
			}
		}
	}
	select {
	case m.tell <- struct{}{}:
	default:
	}
}

// beat tells each director that this host is alive, what is down, and when it will tell again.
func (m *member) beat(c *realserver.Config, every time.Duration) {
	b := api.Beat{Address: c.Address, EveryMS: every.Milliseconds(), Load: m.load.Load()}
	if down := m.down.Load(); down != nil {
		b.Down = *down
	}
	message, err := json.Marshal(b)
	if err != nil || len(message) > maxBeat { // the record says it too, a little later
		b.Down = nil
		if message, err = json.Marshal(b); err != nil {
			return
		}
	}
	for _, v := range c.Cluster.Voters {
		if x, ok := m.node.Member(v.Name); !v.Director || !ok || x.State != cluster.Alive {
			continue
		}
		if err := m.node.Send(v.Name, v.Address, gossip.KindBeat, message); err != nil {
			m.log.Debug("failed to tell a director that this host is alive", "director", v.Name, "error", err)
		}
	}
}

// maxBeat bounds a beat, in bytes.
const maxBeat = 1000

// services lists the services of a pool that directors name.
func (m *member) services(pool string) (out []local.Service) {
	if pool == "" {
		return nil
	}
	for r, d := range m.directors() {
		if r.State != cluster.Alive {
			continue
		}
		for _, text := range d.Services[pool] {
			if s, ok := parseService(text); ok && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// parseService reads "TCP 192.0.2.10:80". Services of other protocols, and of all ports, are not looked after here.
func parseService(text string) (s local.Service, ok bool) {
	protocol, at, _ := strings.Cut(text, " ")
	switch protocol {
	case "TCP":
		s.Protocol = local.TCP
	case "UDP":
		s.Protocol = local.UDP
	}
	var err error
	s.At, err = netip.ParseAddrPort(at)
	return s, err == nil && s.Protocol != 0 && s.At.Port() != 0
}
