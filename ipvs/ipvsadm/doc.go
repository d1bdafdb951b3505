// Package ipvsadm prints the kernel's table, connections, timeouts and sync daemons as ipvsadm 1.31
// prints them, by numbers (-n) or by names, byte for byte: as tables (-L), as rules that ipvsadm -R reads
// (-S), and as JSON, which ipvsadm does not.
//
// It differs from ipvsadm where that shows something else than what the kernel holds: ipvsadm cuts
// the connections, packets and rates of a real server to 32 bits.
package ipvsadm
