package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/replica"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/notify"
	"github.com/drover-lb/drover/notify/sink"
)

// minSettle is for how long at least a director that is not the active one waits for whether the active one is still there.
const minSettle = time.Second

// teller has the sinks of this director told of events. What services and real servers do every director sees: of that the one
// tells that is active for the group of the VIP, so that nobody hears of it twice.
type teller struct {
	notifier *notify.Notifier
	name     string // of this director
	label    string // of the cluster, "" if it is alone
	start    int64  // milliseconds since 1970, which makes ids those of this run
	cluster  atomic.Pointer[member]
}

// newTeller is the teller of the director with that file.
func newTeller(f *spec.File) *teller {
	t := &teller{start: time.Now().UnixMilli()}
	if f.Cluster != nil {
		t.name, t.label = f.Cluster.Name, f.Cluster.Label
		return t
	}
	host, _ := os.Hostname()
	t.name, _, _ = strings.Cut(host, ".")
	return t
}

// event is how an event of `drover events` is told.
func (t *teller) event(level slog.Level, x *api.Event) {
	e := notify.Event{
		ID: fmt.Sprintf("%s-%d-%d", t.name, t.start, x.Seq), Time: x.When, Director: t.name, Cluster: t.label,
		Kind: x.Kind, Level: level, Text: x.Text, Group: x.Group, Service: x.Service, Server: x.Server, State: x.State, Sink: x.Sink,
	}
	if m := t.cluster.Load(); m != nil {
		e.Mark = m.activeFor()
	}
	t.notifier.Add(e)
}

// activeFor lists the groups for which this director is active. It does not block.
func (m *member) activeFor() []string {
	var out []string
	for _, g := range m.opts.Groups {
		if r, _, _ := m.seats[g].get(); r.Role == election.Active {
			out = append(out, g)
		}
	}
	return out
}

// tell is Tell of [notify.Options].
func (t *teller) tell(ctx context.Context, e *notify.Event) bool {
	m := t.cluster.Load()
	if m == nil || !common(e) {
		return true
	}
	group := m.leading()
	if e.Service != "" {
		group = m.groupOf(e.Service)
	}
	if active, _ := e.Mark.([]string); slices.Contains(active, group) {
		return true
	}
	// It is another one's to tell, unless that one has died before it could: then its lease ends soon.
	before := m.view(ctx, group)
	if _, since, _ := m.seats[group].get(); before.active == m.opts.Name && since.After(e.Time) {
		// It has waited behind others, and was for the one who was active then: who has told it, unless it died as such.
		return len(before.claims) > 0 || len(before.live) == 1
	}
	wait := time.NewTimer(time.Until(e.Time.Add(max(minSettle, 2*m.opts.Lease))))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
	return tells(m.opts.Name, before.active, m.view(ctx, group))
}

// common reports whether all directors see what happened, and not this one alone.
func common(e *notify.Event) bool { return e.Service != "" || e.Server != "" || e.Kind == sink.Gossip }

// groupOf is the group of the VIP of a service. One that has none, such as one by mark, is with the first group.
func (m *member) groupOf(service string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.base.Spec
	var addr netip.Addr
	for i := range s.Services {
		if s.Services[i].Name == service {
			addr = s.Services[i].Addr
		}
	}
	for i := range s.VIPs {
		if s.VIPs[i].Prefix.Addr() == addr {
			return s.VIPs[i].Group
		}
	}
	return m.leading()
}

// groupView is who has a group, as this director knows it.
type groupView struct {
	active string   // "": nobody that is known
	claims []string // directors that have said so last and have not taken it back: the active one, and those that died as such
	live   []string // directors, this one too
}

func (m *member) view(ctx context.Context, group string) groupView {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), roleTimeout)
	defer cancel()
	v := groupView{live: append((directors{m}).Live(), m.opts.Name)}
	if st, err := m.keeper.Status(ctx, group); err == nil {
		v.active = st.Holder
		if st.Role == election.Active {
			v.active = m.opts.Name
		}
	}
	for r, d := range m.announcements {
		if r.Node == m.opts.Name || r.State == cluster.Left || !slices.Contains(d.Active, group) {
			continue
		}
		v.claims = append(v.claims, r.Node)
		if r.State == cluster.Alive {
			v.active = cmp.Or(v.active, r.Node)
		}
	}
	return v
}

// tells reports whether it is self's to tell what happened when before was active, and self was not. now is a while later.
func tells(self, before string, now groupView) bool {
	switch {
	case before == self: // it became active at that moment
		return true
	case before != "" && (now.active == before || !slices.Contains(now.claims, before)): // it is there, or has given up in good order
		return false
	case now.active != "" && now.active != before:
		return now.active == self
	}
	first := "" // nobody is active
	for _, name := range now.live {
		if name != before && (first == "" || name < first) {
			first = name
		}
	}
	return first == self
}

// sinks lists how the sinks are.
func (t *teller) sinks() []api.Sink {
	out := []api.Sink{}
	for _, s := range t.notifier.Status() {
		out = append(out, api.Sink{Name: s.Name, Kind: s.Kind, Queued: s.Queued, Sent: s.Sent, Dropped: s.Dropped, Failed: s.Failed,
			Last: s.Last, Failing: s.Failing, Error: s.Error, ErrorAt: s.ErrorAt})
	}
	return out
}

// test sends a test event, and tells what was answered.
func (t *teller) test(ctx context.Context, x api.SinkTest) ([]api.SinkTested, error) {
	now := time.Now()
	list, err := t.notifier.Test(ctx, x.Sink, notify.Event{
		ID: fmt.Sprintf("%s-%d-test-%d", t.name, t.start, now.UnixNano()), Time: now, Director: t.name, Cluster: t.label, Kind: sink.Test,
		Text: "a test, asked for by " + cmp.Or(clip(x.Who, replica.MaxWho), "somebody"),
	})
	if err != nil {
		return nil, refuse(http.StatusNotFound, "%v", err)
	}
	out := []api.SinkTested{}
	for _, a := range list {
		r := api.SinkTested{Name: a.Name, Kind: a.Kind, Took: a.Took.Seconds(), Said: a.Said}
		if a.Err != nil {
			r.Error = a.Err.Error()
		}
		out = append(out, r)
	}
	return out, nil
}
