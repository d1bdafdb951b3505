package health

import (
	"fmt"
	"strings"
	"time"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// Input is what the checks say about one real server of a service.
type Input struct {
	Key    ipvs.DestKey
	Name   string
	Weight uint32 // as the spec has it
	State  State
	Since  time.Time
	Reason string
	Factor float64 // of its weight, as loads ask for it; 0: the service's weights are as they are written
}

// pool is how one service reacts to what its checks say. Its step function is its only way to change, and is
// given the time.
type pool struct {
	members map[ipvs.DestKey]*member
	panics  bool // too many went down at once: the checker is suspected
	lost    bool // the quorum
	born    time.Time
	// fine is how large the weights of a service that follow loads have to be at least, so that their factors come to
	// something, and by how much they may grow; zero: they do not follow any.
	fine fineness
}

// member is a real server of a pool.
type member struct {
	checks  State // at the last step
	state   State // with damping
	since   time.Time
	flaps   int       // how often it went down of late
	fell    time.Time // when it last went down
	hold    time.Time // it is not up before
	ramp    time.Time // since when its weight grows; zero: it has it
	suspect bool      // it went down together with too many others, and goes on serving
}

// rampSteps is in how many steps a weight grows.
const rampSteps = 10

const (
	// maxHold is how many times the first hold the longest one is.
	maxHold = 32
	// flapMemory is after how many times the first hold a fall is forgotten.
	flapMemory = 20
	// settling is how long a service is new: its servers start with their whole weight.
	settling = 10 * time.Second
)

// held is how long a server that comes up has to stay so before it counts, after it has fallen so often.
func held(first time.Duration, flaps int) time.Duration {
	if flaps < 2 || first == 0 {
		return 0
	}
	return first * time.Duration(min(1<<min(flaps-2, 30), maxHold))
}

// step takes in what the checks say at now. next is when it has to be called again at the latest, even if nothing
// else changes; zero if there is no need. within is how close to each other falls have to be to count as one.
func (p *pool) step(h *spec.Health, inputs []Input, now time.Time, within time.Duration) (out *Service, next time.Time, news []string) {
	if p.born.IsZero() {
		p.born = now
	}
	if p.members == nil {
		p.members = make(map[ipvs.DestKey]*member)
	}
	wake := func(t time.Time) {
		if t.After(now) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	out = &Service{Servers: make(map[ipvs.DestKey]Verdict, len(inputs))}
	for i := range inputs {
		in := &inputs[i]
		m := p.members[in.Key]
		if m == nil {
			m = &member{}
			p.members[in.Key] = m
		}
		wake(m.damp(h, in, now, now.Sub(p.born) >= settling))
	}
	if len(p.members) > len(inputs) {
		p.forget(inputs)
	}
	news = append(news, p.suspect(h, inputs, now, within)...)
	ramping := false
	for i := range inputs {
		m := p.members[inputs[i].Key]
		if m.state != Up || now.Sub(m.ramp) >= h.SlowStart {
			m.ramp = time.Time{}
		}
		ramping = ramping || !m.ramp.IsZero()
	}
	scale := uint32(1)
	switch {
	case p.fine != fineness{}:
		scale = p.fine.scale(inputs)
	case ramping:
		scale = scaleOf(inputs)
	}
	sum, unknown := uint64(0), false
	for i := range inputs {
		in := &inputs[i]
		m := p.members[in.Key]
		v := Verdict{State: m.state, Since: m.since, Reason: in.Reason, Weight: in.weight(scale, rampSteps),
			Memory: Memory{Checks: m.checks, Flaps: m.flaps, Fell: m.fell, Hold: m.hold, Ramp: m.ramp, Factor: in.Factor}}
		switch {
		case m.suspect:
			v.Kept = true
			v.Reason = "kept, as too many went down at once; " + in.Reason
		case m.state == Down && in.State == Up:
			v.Reason = fmt.Sprintf("held down, as it went down %d times: up again in %s if it stays so", m.flaps, m.hold.Sub(now).Round(time.Second))
		case m.state == Up && !m.ramp.IsZero() && (scale > 1 || in.Factor != 0):
			k := rampStep(now.Sub(m.ramp), h.SlowStart)
			v.Weight = in.weight(scale, k)
			v.Reason = fmt.Sprintf("slow start: %d%% of its weight", k*100/rampSteps)
			wake(m.ramp.Add(h.SlowStart * time.Duration(k) / rampSteps))
		}
		unknown = unknown || m.state == Unknown
		if m.state == Up || m.suspect {
			sum += uint64(in.Weight)
		}
		out.Servers[in.Key] = v
	}
	if p.quorum(h, sum, unknown) {
		news = append(news, p.quorumNews(h, sum))
	}
	out.Panics, out.Sorry = p.panics, p.lost && h.Sorry.Addr.IsValid()
	return out, next, news
}

// damp takes in the state of a server, and returns when its hold ends.
func (m *member) damp(h *spec.Health, in *Input, now time.Time, late bool) time.Time {
	before := m.checks
	m.checks = in.State
	if before == Up && in.State == Down {
		if age := now.Sub(m.fell); h.FlapHold > 0 {
			m.flaps -= min(m.flaps, int(age/(h.FlapHold*flapMemory)))
		}
		m.flaps++
		m.fell = now
	}
	if before != Up && in.State == Up {
		m.hold = now.Add(held(h.FlapHold, m.flaps))
	}
	state := in.State
	if state == Up && m.state == Down && now.Before(m.hold) {
		state = Down
	}
	if state == m.state {
		return m.hold
	}
	if state == Up && h.SlowStart > 0 && (m.state == Down || late) {
		m.ramp = now
	}
	if state == Down && m.fell.IsZero() {
		m.fell = now
	}
	m.state, m.since = state, now
	if state == in.State && !in.Since.IsZero() {
		m.since = in.Since
	}
	return m.hold
}

// adopt makes the pool remember of a server what another director does.
func (p *pool) adopt(k ipvs.DestKey, v *Verdict) {
	if p.members == nil {
		p.members = make(map[ipvs.DestKey]*member)
	}
	p.members[k] = &member{checks: v.Memory.Checks, state: v.State, since: v.Since, flaps: v.Memory.Flaps, fell: v.Memory.Fell, hold: v.Memory.Hold, ramp: v.Memory.Ramp}
}

// forget drops the servers that are not there any more.
func (p *pool) forget(inputs []Input) {
	there := make(map[ipvs.DestKey]bool, len(inputs))
	for i := range inputs {
		there[inputs[i].Key] = true
	}
	for k := range p.members {
		if !there[k] {
			delete(p.members, k)
		}
	}
}

// suspect decides whether the checker is to be suspected rather than the servers. Of those servers that have not
// been down for long already, more than the threshold went down at once.
func (p *pool) suspect(h *spec.Health, inputs []Input, now time.Time, within time.Duration) []string {
	all, fallen := 0, 0
	recent := func(m *member) bool {
		return m.checks == Down && (m.suspect || now.Sub(m.fell) <= within)
	}
	for i := range inputs {
		if inputs[i].Weight == 0 {
			continue
		}
		m := p.members[inputs[i].Key]
		if m.state != Down || recent(m) {
			all++
		}
		if m.state == Down && recent(m) {
			fallen++
		}
	}
	before := p.panics
	p.panics = fallen > 0 && fallen*100 > h.Panic*all
	for i := range inputs {
		m := p.members[inputs[i].Key]
		m.suspect = p.panics && m.state == Down && recent(m) && inputs[i].Weight > 0
	}
	switch {
	case p.panics && !before:
		return []string{fmt.Sprintf("PANIC: %d of %d real servers went down at once: either they did, or the checker cannot reach them; they are served on", fallen, all)}
	case before && !p.panics:
		return []string{fmt.Sprintf("no panic any more: %d of %d real servers are down", fallen, all)}
	}
	return nil
}

// quorum takes in the weight of those that serve, and reports whether the quorum was lost or is there again. While
// nothing is known of some server it stays what it is.
func (p *pool) quorum(h *spec.Health, sum uint64, unknown bool) bool {
	if unknown {
		return false
	}
	before := p.lost
	q, y := uint64(h.Quorum), uint64(h.Hysteresis)
	if p.lost {
		p.lost = sum < q+y
	} else {
		p.lost = sum+y < q
	}
	return before != p.lost
}

func (p *pool) quorumNews(h *spec.Health, sum uint64) string {
	var b strings.Builder
	word := "lost"
	if !p.lost {
		word = "there again"
	}
	fmt.Fprintf(&b, "the quorum is %s: real servers of weight %d are up", word, sum)
	if h.Sorry.Addr.IsValid() {
		word = "answers"
		if !p.lost {
			word = "does not answer any more"
		}
		fmt.Fprintf(&b, "; the sorry server %s %s", h.Sorry.Addr, word)
	}
	return b.String()
}

// rampStep is how many tenths of its weight a server has.
func rampStep(age, all time.Duration) uint32 {
	return uint32(min(1+int64(age)*rampSteps/int64(all), rampSteps))
}

// scaleOf is by how much all weights of a service are multiplied while one of them grows, so that a tenth of it is
// a whole number: it makes no difference to the schedulers. 1 if they are too large for it.
func scaleOf(inputs []Input) uint32 {
	for i := range inputs {
		if inputs[i].Weight*rampSteps > 65535 {
			return 1
		}
	}
	return rampSteps
}
