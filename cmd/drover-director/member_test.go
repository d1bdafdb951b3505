package main

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/lease"
	"github.com/drover-lb/drover/cluster/settings"
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
	f := &spec.File{Spec: spec.Spec{VIPs: []spec.VIP{vip("192.0.2.1/32", "", "blue"), vip("192.0.2.2/32", "eth1", "green"), vip("192.0.2.3/32", "eth2", "blue")}}}
	f.Director.Interface = "eth0"
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
	expect("at first", map[string]string{"blue": "interface eth0 was not looked at yet", "green": "interface eth1 was not looked at yet"})
	m.judge("eth0", "")
	expect("one of two is well", map[string]string{"blue": "interface eth2 was not looked at yet", "green": "interface eth1 was not looked at yet"})
	m.judge("eth2", "")
	m.judge("eth1", "interface eth1 has no carrier")
	expect("one group's is not well", map[string]string{"green": "interface eth1 has no carrier"})
	m.setMaintenance(true)
	expect("maintenance", map[string]string{"blue": "maintenance", "green": "maintenance", "empty": "maintenance"})
	m.judge("eth1", "")
	expect("well in maintenance", map[string]string{"blue": "maintenance", "green": "maintenance", "empty": "maintenance"})
	m.setMaintenance(false)
	expect("all is well", nil)
	if got := texts(m.events.after(t.Context(), 0)); got != "1 tracker interface eth1 has no carrier, 2 maintenance maintenance is on, 3 maintenance maintenance is off" {
		t.Errorf("told %s", got)
	}
	if got := m.interfaces(); len(got) != 3 || got[0] != "eth0" || got[1] != "eth1" || got[2] != "eth2" {
		t.Errorf("interfaces %q", got)
	}
}
