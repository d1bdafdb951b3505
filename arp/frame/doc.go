// Package frame writes and reads the Ethernet frames by which hosts claim and look for addresses: ARP
// for IPv4 (RFC 826, RFC 5227) and neighbour discovery for IPv6 (RFC 4861). It is pure.
//
// [Announcement] gives the frames that tell everybody who has an address, [Question] the frame that
// asks, and [ParseClaim] reads either kind of answer.
package frame
