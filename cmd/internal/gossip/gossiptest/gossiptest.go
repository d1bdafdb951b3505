// Package gossiptest starts nodes of a cluster in memory, for the tests of the daemons.
package gossiptest

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/clustertest"
)

// Join starts a node that ends with the test, or earlier by stop. The test is to be in a bubble of testing/synctest.
func Join(t *testing.T, net *clustertest.Network, name string, role cluster.Role, seeds ...string) (n *cluster.Node, stop func()) {
	t.Helper()
	return JoinWith(t, net, name, role, func(*cluster.Node) {}, seeds...)
}

// JoinWith is Join for a node that is prepared before it runs, such as to handle messages.
func JoinWith(t *testing.T, net *clustertest.Network, name string, role cluster.Role, prepare func(*cluster.Node), seeds ...string) (n *cluster.Node, stop func()) {
	t.Helper()
	n, err := cluster.New(cluster.Options{
		Name: name, Role: role, Label: "test", Bind: netip.MustParseAddrPort("127.0.0.1:0"), Insecure: true,
		Transport: net.Host(name), Seeds: seeds, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	prepare(n)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", name, err)
		}
		done <- nil
	}
	t.Cleanup(func() { time.Sleep(time.Minute) }) // after all nodes have stopped: probes that memberlist was about to end
	t.Cleanup(stop)
	<-n.Ready()
	return n, stop
}
