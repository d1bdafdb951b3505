// Package fence makes the kernel itself keep a lease: it silences virtual addresses from the moment at
// which the lease of their group ends, whatever the process does that should have taken them off.
//
// A process that is stopped, or starved, cannot take an address off in time, and the lifetime of an
// address is counted in whole seconds. So a BPF program on the interfaces' ingress compares the time with
// a deadline that the process has to move on. After the deadline these are dropped:
//
//   - ARP requests for a guarded address (RFC 826),
//   - neighbour solicitations for it (RFC 4861, section 4.3),
//   - IPv4 and IPv6 packets to it.
//
// At the interfaces' egress a second program keeps back, for a few seconds after a group has changed hands and if it
// is asked to ([Fence.Hush]), what this host's own TCP answers to connections that it does not know: TCP resets
// without ACK from a guarded address. The kernel of the new holder may hear of such a connection a moment later, by
// the connection synchronisation of IPVS; and the old one, if it is a real server too, is sent packets that are for
// the new one until all neighbours know of it.
//
// Everything else passes untouched, for the next filter. Addresses that are not guarded are not looked at
// further than their absence from a map. Programs that listen on packet sockets still see what is dropped:
// their taps come first (__netif_receive_skb_core in net/core/dev.c).
//
// # Clock
//
// Deadlines are readings of CLOCK_BOOTTIME, which goes on while the machine is suspended, as the lease of
// the others does. Linux before 5.8 has no BPF helper for it; then CLOCK_MONOTONIC is compared, and
// [Fence.Clock] says so: a machine that wakes up from suspension holds a lease for as long as it slept.
//
// # What survives whom
//
// The program is attached as a filter of the classifier cls_bpf below the queueing discipline clsact
// (Linux 4.5), not through a BPF link: a filter stays when the process dies, and that is the point. The
// deadline then passes, and the addresses are silent until the next process takes the filter over
// ([Open], [Fence.Set]), one that has no fence removes it ([Remove]), or an administrator does:
//
//	tc filter del dev eth0 ingress protocol all pref 1 handle 0xd0fe bpf
//	tc filter del dev eth0 egress protocol all pref 1 handle 0xd0fe bpf
//
// The discipline is left alone where somebody else has made it. Filters of others with the same
// preference must be of the classifier bpf too, or there is no room for this one.
//
// # Limits
//
// Programs that others attach through tcx (Linux 6.6) run before this one and may take a packet away from
// it. Only what comes in by the named interfaces is guarded. A packet with a VLAN tag is seen without it, on
// the interface that carries the VLANs and on that of the VLAN. ARP other than that of Ethernet passes.
package fence
