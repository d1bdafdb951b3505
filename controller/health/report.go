package health

import (
	"fmt"
	"time"

	"github.com/drover-lb/drover/controller/spec"
)

// Report says how one service that is checked is, for people.
type Report struct {
	Service string         `json:"service"` // such as "TCP 192.0.2.10:80"
	Name    string         `json:"name"`
	Panics  bool           `json:"panics,omitempty"` // too many went down at once, and are served on
	Sorry   bool           `json:"sorry,omitempty"`  // the sorry server answers
	Servers []ServerReport `json:"servers"`
}

// ServerReport says how one real server of a service is.
type ServerReport struct {
	Server string    `json:"server"` // address and port
	Name   string    `json:"name"`
	State  string    `json:"state"`            // up, down or unknown
	Kept   bool      `json:"kept,omitempty"`   // down, and gets traffic all the same
	Weight uint32    `json:"weight"`           // in force
	Factor float64   `json:"factor,omitempty"` // of the configured weight, if that follows loads
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
		if x := v[svc.Key]; x != nil {
			r.Panics, r.Sorry = x.Panics, x.Sorry
		}
		for j := range svc.RealServers {
			d := &svc.RealServers[j]
			x := v.of(svc.Key, d.DestKey)
			r.Servers[j] = ServerReport{Server: d.DestKey.String(), Name: d.Name, State: x.State.String(), Kept: x.Kept, Weight: x.Weight, Factor: x.Memory.Factor, Since: x.Since, Reason: x.Reason}
		}
		out = append(out, r)
	}
	return out
}

// String says what happened in a few words.
func (e Event) String() string {
	if e.Server != "" {
		return fmt.Sprintf("%s: %s %s", e.Service, e.Server, e.Text)
	}
	return e.Service + ": " + e.Text
}
