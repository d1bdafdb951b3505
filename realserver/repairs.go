package realserver

import (
	"net/netip"
	"slices"
	"time"
)

// Repair is what somebody has undone on this host, and the agent has put right.
type Repair struct {
	When time.Time `json:"when"`
	What string    `json:"what"` // for people
	// VIP is the one that it was about; none: it was about all of the host.
	VIP netip.Addr `json:"vip,omitzero"`
}

const (
	// maxRepairs is how many of them are kept, the newest.
	maxRepairs = 8
	// repairGap is for how long the same is not told again: somebody may fight with us for an address.
	repairGap = 10 * time.Second
)

// note adds a repair of now to those that were made, the newest last, or not if it was told a moment ago.
func note(list []Repair, vip netip.Addr, what string, now time.Time) []Repair {
	i := slices.IndexFunc(list, func(r Repair) bool { return r.What == what })
	switch {
	case i >= 0 && now.Sub(list[i].When) < repairGap:
		return list
	case i >= 0:
		list = slices.Delete(list, i, i+1)
	case len(list) == maxRepairs:
		list = slices.Delete(list, 0, 1)
	}
	return append(list, Repair{now, what, vip})
}
