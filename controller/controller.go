package controller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/controller/drain"
	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/owned"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/sysctl"
)

// Kernel is all that a director needs of the kernel. Its methods are called by one goroutine at a
// time, except that those of Addresses may be called while one of Table runs. Calls are bounded in time.
type Kernel interface {
	Table
	Addresses
	Syncer
	// Changed has a value when Changes has something new.
	Changed() <-chan struct{}
	// Changes returns what happened to addresses and interfaces since the last call.
	Changes() kernel.Changes
}

// Announcer tells neighbours where addresses are. Set replaces all claims, and must not block; a claim
// that is new, or whose Epoch rose, is announced at once.
type Announcer interface {
	Set(claims []Claim)
}

// Sysctls sets kernel settings and puts them back; [sysctl.Keeper] does.
type Sysctls interface {
	Apply(rows []sysctl.Row) ([]sysctl.Change, error)
	Repair() ([]sysctl.Change, error)
	Restore() ([]sysctl.Change, error)
}

const (
	// renewals is how often a VIP is renewed in its lifetime.
	renewals = 4
	// settleGap is the least time between two looks at the VIPs which the kernel's notifications
	// cause, so that a program that fights for an address does not keep the loop busy.
	settleGap = 20 * time.Millisecond
	// checkAfter is when a director that has taken a group over looks at everything: clients come first.
	checkAfter = 250 * time.Millisecond
	// stopTimeout bounds what is done on the way out.
	stopTimeout = 15 * time.Second
	// moduleTimeout bounds the loading of one kernel module.
	moduleTimeout = 2 * time.Second
)

// Options of a Controller. Only Kernel is required.
type Options struct {
	Kernel    Kernel
	Announcer Announcer
	Sysctls   Sysctls
	// StateDir is where the state file is, which tells a successor what is ours; empty for none.
	StateDir string
	Log      *slog.Logger
	Registry prometheus.Registerer
	Version  string
	// Turn is called each time the loop turns, at least every Heartbeat, and must not block.
	Turn      func()
	Heartbeat time.Duration // 0 for none
	// Roles makes a director one of several. Nil: it is alone, and holds all its VIPs always. Otherwise the
	// roles with which it begins, by group; whatever is not in it is standby until [Controller.SetRole]
	// says otherwise.
	Roles map[string]Role
	// Leased is asked right before each time that an address of a group is put onto an interface or
	// renewed there, whether this director may hold it at this moment; if not, the address is taken off. So
	// a process that was stopped for a while does not put back what belongs to another by now. It must not
	// block. Nil: as long as the role is active.
	Leased func(group string) bool
	Fence  Fence // nil for none
	// Health takes real servers out that are not fit for traffic. Nil: all are.
	Health Health
	// Sync makes the kernel's connection synchronisation follow the role. Nil: it is nobody's business here.
	Sync *Sync
	// Drained is told of each step of a drain, and must not block.
	Drained func(DrainEvent)
	// Summary is called with one line for people whenever it changes, and must not block.
	Summary func(string)
}

// Controller reconciles a kernel with a spec. Make one with [New]; it does nothing before [Controller.Run].
type Controller struct {
	opts    Options
	log     *slog.Logger
	kernel  Kernel
	metrics *metrics

	inputs chan input
	// roleChanges are calls of SetRole, kick asks for a pass.
	roleChanges chan roleChange
	kick        chan struct{}
	requests    chan chan *Status
	ready       chan struct{}
	done        chan struct{}

	// What follows belongs to the goroutine of Run.

	file     *spec.File
	path     string
	hash     string
	loaded   time.Time
	rejected error // why the newest file was not taken
	rejectAt time.Time
	want     plan.State
	moved    bool       // what is wanted may have changed since the table was listed
	private  plan.State // services of the checks, as last seen
	vipKeys  []vipKey
	settings []Setting

	groups   []string // of the file, sorted
	roles    map[string]*role
	deferred []roleChange // wait for the end of a pass
	stopping bool
	fenced   bool             // the fence has the addresses of this file
	hushed   bool             // at the start
	lifted   map[string]bool  // by group: whether the fence was lifted; absent where that is not known
	fenceErr error            // of the interfaces
	dropErrs map[string]error // of groups that could not be silenced, or let through

	lingerUntil            time.Time   // both sync daemons run until then
	linger                 *time.Timer // due then
	syncing                bool
	syncDue                bool          // the daemons are to be looked after as soon as the kernel is free
	daemons                []ipvs.Daemon // as last seen
	syncErr, backupOnlyErr error
	forwards               bool // nothing of a predecessor keeps IPVS from forwarding
	syncWords              string
	connections            *ConnectionStatus // nil: the table was not listed yet

	store    *owned.Store
	storeErr error
	owned    map[ipvs.Key]struct{}
	vips     *vips
	drains   drains

	fresh     bool // the file has not been applied yet
	have      plan.State
	haveAt    time.Time // zero: never read
	pending   plan.Plan // what is left to do
	failing   failures
	print     uint64 // of a table that was as wanted
	printed   bool
	listed    time.Time // the table as a whole
	tableErr  error
	sysctlErr error
	applied   bool // sysctls, for this file
	modules   map[string]bool
	claims    []Claim

	tick, renew *time.Ticker
	check       *time.Timer // for a whole pass
	settled     time.Time
	started     time.Time
	passes      uint64
	lastPass    time.Time
	lastTook    time.Duration
	heals       uint64
	summary     string
}

// input is a new file, or why there is none.
type input struct {
	file  *spec.File
	path  string
	err   error
	taken chan struct{}
}

// New returns a controller for a first file; path is where it came from, for the status.
func New(opts Options, f *spec.File, path string) (*Controller, error) {
	if opts.Kernel == nil {
		return nil, errors.New("controller: no kernel")
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Announcer == nil {
		opts.Announcer = silent{}
	}
	if opts.Registry == nil {
		opts.Registry = prometheus.NewRegistry()
	}
	if opts.Health == nil {
		opts.Health = noHealth{}
	}
	if opts.Drained == nil {
		opts.Drained = func(DrainEvent) {}
	}
	if opts.Turn == nil {
		opts.Turn = func() {}
	}
	if opts.Summary == nil {
		opts.Summary = func(string) {}
	}
	store, err := owned.Open(opts.StateDir)
	if err != nil {
		return nil, err
	}
	c := &Controller{
		opts:        opts,
		log:         opts.Log,
		kernel:      opts.Kernel,
		inputs:      make(chan input),
		roleChanges: make(chan roleChange),
		kick:        make(chan struct{}, 1),
		roles:       make(map[string]*role),
		lifted:      make(map[string]bool),
		dropErrs:    make(map[string]error),
		requests:    make(chan chan *Status),
		ready:       make(chan struct{}),
		done:        make(chan struct{}),
		store:       store,
		owned:       make(map[ipvs.Key]struct{}),
		failing:     make(failures),
		modules:     make(map[string]bool),
		linger:      idleTimer(),
		check:       idleTimer(),
		drains:      drains{records: make(map[owned.Server]drain.Record), look: idleTimer()},
	}
	c.vips = newVIPs(opts.Kernel, opts.Log)
	c.vips.save = c.save
	if c.metrics, err = newMetrics(opts.Registry, c); err != nil {
		return nil, err
	}
	c.vips.renewed = c.metrics.renewed
	c.vips.late = c.clustered()
	c.vips.active, c.vips.leased = c.active, c.leased
	for group, r := range opts.Roles {
		c.roles[group] = &role{Role: r, since: time.Now()}
	}
	c.opts.Health.SetPath(c.opts.Sync == nil) // or as soon as backup_only is 0
	c.take(f, path)
	return c, nil
}

// idleTimer returns a timer that is not due before it is reset.
func idleTimer() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

type silent struct{}

func (silent) Set([]Claim) {}

// String names the task.
func (c *Controller) String() string { return "controller" }

// Ready is closed after the first pass in which the table could be read. Single changes may have
// failed then: a spec with one service that this kernel cannot have must not keep all others from
// being served, and a daemon that waits for it would be killed by its supervisor.
func (c *Controller) Ready() <-chan struct{} { return c.ready }

// errStopped is returned by calls on a controller that has ended.
var errStopped = errors.New("the controller has ended")

// SetFile makes f the desired state. It returns when the loop has taken it, before it is in the kernel.
// What failed is tried again at once. The controller keeps f, which must not be changed any more.
func (c *Controller) SetFile(ctx context.Context, f *spec.File, path string) error {
	return c.send(ctx, input{file: f, path: path})
}

// Reject tells the status that a newer file was not taken, and why.
func (c *Controller) Reject(ctx context.Context, why error) error {
	return c.send(ctx, input{err: why})
}

func (c *Controller) send(ctx context.Context, in input) error {
	in.taken = make(chan struct{})
	select {
	case c.inputs <- in:
		<-in.taken
		return nil
	case <-c.done:
		return errStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// take makes f the current file.
func (c *Controller) take(f *spec.File, path string) {
	c.file, c.path, c.hash, c.loaded = f, path, f.Spec.Hash(), time.Now()
	c.rejected, c.rejectAt = nil, time.Time{}
	c.opts.Health.SetSpec(&f.Spec)
	c.drains.wish(&f.Spec)
	c.want = c.wantedOf(c.have)
	c.vipKeys, c.vips.groups = keysOf(f), groupsOf(f)
	c.groups, c.fenced = f.Spec.Groups(), false
	c.opts.Health.SetLead(c.anyActive()) // of groups that a role may be older than
	c.settings = Settings(f)
	if c.clustered() {
		c.settings = append(c.settings, ClusterSettings(f, c.opts.Sync != nil)...)
	}
	c.vips.life = f.Director.VIPLifetime
	c.fresh, c.applied = true, false
	for _, x := range c.failing {
		x.next = time.Time{}
	}
}

// Run reconciles until ctx ends, and then does what on_stop says. It returns nil unless that failed.
func (c *Controller) Run(ctx context.Context) error {
	defer close(c.done)
	c.started = time.Now()
	c.tick = time.NewTicker(c.file.Director.ReconcileInterval)
	defer c.tick.Stop()
	c.renew = time.NewTicker(c.file.Director.VIPLifetime / renewals)
	defer c.renew.Stop()
	var beat <-chan time.Time
	if c.opts.Heartbeat > 0 {
		t := time.NewTicker(c.opts.Heartbeat)
		defer t.Stop()
		beat = t.C
	}
	defer c.linger.Stop()
	defer c.check.Stop()
	defer c.drains.look.Stop()
	settle := idleTimer()
	defer settle.Stop()

	c.inherit()
	c.opts.Health.SetLead(c.anyActive())
	c.forward()
	if c.clustered() {
		// What a predecessor left is off before anything that may take long.
		c.guard(ctx)
		c.settle(ctx)
	}
	c.pass(ctx)
	for ctx.Err() == nil {
		c.opts.Turn()
		select {
		case <-ctx.Done():
		case <-c.renew.C:
			c.renewVIPs(ctx)
		case rc := <-c.roleChanges:
			c.changeRole(ctx, rc)
			if c.syncDue {
				c.syncNow(ctx)
			}
			c.flush()
		case <-c.linger.C:
			c.syncNow(ctx)
		case <-c.kick:
			c.pass(ctx)
		case <-c.check.C:
			c.pass(ctx)
		case <-c.opts.Health.Changed():
			c.moved = true
			c.reconcile(ctx)
			c.summarize()
		case <-c.drains.look.C:
			c.moved = true // of the end of a connection there is no event, and the fingerprint does not show it
			c.reconcile(ctx)
			c.summarize()
		case <-c.kernel.Changed():
			if !c.vips.noticed(c.kernel.Changes()) {
				break
			}
			if wait := settleGap - time.Since(c.settled); wait > 0 {
				settle.Reset(wait)
				break
			}
			c.guard(ctx)
			c.settle(ctx)
		case <-settle.C:
			c.guard(ctx)
			c.settle(ctx)
		case <-c.tick.C:
			c.pass(ctx)
		case in := <-c.inputs:
			c.input(in)
			close(in.taken)
			if in.err == nil {
				c.pass(ctx)
				c.renewVIPs(ctx) // with the new lifetime
			}
		case reply := <-c.requests:
			reply <- c.status()
		case <-beat:
		}
	}
	return c.stop(ctx)
}

// input takes in a new file.
func (c *Controller) input(in input) {
	if in.err != nil {
		c.rejected, c.rejectAt = in.err, time.Now()
		c.metrics.reload(false)
		return
	}
	c.metrics.reload(true)
	c.take(in.file, in.path)
	c.tick.Reset(c.file.Director.ReconcileInterval)
	c.renew.Reset(c.file.Director.VIPLifetime / renewals)
}

// inherit reads what a predecessor left.
func (c *Controller) inherit() {
	st, err := c.store.Load()
	if err != nil {
		c.log.Error("failed to learn what an earlier director left; its services and VIPs that are not in the file will stay", "error", err)
	}
	c.owned, c.vips.owned = st.Services, st.VIPs
	for k, r := range st.Drains {
		c.drains.records[k] = drain.Record{Asked: r.Asked, Since: r.Since, Done: r.Done}
	}
}

// save writes the state file.
func (c *Controller) save() {
	c.saved(c.store.Save(c.ownedNow()))
}

// ownedNow is what the state file is to say.
func (c *Controller) ownedNow() owned.State {
	st := owned.State{Services: c.owned, VIPs: c.vips.owned, CheckMark: c.file.Director.CheckMark, Drains: make(map[owned.Server]owned.Drain, len(c.drains.records))}
	for k, r := range c.drains.records {
		st.Drains[k] = owned.Drain{Asked: r.Asked, Since: r.Since, Done: r.Done}
	}
	return st
}

// flush writes the state file if VIPs came or went since.
func (c *Controller) flush() {
	if c.vips.unsaved {
		c.save()
	}
}

// saved notes that the state file was written, or why not.
func (c *Controller) saved(err error) {
	c.vips.unsaved, c.drains.unsaved = false, false
	if err != nil && (c.storeErr == nil || c.storeErr.Error() != err.Error()) {
		c.log.Error("failed to record what is ours: if this process is killed now, its successor may leave services behind", "error", err)
	}
	c.storeErr = err
}

// renewVIPs renews what this director holds, and tells if it may not hold it any more.
func (c *Controller) renewVIPs(ctx context.Context) {
	c.vips.renew(ctx)
	if c.clustered() {
		c.announce()
		c.shield()
		c.summarize()
	}
}

// await runs f, which waits for the kernel or a disk, and meanwhile renews the VIPs and takes over or gives
// up groups of them: traffic goes on while somebody else holds the table. f is bounded in time, so a kernel that has stopped answering makes
// the VIPs lapse in the end.
func (c *Controller) await(ctx context.Context, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	for {
		select {
		case <-done:
			if c.syncDue {
				c.syncNow(ctx)
			}
			return
		case <-c.renew.C:
			c.renewVIPs(ctx)
		case rc := <-c.roleChanges:
			c.changeRole(ctx, rc)
		}
	}
}

// pass compares everything with the kernel once and changes what differs.
func (c *Controller) pass(ctx context.Context) {
	begin := time.Now()
	c.vips.noticed(c.kernel.Changes())
	c.guard(ctx)
	c.forward()
	c.sysctls(ctx)
	c.vips.giveUp(ctx, c.vipKeys)
	c.vips.standDown(ctx, c.vipKeys)
	// Those who are told that the address is here must not be told so when it has gone.
	c.announce()
	c.syncNow(ctx)
	c.reconcile(ctx)
	if ctx.Err() != nil {
		return // what was cut off is no failure; stop comes next
	}
	c.settle(ctx)
	clear(c.vips.gone)

	c.passes++
	c.lastPass, c.lastTook = begin, time.Since(begin)
	c.metrics.pass(c.lastTook, c.tableErr == nil && len(c.failing) == 0)
	if !c.haveAt.IsZero() && c.silent() {
		select {
		case <-c.ready:
		default:
			close(c.ready)
		}
	}
	c.answer()
	c.summarize()
}

// settle looks after the VIPs alone.
func (c *Controller) settle(ctx context.Context) {
	c.vips.settle(ctx, c.vipKeys, c.serves)
	c.settled = time.Now()
	c.announce()
	c.shield()
	c.flush()
	c.summarize()
}

// announce hands the claims over if they changed.
func (c *Controller) announce() {
	claims := c.vips.claims()
	if !slices.Equal(claims, c.claims) {
		c.claims = claims
		c.opts.Announcer.Set(slices.Clone(claims))
	}
}

// sysctls sets what a director wants, and repairs it later.
func (c *Controller) sysctls(ctx context.Context) {
	if c.opts.Sysctls == nil {
		return
	}
	var changes []sysctl.Change
	var err error
	message := "setting was changed by somebody else; set again"
	if c.applied {
		c.await(ctx, func() { changes, err = c.opts.Sysctls.Repair() })
	} else {
		message = "setting changed"
		rows := make([]sysctl.Row, len(c.settings))
		for i, s := range c.settings {
			rows[i] = s.Row
		}
		c.await(ctx, func() { changes, err = c.opts.Sysctls.Apply(rows) })
		c.applied = err == nil
	}
	for _, ch := range changes {
		c.log.Info(message, "change", ch.String(), "reason", ch.Reason)
	}
	if fmt.Sprint(err) != fmt.Sprint(c.sysctlErr) {
		if err != nil {
			c.log.Error("failed to set a kernel setting", "error", err)
		} else {
			c.log.Info("all kernel settings are as wanted again")
		}
	}
	c.sysctlErr = err
}

// list reads the table.
func (c *Controller) list(ctx context.Context) (st plan.State, err error) {
	var entries []ipvs.ServiceEntry
	c.await(ctx, func() {
		if entries, err = c.kernel.Services(ctx); err == nil {
			st = plan.StateOf(entries)
		}
	})
	if err == nil {
		c.connections = count(entries, c.file.Director.CheckMark)
		c.drains.observe(entries)
		st, c.private = plan.Split(st, c.file.Director.CheckMark)
	}
	return st, err
}

// unchanged reports that the table need not be listed: it was as wanted, and has not changed since as far
// as its fingerprint tells. The fingerprint is taken before the listing that it is compared with, so that a
// change in between is found the next time.
func (c *Controller) unchanged(ctx context.Context) bool {
	if c.moved || c.want.Servers() < largeTable {
		return false
	}
	var sum uint64
	var err error
	c.await(ctx, func() { sum, err = c.kernel.Fingerprint(ctx) })
	if err != nil {
		c.printed = false
		return false
	}
	same := c.printed && c.print == sum && !c.fresh && c.tableErr == nil && len(c.pending.Ops) == 0 && time.Since(c.listed) < listEvery
	c.print, c.printed = sum, same
	return same
}

// reconcile brings the IPVS table to what is wanted.
func (c *Controller) reconcile(ctx context.Context) {
	if c.unchanged(ctx) {
		return
	}
	c.listed = time.Now()
	have, err := c.list(ctx)
	if err != nil {
		c.tableFailed(ctx, fmt.Errorf("failed to read the IPVS table: %w", err))
		return
	}
	c.moved = false
	c.stepDrains(time.Now())
	moved := c.admit(have)
	p := plan.Diff(c.want, have, c.ours())
	checks := c.opts.Health.Private()
	p.Ops = append(p.Ops, plan.Diff(checks, c.private, plan.Owner(spec.OwnAll, nil)).Ops...)
	c.own(ctx, have)
	ops := c.due(p.Ops)
	if len(ops) > 0 {
		c.load(ctx, ops)
	}
	errs, writes := c.apply(ctx, ops)
	outcomes := classify(ops, errs)
	all := len(ops) == len(p.Ops)
	err = nil
	var healed []plan.Op
	current := make(map[opKey]struct{}, len(p.Ops))
	for i := range p.Ops {
		current[keyOf(&p.Ops[i])] = struct{}{}
	}
	for i := range ops {
		o := &ops[i]
		k := keyOf(o)
		if outcomes[i] != done {
			all = false
		}
		switch outcomes[i] {
		case done:
			c.count(o, "done")
			if _, was := c.failing[k]; !was && !c.fresh && !moved[k] && !c.privately(o) {
				healed = append(healed, *o)
			}
			delete(current, k)
		case refused:
			c.count(o, "failed")
			if c.failing.add(k, errs[i], time.Now(), c.file.Director.ReconcileInterval) {
				c.log.Error("the kernel refused a change", "change", o.String(), "error", errs[i])
			}
		case needs:
			c.count(o, "skipped")
		case unknown:
			c.count(o, "unknown")
			if err == nil {
				err = errs[i]
			}
		}
	}
	for k, f := range c.failing {
		if _, still := current[k]; !still {
			delete(c.failing, k)
			c.log.Info("a change that the kernel refused is done or not wanted any more", "change", k.String(), "since", f.since)
		}
	}

	c.printed = len(p.Ops) == 0 // what has been written has to be seen first
	c.report(p, ops, healed, writes)
	if err != nil {
		err = fmt.Errorf("failed to change the IPVS table: %w", err)
	}
	after := have
	if all {
		c.private = checks
	}
	switch {
	case all && len(p.Strangers) == 0:
		after = c.want
	case all:
		after = merge(c.want, have, p.Strangers)
	case len(ops) > 0:
		again, rerr := c.list(ctx)
		if rerr == nil {
			after = again
		} else if err == nil {
			err = fmt.Errorf("failed to read the IPVS table: %w", rerr)
		}
	}
	if err != nil {
		c.tableFailed(ctx, err)
	} else {
		if c.tableErr != nil {
			c.log.Info("the IPVS table can be read and changed again")
		}
		c.tableErr = nil
		c.fresh = false
	}
	c.opts.Health.Programmed(c.private)
	c.saw(ctx, after, all)
}

// String names a change without what it changes to.
func (k opKey) String() string {
	o := plan.Op{Kind: k.kind}
	if k.server.Addr.IsValid() {
		return fmt.Sprintf("%s %s of %s", o.Kind, k.server, k.service)
	}
	return fmt.Sprintf("%s %s", o.Kind, k.service)
}

// tableFailed notes that the table could not be read or changed at all.
func (c *Controller) tableFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if c.tableErr == nil || c.tableErr.Error() != err.Error() {
		c.log.Error("the IPVS table is out of reach; VIPs that are held are held on", "error", err)
	}
	c.tableErr = err
}

// ours tells which services may be changed and removed. While nothing is known of what is wanted, as the disk of this
// director was lost or what is on it does not fit, no table is: connections may be going by it.
func (c *Controller) ours() func(ipvs.Key) bool {
	if c.file.Unknown {
		return func(ipvs.Key) bool { return false }
	}
	return plan.Owner(c.file.Director.Ownership, c.owned)
}

// own adds what is wanted to what is ours, forgets what is neither wanted nor there, and records it
// before the kernel is changed.
func (c *Controller) own(ctx context.Context, have plan.State) {
	changed := false
	for i := range c.want.Services {
		k := c.want.Services[i].Key
		if _, ok := c.owned[k]; !ok {
			c.owned[k] = struct{}{}
			changed = true
		}
	}
	for k := range c.owned {
		if c.want.Find(k) == nil && have.Find(k) == nil {
			delete(c.owned, k)
			changed = true
		}
	}
	if changed || c.drains.unsaved || c.storeErr != nil {
		st := c.ownedNow()
		st.VIPs = maps.Clone(st.VIPs) // roles may change meanwhile
		var err error
		c.await(ctx, func() { err = c.store.Save(st) })
		unsaved := c.vips.unsaved // of what changed meanwhile
		c.saved(err)
		c.vips.unsaved = unsaved
	}
}

// due picks the ops to be done now: not those that failed a short while ago, nor what needs them, and no
// service is deleted while its VIP is still on its way off the interface.
func (c *Controller) due(ops []plan.Op) []plan.Op {
	now := time.Now()
	wait := func(o *plan.Op) bool {
		f := c.failing[keyOf(o)]
		return f != nil && now.Before(f.next)
	}
	out := ops
	cut := func(i int) {
		if len(out) == len(ops) {
			out = slices.Clone(ops[:i])
		}
	}
	held := make(map[ipvs.Key]bool)
	whole := true
	for i := range ops {
		o := &ops[i]
		skip := held[o.Service.Key] || wait(o)
		if skip && o.Kind == plan.AddService {
			held[o.Service.Key] = true
		}
		if o.Kind == plan.DeleteService && c.vips.leaving(o.Service.Key.Addr) {
			skip = true
		}
		switch {
		case skip && whole:
			cut(i)
			whole = false
		case !skip && !whole:
			out = append(out, *o)
		}
	}
	return out
}

// load loads the kernel modules that ops need. Without it the kernel does so itself, with the table
// locked. If it fails the kernel still has its say: the part may be built in.
func (c *Controller) load(ctx context.Context, ops []plan.Op) {
	once := func(kind, name string, f func(context.Context, string) error) {
		if name == "" || name == "none" || c.modules[kind+name] {
			return
		}
		var err error
		c.await(ctx, func() {
			ctx, cancel := context.WithTimeout(ctx, moduleTimeout)
			defer cancel()
			err = f(ctx, name)
		})
		if err != nil {
			c.log.Debug("failed to load a kernel module", kind, name, "error", err)
		}
		c.modules[kind+name] = true // tried; the kernel tries again with each service
	}
	for i := range ops {
		if o := &ops[i]; o.Kind == plan.AddService || o.Kind == plan.EditService {
			once("scheduler", o.Service.Scheduler, c.kernel.LoadScheduler)
			once("persistence engine", o.Service.PE, c.kernel.LoadPE)
		}
	}
}

// apply sends ops to the kernel.
func (c *Controller) apply(ctx context.Context, ops []plan.Op) (errs []error, writes uint64) {
	if len(ops) == 0 {
		return nil, 0
	}
	// What has begun is finished even on the way out: a new service may have no scheduler halfway. The
	// kernel's answers are waited for within bounds.
	ctx = context.WithoutCancel(ctx)
	before := c.kernel.Writes()
	c.await(ctx, func() { errs = plan.Plan{Ops: ops}.Apply(ctx, c.kernel.Apply) })
	return errs, c.kernel.Writes() - before
}

// report logs what a pass found and did.
func (c *Controller) report(p plan.Plan, ops, healed []plan.Op, writes uint64) {
	if c.fresh {
		if len(p.Ops) == 0 {
			c.log.Info("the IPVS table is as wanted already; nothing was written", "services", len(c.want.Services), "real_servers", c.want.Servers(), "strangers", len(p.Strangers))
		} else if len(ops) > 0 {
			c.log.Info("the IPVS table was changed", "plan", p.Summary(), "writes", writes, "services", len(c.want.Services), "real_servers", c.want.Servers(), "strangers", len(p.Strangers))
		}
	}
	if len(healed) > 0 {
		c.heals++
		c.metrics.heal(len(healed))
		c.log.Warn("healed: somebody else had changed the IPVS table", describe(healed), "writes", writes)
	}
}

// saw notes what the table looks like now.
func (c *Controller) saw(ctx context.Context, st plan.State, asWanted bool) {
	c.have, c.haveAt = st, time.Now()
	c.pending = plan.Plan{}
	if !asWanted || len(st.Services) != len(c.want.Services) {
		c.pending = plan.Diff(c.want, st, c.ours())
	}
	c.own(ctx, st)
}

// serves reports whether traffic for an address has somewhere to go: one of its services is in the
// kernel, or it has none and is for services by mark. Before the table has been read nothing is known.
func (c *Controller) serves(a netip.Addr) bool {
	if c.haveAt.IsZero() {
		return false
	}
	wanted := false
	for i := range c.want.Services {
		w := &c.want.Services[i]
		if w.Addr != a {
			continue
		}
		wanted = true
		// A new service may be without its scheduler for a moment, or for good if that is missing.
		if h := c.have.Find(w.Key); h != nil && (h.Scheduler != "none" || w.Scheduler == "none") {
			return true
		}
	}
	return !wanted
}

// merge is the wanted table together with those services of have that are not ours.
func merge(want, have plan.State, strangers []ipvs.Key) plan.State {
	all := slices.Clone(want.Services)
	for _, k := range strangers {
		if s := have.Find(k); s != nil {
			all = append(all, *s)
		}
	}
	return plan.NewState(all)
}

// stop does what on_stop says.
func (c *Controller) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), stopTimeout, fmt.Errorf("stopping takes longer than %s", stopTimeout))
	defer cancel()
	c.stopping = true
	for _, rc := range c.deferred {
		rc.reply <- errStopped
	}
	c.deferred = nil
	c.opts.Summary("stopping")
	if c.clustered() && c.file.Director.OnStop == spec.Keep {
		// Without its director a VIP has no lease.
		c.leave(ctx)
		err := errors.Join(c.left(), c.keepSync(ctx))
		c.save()
		c.log.Info("stopped: the IPVS table and the kernel settings stay (on_stop: keep)")
		return err
	}
	if c.file.Director.OnStop == spec.Keep {
		err := c.vips.keep(ctx)
		c.save()
		c.log.Info("stopped: the IPVS table, the VIPs and the kernel settings stay (on_stop: keep)")
		return err
	}

	c.leave(ctx)
	errs := []error{c.left()}
	c.outlast(ctx)
	// The table goes while IPVS, on a host that is a real server too, still leaves packets alone.
	errs = append(errs, c.clear(ctx), c.endSync(ctx), c.restore(ctx))
	c.save()
	errs = append(errs, c.storeErr)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("failed to give everything back: %w", err)
	}
	c.log.Info("stopped: VIPs, services and kernel settings are given back (on_stop: release)")
	return nil
}

// leave gives up all VIPs.
func (c *Controller) leave(ctx context.Context) {
	c.opts.Announcer.Set(nil)
	c.vips.giveUp(ctx, nil)
}

// left says which VIPs could not be given up.
func (c *Controller) left() error {
	var errs []error
	for _, k := range slices.SortedFunc(maps.Keys(c.vips.known), vipKey.Compare) {
		if v := c.vips.known[k]; v.state == VIPLeaving {
			errs = append(errs, v.err)
		}
	}
	return errors.Join(errs...)
}

// restore puts the kernel's settings back. A host that is a real server for a VIP keeps one: the table is gone, and the
// connections that this director knew of are not; without expire_nodest_conn the kernel would drop what the active
// director now sends to this host for them, for up to 15 minutes (ip_vs_in_hook() in net/netfilter/ipvs/ip_vs_core.c).
// The next director on this host that stops elsewhere puts it back, or the next boot.
func (c *Controller) restore(ctx context.Context) error {
	if c.opts.Sysctls == nil {
		return nil
	}
	var vip netip.Addr
	var lookErr error
	if c.opts.Sync != nil {
		vip, lookErr = c.elsewhere(ctx)
	}
	put := c.opts.Sysctls.Restore
	if vip.IsValid() {
		var keep []sysctl.Row
		for _, s := range c.settings {
			if s.Key == expireNodest {
				keep = append(keep, s.Row)
				c.log.Info("setting stays: this host is a real server, and some of its connections came by way of this director", "setting", s.Key, "vip", vip)
			}
		}
		put = func() ([]sysctl.Change, error) { return c.opts.Sysctls.Apply(keep) }
	}
	changes, err := put()
	for _, ch := range changes {
		c.log.Info("setting put back", "change", ch.String())
	}
	return errors.Join(lookErr, err)
}

// elsewhere returns a VIP that this host has on another interface than the one where the director puts it, as a real
// server has it on its loopback; the zero Addr if there is none.
func (c *Controller) elsewhere(ctx context.Context) (netip.Addr, error) {
	addrs, err := c.kernel.Addresses(ctx)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, k := range c.vipKeys {
		link, err := c.kernel.Link(ctx, k.Interface)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return netip.Addr{}, err
		}
		if slices.ContainsFunc(addrs, func(a kernel.Address) bool { return a.Prefix.Addr() == k.Prefix.Addr() && a.Index != link.Index }) {
			return k.Prefix.Addr(), nil
		}
	}
	return netip.Addr{}, nil
}

// clear deletes the services that are ours.
func (c *Controller) clear(ctx context.Context) error {
	have, err := c.list(ctx)
	if err != nil {
		return fmt.Errorf("failed to read the IPVS table: %w", err)
	}
	p := plan.Diff(plan.State{}, have, plan.Owner(c.file.Director.Ownership, c.owned))
	p.Ops = append(p.Ops, plan.Diff(plan.State{}, c.private, plan.Owner(spec.OwnAll, nil)).Ops...)
	errs, _ := c.apply(ctx, p.Ops)
	if err := errors.Join(errs...); err != nil {
		return err
	}
	clear(c.owned)
	return nil
}

// summarize tells the summary if it changed.
func (c *Controller) summarize() {
	held := 0
	for _, k := range c.vipKeys {
		if v := c.vips.known[k]; v != nil && v.announced() {
			held++
		}
	}
	s := fmt.Sprintf("%d of %d VIPs held, %d services, %d real servers", held, len(c.vipKeys), len(c.want.Services), c.want.Servers())
	if c.clustered() {
		s = c.roleWords() + "; " + s
	}
	switch {
	case c.tableErr != nil:
		s += "; " + c.tableErr.Error()
	case c.opts.Sync == nil && c.backupOnlyErr != nil:
		s += "; IPVS may forward nothing: " + c.backupOnlyErr.Error()
	case len(c.failing) > 0:
		s += fmt.Sprintf("; %d changes refused by the kernel", len(c.failing))
	}
	if c.rejected != nil {
		s += "; newest file not taken"
	}
	if s != c.summary {
		c.summary = s
		c.opts.Summary(s)
	}
}
