package plan

import (
	"slices"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// idle is the kernel's name for "no scheduler" (ip_vs_add_service in net/netfilter/ipvs/ip_vs_ctl.c,
// since Linux 4.2).
const idle = "none"

// cost ranks schedulers by what they do whenever a server of theirs is added, changed or deleted: mh
// fills its whole table anew (4,093 slots unless the kernel is built otherwise; about 0.1 ms); sh and
// dh fill 256 slots, and wrr walks all servers for the greatest common divisor of the weights. The
// others do nothing, or little.
func cost(scheduler string) int {
	switch scheduler {
	case "mh":
		return 2
	case "sh", "dh", "wrr":
		return 1
	}
	return 0
}

// later reports whether a new service with n servers is to get its scheduler after them. That is one
// command more. Measured on a real kernel, with mh it pays from 2 servers (1.6 times as fast; 23 times
// with 1,000), with sh, dh and wrr from about 16, 16 and 100 (with 1,000 about 1.7 times).
func later(scheduler string, n int) bool {
	switch cost(scheduler) {
	case 2:
		return n > 1
	case 1:
		return n >= 64
	}
	return false
}

// Owner returns the function that Diff asks whether a service is ours to delete: under "all" every
// service, otherwise those in before, the services that the director put there or took over earlier.
// Services that are wanted are never asked about.
func Owner(mode spec.Ownership, before map[ipvs.Key]struct{}) func(ipvs.Key) bool {
	if mode == spec.OwnAll {
		return func(ipvs.Key) bool { return true }
	}
	return func(k ipvs.Key) bool {
		_, ok := before[k]
		return ok
	}
}

// Diff says how to make want out of have. Both must be in order, as [NewState] leaves them. owns says
// which of the services that are not wanted may be deleted; nil means none. Servers inside a wanted
// service belong to us whoever added them.
//
// What is there already and right is not touched, so a table that fits gives an empty plan. The order
// keeps clients served at every step between:
//
//   - Services that nobody wants are deleted last, in one op each; the kernel drops their servers too.
//   - Within a service: new servers, then edits, then deletions. Edits that lower a weight come after
//     the others. So a service that has a server before and after has one all along, and so for
//     servers with a weight above 0.
//   - A new service whose scheduler works hard on every change of its servers, as mh does, gets them
//     while it has no scheduler, and the scheduler at the end. "No scheduler" rather than a cheap one, because
//     replacing a scheduler makes the kernel wait for an RCU grace period (ip_vs_edit_service), some
//     10 ms on a machine with several processors, and giving a service its first one does not.
//   - A service that changes to such a scheduler changes after its servers, and from such a one before.
//     One that loses the fallback flag of sh or mh loses it last, because without it clients of a
//     server with weight 0 are turned away.
//
// A server to be deleted does not get weight 0 first. Both commands would reach the kernel within
// microseconds of each other, and the deletion alone already takes the server away from the scheduler
// in one step, so the first would only cost a write (a whole table in mh; and without the fallback
// flag, turned-away clients). What would help clients is time between the two: the connections of a
// deleted server are not served to their end; the kernel drops their packets, or, with the sysctl
// expire_nodest_conn, treats the next one as if it began a connection (ip_vs_in). Whoever drains a
// server keeps it in want with weight 0 until its connections have gone.
//
// Every property of a server except address and port can be edited in place, the forwarding method
// and the tunnel included (__ip_vs_update_dest); connections that exist keep the method they have.
func Diff(want, have State, owns func(ipvs.Key) bool) Plan {
	var (
		p        Plan
		unwanted []ipvs.Key
	)
	if n := want.Servers() - have.Servers(); n > 0 { // a table from nothing is the largest plan
		p.Ops = make([]Op, 0, n+2*max(0, len(want.Services)-len(have.Services)))
	}
	merge(want.Services, have.Services, func(a, b *Service) int { return a.Key.Compare(b.Key) }, func(w, h *Service) {
		switch {
		case h == nil:
			p.addService(w)
		case w != nil:
			p.changeService(w, h)
		case owns != nil && owns(h.Key):
			unwanted = append(unwanted, h.Key)
		default:
			p.Strangers = append(p.Strangers, h.Key)
		}
	})
	for _, k := range unwanted {
		p.Ops = append(p.Ops, Op{Kind: DeleteService, Service: ipvs.Service{Key: k}})
	}
	return p
}

// merge walks through two sorted lists and calls f for every key, with nil where a list has none.
func merge[T any](want, have []T, compare func(a, b *T) int, f func(w, h *T)) {
	for i, j := 0, 0; i < len(want) || j < len(have); {
		c := 0
		switch {
		case i == len(want):
			c = 1
		case j == len(have):
			c = -1
		default:
			c = compare(&want[i], &have[j])
		}
		switch {
		case c < 0:
			f(&want[i], nil)
			i++
		case c > 0:
			f(nil, &have[j])
			j++
		default:
			f(&want[i], &have[j])
			i++
			j++
		}
	}
}

func (p *Plan) addService(s *Service) {
	first := s.Service
	late := later(s.Scheduler, len(s.Servers))
	if late {
		first.Scheduler = idle
	}
	p.Ops = append(p.Ops, Op{Kind: AddService, Service: first})
	for i := range s.Servers {
		p.Ops = append(p.Ops, Op{Kind: AddServer, Service: ipvs.Service{Key: s.Key}, Server: s.Servers[i]})
	}
	if late {
		p.Ops = append(p.Ops, Op{Kind: EditService, Service: s.Service, OldService: &first})
	}
}

func (p *Plan) changeService(want, have *Service) {
	edit := !sameService(&want.Service, &have.Service)
	late := edit && (cost(want.Scheduler) > cost(have.Scheduler) ||
		want.Scheduler == have.Scheduler && have.Flags&^want.Flags&ipvs.Sched1 != 0)
	editService := Op{Kind: EditService, Service: want.Service, OldService: &have.Service}
	if edit && !late {
		p.Ops = append(p.Ops, editService)
	}
	p.changeServers(want, have)
	if late {
		p.Ops = append(p.Ops, editService)
	}
}

// changeServers walks over the servers once to count, and then once for each kind of change that there
// is, which is cheaper than to gather them apart: most of the time nothing has changed.
func (p *Plan) changeServers(want, have *Service) {
	const (
		add = iota
		edit
		lower
		remove
		kinds
	)
	kind := func(w, h *ipvs.Destination) int {
		switch {
		case h == nil:
			return add
		case w == nil:
			return remove
		case sameServer(w, h):
			return kinds
		case w.Weight < h.Weight:
			return lower
		}
		return edit
	}
	compare := func(a, b *ipvs.Destination) int { return a.DestKey.Compare(b.DestKey) }
	var count [kinds + 1]int
	merge(want.Servers, have.Servers, compare, func(w, h *ipvs.Destination) { count[kind(w, h)]++ })
	p.Ops = slices.Grow(p.Ops, count[add]+count[edit]+count[lower]+count[remove]+1)
	for k := range kinds {
		if count[k] == 0 {
			continue
		}
		merge(want.Servers, have.Servers, compare, func(w, h *ipvs.Destination) {
			if kind(w, h) != k {
				return
			}
			op := Op{Service: ipvs.Service{Key: want.Key}}
			switch k {
			case add:
				op.Kind, op.Server = AddServer, *w
			case remove:
				op.Kind, op.Server.DestKey = DeleteServer, h.DestKey
			default:
				op.Kind, op.Server, op.OldServer = EditServer, *w, h
			}
			p.Ops = append(p.Ops, op)
		})
	}
}

// sameService compares what has an effect. The kernel stores timeout and netmask of a service that is
// not persistent as they were sent, and does not look at them; each tool sends its own.
func sameService(a, b *ipvs.Service) bool {
	x, y := *a, *b
	for _, s := range []*ipvs.Service{&x, &y} {
		s.Flags &= ipvs.SettableFlags
		if s.Flags&ipvs.Persistent == 0 {
			s.Timeout, s.Netmask = 0, 0
		}
	}
	return x == y
}

// sameServer compares what has an effect: of a tunnel only what its type uses, and nothing of it where
// the server is not reached by a tunnel.
func sameServer(a, b *ipvs.Destination) bool {
	if *a == *b {
		return true
	}
	x, y := *a, *b
	for _, d := range []*ipvs.Destination{&x, &y} {
		if d.Forward != ipvs.Tunnel {
			d.TunnelType = ipvs.TunnelIPIP
		}
		if d.TunnelType != ipvs.TunnelGUE {
			d.TunnelPort = 0
		}
		if d.Forward != ipvs.Tunnel || d.TunnelType == ipvs.TunnelIPIP {
			d.TunnelFlags = 0
		}
	}
	return x == y
}
