package lab

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/conf"
)

// small is a lab that is right; the tests break it in one place each.
const small = `title: small
networks:
  - {name: lan, subnets: [10.0.0.0/24]}
hosts:
  - name: client
    role: client
    addresses: [10.0.0.2]
    run:
      - {name: web, probe: connect, target: 10.0.0.100:80}
      - {name: who, probe: arp, address: 10.0.0.100}
      - {name: talk, probe: stream, target: 10.0.0.100:7, count: 3}
  - name: rs1
    role: real-server
    addresses: [10.0.0.11]
    run:
      - {name: http, probe: http, listen: 0.0.0.0:80}
      - {name: agent, command: [sleep, "60"]}
scenario:
  - name: cut
    cut: rs1
  - wait: 1s
  - expect:
      - connections: {probe: client/web, since: cut, max_gap: 300ms}
`

func load(t *testing.T, content string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, FileName), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return Load(dir)
}

func TestLoad(t *testing.T) {
	c, err := load(t, small)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Hosts) != 2 || len(c.Scenario) != 3 || c.Timeout != defaultTotal {
		t.Errorf("got %+v", c)
	}
	if p := c.process("client/web").Probe; p.Every != 20*time.Millisecond || p.Timeout != 2*time.Second {
		t.Errorf("defaults of a probe: %+v", p)
	}
	var words []string
	for _, s := range c.Scenario {
		words = append(words, s.Text)
	}
	want := "cut the cable of rs1|wait 1s|expect client/web: longest gap at most 300ms since cut"
	if got := strings.Join(words, "|"); got != want {
		t.Errorf("the scenario in words:\n got %s\nwant %s", got, want)
	}
}

func TestComplaintsNameLineAndColumn(t *testing.T) {
	for _, tc := range []struct{ name, old, new, want string }{
		{"unknown key", "title: small", "titel: small", `1:1: unknown field "titel"`},
		{"no networks", "networks:\n  - {name: lan, subnets: [10.0.0.0/24]}\n", "", "networks: is required"},
		{"not a subnet", "10.0.0.0/24", "10.0.0.1/24", `3:27: networks[0]: subnets: "10.0.0.1/24" is not a subnet`},
		{"address outside", "addresses: [10.0.0.11]", "addresses: [10.9.0.11]", `14:17: hosts[1] ("rs1"): addresses: 10.9.0.11 lies in no subnet`},
		{"address twice", "addresses: [10.0.0.11]", "addresses: [10.0.0.2]", `addresses: 10.0.0.2 is the address of client already`},
		{"long name", "name: rs1", "name: realserver-one", `12:11: hosts[1] ("realserver-one"): name: "realserver-one" must be 1 to 11 characters`},
		{"name twice", "name: rs1", "name: client", `"client" is the name of two hosts`},
		{"role", "role: real-server", "role: backend", `13:11: hosts[1] ("rs1"): role: "backend" is not one of: client, director, real-server, router`},
		{"unknown probe", "probe: connect", "probe: conect", `9:28: hosts[0] ("client"): run[0] ("web"): probe: "conect" is not one of`},
		{"probe without target", ", target: 10.0.0.100:80", "", `9:9: hosts[0] ("client"): run[0] ("web"): target: is required`},
		{"field of another probe", "target: 10.0.0.100:80", "target: 10.0.0.100:80, count: 3", `count: a probe of kind connect does not take it`},
		{"both", "{name: agent, command", "{name: agent, probe: http, command", `a process has a probe or a command, not both`},
		{"target without port", "10.0.0.100:80", "10.0.0.100", `target: "10.0.0.100" is not address:port`},
		{"no unit", "wait: 1s", "wait: 1", `21:11: scenario[1]: wait: "1" has no unit`},
		{"unknown host", "cut: rs1", "cut: rs7", `20:10: scenario[0]: cut: "rs7" is not a host of this lab: one of: client, rs1`},
		{"unknown interface", "cut: rs1", "cut: rs1/eth4", `rs1 has no interface "eth4"`},
		{"two actions", "cut: rs1", "cut: rs1\n    wait: 1s", `19:5: scenario[0]: a step does exactly one thing`},
		{"no action", "    cut: rs1\n", "", `19:5: scenario[0]: a step does exactly one thing`},
		{"unknown process", "cut: rs1", "kill: rs1/nginx", `kill: "rs1/nginx" is not a process of this lab`},
		{"unknown mark", "since: cut", "since: cuts", `23:49: scenario[2]: expect[0]: connections: since: "cuts" is not the name of this step or an earlier one`},
		{"wrong kind of probe", "probe: client/web, since", "probe: client/who, since", `"client/who" is not a probe of kind connect or udp`},
		{"expects nothing", ", max_gap: 300ms", "", `expects nothing`},
		{"percentage", "connections: {probe: client/web, since: cut, max_gap: 300ms}", "share: {probe: client/web, server: rs1, min: 30}", `min: "30" is not a percentage`},
		{"latency of nothing", "connections: {probe: client/web, since: cut, max_gap: 300ms}", "latency: {probe: client/web, since: cut}", `latency: expects nothing`},
		{"latency below that of an unknown time", "connections: {probe: client/web, since: cut, max_gap: 300ms}", "latency: {probe: client/web, below: {since: cut, to: gone}}", `latency: below: since: "gone" is not the name`},
		{"latency below that of half a time", "connections: {probe: client/web, since: cut, max_gap: 300ms}", "latency: {probe: client/web, below: {since: cut}}", `latency: below: to: is required`},
		{"workers without a time", "listen: 0.0.0.0:80", "listen: 0.0.0.0:80, workers: 2", `workers: needs service_time`},
		{"service time of a client", "target: 10.0.0.100:80", "target: 10.0.0.100:80, service_time: 1s", `service_time: a probe of kind connect does not take it`},
		{"regular expression", "connections: {probe: client/web, since: cut, max_gap: 300ms}", "log: {process: rs1/agent, matches: '('}", `is not a regular expression`},
		{"file that is not there", "wait: 1s", "apply: {host: rs1, from: gone.yaml, to: x.yaml}", `"gone.yaml" is not a file in the folder of the lab`},
		{"file outside", "wait: 1s", "apply: {host: rs1, from: lab.yaml, to: ../x.yaml}", `"../x.yaml" must be a relative path inside`},
		{"from itself", "wait: 1s", "separate: {from: rs1, to: rs1}", `rs1 cannot be separated from itself`},
		{"power of an unknown host", "cut: rs1", "power_off: rs7", `20:16: scenario[0]: power_off: "rs7" is not a host of this lab`},
		{"holders that nobody asks for", "connections: {probe: client/web, since: cut, max_gap: 300ms}", "holders: {address: 10.0.0.101, max_overlap: 0ms}",
			`23:28: scenario[2]: expect[0]: holders: address: no probe of kind arp asks for 10.0.0.101`},
		{"holders without a bound", "connections: {probe: client/web, since: cut, max_gap: 300ms}", "holders: {address: 10.0.0.100}", `holders: expects nothing`},
		{"holders on an unknown host", "connections: {probe: client/web, since: cut, max_gap: 300ms}", "holders: {address: 10.0.0.100, hosts: [rs1, rs2]}",
			`23:53: scenario[2]: expect[0]: holders: hosts: "rs2" is not a host of this lab`},
		{"measure without a beginning", "wait: 1s", "measure: {connections: client/web}", `21:14: scenario[1]: measure: since: is required`},
		{"measure nothing", "wait: 1s", "measure: {since: cut}", `21:14: scenario[1]: measure: measures nothing`},
		{"comparison of what is not measured", "wait: 1s", "measure: {since: cut, streams: client/talk, gap_below: other}", `21:60: scenario[1]: measure: gap_below: bounds the gap of connections`},
		{"measure with the wrong probe", "wait: 1s", "measure: {since: cut, streams: client/web}", `"client/web" is not a probe of kind stream`},
		{"bound of what is not measured", "wait: 1s", "measure: {since: cut, streams: client/talk, gap_p95: 1s}", `gap_p95: bounds the gap of connections, and none are measured`},
		{"reason that is not taken out of the output", "wait: 1s", "measure: {since: cut, connections: client/web, reason: {host: rs1, command: [x]}}", `reason: output: is required, with a group`},
		{"reason that is compared", "wait: 1s", "measure: {since: cut, connections: client/web, reason: {host: rs1, command: [x], output: '(x)', same_as: [y]}}", `same_as: cannot be compared`},
		{"nothing to be misdirected", "wait: 1s", "measure: {since: cut, streams: client/talk, misdirected: true}", `misdirected: is about either connections, or the address`},
		{"too long", "wait: 1s", "wait: 2h", `wait: 2h is out of range: must be between 0s and 1h0m0s`},
		{"too many streams", "count: 3", "count: 100000", `count: 100000 is out of range: must be between 1 and 10000`},
		{"ready twice", `command: [sleep, "60"]`, `command: [sleep, "60"], ready: {notify: true, tcp: 10.0.0.11:80}`, `needs exactly one of notify, output, tcp`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			broken := strings.Replace(small, tc.old, tc.new, 1)
			if broken == small {
				t.Fatal("the test breaks nothing")
			}
			_, err := load(t, broken)
			var es conf.Errors
			if !errors.As(err, &es) || len(es) != 1 {
				t.Fatalf("want one complaint, got %v", err)
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("\n got %v\nwant %s", err, tc.want)
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(small)
	f.Add(strings.Replace(small, "wait: 1s", "repeat: {times: 3, steps: [{wait: 1s}]}", 1))
	f.Add("hosts: [{run: [{}]}]")
	f.Fuzz(func(t *testing.T, content string) {
		if len(content) > 1<<13 {
			return
		}
		_, _ = load(t, content) // must not panic
	})
}

// The labs that `make test` does not run are right all the same.
func TestLongLabsAreRight(t *testing.T) {
	for _, group := range []string{"faults", "server-faults", "soak"} {
		folders, err := filepath.Glob("../examples/testdata/" + group + "/*")
		if err != nil || len(folders) == 0 {
			t.Fatalf("%s: %d folders, %v", group, len(folders), err)
		}
		for _, f := range folders {
			if _, err := Load(f); err != nil {
				t.Errorf("%s: %v", f, err)
			}
		}
	}
}
