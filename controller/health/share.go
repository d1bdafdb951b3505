package health

import (
	"fmt"
	"time"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// Memory is what a service remembers of a real server beside its state, so that another director can go on with it.
type Memory struct {
	Checks State     // what the checks say, without damping
	Flaps  int       // how often it went down of late
	Fell   time.Time // when it last did
	Hold   time.Time // it is not up before
	Ramp   time.Time // since when its weight grows; zero: it has it
	Factor float64   // of its weight, as loads ask for it; 0: none
}

// Shared is what an active director tells the others about the real servers of its services. It travels as JSON.
// Times are ages in milliseconds, as clocks differ: of what is to come they are negative.
type Shared struct {
	Services map[string]map[string]SharedServer `json:"services"` // by service and server, as text
}

// SharedServer is what is told about one real server.
type SharedServer struct {
	State  string `json:"s"`
	Checks string `json:"c,omitempty"` // if not the same as State
	Since  int64  `json:"t,omitempty"`
	Reason string `json:"r,omitempty"`
	Flaps  int    `json:"f,omitempty"`
	Fell   int64  `json:"fell,omitempty"`
	Hold   int64  `json:"hold,omitempty"`
	Ramp   int64  `json:"ramp,omitempty"`
	Factor int    `json:"w,omitempty"` // per mille of its weight, as loads ask for it; 0 is 1000
}

const (
	// maxShared is how many servers are told of; of further ones the other directors know what they find.
	maxShared = 300
	// maxSharedReason bounds a reason, in bytes.
	maxSharedReason = 100
)

var stateWords = map[string]State{"up": Up, "down": Down}

// Share is what is to be told about a view at now. Servers that are not simply up come first.
func Share(s *spec.Spec, v View, now time.Time) Shared {
	age := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return now.Sub(t).Milliseconds()
	}
	out := Shared{Services: make(map[string]map[string]SharedServer)}
	n := 0
	// What is not up comes first, then what is and has something to remember, then the others.
	for _, rank := range []int{0, 1, 2} {
		for i := range s.Services {
			svc := &s.Services[i]
			for j := range svc.RealServers {
				k := svc.RealServers[j].DestKey
				x := v.of(svc.Key, k)
				if x.State == Unknown || x.rank() != rank || n == maxShared {
					continue
				}
				n++
				one := SharedServer{State: x.State.String(), Since: age(x.Since), Reason: x.Reason[:min(len(x.Reason), maxSharedReason)],
					Flaps: x.Memory.Flaps, Fell: age(x.Memory.Fell), Ramp: age(x.Memory.Ramp),
					Factor: perMille(x.Memory.Factor)}
				if x.Memory.Checks != x.State {
					one.Checks = x.Memory.Checks.String()
				}
				if x.Memory.Hold.After(now) {
					one.Hold = age(x.Memory.Hold)
				}
				if out.Services[svc.Key.String()] == nil {
					out.Services[svc.Key.String()] = make(map[string]SharedServer)
				}
				out.Services[svc.Key.String()][k.String()] = one
			}
		}
	}
	return out
}

// rank is 0 for what a standby has to know first, 2 for what it would take for granted.
func (v *Verdict) rank() int {
	switch {
	case v.State != Up || v.Memory.Flaps > 0 || !v.Memory.Ramp.IsZero():
		return 0
	case perMille(v.Memory.Factor) != 0:
		return 1
	}
	return 2
}

// View is what s tells about the services of a spec, heard at now.
func (s *Shared) View(sp *spec.Spec, now time.Time) View {
	when := func(age int64) time.Time {
		if age == 0 {
			return time.Time{}
		}
		return now.Add(-time.Duration(age) * time.Millisecond)
	}
	v := make(View)
	for i := range sp.Services {
		svc := &sp.Services[i]
		told := s.Services[svc.Key.String()]
		if len(told) == 0 {
			continue
		}
		out := &Service{Servers: make(map[ipvs.DestKey]Verdict, len(told))}
		for j := range svc.RealServers {
			k := svc.RealServers[j].DestKey
			one, ok := told[k.String()]
			state := stateWords[one.State]
			if !ok || state == Unknown {
				continue
			}
			checks := state
			if one.Checks != "" {
				checks = stateWords[one.Checks]
			}
			out.Servers[k] = Verdict{State: state, Since: when(one.Since), Reason: one.Reason,
				Memory: Memory{Checks: checks, Flaps: min(max(one.Flaps, 0), 1000), Fell: when(one.Fell), Hold: when(one.Hold), Ramp: when(one.Ramp), Factor: float64(one.Factor) / 1000}}
		}
		v[svc.Key] = out
	}
	return v
}

// SetShared says what the active director has told, as [Shared.View] has it; nil if nobody has. It counts as long as
// this director is not active itself.
func (e *Engine) SetShared(v View) {
	e.mu.Lock()
	e.shared, e.told = v, true
	e.mu.Unlock()
	nudge(e.wake)
}

// SetLead says whether this director is active. If not, it goes by what the active one says, and checks at a slower
// pace.
func (e *Engine) SetLead(active bool) {
	e.mu.Lock()
	same := e.lead == active
	e.lead = active
	e.mu.Unlock()
	if !same {
		nudge(e.wake)
	}
}

// standbyPace is how many times longer a standby waits between probes while an active director tells what it finds.
const standbyPace = 5

// follow makes the pools know what the active director knows, and what it says the state from which the checks go on
// when this director becomes active.
func (e *Engine) follow(v View) {
	e.others = v
	for k, svc := range e.services {
		e.dirty[k] = true
		told := v[k]
		if told == nil {
			continue
		}
		for j := range svc.spec.RealServers {
			key := svc.spec.RealServers[j].DestKey
			x, ok := told.Servers[key]
			if !ok {
				continue
			}
			svc.pool.adopt(key, &x)
			svc.follow(key, x.Memory.Factor)
			for _, t := range svc.targets[j] {
				if t.track.State != x.Memory.Checks {
					t.track = Track{State: x.Memory.Checks, Since: x.Since, Reason: t.track.Reason}
				}
			}
		}
	}
	e.judged = time.Time{}
}

// heardOf is what the active director says of a server on a standby, or else x.
func (e *Engine) heardOf(s *spec.Service, server ipvs.DestKey, x Track) Track {
	if e.leads || e.others == nil {
		return x
	}
	told := e.others.of(s.Key, server)
	if told.State == Unknown {
		return x
	}
	if x.State != told.Memory.Checks && x.Reason != "" {
		return Track{State: told.Memory.Checks, Since: told.Since, Reason: fmt.Sprintf("%s (the active director); here: %s", told.Reason, x.Reason)}
	}
	return Track{State: told.Memory.Checks, Since: told.Since, Reason: told.Reason}
}
