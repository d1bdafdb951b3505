package cluster

import (
	"fmt"
	"testing"
	"time"

	"github.com/drover-lb/drover/cluster/clustertest"
)

// With many members a record of a real server goes to the directors, also if its first datagram is lost, and that of
// a director to everybody. What is gossiped is what everybody has to know.
func TestManyMembers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var net clustertest.Network
		opt := options("d1")
		opt.Transport = net.Host("d1")
		opt.Timing.PushPullInterval = time.Hour // nothing is to come by the exchange of everything
		d1 := start(t, opt)
		nodes := []*node{d1}
		for i := range manyMembers + 4 {
			opt := options(fmt.Sprintf("n%d", i))
			opt.Role = RealServer
			if i == 0 {
				opt.Name, opt.Role = "d2", Director
			}
			opt.Transport, opt.Timing, opt.Seeds = net.Host(opt.Name), d1.opt.Timing, []string{d1.Address().String()}
			nodes = append(nodes, start(t, opt))
		}
		d2, web := nodes[1], nodes[len(nodes)-1]
		until(t, time.Minute, "all know all", func() bool {
			for _, n := range nodes {
				if n.alive.Load() != int64(len(nodes)) {
					return false
				}
			}
			return true
		})
		publish := func(n *node, value string) {
			t.Helper()
			if err := n.Publish("k", []byte(value)); err != nil {
				t.Fatal(err)
			}
		}
		has := func(n, of *node, value string) bool {
			for _, r := range n.Records() {
				if r.Node == of.Name() && r.Key == "k" {
					return string(r.Value) == value
				}
			}
			return false
		}
		count := func(of *node, value string) (c int) {
			for _, n := range nodes {
				if has(n, of, value) {
					c++
				}
			}
			return c
		}

		publish(web, "one")
		time.Sleep(20 * time.Millisecond)
		if !has(d1, web, "one") || !has(d2, web, "one") {
			t.Error("the directors do not know at once")
		}
		time.Sleep(10 * time.Second)
		if c := count(web, "one"); c != 3 {
			t.Errorf("%d nodes know, want the two directors and the node itself", c)
		}

		net.Cut(func(from, to string) bool { return from == web.Name() })
		publish(web, "two")
		time.Sleep(100 * time.Millisecond)
		net.Cut(nil)
		if has(d1, web, "two") {
			t.Fatal("nothing was cut")
		}
		time.Sleep(150 * time.Millisecond)
		if !has(d1, web, "two") || !has(d2, web, "two") {
			t.Error("a lost record is not sent again")
		}
		time.Sleep(tellAt[len(tellAt)-1])
		out := web.metric(t, metricMessages, "direction", "out", "type", msgRecords.String())
		time.Sleep(time.Minute)
		if more := web.metric(t, metricMessages, "direction", "out", "type", msgRecords.String()) - out; more != 0 {
			t.Errorf("%v messages about an old record", more)
		}

		publish(d1, "everybody")
		time.Sleep(2 * time.Second)
		if c := count(d1, "everybody"); c != len(nodes) {
			t.Errorf("%d of %d nodes know of a director's record", c, len(nodes))
		}
		web.Unpublish("k")
		time.Sleep(20 * time.Millisecond)
		if has(d1, web, "two") {
			t.Error("the removal is not known")
		}
	})
}
