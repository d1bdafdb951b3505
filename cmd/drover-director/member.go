package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/drover-lb/drover/arp"
	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/lease"
	"github.com/drover-lb/drover/cluster/replica"
	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/fence"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/notify/sink"
)

const (
	// handoverTimeout bounds an orderly change of the active director.
	handoverTimeout = 5 * time.Second
	// roleTimeout bounds one change of role in the kernel; what failed is tried again.
	roleTimeout = 2 * time.Second
	// retryRole is how soon a role is tried again that the kernel did not take.
	retryRole = 250 * time.Millisecond
	// catchUpEvery is how soon a director that was not to be compared with is tried again.
	catchUpEvery = 2 * time.Second
	// settleTimeout bounds the wait for an election to settle.
	settleTimeout = 5 * time.Second
	// publishEvery is how often this node looks whether there is something new to tell the others beside what
	// it is told of at once.
	publishEvery = 2 * time.Second
	// followQuiet is how long announcements of real servers are collected before they are taken in.
	followQuiet = 10 * time.Millisecond
	// defendEvery bounds how often this node answers somebody else's claim to its VIPs (RFC 5227, section 2.4,
	// DEFEND_INTERVAL is 10 s, for addresses that nobody has leased).
	defendEvery = time.Second
)

// guard is what a member needs of the kernel's guard; package fence has it.
type guard interface {
	controller.Fence
	// Extend lets a group through until a time of CLOCK_BOOTTIME.
	Extend(group string, until time.Duration) error
}

// table lists the kernel's IPVS table.
type table interface {
	Services(ctx context.Context) ([]ipvs.ServiceEntry, error)
}

// member is a director as a part of its cluster: it joins gossip, election, replicated specification and
// controller.
type member struct {
	log    *slog.Logger
	opts   *settings.Options
	node   *cluster.Node
	keeper *lease.Keeper
	rep    *replica.Replicator // nil: the file has VIPs and services
	fence  guard               // nil: the kernel cannot
	words  string              // how the lease is enforced, in words
	ann    *arp.Announcer
	watch  *arp.Watcher
	events *events
	health *health.Engine
	beats  *beats
	start  time.Time
	seats  map[string]*seat
	// retrack asks for the interfaces to be looked at again, retell for this director to be announced, reshare for what
	// the checks find to be told; capacity 1.
	retrack, retell, reshare chan struct{}

	ready      chan struct{}          // closed when the controller is ready and the gossip listens
	controller *controller.Controller // set before run
	kernel     table                  // likewise
	decoded    gossip.Decoded[api.Agent]
	repaired   repairs // of the goroutine of follow
	path       string

	qualifying sync.Mutex // held while qualify runs; taken before mu
	leaving    bool       // qualifying guards it: the director is being stopped
	giving     sync.Mutex // held from the making of the effective file until the controller has it

	mu                sync.Mutex    // guards what follows
	stored            chan struct{} // closed when the replicated specification changes
	own               *spec.File    // own settings
	base              *spec.File    // with VIPs and services, members of pools left out
	source            api.Spec      // of base
	draining, drained []string      // members of pools that ask for it; those for which that is in the kernel
	pooled            []spec.Member
	since             map[serverState]time.Time // of what is given to the controller
	trouble           map[string]string         // of interfaces
	hindrances        map[string]string         // what keeps this director from being active, by tracker
	barred            map[string]bar            // groups that it leaves to others for a while
	reached           api.Reach                 // when real servers were last tried
	held              bool                      // it does not preempt yet
	maintenance       bool
	unfit             string               // why the replicated specification is not in force here
	unstored          string               // why the disk does not take changes of it
	strangers         map[string]time.Time // nodes whose files differ in what has to be the same
	lateTold          time.Time
	defended          time.Time
}

// seat brings one group's role into the kernel, one change after the other.
type seat struct {
	group string
	wake  chan struct{} // capacity 1

	mu      sync.Mutex // guards what follows
	want    election.RoleChange
	since   time.Time
	changed chan struct{} // closed at the next change
}

func (s *seat) set(r election.RoleChange) {
	s.mu.Lock()
	if s.want.Role != r.Role || s.since.IsZero() {
		s.since = time.Now()
	}
	s.want = r
	close(s.changed)
	s.changed = make(chan struct{})
	s.mu.Unlock()
	nudge(s.wake)
}

func (s *seat) get() (r election.RoleChange, since time.Time, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.want, s.since, s.changed
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// memberOptions is what a member is made of.
type memberOptions struct {
	events  *events
	health  *health.Engine
	file    *spec.File
	path    string
	dataDir string
	log     *slog.Logger
	reg     prometheus.Registerer
	fence   guard
	words   string // how the lease is enforced
	ann     *arp.Announcer
}

// openFence opens the kernel's guard of leases. Without one the lifetime of the addresses guards alone.
func openFence(f *spec.File, log *slog.Logger) (*fence.Fence, string) {
	g, err := fence.Open(fence.Options{Hold: f.Director.VIPLifetime + time.Second, Log: log.With("component", "fence")})
	if err != nil {
		log.Warn("the kernel cannot enforce leases; a director that is stopped or killed keeps its VIPs until their lifetime ends", "lifetime", f.Director.VIPLifetime, "error", err)
		return nil, fmt.Sprintf("the VIPs' lifetime of %s only: %v", f.Director.VIPLifetime, err)
	}
	return g, "the kernel (BPF at the VIPs' interfaces)"
}

func newMember(o memberOptions) (*member, error) {
	c := o.file.Cluster
	m := &member{
		log: o.log, opts: c, fence: o.fence, words: o.words, ann: o.ann, events: o.events, health: o.health, start: time.Now(),
		seats: make(map[string]*seat), retrack: make(chan struct{}, 1), retell: make(chan struct{}, 1), reshare: make(chan struct{}, 1),
		ready: make(chan struct{}), path: o.path, own: o.file, trouble: make(map[string]string), hindrances: make(map[string]string), barred: make(map[string]bar), stored: make(chan struct{}), strangers: make(map[string]time.Time),
	}
	for _, g := range c.Groups {
		m.seats[g] = &seat{group: g, wake: make(chan struct{}, 1), since: m.start, changed: make(chan struct{}),
			want: election.RoleChange{Group: g, Role: election.Standby, Why: "just started"}}
	}
	var err error
	if m.node, err = gossip.NewNode(c, cluster.Director, o.log, o.reg); err != nil {
		return nil, err
	}
	var epoch uint64
	m.base, m.source = o.file, api.Spec{Source: o.path, Hash: o.file.Spec.Hash()}
	if o.file.Replicated {
		m.source = api.Spec{Source: "replicated"} // without a hash nobody takes it for one without VIPs
		store, err := replica.Open(filepath.Join(o.dataDir, "spec"))
		if err != nil {
			return nil, fmt.Errorf("failed to read the replicated specification: %w", err)
		}
		for _, damage := range store.Damaged() {
			m.events.add(slog.LevelError, "spec", "a stored specification is damaged and was set aside: %v", damage)
		}
		if m.rep, err = replica.New(replica.Options{Node: c.Name, Store: store, Peers: directors{m}, Confirm: m.confirm, Logger: o.log.With("component", "replica")}); err != nil {
			return nil, err
		}
		epoch = m.rep.Log().Epoch()
		m.node.HandleRequest(gossip.KindReplica, func(_ context.Context, from string, request []byte) ([]byte, error) {
			if !slices.Contains(m.opts.Directors(), from) {
				return nil, fmt.Errorf("%s is not a director of this cluster", from)
			}
			return m.rep.Serve(request), nil
		})
		m.node.HandleRequest(gossip.KindChange, m.serveForwarded)
		if err := m.adopt(); err != nil {
			m.events.add(slog.LevelError, "spec", "the stored specification is not in force here: %v", err)
		}
	}
	if m.keeper, err = gossip.NewKeeper(c, m.node, true, epoch, o.log, lease.Options{
		Role:     func(r election.RoleChange) { m.seats[r.Group].set(r) },
		Extended: m.extended,
		Late:     func(by time.Duration) { go m.late(by) },
		Event:    func(e election.Event) { go m.electionEvent(e) }, // the log may block
	}); err != nil {
		return nil, err
	}
	m.watch = arp.NewWatcher(o.log.With("component", "watch"), m.conflict)
	m.node.HandleRequest(gossip.KindHandover, m.serveHandover)
	m.beats = newBeats(m.health)
	m.node.Handle(gossip.KindBeat, m.beats.hear)
	return m, nil
}

// file is what the controller is to begin with.
func (m *member) file() *spec.File {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.effective()
}

// effective is base with the members of the pools; mu is held.
func (m *member) effective() *spec.File {
	f := *m.base
	f.Spec = m.base.Spec.WithMembers(m.pooled)
	return &f
}

// roles are those with which the controller begins.
func (m *member) roles() map[string]controller.Role {
	roles := make(map[string]controller.Role)
	for g := range m.seats {
		roles[g] = controller.Role{Why: "just started"}
	}
	return roles
}

func (m *member) extended(group string, until time.Duration) {
	if m.fence != nil {
		if err := m.fence.Extend(group, until); err != nil {
			m.log.Error("failed to extend the kernel's guard of a lease", "group", group, "error", err)
		}
	}
}

// late tells that this process did not get to run in time, at most once a second.
func (m *member) late(by time.Duration) {
	m.mu.Lock()
	due := time.Since(m.lateTold) >= time.Second
	if due {
		m.lateTold = time.Now()
	}
	m.mu.Unlock()
	if due {
		m.events.add(slog.LevelWarn, "late", "this process was kept from running for %s, and a lease is %s: it was stopped, or the processor has too much to do", by.Round(time.Millisecond), m.opts.Lease)
	}
}

func (m *member) electionEvent(e election.Event) {
	switch e.Kind {
	case election.ConfigMismatch:
		m.mu.Lock()
		m.strangers[e.Peer] = time.Now()
		m.mu.Unlock()
		m.events.add(slog.LevelError, "election", "%s has other voters, groups, mode or lease in its file: its votes do not count here, nor ours there", e.Peer)
	case election.TooManyPeers:
		m.events.add(slog.LevelError, "election", "%s is one candidate too many and is refused", e.Peer)
	case election.VersionRefused:
		m.events.add(slog.LevelWarn, "election", "%s refuses this director: its specification is older than %v, which is acknowledged", e.Peer, e.Version)
		nudge(m.retell)
	case election.HandOverAsked:
		m.events.add(slog.LevelInfo, "election", "%s asks for group %s", e.Peer, e.Group)
	}
}

// run keeps the member going until ctx ends; then it gives up what it has, calls left, and says goodbye to the
// others when after is closed.
func (m *member) run(ctx context.Context, after <-chan struct{}, left func()) error {
	defer left()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rest, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	deep, deepCtx := errgroup.WithContext(rest) // what giving up needs
	deep.Go(func() error { return m.node.Run(rest) })
	deep.Go(func() error { return m.keeper.Run(rest) })
	deep.Go(func() error { return m.watch.Run(rest) })
	for _, s := range m.seats {
		deep.Go(func() error { m.sit(rest, s); return nil })
	}
	var group sync.WaitGroup
	group.Go(func() {
		select {
		case <-m.node.Ready():
			close(m.ready)
		case <-ctx.Done():
		}
	})
	group.Go(func() {
		m.qualify() // without VIPs there is no interface to wait for
		track(ctx, m.log, m.interfaces, m.retrack, m.judge)
	})
	for i := range m.opts.Trackers {
		group.Go(func() { m.script(ctx, &m.opts.Trackers[i]) })
	}
	group.Go(func() { m.reach(ctx) })
	group.Go(func() { m.follow(ctx) })
	group.Go(func() { m.beats.run(ctx) })
	group.Go(func() { m.share(ctx) })
	group.Go(func() { m.tell(ctx) })
	if m.rep != nil {
		group.Go(func() { m.replicate(ctx) })
	}
	select {
	case <-ctx.Done():
	case <-deepCtx.Done(): // one of them failed, such as to listen: the daemon ends, and says why
		cancel()
	}
	group.Wait()
	m.leave()
	m.announce(rest) // what was given up in good order is nobody's to tell but this director's
	left()
	<-after
	stop()
	return deep.Wait()
}

// leave hands over everything.
func (m *member) leave() {
	m.qualifying.Lock()
	m.leaving = true
	m.qualifying.Unlock()
	ctx, cancel := context.WithTimeoutCause(context.Background(), handoverTimeout, errors.New("giving up the VIPs took too long"))
	defer cancel()
	for _, s := range m.seats {
		if err := m.keeper.SetEligible(ctx, s.group, false, "the director is being stopped"); err != nil {
			m.log.Error("failed to leave the election", "group", s.group, "error", err)
		}
	}
	for _, s := range m.seats {
		for {
			r, _, changed := s.get()
			if r.Role == election.Standby {
				break
			}
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				m.log.Error("the group is not given up in time; its lease ends by itself", "group", s.group)
			}
			break
		}
	}
}

// sit carries out the roles of one group.
func (m *member) sit(ctx context.Context, s *seat) {
	var retry <-chan time.Time
	var last election.RoleChange
	off := false // the addresses are off since the last yielding
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-retry:
		}
		retry = nil
		r, _, _ := s.get()
		news := r != last
		last = r
		var err error
		if r.Role != election.Standby || !off {
			call, cancel := context.WithTimeoutCause(ctx, roleTimeout, fmt.Errorf("not done after %s", roleTimeout))
			err = m.controller.SetRole(call, s.group, controller.Role{Active: r.Role == election.Active, Epoch: r.Epoch, Why: r.Why})
			cancel()
		}
		off = err == nil && r.Role != election.Active
		if err != nil && ctx.Err() == nil {
			retry = time.After(retryRole)
		}
		switch r.Role {
		case election.Active:
			if _, since, _ := s.get(); err != nil && time.Since(since) >= stuckAfter && m.stuck(ctx, s.group, err) {
				break
			}
			// The controller may have silenced the group, late for an earlier role, after the lease was won.
			if until, ok := m.keeper.Until(s.group); ok {
				m.extended(s.group, until)
			}
			if news && m.rep != nil && s.group == m.leading() {
				go m.activate(ctx, r.Epoch)
			}
		case election.Yielding:
			// Off the interfaces; or, if the kernel refuses that, silenced by the fence. Otherwise the address is there
			// until its lifetime ends, and the lease must not be given back before. An address that is there for good
			// is not ours, and the controller has said so.
			if err != nil && (m.fence == nil || m.fence.Drop(s.group) != nil) && lease.Now() < r.Until+m.lifetime() {
				break
			}
			if err := m.keeper.Yielded(ctx, s.group); err != nil && ctx.Err() == nil {
				m.log.Error("failed to give a lease back", "group", s.group, "error", err)
			}
		case election.Standby:
		}
		if news { // told when it is done, as a log may take its time
			m.tellRole(ctx, s.group, r, err)
		}
		m.claims()
		nudge(m.retell)
		nudge(m.reshare)
	}
}

// tellRole tells of a change of role, and of what has kept it from the kernel.
func (m *member) tellRole(ctx context.Context, group string, r election.RoleChange, err error) {
	level := slog.LevelInfo
	if r.Role == election.Yielding {
		level = slog.LevelWarn
	}
	m.events.put(level, api.Event{Kind: sink.Role, Group: group, State: r.Role.String(), Text: fmt.Sprintf("group %s: %s, epoch %d: %s", group, r.Role, r.Epoch, r.Why)}, true)
	if err != nil && ctx.Err() == nil {
		m.events.add(slog.LevelError, "role", "group %s is not quite %s: %v", group, r.Role, err)
	}
}

func (m *member) lifetime() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.own.Director.VIPLifetime
}

// leading is the group whose active director orders the changes of the specification.
func (m *member) leading() string { return slices.Min(m.opts.Groups) }

// claims tells the watcher what this director has.
func (m *member) claims() {
	m.mu.Lock()
	base := m.base
	m.mu.Unlock()
	var claims []arp.Claim
	for _, v := range base.Spec.VIPs {
		if r, _, _ := m.seats[v.Group].get(); r.Role == election.Active {
			claims = append(claims, arp.Claim{Interface: cmp.Or(v.Interface, base.Director.Interface), Addr: v.Prefix.Addr()})
		}
	}
	m.watch.Set(claims)
}

// conflict hears of somebody else who claims a VIP that this director has leased, and says once more where it
// is.
func (m *member) conflict(c arp.Conflict) {
	// What waited while this process was stopped is about a time in which it had no lease.
	m.mu.Lock()
	held := slices.ContainsFunc(m.base.Spec.VIPs, func(v spec.VIP) bool { return v.Prefix.Addr() == c.Addr && m.keeper.Leased(v.Group) })
	m.mu.Unlock()
	if !held {
		return
	}
	if c.Count == 1 {
		m.events.add(slog.LevelError, "conflict", "%s claims %s on %s, which this director has leased", m.owner(c.MAC.String()), c.Addr, c.Interface)
	}
	m.mu.Lock()
	due := time.Since(m.defended) >= defendEvery
	if due {
		m.defended = time.Now()
	}
	m.mu.Unlock()
	if due {
		m.ann.AnnounceNow(c.Addr)
	}
}

// owner names the node of a hardware address, if it is one of ours.
func (m *member) owner(mac string) string {
	for _, r := range m.node.Records() {
		var who struct {
			MACs []string `json:"macs"`
		}
		if json.Unmarshal(r.Value, &who) == nil && slices.Contains(who.MACs, mac) {
			return fmt.Sprintf("%s (%s)", r.Node, mac)
		}
	}
	return "a stranger (" + mac + ")"
}

// interfaces are those that the VIPs go onto.
func (m *member) interfaces() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, v := range m.base.Spec.VIPs {
		if name := cmp.Or(v.Interface, m.base.Director.Interface); !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

// judge takes in how an interface is.
func (m *member) judge(iface, why string) {
	m.mu.Lock()
	m.trouble[iface] = why
	m.mu.Unlock()
	if why != "" {
		m.events.add(slog.LevelWarn, "tracker", "%s", why)
	}
	m.qualify()
}

// qualify says for each group whether this director could hold it.
func (m *member) qualify() {
	// One after the other, so that the election's last word is the newest one.
	m.qualifying.Lock()
	defer m.qualifying.Unlock()
	if m.leaving {
		return
	}
	m.mu.Lock()
	reasons := make(map[string]string)
	for g := range m.seats {
		if m.maintenance {
			reasons[g] = "maintenance"
			continue
		}
		if m.unfit != "" {
			reasons[g] = m.unfit
			continue
		}
		if why := m.hindranceLocked(g); why != "" {
			reasons[g] = why
			continue
		}
		for _, v := range m.base.Spec.VIPs {
			name := cmp.Or(v.Interface, m.base.Director.Interface)
			why, known := m.trouble[name]
			switch {
			case v.Group != g || reasons[g] != "":
			case !known:
				reasons[g] = lookAt(name)
			default:
				reasons[g] = why
			}
		}
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), roleTimeout)
	defer cancel()
	for g := range m.seats {
		if err := m.keeper.SetEligible(ctx, g, reasons[g] == "", reasons[g]); err != nil {
			m.log.Error("failed to tell the election whether this director can be active", "group", g, "error", err)
		}
	}
}

// follow takes in what real servers announce.
func (m *member) follow(ctx context.Context) {
	records, stop := m.node.WatchRecords()
	defer stop()
	members, stopMembers := m.node.WatchMembers()
	defer stopMembers()
	conflicts := 0
	var shared sharedBy
	for {
		select {
		case <-ctx.Done():
			return
		case <-records:
			select { // when one real server changes, so do others
			case <-ctx.Done():
				return
			case <-time.After(followQuiet):
			}
		case <-members:
			if list := m.node.Conflicts(); len(list) > conflicts {
				m.events.add(slog.LevelError, "gossip", "%s", list[0].String())
				conflicts = len(list)
			}
		}
		m.acknowledge()
		shared = m.takeShared(shared)
		ready, draining := m.readyServers()
		m.mu.Lock()
		same := slices.EqualFunc(ready, m.pooled, func(a, b spec.Member) bool {
			return a.Name == b.Name && a.Pool == b.Pool && a.Address == b.Address && a.Weight == b.Weight && a.Drain == b.Drain && slices.Equal(a.VIPs, b.VIPs)
		})
		same = same && slices.Equal(draining, m.draining)
		m.pooled, m.draining = ready, draining
		m.mu.Unlock()
		if !same {
			m.give(ctx)
		}
	}
}

// acknowledge takes in which version other directors know to be acknowledged.
func (m *member) acknowledge() {
	if m.rep == nil {
		return
	}
	for _, d := range m.announcements {
		if v, err := replica.ParseVersion(d.Spec.Acked); err == nil && m.rep.Log().Acked().Less(v) {
			m.rep.Acknowledged(v)
		}
	}
}

// readyServers lists the members of pools with the VIPs for which they are proven ready. A node that failed keeps
// what it had last: who does not hear it cannot know better. A node that has left is out.
func (m *member) readyServers() (out []spec.Member, draining []string) {
	seen := make(map[string]bool)
	if m.repaired == nil {
		m.repaired = make(repairs)
	}
	defer func() {
		known := func(node string) bool { return seen[node] }
		m.decoded.Keep(known)
		m.repaired.keep(known)
	}()
	for _, r := range m.node.Records() {
		if r.Key != gossip.AgentRecord || r.State == cluster.Left {
			continue
		}
		seen[r.Node] = true
		a, ok := m.decoded.Get(&r)
		if !ok || a.Pool == "" || !a.Address.IsValid() || a.Weight > 65535 {
			continue
		}
		for _, x := range m.repaired.news(r.Node, a.Repairs) {
			m.events.repaired(r.Node, x)
		}
		s := spec.Member{Name: r.Node, Pool: a.Pool, Address: a.Address, Weight: a.Weight}
		if a.Draining {
			s.Drain = drainOf(&a)
			draining = append(draining, r.Node)
		}
		for _, v := range a.VIPs {
			if v.Ready {
				s.VIPs = append(s.VIPs, v.Address)
			}
		}
		out = append(out, s)
	}
	return out, draining
}

// drainOf is the drain that an agent asks for. One that does not say for how long waits for its connections.
func drainOf(a *api.Agent) spec.Drain {
	d := spec.Drain{On: a.Draining, Since: a.DrainingSince.UTC().Truncate(time.Second)}
	if a.Drain > 0 && a.Drain <= spec.MaxDrain.Seconds() {
		d.Deadline = time.Duration(a.Drain * float64(time.Second))
	}
	return d
}

// give hands the specification to the controller.
func (m *member) give(ctx context.Context) {
	m.giving.Lock()
	defer m.giving.Unlock()
	m.mu.Lock()
	f, drained := m.effective(), slices.Clone(m.draining)
	m.since = sinceOf(m.since, &f.Spec, time.Now())
	m.mu.Unlock()
	err := m.controller.SetFile(ctx, f, m.path)
	if err == nil && len(drained) > 0 {
		_, err = m.controller.Status(ctx) // answered when the kernel has it
	}
	if err != nil && ctx.Err() == nil {
		m.log.Error("failed to tell the controller", "error", err)
	}
	if err == nil {
		m.mu.Lock()
		m.drained = drained
		m.mu.Unlock()
	}
	m.claims()
	nudge(m.retell)
}

// setFile takes this director's own file, read again.
func (m *member) setFile(ctx context.Context, f *spec.File) error {
	if c := f.Cluster; c == nil || c.Fingerprint() != m.opts.Fingerprint() || c.Name != m.opts.Name || c.Label != m.opts.Label || f.Replicated != (m.rep != nil) {
		return errors.New("who and what the cluster is (cluster: name, label, voters, groups, mode, lease; whether vips and services are in the file) changes at a restart only")
	}
	if !reflect.DeepEqual(f.Cluster, m.opts) {
		m.events.add(slog.LevelWarn, "reload", "what the file says in cluster: beside the keys that all nodes share takes effect at the next start (address, key_file, join, priority, preempt, trackers, sync)")
	}
	if g, ok := m.fence.(interface{ SetHold(time.Duration) error }); ok {
		if err := g.SetHold(f.Director.VIPLifetime + time.Second); err != nil {
			return err
		}
	}
	m.mu.Lock()
	m.own = f
	if m.rep == nil {
		m.base, m.source = f, api.Spec{Source: m.path, Hash: f.Spec.Hash()}
	}
	m.mu.Unlock()
	if m.rep != nil {
		if err := m.adopt(); err != nil {
			return err
		}
	}
	nudge(m.retrack)
	m.qualify()
	m.give(ctx)
	return nil
}

// tell publishes what the others need to know of this director, when it changes.
func (m *member) tell(ctx context.Context) {
	tick := time.NewTicker(publishEvery)
	defer tick.Stop()
	for {
		m.announce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-m.retell:
		}
	}
}

// announce publishes it now.
func (m *member) announce(ctx context.Context) {
	b, err := json.Marshal(m.announcement(ctx))
	if err == nil {
		err = m.node.Publish(gossip.DirectorRecord, b)
	}
	if err != nil {
		m.log.Warn("failed to tell the others", "error", err)
	}
}

func (m *member) announcement(ctx context.Context) *api.Director {
	m.mu.Lock()
	d := &api.Director{Spec: m.source, StorageError: m.unstored, Pools: m.base.Spec.Pools(), Services: m.base.Spec.PoolServices(), Adaptive: m.base.Spec.AdaptivePools(), Drained: slices.Clone(m.drained)}
	if m.reached.Asked > 0 {
		r := m.reached
		d.Reach = &r
	}
	m.mu.Unlock()
	for _, g := range m.opts.Groups {
		if r, _, _ := m.seats[g].get(); r.Role == election.Active {
			d.Active = append(d.Active, g)
		}
	}
	d.Sync, d.Conns, d.TableError = m.kernelReport(ctx)
	m.judgeTable(d.TableError)
	d.Unfit = m.unfitFor(ctx)
	m.patience(ctx, d.Conns)
	if list, err := net.Interfaces(); err == nil {
		for _, i := range list {
			if len(i.HardwareAddr) == 6 {
				d.MACs = append(d.MACs, i.HardwareAddr.String())
			}
		}
	}
	return d
}

// syncOptions are the controller's words for how connections are synchronised; nil for not at all.
func syncOptions(o *settings.Options) *controller.Sync {
	s := o.Sync
	if !s.Enabled {
		return nil
	}
	return &controller.Sync{Interface: s.Interface, ID: s.ID, Group: s.Group, Port: s.Port, TTL: s.TTL, MaxLen: s.MaxLen}
}

// kernelReport says which sync daemons run, how many connections this director knows of, and why its table cannot be
// read or changed.
func (m *member) kernelReport(ctx context.Context) (*api.SyncReport, *api.Conns, string) {
	r := &api.SyncReport{Enabled: m.opts.Sync.Enabled}
	ctx, cancel := context.WithTimeout(ctx, roleTimeout)
	defer cancel()
	st, err := m.controller.Status(ctx)
	if err != nil {
		r.Error = err.Error()
		return r, nil, ""
	}
	if st.Sync != nil {
		r.Error = st.Sync.Error
		for _, d := range st.Sync.Daemons {
			r.Roles = append(r.Roles, d.Role)
			r.Detail = fmt.Sprintf("%s, id %d, %s:%d", d.Interface, d.ID, d.Group, d.Port)
		}
		slices.Sort(r.Roles)
	}
	if st.Connections == nil {
		return r, nil, st.Reconcile.Error
	}
	return r, &api.Conns{Active: st.Connections.Active, Inactive: st.Connections.Inactive}, st.Reconcile.Error
}

// directors are the peers of the replicated specification.
type directors struct{ m *member }

// Live implements [replica.Peers].
func (d directors) Live() []string {
	var out []string
	for _, name := range d.All() {
		if x, ok := d.m.node.Member(name); ok && x.State == cluster.Alive {
			out = append(out, name)
		}
	}
	return out
}

// All implements [replica.Peers].
func (d directors) All() []string {
	return slices.DeleteFunc(d.m.opts.Directors(), func(name string) bool { return name == d.m.opts.Name })
}

// Request implements [replica.Peers].
func (d directors) Request(ctx context.Context, peer string, request []byte) ([]byte, error) {
	return d.m.node.Request(ctx, peer, gossip.KindReplica, request)
}

var errDeposed = errors.New("this director is not the active one any more")

// confirm implements Confirm of [replica.Options].
func (m *member) confirm(ctx context.Context, v replica.Version) error {
	r, _, changed := m.seats[m.leading()].get()
	if r.Role != election.Active || r.Epoch != v.Epoch {
		return errDeposed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-changed:
			cancel(errDeposed)
		case <-ctx.Done():
		}
	}()
	if err := m.keeper.Confirm(ctx, m.leading(), election.Version(v)); err != nil {
		return err
	}
	if r, _, _ := m.seats[m.leading()].get(); r.Role != election.Active || r.Epoch != v.Epoch || !m.keeper.Leased(m.leading()) {
		return errDeposed
	}
	return nil
}

// activate restates the newest change when this director has become active.
func (m *member) activate(ctx context.Context, epoch uint64) {
	for try := range 5 {
		res, err := m.rep.Activate(ctx, epoch)
		r, _, _ := m.seats[m.leading()].get()
		if err == nil || ctx.Err() != nil || r.Role != election.Active || r.Epoch != epoch {
			return
		}
		if try == 0 {
			m.events.add(slog.LevelWarn, "spec", "the newest change (%v) is not restated yet: %v", res.Version, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// replicate brings what is stored into force, and catches up with directors that come.
func (m *member) replicate(ctx context.Context) {
	members, stop := m.node.WatchMembers()
	defer stop()
	seen := make(map[string]uint64) // start of a director with which this one has caught up
	again := time.NewTicker(catchUpEvery)
	defer again.Stop()
	m.versions(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.rep.Changed():
			if err := m.adopt(); err != nil {
				m.events.add(slog.LevelError, "spec", "version %v is stored and not in force here: %v", m.rep.Log().Version(), err)
			}
			m.mu.Lock()
			close(m.stored)
			m.stored = make(chan struct{})
			m.mu.Unlock()
			m.versions(ctx)
			nudge(m.retrack)
			m.qualify()
			m.give(ctx)
		case <-members:
			m.catchUp(ctx, seen)
		case <-again.C:
			m.storage()
			m.catchUp(ctx, seen)
		}
	}
}

// storage tells of a disk that does not take changes, and when it takes them again.
func (m *member) storage() {
	why := ""
	if err := m.rep.Recheck(); err != nil {
		why = err.Error()
	}
	m.mu.Lock()
	before := m.unstored
	m.unstored = why
	m.mu.Unlock()
	switch {
	case why == before:
		return
	case why == "":
		m.events.add(slog.LevelInfo, "spec", "the disk of this director takes changes of the specification again")
	default:
		m.events.add(slog.LevelError, "spec", "%s", cannotStore("this director", why))
	}
	nudge(m.retell)
}

// cannotStore says that the disk of a director does not take changes, and what to do.
func cannotStore(who, why string) string {
	return fmt.Sprintf("%s cannot store changes of the specification, and while it is alive none is acknowledged: make room on its disk, or stop it: %s", who, why)
}

// catchUp compares the specification with directors that are new or could not be asked before.
func (m *member) catchUp(ctx context.Context, seen map[string]uint64) {
	for _, name := range (directors{m}).Live() {
		x, _ := m.node.Member(name)
		if seen[name] == x.Start {
			continue
		}
		call, cancel := context.WithTimeout(ctx, catchUpEvery)
		err := m.rep.CatchUp(call, name)
		cancel()
		if err == nil {
			seen[name] = x.Start
		} else if ctx.Err() == nil {
			m.log.Warn("failed to compare the specification with another director; it is tried again", "peer", name, "error", err)
		}
	}
	for name := range seen {
		if x, ok := m.node.Member(name); !ok || x.State != cluster.Alive {
			delete(seen, name)
		}
	}
}

// versions tells the election what is stored here.
func (m *member) versions(ctx context.Context) {
	l := m.rep.Log()
	if err := m.keeper.SetVersions(ctx, election.Version(l.Version()), election.Version(l.Acked())); err != nil && ctx.Err() == nil {
		m.log.Error("failed to tell the election the version", "error", err)
	}
}

// adopt makes the newest stored change the specification of this director. One that does not fit it keeps it from
// being active.
func (m *member) adopt() error {
	l := m.rep.Log()
	head, ok := l.Head()
	if !ok {
		m.mu.Lock()
		m.source = api.Spec{Source: "replicated"}
		m.mu.Unlock()
		return nil
	}
	version := head.Version.String()
	shared, err := spec.ParseSpec("version "+version, head.Content)
	m.mu.Lock()
	defer m.mu.Unlock()
	var f *spec.File
	if err == nil {
		f, err = m.own.With(shared)
	}
	if err != nil {
		m.unfit = fmt.Sprintf("specification %s does not fit this director: %v", version, err)
		m.source.Error = m.unfit
		return err
	}
	m.base, m.unfit = f, ""
	m.source = api.Spec{Source: "replicated", Version: version, Acked: l.Acked().String(), Hash: f.Spec.Hash()}
	return nil
}

// settled waits for a change that was stored and not acknowledged, as its director was deposed meanwhile: the next
// active one acknowledges it, or it is gone.
func (m *member) settled(ctx context.Context, v replica.Version) (replica.Version, bool) {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		m.mu.Lock()
		changed := m.stored
		m.mu.Unlock()
		l := m.rep.Log()
		e, err := l.Get(v)
		if err != nil {
			return v, false
		}
		if !l.Acked().Less(e.Version) {
			return e.Version, true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return v, false
		}
	}
}

// serveHandover makes this director active, or makes it give up, as another node asks.
func (m *member) serveHandover(ctx context.Context, from string, request []byte) ([]byte, error) {
	var h api.Handover
	if err := json.Unmarshal(request, &h); err != nil {
		return nil, err
	}
	if !slices.Contains(m.opts.Directors(), from) {
		return nil, fmt.Errorf("%s is not a director of this cluster", from)
	}
	h.Forwarded = true
	m.events.add(slog.LevelInfo, "handover", "asked by way of %s: %s", from, h.Why)
	return nil, m.handover(ctx, h)
}

// handover carries out h, here if this director is meant.
func (m *member) handover(ctx context.Context, h api.Handover) error {
	ctx, cancel := context.WithTimeoutCause(ctx, handoverTimeout, fmt.Errorf("not done after %s", handoverTimeout))
	defer cancel()
	groups := m.opts.Groups
	if h.Group != "" {
		if m.seats[h.Group] == nil {
			return &api.Error{Status: 404, Text: fmt.Sprintf("there is no group %q: the groups are %s", h.Group, strings.Join(groups, ", "))}
		}
		groups = []string{h.Group}
	}
	if h.To != "" && !slices.Contains(m.opts.Directors(), h.To) {
		return &api.Error{Status: 404, Text: fmt.Sprintf("%q is not a director of this cluster: the directors are %s", h.To, strings.Join(m.opts.Directors(), ", "))}
	}
	var errs []error
	for _, g := range groups {
		st, err := m.keeper.Status(ctx, g)
		if err != nil {
			return err
		}
		one := api.Handover{Group: g, To: h.To, Why: h.Why, Force: h.Force}
		switch {
		case h.To == m.opts.Name:
			err = m.promote(ctx, g, st, h.Force)
		case h.Forwarded && st.Role != election.Active:
			err = fmt.Errorf("%s is not the active director of group %s any more", m.opts.Name, g)
		case h.To != "":
			err = m.ask(ctx, h.To, one)
		case st.Role == election.Active && len((directors{m}).Live()) == 0:
			err = fmt.Errorf("no other director is alive to take group %s; stop this one, or switch maintenance on, to have nobody serve it", g)
		case st.Role == election.Active:
			err = m.stepDown(ctx, g)
		case st.Holder == "" || st.Holder == m.opts.Name:
			err = fmt.Errorf("no director is active for group %s", g)
		default:
			err = m.ask(ctx, st.Holder, one)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (m *member) ask(ctx context.Context, node string, h api.Handover) error {
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if x, ok := m.node.Member(node); !ok || x.State != cluster.Alive {
		state := "was never seen by " + m.opts.Name
		if ok {
			state = fmt.Sprintf("is %s since %s", x.State, x.Since.Format(time.DateTime))
		}
		return fmt.Errorf("director %s %s", node, state)
	}
	_, err = m.node.Request(ctx, node, gossip.KindHandover, b)
	return err
}

// promote makes this director active for a group.
func (m *member) promote(ctx context.Context, g string, st election.Status, force bool) error {
	if st.Role == election.Active {
		return nil
	}
	if !st.Eligible {
		return fmt.Errorf("%s cannot take group %s: %s", m.opts.Name, g, st.Waiting)
	}
	if err := m.keeper.Promote(ctx, g, force); err != nil {
		return err
	}
	return m.await(ctx, g, election.Active)
}

func (m *member) stepDown(ctx context.Context, g string) error {
	if err := m.keeper.StepDown(ctx, g, ""); err != nil {
		return err
	}
	return m.await(ctx, g, election.Standby)
}

// await waits until this director has a role.
func (m *member) await(ctx context.Context, g string, role election.Role) error {
	for {
		r, _, changed := m.seats[g].get()
		if r.Role == role {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			why := ""
			if st, err := m.keeper.Status(context.WithoutCancel(ctx), g); err == nil {
				why = ": " + st.Waiting
			}
			return fmt.Errorf("%s is not %s for group %s: %w%s", m.opts.Name, role, g, context.Cause(ctx), why)
		}
	}
}

func (m *member) setMaintenance(on bool) {
	m.mu.Lock()
	m.maintenance = on
	m.mu.Unlock()
	word := "off"
	if on {
		word = "on"
	}
	m.events.add(slog.LevelInfo, "maintenance", "maintenance is %s", word)
	m.qualify()
}

// plan says what s would change in this director's table, as JSON text.
func (m *member) plan(ctx context.Context, s *spec.Spec) (json.RawMessage, error) {
	m.mu.Lock()
	old, ownership := m.effective(), m.own.Director.Ownership
	m.mu.Unlock()
	p, err := planOf(ctx, m.kernel, m.health.View(), s, &old.Spec, ownership)
	if err != nil {
		return nil, err
	}
	p.Strangers, p.Beside = nil, spec.Beside(&old.Spec, s)
	return json.Marshal(p.Text())
}

// planOf says what s would change in the kernel's table under a director for which old is in force.
func planOf(ctx context.Context, kernel table, v health.View, s, old *spec.Spec, ownership spec.Ownership) (plan.Plan, error) {
	listed, err := kernel.Services(ctx)
	if err != nil {
		return plan.Plan{}, err
	}
	have := plan.StateOf(listed)
	owned := make(map[ipvs.Key]struct{})
	for i := range old.Services {
		owned[old.Services[i].Key] = struct{}{}
	}
	return plan.Diff(health.Intent(s, v), have, plan.Owner(ownership, owned)), nil
}
