package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/clustertest"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/lease"
	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/cmd/internal/gossip/gossiptest"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// fitness is director d1 of two, whose peer d2 announces what tell is given.
func fitness(t *testing.T, f func(t *testing.T, m *member, tell func(api.Director), leave func())) {
	synctest.Test(t, func(t *testing.T) {
		// After all nodes have stopped: probes that memberlist was about to end.
		t.Cleanup(func() { time.Sleep(time.Minute) })
		var network clustertest.Network
		d1, _ := gossiptest.Join(t, &network, "d1", cluster.Director)
		d2, leave := gossiptest.Join(t, &network, "d2", cluster.Director, d1.Address().String())
		k, err := lease.New(lease.Options{
			Config: election.Config{Self: "d1", Candidate: true, Voters: []string{"d1", "d2", "w"}, Groups: []string{"default"}, Lease: settings.DefaultLease, Incarnation: 1},
			Send:   func(string, []byte) {},
			Now:    func() time.Duration { return time.Since(time.Unix(0, 0)) },
		})
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = k.Run(t.Context()) }()
		m := &member{
			log: slog.New(slog.DiscardHandler), events: newEvents(slog.New(slog.DiscardHandler)), keeper: k, node: d1, start: time.Now(),
			opts: &settings.Options{Name: "d1", Groups: []string{"default"}, Sync: settings.Sync{Enabled: true},
				Voters: []settings.Voter{{Name: "d1", Director: true}, {Name: "d2", Director: true}, {Name: "w"}}},
			seats: map[string]*seat{"default": nil}, base: &spec.File{}, trouble: map[string]string{}, hindrances: map[string]string{}, barred: map[string]bar{},
			retell: make(chan struct{}, 1),
		}
		f(t, m, func(d api.Director) {
			t.Helper()
			b, err := json.Marshal(d)
			if err == nil {
				err = d2.Publish(gossip.DirectorRecord, b)
			}
			if err != nil {
				t.Fatal(err)
			}
			for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
				got, ok := m.others()["d2"]
				if g, _ := json.Marshal(got); ok && slices.Equal(g, b) {
					return
				}
				if time.Now().After(end) {
					t.Fatal("d1 has not heard of d2")
				}
			}
		}, leave)
	})
}

// why this director is not eligible, "" if it is.
func why(t *testing.T, m *member) string {
	t.Helper()
	st, err := m.keeper.Status(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	if st.Eligible {
		return ""
	}
	return strings.TrimPrefix(st.Waiting, "not eligible: ")
}

func TestHindrances(t *testing.T) {
	fitness(t, func(t *testing.T, m *member, _ func(api.Director), _ func()) {
		m.qualify()
		for _, step := range []struct{ key, why, want string }{
			{"tracker b", "b is bad", "b is bad"},
			{"tracker a", "a is bad", "a is bad"},
			{"tracker a", "a is bad", "a is bad"},
			{"tracker b", "", "a is bad"},
			{"tracker a", "", ""},
			{"tracker a", "", ""},
		} {
			if m.hinder(step.key, step.why); why(t, m) != step.want {
				t.Errorf("%+v: %q", step, why(t, m))
			}
		}
		if got := texts(m.events.after(t.Context(), 0)); got != "1 tracker b is bad, 2 tracker a is bad, 3 tracker no more: b is bad, 4 tracker no more: a is bad" {
			t.Errorf("told %s", got)
		}
	})
}

// A director that reaches no real server, or cannot use its table, leaves the VIPs to one that can; where nobody can,
// it stays.
func TestOnlyIfAnotherCan(t *testing.T) {
	fitness(t, func(t *testing.T, m *member, tell func(api.Director), leave func()) {
		r := api.Reach{Asked: 3}
		if got := m.cutOff(r); got != "" {
			t.Errorf("alone: %s", got)
		}
		tell(api.Director{Reach: &api.Reach{Asked: 3}, TableError: "no table"})
		if got := m.cutOff(r); got != "" {
			t.Errorf("d2 reaches none, either: %s", got)
		}
		m.judgeTable("no table here")
		if got := why(t, m); strings.Contains(got, "table") {
			t.Errorf("d2 has no table, either: %s", got)
		}
		tell(api.Director{Reach: &api.Reach{Asked: 3, Reached: 2}})
		if got := m.cutOff(r); got != "none of 3 real servers can be reached, and d2 reaches 2 of 3" {
			t.Errorf("d2 reaches two: %q", got)
		}
		m.judgeTable("no table here")
		if got := why(t, m); got != "the IPVS table cannot be read or changed: no table here" {
			t.Errorf("d2 has a table: %q", got)
		}
		m.judgeTable("")
		if got := why(t, m); got != "" {
			t.Errorf("well again: %q", got)
		}
		leave()
		for len(m.others()) > 0 {
			time.Sleep(time.Second)
		}
		if got := m.cutOff(r); got != "" {
			t.Errorf("d2 has gone: %s", got)
		}
	})
}

// A director that has the lease and cannot bring the VIPs into its kernel gives them to one that may have better luck,
// and tries again after a while.
func TestStuck(t *testing.T) {
	fitness(t, func(t *testing.T, m *member, tell func(api.Director), _ func()) {
		m.qualify()
		broken := errors.New("VIP 192.0.2.10/32 on eth0: failed: no room")
		if m.stuck(t.Context(), "default", broken) || why(t, m) != "" {
			t.Error("given away to nobody")
		}
		tell(api.Director{Unfit: map[string]string{"default": "maintenance"}})
		if m.stuck(t.Context(), "default", broken) || why(t, m) != "" {
			t.Error("given to one in maintenance")
		}
		tell(api.Director{Unfit: map[string]string{"other": "maintenance"}})
		if !m.stuck(t.Context(), "default", broken) || why(t, m) != "it had the lease and not the VIPs: VIP 192.0.2.10/32 on eth0: failed: no room" {
			t.Errorf("not given away: %q", why(t, m))
		}
		time.Sleep(barredFor - time.Second)
		if why(t, m) == "" {
			t.Error("it takes the group again at once")
		}
		time.Sleep(2 * time.Second)
		if got := why(t, m); got != "" {
			t.Errorf("it does not try again: %s", got)
		}
	})
}

func TestCaughtUp(t *testing.T) {
	conns := func(n uint64) *api.Conns { return &api.Conns{Active: n} }
	for _, tc := range []struct {
		own, active *api.Conns
		groups      []string
		want        bool
	}{
		{conns(0), conns(100), []string{"default"}, false},
		{nil, conns(100), []string{"default"}, false},
		{conns(89), conns(100), []string{"default"}, false},
		{conns(90), conns(100), []string{"default"}, true},
		{conns(0), conns(0), []string{"default"}, true},
		{conns(8), conns(9), []string{"default"}, false},
		{conns(200), conns(100), []string{"default"}, true},
		{conns(0), nil, []string{"default"}, true},
		{conns(0), conns(100), nil, true}, // not active
	} {
		if got := caughtUp(tc.own, map[string]api.Director{"d2": {Active: tc.groups, Conns: tc.active}, "d3": {}}); got != tc.want {
			t.Errorf("%+v of %+v, active for %v: %t", tc.own, tc.active, tc.groups, got)
		}
	}
}

// Preemption waits for the connections of the active director, and not for ever.
func TestPatience(t *testing.T) {
	fitness(t, func(t *testing.T, m *member, tell func(api.Director), _ func()) {
		tell(api.Director{Active: []string{"default"}, Conns: &api.Conns{Active: 100}})
		m.opts.PreemptDelay = -1
		if m.patience(t.Context(), nil); m.held {
			t.Error("held without preemption")
		}
		m.opts.PreemptDelay = 0
		if m.patience(t.Context(), &api.Conns{}); !m.held {
			t.Error("not held")
		}
		if m.patience(t.Context(), &api.Conns{Active: 95}); m.held {
			t.Error("held after catching up")
		}
		m.patience(t.Context(), nil)
		time.Sleep(syncPatience)
		if m.patience(t.Context(), nil); m.held {
			t.Error("held for ever")
		}
	})
}

func TestTargets(t *testing.T) {
	server := func(s string) spec.RealServer {
		a := netip.MustParseAddrPort(s)
		return spec.RealServer{Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: a.Addr(), Port: a.Port()}}}
	}
	s := &spec.Spec{Services: []spec.Service{
		{RealServers: []spec.RealServer{server("10.0.0.12:80"), server("10.0.0.11:80"), server("127.0.0.1:80")}},
		{RealServers: []spec.RealServer{server("10.0.0.11:443"), server("[fd00::1]:0")}},
	}}
	own := netip.MustParseAddr("10.0.0.12")
	got := targets(s, func(a netip.Addr) bool { return a == own || a.IsLoopback() })
	if want := []netip.AddrPort{netip.MustParseAddrPort("10.0.0.11:80"), netip.MustParseAddrPort("[fd00::1]:1")}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for i := range 100 {
		s.Services[0].RealServers = append(s.Services[0].RealServers, server(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, 0, byte(i)}), 80).String()))
	}
	if got := targets(s, local()); len(got) != maxReach || slices.IndexFunc(got, func(a netip.AddrPort) bool { return a.Addr().IsLoopback() }) >= 0 {
		t.Errorf("of many: %v", got)
	}
}

// A refusal is an answer.
func TestDial(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	open := l.Addr().(*net.TCPAddr).AddrPort()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := closed.Addr().(*net.TCPAddr).AddrPort()
	closed.Close()
	defer l.Close()
	if n := dial(t.Context(), []netip.AddrPort{open, refused}); n != 2 {
		t.Errorf("%d answered", n)
	}
	if n := dial(t.Context(), nil); n != 0 {
		t.Errorf("%d of none answered", n)
	}
}
