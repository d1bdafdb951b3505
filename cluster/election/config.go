package election

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// Bounds.
const (
	MinLease = 100 * time.Millisecond
	MaxLease = time.Minute

	MaxVoters     = 15
	MaxCandidates = 64
	MaxGroups     = 64
	MaxName       = 63 // bytes, of a node or a group

	DefaultPriority = 100 // as in VRRP, RFC 5798 section 5.2.4
	MaxPriority     = 254 // 255 is the address owner in VRRP, which direct routing does not have
)

// Mode says how the active director is found.
type Mode uint8

const (
	// LeaseMode: a majority of the voters leases a group to one candidate.
	LeaseMode Mode = iota
	// PriorityMode: the active one adverts itself every Lease/4, and a candidate takes over when it has heard
	// no better advert for Lease and a stagger. Directors that do not hear each other are all active.
	PriorityMode
)

func (m Mode) String() string {
	switch m {
	case LeaseMode:
		return "lease"
	case PriorityMode:
		return "priority"
	}
	return fmt.Sprintf("mode %d", uint8(m))
}

// Config is what a node knows when it starts. Voters, Lease, Groups and Mode have to be the same on all nodes of a
// cluster; messages of a node that has others are refused and reported.
type Config struct {
	Self      string   // name of this node, 1..63 bytes
	Candidate bool     // this node is a director
	Voters    []string // names, 1..15; a majority of them has to grant. PriorityMode: not used, may be empty
	// Candidates are the names of all directors, at most 64. It may be empty in LeaseMode, then candidates are
	// known from their messages. A sole other candidate lets a candidate take over without a stagger.
	// In PriorityMode adverts go to them.
	Candidates []string
	Groups     []string // names, 1..64

	Lease  time.Duration // 100ms..1m
	Drift  time.Duration // how much shorter a candidate counts; 0: Lease/5. At most Lease/2.
	GiveUp time.Duration // time to give up before the lease ends; 0: Lease/10. At most Lease/4.

	Priority     uint8         // 1..254, higher wins; 0: 100
	PreemptDelay time.Duration // how long to be eligible and connected before a lower one is asked to hand over; <0: never

	Incarnation uint64 // random, another one at every start, not 0
	Seed        uint64 // of the jitter
	// Epoch is the largest epoch that may have been used before this start. Wall-clock milliseconds since 1970 are
	// a good value: they need no disk, and epochs rise by far less than a thousand a second.
	Epoch uint64
	Mode  Mode
}

// check fills in defaults and returns the first thing that is wrong.
func (cfg *Config) check() error {
	if err := checkName("Self", cfg.Self); err != nil {
		return err
	}
	for _, list := range []struct {
		field    string
		names    []string
		min, max int
	}{
		{"Voters", cfg.Voters, 1, MaxVoters},
		{"Candidates", cfg.Candidates, 0, MaxCandidates},
		{"Groups", cfg.Groups, 1, MaxGroups},
	} {
		if list.field == "Voters" && cfg.Mode == PriorityMode {
			list.min = 0
		}
		if list.field == "Candidates" && cfg.Mode == PriorityMode {
			list.min = 1
		}
		if n := len(list.names); n < list.min || n > list.max {
			return fmt.Errorf("election: %s: %d names, must be between %d and %d", list.field, n, list.min, list.max)
		}
		seen := slices.Sorted(slices.Values(list.names))
		for i, name := range seen {
			if err := checkName(list.field, name); err != nil {
				return err
			}
			if i > 0 && seen[i-1] == name {
				return fmt.Errorf("election: %s: %q is named twice", list.field, name)
			}
		}
	}
	if cfg.Mode > PriorityMode {
		return fmt.Errorf("election: Mode (%d) must be LeaseMode or PriorityMode", cfg.Mode)
	}
	if cfg.Lease < MinLease || cfg.Lease > MaxLease {
		return fmt.Errorf("election: Lease (%v) must be between %v and %v", cfg.Lease, MinLease, MaxLease)
	}
	if cfg.Drift == 0 {
		cfg.Drift = cfg.Lease / 5
	}
	if cfg.Drift < 0 || cfg.Drift > cfg.Lease/2 {
		return fmt.Errorf("election: Drift (%v) must be between 0 and half of the lease (%v)", cfg.Drift, cfg.Lease/2)
	}
	if cfg.GiveUp == 0 {
		cfg.GiveUp = cfg.Lease / 10
	}
	if cfg.GiveUp < 0 || cfg.GiveUp > cfg.Lease/4 {
		return fmt.Errorf("election: GiveUp (%v) must be between 0 and a quarter of the lease (%v)", cfg.GiveUp, cfg.Lease/4)
	}
	if cfg.Priority == 0 {
		cfg.Priority = DefaultPriority
	}
	if cfg.Priority > MaxPriority {
		return fmt.Errorf("election: Priority (%d) must be between 1 and %d", cfg.Priority, MaxPriority)
	}
	if cfg.Incarnation == 0 {
		return fmt.Errorf("election: Incarnation must not be 0")
	}
	if cfg.Candidate && len(cfg.Candidates) > 0 && !slices.Contains(cfg.Candidates, cfg.Self) {
		return fmt.Errorf("election: Candidates: %q is a candidate but not named there", cfg.Self)
	}
	return nil
}

func checkName(field, name string) error {
	if len(name) < 1 || len(name) > MaxName {
		return fmt.Errorf("election: %s: a name (%.70q) must be between 1 and %d bytes", field, name, MaxName)
	}
	return nil
}

// hash is equal on nodes that may elect together.
func (cfg *Config) hash() uint64 {
	h := sha256.New()
	for _, names := range [][]string{cfg.Voters, cfg.Groups} {
		fmt.Fprintf(h, "%d;", len(names))
		for _, name := range slices.Sorted(slices.Values(names)) {
			fmt.Fprintf(h, "%q", name)
		}
	}
	fmt.Fprintf(h, "%d;%d", cfg.Lease, cfg.Mode)
	return binary.BigEndian.Uint64(h.Sum(nil))
}
