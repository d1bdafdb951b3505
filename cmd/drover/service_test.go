package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
)

// registry is a director that keeps a specification as a cluster does, and says how services are.
type registry struct {
	url      string
	versions []api.Entry // the newest first
	services api.Services
	inFile   string
	meddle   func(*registry) // called once before the next change is looked at
	asked    []string
	last     api.Change
}

func (g *registry) put(content string) {
	g.versions = append([]api.Entry{{Version: fmt.Sprintf("1.%d", len(g.versions)+1), Content: content}}, g.versions...)
}

func newRegistry(t *testing.T, content string) *registry {
	g := &registry{}
	if content != "" {
		g.put(content)
	}
	reply := func(w http.ResponseWriter, status int, v any) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/spec", func(w http.ResponseWriter, _ *http.Request) {
		d := api.Document{Replicated: g.inFile == "", Path: g.inFile}
		if len(g.versions) > 0 {
			d.Content, d.Version = g.versions[0].Content, g.versions[0].Version
		}
		reply(w, 200, d)
	})
	mux.HandleFunc("PUT /v1/spec", func(w http.ResponseWriter, r *http.Request) {
		if m := g.meddle; m != nil {
			g.meddle = nil
			m(g)
		}
		var ch api.Change
		json.NewDecoder(r.Body).Decode(&ch)
		g.last = ch
		if len(g.versions) > 0 && ch.IfVersion != "" && ch.IfVersion != g.versions[0].Version {
			reply(w, 409, api.Error{Text: "version " + g.versions[0].Version + " is in force"})
			return
		}
		if ch.DryRun {
			reply(w, 200, api.Changed{Plan: json.RawMessage(`"the plan\n"`)})
			return
		}
		g.put(ch.Content)
		reply(w, 200, api.Changed{Version: g.versions[0].Version, Stored: []string{"d1"}})
	})
	mux.HandleFunc("GET /v1/history", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, g.versions) })
	mux.HandleFunc("GET /v1/history/{v}", func(w http.ResponseWriter, r *http.Request) {
		for _, e := range g.versions {
			if e.Version == r.PathValue("v") {
				reply(w, 200, e)
				return
			}
		}
		reply(w, 404, api.Error{Text: "no such version"})
	})
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, _ *http.Request) { reply(w, 200, g.services) })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.asked = append(g.asked, r.Method+" "+r.URL.Path)
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	g.url = s.URL
	t.Setenv("DROVER_DIRECTOR", s.URL)
	return g
}

const site = `# The site.
vips: [192.0.2.10]
services:
  - name: web # public
    address: 192.0.2.10
    port: 80
    scheduler: rr
    real_servers:
      - {name: a, address: 10.0.0.11, weight: 3} # cellar
      - 10.0.0.12
  - {name: dns, address: 192.0.2.10, port: 53, protocol: udp, pool: names, real_servers: [10.0.0.11]}
`

// fields makes arguments of a line; what stands in quotes stays together.
func words(line string) []string {
	var out []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			out = append(out, part)
		} else {
			out = append(out, strings.Fields(part)...)
		}
	}
	return out
}

// Each edit changes one line of the site, or two.
func TestEdits(t *testing.T) {
	for _, tc := range []struct{ args, was, is string }{
		{"service edit web -s wlc", "scheduler: rr", "scheduler: wlc"},
		{"service edit -s wlc -t 192.0.2.10:80", "scheduler: rr", "scheduler: wlc"},
		{"service edit 192.0.2.10:80 -s sh -b sh-fallback,sh-port", "scheduler: rr\n", "scheduler: sh\n    scheduler_flags: [sh-fallback, sh-port]\n"},
		{"service edit web --name www", "name: web", "name: www"},
		{"service edit web -p", "scheduler: rr\n", "scheduler: rr\n    persistence: {timeout: 300s}\n"},
		{"service edit web -p 60 -M 255.255.255.0", "scheduler: rr\n", "scheduler: rr\n    persistence: {timeout: 60s, netmask: 24}\n"},
		{"service edit web --pool front", "scheduler: rr\n", "scheduler: rr\n    pool: front\n"},
		{"service edit -u 192.0.2.10:53 --pool none -o", ", pool: names, real_servers: [10.0.0.11]", ", real_servers: [10.0.0.11], one_packet: true"},
		{"service add -t 192.0.2.11:443 -s sh shop --vip", "", "  - name: shop\n    address: 192.0.2.11\n    port: 443\n    scheduler: sh\n    real_servers: []\n"},
		{"service add -f 7 -6 -p", "", "  - fwmark: 7\n    family: ipv6\n    scheduler: wlc\n    persistence: {timeout: 300s}\n    real_servers: []\n"},
		{"service delete dns", "  - {name: dns, address: 192.0.2.10, port: 53, protocol: udp, pool: names, real_servers: [10.0.0.11]}\n", ""},
		{"server add web 10.0.0.13", "- 10.0.0.12\n", "- 10.0.0.12\n      - 10.0.0.13\n"},
		{"server add -t 192.0.2.10:80 -r 10.0.0.13:80 -g -w 5 --name c", "- 10.0.0.12\n", "- 10.0.0.12\n      - {address: 10.0.0.13, name: c, weight: 5}\n"},
		{"server add web 10.0.0.13:8080 -m", "- 10.0.0.12\n", "- 10.0.0.12\n      - {address: 10.0.0.13, port: 8080, forwarding: masquerade}\n"},
		{"server add web 10.0.0.13 -i --tun-type gue --tun-port 6080 --tun-csum", "- 10.0.0.12\n", "- 10.0.0.12\n      - {address: 10.0.0.13, forwarding: tunnel, tunnel: {type: gue, port: 6080, checksum: true}}\n"},
		{"server edit web a -w 9", "weight: 3}", "weight: 9}"},
		{"server edit web/a -x 100 -y 50", "weight: 3}", "weight: 3, upper_threshold: 100, lower_threshold: 50}"},
		{"server edit -r 10.0.0.12 -w 9", "- 10.0.0.12\n", "- {address: 10.0.0.12, weight: 9}\n"},
		{"server delete web 10.0.0.12:80", "      - 10.0.0.12\n", ""},
		{"server drain a", "weight: 3}", "weight: 3, drain: {since: NOW}}"},
		{"server drain web 10.0.0.12 --deadline 90s --then remove", "- 10.0.0.12\n", "- {address: 10.0.0.12, drain: {since: NOW, deadline: 1m30s, then: remove}}\n"},
		{"server undrain web a -w 4", "weight: 3}", "weight: 4}"},
	} {
		g := newRegistry(t, site)
		status, out, errs := drover(t.Context(), "", words(tc.args)...)
		want := strings.Replace(site, tc.was, tc.is, 1)
		if tc.was == "" {
			want = site + tc.is
		}
		if strings.Contains(tc.args, "--vip") {
			want = strings.Replace(want, "[192.0.2.10]", "[192.0.2.10, 192.0.2.11]", 1)
		}
		if status != 0 || out != "version 1.2 is on 1 of 1 directors: d1\n" || errs != "" || withoutTimes(g.versions[0].Content) != want {
			t.Errorf("%s: exit status %d, %q, %q, got\n%s\nwant\n%s", tc.args, status, out, errs, g.versions[0].Content, want)
		}
		if g.last.What != "drover "+strings.Join(words(tc.args), " ") || g.last.IfVersion != "1.1" || g.last.Who != whoami() {
			t.Errorf("%s: %+v", tc.args, g.last)
		}
	}
}

// withoutTimes writes NOW for the times since when something is drained.
func withoutTimes(text string) string {
	return regexp.MustCompile(`since: "20[0-9TZ:-]+"`).ReplaceAllString(text, "since: NOW")
}

func TestEditsRefused(t *testing.T) {
	for _, tc := range []struct {
		args   string
		status int
		want   string
	}{
		{"service add web", 2, "service add: one of --tcp-service"},
		{"service add -t 192.0.2.10:81 -u 192.0.2.10:81", 2, "service add: --tcp-service and --udp-service exclude each other"},
		{"service add -t 192.0.2.10", 2, `service add: "192.0.2.10" is not an address with port, such as 192.0.2.10:80`},
		{"service add -f 0", 2, `service add: the mark ("0") must be a number between 1 and 4294967295`},
		{"service add -t 192.0.2.10:81 -6", 2, "service add: --ipv6 goes with --fwmark-service"},
		{"service add -t 192.0.2.10:81 -p 2678401", 2, `service add: --persistent ("2678401") must be a number between 0 and 2678400`},
		{"service add -t 192.0.2.10:81 -M 24", 2, "--netmask and --pe need persistence: -p [SECONDS]"},
		{"service add -t 192.0.2.10:81 -b nope", 2, `service add: "nope" is no flag of a scheduler: `},
		{"service add -t 192.0.2.10:81 -s nope", 2, `services[2]: scheduler: "nope" is not one of: `},
		{"service add -t 192.0.2.10:80", 1, `the service TCP 192.0.2.10:80 exists, with the name "web"`},
		{"service edit", 2, "service edit: which service?"},
		{"service edit web -t 192.0.2.10:80", 2, `service edit: "web" and TCP 192.0.2.10:80 both name a service`},
		{"service edit wbe", 1, `there is no service "wbe": the services are web, dns`},
		{"server add 10.0.0.13", 2, "server add: to which service?"},
		{"server add web c", 2, `server add: "c" is not an address, such as 10.0.0.11 or 10.0.0.11:80`},
		{"server add web 10.0.0.13 -w 65536", 2, `server add: --weight ("65536") must be a number between 0 and 65535`},
		{"server add web 10.0.0.13 -g -i", 2, "server add: --gatewaying and --ipip exclude each other"},
		{"server add web 10.0.0.13 --tun-type gre", 2, "the options of tunnels need --ipip"},
		{"server add web 10.0.0.13:8080", 2, `services[0] ("web"): real_servers[2]`},
		{"server add web 10.0.0.11", 1, `the service "web" lists the real server 10.0.0.11:80 already, with the name "a"`},
		{"server edit web", 1, `no service lists a real server "web"`},
		{"server edit web zz -w 1", 1, `the service "web" lists no real server "zz": it lists a, 10.0.0.12`},
		{"server drain zz", 1, `no service has a real server "zz"`},
		{"server drain a --deadline 200h", 2, "server drain: deadline (200h0m0s) must be between 0s, which is none, and 168h0m0s"},
		{"server drain a --then delete", 2, `server drain: then ("delete") must be keep or remove`},
		{"server drain a --wait 0s", 2, "server drain: wait (0s) must be between 1s and 168h0m0s"},
		{"server drain a --wait 5s --dry-run", 2, "server drain: --wait and --dry-run exclude each other"},
		{"server undrain web a -w 0", 2, "server undrain: weight 0 is what a drained server has"},
		{"service edit web -s wlc --if-version 1.7", 4, "version 1.1 is in force, not 1.7"},
	} {
		g := newRegistry(t, site)
		status, out, errs := drover(t.Context(), "", words(tc.args)...)
		if status != tc.status || out != "" || !strings.HasPrefix(errs, "drover: "+tc.want) || len(g.versions) != 1 {
			t.Errorf("%s: exit status %d, %q\ngot  %s\nwant %d, %s", tc.args, status, out, errs, tc.status, tc.want)
		}
	}
	g := newRegistry(t, site)
	g.inFile = "/etc/drover/director.yaml"
	if status, _, errs := drover(t.Context(), "", "service", "edit", "web", "-s", "lc"); status != 1 || !strings.Contains(errs, "edit /etc/drover/director.yaml") {
		t.Errorf("in a file: %d, %q", status, errs)
	}
}

// Somebody else's change at the same time is kept; an edit that does not apply any more is refused.
func TestEditConflict(t *testing.T) {
	g := newRegistry(t, site)
	g.meddle = func(g *registry) { g.put(strings.Replace(site, "weight: 3", "weight: 8", 1)) }
	status, out, errs := drover(t.Context(), "", words("service edit web -s lc")...)
	want := strings.Replace(strings.Replace(site, "weight: 3", "weight: 8", 1), "scheduler: rr", "scheduler: lc", 1)
	if status != 0 || errs != "" || !strings.HasPrefix(out, "version 1.3 ") || g.versions[0].Content != want {
		t.Errorf("exit status %d, %q, %q\n%s", status, out, errs, g.versions[0].Content)
	}

	g = newRegistry(t, site)
	g.meddle = func(g *registry) { g.put("vips: []\nservices: []\n") }
	if status, _, errs := drover(t.Context(), "", words("service edit web -s lc")...); status != exitConflict || !strings.Contains(errs, `does not apply to version 1.2: there is no service "web"`) || len(g.versions) != 2 {
		t.Errorf("exit status %d, %q", status, errs)
	}

	g = newRegistry(t, site)
	g.meddle = func(g *registry) { g.put(site + "# more\n") }
	if status, _, errs := drover(t.Context(), "", words("service edit web -s lc --if-version 1.1")...); status != exitConflict || errs != "drover: version 1.2 is in force\n" || len(g.versions) != 2 {
		t.Errorf("exit status %d, %q", status, errs)
	}

	// Somebody who is always faster is not waited for without end.
	g = newRegistry(t, site)
	var again func(g *registry)
	again = func(g *registry) { g.put(site + "# more\n"); g.meddle = again }
	g.meddle = again
	if status, _, _ := drover(t.Context(), "", words("service edit web -s lc")...); status != exitConflict || len(g.versions) != 1+changeTries {
		t.Errorf("exit status %d, %d versions", status, len(g.versions))
	}
}

func TestEditDryRunAndFirst(t *testing.T) {
	g := newRegistry(t, site)
	if status, out, errs := drover(t.Context(), "", words("service delete web --dry-run")...); status != 0 || out != "the plan\n" || errs != "" || len(g.versions) != 1 {
		t.Errorf("exit status %d, %q, %q", status, out, errs)
	}
	g = newRegistry(t, "")
	if status, _, errs := drover(t.Context(), "", words("service add -t 192.0.2.10:80 web --message first")...); status != 0 || errs != "" || g.last.What != "first" ||
		g.versions[0].Content != "vips: []\nservices:\n  - name: web\n    address: 192.0.2.10\n    port: 80\n    scheduler: wlc\n    real_servers: []\n" {
		t.Errorf("exit status %d, %q, %+v", status, errs, g.versions)
	}
}

// A drained server gets back what it had; a member of a pool is listed only while it is drained.
func TestDrainAndUndrain(t *testing.T) {
	g := newRegistry(t, site)
	g.services = api.Services{Services: []api.Service{{Name: "dns", Service: "UDP 192.0.2.10:53", Pool: "names", Servers: []api.Server{
		{Name: "10.0.0.11", Server: "10.0.0.11:53", Listed: true}, {Name: "n1", Node: "n1", Server: "10.0.0.21:53", Weight: 7}}}}}
	for _, line := range []string{"server drain web a", "service edit web -s lc", "server drain n1", "server drain n1 --then remove"} {
		if status, _, errs := drover(t.Context(), "", words(line)...); status != 0 || errs != "" {
			t.Fatalf("%s: %d, %q", line, status, errs)
		}
	}
	drained := strings.NewReplacer("weight: 3}", "weight: 3, drain: {since: NOW}}", "scheduler: rr", "scheduler: lc", "[10.0.0.11]", "[10.0.0.11, {address: 10.0.0.21, name: n1, weight: 7, drain: {since: NOW, then: remove}}]").Replace(site)
	if got := withoutTimes(g.versions[0].Content); got != drained {
		t.Fatalf("got\n%s\nwant\n%s", got, drained)
	}
	for _, line := range []string{"server undrain a", "server undrain dns n1"} {
		if status, _, errs := drover(t.Context(), "", words(line)...); status != 0 || errs != "" {
			t.Fatalf("%s: %d, %q", line, status, errs)
		}
	}
	if want := strings.Replace(site, "scheduler: rr", "scheduler: lc", 1); g.versions[0].Content != want {
		t.Errorf("got\n%s\nwant\n%s", g.versions[0].Content, want)
	}
}

// A server of weight 0 that has no drain, as ipvsadm makes one, gets its weight back from the history, too; and one
// that is drained again keeps the time when it began.
func TestUndrainWeightZero(t *testing.T) {
	g := newRegistry(t, site)
	for _, line := range []string{"server edit a -w 0", "server drain a --deadline 1m", "server drain a --deadline 2m"} {
		before := g.versions[0].Content
		if status, _, errs := drover(t.Context(), "", words(line)...); status != 0 || errs != "" {
			t.Fatalf("%s: %d, %q", line, status, errs)
		}
		if strings.HasSuffix(line, "2m") && g.versions[0].Content != strings.Replace(before, "deadline: 1m", "deadline: 2m", 1) {
			t.Errorf("got\n%s\nbefore\n%s", g.versions[0].Content, before)
		}
	}
	if status, _, errs := drover(t.Context(), "", words("server undrain a")...); status != 0 || errs != "" || g.versions[0].Content != site {
		t.Errorf("%d, %q\n%s", status, errs, g.versions[0].Content)
	}
}

func TestDrainWait(t *testing.T) {
	g := newRegistry(t, site)
	until := now.Add(time.Minute)
	at := func(state, text string) {
		g.services = api.Services{Services: []api.Service{{Name: "web", Service: "TCP 192.0.2.10:80", Servers: []api.Server{
			{Name: "a", Server: "10.0.0.11:80", Listed: true, Drain: &api.Drain{State: state, Text: text, Until: &until}}, {Name: "10.0.0.12", Server: "10.0.0.12:80", Listed: true}}}}}
	}
	at(api.Drained, "no connection left")
	if status, out, errs := drover(t.Context(), "", words("server drain web a --wait 20s")...); status != 0 || errs != "" || !strings.HasSuffix(out, "\nweb/a: drained: no connection left\n") {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
	at(api.Expired, "3 connections left at the deadline 0 s ago")
	if status, out, errs := drover(t.Context(), "", words("server drain 10.0.0.11 --wait 20s")...); status != 1 || errs != "drover: the deadline is over, and connections are left\n" || !strings.Contains(out, "web/a: expired: 3 connections left") {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
	at(api.Draining, "3 connections, 9 s left")
	if status, out, errs := drover(t.Context(), "", words("server drain web a --wait 1s")...); status != 1 || !strings.HasPrefix(errs, "drover: not drained after 1s: web/a: draining: 3 connections, 9 s left (it goes on") || strings.Count(out, "9 s left") != 1 {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
}

func someServices() api.Services {
	since := now.Add(-90 * time.Second)
	return api.Services{Node: "d1", When: now, Version: "1.4", Counted: []string{"d1", "d2"}, Services: []api.Service{
		{Name: "web", Service: "TCP 192.0.2.10:80", Command: "-A -t 192.0.2.10:80 -s rr", Scheduler: "rr", Group: "default", Active: "d1", State: api.In, Pool: "web",
			Counts: api.Counts{Active: 12, Inactive: 30}, Traffic: api.Traffic{Connections: 123456, InPackets: 1000000, InBytes: 9999},
			Servers: []api.Server{
				{Name: "a", Server: "10.0.0.11:80", Listed: true, Forward: "Route", Weight: 3, State: api.In, Since: &since, Counts: api.Counts{Active: 12, Inactive: 30}},
				{Name: "web5", Node: "web5", Server: "10.0.0.15:80", Forward: "Route", Weight: 1, State: api.Out, Reasons: []api.Reason{
					{Source: "gossip", Text: "web5 has left the cluster", Since: &since, Change: "start drover-realserver on web5"},
					{Source: "agent", Text: "192.0.2.10 on web5 is absent"}}},
			}},
		{Name: "dns", Service: "UDP 192.0.2.11:53", Scheduler: "wlc", State: api.Standby, Reasons: []api.Reason{{Source: "election", Text: "no director is active for group default", Change: "drover status says why"}}},
	}}
}

func TestListServices(t *testing.T) {
	g := newRegistry(t, site)
	g.services = someServices()
	g.services.Services[0].Servers[0].Since = nil // its age would depend on the time of the test
	for args, name := range map[string]string{"": "services.golden", "-o wide": "services-wide.golden", "-o name": "services-name.golden", "-o yaml dns": "services-yaml.golden"} {
		status, out, errs := drover(t.Context(), "", words("service list "+args)...)
		if status != 0 || errs != "" {
			t.Errorf("%s: %d, %q", args, status, errs)
		}
		golden(t, name, out)
	}
	_, want, _ := drover(t.Context(), "", words("service list -o wide")...)
	if status, out, errs := drover(t.Context(), "", words("list --cluster -o wide")...); status != 0 || out != want || errs != "" {
		t.Errorf("list --cluster: %d, %q, %q", status, out, errs)
	}
	for args, want := range map[string]string{"list --cluster --stats": "list: --stats and --cluster exclude each other", "list --cluster -o xml": `list: output ("xml") must be text, wide, name, json or yaml with --cluster`} {
		if status, out, errs := drover(t.Context(), "", words(args)...); status != 2 || out != "" || !strings.HasPrefix(errs, "drover: "+want) {
			t.Errorf("%s: %d, %q, %q", args, status, out, errs)
		}
	}
	var back api.Services
	if status, out, _ := drover(t.Context(), "", words("service ls web -o json")...); status != 0 || json.Unmarshal([]byte(out), &back) != nil || len(back.Services) != 1 || len(back.Services[0].Servers) != 2 {
		t.Errorf("%d, %s", status, out)
	}
	if status, out, errs := drover(t.Context(), "", words("service list wbe")...); status != 1 || out != "" || errs != "drover: there is no service \"wbe\", did you mean web?: the services are web, dns\n" {
		t.Errorf("%d, %q, %q", status, out, errs)
	}
	if status, out, errs := drover(t.Context(), "", words("service show -t 192.0.2.10:80")...); status != 0 || errs != "" ||
		out != "  - name: web\n    address: 192.0.2.10\n    port: 80\n    scheduler: rr\n    real_servers:\n      - {address: 10.0.0.11, name: a, weight: 3}\n      - 10.0.0.12\n" {
		t.Errorf("%d, %q\n%s", status, errs, out)
	}
}

// Colours take no room, and lines end where they end without them.
func TestPaint(t *testing.T) {
	var plain, painted strings.Builder
	list := someServices()
	if err := printServices(&plain, &list, true, paint{}, now); err != nil {
		t.Fatal(err)
	}
	if err := printServices(&painted, &list, true, paint{on: true}, now); err != nil {
		t.Fatal(err)
	}
	bare := strings.NewReplacer("\x1b[31m", "", "\x1b[32m", "", "\x1b[33m", "", "\x1b[0m", "").Replace(painted.String())
	if bare != plain.String() || bare == painted.String() {
		t.Errorf("got\n%s\nwant\n%s", painted.String(), plain.String())
	}
	for _, n := range []struct {
		n    uint64
		want string
	}{{0, "0"}, {9999, "9999"}, {10000, "10K"}, {123456, "123K"}, {10000000, "10M"}, {1<<64 - 1, "18E"}} {
		if got := short(n.n); got != n.want {
			t.Errorf("%d: %s, want %s", n.n, got, n.want)
		}
	}
}
