package health

import (
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
}

// Verdict is what is known about a real server of a service.
type Verdict struct {
	State  State
	Since  time.Time
	Reason string // why it is down, or why the last probe was bad
}

// Want is the table that s asks for as far as the servers in it are fit for traffic. have is the table in the
// kernel: servers of which nothing is known stay as they are there.
func Want(s *spec.Spec, v View, have plan.State) plan.State {
	services := make([]plan.Service, len(s.Services))
	for i := range s.Services {
		svc := &s.Services[i]
		services[i] = plan.Service{Service: svc.Service, Servers: make([]ipvs.Destination, 0, len(svc.RealServers))}
		for j := range svc.RealServers {
			d := svc.RealServers[j].Destination
			if admit(svc, v.of(svc.Key, d.DestKey), &d, have) {
				services[i].Servers = append(services[i].Servers, d)
			}
		}
	}
	return plan.NewState(services)
}

// admit reports whether a server is in the table, and sets its weight.
func admit(s *spec.Service, verdict Verdict, d *ipvs.Destination, have plan.State) bool {
	if !s.Checked() {
		return true
	}
	switch verdict.State {
	case Up:
		return true
	case Down:
		d.Weight = 0
		return s.Health.OnFail == spec.WeightZero
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
