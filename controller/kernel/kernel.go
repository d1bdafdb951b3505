package kernel

import (
	"net/netip"
	"time"
)

// Forever is the lifetime of an address that stays until somebody removes it.
const Forever time.Duration = 0

// MinLifetime is the shortest lifetime of an address. The kernel counts whole seconds and, for IPv4,
// lets an address go up to half a second early (ADDRCONF_TIMER_FUZZ_MINUS in net/ipv4/devinet.c), so
// with less there would be no room for renewals.
const MinLifetime = 2 * time.Second

// Address is an address on an interface.
type Address struct {
	Index    int           // of the interface
	Prefix   netip.Prefix  // host bits kept
	Lifetime time.Duration // what is left of it, in whole seconds, or Forever
	// Failed: duplicate address detection found another holder, or is not done yet (IPv6). The address
	// does not serve.
	Failed bool
}

// Held is an address to be renewed on an interface.
type Held struct {
	Index  int // of the interface
	Prefix netip.Prefix
}

// Link is an interface.
type Link struct {
	Index   int
	Name    string
	Up      bool // switched on (IFF_UP)
	Carrier bool // the cable says that there is another end (IFF_LOWER_UP)
}

// Removal is an address that went off an interface, whoever took it.
type Removal struct {
	Index int
	Addr  netip.Addr
}

// Changes is what happened to addresses and interfaces since the last call of Changes.
type Changes struct {
	Removed []Removal
	Links   bool // an interface came, went, or changed its name or state
	Lost    bool // notifications were lost: anything may have happened
}

// maxRemovals bounds the removals that are kept for a reader who does not come.
const maxRemovals = 4096

// add merges more into c.
func (c *Changes) add(more Changes) {
	c.Links = c.Links || more.Links
	c.Lost = c.Lost || more.Lost
	c.Removed = append(c.Removed, more.Removed...)
	if len(c.Removed) > maxRemovals {
		c.Removed, c.Lost = nil, true
	}
}
