package controller

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/sysctl"
)

// Setting is a kernel setting that a director wants, with where its meaning is written down.
type Setting struct {
	sysctl.Row
	Source string
}

// Settings are the kernel settings that a director wants for a file, in the order in which they are to
// be written.
//
// What is often recommended and is missing here on purpose:
//
//   - net.ipv4.ip_forward: a VIP is a local address of the director, so its packets are delivered
//     locally, where IPVS takes them (NF_INET_LOCAL_IN) and sends them on by itself. Only answers of
//     servers behind masquerading pass through the forwarding code.
//   - net.ipv4.conf.*.send_redirects=0: redirects are sent by the forwarding code (ip_forward() in
//     net/ipv4/ip_forward.c), which direct routing does not run through.
//   - net.ipv4.conf.*.arp_ignore, arp_announce: a director is to answer for its VIPs. It asks for its
//     real servers' addresses with the primary address of their subnet, as the packets that it passes on
//     have a source that is not local (arp_solicit() in net/ipv4/arp.c).
//   - net.ipv4.conf.*.rp_filter: clients are reached the way they come in, or it is for the
//     administrator of the routes to know.
//   - net.ipv4.vs.sloppy_tcp: only a director that takes over connections of another one needs it; see
//     [ClusterSettings].
func Settings(f *spec.File) []Setting {
	if !f.Director.Sysctls {
		return nil
	}
	var out []Setting
	add := func(key, value, reason, source string, optional bool) {
		out = append(out, Setting{Row: sysctl.Row{Key: key, Value: value, Reason: reason, Optional: optional}, Source: source})
	}

	var masq4, masq6 bool
	for i := range f.Spec.Services {
		for j := range f.Spec.Services[i].RealServers {
			if f.Spec.Services[i].RealServers[j].Forward == ipvs.Masq {
				masq4 = masq4 || f.Spec.Services[i].Family == ipvs.IPv4
				masq6 = masq6 || f.Spec.Services[i].Family == ipvs.IPv6
			}
		}
	}
	// These go first: they reset settings of interfaces (inet_forward_change() in net/ipv4/devinet.c).
	if masq4 {
		add("net.ipv4.ip_forward", "1", "answers of real servers behind masquerading pass through the director", "Documentation/networking/ip-sysctl.rst", false)
	}
	if masq6 {
		add("net.ipv6.conf.all.forwarding", "1", "answers of real servers behind masquerading pass through the director", "Documentation/networking/ip-sysctl.rst", false)
	}

	const vs = "Documentation/networking/ipvs-sysctl.rst"
	add(expireNodest, "1", "a client whose real server was taken out is told at its next packet, instead of being met with silence until the connection times out (15 minutes)", vs, false)
	add("net.ipv4.vs.expire_quiescent_template", "1", "a persistent client goes to another real server when its own gets weight 0; otherwise draining would never end", vs, false)
	add("net.ipv4.vs.conn_reuse_mode", "1", "a client that uses a port again is scheduled anew, so it does not land on a real server with weight 0; the kernel's default, which container tools set to 0", vs, false)

	for _, name := range checkInterfaces(f) {
		add(sysctl.Interface("ipv4", "conf", name, "accept_local"), "1", "the answer to a check at a VIP comes in from the VIP itself, which is an address of this host", "Documentation/networking/ip-sysctl.rst; __fib_validate_source() in net/ipv4/fib_frontend.c", true)
	}

	var subnets []string
	for _, v := range f.Spec.VIPs {
		if v.Prefix.Addr().Is4() && !v.Prefix.IsSingleIP() {
			subnets = append(subnets, cmp.Or(v.Interface, f.Director.Interface))
		}
	}
	slices.Sort(subnets)
	for _, name := range slices.Compact(subnets) {
		add(sysctl.Interface("ipv4", "conf", name, "promote_secondaries"), "1", "a VIP that is the first address of its subnet does not take the host's other addresses of that subnet along when it goes", "Documentation/networking/ip-sysctl.rst; __inet_del_ifa() in net/ipv4/devinet.c", true)
	}
	return out
}

const expireNodest = "net.ipv4.vs.expire_nodest_conn"

// checkInterfaces are the interfaces of IPv4 VIPs that are checked by way of the real servers, sorted.
func checkInterfaces(f *spec.File) []string {
	checked := make(map[netip.Addr]bool)
	for i := range f.Spec.Services {
		s := &f.Spec.Services[i]
		checked[s.Addr] = checked[s.Addr] || slices.ContainsFunc(s.Checks, func(c spec.Check) bool { return c.Path == spec.PathVIP })
	}
	var names []string
	for _, v := range f.Spec.VIPs {
		if a := v.Prefix.Addr(); a.Is4() && checked[a] {
			names = append(names, cmp.Or(v.Interface, f.Director.Interface))
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ClusterSettings are the further settings of a director that is one of several; synced says whether
// connections are synchronised. Beside these, net.ipv4.vs.backup_only follows the role; see [Syncer].
func ClusterSettings(f *spec.File, synced bool) []Setting {
	if !f.Director.Sysctls {
		return nil
	}
	var out []Setting
	add := func(key, value, reason, source string) {
		out = append(out, Setting{Row: sysctl.Row{Key: "net.ipv4.vs." + key, Value: value, Reason: reason}, Source: source})
	}
	const (
		vs     = "Documentation/networking/ipvs-sysctl.rst"
		needed = vs + "; ip_vs_sync_conn_needed() in net/netfilter/ipvs/ip_vs_sync.c"
	)
	if synced {
		// The refresh period first: with it and the threshold at 0 nothing would be sent but changes of state.
		add("sync_refresh_period", "10", "a connection that goes on is sent to the standby every 10 seconds, so that one which joins late learns of it soon", needed)
		add("sync_threshold", "0 0", "a connection is sent to the standby with the first packet after its handshake, and not only with its third as by default: a request that is under way when the active director fails is not reset", needed)
		add("sync_retries", "3", "a connection is sent up to three times more, each 1.25 seconds (an eighth of the refresh period) after the last, if it has packets: a lost datagram costs a second and not ten", needed)
		add("sync_persist_mode", "0", "connections of persistent services are sent too, and not only which server a client belongs to: without its connection a packet in the middle of a stream is reset", vs)
		add("sync_ports", "1", "all directors must use the same number of ports; one thread is enough for the connections of one host", vs)
	}
	sloppy, why := "0", "a TCP packet in the middle of a stream that the director does not know of is answered with a reset at once: with the schedulers in use it would get to any server, which resets it too, and a flood of such packets would fill the table"
	for i := range f.Spec.Services {
		if s := &f.Spec.Services[i]; (s.Protocol == ipvs.TCP || s.FWMark != 0) && (s.Scheduler == "sh" || s.Scheduler == "mh") {
			sloppy, why = "1", "a scheduler goes by the client's address (sh, mh): a TCP stream that the director has not been told of gets to the same server again and goes on"
			break
		}
	}
	add("sloppy_tcp", sloppy, why, vs+"; tcp_conn_schedule() in net/netfilter/ipvs/ip_vs_proto_tcp.c")
	return out
}
