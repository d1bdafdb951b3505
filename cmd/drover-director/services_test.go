package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

const viewed = `
vips: [192.0.2.10, {address: 192.0.2.11, group: blue}]
services:
  - name: web
    address: 192.0.2.10
    port: 80
    pool: web
    scheduler: rr
    real_servers:
      - {name: listed, address: 10.0.0.21, weight: 3}
      - {name: heavy, address: 10.0.0.22, weight: 0}
      - {name: idle, address: 10.0.0.23, weight: 0}
      - {name: refused, address: 10.0.0.24}
      - {name: lost, address: 10.0.0.25}
      - {name: going, address: 10.0.0.26, weight: 4, drain: {deadline: 30s}}
      - {name: removed, address: 10.0.0.27, drain: {then: remove}}
  - {name: blue, address: 192.0.2.11, port: 80, scheduler: rr, real_servers: [10.0.0.21]}
  - {name: stray, address: 192.0.2.12, port: 80, scheduler: rr, real_servers: []}
`

// line is a service or a server with all that is said about it.
func lineOf(name, state string, c api.Counts, x api.Traffic, reasons []api.Reason) string {
	s := fmt.Sprintf("%s %s %d+%d %d", name, state, c.Active, c.Inactive, x.Connections)
	for _, r := range reasons {
		s += fmt.Sprintf(" | %s: %s -> %s", r.Source, r.Text, r.Change)
	}
	return s
}

func TestServices(t *testing.T) {
	f, err := spec.ParseSpec("", []byte(viewed))
	if err != nil {
		t.Fatal(err)
	}
	ip := netip.MustParseAddr
	vip := func(ready bool, phase, reason string) []api.AgentVIP {
		return []api.AgentVIP{{Address: ip("192.0.2.10"), Ready: ready, Phase: phase, Reason: reason}}
	}
	agents := []agentView{
		{"draining", "alive", time.Time{}, &api.Agent{Pool: "web", Address: ip("10.0.0.31"), Weight: 5, Draining: true, VIPs: vip(true, "silent", "")}},
		{"gone", "left", time.Time{}, &api.Agent{Pool: "web", Address: ip("10.0.0.32"), Weight: 1}},
		{"good", "alive", time.Time{}, &api.Agent{Pool: "web", Address: ip("10.0.0.33"), Weight: 7, VIPs: vip(true, "silent", ""),
			Repairs: []api.Repair{{When: time.Now().Add(-time.Hour), What: "an old one"}, {When: time.Now().Add(-time.Minute), What: "192.0.2.99 was taken off", VIP: ip("192.0.2.99")}, // another service's
				{When: time.Now().Add(-time.Minute), What: "192.0.2.10 was taken off", VIP: ip("192.0.2.10")}}}},
		{"loud", "alive", time.Time{}, &api.Agent{Pool: "web", Address: ip("10.0.0.34"), Weight: 1, VIPs: vip(false, "loud", "answers ARP")}},
		{"mute", "failed", time.Time{}, &api.Agent{Pool: "web", Address: ip("10.0.0.35"), Weight: 1, VIPs: vip(true, "silent", "")}},
		{"new", "alive", time.Time{}, &api.Agent{Pool: "web", Address: ip("10.0.0.36"), Weight: 1}},
		{"other", "alive", time.Time{}, &api.Agent{Pool: "mail", Address: ip("10.0.0.37"), Weight: 1}},
		{"six", "alive", time.Time{}, &api.Agent{Pool: "web", Address: ip("fd00::1"), Weight: 1, VIPs: vip(true, "silent", "")}},
		{"unreadable", "alive", time.Time{}, nil},
	}
	members := []spec.Member{
		{Name: "draining", Pool: "web", Address: ip("10.0.0.31"), Weight: 5, Drain: spec.Drain{On: true}, VIPs: []netip.Addr{ip("192.0.2.10")}},
		{Name: "good", Pool: "web", Address: ip("10.0.0.33"), Weight: 7, VIPs: []netip.Addr{ip("192.0.2.10")}},
		{Name: "mute", Pool: "web", Address: ip("10.0.0.35"), Weight: 1, VIPs: []netip.Addr{ip("192.0.2.10")}},
	}
	full := f.Spec.WithMembers(members)
	count := func(active, inactive uint64, connections uint64) *countedServer {
		return &countedServer{Weight: 1, Counts: api.Counts{Active: active, Inactive: inactive}, Traffic: api.Traffic{Connections: connections}}
	}
	here := counted{
		"TCP 192.0.2.10:80": {Traffic: api.Traffic{Connections: 100}, Servers: map[string]*countedServer{
			"10.0.0.21:80": count(1, 2, 50), "10.0.0.22:80": count(9, 0, 1), "10.0.0.23:80": count(0, 0, 1), "10.0.0.26:80": count(7, 5, 1), "10.0.0.31:80": count(1, 0, 1), "10.0.0.33:80": count(4, 4, 4), "10.0.0.35:80": count(0, 0, 0)}},
	}
	for _, name := range []string{"10.0.0.22:80", "10.0.0.26:80", "10.0.0.23:80", "10.0.0.31:80"} {
		here["TCP 192.0.2.10:80"].Servers[name].Weight = 0
	}
	there := counted{
		"TCP 192.0.2.10:80": {Traffic: api.Traffic{Connections: 11}, Servers: map[string]*countedServer{"10.0.0.21:80": count(70, 70, 7)}},
	}
	now := time.Now()
	drains := drainsOf(&controller.Status{Drains: []controller.DrainStatus{
		// As a standby has it, which does not know the connections.
		{Service: "TCP 192.0.2.10:80", Server: "10.0.0.26:80", State: "draining", Until: now.Add(25 * time.Second), Text: "0 connections, 25 s left"},
		{Service: "TCP 192.0.2.10:80", Server: "10.0.0.27:80", State: "drained", Then: "remove", Text: "no connection left"},
		{Service: "TCP 192.0.2.10:80", Server: "10.0.0.31:80", State: "draining", Until: now.Add(-time.Second), Text: "?"},
	}})
	v := &view{node: "d1", now: now, drains: drains, base: &f.Spec, full: &full, agents: agents, tables: map[string]counted{"d1": here, "d2": there}, active: map[string]string{"default": "d1", "blue": ""},
		errors: []controller.ErrorStatus{{Change: "-a -t 192.0.2.10:80 -r 10.0.0.24:80", Service: "TCP 192.0.2.10:80", Server: "10.0.0.24:80", Error: "no room", Tries: 3}},
		reasons: []func(*spec.Service, *spec.RealServer) []api.Reason{func(s *spec.Service, d *spec.RealServer) []api.Reason {
			if s.Name == "web" && d.Name == "listed" {
				return []api.Reason{{Source: "check", Text: "slow", Change: "be quick"}}
			}
			return nil
		}}}
	var got []string
	for _, s := range v.services() {
		got = append(got, lineOf(s.Name, s.State, s.Counts, s.Traffic, s.Reasons))
		for _, d := range s.Servers {
			listed := ""
			if d.Listed {
				listed = "*"
			}
			got = append(got, "  "+lineOf(d.Name+listed, d.State, d.Counts, d.Traffic, d.Reasons))
		}
	}
	soon := " -> it is taken in as soon as its agent reports that the VIP is there and silent"
	want := []string{
		"web in 22+11 111",
		"  listed* in 1+2 57 | check: slow -> be quick",
		"  heavy* draining 9+0 1 | specification: weight 0 -> drover server undrain web heavy",
		"  idle* drained 0+0 1 | specification: weight 0 -> drover server undrain web idle",
		`  refused* out 0+0 0 | kernel: refuses "-a -t 192.0.2.10:80 -r 10.0.0.24:80": no room -> it was tried 3 times and is tried again`,
		"  lost* out 0+0 0 | kernel: is not in the table of d1 -> the next comparison with the kernel puts it there",
		"  going* draining 7+5 1 | specification: draining: 12 connections, 25 s left -> drover server undrain web going",
		"  removed* out 0+0 0 | specification: drained, and taken out: no connection left -> drover server undrain web removed",
		"  draining draining 1+0 1 | agent: draining asks to be drained, as its agent is being stopped; draining: 1 connection left at the deadline 1 s ago -> start drover-realserver on draining",
		"  good in 4+4 4 | agent: 192.0.2.10 was taken off -> find out who did that on good",
		"  mute in 0+0 0 | gossip: mute is not heard, and is left as it was: who does not hear it cannot know better -> bring mute or its network back, or take it out: drover server drain mute",
		"  gone out 0+0 0 | gossip: gone has left the cluster -> start drover-realserver on gone",
		"  loud out 0+0 0 | agent: 192.0.2.10 on loud is loud: answers ARP -> put that right on loud: it is taken in as soon as its agent reports that the VIP is there and silent",
		"  new out 0+0 0 | agent: new does not have 192.0.2.10 yet" + soon,
		"  six out 0+0 0 | agent: its address is fd00::1, which is of another family than 192.0.2.10 -> list it with an address of the same family",
		"blue standby 0+0 0 | election: no director is active for group blue -> drover status says why",
		"  10.0.0.21* out 0+0 0 | kernel: is not in the table of d1 -> the next comparison with the kernel puts it there",
		"stray out 0+0 0 | specification: 192.0.2.12 is not one of the VIPs -> add it to vips, unless something else puts it onto an interface | specification: no real server takes new connections -> what the servers below need",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	// As the other director sees it, whose kernel has other connections; the active one does not answer.
	v = &view{node: "d2", base: &f.Spec, full: &full, tables: map[string]counted{"d2": there}, active: map[string]string{"default": "d1"}}
	if s := v.services()[0]; s.Counts != (api.Counts{}) || s.Servers[4].State != api.In || s.Traffic.Connections != 11 {
		t.Errorf("without the active one: %+v", s)
	}
	// Alone.
	v = &view{base: &f.Spec, full: &f.Spec, tables: map[string]counted{"": here}}
	if s := v.services()[0]; s.Active != "" || s.Servers[0].Counts.Active != 1 || s.Servers[4].Reasons[0].Text != "is not in the table of this director" {
		t.Errorf("alone: %+v", s)
	}
}

// What checks say is among the reasons.
func TestServicesChecked(t *testing.T) {
	f, err := spec.ParseSpec("", []byte("vips: [192.0.2.10]\nservices: [{name: web, address: 192.0.2.10, port: 80, checks: [{type: tcp}], real_servers: [10.0.0.11, 10.0.0.12, 10.0.0.13, 10.0.0.14]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	svc := &f.Spec.Services[0]
	key := func(i int) ipvs.DestKey { return svc.RealServers[i].DestKey }
	since := time.Unix(1000, 0)
	table := counted{svc.Key.String(): {Servers: map[string]*countedServer{key(0).String(): {Weight: 1}, key(2).String(): {Weight: 1}, key(3).String(): {Weight: 0}}}}
	v := &view{base: &f.Spec, full: &f.Spec, tables: map[string]counted{"": table}, health: health.View{svc.Key: {Sorry: true, Servers: map[ipvs.DestKey]health.Verdict{
		key(0): {State: health.Up, Since: since}, key(1): {State: health.Down, Since: since, Reason: "connection refused"},
		key(2): {State: health.Down, Since: since, Reason: "late", Kept: true}}}}}
	s := v.services()[0]
	got := lineOf(s.Name, s.State, s.Counts, s.Traffic, s.Reasons)
	for _, d := range s.Servers {
		got += "\n" + lineOf(d.Name, d.State, d.Counts, d.Traffic, d.Reasons)
	}
	want := `web in 0+0 0 | check: the quorum is lost, and the sorry server answers -> more real servers that are up
10.0.0.11 in 0+0 0
10.0.0.12 out 0+0 0 | check: is down: connection refused -> good probes, as many as the check's rise asks for; drover checks tells how they go
10.0.0.13 in 0+0 0 | check: is down, and kept: late -> drover checks tells how its probes go
10.0.0.14 drained 0+0 0 | check: has not been probed to an end yet, and is left as it is -> the first probe; drover checks tells how it goes`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if d := s.Servers[1]; d.Since == nil || !d.Since.Equal(since) {
		t.Errorf("out since %v", d.Since)
	}
	f.Spec.Services[0].Checks = nil
	if d := v.services()[0].Servers[1]; len(d.Reasons) != 1 || d.Reasons[0].Source != "kernel" {
		t.Errorf("without checks: %+v", d.Reasons)
	}
}

// A server keeps the time of its state, and one that is out stays known while it can come back by itself.
func TestSinceOf(t *testing.T) {
	read := func(text string) *spec.Spec {
		f, err := spec.ParseSpec("", []byte("vips: []\nservices: [{address: 192.0.2.10, port: 80, "+text+"}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		return &f.Spec
	}
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	key := func(state string) serverState {
		k := ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80}
		return serverState{k, ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.11"), Port: 80}, state}
	}
	in, drained, none, unpooled := read("pool: web, real_servers: [10.0.0.11]"), read("pool: web, real_servers: [{address: 10.0.0.11, weight: 0}]"), read("pool: web"), read("real_servers: []")
	var m map[serverState]time.Time
	for i, step := range []struct {
		s     *spec.Spec
		state string
		since int
	}{
		{in, api.In, 0}, {in, api.In, 0}, {drained, api.Draining, 2}, {drained, api.Draining, 2}, {none, api.Out, 4}, {none, api.Out, 4}, {in, api.In, 6}, {none, api.Out, 7}, {unpooled, "", 0}, {in, api.In, 9},
	} {
		m = sinceOf(m, step.s, at(i))
		want := map[serverState]time.Time{key(step.state): at(step.since)}
		if step.state == "" {
			want = nil
		}
		if fmt.Sprint(m) != fmt.Sprint(want) && (len(m) > 0 || want != nil) {
			t.Errorf("step %d: %v, want %v", i, m, want)
		}
	}
}
