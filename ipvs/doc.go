// Package ipvs speaks to the kernel's IP Virtual Server: the whole generic-netlink family "IPVS"
// (include/uapi/linux/ip_vs.h, net/netfilter/ipvs/ip_vs_ctl.c), many commands to a system call, with
// a time limit on every call. It knows services, destinations, 64-bit counters, timeouts, the
// connection sync daemon, zeroing, persistence engines, tunnels and the list of connections.
//
// Values and their counters are separate types, so that two tables can be compared: [Service] and
// [Destination] are what an administrator sets, [Stats] is what the kernel counts.
//
// A [Client] belongs to the network namespace in which it was made. Commands need CAP_NET_ADMIN.
package ipvs
