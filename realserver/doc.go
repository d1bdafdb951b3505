// Package realserver is the agent of a real server in direct routing. A real server has the virtual IPs
// of its services, so that it takes the packets which the director passes on to it unchanged, and
// must keep silent about having them: if it answers an ARP request for a VIP, clients send to it past the
// director.
//
// The order is the correctness. The settings that keep the kernel silent come first, then the VIP, then
// the proof, on this very kernel, that it does not answer for the VIP on any interface (see [package
// github.com/drover-lb/drover/realserver/proof]). A VIP that is answered for is taken off again. What
// somebody undoes is repaired at once. On the way out everything goes back to what it was, in reverse; a
// state file keeps what that is for a successor, should the agent be killed.
package realserver
