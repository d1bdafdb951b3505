package health

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"time"

	"github.com/drover-lb/drover/controller/adapt"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

const (
	// schedulerMemory is how long the schedulers that count connections which have ended do so: in direct routing the
	// director sees a client close, and the kernel keeps that connection for two minutes (FIN_WAIT, tcp_timeouts in
	// net/netfilter/ipvs/ip_vs_proto_tcp.c) unless it was told otherwise.
	schedulerMemory = 2 * time.Minute
	// largeChange is by how much a factor has to differ from the one last told of to be told.
	largeChange = 0.3
	// loadKept is after how long a load is forgotten.
	loadKept = 10 * time.Minute
)

// load is what an agent told of its host.
type load struct {
	value float64
	when  time.Time
	every time.Duration // until it is told again
}

// SetLoad says how loaded the host with an address is, where 1 means fully used, as its agent has just told, and after
// how long it tells again.
func (e *Engine) SetLoad(addr netip.Addr, value float64, now time.Time, every time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.loads == nil {
		e.loads = make(map[netip.Addr]load)
	}
	e.loads[addr] = load{value, now, every}
}

// Adapted says how the real servers are of the services whose weights follow loads. It is not changed once it is handed
// out.
type Adapted map[ipvs.Key]map[ipvs.DestKey]adapt.State

// Adapted is what the loads have come to, as of the last second.
func (e *Engine) Adapted() Adapted { return *e.adapted.Load() }

// adaptive is how the weights of one service follow loads; loads is nil if they do not.
type adaptive struct {
	loads   *adapt.Pool[ipvs.DestKey]
	options adapt.Options
	large   uint32                   // what weights have to be at least
	spoken  map[ipvs.DestKey]float64 // factors as last told of
	silent  map[ipvs.DestKey]bool    // it was told that there is no load any more
}

// set takes in what the spec says.
func (a *adaptive) set(s *spec.Service) {
	x := &s.Adaptive
	if !x.On {
		*a = adaptive{}
		return
	}
	if a.loads == nil {
		a.loads = &adapt.Pool[ipvs.DestKey]{}
		a.spoken, a.silent = make(map[ipvs.DestKey]float64), make(map[ipvs.DestKey]bool)
	}
	if max(len(a.spoken), len(a.silent)) > len(s.RealServers) {
		there := make(map[ipvs.DestKey]bool, len(s.RealServers))
		for i := range s.RealServers {
			there[s.RealServers[i].DestKey] = true
		}
		maps.DeleteFunc(a.spoken, func(k ipvs.DestKey, _ float64) bool { return !there[k] })
		maps.DeleteFunc(a.silent, func(k ipvs.DestKey, _ bool) bool { return !there[k] })
	}
	percent := func(n int) float64 { return float64(n) / 100 }
	a.options = adapt.Options{Min: percent(x.Min), Max: percent(x.Max), DeadBand: percent(x.DeadBand), Smoothing: x.Smoothing,
		Up: percent(x.Up), Down: percent(x.Down), Stale: x.Stale}
	a.large = 100
	switch s.Scheduler {
	case "wlc", "lblc", "lblcr", "twos": // ip_vs_dest_conn_overhead: active connections times 256, and inactive ones
		a.options.Memory = schedulerMemory
	case "wrr":
		// It gives a server as many connections in a row as its weight is above that of the others.
		a.large = 20
	}
}

// factor is that of a server, 0 if the weights do not follow loads.
func (a *adaptive) factor(k ipvs.DestKey) float64 {
	if a.loads == nil {
		return 0
	}
	return a.loads.Factor(k)
}

// follow makes the factor of a server what the active director has.
func (a *adaptive) follow(k ipvs.DestKey, factor float64) {
	if a.loads != nil {
		a.loads.Adopt(k, factor)
		a.spoken[k] = a.loads.Factor(k)
	}
}

// fineness says how large weights have to be.
type fineness struct {
	large uint32  // at least, of the least one
	most  float64 // factor
}

func (a *adaptive) fine() fineness {
	if a.loads == nil {
		return fineness{}
	}
	return fineness{a.large, a.options.Max}
}

// scale is by how much all weights are multiplied.
func (f fineness) scale(inputs []Input) uint32 {
	least, most := uint32(math.MaxUint16), uint32(1)
	for i := range inputs {
		if w := inputs[i].Weight; w > 0 {
			least, most = min(least, w), max(most, w)
		}
	}
	room := uint32(math.MaxUint16 / (float64(most) * f.most))
	return max(min((f.large+least-1)/least, room), 1)
}

// weight is that of a server whose weights are multiplied by scale, after so many steps of its slow start. One that has
// a weight keeps some.
func (in *Input) weight(scale, steps uint32) uint32 {
	if in.Weight == 0 || in.Factor == 0 {
		return in.Weight * scale * steps / rampSteps
	}
	w := math.Round(float64(in.Weight) * float64(scale) * in.Factor * float64(steps) / rampSteps)
	return uint32(min(max(w, 1), math.MaxUint16))
}

// perMille is a factor as it is told: 0 for 1, and for none.
func perMille(factor float64) int {
	if n := int(math.Round(factor * 1000)); n != 1000 {
		return n
	}
	return 0
}

// adapt has the weights follow the loads, each [adapt.Every]. A director that is not active averages the loads, so that
// it can go on at once, and leaves the factors as the active one has told them.
func (e *Engine) adapt(now time.Time) {
	switch {
	case !e.follows:
		if !e.adapting.IsZero() {
			e.adapting = time.Time{}
			e.adapted.Store(&Adapted{})
		}
		return
	case e.adapting.IsZero():
		e.adapting = now // the first loads come now
		return
	case now.Sub(e.adapting) < adapt.Every:
		return
	}
	dt := now.Sub(e.adapting)
	e.adapting = now
	loads := e.takeLoads(now)
	view := e.View()
	out := make(Adapted)
	for k, svc := range e.services {
		if svc.loads == nil {
			continue
		}
		inputs := make([]adapt.Input[ipvs.DestKey], len(svc.inputs))
		for j := range svc.inputs {
			d := &svc.spec.RealServers[j]
			in := adapt.Input[ipvs.DestKey]{Key: d.DestKey, Age: -1}
			if v := view.of(k, d.DestKey); v.State == Up {
				in.Weight, in.Hold = float64(svc.inputs[j].Weight), !v.Memory.Ramp.IsZero()
				if svc.inputs[j].Key != d.DestKey { // it is not judged yet
					in.Weight = float64(d.InForce())
				}
			}
			if x, ok := loads[d.Addr]; ok {
				in.Load, in.Age, in.Every = x.value, max(now.Sub(x.when), 0), x.every
			}
			inputs[j] = in
		}
		if !e.leads {
			svc.loads.Watch(&svc.options, inputs, dt)
		} else if svc.loads.Step(&svc.options, inputs, dt) {
			e.dirty[k] = true
		}
		states := make(map[ipvs.DestKey]adapt.State, len(inputs))
		for j := range inputs {
			states[inputs[j].Key] = svc.loads.State(inputs[j].Key)
		}
		out[k] = states
		if e.leads {
			e.tellAdapted(svc, states)
		}
	}
	e.adapted.Store(&out)
}

// takeLoads copies what agents have told, and forgets what is old.
func (e *Engine) takeLoads(now time.Time) map[netip.Addr]load {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make(map[netip.Addr]load, len(e.loads))
	for a, x := range e.loads {
		if now.Sub(x.when) > loadKept {
			delete(e.loads, a)
			continue
		}
		out[a] = x
	}
	return out
}

// tellAdapted tells of what has changed much.
func (e *Engine) tellAdapted(svc *service, states map[ipvs.DestKey]adapt.State) {
	for j := range svc.spec.RealServers {
		d := &svc.spec.RealServers[j]
		x := states[d.DestKey]
		before, ok := svc.spoken[d.DestKey]
		if !ok {
			before = 1
		}
		silent := x.Why == adapt.Stale
		switch {
		case silent && !svc.silent[d.DestKey]:
			e.opts.Event(Event{Service: svc.spec.Name, Server: d.Name, Weight: true, Text: "tells no load any more: its weight goes back to the configured one"})
		case math.Abs(x.Factor-before) >= largeChange:
			svc.spoken[d.DestKey] = x.Factor
			e.opts.Event(Event{Service: svc.spec.Name, Server: d.Name, Weight: true, Text: Adaption(x)})
		}
		if svc.silent[d.DestKey] != silent {
			svc.silent[d.DestKey] = silent
		}
	}
}

// Adaption says in words what a load has come to.
func Adaption(x adapt.State) string {
	weight := fmt.Sprintf("adaptive weight, %.0f%% of the configured one", x.Factor*100)
	loads := fmt.Sprintf("load %.2f, that of all is %.2f", x.Load, x.Mean)
	switch x.Why {
	case adapt.Even:
		return weight + ": " + loads + ", which is even"
	case adapt.Lowering:
		return weight + " and shrinking: " + loads
	case adapt.Raising:
		return weight + " and growing: " + loads
	case adapt.AtMin:
		return weight + ", which is the least: " + loads
	case adapt.AtMax:
		return weight + ", which is the most: " + loads
	case adapt.Stale:
		return weight + ": its agent tells no load any more"
	case adapt.Alone:
		return weight + fmt.Sprintf(": load %.2f, and no other to compare it with", x.Load)
	case adapt.Held:
		return weight + fmt.Sprintf(": load %.2f, which is not judged while it gets nothing or starts slowly", x.Load)
	case adapt.Unknown:
	}
	return weight + ": its agent has told no load yet"
}
