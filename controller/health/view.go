package health

import (
	"maps"
	"time"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// View is what is known about the real servers of all services that are checked. It is not changed once it is
// handed out.
type View map[ipvs.Key]*Service

// Service is what is known about the real servers of one service.
type Service struct {
	Servers map[ipvs.DestKey]Verdict
	Panics  bool // too many went down at once
	Sorry   bool // the sorry server answers instead
}

// Verdict is what is known about a real server of a service, and what is to become of it.
type Verdict struct {
	State  State
	Since  time.Time
	Reason string // why it is down, or not quite up
	Weight uint32 // in the measure of the service's others; it counts if the server is not down, or Kept
	Kept   bool   // it is down and gets traffic all the same
	Memory Memory
}

// same reports whether s and o come to the same table.
func (s *Service) same(o *Service) bool {
	return o != nil && s.Panics == o.Panics && s.Sorry == o.Sorry && maps.EqualFunc(s.Servers, o.Servers, func(a, b Verdict) bool {
		return a.State == b.State && a.Weight == b.Weight && a.Kept == b.Kept
	})
}

// of is the verdict on a server, unknown if there is none.
func (v View) of(service ipvs.Key, server ipvs.DestKey) Verdict {
	if s := v[service]; s != nil {
		return s.Servers[server]
	}
	return Verdict{}
}

// Want is the table that s asks for as far as the servers in it are fit for traffic. have is the table in the
// kernel: servers of which nothing is known stay as they are there.
func Want(s *spec.Spec, v View, have plan.State) plan.State { return table(s, v, &have) }

// Intent is the table that s asks for if the servers of which nothing is known yet turn out to be fit.
func Intent(s *spec.Spec, v View) plan.State { return table(s, v, nil) }

// table is Want, or with no have Intent.
func table(s *spec.Spec, v View, have *plan.State) plan.State {
	services := make([]plan.Service, len(s.Services))
	for i := range s.Services {
		svc := &s.Services[i]
		services[i] = plan.Service{Service: svc.Service, Servers: make([]ipvs.Destination, 0, len(svc.RealServers)+1)}
		sorry := v[svc.Key] != nil && v[svc.Key].Sorry && svc.Checked()
		if sorry {
			services[i].Servers = append(services[i].Servers, svc.Health.Sorry)
		}
		for j := range svc.RealServers {
			d := svc.RealServers[j].Destination
			d.Weight = svc.RealServers[j].InForce()
			in := !svc.Checked() || admit(svc, v.of(svc.Key, d.DestKey), &d, have)
			if svc.RealServers[j].Drain.On {
				d.Weight = 0 // the verdict may be of a moment ago
			}
			if in && sorry {
				d.Weight = 0
				in = quiet(&svc.Service)
			}
			if in {
				services[i].Servers = append(services[i].Servers, d)
			}
		}
	}
	return plan.NewState(services)
}

// quiet reports whether a server of weight 0 harms nobody but gets no new clients: sh and mh turn away those whose
// server it is, unless they have the fallback flag.
func quiet(s *ipvs.Service) bool {
	return s.Scheduler != "sh" && s.Scheduler != "mh" || s.Flags&ipvs.Sched1 != 0
}

// admit reports whether a server is in the table, and sets its weight.
func admit(s *spec.Service, v Verdict, d *ipvs.Destination, have *plan.State) bool {
	switch {
	case v.State == Up:
		d.Weight = v.Weight
		return true
	case v.Kept:
		d.Weight = v.Weight
		return true
	case v.State == Down:
		d.Weight = 0
		return s.Health.OnFail == spec.WeightZero
	}
	if v.Weight > 0 {
		d.Weight = v.Weight
	}
	if have == nil {
		return true
	}
	h := have.Find(s.Key)
	if h == nil {
		return false
	}
	was := h.Find(d.DestKey)
	if was != nil && was.Weight == 0 {
		d.Weight = 0
	}
	return was != nil
}
