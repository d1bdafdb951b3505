// Package ipvsadm prints the kernel's table, connections, timeouts and sync daemons as ipvsadm 1.31
// prints them with -n, byte for byte, and as JSON.
//
// It differs from ipvsadm where that shows something else than what the kernel holds: ipvsadm cuts
// the connections, packets and rates of a real server to 32 bits.
package ipvsadm
