package health

import (
	"cmp"
	"slices"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// privateScheduler is the scheduler of private services, which have one server. Every kernel with IPVS has it.
const privateScheduler = "rr"

// via is a real server that is probed through, for VIPs of a family.
type via struct {
	family ipvs.Family
	server ipvs.Destination
}

func viaOf(p spec.Place) via { return via{ipvs.FamilyOf(p.To.Addr()), p.Via} }

// marks gives each real server that is probed through a mark of its own, which it keeps as long as it is used.
type marks struct {
	first uint32
	of    map[via]uint32
}

// assign frees what is not used any more, and gives marks to what is new. Should there be no more, some servers
// get none.
func (m *marks) assign(used map[via]bool) {
	of, taken := make(map[via]uint32, len(used)), make(map[uint32]bool, len(used))
	var fresh []via
	for v := range used {
		if n, ok := m.of[v]; ok {
			of[v], taken[n] = n, true
		} else {
			fresh = append(fresh, v)
		}
	}
	slices.SortFunc(fresh, func(a, b via) int {
		return cmp.Or(a.server.DestKey.Compare(b.server.DestKey), cmp.Compare(a.family, b.family), cmp.Compare(a.server.Forward, b.server.Forward))
	})
	next := uint32(0)
	for _, v := range fresh {
		for taken[m.first+next] {
			next++
		}
		if next >= spec.CheckMarks {
			break
		}
		of[v] = m.first + next
		next++
	}
	m.of = of
}

// table is what the kernel has to have for the marks.
func (m *marks) table() plan.State {
	services := make([]plan.Service, 0, len(m.of))
	for v, n := range m.of {
		services = append(services, plan.Service{
			Service: ipvs.Service{Key: ipvs.Key{Family: v.family, FWMark: n}, Scheduler: privateScheduler, Netmask: uint8(v.family.Bits())},
			Servers: []ipvs.Destination{v.server},
		})
	}
	return plan.NewState(services)
}
