// Package proof finds out whether this host's own kernel answers for an address.
//
// A real server in direct routing has the virtual IP and must never answer an ARP request or neighbour
// solicitation for it. Settings and addresses suggest whether it does; what counts is what leaves the
// host. So a question is put into the kernel as if it had been received on an interface, and a packet socket
// watches that no answer leaves. A second question, for an address that the interface does have,
// must be answered: it shows that the first one got through, and, because the kernel works through
// received packets in order, that the first one has been dealt with.
//
// Nobody outside hears the questions. The answers go to a made-up Ethernet address, so nobody learns
// from them; the questions name no asker (RFC 5227) or a link-local one that exists for a moment only.
//
// Questions are put in by running a BPF program on them in place of a driver (BPF_F_TEST_XDP_LIVE_FRAMES,
// Linux 5.18), which needs nothing on the host. On kernels without that they go through a dummy
// interface that lives as long as the proof, with a rule that redirects what is sent there (act_mirred).
// Where neither works the verdict is Unproven, with the reason.
package proof
