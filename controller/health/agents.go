package health

import (
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/drover-lb/drover/controller/spec"
)

// Agent is what the agent of a real server says, and whether it can be heard.
type Agent struct {
	// Down says why services of the host are down, by their keys as text, such as "TCP 192.0.2.10:80".
	Down map[string]string
	// Late: it was heard, and is overdue. Its services are probed at once, and the results count as always, so that
	// something is known of them when it is silent.
	Late bool
	// Silent: it is not heard any more. That alone means nothing; but then the first probe that fails counts.
	Silent bool
}

// overdue reports whether an agent is late or silent.
func (a *Agent) overdue() bool { return a.Late || a.Silent }

// silentTimeout bounds the probe of a server whose agent has fallen silent.
const silentTimeout = 150 * time.Millisecond

// SetAgents says what the agents of real servers say, by the servers' addresses. Servers without an agent are not in
// it. The map is not to be changed any more.
func (e *Engine) SetAgents(agents map[netip.Addr]Agent) {
	e.mu.Lock()
	same := maps.EqualFunc(e.agents, agents, func(a, b Agent) bool { return a.Late == b.Late && a.Silent == b.Silent && maps.Equal(a.Down, b.Down) })
	e.agents = agents
	e.heard = e.heard || !same
	e.mu.Unlock()
	if !same {
		nudge(e.wake)
	}
}

// hear takes in what agents say: services are judged anew, and servers whose agents have fallen silent are probed at
// once.
func (e *Engine) hear(agents map[netip.Addr]Agent, now time.Time) {
	for k, svc := range e.services {
		for j := range svc.spec.RealServers {
			a := svc.spec.RealServers[j].Addr
			was, is := e.known[a], agents[a]
			if !maps.Equal(was.Down, is.Down) {
				e.dirty[k] = true
			}
			for _, t := range svc.targets[j] {
				t.silent = is.Silent
				if is.overdue() && !was.overdue() {
					e.hurry(t, now)
				}
				if is.Silent && !was.Silent {
					e.press(t, now)
				}
			}
		}
	}
	e.known = agents
	e.judged = time.Time{}
}

// hurry has a target probed now, unless a probe is under way.
func (e *Engine) hurry(t *target, now time.Time) {
	if t.cancel == nil && t.due.After(now) {
		t.due = now
		e.reorder = true
	}
}

// press has something known of a target soon: a probe that is under way has as much time in all as one that begins now.
func (e *Engine) press(t *target, now time.Time) {
	if t.cancel == nil {
		e.hurry(t, now)
		return
	}
	time.AfterFunc(t.began.Add(silentTimeout).Sub(now), t.cancel) // at once if that is past
}

// timeout bounds a probe.
func (t *target) timeout() time.Duration {
	if t.silent {
		return min(t.Check.Timeout, silentTimeout)
	}
	return t.Check.Timeout
}

// said is what the agent of a server says about a service, on top of what the checks say.
func (e *Engine) said(s *spec.Service, addr netip.Addr, x Track, now time.Time) Track {
	a := e.known[addr]
	why := a.Down[s.Key.String()]
	switch {
	case why != "":
		if x.State != Down {
			x.Since = now
		}
		x.State, x.Reason = Down, "service down: "+why+" (its agent)"
	case a.Silent && x.State == Down:
		x.Reason = fmt.Sprintf("host gone: its agent is not heard; %s", x.Reason)
	}
	return x
}
