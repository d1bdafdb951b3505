package spec

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/drover-lb/drover/conf"
)

// Adaptive says whether and how the weights of a service's real servers follow the loads that their agents tell. It is
// comparable; its zero value is for weights as they are written.
type Adaptive struct {
	On bool
	// Min and Max bound the weight of a server in percent of the configured one: 1 .. 100 and 100 .. 1000.
	Min, Max int
	// DeadBand is by how many percent a load may differ from the mean of the pool without consequence: 1 .. 50.
	DeadBand int
	// Smoothing is the time constant with which loads are averaged: 1 s .. 10 min.
	Smoothing time.Duration
	// Up and Down are by how many percent a weight grows and shrinks a second at most: 1 .. 50.
	Up, Down int
	// Stale is the age from which on a load is none: 2 s .. 10 min.
	Stale time.Duration
}

// DefaultAdaptive is `adaptive: true`.
var DefaultAdaptive = Adaptive{On: true, Min: 10, Max: 200, DeadBand: 10, Smoothing: 5 * time.Second, Up: 5, Down: 10, Stale: 10 * time.Second}

type rawAdaptive struct {
	On        conf.Value `yaml:"-"`
	Min       conf.Value `yaml:"min"`
	Max       conf.Value `yaml:"max"`
	DeadBand  conf.Value `yaml:"dead_band"`
	Smoothing conf.Value `yaml:"smoothing"`
	Up        conf.Value `yaml:"up"`
	Down      conf.Value `yaml:"down"`
	Stale     conf.Value `yaml:"stale"`
}

func (a *rawAdaptive) UnmarshalYAML(n ast.Node) error {
	type mapping rawAdaptive
	return conf.ScalarOr(n, &a.On, (*mapping)(a))
}

// ByWeight reports whether the scheduler of the service shares connections by weight.
func (s *Service) ByWeight() bool {
	return !slices.Contains([]string{"rr", "lc", "dh", "fo", "ovf"}, s.Scheduler)
}

// adaptive reads whether the weights follow loads.
func (s *serviceReader) adaptive() {
	v := &s.raw.Adaptive
	if !v.Set || v.V.On.Set && !s.r.Bool(v.V.On, "adaptive", false) {
		return
	}
	raw, r, def := &v.V, s.r.In("adaptive"), DefaultAdaptive
	percent := func(v conf.Value, field string, lo, hi int64, def int) int {
		return int(r.Int(v, field, lo, hi, int64(def)))
	}
	s.svc.Adaptive = Adaptive{
		On:        true,
		Min:       percent(raw.Min, "min", 1, 100, def.Min),
		Max:       percent(raw.Max, "max", 100, 1000, def.Max),
		DeadBand:  percent(raw.DeadBand, "dead_band", 1, 50, def.DeadBand),
		Smoothing: r.Duration(raw.Smoothing, "smoothing", time.Second, 10*time.Minute, def.Smoothing),
		Up:        percent(raw.Up, "up", 1, 50, def.Up),
		Down:      percent(raw.Down, "down", 1, 50, def.Down),
		Stale:     r.Duration(raw.Stale, "stale", 2*time.Second, 10*time.Minute, def.Stale),
	}
	switch sch := s.svc.Scheduler; {
	case !s.raw.Pool.Set:
		s.r.Errorf(v.Pos, "adaptive", "needs a pool: the agents of its members tell the loads")
	case !s.schedOK:
	case sch == "fo" || sch == "ovf":
		s.r.Errorf(v.Pos, "adaptive", "is not for the scheduler %s, to which weights are an order: wlc and wrr share by them", sch)
	case !s.svc.ByWeight():
		s.warn(v.Pos, s.place, "adaptive has no effect with the scheduler %s, which does not share by weight: wlc and wrr do", sch)
	case sch == "sh" || sch == "mh":
		s.warn(v.Pos, s.place, "adaptive: each change of a weight gives some clients of the scheduler %s another server", sch)
	}
}

// text writes a as the reader reads it.
func (a *Adaptive) text() string {
	var out []string
	def := DefaultAdaptive
	percent := func(key string, v, def int) {
		if v != def {
			out = append(out, fmt.Sprintf("%s: %d", key, v))
		}
	}
	span := func(key string, v, def time.Duration) {
		if v != def {
			out = append(out, key+": "+duration(v))
		}
	}
	percent("min", a.Min, def.Min)
	percent("max", a.Max, def.Max)
	percent("dead_band", a.DeadBand, def.DeadBand)
	span("smoothing", a.Smoothing, def.Smoothing)
	percent("up", a.Up, def.Up)
	percent("down", a.Down, def.Down)
	span("stale", a.Stale, def.Stale)
	if out == nil {
		return "true"
	}
	return "{" + strings.Join(out, ", ") + "}"
}

// AdaptivePools lists the pools of services whose weights follow loads, sorted: whose agents are to tell theirs.
func (s *Spec) AdaptivePools() (pools []string) {
	for i := range s.Services {
		if svc := &s.Services[i]; svc.Adaptive.On && !slices.Contains(pools, svc.Pool) {
			pools = append(pools, svc.Pool)
		}
	}
	slices.Sort(pools)
	return pools
}
