package election

import (
	"fmt"
	"strings"
	"time"
)

// Status is what is known about one group, for an operator.
type Status struct {
	Group    string
	Mode     Mode
	Role     Role
	Eligible bool
	Holder   string        // who is active as far as is known here, "": nobody or not known
	Epoch    uint64        // of this node's last activation or campaign; of a standby the largest it knows of
	Since    time.Duration // of the role's phase
	Until    time.Duration // Active and Yielding: when the address has to be gone
	Margin   time.Duration // Until less now
	Votes    []Vote        // candidates in LeaseMode: by voter, sorted by name
	Waiting  string        // why this node is not active, in words; "" if it is
}

// Vote is what one voter's last word was.
type Vote struct {
	Voter   string
	Granted time.Duration // until when it counts, 0: not granted
	Free    bool          // it would grant
	Refused string        // why, in words
	Heard   bool          // it has answered since the start
	Silent  time.Duration // since its last answer
}

// Status returns what is known about a group.
func (c *Core) Status(now time.Duration, group string) Status {
	now = max(now, c.now)
	g := c.group(group)
	r := &c.runs[g]
	s := Status{Group: group, Mode: c.cfg.Mode, Eligible: r.eligible, Epoch: r.epoch, Since: r.since}
	switch r.phase {
	case active:
		s.Role, s.Holder = Active, c.cfg.Self
	case yielding:
		s.Role, s.Holder = Yielding, c.cfg.Self
	default:
		s.Epoch = max(c.seen[g], c.known[g])
	}
	if s.Role != Standby {
		s.Until = r.deadline
		s.Margin = max(0, r.deadline-now)
	} else if t := &c.grants[g]; t.held && c.self >= 0 {
		s.Holder = c.peers[t.holder].name
	}
	if !c.cfg.Candidate {
		s.Waiting = "no director"
		return s
	}
	if c.cfg.Mode == PriorityMode {
		t := &c.contests[g]
		if s.Role == Standby && t.heard >= 0 && now-t.heardAt < c.cfg.Lease {
			s.Holder = c.peers[t.heard].name
		}
		s.Waiting = c.waitsFor(r, s, 0)
		return s
	}
	frees := 0
	for v := range r.votes {
		w := &r.votes[v]
		out := Vote{Voter: c.voters[v], Heard: c.links[v].ever, Silent: now - c.links[v].heard}
		switch {
		case w.state == granted && w.until > now:
			out.Granted = w.until
		case w.state == free:
			out.Free = true
			frees++
		case w.state == refused:
			out.Refused = w.reason.String()
			if w.name != "" {
				out.Refused += " (" + w.name + ")"
			}
			if s.Holder == "" && s.Role == Standby && w.reason == HeldByOther && w.left > now {
				s.Holder = w.name
			}
		}
		s.Votes = append(s.Votes, out)
	}
	s.Waiting = c.waitsFor(r, s, frees)
	return s
}

// waitsFor says in words why a candidate is not active.
func (c *Core) waitsFor(r *candidacy, s Status, frees int) string {
	switch r.phase {
	case idle:
		return "not eligible: " + r.why
	case campaigning:
		return fmt.Sprintf("campaigning, attempt %d", r.attempts)
	case yielding:
		return "giving up: " + r.why
	case active:
		return ""
	}
	switch s.Holder {
	case "":
	case c.cfg.Self:
		return "the lease that it had before its start has not ended yet"
	default:
		return s.Holder + " is active"
	}
	if r.restAt > c.now {
		return "leaves it to others after a step-down"
	}
	if c.cfg.Mode == PriorityMode {
		return "listens whether another is active"
	}
	if frees >= c.quorum {
		return "about to campaign"
	}
	var reasons []string
	for _, v := range s.Votes {
		switch {
		case v.Free:
		case v.Refused != "":
			reasons = append(reasons, v.Voter+" "+v.Refused)
		default:
			reasons = append(reasons, v.Voter+" does not answer")
		}
	}
	return fmt.Sprintf("%d of the needed %d voters are free: %s", frees, c.quorum, strings.Join(reasons, ", "))
}
