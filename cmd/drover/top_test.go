package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
)

// aSample is a site after so many seconds of traffic: web has 10 connections a second at its first server and 30 at
// the second, and dns 5.
func aSample(seconds uint64) *sample {
	traffic := func(perSecond uint64) api.Traffic {
		n := 1000 + seconds*perSecond
		return api.Traffic{Connections: n, InPackets: 10 * n, InBytes: 1000 * n}
	}
	s := &sample{services: &api.Services{Node: "d2", When: now.Add(time.Duration(seconds) * time.Second), Version: "7.3", Counted: []string{"d1", "d2"}, Services: []api.Service{
		{Name: "dns", Service: "UDP 192.0.2.10:53", State: api.In, Active: "d1", Traffic: traffic(5), Counts: api.Counts{Active: 0, Inactive: 12345}, Servers: []api.Server{
			{Name: "ns1", Server: "10.0.0.21:53", State: api.In, Traffic: traffic(5)}}},
		{Name: "web", Service: "TCP 192.0.2.10:80", State: api.In, Active: "d1", Traffic: traffic(40), Counts: api.Counts{Active: 70, Inactive: 3}, Servers: []api.Server{
			{Name: "web1", Server: "10.0.0.11:80", State: api.In, Traffic: traffic(10), Counts: api.Counts{Active: 50}},
			{Name: "web2", Server: "10.0.0.12:80", State: api.In, Traffic: traffic(30), Counts: api.Counts{Active: 20, Inactive: 3}},
			{Name: "web3", Server: "10.0.0.13:80", State: api.Out, Reasons: []api.Reason{{Text: "web3 has left the cluster"}}}}},
	}}}
	s.cluster = &api.Cluster{Node: "d2", Groups: []api.Group{{Name: "default", Active: "d1", Role: "standby"}}}
	return s
}

func TestTopRows(t *testing.T) {
	line := func(rows []topRow) string {
		var out []string
		for _, r := range rows {
			out = append(out, fmt.Sprintf("%s:%g/%g/%g", r.name, r.rates.conns, r.rates.packets, r.rates.bytes))
		}
		return strings.Join(out, " ")
	}
	a, b := aSample(0), aSample(4)
	for _, tc := range []struct {
		order   topOrder
		servers bool
		want    string
	}{
		{byName, true, "dns:5/50/5000 ns1:5/50/5000 web:40/400/40000 web1:10/100/10000 web2:30/300/30000 web3:0/0/0"},
		{byConns, true, "web:40/400/40000 web2:30/300/30000 web1:10/100/10000 web3:0/0/0 dns:5/50/5000 ns1:5/50/5000"},
		{byPackets, false, "web:40/400/40000 dns:5/50/5000"},
		{byBytes, false, "web:40/400/40000 dns:5/50/5000"},
		{byActive, true, "web:40/400/40000 web1:10/100/10000 web2:30/300/30000 web3:0/0/0 dns:5/50/5000 ns1:5/50/5000"},
	} {
		if got := line(topRows(a, b, tc.order, tc.servers)); got != tc.want {
			t.Errorf("%c, servers %t: got  %s\nwant %s", tc.order, tc.servers, got, tc.want)
		}
	}
	const still = "dns:0/0/0 web:0/0/0"
	if got := line(topRows(nil, b, byName, false)); got != still {
		t.Errorf("the first look: %s", got)
	}
	if got := line(topRows(b, a, byName, false)); got != still {
		t.Errorf("counters that were set back: %s", got)
	}
	if got := line(topRows(b, b, byName, false)); got != still {
		t.Errorf("no time between: %s", got)
	}
	if got := line(topRows(&sample{services: &api.Services{When: now}}, b, byName, false)); got != still {
		t.Errorf("services that are new: %s", got)
	}
}

// Every size of terminal is filled and not left, whatever is typed.
func TestTopFits(t *testing.T) {
	for _, painted := range []bool{false, true} {
		s := &topScreen{servers: true, order: byName, paint: paint{painted}}
		for _, x := range []*sample{nil, aSample(0), aSample(2)} {
			if x != nil {
				s.take(x)
			}
			for w := 1; w < 140; w += 3 {
				for h := 1; h < 20; h++ {
					s.width, s.height = w, h
					s.key([]string{"j", "k", "c", "n", "s", " ", "\x1b[F"}[(w+h)%7])
					lines := s.lines()
					if len(lines) != h {
						t.Fatalf("%dx%d: %d lines", w, h, len(lines))
					}
					for _, l := range lines {
						if width(l) > w {
							t.Fatalf("%dx%d: %q has %d columns", w, h, l, width(l))
						}
					}
				}
			}
		}
	}
}

func TestTopScreens(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
	s := &topScreen{order: byConns, servers: true}
	s.take(aSample(0))
	s.take(aSample(4))
	for _, size := range [][2]int{{120, 14}, {80, 14}, {40, 9}} {
		s.width, s.height = size[0], size[1]
		var out []string
		for _, l := range s.lines() {
			out = append(out, strings.TrimRight(l, " "))
		}
		golden(t, fmt.Sprintf("top-%d.golden", size[0]), strings.Join(out, "\n")+"\n")
	}
	s.trouble = "no director answers"
	if l := s.lines(); !slices.Contains(l, "no director answers") {
		t.Errorf("no word of the trouble:\n%s", strings.Join(l, "\n"))
	}
	for _, k := range []string{"q", "\x03", "\x1b"} {
		if !s.key(k) {
			t.Errorf("%q does not end it", k)
		}
	}
}

func TestSplitKeys(t *testing.T) {
	for in, want := range map[string][]string{
		"": nil, "q": {"q"}, "cq": {"c", "q"}, "\x1b": {"\x1b"}, "\x1b[A": {"\x1b[A"}, "\x1b[Bq\x1b[6~": {"\x1b[B", "q", "\x1b[6~"}, "\x1bOA": {"\x1b[A"}, "\x1b[": {"\x1b["}, "\x1b[6": {"\x1b[6"},
	} {
		if got := splitKeys(in); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestTopCommand(t *testing.T) {
	g := newRegistry(t, site)
	g.services = someServices()
	for args, want := range map[string]string{
		"top":                  "top: this is no terminal: -n 2 prints two looks",
		"top -n 1 x":           `top: unexpected argument "x"`,
		"top --interval 1ms":   "top: --interval (1ms) must be between 100ms and 1h0m0s",
		"top -n -1":            "top: --count (-1) must be at least 1",
		"top --sort colour":    `top: --sort ("colour") must be one of: name, connections, packets, bytes, active`,
		"top --interval often": `invalid value "often" for flag -interval: `,
	} {
		if status, out, errs := drover(t.Context(), "", words(args)...); status != 2 || out != "" || !strings.HasPrefix(errs, "drover: "+want) {
			t.Errorf("%s: %d, %q, %q", args, status, out, errs)
		}
	}
	status, out, errs := drover(t.Context(), "", words("top -n 2 --interval 100ms")...)
	if status != 0 || errs != "" || strings.Count(out, "drover top  ") != 2 || strings.Count(out, "  web5  10.") != 2 {
		t.Errorf("%d, %q\n%s", status, errs, out)
	}
	t.Setenv("DROVER_DIRECTOR", "/nowhere/d.sock")
	if status, _, errs := drover(t.Context(), "", words("top -n 1")...); status != exitNoDirector {
		t.Errorf("%d, %q", status, errs)
	}
}
