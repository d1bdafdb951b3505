package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/lease"
	"github.com/drover-lb/drover/cluster/replica"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/app"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/spec"
)

// maxWait bounds how long an asker for events may wait.
const maxWait = 20 * time.Second

// handler answers at the socket. m is nil for a director that is alone.
func handler(c *controller.Controller, m *member, reg *prometheus.Registry, d *desk) http.Handler {
	mux := http.NewServeMux()
	d.register(mux)
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
		defer cancel()
		st, err := c.Status(ctx)
		if err != nil {
			app.WriteJSON(w, http.StatusServiceUnavailable, map[string]string{"error": fmt.Sprintf("the reconcile loop does not answer: %v", err)})
			return
		}
		app.WriteJSON(w, http.StatusOK, st)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: statusTimeout}))
	if m == nil {
		mux.HandleFunc("/v1/", func(w http.ResponseWriter, _ *http.Request) {
			app.WriteJSON(w, http.StatusNotFound, api.Error{Text: "this director is not part of a cluster: its file has no cluster mapping"})
		})
		return mux
	}
	mux.HandleFunc("GET /v1/cluster", answer(func(ctx context.Context, _ *http.Request) (any, error) {
		out, err := m.cluster(ctx)
		if err != nil {
			return nil, err
		}
		if d.told != nil {
			out.Notify = d.told.sinks()
		}
		if st, err := c.Status(ctx); err == nil && len(st.Drains) > 0 { // it takes asking all directors
			if list, err := d.services(ctx); err == nil {
				out.Drains = drained(list.Services)
			}
		}
		return out, nil
	}))
	mux.HandleFunc("POST /v1/handover", answer(func(ctx context.Context, r *http.Request) (any, error) {
		var h api.Handover
		if err := body(r, &h); err != nil {
			return nil, err
		}
		if err := m.handover(ctx, h); err != nil {
			return nil, err
		}
		return m.cluster(ctx)
	}))
	mux.HandleFunc("POST /v1/maintenance", answer(func(_ context.Context, r *http.Request) (any, error) {
		var x api.Maintenance
		if err := body(r, &x); err != nil {
			return nil, err
		}
		m.setMaintenance(x.On)
		return x, nil
	}))
	mux.HandleFunc("PUT /v1/spec", answer(m.serveChange))
	mux.HandleFunc("GET /v1/history", answer(m.serveHistory))
	mux.HandleFunc("GET /v1/history/{version}", answer(m.serveEntry))
	mux.HandleFunc("POST /v1/history/{version}/rollback", answer(m.serveRollback))
	mux.HandleFunc("POST /v1/keys", answer(m.serveKeys))
	return mux
}

// serveEvents is GET /v1/events.
func serveEvents(ctx context.Context, r *http.Request, ev *events) (any, error) {
	after, err := strconv.ParseUint(r.FormValue("after"), 10, 64)
	if err != nil && r.FormValue("after") != "" {
		return nil, refuse(http.StatusBadRequest, "after: %v", err)
	}
	wait := time.Duration(0)
	if v := r.FormValue("wait"); v != "" {
		if wait, err = time.ParseDuration(v); err != nil || wait < 0 || wait > maxWait {
			return nil, refuse(http.StatusBadRequest, "wait (%q) must be between 0s and %s", v, maxWait)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return ev.after(ctx, after), nil
}

func refuse(status int, format string, args ...any) error {
	return &api.Error{Status: status, Text: fmt.Sprintf(format, args...)}
}

// answer writes what f returns as JSON. Requests are bounded in time.
func answer(f func(context.Context, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeoutCause(r.Context(), maxWait+statusTimeout, errors.New("the director took too long"))
		defer cancel()
		out, err := f(ctx, r)
		if err == nil {
			app.WriteJSON(w, http.StatusOK, out)
			return
		}
		status := http.StatusInternalServerError
		var refused *api.Error
		if errors.As(err, &refused) && refused.Status/100 >= 4 && refused.Status/100 <= 5 {
			status = refused.Status
		}
		app.WriteJSON(w, status, api.Error{Text: err.Error()})
	}
}

func body(r *http.Request, out any) error {
	b, err := io.ReadAll(io.LimitReader(r.Body, api.MaxBody+1))
	if err != nil {
		return err
	}
	if len(b) > api.MaxBody {
		return refuse(http.StatusRequestEntityTooLarge, "the request is longer than %d bytes", api.MaxBody)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return refuse(http.StatusBadRequest, "the request makes no sense: %v", err)
	}
	return nil
}

// refusedFor is for how long it is told that packets were refused.
const refusedFor = time.Hour

// cluster tells all that this director knows.
func (m *member) cluster(ctx context.Context) (*api.Cluster, error) {
	var lost error
	if m.rep != nil {
		lost = m.rep.Lost()
	}
	m.mu.Lock()
	out := &api.Cluster{
		Node: m.opts.Name, Label: m.opts.Label, Mode: string(m.opts.Mode), Lease: m.opts.Lease.Seconds(),
		Fingerprint: m.opts.Fingerprint(), Started: m.start, Maintenance: m.maintenance, Fence: m.words, Spec: m.source,
	}
	base := m.base
	if lost != nil {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s: %v; its IPVS table stays as it is", m.opts.Name, lost))
	}
	if m.unfit != "" {
		out.Warnings = append(out.Warnings, m.unfit)
	}
	if m.unstored != "" {
		out.Warnings = append(out.Warnings, cannotStore(m.opts.Name, m.unstored))
	}
	for peer, when := range m.strangers {
		out.Warnings = append(out.Warnings, fmt.Sprintf("the file of %s differs in voters, groups, mode or lease (noticed %s): its votes do not count here, nor ours there", peer, when.Format(time.DateTime)))
	}
	slices.Sort(out.Warnings)
	m.mu.Unlock()
	sync, conns, _ := m.kernelReport(ctx)
	out.Sync = *sync
	if st, err := m.controller.Status(ctx); err == nil {
		out.Checks = st.Checks
	}
	active := make(map[string]string) // group: as directors announce it
	for _, x := range m.node.Members() {
		_, votes := m.opts.Voter(x.Name)
		out.Members = append(out.Members, api.Member{Name: x.Name, Role: x.Role.String(), Address: x.Address.String(), State: x.State.String(),
			Since: x.Since, Version: x.Version, Voter: votes})
	}
	for _, v := range m.opts.Voters {
		if !slices.ContainsFunc(out.Members, func(x api.Member) bool { return x.Name == v.Name }) {
			role := cluster.Witness
			if v.Director {
				role = cluster.Director
			}
			out.Members = append(out.Members, api.Member{Name: v.Name, Role: role.String(), Address: v.Address.String(), State: "never seen", Since: m.start, Voter: true})
		}
	}
	for _, r := range m.node.Records() {
		i := slices.IndexFunc(out.Members, func(x api.Member) bool { return x.Name == r.Node })
		if i < 0 {
			continue
		}
		x := &out.Members[i]
		switch r.Key {
		case gossip.AgentRecord:
			x.Agent = new(api.Agent)
			if json.Unmarshal(r.Value, x.Agent) != nil {
				x.Agent = nil
			}
		case gossip.DirectorRecord:
			var d api.Director
			if json.Unmarshal(r.Value, &d) != nil {
				break
			}
			x.Spec, x.Sync, x.Conns = &d.Spec, d.Sync, d.Conns
			if r.Node == out.Node {
				x.Sync, x.Conns = sync, conns
			}
			if r.State == cluster.Alive {
				x.Active = d.Active
				for _, g := range d.Active {
					active[g] = r.Node
				}
				if d.StorageError != "" && r.Node != out.Node {
					out.Warnings = append(out.Warnings, cannotStore(r.Node, d.StorageError))
				}
				if d.Spec.Error != "" && r.Node != out.Node {
					out.Warnings = append(out.Warnings, fmt.Sprintf("%s: %s", r.Node, d.Spec.Error))
				} else if d.Spec.Hash == "" && r.Node != out.Node {
					out.Warnings = append(out.Warnings, fmt.Sprintf("%s knows no specification, and leaves its IPVS table as it is", r.Node))
				} else if d.Spec.Hash != out.Spec.Hash && out.Spec.Hash != "" && r.Node != out.Node {
					out.Warnings = append(out.Warnings, fmt.Sprintf("%s has another specification: %.12s (%s), here %.12s (%s)", r.Node, d.Spec.Hash, d.Spec.Source, out.Spec.Hash, out.Spec.Source))
				}
			}
		}
	}
	now := lease.Now()
	for _, name := range slices.Sorted(slices.Values(m.opts.Groups)) {
		st, err := m.keeper.Status(ctx, name)
		if err != nil {
			return nil, err
		}
		r, since, _ := m.seats[name].get()
		g := api.Group{Name: name, Role: st.Role.String(), Active: st.Holder, Since: since, Epoch: st.Epoch, Why: r.Why, Eligible: st.Eligible}
		if st.Role != election.Active {
			g.Why = st.Waiting
		}
		if !st.Eligible {
			g.Reason = strings.TrimPrefix(st.Waiting, "not eligible: ")
		}
		if g.Active == "" {
			g.Active = active[name]
		}
		if st.Until != election.Forever {
			g.Margin = st.Margin.Seconds()
		}
		for _, v := range base.Spec.VIPs {
			if v.Group == name {
				g.VIPs = append(g.VIPs, v.Prefix.Addr().String())
			}
		}
		for _, v := range st.Votes {
			x := api.Vote{Voter: v.Voter, Reason: v.Refused}
			switch {
			case v.Granted > now:
				x.For, x.Left = m.opts.Name, (v.Granted - now).Seconds()
			case v.Free:
				x.Reason = "would grant"
			case !v.Heard:
				x.Reason = "has never answered"
			case v.Refused == "":
				x.Reason = "does not answer, for " + v.Silent.Round(time.Millisecond).String()
			}
			g.Votes = append(g.Votes, x)
		}
		out.Groups = append(out.Groups, g)
	}
	for _, x := range m.node.Conflicts() {
		out.Warnings = append(out.Warnings, x.String())
	}
	for _, x := range m.node.Refused() {
		if ago := time.Since(x.Last); x.Alarming() && ago < refusedFor {
			out.Warnings = append(out.Warnings, fmt.Sprintf("%s; %s ago", x, ago.Round(time.Second)))
		}
	}
	for _, x := range m.watch.Conflicts() {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s claims %s on %s, which this director has leased: %d times, last %s ago",
			m.owner(x.MAC.String()), x.Addr, x.Interface, x.Count, time.Since(x.Last).Round(time.Second)))
	}
	if m.opts.Mode == "priority" {
		out.Warnings = append(out.Warnings, "mode priority: directors that do not hear each other are both active (split brain)")
	}
	return out, nil
}

// orderer finds out who orders changes; self if it is this director. During an election it waits for the outcome, if
// that is wanted: not on behalf of another director, who may know sooner.
func (m *member) orderer(ctx context.Context, wait bool) (name string, epoch uint64, err error) {
	end := time.Now().Add(settleTimeout)
	for {
		if name, epoch, err = m.orders(ctx); err == nil || !wait || time.Now().After(end) {
			return name, epoch, err
		}
		_, _, changed := m.seats[m.leading()].get()
		select {
		case <-changed:
		case <-time.After(m.opts.Lease / 4): // of who else is active there is no event
		case <-ctx.Done():
			return "", 0, context.Cause(ctx)
		}
	}
}

func (m *member) orders(ctx context.Context) (name string, epoch uint64, err error) {
	st, err := m.keeper.Status(ctx, m.leading())
	switch {
	case err != nil:
		return "", 0, err
	case st.Role == election.Active:
		return m.opts.Name, st.Epoch, nil
	case st.Holder == "" || st.Holder == m.opts.Name: // or this director had it before it was started again
		return "", 0, refuse(http.StatusServiceUnavailable, "no director is active (%s), and only an active one makes changes", st.Waiting)
	}
	return st.Holder, 0, nil
}

// forwarded is a request for a change that travels to the orderer.
type forwarded struct {
	Change   api.Change `json:"change"`
	Rollback string     `json:"rollback,omitempty"`
	From     string     `json:"from"`
}

// serveChange is PUT /v1/spec.
func (m *member) serveChange(ctx context.Context, r *http.Request) (any, error) {
	var ch api.Change
	if err := body(r, &ch); err != nil {
		return nil, err
	}
	return m.change(ctx, forwarded{Change: ch, From: m.opts.Name})
}

func (m *member) serveRollback(ctx context.Context, r *http.Request) (any, error) {
	var ch api.Change
	if err := body(r, &ch); err != nil {
		return nil, err
	}
	return m.change(ctx, forwarded{Change: ch, Rollback: r.PathValue("version"), From: m.opts.Name})
}

// change makes a change here, or has the active director make it.
func (m *member) change(ctx context.Context, f forwarded) (*api.Changed, error) {
	if m.rep == nil {
		return nil, inFile(m.path)
	}
	var unsure error // of a change that may have been made by a director that was started again
	for end := time.Now().Add(settleTimeout); ; {
		who, epoch, err := m.orderer(ctx, f.From == m.opts.Name)
		switch {
		case err != nil && f.From != m.opts.Name:
			return nil, errMoved
		case err != nil:
			return nil, err
		case who == m.opts.Name:
			out, err := m.order(ctx, epoch, f)
			return out, orUnsure(err, unsure)
		case f.From != m.opts.Name:
			return nil, errMoved
		}
		before := m.rep.Log().Version()
		out, err := m.forward(ctx, who, f)
		if errors.Is(err, cluster.ErrRestarted) && f.Change.IfVersion == "" && before != (replica.Version{}) {
			// It may have been made, and others after it: so it is made again only on top of what there was.
			f.Change.IfVersion, unsure, err = before.String(), err, errMoved
		}
		if !errors.Is(err, errMoved) || time.Now().After(end) {
			return out, orUnsure(err, unsure)
		}
		select { // nothing was done there, as far as is known; the next answer of the voters tells who is active now
		case <-time.After(m.opts.Lease / 4):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// orUnsure is err, or if that is because of what has been made since, that it is not known whether the change was made.
func orUnsure(err, unsure error) error {
	var refused *api.Error
	if unsure != nil && errors.As(err, &refused) && (refused.Conflict() || err == errMoved) {
		return &api.Error{Status: refused.Status, Text: fmt.Sprintf("it is not known whether the change was made (%v); drover history tells", unsure)}
	}
	return err
}

// errMoved is the answer to a forwarded change by a director that is not the active one, and has done nothing.
var errMoved = &api.Error{Status: http.StatusServiceUnavailable, Text: "the active director has changed just now; try again"}

// forward has another director make a change.
func (m *member) forward(ctx context.Context, to string, f forwarded) (*api.Changed, error) {
	b, err := json.Marshal(f)
	if err != nil {
		return nil, err
	}
	answer, err := m.node.Request(ctx, to, gossip.KindChange, b)
	if errors.Is(err, cluster.ErrRestarted) {
		return nil, fmt.Errorf("it is not known whether the active director has made the change (drover history tells): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("the active director did not make the change: %w", err)
	}
	var out struct {
		api.Changed
		Refused string `json:"refused"`
		Status  int    `json:"status"`
	}
	switch err := json.Unmarshal(answer, &out); {
	case err != nil:
		return nil, err
	case out.Refused == errMoved.Text:
		return nil, errMoved
	case out.Refused != "":
		return nil, &api.Error{Status: out.Status, Text: out.Refused}
	}
	return &out.Changed, nil
}

// serveForwarded answers a director that forwards a change. A refusal keeps its status.
func (m *member) serveForwarded(ctx context.Context, from string, request []byte) ([]byte, error) {
	if !slices.Contains(m.opts.Directors(), from) {
		return nil, fmt.Errorf("%s is not a director of this cluster", from)
	}
	var f forwarded
	if err := json.Unmarshal(request, &f); err != nil {
		return nil, err
	}
	f.From = from
	out, err := m.change(ctx, f)
	var refused *api.Error
	switch {
	case errors.As(err, &refused):
		return json.Marshal(map[string]any{"refused": refused.Text, "status": refused.Status})
	case err != nil:
		return nil, err
	}
	return json.Marshal(out)
}

// order makes a change as the active director.
func (m *member) order(ctx context.Context, epoch uint64, f forwarded) (*api.Changed, error) {
	var base, to replica.Version
	var err error
	if v := f.Change.IfVersion; v != "" {
		if base, err = replica.ParseVersion(v); err != nil {
			return nil, refuse(http.StatusBadRequest, "if-version: %v", err)
		}
	}
	content := []byte(f.Change.Content)
	if f.Rollback != "" {
		if to, err = replica.ParseVersion(f.Rollback); err != nil {
			return nil, refuse(http.StatusBadRequest, "%v", err)
		}
		old, err := m.rep.Log().Get(to)
		if err != nil {
			return nil, refuse(http.StatusNotFound, "%v", err)
		}
		content = old.Content
	}
	shared, err := spec.ParseSpec("the specification", content)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	m.mu.Lock()
	file, err := m.own.With(shared)
	m.mu.Unlock()
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	out := &api.Changed{}
	for _, w := range shared.Warnings {
		out.Warnings = append(out.Warnings, w.Error())
	}
	if f.Change.DryRun {
		m.mu.Lock()
		s := file.Spec.WithMembers(m.pooled)
		m.mu.Unlock()
		if out.Plan, err = m.plan(ctx, &s); err != nil {
			return nil, err
		}
		return out, nil
	}
	meta := replica.Meta{Who: clip(f.Change.Who, replica.MaxWho), What: clip(f.Change.What, replica.MaxWhat)}
	var res replica.Result
	if f.Rollback != "" {
		res, err = m.rep.Rollback(ctx, epoch, base, to, meta)
	} else {
		res, err = m.rep.Change(ctx, epoch, base, content, meta)
	}
	switch {
	case errors.Is(err, replica.ErrConflict):
		return nil, refuse(http.StatusConflict, "%v", err)
	case errors.Is(err, replica.ErrNotAcknowledged):
		if v, ok := m.settled(ctx, res.Version); ok {
			res.Version = v
			break
		}
		return nil, refuse(http.StatusServiceUnavailable, "%v (%v)", err, res)
	case errors.Is(err, replica.ErrStorage):
		return nil, refuse(http.StatusServiceUnavailable, "director %q: %v", m.opts.Name, err)
	case err != nil:
		return nil, err
	}
	m.events.add(slog.LevelInfo, "spec", "%v, by %s", res, cmp.Or(meta.Who, "somebody"))
	out.Version, out.Unchanged, out.Stored = res.Version.String(), res.Unchanged, res.Stored
	if len(res.Missing) > 0 {
		out.Missing = make(map[string]string)
		for node, why := range res.Missing {
			out.Missing[node] = why.Error()
		}
	}
	return out, nil
}

// clip cuts s to so many bytes, at the start of a character.
func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && s[most]&0xc0 == 0x80 {
		most--
	}
	return s[:most]
}

func (m *member) serveHistory(context.Context, *http.Request) (any, error) {
	if m.rep == nil {
		return nil, inFile(m.path)
	}
	l := m.rep.Log()
	out := []api.Entry{}
	for _, e := range l.List() {
		out = append(out, entryOf(e, l, false))
	}
	return out, nil
}

func (m *member) serveEntry(_ context.Context, r *http.Request) (any, error) {
	if m.rep == nil {
		return nil, inFile(m.path)
	}
	v, err := replica.ParseVersion(r.PathValue("version"))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	l := m.rep.Log()
	e, err := l.Get(v)
	if err != nil {
		return nil, refuse(http.StatusNotFound, "%v", err)
	}
	return entryOf(e, l, true), nil
}

func entryOf(e replica.Entry, l replica.Log, content bool) api.Entry {
	out := api.Entry{Version: e.Version.String(), When: e.Time(), Who: e.Who, What: e.What, Node: e.Node, Acked: !l.Acked().Less(e.Version)}
	if content {
		out.Content = string(e.Content)
	}
	return out
}

// serveKeys is POST /v1/keys.
func (m *member) serveKeys(ctx context.Context, r *http.Request) (any, error) {
	var k api.Key
	if err := body(r, &k); err != nil {
		return nil, err
	}
	var list []cluster.KeyState
	var err error
	switch k.Op {
	case "list":
		list, err = m.node.Keys(ctx)
	case "add":
		list, err = m.node.AddKey(ctx, k.Key)
	case "use":
		list, err = m.node.UseKey(ctx, k.Key)
	case "remove":
		list, err = m.node.RemoveKey(ctx, k.Key)
	default:
		return nil, refuse(http.StatusBadRequest, "%q is not one of: list, add, use, remove", k.Op)
	}
	if err != nil && len(list) == 0 {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	if k.Op != "list" {
		m.events.add(slog.LevelInfo, "keys", "%s of a key: on %d nodes, error: %v", k.Op, len(list), err)
	}
	out := []api.KeyAnswer{}
	for _, s := range list {
		a := api.KeyAnswer{Node: s.Node, Keys: s.Keys}
		if s.Err != nil {
			a.Error = s.Err.Error()
		}
		out = append(out, a)
	}
	return out, nil
}
