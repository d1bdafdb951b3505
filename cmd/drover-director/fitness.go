package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
)

const (
	// stuckAfter is how long a director may have a lease and not what belongs to it in the kernel.
	stuckAfter = 2 * time.Second
	// barredFor is how long it then leaves the group to others, if there are any.
	barredFor = 30 * time.Second
	// syncPatience is how long a director of higher priority waits to hear of the active one's connections, at the
	// most: the kernel tells of a connection when it has packets, and of an idle one never.
	syncPatience = 2 * time.Minute
)

// bar says why a director does not take a group for a while.
type bar struct {
	why   string
	until time.Time
}

// hinder says what keeps this director from being active for any group; an empty why says that key does not.
func (m *member) hinder(key, why string) {
	m.mu.Lock()
	old := m.hindrances[key]
	if why == "" {
		delete(m.hindrances, key)
	} else {
		m.hindrances[key] = why
	}
	m.mu.Unlock()
	switch {
	case old == why:
		return
	case why != "":
		m.events.add(slog.LevelWarn, "tracker", "%s", why)
	default:
		m.events.add(slog.LevelInfo, "tracker", "no more: %s", old)
	}
	m.qualify()
}

// hindranceLocked is why this director cannot be active for a group; "" if nothing is known. mu is held.
func (m *member) hindranceLocked(group string) string {
	if b, ok := m.barred[group]; ok {
		if time.Now().Before(b.until) {
			return b.why
		}
		delete(m.barred, group)
	}
	first := ""
	for key := range m.hindrances {
		if first == "" || key < first {
			first = key
		}
	}
	return m.hindrances[first]
}

// stuck gives a group away that this director has leased and cannot bring into its kernel, if there is one who may
// have better luck. It reports whether it did.
func (m *member) stuck(ctx context.Context, group string, why error) bool {
	other := m.substitute(group)
	if other == "" {
		return false
	}
	m.mu.Lock()
	m.barred[group] = bar{fmt.Sprintf("it had the lease and not the VIPs: %v", why), time.Now().Add(barredFor)}
	m.mu.Unlock()
	m.events.add(slog.LevelError, "role", "group %s is given away, as %s may be able to serve it: %v", group, other, why)
	m.qualify()
	time.AfterFunc(barredFor+time.Millisecond, func() {
		if ctx.Err() == nil {
			m.qualify()
		}
	})
	return true
}

// judgeTable keeps this director from being active if its IPVS table cannot be read or changed and that of another one
// can.
func (m *member) judgeTable(tableError string) {
	why := ""
	if tableError != "" {
		for _, d := range m.others() {
			if d.TableError == "" {
				why = "the IPVS table cannot be read or changed: " + tableError
			}
		}
	}
	m.hinder("ipvs", why)
}

// announcements yields what each director has announced last, this one and those that are gone included.
func (m *member) announcements(yield func(*cluster.Record, *api.Director) bool) {
	for _, r := range m.node.Records() {
		var d api.Director
		if r.Key == gossip.DirectorRecord && slices.Contains(m.opts.Directors(), r.Node) && json.Unmarshal(r.Value, &d) == nil && !yield(&r, &d) {
			return
		}
	}
}

// others lists what the other directors that are alive announce.
func (m *member) others() map[string]api.Director {
	out := make(map[string]api.Director)
	for r, d := range m.announcements {
		if r.Node != m.opts.Name && r.State == cluster.Alive {
			out[r.Node] = *d
		}
	}
	return out
}

// substitute names another director that says it could have a group; "" if there is none.
func (m *member) substitute(group string) string {
	best := ""
	for name, d := range m.others() {
		if _, unfit := d.Unfit[group]; !unfit && (best == "" || name < best) {
			best = name
		}
	}
	return best
}

// caughtUp reports whether this director has heard of nearly all connections of those that are active.
func caughtUp(own *api.Conns, others map[string]api.Director) bool {
	for _, d := range others {
		if len(d.Active) == 0 || d.Conns == nil {
			continue
		}
		if own == nil || own.Active < d.Conns.Active-d.Conns.Active/10 {
			return false
		}
	}
	return true
}

// patience holds preemption back until this director has caught up with the connections of the active one.
func (m *member) patience(ctx context.Context, own *api.Conns) {
	if m.opts.PreemptDelay < 0 || !m.opts.Sync.Enabled {
		return
	}
	hold := time.Since(m.start) < syncPatience && !caughtUp(own, m.others())
	if err := m.keeper.HoldPreempt(ctx, hold); err != nil && ctx.Err() == nil {
		m.log.Error("failed to tell the election whether to preempt", "error", err)
	}
	m.mu.Lock()
	news := hold != m.held
	m.held = hold
	m.mu.Unlock()
	if news && hold {
		m.events.add(slog.LevelInfo, "sync", "this director does not ask for the VIPs before it has heard of the active one's connections")
	}
}

// unfitFor lists the groups that this director cannot have, with why.
func (m *member) unfitFor(ctx context.Context) map[string]string {
	out := make(map[string]string)
	for g := range m.seats {
		if st, err := m.keeper.Status(ctx, g); err == nil && !st.Eligible && st.Role != election.Active {
			out[g] = st.Waiting
		}
	}
	return out
}
