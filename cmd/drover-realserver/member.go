package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/lease"
	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/realserver"
)

// member is a real server as a part of its cluster: it votes, learns the VIPs of its pool, and tells how they are.
type member struct {
	log    *slog.Logger
	node   *cluster.Node
	keeper *lease.Keeper // nil: it has no vote
	tell   chan struct{} // capacity 1
	// leaving is since when this host is to get no new connections; nil as long as it is.
	leaving atomic.Pointer[time.Time]
	down    atomic.Pointer[map[string]string] // services that are down here; nil: not looked at yet
	beating atomic.Bool                       // services are looked after, and with that beats are sent
	load    atomic.Pointer[int64]             // in thousandths; nil: not known
	reload  chan struct{}                     // capacity 1: whether and how the load is measured may have changed
}

const (
	// drainTold bounds the wait for the directors to stop sending new connections.
	drainTold = 3 * time.Second
	// drainLook is how often the connections are counted: of their end there is no event.
	drainLook = 100 * time.Millisecond
)

// drain has the directors stop sending new connections, and waits, for so long at most, until those that there are
// have ended.
func (m *member) drain(ctx context.Context, c *realserver.Config, vips []netip.Addr) {
	if c.Pool == "" || c.Drain == 0 {
		return
	}
	records, stop := m.node.WatchRecords()
	defer stop()
	now := time.Now()
	m.leaving.Store(&now)
	select {
	case m.tell <- struct{}{}:
	default:
	}
	m.log.Info("draining", "pool", c.Pool, "most", c.Drain)
	told, cancel := context.WithTimeout(ctx, min(drainTold, c.Drain))
	defer cancel()
	for !m.drained() {
		select {
		case <-records:
			continue
		case <-told.Done():
			m.log.Warn("not all directors have said that they send no new connections; stopping all the same")
		}
		break
	}
	ctx, cancelAll := context.WithTimeout(ctx, c.Drain)
	defer cancelAll()
	for {
		left, err := established(vips)
		if err != nil {
			m.log.Warn("failed to count the connections; stopping without waiting for them", "error", err)
			return
		}
		if len(left) == 0 {
			m.log.Info("drained")
			return
		}
		select {
		case <-time.After(drainLook):
		case <-ctx.Done():
			m.log.Warn("connections are left at the end of the drain", "connections", len(left), "such_as", left[0])
			return
		}
	}
}

// directors are what directors announce, with the state of each; what makes no sense is left out.
func (m *member) directors() iter.Seq2[*cluster.Record, *api.Director] {
	return func(yield func(*cluster.Record, *api.Director) bool) {
		for _, r := range m.node.Records() {
			var d api.Director
			if r.Key == gossip.DirectorRecord && json.Unmarshal(r.Value, &d) == nil && !yield(&r, &d) {
				return
			}
		}
	}
}

// drained reports whether every director that is alive says that this host gets no new connections.
func (m *member) drained() bool {
	for r, d := range m.directors() {
		if r.State == cluster.Alive && !slices.Contains(d.Drained, m.node.Name()) {
			return false
		}
	}
	return true
}

// established lists the TCP connections of this host to its VIPs over which data may come yet, in words.
func established(vips []netip.Addr) (list []string, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		socks, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return nil, fmt.Errorf("failed to list the sockets: %w", err)
		}
		for _, s := range socks {
			a, ok := netip.AddrFromSlice(s.ID.Source)
			if ok && slices.Contains(vips, a.Unmap()) && live(s.State, s.Retrans) {
				list = append(list, fmt.Sprintf("%s:%d to %s:%d, %s, %d retransmissions", s.ID.Destination, s.ID.DestinationPort, s.ID.Source, s.ID.SourcePort, stateWord(s.State), s.Retrans))
			}
		}
	}
	return list, nil
}

// stateWord is a state of a TCP connection as ss(8) has it.
func stateWord(state uint8) string {
	switch state {
	case netlink.TCP_SYN_RECV:
		return "SYN-RECV"
	case netlink.TCP_ESTABLISHED:
		return "ESTAB"
	case netlink.TCP_FIN_WAIT1:
		return "FIN-WAIT-1"
	case netlink.TCP_CLOSE_WAIT:
		return "CLOSE-WAIT"
	case netlink.TCP_CLOSING:
		return "CLOSING"
	case netlink.TCP_LAST_ACK:
		return "LAST-ACK"
	}
	return fmt.Sprintf("state %d", state)
}

// unanswered is after how many retransmissions nobody is at the other end of a connection that this host has closed: some 6 s,
// as the first comes after 200 ms and each takes twice as long as the one before (RFC 6298 section 5.5). A client that had
// all before a new director knew of its connection is gone, and its last acknowledgement was lost there; the kernel
// would go on for minutes (tcp_orphan_retries).
const unanswered = 5

// live reports whether somebody may still send data over a TCP connection in a state, or waits for ours.
func live(state, retransmissions uint8) bool {
	switch state {
	case netlink.TCP_SYN_RECV, netlink.TCP_ESTABLISHED, netlink.TCP_CLOSE_WAIT:
		return true
	case netlink.TCP_FIN_WAIT1, netlink.TCP_CLOSING, netlink.TCP_LAST_ACK: // data of ours, or our FIN, is on its way
		return retransmissions < unanswered
	}
	return false // FIN_WAIT2: the client has everything; TIME_WAIT; no connection
}

func newMember(o *settings.Options, cfg *realserver.Config, log *slog.Logger) (*member, error) {
	role := cluster.RealServer
	if !cfg.Learn && len(cfg.VIPs) == 0 {
		role = cluster.Witness
	}
	m := &member{log: log, tell: make(chan struct{}, 1), reload: make(chan struct{}, 1)}
	var err error
	if m.node, err = gossip.NewNode(o, role, log, prometheus.NewRegistry()); err != nil {
		return nil, err
	}
	if _, votes := o.Voter(o.Name); votes {
		m.keeper, err = gossip.NewKeeper(o, m.node, false, 0, log, lease.Options{})
	}
	return m, err
}

// run takes part in the cluster until ctx ends.
func (m *member) run(ctx context.Context, a *realserver.Agent, cfg func() *realserver.Config) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.node.Run(ctx) })
	if m.keeper != nil {
		group.Go(func() error { return m.keeper.Run(ctx) })
	}
	group.Go(func() error {
		m.watchServices(ctx, cfg)
		return nil
	})
	group.Go(func() error {
		m.watchLoad(ctx, cfg)
		return nil
	})
	group.Go(func() error {
		m.follow(ctx, a, cfg)
		return nil
	})
	return group.Wait()
}

// follow learns the VIPs of the pool from the directors, and tells them how they are here.
func (m *member) follow(ctx context.Context, a *realserver.Agent, cfg func() *realserver.Config) {
	records, stop := m.node.WatchRecords()
	defer stop()
	var learned []netip.Addr
	host := "" // the director on this host
	before := cfg()
	for {
		c := cfg()
		if d := m.director(ownMACs()); d != host {
			switch {
			case d != "":
				m.log.Info("this host is a director, too", "director", d)
			default:
				m.log.Info("this host is no director any more", "director", host)
			}
			host = d
			a.SetDirector(d != "")
		}
		if vips, ok := m.wanted(c.Pool); c.Learn && ok && (!slices.Equal(vips, learned) || c != before) {
			m.log.Info("these are the VIPs of the pool", "pool", c.Pool, "vips", vips)
			learned, before = vips, c
			next := *c
			next.VIPs = vips
			a.Set(&next)
		}
		m.publish(c, a.Status())
		select {
		case m.reload <- struct{}{}:
		default:
		}
		select {
		case <-ctx.Done():
			return
		case <-records:
		case <-m.tell:
		}
	}
}

// director names the director that runs on this host: the one that announces a hardware address of it. One that
// failed may have its VIPs on for a moment.
func (m *member) director(macs []string) string {
	for r, d := range m.directors() {
		if r.State == cluster.Left {
			continue
		}
		if slices.ContainsFunc(d.MACs, func(mac string) bool { return slices.Contains(macs, mac) }) {
			return r.Node
		}
	}
	return ""
}

// ownMACs lists the hardware addresses of this host.
func ownMACs() (out []string) {
	list, err := net.Interfaces()
	if err != nil {
		return nil
	}
	for _, i := range list {
		if len(i.HardwareAddr) == 6 {
			out = append(out, i.HardwareAddr.String())
		}
	}
	return out
}

// wanted lists the VIPs of a pool, sorted: all that any director names, so that a VIP is here before traffic, and
// goes after it. ok is false as long as no director is known: then everything stays as it is.
func (m *member) wanted(pool string) (vips []netip.Addr, ok bool) {
	for r, d := range m.directors() {
		if r.State == cluster.Left || d.Spec.Hash == "" {
			continue
		}
		ok = true
		for _, a := range d.Pools[pool] {
			if !slices.Contains(vips, a) && len(vips) < realserver.MaxVIPs {
				vips = append(vips, a)
			}
		}
	}
	slices.SortFunc(vips, netip.Addr.Compare)
	return vips, ok
}

// publish tells the cluster how the VIPs are here.
func (m *member) publish(c *realserver.Config, st realserver.Status) {
	out := api.Agent{Pool: c.Pool, Address: c.Address, Weight: c.Weight, VIPs: []api.AgentVIP{}}
	if down := m.down.Load(); down != nil {
		out.Down = *down
	}
	if t := m.leaving.Load(); t != nil {
		out.Draining, out.DrainingSince, out.Drain = true, t.UTC(), c.Drain.Seconds()
	}
	for _, x := range st.Repairs {
		out.Repairs = append(out.Repairs, api.Repair{When: x.When.UTC(), What: x.What, VIP: x.VIP})
	}
	for _, v := range st.VIPs {
		ready := v.Bound && (v.Phase == realserver.Silent || v.Phase == realserver.Unproven || v.Phase == realserver.Held)
		out.VIPs = append(out.VIPs, api.AgentVIP{Address: v.Address, Phase: v.Phase.String(), Ready: ready, Reason: v.Reason})
	}
	b, err := json.Marshal(out)
	if err == nil {
		err = m.node.Publish(gossip.AgentRecord, b)
	}
	if err != nil {
		m.log.Warn("failed to tell the directors", "error", err)
	}
}
