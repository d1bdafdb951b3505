package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// peerTimeout bounds the wait for what another director's kernel has.
const peerTimeout = 2 * time.Second

// kernelTable is what the desk needs of the kernel.
type kernelTable interface {
	table
	Apply(ctx context.Context, commands []ipvs.Command) []error
	Timeouts(ctx context.Context) (ipvs.Timeouts, error)
	SetTimeouts(ctx context.Context, t ipvs.Timeouts) error
}

// shown is a kernel's table without the services that this director has for its health checks.
type shown struct {
	kernelTable
	mark uint32 // the first of their marks
}

// Services lists what people are shown.
func (s shown) Services(ctx context.Context) ([]ipvs.ServiceEntry, error) {
	list, err := s.kernelTable.Services(ctx)
	return slices.DeleteFunc(list, func(e ipvs.ServiceEntry) bool { return plan.Private(e.Key, s.mark) }), err
}

// desk answers questions about the services, of a director that is alone too.
type desk struct {
	controller *controller.Controller
	member     *member // nil: alone
	kernel     kernelTable
	events     *events
	health     *health.Engine
	path       string                    // of this director's file
	alone      atomic.Pointer[spec.File] // in force, of a director that is alone
	told       *teller
}

func (d *desk) register(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/checks", answer(func(ctx context.Context, _ *http.Request) (any, error) {
		st, err := d.controller.Status(ctx)
		if err != nil {
			return nil, err
		}
		return st.Checks, nil
	}))
	mux.HandleFunc("GET /v1/events", answer(func(ctx context.Context, r *http.Request) (any, error) { return serveEvents(ctx, r, d.events) }))
	mux.HandleFunc("GET /v1/notify", answer(func(context.Context, *http.Request) (any, error) { return d.told.sinks(), nil }))
	mux.HandleFunc("POST /v1/notify/test", answer(func(ctx context.Context, r *http.Request) (any, error) {
		var x api.SinkTest
		if err := body(r, &x); err != nil {
			return nil, err
		}
		return d.told.test(ctx, x)
	}))
	mux.HandleFunc("GET /v1/spec", answer(func(context.Context, *http.Request) (any, error) { return d.document(), nil }))
	mux.HandleFunc("GET /v1/services", answer(func(ctx context.Context, _ *http.Request) (any, error) { return d.services(ctx) }))
	mux.HandleFunc("GET /v1/diff", answer(func(ctx context.Context, _ *http.Request) (any, error) { return d.diff(ctx) }))
	mux.HandleFunc("GET /v1/timeouts", answer(func(ctx context.Context, _ *http.Request) (any, error) { return d.timeouts(ctx, api.Timeouts{}) }))
	mux.HandleFunc("PUT /v1/timeouts", answer(func(ctx context.Context, r *http.Request) (any, error) {
		var t api.Timeouts
		if err := body(r, &t); err != nil {
			return nil, err
		}
		if t == (api.Timeouts{}) {
			return nil, refuse(http.StatusBadRequest, "no timeout is given")
		}
		return d.timeouts(ctx, t)
	}))
	mux.HandleFunc("POST /v1/zero", answer(func(ctx context.Context, r *http.Request) (any, error) {
		var z api.Zero
		if err := body(r, &z); err != nil {
			return nil, err
		}
		return d.zero(ctx, z)
	}))
	if d.member == nil {
		mux.HandleFunc("PUT /v1/spec", answer(func(context.Context, *http.Request) (any, error) { return nil, inFile(d.path) }))
	}
}

// inFile refuses a change of what stands in a file.
func inFile(path string) error {
	return refuse(http.StatusUnprocessableEntity, "VIPs and services stand in this director's own file: edit %s, which is read again when it changes (in a cluster, directors whose files have neither vips nor services replicate them)", path)
}

// document is the specification in force.
func (d *desk) document() *api.Document {
	m := d.member
	switch {
	case m == nil:
		return &api.Document{Content: string(d.alone.Load().Spec.Format()), Path: d.path}
	case m.rep == nil:
		m.mu.Lock()
		defer m.mu.Unlock()
		return &api.Document{Content: string(m.base.Spec.Format()), Path: d.path}
	}
	out := &api.Document{Replicated: true}
	if head, ok := m.rep.Log().Head(); ok {
		out.Content, out.Version = string(head.Content), head.Version.String()
	}
	return out
}

// services tells how the services are, with the counters of all directors.
func (d *desk) services(ctx context.Context) (*api.Services, error) {
	table, err := d.kernel.Services(ctx)
	if err != nil {
		return nil, err
	}
	st, err := d.controller.Status(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{now: time.Now(), errors: st.Errors, drains: drainsOf(st), health: d.health.View(), loads: d.health.Adapted()}
	out := &api.Services{When: v.now}
	m := d.member
	if m == nil {
		v.base = &d.alone.Load().Spec
		v.full = v.base
		v.tables = map[string]counted{"": countedOf(table, v.drains)}
		out.Services = v.services()
		return out, nil
	}
	v.node, out.Node = m.opts.Name, m.opts.Name
	v.tables, out.Missing = m.tables(ctx)
	v.tables[v.node] = countedOf(table, v.drains)
	for name := range v.tables {
		out.Counted = append(out.Counted, name)
	}
	slices.Sort(out.Counted)
	v.agents = m.agents()
	if v.active, err = m.actives(ctx); err != nil {
		return nil, err
	}
	m.mu.Lock()
	f := m.effective()
	v.base, v.full, v.since, out.Version = &m.base.Spec, &f.Spec, m.since, m.source.Version
	m.mu.Unlock()
	out.Services = v.services()
	return out, nil
}

// tables asks the other directors for the counters of their kernels.
func (m *member) tables(ctx context.Context) (tables map[string]counted, missing map[string]string) {
	ctx, cancel := context.WithTimeoutCause(ctx, peerTimeout, fmt.Errorf("no answer after %s", peerTimeout))
	defer cancel()
	tables = make(map[string]counted)
	var mu sync.Mutex // guards tables and missing
	var all sync.WaitGroup
	for _, peer := range (directors{m}).Live() {
		all.Go(func() {
			var t counted
			b, err := m.node.Request(ctx, peer, gossip.KindTable, []byte(`{"op":"list"}`))
			if err == nil {
				err = json.Unmarshal(b, &t)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				if missing == nil {
					missing = make(map[string]string)
				}
				missing[peer] = err.Error()
				return
			}
			tables[peer] = t
		})
	}
	all.Wait()
	return tables, missing
}

// agents lists the nodes that have announced themselves as real servers.
func (m *member) agents() []agentView {
	var out []agentView
	for _, r := range m.node.Records() {
		if r.Key != gossip.AgentRecord {
			continue
		}
		a := agentView{name: r.Node, state: r.State.String(), agent: new(api.Agent)}
		if json.Unmarshal(r.Value, a.agent) != nil {
			a.agent = nil
		}
		if x, ok := m.node.Member(r.Node); ok {
			a.state, a.since = x.State.String(), x.Since
		}
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b agentView) int { return strings.Compare(a.name, b.name) })
	return out
}

// actives says who is active for each group, as far as known.
func (m *member) actives(ctx context.Context) (map[string]string, error) {
	out := make(map[string]string)
	for _, g := range m.opts.Groups {
		st, err := m.keeper.Status(ctx, g)
		switch {
		case err != nil:
			return nil, err
		case st.Role == election.Active:
			out[g] = m.opts.Name
		default:
			out[g] = st.Holder
		}
	}
	return out, nil
}

// tableRequest is what directors ask each other about their kernels.
type tableRequest struct {
	Op       string       `json:"op"` // list, zero or timeouts
	Service  string       `json:"service,omitempty"`
	Timeouts api.Timeouts `json:"timeouts,omitzero"` // to set
}

// diff says in what this director's kernel differs from what is wanted.
func (d *desk) diff(ctx context.Context) (*api.Diff, error) {
	var f *spec.File
	if m := d.member; m != nil {
		m.mu.Lock()
		f = m.effective()
		f.Director = m.own.Director
		m.mu.Unlock()
	} else {
		f = d.alone.Load()
	}
	p, err := planOf(ctx, d.kernel, d.health.View(), &f.Spec, &f.Spec, f.Director.Ownership)
	if err != nil {
		return nil, err
	}
	out := &api.Diff{Plan: p.String(), Summary: p.Summary(), Equal: len(p.Ops) == 0}
	for _, k := range p.Strangers {
		out.Strangers = append(out.Strangers, k.String())
	}
	return out, nil
}

// timeoutsHere sets the timeouts that are not 0 in this director's kernel, and returns what is set then.
func (d *desk) timeoutsHere(ctx context.Context, t api.Timeouts) (*api.Timeouts, error) {
	const second = time.Second
	if t != (api.Timeouts{}) {
		if err := d.kernel.SetTimeouts(ctx, ipvs.Timeouts{TCP: time.Duration(t.TCP) * second, TCPFin: time.Duration(t.TCPFin) * second, UDP: time.Duration(t.UDP) * second}); err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
	}
	got, err := d.kernel.Timeouts(ctx)
	if err != nil {
		return nil, err
	}
	return &api.Timeouts{TCP: uint32(got.TCP / second), TCPFin: uint32(got.TCPFin / second), UDP: uint32(got.UDP / second)}, nil
}

// timeouts does so on all directors that can be reached.
func (d *desk) timeouts(ctx context.Context, t api.Timeouts) ([]api.NodeTimeouts, error) {
	here, err := d.timeoutsHere(ctx, t)
	if err != nil {
		return nil, err
	}
	m := d.member
	if m == nil {
		return []api.NodeTimeouts{{Timeouts: *here}}, nil
	}
	out := []api.NodeTimeouts{{Node: m.opts.Name, Timeouts: *here}}
	ctx, cancel := context.WithTimeoutCause(ctx, peerTimeout, fmt.Errorf("no answer after %s", peerTimeout))
	defer cancel()
	request, err := json.Marshal(tableRequest{Op: "timeouts", Timeouts: t})
	if err != nil {
		return nil, err
	}
	for _, peer := range (directors{m}).Live() {
		x := api.NodeTimeouts{Node: peer}
		b, err := m.node.Request(ctx, peer, gossip.KindTable, request)
		if err == nil {
			err = json.Unmarshal(b, &x.Timeouts)
		}
		if err != nil {
			x.Error = err.Error()
		}
		out = append(out, x)
	}
	if t != (api.Timeouts{}) {
		m.events.add(slog.LevelInfo, "timeouts", "timeouts of connections set: tcp %d, tcpfin %d, udp %d seconds (0: left alone)", t.TCP, t.TCPFin, t.UDP)
	}
	return out, nil
}

// serveTable answers another director.
func (d *desk) serveTable(ctx context.Context, from string, request []byte) ([]byte, error) {
	if !slices.Contains(d.member.opts.Directors(), from) {
		return nil, fmt.Errorf("%s is not a director of this cluster", from)
	}
	var r tableRequest
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, err
	}
	switch r.Op {
	case "list":
		table, err := d.kernel.Services(ctx)
		if err != nil {
			return nil, err
		}
		st, err := d.controller.Status(ctx)
		if err != nil { // it is in the middle of something: the counters all the same
			st = &controller.Status{}
		}
		return json.Marshal(countedOf(table, drainsOf(st)))
	case "zero":
		return []byte("{}"), d.zeroHere(ctx, r.Service)
	case "timeouts":
		t, err := d.timeoutsHere(ctx, r.Timeouts)
		if err != nil {
			return nil, err
		}
		return json.Marshal(t)
	}
	return nil, fmt.Errorf("%q is not one of: list, zero, timeouts", r.Op)
}

// zero sets counters back on all directors that can be reached.
func (d *desk) zero(ctx context.Context, z api.Zero) (*api.Zeroed, error) {
	key := z.Service
	if key != "" {
		s := d.spec()
		i := slices.IndexFunc(s.Services, func(x spec.Service) bool { return x.Name == key || x.Key.String() == key })
		if i < 0 {
			return nil, refuse(http.StatusNotFound, "there is no service %q", key)
		}
		key = s.Services[i].Key.String()
	}
	if err := d.zeroHere(ctx, key); err != nil {
		return nil, err
	}
	out := &api.Zeroed{Done: []string{}}
	m := d.member
	if m == nil {
		return out, nil
	}
	out.Done = append(out.Done, m.opts.Name)
	ctx, cancel := context.WithTimeoutCause(ctx, peerTimeout, fmt.Errorf("no answer after %s", peerTimeout))
	defer cancel()
	b, err := json.Marshal(tableRequest{Op: "zero", Service: key})
	if err != nil {
		return nil, err
	}
	for _, peer := range (directors{m}).Live() {
		if _, err := m.node.Request(ctx, peer, gossip.KindTable, b); err != nil {
			if out.Failed == nil {
				out.Failed = make(map[string]string)
			}
			out.Failed[peer] = err.Error()
			continue
		}
		out.Done = append(out.Done, peer)
	}
	m.events.add(slog.LevelInfo, "zero", "counters set back: %s", ifEmpty(key, "all"))
	return out, nil
}

// spec is the specification in force, as written.
func (d *desk) spec() *spec.Spec {
	if d.member == nil {
		return &d.alone.Load().Spec
	}
	d.member.mu.Lock()
	defer d.member.mu.Unlock()
	return &d.member.base.Spec
}

// zeroHere sets the counters of one service, or of all, back in this director's kernel.
func (d *desk) zeroHere(ctx context.Context, key string) error {
	if key == "" {
		return errors.Join(d.kernel.Apply(ctx, []ipvs.Command{ipvs.ZeroAll()})...)
	}
	table, err := d.kernel.Services(ctx)
	if err != nil {
		return err
	}
	for i := range table {
		if table[i].Key.String() == key {
			return errors.Join(d.kernel.Apply(ctx, []ipvs.Command{ipvs.Zero(table[i].Key)})...)
		}
	}
	return fmt.Errorf("the kernel has no service %s", key)
}
