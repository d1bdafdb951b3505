package health

import (
	"fmt"
	"time"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// Report says how one service that is checked is, for people.
type Report struct {
	Service string         `json:"service"` // such as "TCP 192.0.2.10:80"
	Name    string         `json:"name"`
	Servers []ServerReport `json:"servers"`
}

// ServerReport says how one real server of a service is.
type ServerReport struct {
	Server string    `json:"server"` // address and port
	Name   string    `json:"name"`
	State  string    `json:"state"` // up, down or unknown
	Since  time.Time `json:"since,omitzero"`
	Reason string    `json:"reason,omitempty"` // why it is down, or what the last probe found
}

// Reports lists the services of s that are checked, in its order.
func Reports(s *spec.Spec, v View) []Report {
	out := []Report{}
	for i := range s.Services {
		svc := &s.Services[i]
		if !svc.Checked() {
			continue
		}
		r := Report{Service: svc.Key.String(), Name: svc.Name, Servers: make([]ServerReport, len(svc.RealServers))}
		for j := range svc.RealServers {
			d := &svc.RealServers[j]
			x := v.of(svc.Key, d.DestKey)
			r.Servers[j] = ServerReport{Server: d.DestKey.String(), Name: d.Name, State: x.State.String(), Since: x.Since, Reason: x.Reason}
		}
		out = append(out, r)
	}
	return out
}

// of is the verdict on a server, unknown if there is none.
func (v View) of(service ipvs.Key, server ipvs.DestKey) Verdict {
	if s := v[service]; s != nil {
		return s.Servers[server]
	}
	return Verdict{}
}

// String says what happened in a few words.
func (e Event) String() string {
	if e.State == Down {
		return fmt.Sprintf("%s: %s is down: %s", e.Service, e.Server, e.Reason)
	}
	return fmt.Sprintf("%s: %s is %s", e.Service, e.Server, e.State)
}
