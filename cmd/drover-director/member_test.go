package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/clustertest"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/lease"
	"github.com/drover-lb/drover/cluster/replica"
	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/cmd/internal/gossip/gossiptest"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/health/probe"
	"github.com/drover-lb/drover/controller/spec"
)

// A director says for each group on its own whether it could hold it, and why not.
func TestQualify(t *testing.T) {
	groups := []string{"blue", "empty", "green"}
	k, err := lease.New(lease.Options{
		Config: election.Config{Self: "d1", Candidate: true, Voters: []string{"d1", "d2", "w"}, Groups: groups, Lease: settings.MaxLease, Incarnation: 1},
		Send:   func(string, []byte) {},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	defer func() {
		stop()
		<-ended
	}()
	vip := func(s, iface, group string) spec.VIP {
		return spec.VIP{Prefix: netip.MustParsePrefix(s), Interface: iface, Group: group}
	}
	f := &spec.File{Spec: spec.Spec{VIPs: []spec.VIP{vip("192.0.2.1/32", "", "blue"), vip("192.0.2.2/32", "none1", "green"), vip("192.0.2.3/32", "lo", "blue")}}}
	f.Director.Interface = "none0"
	m := &member{
		log: slog.New(slog.DiscardHandler), events: newEvents(slog.New(slog.DiscardHandler)), keeper: k, base: f,
		seats: map[string]*seat{"blue": nil, "green": nil, "empty": nil}, trouble: make(map[string]string),
	}
	expect := func(when string, want map[string]string) { // why not, by group
		t.Helper()
		for _, g := range groups {
			st, err := k.Status(t.Context(), g)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			if !st.Eligible {
				got = strings.TrimPrefix(st.Waiting, "not eligible: ")
			}
			if got != want[g] {
				t.Errorf("%s: %s: %q, want %q", when, g, got, want[g])
			}
		}
	}
	m.qualify()
	expect("at first", map[string]string{"blue": "there is no interface none0", "green": "there is no interface none1"}) // the tracker has not looked
	m.judge("none0", "")
	expect("one of two is well", map[string]string{"green": "there is no interface none1"})
	m.judge("none1", "interface none1 has no carrier")
	expect("one group's is not well", map[string]string{"green": "interface none1 has no carrier"})
	m.setMaintenance(true)
	expect("maintenance", map[string]string{"blue": "maintenance", "green": "maintenance", "empty": "maintenance"})
	m.unfit = "does not fit"
	m.judge("none1", "")
	expect("well in maintenance", map[string]string{"blue": "maintenance", "green": "maintenance", "empty": "maintenance"})
	m.setMaintenance(false)
	expect("a specification that does not fit", map[string]string{"blue": "does not fit", "green": "does not fit", "empty": "does not fit"})
	m.unfit = ""
	m.qualify()
	expect("all is well", nil)
	m.leaving = true
	m.setMaintenance(true)
	expect("on the way out nothing changes any more", nil)
	if got := texts(m.events.after(t.Context(), 0)); got != "1 tracker interface none1 has no carrier, 2 maintenance maintenance is on, 3 maintenance maintenance is off, 4 maintenance maintenance is on" {
		t.Errorf("told %s", got)
	}
	if got := m.interfaces(); len(got) != 3 || got[0] != "none0" || got[1] != "none1" || got[2] != "lo" {
		t.Errorf("interfaces %q", got)
	}
}

// A director whose stored specification does not fit it, such as after a change of its file, tells so, and neither
// it nor the agents of real servers take that for one without services and VIPs.
func TestStoredSpecificationDoesNotFit(t *testing.T) {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "key"))
	store, err := replica.Open(filepath.Join(dir, "data", "spec"))
	if err != nil {
		t.Fatal(err)
	}
	err = store.Update(func(l replica.Log) (replica.Log, error) {
		next, _, err := l.Propose(1, replica.Version{}, []byte("vips: [{address: 192.0.2.10, group: gold}]\nservices: []\n"), replica.Meta{Node: "d1", When: time.Now()})
		return next, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "d.yaml")
	write(t, path, "director: {interface: lo}\ncluster: {name: d1, key_file: key, voters: [{name: d1, address: 127.0.0.1}]}\n")
	file, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	ev := newEvents(log)
	m, err := newMember(memberOptions{events: ev, health: health.New(health.Options{Prober: &probe.Prober{}, Log: log}), file: file, path: path,
		dataDir: filepath.Join(dir, "data"), log: log, reg: prometheus.NewRegistry()})
	if err != nil {
		t.Fatal(err)
	}
	if f := m.file(); !f.Unknown || m.source.Hash != "" || !strings.Contains(m.source.Error, `"gold"`) {
		t.Errorf("unknown %t, announced as %+v", f.Unknown, m.source)
	}
	if list := ev.after(t.Context(), 0); len(list) != 1 || list[0].Kind != "spec" || !strings.Contains(list[0].Text, `"gold"`) {
		t.Errorf("events: %+v", list)
	}
}

// A real server gets traffic for the VIPs that it has proven; one that is not heard of any more keeps what it had, and
// one that has left is out.
func TestReadyServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net clustertest.Network
		d1, _ := gossiptest.Join(t, &net, "d1", cluster.Director)
		r1, leave := gossiptest.Join(t, &net, "r1", cluster.RealServer, d1.Address().String())
		r2, _ := gossiptest.Join(t, &net, "r2", cluster.RealServer, d1.Address().String())
		m := &member{node: d1}
		announce := func(n *cluster.Node, a any) {
			t.Helper()
			b, err := json.Marshal(a)
			if err == nil {
				err = n.Publish(gossip.AgentRecord, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		expect := func(when, want string) {
			t.Helper()
			time.Sleep(10 * time.Second) // the gossip settles
			var got []string
			ready, draining := m.readyServers()
			for _, s := range ready {
				if s.Drain.On != slices.Contains(draining, s.Name) {
					t.Errorf("%s: %s has the drain %+v, draining are %q", when, s.Name, s.Drain, draining)
				}
				deadline := ""
				if s.Drain.On {
					deadline = s.Drain.Deadline.String() + " "
				}
				got = append(got, fmt.Sprintf("%s %s %s %d %s%v", s.Name, s.Pool, s.Address, s.Weight, deadline, s.VIPs))
			}
			if got := strings.Join(got, "; "); got != want {
				t.Errorf("%s: %q, want %q", when, got, want)
			}
		}
		addr := netip.MustParseAddr
		good := api.Agent{Pool: "web", Address: addr("10.0.0.11"), Weight: 7, VIPs: []api.AgentVIP{{Address: addr("192.0.2.1"), Ready: true}, {Address: addr("192.0.2.2")}, {Address: addr("fd00::1"), Ready: true}}}
		announce(r1, good)
		const ready = "r1 web 10.0.0.11 7 [192.0.2.1 fd00::1]"
		expect("one of two", ready)
		for name, bad := range map[string]any{
			"no pool": api.Agent{Address: addr("10.0.0.12"), Weight: 1}, "no address": api.Agent{Pool: "web", Weight: 1},
			"weight": api.Agent{Pool: "web", Address: addr("10.0.0.12"), Weight: 65536}, "nonsense": []int{7}, "other": map[string]any{"weight": -1},
		} {
			announce(r2, bad)
			expect(name, ready)
		}
		announce(r2, api.Agent{Pool: "db", Address: addr("10.0.0.12"), Weight: 65535, Draining: true, Drain: 30, VIPs: good.VIPs[:1]})
		expect("draining", ready+"; r2 db 10.0.0.12 65535 30s [192.0.2.1]")
		net.Cut(func(from, to string) bool { return from == "r2" || to == "r2" })
		time.Sleep(time.Minute)
		if x, _ := d1.Member("r2"); x.State != cluster.Failed {
			t.Fatalf("r2 is %s", x.State)
		}
		expect("not heard of any more", ready+"; r2 db 10.0.0.12 65535 30s [192.0.2.1]")
		leave()
		expect("left", "r2 db 10.0.0.12 65535 30s [192.0.2.1]")
	})
}

func TestOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net clustertest.Network
		d1, _ := gossiptest.Join(t, &net, "d1", cluster.Director)
		b, err := json.Marshal(api.Director{MACs: []string{"02:00:00:00:00:01", "02:00:00:00:00:02"}})
		if err == nil {
			err = d1.Publish(gossip.DirectorRecord, b)
		}
		if err != nil {
			t.Fatal(err)
		}
		m := &member{node: d1}
		for mac, want := range map[string]string{"02:00:00:00:00:02": "d1 (02:00:00:00:00:02)", "02:00:00:00:00:03": "a stranger (02:00:00:00:00:03)"} {
			if got := m.owner(mac); got != want {
				t.Errorf("%s: %s, want %s", mac, got, want)
			}
		}
	})
}
