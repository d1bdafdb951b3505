package main

import (
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
)

func TestBothContendersGetTheSameTable(t *testing.T) {
	for _, sh := range []shape{wide, square, {1, 300}} {
		f, err := spec.Parse("bench.yaml", sh.yaml("wlc", "/run", 1))
		if err != nil {
			t.Fatalf("%s: %v", sh, err)
		}
		lines := func(s string) map[string]bool {
			m := map[string]bool{}
			for l := range strings.Lines(s) {
				m[l] = true
			}
			return m
		}
		got := lines(plan.Diff(plan.Want(&f.Spec), plan.State{}, nil).String())
		want := lines(sh.rules("wlc"))
		if len(want) != sh.services*(1+sh.servers) {
			t.Errorf("%s: %d different rules", sh, len(want))
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the file makes another table than the rules", sh)
		}
	}
}

func TestOneWeightIsOneChange(t *testing.T) {
	want := make([]plan.State, 2)
	for i := range want {
		f, err := spec.Parse("bench.yaml", square.yaml("wlc", "/run", 1+i))
		if err != nil {
			t.Fatal(err)
		}
		want[i] = plan.Want(&f.Spec)
	}
	const edit = "-e -t 10.0.100.1:1000 -r 10.1.0.0:1000 -g -w 2  # was -g -w 1\n"
	if got := plan.Diff(want[1], want[0], nil).String(); got != edit {
		t.Errorf("plan is %q, want %q", got, edit)
	}
}

// The services of the section on checks share as many probes as there are real servers.
func TestChecksAreShared(t *testing.T) {
	for path, want := range map[string]int{"": 0, "rip": checkedServers, "vip": checkedServers} {
		f, err := spec.Parse("bench.yaml", checksYAML(path, "/run"))
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		places, n := map[spec.Place]bool{}, 0
		for i := range f.Spec.Services {
			s := &f.Spec.Services[i]
			for j := range s.RealServers {
				n++
				for k := range s.Checks {
					c := &s.Checks[k]
					places[s.Place(c, c.Path, &s.RealServers[j].Destination)] = true
				}
			}
		}
		if len(places) != want || n != checkedServices*checkedServers {
			t.Errorf("%q: %d places, want %d; %d servers", path, len(places), want, n)
		}
	}
}

func TestFigures(t *testing.T) {
	for _, tt := range []struct {
		f    Figure
		want string
	}{
		{Figure{Seconds, []float64{3, 1, 2}}, "2.00 s"},
		{Figure{Seconds, []float64{0.25, 0.75, 0.5, 0.3}}, "400.0 ms"},
		{Figure{Bytes, []float64{3 << 20}}, "3.0 MiB"},
		{Figure{Percent, []float64{0.5}}, "0.50 %"},
		{Figure{Count, []float64{0, 2, 0}}, "0"},
		{Figure{}, "-"},
	} {
		if got := tt.f.String(); got != tt.want {
			t.Errorf("%v is %q, want %q", tt.f, got, tt.want)
		}
	}
}

func TestTargets(t *testing.T) {
	drover, peer := Figure{Seconds, []float64{2}}, Figure{Seconds, []float64{60}}
	for _, tt := range []struct {
		name    string
		row     Row
		met, ok bool
	}{
		{"none", Row{Drover: drover, Peer: peer}, false, false},
		{"ratio just reached", Row{Drover: drover, Peer: peer, Target: Target{Ratio: 30}}, true, true},
		{"ratio missed", Row{Drover: drover, Peer: peer, Target: Target{Ratio: 30.1}}, false, true},
		{"peer not measured", Row{Drover: drover, Target: Target{Ratio: 1}}, false, true},
		{"not measured", Row{Target: atMost(5)}, false, true},
		{"at the bound", Row{Drover: drover, Target: atMost(2)}, true, true},
		{"above the bound", Row{Drover: drover, Target: atMost(1.9)}, false, true},
		{"not below the bound", Row{Drover: drover, Target: below(2)}, false, true},
		{"below the bound", Row{Drover: drover, Target: below(2.1)}, true, true},
		{"none wanted, none there", Row{Drover: Figure{Count, []float64{0}}, Target: atMost(0)}, true, true},
	} {
		if met, ok := tt.row.Met(); met != tt.met || ok != tt.ok {
			t.Errorf("%s: met %v, has target %v; want %v, %v", tt.name, met, ok, tt.met, tt.ok)
		}
	}
}

func report() *Report {
	r := &Report{Started: time.Unix(1e9, 0).UTC(), Kernel: "6.1.0", Runs: 3, Load: "0.10 0.20 0.30"}
	r.add(Section{Name: "work", Title: "Work", Peer: "other", Notes: []string{"a note"}, Rows: []Row{
		{What: "fast", Drover: Figure{Seconds, []float64{0.01, 0.02, 0.03}}, Peer: Figure{Seconds, []float64{1, 1, 1}}, Target: Target{Ratio: 30}},
		{What: "alone", Drover: Figure{Count, []float64{3}}, Target: atMost(2)},
		{What: "free", Drover: Figure{Count, []float64{0}}, Peer: Figure{Count, []float64{1}}},
	}}, nil)
	r.add(Section{Name: "size", Title: "Size", Rows: []Row{{What: "program", Drover: Figure{Bytes, []float64{1 << 20}}, Target: below(2 << 20)}}}, errors.New("no tape"))
	return r
}

func TestPrint(t *testing.T) {
	const want = `Drover on Linux 6.1.0; medians of 3. Ratio: how many times Drover's figure the other's is.
Load of the machine when it began: 0.10 0.20 0.30. Figures are noisy on one that has something else to do.

Work

         drover   other   ratio  target       met
  fast   20.0 ms  1.00 s  50.0   ratio >= 30  yes
  alone  3        -       -      <= 2         no
  free   0        1       -                   
  * a note

Size

           drover   target     met
  program  1.0 MiB  < 2.0 MiB  yes
  NOT MEASURED: no tape

2 of 3 targets met.
`
	var b strings.Builder
	if err := report().Print(&b); err != nil {
		t.Fatal(err)
	}
	if b.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", &b, want)
	}
}

func TestReportGoesThroughJSON(t *testing.T) {
	b, err := json.Marshal(report())
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`"median":0.02`, `"ratio":50`, `"target":"ratio \u003e= 30"`, `"met":true`, `"error":"no tape"`} {
		if !strings.Contains(string(b), text) {
			t.Errorf("%s lacks %s", b, text)
		}
	}
	var got Report
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, report()) {
		t.Errorf("%+v came back, want %+v", &got, report())
	}
}

func TestWhatCouldNotBeMeasuredIsAnError(t *testing.T) {
	if err := report().err(); err == nil || !strings.Contains(err.Error(), "size: not measured: no tape") {
		t.Errorf("error %v", err)
	}
	r := report()
	r.Sections = r.Sections[:1] // has a target that is missed
	if err := r.err(); err != nil {
		t.Errorf("error %v though everything was measured", err)
	}
}

func TestEachContenderBeginsAsOftenAsAnother(t *testing.T) {
	g := &guest{options: options{runs: 4}}
	var order strings.Builder
	say := func(s string) func() error {
		return func() error { order.WriteString(s); return nil }
	}
	if err := g.repeat(say("a"), say("b")); err != nil {
		t.Fatal(err)
	}
	if order.String() != "abbaabba" {
		t.Errorf("order is %s", &order)
	}
	broken := errors.New("broken")
	if err := g.repeat(func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	for _, args := range [][]string{{"--runs", "0"}, {"--runs", "100"}, {"--only", "("}, {"more"}, {"--unknown"}} {
		if status := run(args, io.Discard, io.Discard); status != 2 {
			t.Errorf("%v: exit status %d, want 2", args, status)
		}
	}
	if status := run([]string{"--programs", t.TempDir()}, io.Discard, io.Discard); status != 1 {
		t.Errorf("without programs: exit status %d, want 1", status)
	}
}
