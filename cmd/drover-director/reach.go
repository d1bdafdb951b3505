package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/spec"
)

const (
	// reachEvery is how often real servers are tried.
	reachEvery = 2 * time.Second
	// reachTimeout bounds one try.
	reachTimeout = time.Second
	// maxReach bounds how many are tried: one that answers is enough.
	maxReach = 8
	// reachFall is after how many rounds without an answer this director takes itself for cut off.
	reachFall = 2
)

// reach tries in each round whether any real server can be reached from here, until ctx ends.
func (m *member) reach(ctx context.Context) {
	tick := time.NewTicker(reachEvery)
	defer tick.Stop()
	misses := 0
	for {
		list := targets(&m.file().Spec, local())
		r := api.Reach{Asked: len(list), Reached: dial(ctx, list)}
		if ctx.Err() != nil {
			return
		}
		if misses++; r.Reached > 0 || r.Asked == 0 {
			misses = 0
		}
		m.mu.Lock()
		news := m.reached != r
		m.reached = r
		m.mu.Unlock()
		if news {
			nudge(m.retell)
		}
		why := ""
		if misses >= reachFall {
			why = m.cutOff(r)
		}
		m.hinder("reach", why)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// cutOff says why this director cannot be active although it reaches no real server: another one reaches some.
// Where nobody does it is the servers' fault.
func (m *member) cutOff(r api.Reach) string {
	others := m.others()
	for _, name := range slices.Sorted(maps.Keys(others)) {
		if o := others[name].Reach; o != nil && o.Reached > 0 {
			return fmt.Sprintf("none of %d real servers can be reached, and %s reaches %d of %d", r.Asked, name, o.Reached, o.Asked)
		}
	}
	return ""
}

// targets are real servers to try, spread over all of them, those on this host left out.
func targets(s *spec.Spec, local func(netip.Addr) bool) []netip.AddrPort {
	var all []netip.AddrPort
	for i := range s.Services {
		for _, r := range s.Services[i].RealServers {
			if !local(r.Addr) {
				all = append(all, netip.AddrPortFrom(r.Addr, max(r.Port, 1))) // port 0 is all ports; 1 refuses
			}
		}
	}
	slices.SortFunc(all, netip.AddrPort.Compare)
	all = slices.CompactFunc(all, func(a, b netip.AddrPort) bool { return a.Addr() == b.Addr() })
	if len(all) <= maxReach {
		return all
	}
	out := make([]netip.AddrPort, maxReach)
	for i := range out {
		out[i] = all[i*len(all)/maxReach]
	}
	return out
}

// local returns which addresses are of this host.
func local() func(netip.Addr) bool {
	list, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr.IsLoopback
	}
	own := make(map[netip.Addr]bool, len(list))
	for _, a := range list {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own[p.Addr().Unmap()] = true
		}
	}
	return func(a netip.Addr) bool { return own[a] || a.IsLoopback() }
}

// dial counts those that answer: also a refusal is an answer.
func dial(ctx context.Context, list []netip.AddrPort) int {
	ctx, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	var n atomic.Int64
	var wg sync.WaitGroup
	for _, a := range list {
		wg.Go(func() {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", a.String())
			if err == nil {
				c.Close()
			}
			if err == nil || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) {
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return int(n.Load())
}
