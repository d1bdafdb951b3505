package adapt

import (
	"math"
	"time"
)

const (
	// Every is how often Step is to be called.
	Every = time.Second
	// maxStep bounds the time that one step counts for: who did not run has no fresh loads.
	maxStep = 3 * time.Second
	// reportDelay is how old a load is when it is heard, at the most: the interval of the agent, and its beat.
	reportDelay = 2 * time.Second
	// floor is the mean load below which deviations count for less: nobody has much to do.
	floor = 0.1
	// rest is by how much a factor has to have moved to take effect, in proportion to the one in effect.
	rest = 0.04
	// leastCaution bounds the caution of a server whose factor has turned round often, of which it gains back so much a
	// second: slowly, or else what swings for minutes would go on to.
	leastCaution = 1.0 / 32
	cautionBack  = 0.003
	// swing is what a factor has to have moved in one direction for a turn to count: less is noise.
	swing = 0.05
	// maxLoad bounds the loads that are taken in. A queue that has grown takes as long to shrink; were all of it taken
	// for a deviation, the factor of its server would be far too low by then.
	maxLoad = 2
)

// Options say how factors move.
type Options struct {
	Min, Max  float64       // bounds of factors: 0 < Min <= 1 <= Max
	DeadBand  float64       // the deviation from the mean load that is let be, 0 .. 1
	Smoothing time.Duration // time constant with which loads are averaged
	Up, Down  float64       // the most that a factor moves a second, in proportion
	Stale     time.Duration // a load that is older is none
	// Memory is for how long the scheduler goes by connections that have ended; 0: not at all.
	Memory time.Duration
}

// gain is the k of the law, a second. With a memory of m and without delay, the scheduler's lead cancels the integrator
// at frequencies above 1/m: what is left is a lag with the gain k·m, which is 2 at the most.
func (o *Options) gain() float64 {
	return 1 / max(4*(o.Smoothing+reportDelay), o.Memory/2).Seconds()
}

// slew bounds what the logarithm of a factor moves a second, down and up. Where the scheduler remembers connections, a
// server gets nothing while its share is brought down by more than what it forgets: a third of it is left alone.
func (o *Options) slew() (down, up float64) {
	down, up = o.Down, o.Up
	if o.Memory > 0 {
		most := 2 / (3 * o.Memory.Seconds())
		down, up = min(down, most), min(up, most)
	}
	return down, up
}

// Input is what is known of a real server at a step.
type Input[K comparable] struct {
	Key    K
	Weight float64 // that it would have without a factor; 0 for one that gets nothing
	Load   float64
	Age    time.Duration // of Load; negative if there is none
	Every  time.Duration // how often it is told: one that is told rarely is stale later than [Options.Stale]; two may be late
	Hold   bool          // its load says nothing of its share yet: its factor stays
}

// Why says what a factor does.
type Why uint8

const (
	Unknown  Why = iota // no load has been told yet
	Even                // its load is close enough to the mean
	Lowering            // it has more to do than the others
	Raising             // it has less to do
	AtMin               // it has more to do, and the bound is reached
	AtMax               // it has less to do, and the bound is reached
	Stale               // its load is not told any more: the factor goes back to 1
	Alone               // there is no other load to compare it with: likewise
	Held                // it gets nothing, or starts slowly
)

// State is how a real server is.
type State struct {
	Factor float64 // in effect
	Load   float64 // smoothed
	Mean   float64 // of the pool
	Why    Why
}

// Pool has the factors of the real servers of one service. Its zero value is ready; all factors are 1.
type Pool[K comparable] struct {
	servers map[K]*server
	mean    float64
}

type server struct {
	load    float64
	known   bool    // load is one
	factor  float64 // as the law has it
	effect  float64 // as it is in effect
	caution float64
	run     float64 // how far the logarithm of factor has moved in one direction
	moving  bool    // it has left the dead band
	why     Why
}

func (p *Pool[K]) of(k K) *server {
	s := p.servers[k]
	if s == nil {
		if p.servers == nil {
			p.servers = make(map[K]*server)
		}
		s = &server{factor: 1, effect: 1, caution: 1}
		p.servers[k] = s
	}
	return s
}

// State is how a real server is.
func (p *Pool[K]) State(k K) State {
	s := p.servers[k]
	if s == nil {
		return State{Factor: 1, Mean: p.mean}
	}
	return State{Factor: s.effect, Load: s.load, Mean: p.mean, Why: s.why}
}

// Factor is that of a real server in effect.
func (p *Pool[K]) Factor(k K) float64 {
	if s := p.servers[k]; s != nil {
		return s.effect
	}
	return 1
}

// Adopt makes factor the one of a real server, as another director has it, and reports whether that is new. A factor
// that is none is taken for 1.
func (p *Pool[K]) Adopt(k K, factor float64) bool {
	if !(factor > 0 && factor <= 1000) {
		factor = 1
	}
	if factor == 1 && p.servers[k] == nil {
		return false
	}
	s := p.of(k)
	changed := s.effect != factor
	s.factor, s.effect, s.run, s.moving = factor, factor, 0, false
	return changed
}

// Watch takes in loads without a decision, as a director does that is not active. dt is the time since the last call.
func (p *Pool[K]) Watch(o *Options, inputs []Input[K], dt time.Duration) {
	if len(p.servers) > len(inputs) {
		p.forget(inputs)
	}
	a := 1 - math.Exp(-max(dt, 0).Seconds()/max(o.Smoothing, time.Millisecond).Seconds())
	for i := range inputs {
		in := &inputs[i]
		fresh := in.Age >= 0 && in.Age <= max(o.Stale, in.Every*5/2) && in.Load >= 0 // false for NaN
		if !fresh && p.servers[in.Key] == nil {
			continue
		}
		s := p.of(in.Key)
		switch load := min(in.Load, maxLoad); {
		case !fresh && s.known:
			s.known, s.why = false, Stale
		case !fresh:
		case !s.known:
			s.load, s.known = load, true
		default:
			s.load += a * (load - s.load)
		}
	}
	p.mean = p.meanOf(inputs)
	for i := range inputs {
		s := p.judged(&inputs[i])
		if s == nil {
			continue
		}
		if e := s.deviation(p.mean); math.Abs(e) <= o.DeadBand {
			s.why = Even
		} else {
			s.say(o, e > 0)
		}
	}
}

// deviation is that of the load of a server from the mean, in proportion.
func (s *server) deviation(mean float64) float64 { return (s.load - mean) / max(mean, floor) }

// say notes where the factor of a server goes.
func (s *server) say(o *Options, down bool) {
	switch {
	case down && s.factor <= o.Min*(1+rest): // the sum may have raised it a bit
		s.why = AtMin
	case down:
		s.why = Lowering
	case s.factor >= o.Max*(1-rest):
		s.why = AtMax
	default:
		s.why = Raising
	}
}

// meanOf is the mean load of those that are judged, weighted by what they get: the load that a new connection meets.
func (p *Pool[K]) meanOf(inputs []Input[K]) float64 {
	sum, all := 0.0, 0.0
	for i := range inputs {
		if s := p.judged(&inputs[i]); s != nil {
			w := inputs[i].Weight * s.factor
			sum += w * s.load
			all += w
		}
	}
	if all == 0 {
		return 0
	}
	return sum / all
}

// judged is the server of an input whose load is compared with those of others, or nil.
func (p *Pool[K]) judged(in *Input[K]) *server {
	if s := p.servers[in.Key]; s != nil && s.known && in.Weight > 0 && !in.Hold {
		return s
	}
	return nil
}

// Step takes in loads and moves the factors, and reports whether one has changed that is in effect. dt is the time
// since the last step.
func (p *Pool[K]) Step(o *Options, inputs []Input[K], dt time.Duration) (changed bool) {
	dt = min(max(dt, 0), maxStep)
	p.Watch(o, inputs, dt)
	n := 0
	for i := range inputs {
		if p.judged(&inputs[i]) != nil {
			n++
		}
	}
	down, up := o.slew()
	down, up = down*dt.Seconds(), up*dt.Seconds()
	for i := range inputs {
		in := &inputs[i]
		s := p.servers[in.Key]
		switch judged := p.judged(in); {
		case s == nil:
		case judged == nil && s.known && in.Hold && in.Weight > 0:
			s.why = Held
		case judged == nil || n < 2:
			switch {
			case !s.known:
				if s.why != Unknown {
					s.why = Stale
				}
			case in.Weight == 0:
				s.why = Held
			default:
				s.why = Alone
			}
			if way := -math.Log(s.factor); way < -down || way > up {
				s.factor *= math.Exp(min(max(way, -down), up))
			} else {
				s.factor = 1
			}
			s.run, s.moving = 0, false
		default:
			s.move(o, p.mean, dt, down, up)
		}
	}
	if n >= 2 {
		p.preserve(o, inputs)
	}
	for i := range inputs {
		s := p.servers[inputs[i].Key]
		if s == nil {
			continue
		}
		end := s.factor == 1 || s.factor == o.Min || s.factor == o.Max // there the last bit counts
		if d := math.Abs(s.factor - s.effect); d > rest*s.effect || d > 0 && end {
			// In thousandths, as directors tell each other.
			s.effect, changed = math.Round(s.factor*1000)/1000, true
		}
	}
	return changed
}

// move moves the factor of a server by the law.
func (s *server) move(o *Options, mean float64, dt time.Duration, down, up float64) {
	e := s.deviation(mean)
	switch {
	case math.Abs(e) > o.DeadBand:
		s.moving = true
	case math.Abs(e) < o.DeadBand/2:
		s.moving = false
	}
	s.caution = min(s.caution*(1+cautionBack*dt.Seconds()), 1)
	if !s.moving {
		s.why = Even
		return
	}
	if e*s.run > 0 { // it has moved against e
		if math.Abs(s.run) > swing {
			s.caution = max(s.caution/2, leastCaution)
		}
		s.run = 0
	}
	step := min(max(-o.gain()*dt.Seconds()*s.caution*e, -down), up)
	s.run += step
	s.factor *= math.Exp(step)
	s.say(o, step < 0)
}

// preserve brings the factors of those that are judged into their bounds, and all that get something to the sum of their
// weights: the kernel's table keeps its scale, and a server without a load its share.
func (p *Pool[K]) preserve(o *Options, inputs []Input[K]) {
	for range 4 { // who is at a bound leaves the rest to the others
		want, sum := 0.0, 0.0
		for i := range inputs {
			in := &inputs[i]
			want += in.Weight
			if s := p.judged(in); s != nil {
				s.factor = min(max(s.factor, o.Min), o.Max)
				sum += in.Weight * s.factor
			} else if s := p.servers[in.Key]; s != nil {
				want -= in.Weight * s.factor
			} else {
				want -= in.Weight
			}
		}
		if want <= 0 || math.Abs(sum-want) < want*1e-6 {
			return
		}
		for i := range inputs {
			if s := p.judged(&inputs[i]); s != nil {
				s.factor = min(max(s.factor*want/sum, o.Min), o.Max)
			}
		}
	}
}

// forget drops the servers that are not there any more.
func (p *Pool[K]) forget(inputs []Input[K]) {
	there := make(map[K]bool, len(inputs))
	for i := range inputs {
		there[inputs[i].Key] = true
	}
	for k := range p.servers {
		if !there[k] {
			delete(p.servers, k)
		}
	}
}
