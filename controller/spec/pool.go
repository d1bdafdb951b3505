package spec

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/drover-lb/drover/ipvs"
)

// Member is a real server that has announced itself as one of a pool.
type Member struct {
	Name    string // of the node
	Pool    string
	Address netip.Addr
	Weight  uint32
	Drain   Drain // as the member asks for it; how it ends is for the service to say
	// VIPs are those that the member has and for which it is proven silent.
	VIPs []netip.Addr
}

// Pools lists the VIPs that the members of each pool have to have, sorted.
func (s *Spec) Pools() map[string][]netip.Addr {
	pools := make(map[string][]netip.Addr)
	for i := range s.Services {
		if p := s.Services[i].Pool; p != "" && !slices.Contains(pools[p], s.Services[i].Addr) {
			pools[p] = append(pools[p], s.Services[i].Addr)
		}
	}
	for _, vips := range pools {
		slices.SortFunc(vips, netip.Addr.Compare)
	}
	return pools
}

// PoolServices lists the services of each pool that have checks, by their keys as text: those that the agents of its
// members look after too.
func (s *Spec) PoolServices() map[string][]string {
	pools := make(map[string][]string)
	for i := range s.Services {
		if p := s.Services[i].Pool; p != "" && len(s.Services[i].Checks) > 0 {
			pools[p] = append(pools[p], s.Services[i].Key.String())
		}
	}
	return pools
}

// WithMembers returns s with the members of the pools among the real servers of their services. A member
// without the VIP of a service is not one of its real servers: its packets would be lost. A real server that
// the spec lists by the same address stands as it is written. The order of members does not matter.
func (s *Spec) WithMembers(members []Member) Spec {
	out := s.Clone()
	members = slices.SortedFunc(slices.Values(members), func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	for i := range out.Services {
		svc := &out.Services[i]
		if svc.Pool == "" {
			continue
		}
		names := make(map[string]bool, len(svc.RealServers))
		addrs := make(map[netip.Addr]bool, len(svc.RealServers))
		for j := range svc.RealServers {
			names[svc.RealServers[j].Name] = true
			addrs[svc.RealServers[j].Addr] = true
		}
		for _, m := range members {
			if m.Pool != svc.Pool || addrs[m.Address] || m.Address.Is4() != svc.Addr.Is4() || !slices.Contains(m.VIPs, svc.Addr) {
				continue
			}
			addrs[m.Address] = true
			d := RealServer{Name: m.Name}
			if names[d.Name] {
				d.Name = m.Address.String()
			}
			names[d.Name] = true
			d.Addr, d.Port, d.Weight, d.Forward = m.Address, svc.Port, m.Weight, ipvs.DirectRoute
			if d.Drain = m.Drain; d.Drain.On {
				d.Drain.Remove, d.Drain.Settle = svc.Drain.Remove, svc.Drain.Settle
			}
			svc.RealServers = append(svc.RealServers, d)
		}
	}
	return out
}
