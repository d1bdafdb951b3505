package cluster

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Refusal counts the packets and streams of others that this node refused for one reason.
type Refusal struct {
	Reason string // as in the metric drover_cluster_packets_refused_total
	Count  uint64
	Last   time.Time
	From   string // who sent the last one, if that is known: an address with port
}

// String says what it is and what may be the cause, without when.
func (r Refusal) String() string {
	from := ""
	if r.From != "" {
		from = ", the last from " + r.From
	}
	switch r.Reason {
	case refuseDecrypt:
		return fmt.Sprintf("%d packets could not be decrypted%s: a node there has another key (drover keys list), or it is none of this cluster", r.Count, from)
	case refusePlain:
		return fmt.Sprintf("%d streams were not encrypted%s: a node there has no key", r.Count, from)
	case refuseLabel:
		return fmt.Sprintf("%d packets have another label%s: a node there belongs to another cluster, or has another label in its file", r.Count, from)
	}
	return fmt.Sprintf("%d packets were refused (%s)%s", r.Count, r.Reason, from)
}

// refusals counts them by reason.
type refusals struct {
	mu sync.Mutex // guards by
	by map[string]*Refusal
}

func (r *refusals) add(reason, line string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = make(map[string]*Refusal)
	}
	x := r.by[reason]
	if x == nil {
		x = &Refusal{Reason: reason}
		r.by[reason] = x
	}
	x.Count++
	x.Last = now
	if _, from, ok := strings.Cut(line, "from="); ok {
		from, _, _ = strings.Cut(from, " ")
		x.From = from[:min(len(from), maxFrom)]
	}
}

// Alarming reports whether it means that somebody is, or takes this node for, a member of another cluster. Packets
// that are garbled are of no protocol that this node speaks, and come from any scan of ports.
func (r Refusal) Alarming() bool {
	return slices.Contains([]string{refuseDecrypt, refusePlain, refuseLabel}, r.Reason)
}

// maxFrom bounds what is kept of a sender's address, in bytes.
const maxFrom = 64

// Refused lists what was refused before it was understood, by reason.
func (n *Node) Refused() []Refusal {
	n.refusals.mu.Lock()
	defer n.refusals.mu.Unlock()
	out := make([]Refusal, 0, len(n.refusals.by))
	for _, x := range n.refusals.by {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b Refusal) int { return strings.Compare(a.Reason, b.Reason) })
	return out
}
