package lab

import (
	"bytes"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/lab/probe"
)

func TestSpreadIsOfMeasuredValues(t *testing.T) {
	const ms = time.Millisecond
	twenty := make([]time.Duration, 20)
	for i := range twenty {
		twenty[(i*7)%20] = time.Duration(i+1) * ms // out of order
	}
	for _, tc := range []struct {
		values []time.Duration
		want   Spread
	}{
		{nil, Spread{}},
		{[]time.Duration{5 * ms}, Spread{5 * ms, 5 * ms, 5 * ms}},
		{[]time.Duration{9 * ms, 1 * ms}, Spread{1 * ms, 9 * ms, 9 * ms}},
		{twenty, Spread{10 * ms, 19 * ms, 20 * ms}},
	} {
		if got := spread(tc.values); got != tc.want {
			t.Errorf("%v: got %v, want %v", tc.values, got, tc.want)
		}
	}
}

func TestSummarise(t *testing.T) {
	const ms = time.Millisecond
	round := func(system string, gap, overlap time.Duration, failed, broken int) *Report {
		return &Report{Faults: []FaultReport{{
			System: system, Fault: "cut", GapMedian: 400 * ms, GapP95: 600 * ms, GapBelow: "keepalived",
			Connections: &ConnectionsReport{OK: 100 - failed, Failed: failed, Errors: map[string]int{"timeout": failed}, Gap: gap},
			Streams:     &StreamsReport{Survived: 50 - broken, Broken: broken, Stall: gap},
			Holders:     &HoldersReport{Address: netip.MustParseAddr("10.0.0.100"), Overlap: overlap, AddressOverlap: overlap, Coarsest: gap / 10},
		}}}
	}
	sums := Summarise([]*Report{
		round("drover", 300*ms, 0, 0, 0), round("keepalived", 3300*ms, 0, 7, 1),
		round("drover", 500*ms, 0, 0, 0), round("keepalived", 3100*ms, 20*ms, 2, 0),
		round("drover", 380*ms, 0, 1, 0),
	})
	if len(sums) != 2 || sums[0].System != "drover" || sums[0].Rounds != 3 || sums[1].Rounds != 2 {
		t.Fatalf("got %+v", sums)
	}
	d, k := sums[0], sums[1]
	if *d.Gap != (Spread{380 * ms, 500 * ms, 500 * ms}) || d.Failed != 1 || d.Of != 300 || d.Survived != 150 || d.Broken != 0 || d.Overlap.Max != 0 || len(d.Missed) != 0 {
		t.Errorf("drover: %+v", d)
	}
	if k.Survived != 99 || k.Broken != 1 || k.Errors["timeout"] != 9 || k.Overlap.Max != 20*ms || k.Coarsest != 330*ms || len(k.Missed) != 3 {
		t.Errorf("keepalived: %+v", k)
	}
	var b bytes.Buffer
	if err := WriteSummary(&b, sums); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"380ms 500ms 500ms", "99 of 100", "9 of 200 (9 timeout)", "FAIL  keepalived, cut: median gap 3.1s instead of at most 400ms", "is not below the 3.1s of keepalived"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}

func TestMisdirectedOf(t *testing.T) {
	const ms = time.Millisecond
	w := probe.Window{From: 1000 * ms, To: 6000 * ms}
	for _, tc := range []struct {
		n       int
		last    time.Duration
		unknown time.Duration
		want    MisdirectedReport
	}{
		{0, 0, 900 * ms, MisdirectedReport{Over: 4100 * ms}},
		{3, 1200 * ms, 900 * ms, MisdirectedReport{Count: 3, Last: 200 * ms, Over: 4100 * ms}},
		{9, 4100 * ms, 900 * ms, MisdirectedReport{Count: 9, Last: 3100 * ms, Over: 4100 * ms}},
		{9, 4101 * ms, 900 * ms, MisdirectedReport{Count: 9, Last: 3101 * ms, Over: 4100 * ms, Never: true}},
		{9, 4101 * ms, 0, MisdirectedReport{Count: 9, Last: 3101 * ms, Over: 5000 * ms}},
		{9, 5900 * ms, 900 * ms, MisdirectedReport{Count: 9, Last: 4900 * ms, Over: 4100 * ms, Never: true}},
	} {
		if got, err := misdirectedOf(tc.n, tc.last, w, tc.unknown); err != nil || got != tc.want {
			t.Errorf("%d, %s: got %+v, %v", tc.n, tc.last, got, err)
		}
	}
	if got, err := misdirectedOf(0, 0, probe.Window{From: 1000 * ms, To: 2800 * ms}, 900*ms); err == nil {
		t.Errorf("1.8 s after the fault: %+v", got)
	}
}

func TestSummariseMisdirected(t *testing.T) {
	const ms = time.Millisecond
	round := func(system, reason string, bound, last time.Duration, never bool) *Report {
		return &Report{Faults: []FaultReport{{
			System: system, Fault: "killed", LastMedian: bound, LastMax: bound, Reason: reason,
			Misdirected: &MisdirectedReport{Count: 4, Last: last, Over: 8 * time.Second, Never: never},
		}}}
	}
	sums := Summarise([]*Report{
		round("good", "service down", 200*ms, 90*ms, false), round("good", "service down", 200*ms, 190*ms, false),
		round("slow", "service down", 200*ms, 90*ms, false), round("slow", "connection refused", 200*ms, 210*ms, false),
		round("lost", "", 200*ms, 90*ms, false), round("lost", "", 200*ms, 7900*ms, true),
		round("blind", "", 0, 7990*ms, true),
	})
	var b bytes.Buffer
	if err := WriteSummary(&b, sums); err != nil {
		t.Fatal(err)
	}
	got := strings.Join(strings.Fields(b.String()), " ")
	want := "FAULT SYSTEM ROUNDS LAST MISDIRECTED median p95 max SHOWN AS " +
		"killed good 2 90ms 190ms 190ms service down " +
		"killed slow 2 90ms 210ms 210ms connection refused (1 times), service down (1 times) " +
		"killed lost 2 90ms 90ms 90ms, never ended (8s) in 1 - " +
		"killed blind 1 never ended (8s) - " +
		"FAIL slow, killed: the last misdirected after 210ms instead of at most 200ms " +
		"FAIL lost, killed: misdirected to the end in 1 of 2 rounds"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What cannot be measured is refused.
func TestMisdirectedIsRefused(t *testing.T) {
	const hosts = "title: x\nnetworks: [{name: lan, subnets: [10.0.0.0/24]}]\nhosts:\n" +
		"  - {name: c, role: client, addresses: [10.0.0.2], run: [{name: web, probe: connect, target: '10.0.0.100:80'}, {name: arp, probe: arp, address: 10.0.0.100}]}\n" +
		"  - {name: d, role: director, addresses: [10.0.0.5]}\nscenario:\n  - {name: cut, cut: d}\n  - measure: "
	for measure, want := range map[string]string{
		"{since: cut, connections: c/web, misdirected: true, last_max: 1s}":                                                  "",
		"{since: cut, address: 10.0.0.100, hosts: [d], misdirected: true}":                                                   "",
		"{since: cut, connections: c/web, last_max: 1s}":                                                                     "misdirected: is required with hosts",
		"{since: cut, address: 10.0.0.100, misdirected: true}":                                                               "is about either connections, or the address",
		"{since: cut, connections: c/web, address: 10.0.0.100, hosts: [d], misdirected: true}":                               "is about either connections, or the address",
		"{since: cut, connections: c/web, misdirected: true, reason: {host: d, command: [drover, explain], output: 'down'}}": "with a group around what is the reason",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, FileName), []byte(hosts+measure+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := Load(dir)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", measure, err)
		}
	}
}
