package main

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/drain"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// view is what the list of services is made of.
type view struct {
	node   string // "" for a director that is alone
	now    time.Time
	base   *spec.Spec // as written
	full   *spec.Spec // with the members of pools
	agents []agentView
	tables map[string]counted // of the directors that answered, by name
	active map[string]string  // group: the director that has it; nil for a director that is alone
	errors []controller.ErrorStatus
	drains map[[2]string]controller.DrainStatus // by service and server
	since  map[serverState]time.Time
	health health.View
	loads  health.Adapted
	// reasons are asked for more of them about a real server, which may be in or out.
	reasons []func(*spec.Service, *spec.RealServer) []api.Reason
}

// agentView is a node with what its agent announced; agent is nil if it announced nothing that can be read.
type agentView struct {
	name, state string
	since       time.Time
	agent       *api.Agent
}

// serverState is a real server in a state.
type serverState struct {
	service ipvs.Key
	server  ipvs.DestKey
	state   string
}

// counted are the counters of a kernel's table. Counted values travel between directors as JSON.
type counted map[string]*countedService

type countedService struct {
	Traffic api.Traffic
	Servers map[string]*countedServer
}

type countedServer struct {
	Weight  uint32
	Counts  api.Counts
	Traffic api.Traffic
	// Drain is what the director of this table says of the drain, and how far it is; "" if it knows of none.
	Drain, Progress string `json:",omitempty"`
}

func countedOf(table []ipvs.ServiceEntry, drains map[[2]string]controller.DrainStatus) counted {
	out := make(counted, len(table))
	for i := range table {
		s := &countedService{Traffic: trafficOf(&table[i].Stats), Servers: make(map[string]*countedServer, len(table[i].Destinations))}
		for j := range table[i].Destinations {
			d := &table[i].Destinations[j]
			x := drains[[2]string{table[i].Key.String(), d.DestKey.String()}]
			s.Servers[d.DestKey.String()] = &countedServer{Drain: x.State, Progress: x.Text, Weight: d.Weight, Traffic: trafficOf(&d.Stats),
				Counts: api.Counts{Active: uint64(d.Counts.Active), Inactive: uint64(d.Counts.Inactive), Persistent: uint64(d.Counts.Persistent)}}
		}
		out[table[i].Key.String()] = s
	}
	return out
}

func trafficOf(s *ipvs.Stats) api.Traffic {
	return api.Traffic{Connections: s.Connections, InPackets: s.InPackets, OutPackets: s.OutPackets, InBytes: s.InBytes, OutBytes: s.OutBytes}
}

// services says how each service of the specification is, in its order.
func (v *view) services() []api.Service {
	groups := make(map[netip.Addr]string)
	for _, vip := range v.full.VIPs {
		groups[vip.Prefix.Addr()] = vip.Group
	}
	out := []api.Service{}
	for i := range v.full.Services {
		out = append(out, v.service(&v.full.Services[i], &v.base.Services[i], groups))
	}
	return out
}

func (v *view) service(full, base *spec.Service, groups map[netip.Addr]string) api.Service {
	s := api.Service{Name: full.Name, Service: full.Key.String(), Scheduler: full.Scheduler, Pool: full.Pool, Group: groups[full.Addr],
		Command: plan.Op{Kind: plan.AddService, Service: full.Service}.String(), State: api.In, Servers: []api.Server{}}
	from := v.node // whose kernel's connections count
	if v.active != nil {
		s.Active = v.active[s.Group]
		if s.Group != "" && s.Active == "" {
			s.State = api.Standby
			s.Reasons = append(s.Reasons, api.Reason{Source: "election", Text: "no director is active for group " + s.Group, Change: "drover status says why"})
		} else if s.Active != "" {
			from = s.Active
		}
	}
	if s.Group == "" && full.FWMark == 0 {
		s.Reasons = append(s.Reasons, api.Reason{Source: "specification", Text: full.Addr.String() + " is not one of the VIPs", Change: "add it to vips, unless something else puts it onto an interface"})
	}
	for _, t := range v.tables {
		if c := t[s.Service]; c != nil {
			s.Traffic.Add(c.Traffic)
		}
	}
	for _, e := range v.errors {
		if e.Service == s.Service && e.Server == "" {
			s.State = api.Out
			s.Reasons = append(s.Reasons, refused(&e))
		}
	}
	if h := v.health[full.Key]; h != nil && h.Sorry {
		s.Reasons = append(s.Reasons, api.Reason{Source: "check", Text: "the quorum is lost, and the sorry server answers", Change: "more real servers that are up"})
	} else if h != nil && h.Panics {
		s.Reasons = append(s.Reasons, api.Reason{Source: "check", Text: "too many real servers went down at once, and they are served on", Change: "more real servers that are up"})
	}
	for j := range full.RealServers {
		d := v.server(&s, full, &full.RealServers[j], from)
		d.Listed = slices.ContainsFunc(base.RealServers, func(r spec.RealServer) bool { return r.DestKey == full.RealServers[j].DestKey })
		s.Servers = append(s.Servers, d)
		s.Counts.Add(d.Counts)
	}
	s.Servers = append(s.Servers, v.absent(full)...)
	if s.State == api.In && !slices.ContainsFunc(s.Servers, func(d api.Server) bool { return d.State == api.In }) {
		s.State = api.Out
		s.Reasons = append(s.Reasons, api.Reason{Source: "specification", Text: "no real server takes new connections", Change: "what the servers below need"})
	}
	return s
}

func refused(e *controller.ErrorStatus) api.Reason {
	since := e.Since
	return api.Reason{Source: "kernel", Text: fmt.Sprintf("refuses %q: %s", e.Change, e.Error), Since: &since, Change: fmt.Sprintf("it was tried %d times and is tried again", e.Tries)}
}

// server says how a real server is that the service wants.
func (v *view) server(s *api.Service, svc *spec.Service, r *spec.RealServer, from string) api.Server {
	d := api.Server{Name: r.Name, Server: r.DestKey.String(), Forward: r.Forward.String(), Weight: r.Weight}
	here := false
	var progress countedServer // of the drain, as the active director says
	for name, t := range v.tables {
		c := t[s.Service]
		if c == nil || c.Servers[d.Server] == nil {
			continue
		}
		d.Traffic.Add(c.Servers[d.Server].Traffic)
		if name == from {
			d.Counts, d.Weight, here = c.Servers[d.Server].Counts, c.Servers[d.Server].Weight, true
			progress = *c.Servers[d.Server]
		}
	}
	if _, asked := v.tables[from]; !asked { // its table is not known: what is wanted is taken for what is
		here = true
	}
	switch {
	case !here:
		d.State = api.Out
	case d.Weight > 0:
		d.State = api.In
	case progress.Drain != drain.Drained.String() && d.Counts.Active+d.Counts.Inactive > 0:
		d.State = api.Draining
	default:
		d.State = api.Drained
	}
	for _, e := range v.errors {
		if e.Service == s.Service && e.Server == d.Server {
			d.Reasons = append(d.Reasons, refused(&e))
		}
	}
	a := v.agentAt(r.Addr)
	if a != nil {
		d.Node = a.name
	}
	member := a != nil && a.agent.Pool != "" && a.agent.Pool == svc.Pool && a.name == r.Name
	d.Drain = v.drain(svc, r, &d, &progress)
	if x, ok := v.loads[svc.Key][r.DestKey]; ok {
		d.Adaptive = &api.Adaptive{Factor: x.Factor, Load: round3(x.Load), Mean: round3(x.Mean), Text: health.Adaption(x)}
	}
	how := ""
	if d.Drain != nil && (r.Drain.On || d.State == api.Draining) {
		switch d.State {
		case api.Out:
			how = "drained, and taken out: " + d.Drain.Text
		case api.In:
			how = "is to be drained"
		default:
			how = d.State + ": " + d.Drain.Text
		}
	}
	switch {
	case r.Drain.On && member && a.agent.Draining:
		d.Reasons = append(d.Reasons, api.Reason{Source: "agent", Text: joined(a.name+" asks to be drained, as its agent is being stopped", how), Change: "start drover-realserver on " + a.name})
	case r.Drain.On:
		d.Reasons = append(d.Reasons, api.Reason{Source: "specification", Text: cmp.Or(how, "is drained"), Change: fmt.Sprintf("drover server undrain %s %s", word(s.Name), word(d.Name))})
	case r.Weight == 0 && member && a.agent.Weight == 0:
		d.Reasons = append(d.Reasons, api.Reason{Source: "agent", Text: joined(a.name+" announces weight 0", how), Change: "weight in the file of the agent of " + a.name})
	case r.Weight == 0:
		d.Reasons = append(d.Reasons, api.Reason{Source: "specification", Text: joined("weight 0", how), Change: fmt.Sprintf("drover server undrain %s %s", word(s.Name), word(d.Name))})
	}
	if a != nil {
		d.Reasons = append(d.Reasons, a.trouble(svc.Addr, v.now)...)
	}
	verdict, reasons := v.verdict(svc, r)
	d.Reasons = append(d.Reasons, reasons...)
	for _, f := range v.reasons {
		d.Reasons = append(d.Reasons, f(svc, r)...)
	}
	if d.State == api.Out && len(d.Reasons) == 0 {
		d.Reasons = append(d.Reasons, api.Reason{Source: "kernel", Text: "is not in the table of " + ifEmpty(from, "this director"), Change: "the next comparison with the kernel puts it there"})
	}
	if t, ok := v.since[serverState{svc.Key, r.DestKey, presence(r.InForce())}]; ok {
		d.Since = &t
	}
	if d.Drain != nil && d.State != api.In {
		d.Since = &d.Drain.Since
	}
	if len(reasons) > 0 && d.State != api.In && !verdict.Since.IsZero() {
		d.Since = &verdict.Since
	}
	return d
}

func round3(x float64) float64 { return math.Round(x*1000) / 1000 }

// joined puts words that may be empty behind others.
func joined(text, more string) string {
	if more == "" {
		return text
	}
	return text + "; " + more
}

// drain says how far the drain of a real server is, with the connections that the active director counts.
func (v *view) drain(svc *spec.Service, r *spec.RealServer, d *api.Server, progress *countedServer) *api.Drain {
	x, ok := v.drains[[2]string{svc.Key.String(), r.DestKey.String()}]
	if !ok {
		return nil
	}
	out := &api.Drain{State: x.State, Since: x.Since, Then: x.Then, Text: x.Text}
	if !x.Until.IsZero() {
		out.Until = &x.Until
	}
	if d.State == api.Out {
		if x.Then == spec.DrainRemove && x.State == drain.Draining.String() { // the active director knows better
			out.State, out.Text = drain.Drained.String(), "taken out"
		}
		return out
	}
	if progress.Drain != "" {
		out.State, out.Text = progress.Drain, progress.Progress
		return out
	}
	state := drain.Draining
	switch {
	case d.State == api.Drained:
		state = drain.Drained
	case !x.Until.IsZero() && !v.now.Before(x.Until):
		state = drain.Expired
	}
	out.State, out.Text = state.String(), drain.Progress(state, d.Counts.Active+d.Counts.Inactive, x.Until, v.now)
	return out
}

// drained lists the real servers that are drained.
func drained(services []api.Service) (out []api.DrainedServer) {
	for i := range services {
		for _, d := range services[i].Servers {
			if d.Drain != nil {
				out = append(out, api.DrainedServer{Service: services[i].Name, Server: d.Name, Drain: *d.Drain})
			}
		}
	}
	return out
}

// drainsOf are the drains of a controller by service and server.
func drainsOf(st *controller.Status) map[[2]string]controller.DrainStatus {
	out := make(map[[2]string]controller.DrainStatus, len(st.Drains))
	for _, x := range st.Drains {
		out[[2]string{x.Service, x.Server}] = x
	}
	return out
}

// verdict is what the checks of a service say of a real server.
func (v *view) verdict(svc *spec.Service, r *spec.RealServer) (x health.Verdict, out []api.Reason) {
	s := v.health[svc.Key]
	if s == nil || !svc.Checked() {
		return x, nil
	}
	x = s.Servers[r.DestKey]
	reason := api.Reason{Source: "check", Change: "drover checks tells how its probes go"}
	if !x.Since.IsZero() {
		reason.Since = &x.Since
	}
	switch {
	case x.State == health.Down && x.Kept:
		reason.Text = strings.TrimSuffix("is down, and kept: "+strings.TrimPrefix(x.Reason, "kept, "), ": ")
	case x.State == health.Down:
		reason.Text = strings.TrimSuffix("is down: "+x.Reason, ": ")
		reason.Change = "good probes, as many as the check's rise asks for; drover checks tells how they go"
	case x.State == health.Unknown:
		reason.Text = "has not been probed to an end yet, and is left as it is"
		reason.Change = "the first probe; drover checks tells how it goes"
	case x.Reason != "": // up, and not with all of its weight yet
		reason.Text, reason.Change = x.Reason, "time, as long as its probes are good"
	default:
		return x, nil
	}
	return x, append(out, reason)
}

// presence is the part of a state that a director decides.
func presence(weight uint32) string {
	if weight == 0 {
		return api.Draining
	}
	return api.In
}

func ifEmpty(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// word is a name as one types it into a shell.
func word(s string) string {
	if strings.ContainsAny(s, " []") {
		return "'" + s + "'"
	}
	return s
}

func (v *view) agentAt(addr netip.Addr) *agentView {
	for i := range v.agents {
		if a := &v.agents[i]; a.agent != nil && a.agent.Address == addr {
			return a
		}
	}
	return nil
}

// trouble says what an agent reports about a VIP, and whether the agent can be heard.
func (a *agentView) trouble(vip netip.Addr, now time.Time) (out []api.Reason) {
	since := a.since
	switch a.state {
	case "alive":
	case "left":
		out = append(out, api.Reason{Source: "gossip", Text: a.name + " has left the cluster", Since: &since, Change: "start drover-realserver on " + a.name})
	default:
		out = append(out, api.Reason{Source: "gossip", Text: a.name + " is not heard, and is left as it was: who does not hear it cannot know better", Since: &since, Change: "bring " + a.name + " or its network back, or take it out: drover server drain " + a.name})
	}
	for _, x := range slices.Backward(a.agent.Repairs) {
		if age := now.Sub(x.When); age < repairShown && (!x.VIP.IsValid() || x.VIP == vip) {
			since := x.When
			out = append(out, api.Reason{Source: "agent", Text: x.What, Since: &since, Change: "find out who did that on " + a.name})
		}
	}
	for _, x := range a.agent.VIPs {
		if x.Address == vip && !x.Ready {
			out = append(out, api.Reason{Source: "agent", Text: strings.TrimSuffix(fmt.Sprintf("%s on %s is %s: %s", vip, a.name, x.Phase, x.Reason), ": "),
				Change: "put that right on " + a.name + ": it is taken in as soon as its agent reports that the VIP is there and silent"})
		}
	}
	return out
}

// absent lists the members of the pool that are not among the real servers, and why.
func (v *view) absent(svc *spec.Service) []api.Server {
	var out []api.Server
	if svc.Pool == "" {
		return nil
	}
	for i := range v.agents {
		a := &v.agents[i]
		if a.agent == nil || a.agent.Pool != svc.Pool || !a.agent.Address.IsValid() ||
			slices.ContainsFunc(svc.RealServers, func(d spec.RealServer) bool { return d.Addr == a.agent.Address }) {
			continue
		}
		d := api.Server{Name: a.name, Node: a.name, Server: ipvs.DestKey{Addr: a.agent.Address, Port: svc.Port}.String(), Forward: ipvs.DirectRoute.String(), Weight: a.agent.Weight,
			State: api.Out, Reasons: a.trouble(svc.Addr, v.now)}
		if a.agent.Address.Is4() != svc.Addr.Is4() {
			d.Reasons = append(d.Reasons, api.Reason{Source: "agent", Text: fmt.Sprintf("its address is %s, which is of another family than %s", a.agent.Address, svc.Addr), Change: "list it with an address of the same family"})
		}
		if len(d.Reasons) == 0 {
			d.Reasons = append(d.Reasons, api.Reason{Source: "agent", Text: fmt.Sprintf("%s does not have %s yet", a.name, svc.Addr), Change: "it is taken in as soon as its agent reports that the VIP is there and silent"})
		}
		if t, ok := v.since[serverState{svc.Key, ipvs.DestKey{Addr: a.agent.Address, Port: svc.Port}, api.Out}]; ok {
			d.Since = &t
		}
		out = append(out, d)
	}
	return out
}

// sinceOf brings up to date since when real servers are what they are: in, of weight 0, or out after they were
// something else.
func sinceOf(old map[serverState]time.Time, full *spec.Spec, now time.Time) map[serverState]time.Time {
	out := make(map[serverState]time.Time, len(old))
	known := make(map[serverState]bool) // without a state
	for k := range old {
		known[serverState{k.service, k.server, ""}] = true
	}
	for i := range full.Services {
		svc := &full.Services[i]
		for j := range svc.RealServers {
			k := serverState{svc.Key, svc.RealServers[j].DestKey, presence(svc.RealServers[j].InForce())}
			delete(known, serverState{k.service, k.server, ""})
			if t, ok := old[k]; ok {
				out[k] = t
			} else {
				out[k] = now
			}
		}
	}
	for k := range known {
		k.state = api.Out
		if !slices.ContainsFunc(full.Services, func(s spec.Service) bool { return s.Key == k.service && s.Pool != "" }) {
			continue // it may come back only by a change of the specification
		}
		if t, ok := old[k]; ok {
			out[k] = t
		} else {
			out[k] = now
		}
	}
	return out
}
