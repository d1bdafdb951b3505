package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/clustertest"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/cmd/internal/gossip/gossiptest"
	"github.com/drover-lb/drover/realserver"
)

// A VIP is wanted as soon as one director names it, and as long as one does. Without a word of a director nothing is
// known.
func TestWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net clustertest.Network
		r1, _ := gossiptest.Join(t, &net, "r1", cluster.RealServer)
		seed := r1.Address().String()
		d1, leave1 := gossiptest.Join(t, &net, "d1", cluster.Director, seed)
		d2, leave2 := gossiptest.Join(t, &net, "d2", cluster.Director, seed)
		m := &member{log: slog.New(slog.DiscardHandler), node: r1}
		expect := func(when, want string) {
			t.Helper()
			time.Sleep(10 * time.Second) // the gossip settles
			vips, ok := m.wanted("web")
			if got := fmt.Sprint(vips, ok); got != want {
				t.Errorf("%s: %s, want %s", when, got, want)
			}
		}
		publish := func(n *cluster.Node, hash string, vips ...string) {
			t.Helper()
			d := api.Director{Spec: api.Spec{Hash: hash}, Pools: map[string][]netip.Addr{"other": {netip.MustParseAddr("192.0.2.99")}}}
			for _, v := range vips {
				d.Pools["web"] = append(d.Pools["web"], netip.MustParseAddr(v))
			}
			b, err := json.Marshal(d)
			if err == nil {
				err = n.Publish(gossip.DirectorRecord, b)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		expect("nobody says anything", "[] false")
		if err := d1.Publish(gossip.DirectorRecord, []byte("{")); err != nil {
			t.Fatal(err)
		}
		publish(d2, "", "192.0.2.7")
		expect("nonsense, and no specification yet", "[] false")
		publish(d1, "h1", "192.0.2.2", "192.0.2.1")
		expect("one director", "[192.0.2.1 192.0.2.2] true")
		publish(d2, "h2", "fd00::1", "192.0.2.2")
		expect("both", "[192.0.2.1 192.0.2.2 fd00::1] true")
		publish(d1, "h2")
		expect("one takes two away", "[192.0.2.2 fd00::1] true")
		leave2()
		expect("one has left", "[] true")
		leave1()
		expect("both have left", "[] false")
	})
}

func TestPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net clustertest.Network
		n, _ := gossiptest.Join(t, &net, "r1", cluster.RealServer)
		m := &member{log: slog.New(slog.DiscardHandler), node: n}
		a := netip.MustParseAddr
		m.publish(&realserver.Config{Pool: "web", Address: a("10.0.0.11"), Weight: 7}, realserver.Status{VIPs: []realserver.VIPStatus{
			{Address: a("192.0.2.1"), Bound: true, Phase: realserver.Silent},
			{Address: a("192.0.2.2"), Bound: true, Phase: realserver.Unproven, Reason: "no rights"},
			{Address: a("192.0.2.3"), Bound: false, Phase: realserver.Silent, Reason: "gone"},
			{Address: a("192.0.2.4"), Bound: true, Phase: 0, Reason: "new"},
		}})
		list := n.Records()
		if len(list) != 1 || list[0].Key != gossip.AgentRecord {
			t.Fatalf("published %+v", list)
		}
		var got api.Agent
		if err := json.Unmarshal(list[0].Value, &got); err != nil {
			t.Fatal(err)
		}
		ready := ""
		for _, v := range got.VIPs {
			ready += fmt.Sprintf("%s %t %s, ", v.Address, v.Ready, v.Reason)
		}
		if got.Pool != "web" || got.Address != a("10.0.0.11") || got.Weight != 7 || ready != "192.0.2.1 true , 192.0.2.2 true no rights, 192.0.2.3 false gone, 192.0.2.4 false new, " {
			t.Errorf("published %+v", got)
		}
		m.publish(&realserver.Config{}, realserver.Status{})
		if list := n.Records(); string(list[0].Value) != `{"address":"","weight":0,"vips":[]}` {
			t.Errorf("published %s", list[0].Value)
		}
	})
}
