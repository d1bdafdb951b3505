package settings

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/conf"
)

func read(t *testing.T, kind Kind, content string) (*Options, error) {
	t.Helper()
	var raw struct {
		Cluster conf.At[Raw] `yaml:"cluster"`
	}
	r, err := conf.Parse("f.yaml", []byte(content), &raw)
	if err != nil {
		return nil, err
	}
	o := Read(r, raw.Cluster, kind, "/etc/drover/f.yaml")
	return o, r.Err()
}

const three = "voters: [{name: d1, address: 10.0.0.1}, {name: d2, address: \"10.0.0.2:99\"}, {name: w, address: \"fd00::3\", director: false}]"

func TestDefaults(t *testing.T) {
	o, err := read(t, Director, "cluster: {name: d2, key_file: /k, "+three+"}")
	if err != nil {
		t.Fatal(err)
	}
	if o.Address != netip.MustParseAddrPort("10.0.0.2:99") || o.Lease != DefaultLease || o.Mode != Lease || o.Priority != 100 ||
		o.PreemptDelay >= 0 || !o.Sync.Enabled || o.Sync.Port != 8848 || o.Label != DefaultLabel || strings.Join(o.Names(), " ") != "d1 d2 w" {
		t.Errorf("got %+v", o)
	}
	if a, ok := o.Voter("w"); !ok || a != netip.MustParseAddrPort("[fd00::3]:7946") {
		t.Errorf("w is at %s, %t", a, ok)
	}
	if o, err := read(t, Director, "cluster: {name: d2, key_file: my.key, "+three+"}"); err != nil || o.KeyFile != "/etc/drover/my.key" {
		t.Errorf("relative key file: %+v, %v", o, err)
	}
	if o, err := read(t, Director, "x:\n"); o != nil || err == nil {
		t.Errorf("unknown key: %v, %v", o, err)
	}
	if o, err := read(t, Director, ""); o != nil || err != nil {
		t.Errorf("no cluster: %v, %v", o, err)
	}
}

func TestWords(t *testing.T) {
	for in, want := range map[string]time.Duration{"fast": FastLease, "wan": WANLease, "default": DefaultLease, "250ms": 250 * time.Millisecond} {
		if o, err := read(t, Director, "cluster: {name: d1, key_file: /k, lease: "+in+", "+three+"}"); err != nil || o.Lease != want {
			t.Errorf("%s: %v, %v", in, o, err)
		}
	}
	for in, want := range map[string]time.Duration{"true": 0, "false": -1, "30s": 30 * time.Second} {
		if o, err := read(t, Director, "cluster: {name: d1, key_file: /k, preempt: "+in+", "+three+"}"); err != nil || o.PreemptDelay != want {
			t.Errorf("%s: %v, %v", in, o, err)
		}
	}
}

func TestComplaints(t *testing.T) {
	for _, tc := range []struct {
		kind     Kind
		in, want string
	}{
		{Director, "cluster: {name: d1, key_file: /k}", `f.yaml:1:10: cluster: voters: is required: the directors, and a third node if there are two, each with name and address`},
		{Director, "cluster: {name: D_1, key_file: /k, " + three + ", address: 10.0.0.1}", `f.yaml:1:17: cluster: name: "D_1" must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -`},
		{Director, "cluster: {name: d9, key_file: /k, " + three + "}", "f.yaml:1:43: cluster: voters: must have \"d9\", as every director has a vote"},
		{Director, "cluster: {name: w, key_file: /k, " + three + "}", `f.yaml:1:150: cluster: voters: "w" is a director: must be true`},
		{RealServer, "cluster: {name: d1, key_file: /k, " + three + "}", `f.yaml:1:44: cluster: voters: "d1" is not a director: write director: false`},
		{Director, "cluster: {name: d1, " + three + "}", `f.yaml:1:10: cluster: key_file: is required`},
		{Director, "cluster: {name: d1, key_file: /k, lease: 50ms, " + three + "}", `f.yaml:1:42: cluster: lease: 50ms is out of range: must be between 100ms and 1m0s`},
		{Director, "cluster: {name: d1, key_file: /k, priority: 255, " + three + "}", `f.yaml:1:45: cluster: priority: 255 is out of range: must be between 1 and 254`},
		{Director, "cluster: {name: d1, key_file: /k, address: 10.0.0.7, " + three + "}", `f.yaml:1:44: cluster: address: 10.0.0.7:7946 is another than in voters, 10.0.0.1:7946`},
		{RealServer, "cluster: {name: ww, key_file: /k, priority: 7, address: 10.0.0.4, " + three + "}", `f.yaml:1:45: cluster: priority: is for directors only`},
		{Director, "cluster: {name: d1, key_file: /k, voters: [{name: d1, address: 10.0.0.1}, {name: d1, address: 10.0.0.2}]}", `f.yaml:1:82: cluster: voters[1]: name: "d1" is a voter already in line 1`},
		{Director, "cluster: {name: d1, key_file: /k, sync: {group: 10.0.0.1}, " + three + "}", `f.yaml:1:49: cluster: sync: group: 10.0.0.1 is not a multicast address`},
		{Director, "cluster: {name: d1, key_file: /k, voters: [{name: d1, address: 0.0.0.0}], address: 10.0.0.1}", `f.yaml:1:64: cluster: voters[0]: address: "0.0.0.0" is not an address at which a node can be reached`},
		{Director, "cluster: {name: d1, key_file: /k, groups: [blue, Green], " + three + "}", `f.yaml:1:50: cluster: groups[1]: "Green" must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -`},
		{Director, "cluster: {name: d1, key_file: /k, groups: [blue, green, blue], " + three + "}", `f.yaml:1:57: cluster: groups[2]: "blue" is listed already`},
		{Director, "cluster: {name: d1, key_file: /k, groups: [\"\"], " + three + "}", `f.yaml:1:44: cluster: groups[0]: is required`},
		{Director, "cluster: {name: d1, key_file: /k, groups: [" + numbered(MaxGroups+1) + "], " + three + "}", `f.yaml:1:364: cluster: groups: 65: at most 64`},
	} {
		if _, err := read(t, tc.kind, tc.in); err == nil || err.Error() != tc.want {
			t.Errorf("%s\n got %v\nwant %s", tc.in, err, tc.want)
		}
	}
}

func TestTrackers(t *testing.T) {
	o, err := read(t, Director, "cluster: {name: d1, key_file: /k, trackers: [{name: a, command: [/bin/a, -x]}, {name: b, command: [/bin/b], every: 10s, timeout: 3s, user: root, fall: 1, rise: 5}], "+three+"}")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprintf("%+v", o.Trackers), "[{Name:a Command:[/bin/a -x] Every:2s Timeout:1s User:nobody Fall:2 Rise:2} {Name:b Command:[/bin/b] Every:10s Timeout:3s User:root Fall:1 Rise:5}]"; got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	plain, _ := read(t, Director, "cluster: {name: d1, key_file: /k, "+three+"}")
	if plain.Trackers != nil || plain.Fingerprint() != o.Fingerprint() {
		t.Error("trackers are a director's own business")
	}
	for in, want := range map[string]string{
		"[{command: [/bin/a]}]":         "1:46: cluster: trackers[0]: name: is required",
		"[{name: a}]":                   "1:46: cluster: trackers[0]: command: is required: the program and its arguments, such as [/etc/drover/check-uplink, eth1]",
		"[{name: a, command: [bin/a]}]": `1:66: cluster: trackers[0]: command: "bin/a" must be an absolute path`,
		"[{name: a, command: [/a]}, {name: a, command: [/a]}]":       `1:79: cluster: trackers[1]: name: "a" is a tracker already in line 1`,
		"[{name: a, command: [/a], timeout: 1ms}]":                   "1:80: cluster: trackers[0]: timeout: 1ms is out of range: must be between 10ms and 1h0m0s",
		"[{name: a, command: [/a], rise: 0}]":                        "1:77: cluster: trackers[0]: rise: 0 is out of range: must be between 1 and 100",
		`[{name: a, command: [/a], user: ""}]`:                       "1:77: cluster: trackers[0]: user: must name a user; the default is nobody",
		"[" + strings.Repeat("{name: a, command: [/a]}, ", 33) + "]": "1:45: cluster: trackers: 33: at most 32",
	} {
		if _, err := read(t, Director, "cluster: {name: d1, key_file: /k, trackers: "+in+", "+three+"}"); err == nil || err.Error() != "f.yaml:"+want {
			t.Errorf("%s\n got %v\nwant %s", in, err, want)
		}
	}
	if _, err := read(t, RealServer, "cluster: {name: w, key_file: /k, trackers: [{name: a, command: [/a]}], "+three+"}"); err == nil || !strings.HasSuffix(err.Error(), "trackers: is for directors only") {
		t.Errorf("real server: %v", err)
	}
}

func TestFingerprintTellsVotersApart(t *testing.T) {
	a, _ := read(t, Director, "cluster: {name: d1, key_file: /k, "+three+"}")
	b, _ := read(t, RealServer, "cluster: {name: w, key_file: /k, "+three+"}")
	c, _ := read(t, Director, "cluster: {name: d1, key_file: /k, lease: fast, "+three+"}")
	if a.Fingerprint() != b.Fingerprint() || a.Fingerprint() == c.Fingerprint() {
		t.Errorf("%s %s %s", a.Fingerprint(), b.Fingerprint(), c.Fingerprint())
	}
}

// numbered is a list of so many names.
func numbered(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("g%d", i+10))
	}
	return strings.Join(list, ", ")
}

func TestGroups(t *testing.T) {
	for in, want := range map[string]string{
		"": DefaultGroup, "groups: [], ": DefaultGroup, "groups: [green, blue], ": "green blue", "groups: [default], ": "default",
		"groups: [" + numbered(MaxGroups) + "], ": strings.ReplaceAll(numbered(MaxGroups), ",", ""),
	} {
		if o, err := read(t, Director, "cluster: {name: d1, key_file: /k, "+in+three+"}"); err != nil || strings.Join(o.Groups, " ") != want {
			t.Errorf("%s: %+v, %v", in, o, err)
		}
	}
	// Their order means nothing, their names do.
	a, _ := read(t, Director, "cluster: {name: d1, key_file: /k, groups: [blue, green], "+three+"}")
	b, _ := read(t, Director, "cluster: {name: d1, key_file: /k, groups: [green, blue], "+three+"}")
	c, _ := read(t, Director, "cluster: {name: d1, key_file: /k, groups: [green], "+three+"}")
	if a.Fingerprint() != b.Fingerprint() || a.Fingerprint() == c.Fingerprint() {
		t.Errorf("%s %s %s", a.Fingerprint(), b.Fingerprint(), c.Fingerprint())
	}
}

func TestDirectors(t *testing.T) {
	for in, want := range map[string]string{
		three: "d1 d2",
		"voters: [{name: w, address: 10.0.0.3, director: false}, {name: d2, address: 10.0.0.2, director: true}, {name: d1, address: 10.0.0.1}]": "d2 d1",
		"voters: [{name: d1, address: 10.0.0.1}]": "d1",
	} {
		if o, err := read(t, Director, "cluster: {name: d1, key_file: /k, "+in+"}"); err != nil || strings.Join(o.Directors(), " ") != want {
			t.Errorf("%s: %+v, %v", in, o, err)
		}
	}
	// Who is a director is part of what nodes have to agree on.
	a, _ := read(t, Director, "cluster: {name: d1, key_file: /k, voters: [{name: d1, address: 10.0.0.1}, {name: d2, address: 10.0.0.2}]}")
	b, _ := read(t, Director, "cluster: {name: d1, key_file: /k, voters: [{name: d1, address: 10.0.0.1}, {name: d2, address: 10.0.0.2, director: false}]}")
	if a.Fingerprint() == b.Fingerprint() {
		t.Error("the fingerprint is the same with and without a director")
	}
}
