// Package health decides which real servers get traffic.
//
// Probes of real servers give results; results give each server a state, by rise and fall ([Track]); the states
// of a service's servers give a verdict on each of them ([View]); and [Want] is the table that a spec and a view
// ask for. All of that are functions on values and times that are arguments. [Engine] drives them: one goroutine
// that owns all states, one timer for what is due next, and a goroutine for each probe under way, of which there
// is a bounded number.
//
// # Unknown servers
//
// A server of which nothing is known yet stays as the kernel has it. So a director that starts again, or takes
// over, leaves working traffic alone, and a server that is new gets traffic after its first good probe.
//
// # The VIP path
//
// In direct routing a probe of the real server's own address says nothing of the VIP: whether the server has it,
// and whether the service listens on it. So by default a probe goes to the VIP, through the one server: it
// carries a firewall mark, and the kernel's table has a service by that mark whose only server it is. IPVS sees
// what a host sends itself (NF_INET_LOCAL_OUT), and looks for a service by mark before it looks for one by
// address (ip_vs_service_find in net/netfilter/ipvs/ip_vs_ctl.c). These services are private: [Engine.Private]
// lists them, and they are kept out of everything that people are shown.
//
// A probe starts only when its service is in the kernel. Without it the packet would go to any server.
package health
