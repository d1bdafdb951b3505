package plan

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s differs (rewrite it with -update, and look at the difference):\n%s", path, got)
	}
}

// The whole vocabulary, once to be added, once to be changed and once to be deleted.
func TestGolden(t *testing.T) {
	want := func() State {
		f, err := spec.Load("testdata/want.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return Want(&f.Spec)
	}
	stranger := Service{Service: service("198.51.100.1", 22, "wlc")}
	have := State{Services: append([]Service{stranger}, want().Services...)}
	for i := range have.Services {
		s := &have.Services[i]
		if s.FWMark == 7 {
			s.FWMark = 8 // so that one is new, and one is too many
		}
		if s.Scheduler == "wlc" && s.Addr != stranger.Addr {
			s.Scheduler = "rr"
		}
		if n := len(s.Servers); n > 1 {
			s.Servers = slices.Clone(s.Servers)
			s.Servers[n-1].Weight += 3
			s.Servers[0].Addr = netip.MustParseAddr("10.9.9.9")
		}
	}
	have = NewState(have.Services)
	mine := map[ipvs.Key]struct{}{}
	for _, s := range have.Services {
		if s.Addr != stranger.Addr {
			mine[s.Key] = struct{}{}
		}
	}
	owns := Owner(spec.OwnListed, mine)

	var text []byte
	for _, tc := range []struct {
		name       string
		want, have State
	}{
		{"from an empty table", want(), State{}},
		{"after many hand edits", want(), have},
		{"to an empty table", State{}, have},
		{"to the same", want(), want()},
	} {
		p := Diff(tc.want, tc.have, owns)
		text = append(text, "# "+tc.name+"\n"+p.String()+"# "+p.Summary()+"\n\n"...)
	}
	golden(t, "plan.golden", text)

	p := Diff(want(), have, owns)
	j, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "plan.json", append(j, '\n'))
	if j, err := json.Marshal(Plan{}); err != nil || string(j) != `{"summary":"nothing to do","counts":{"services_added":0,`+
		`"services_changed":0,"services_deleted":0,"servers_added":0,"servers_changed":0,"servers_deleted":0},"ops":[],"strangers":[]}` {
		t.Errorf("empty plan: %s, %v", j, err)
	}
}

func TestModules(t *testing.T) {
	a, b := service("192.0.2.10", 80, "mh"), service("192.0.2.11", 80, "rr")
	a.PE = "sip"
	want := NewState([]Service{{Service: a, Servers: []ipvs.Destination{server("10.0.0.1", 80), server("10.0.0.2", 80)}}, {Service: b}})
	schedulers, engines := Diff(want, State{}, nil).Modules()
	if !slices.Equal(schedulers, []string{"mh", "rr"}) || !slices.Equal(engines, []string{"sip"}) {
		t.Errorf("got %v, %v", schedulers, engines)
	}
}

func TestWordsForWhatOthersMade(t *testing.T) {
	for _, tc := range []struct {
		op   Op
		want string
	}{
		{Op{}, "Kind(0)"},
		{Op{Kind: DeleteService, Service: ipvs.Service{Key: ipvs.Key{Family: ipvs.IPv4, Protocol: 1, Addr: netip.MustParseAddr("192.0.2.1")}}}, "-D --protocol=1 192.0.2.1:0"},
		{Op{Kind: AddServer, Service: service("192.0.2.1", 80, ""), Server: ipvs.Destination{DestKey: server("10.0.0.1", 80).DestKey, Forward: ipvs.Bypass}},
			"-a -t 192.0.2.1:80 -r 10.0.0.1:80 --forward=Bypass -w 0"},
	} {
		if got := tc.op.String(); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestNewStateSortsAndDropsWhatAppearsTwice(t *testing.T) {
	a, b := service("192.0.2.10", 80, "rr"), service("192.0.2.9", 80, "rr")
	again := a
	again.Scheduler = "wlc"
	s := NewState([]Service{
		{Service: a, Servers: []ipvs.Destination{server("10.0.0.12", 80), server("10.0.0.11", 80), server("10.0.0.12", 80)}},
		{Service: b}, {Service: again},
	})
	if len(s.Services) != 2 || s.Services[0].Key != b.Key || s.Services[1].Scheduler != "rr" || len(s.Services[1].Servers) != 2 || s.Servers() != 2 {
		t.Errorf("got %+v", s)
	}
	if f := s.Find(a.Key); f == nil || f.Find(server("10.0.0.12", 80).DestKey) == nil || f.Find(server("10.0.0.13", 80).DestKey) != nil {
		t.Errorf("find: got %+v", f)
	}
	if f := s.Find(service("192.0.2.11", 80, "").Key); f != nil {
		t.Errorf("found %+v", f)
	}
	if k := s.Keys(); len(k) != 2 || k[0] != b.Key {
		t.Errorf("keys: %v", k)
	}
}

func TestStateOfLeavesCountersBehind(t *testing.T) {
	got := StateOf([]ipvs.ServiceEntry{{Service: service("192.0.2.10", 80, "rr"), Stats: ipvs.Stats{Connections: 1},
		Destinations: []ipvs.DestinationEntry{{Destination: server("10.0.0.12", 80), Counts: ipvs.Counts{Active: 1}}, {Destination: server("10.0.0.11", 80)}}}})
	if len(got.Services) != 1 || got.Servers() != 2 || got.Services[0].Servers[0] != server("10.0.0.11", 80) {
		t.Errorf("got %+v", got)
	}
}

// A plan that takes several calls has the results of all of them, and after a call that broke off the rest is not tried.
func TestApply(t *testing.T) {
	var p Plan
	for i := range 2*atOnce + 10 {
		p.Ops = append(p.Ops, Op{Kind: DeleteService, Service: ipvs.Service{Key: ipvs.Key{FWMark: uint32(i + 1)}}})
	}
	refused := &ipvs.CommandError{Err: unix.ESRCH}
	for _, tc := range []struct {
		name         string
		broken       int // call that broke off after its first command; -1: none did
		tried, wrong int // commands
	}{
		{"all refused where the second call begins", -1, len(p.Ops), 1},
		{"broken off", 1, 2 * atOnce, atOnce + 10},
		{"broken off at the end", 2, len(p.Ops), 10},
	} {
		calls, tried := 0, 0
		errs := p.Apply(t.Context(), func(_ context.Context, commands []ipvs.Command) []error {
			for i, c := range commands {
				if c.Op != ipvs.OpDelService || c.Service.FWMark != uint32(tried+i+1) {
					t.Fatalf("%s: command %d is %v", tc.name, tried+i, c)
				}
			}
			tried += len(commands)
			calls++
			switch {
			case tc.broken < 0 && calls == 2:
				return append([]error{refused}, make([]error, len(commands)-1)...)
			case tc.broken == calls-1:
				out := make([]error, len(commands))
				for i := range out {
					out[i] = &ipvs.CommandError{Command: commands[i], Err: fmt.Errorf("%w: %w", ipvs.ErrNotSent, ipvs.ErrTimeout)}
				}
				return out
			}
			return nil
		})
		wrong := 0
		for i, err := range errs {
			var c *ipvs.CommandError
			switch {
			case err == nil:
			case !errors.As(err, &c), err != refused && (c.Command.Service.FWMark != uint32(i+1) || !errors.Is(err, ipvs.ErrTimeout)):
				t.Errorf("%s: error %d is %v", tc.name, i, err)
			}
			if err != nil {
				wrong++
			}
		}
		if tried != tc.tried || wrong != tc.wrong || len(errs) != len(p.Ops) {
			t.Errorf("%s: %d tried, %d of %d wrong, want %d and %d", tc.name, tried, wrong, len(errs), tc.tried, tc.wrong)
		}
	}
	if errs := p.Apply(t.Context(), func(context.Context, []ipvs.Command) []error { return nil }); errs != nil {
		t.Errorf("nothing failed, and %d errors", len(errs))
	}
}
