package lab

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"github.com/drover-lb/drover/lab/probe"
	"github.com/drover-lb/drover/lab/topology"
)

func TestHolders(t *testing.T) {
	vip, other := netip.MustParseAddr("10.0.0.100"), netip.MustParseAddr("10.0.0.101")
	const ms = time.Millisecond
	has := func(at time.Duration, host string, on bool) change {
		return change{at: at * ms, host: host, link: 2, ifname: "eth0", addr: vip, on: on}
	}
	cable := func(at time.Duration, host, ifname string, on bool) change {
		return change{at: at * ms, host: host, ifname: ifname, on: on}
	}
	power := func(at time.Duration, host string, on bool) change {
		return change{at: at * ms, host: host, on: on, power: true}
	}
	for _, tc := range []struct {
		name    string
		changes []change
		from    time.Duration
		want    holding
	}{
		{"nobody ever", nil, 0, holding{gap: 1000 * ms}},
		{"one", []change{has(0, "d1", true)}, 0, holding{hosts: []string{"d1"}, last: []string{"d1"}}},
		{"handed over with a pause", []change{has(0, "d1", true), has(100, "d1", false), has(130, "d2", true)}, 0,
			holding{gap: 30 * ms, hosts: []string{"d1", "d2"}, last: []string{"d2"}}},
		{"taken before it was given up", []change{has(0, "d1", true), has(100, "d2", true), has(107, "d1", false)}, 0,
			holding{overlap: 7 * ms, overlapFrom: 100 * ms, hosts: []string{"d1", "d2"}, last: []string{"d2"}}},
		{"the overlap began before the window", []change{has(0, "d1", true), has(100, "d2", true), has(300, "d1", false)}, 250 * ms,
			holding{overlap: 50 * ms, overlapFrom: 250 * ms, hosts: []string{"d1", "d2"}, last: []string{"d2"}}},
		{"it has not ended", []change{has(0, "d1", true), has(900, "d2", true)}, 0,
			holding{overlap: 100 * ms, overlapFrom: 900 * ms, hosts: []string{"d1", "d2"}, last: []string{"d1", "d2"}}},
		{"two overlaps", []change{has(0, "d1", true), has(100, "d2", true), has(110, "d2", false), has(500, "d2", true), has(505, "d1", false)}, 0,
			holding{overlap: 15 * ms, overlapFrom: 100 * ms, hosts: []string{"d1", "d2"}, last: []string{"d2"}}},
		{"nobody can reach it", []change{has(0, "d1", true), cable(100, "d1", "", false), has(150, "d2", true)}, 0,
			holding{gap: 50 * ms, hosts: []string{"d1", "d2"}, last: []string{"d2"}}},
		{"until its cable is whole again", []change{has(0, "d1", true), cable(100, "d1", "eth0", false), has(150, "d2", true), cable(400, "d1", "eth0", true), has(420, "d1", false)}, 0,
			holding{overlap: 20 * ms, overlapFrom: 400 * ms, gap: 50 * ms, hosts: []string{"d1", "d2"}, last: []string{"d2"}}},
		{"another cable", []change{has(0, "d1", true), cable(100, "d1", "eth1", false), has(150, "d2", true)}, 0,
			holding{overlap: 850 * ms, overlapFrom: 150 * ms, hosts: []string{"d1", "d2"}, last: []string{"d1", "d2"}}},
		{"on an interface without a cable, reached by any", []change{
			{host: "d1", link: 5, addr: vip, on: true}, cable(100, "d1", "eth0", false), has(150, "d2", true), cable(200, "d1", "eth1", false)}, 0,
			holding{overlap: 50 * ms, overlapFrom: 150 * ms, hosts: []string{"d1", "d2"}, last: []string{"d2"}}},
		{"twice on one host is no overlap", []change{has(0, "d1", true), {at: 100 * ms, host: "d1", link: 3, ifname: "eth1", addr: vip, on: true}, has(200, "d1", false)}, 0,
			holding{hosts: []string{"d1"}, last: []string{"d1"}}},
		{"power takes the address away", []change{has(0, "d1", true), power(100, "d1", false), has(150, "d2", true), power(300, "d1", true)}, 0,
			holding{gap: 50 * ms, hosts: []string{"d1", "d2"}, last: []string{"d2"}}},
		{"another address", []change{{host: "d1", link: 2, ifname: "eth0", addr: other, on: true}}, 0, holding{gap: 1000 * ms}},
		{"after the window", []change{has(1500, "d1", true)}, 0, holding{gap: 1000 * ms}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := holders(tc.changes, map[string]int{"d1": 2, "d2": 1}, vip, probe.Window{From: tc.from, To: 1000 * ms})
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("\n got %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

func TestLedgerAdmitsWhatItMayHaveMissed(t *testing.T) {
	l := &ledger{}
	l.address(topology.AddressChange{Host: "d1", Link: 2, Interface: "eth0", Addr: netip.MustParseAddr("10.0.0.100"), Has: true}, nil)
	if _, err := l.holding(netip.MustParseAddr("10.0.0.100"), probe.Window{To: probe.Now()}); err != nil {
		t.Fatal(err)
	}
	l.address(topology.AddressChange{}, errors.New("no buffer space available"))
	if _, err := l.holding(netip.MustParseAddr("10.0.0.100"), probe.Window{To: probe.Now()}); err == nil {
		t.Error("events were lost, and the answer is given as if they were not")
	}
}
