package lab

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"
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
