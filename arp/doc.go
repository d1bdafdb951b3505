// Package arp tells a link who has an address, and asks it.
//
// An [Announcer] sends gratuitous ARP and unsolicited neighbour advertisements for a declared set of
// addresses: a burst for a new one, because frames get lost and switches and hosts differ in what they
// heed, and then a slow refresh. [Probe] returns every MAC that claims an address; in direct routing there
// must be exactly one for a virtual IP, the active director's.
package arp
