package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/controller/spec"
)

// Role is what a director is for one group of VIPs.
type Role struct {
	Active bool
	Epoch  uint64 // of the activation, or of the one that made it standby; rises in the cluster
	Why    string // for people
}

// role is a Role that is in force.
type role struct {
	Role
	since time.Time
}

// Fence silences the VIPs of a group in the kernel itself; package fence does. How long a group is let
// through belongs to whoever holds its lease, not to the controller. Calls are bounded in time. Drop and
// Lift may be called while Set or Repair runs.
type Fence interface {
	// Set names the interfaces and the guarded addresses with their groups. A group that is new is
	// silent.
	Set(interfaces []string, groups map[netip.Addr]string) error
	// Repair puts the guard back where it has gone, as with an interface that was made anew.
	Repair() error
	// Drop silences a group until its lease is extended.
	Drop(group string) error
	// Hush keeps back, for d from now, the resets that this host's own TCP sends from the VIPs of a group to
	// connections that it does not know.
	Hush(group string, d time.Duration) error
	// Lift lets everything for a group through: its VIPs are off the interfaces, and what arrives for them
	// is for a real server on this host.
	Lift(group string) error
}

// roleChange is a call of SetRole.
type roleChange struct {
	group string
	role  Role
	reply chan error // capacity 1
}

// ErrAlone is the error of SetRole at a director that was not made one of several.
var ErrAlone = errors.New("this director is alone and always active")

// errSuperseded: a group changed its role again before the change was through.
var errSuperseded = errors.New("the role was changed again")

// SetRole makes this director active or standby for a group. It returns when the addresses of the group
// are on their interfaces and handed to the announcer, or off; the error says which are not, and why.
// The role holds all the same: what failed is tried again with each pass. Where services of the group
// are not in the kernel yet, the call waits for the pass that puts them there.
//
// If ctx ends first, its cause is returned; the role may be in force then.
func (c *Controller) SetRole(ctx context.Context, group string, r Role) error {
	if !c.clustered() {
		return ErrAlone
	}
	rc := roleChange{group: group, role: r, reply: make(chan error, 1)}
	select {
	case c.roleChanges <- rc:
	case <-c.done:
		return errStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-rc.reply:
		return err
	case <-c.done:
		return errStopped
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// clustered reports whether this director is one of several.
func (c *Controller) clustered() bool { return c.opts.Roles != nil }

// active reports whether this director is to hold a group.
func (c *Controller) active(group string) bool {
	if !c.clustered() {
		return true
	}
	r := c.roles[group]
	return r != nil && r.Active
}

// anyActive reports whether this director is to hold any group.
func (c *Controller) anyActive() bool {
	return slices.ContainsFunc(c.groups, c.active)
}

// leased asks whether a group may be on the interfaces at this moment.
func (c *Controller) leased(group string) bool {
	return c.active(group) && (c.opts.Leased == nil || c.opts.Leased(group))
}

// keysIn lists the VIPs of a group.
func (c *Controller) keysIn(group string) []vipKey {
	var keys []vipKey
	for _, k := range c.vipKeys {
		if c.vips.groups[k] == group {
			keys = append(keys, k)
		}
	}
	return keys
}

// changeRole carries out a call of SetRole. It runs in the loop's goroutine, also while another one waits
// for the kernel's table, and does not touch what belongs to the table.
func (c *Controller) changeRole(ctx context.Context, rc roleChange) {
	if rc.role.Active && (c.stopping || ctx.Err() != nil) {
		rc.reply <- errStopped
		return
	}
	// What has begun is finished, also on the way out.
	ctx = context.WithoutCancel(ctx)
	c.deferred = slices.DeleteFunc(c.deferred, func(d roleChange) bool {
		if d.group == rc.group {
			d.reply <- errSuperseded
		}
		return d.group == rc.group
	})
	before := c.roles[rc.group]
	now := &role{Role: rc.role, since: time.Now()}
	if before != nil && before.Active == now.Active {
		now.since = before.since
	}
	c.roles[rc.group] = now
	c.opts.Health.SetLead(c.anyActive())
	if before == nil || before.Active != rc.role.Active || before.Epoch != rc.role.Epoch {
		c.log.Info("role", "group", rc.group, "role", now.String(), "epoch", now.Epoch, "why", now.Why)
	}
	if !slices.Contains(c.groups, rc.group) && !rc.role.Active {
		delete(c.roles, rc.group) // of no VIP: standby is what it would be anyway
	}

	keys := c.keysIn(rc.group)
	if was := before != nil && before.Active; was != rc.role.Active || was && before.Epoch < rc.role.Epoch {
		c.overlap(rc.group)
	}
	if rc.role.Active {
		c.syncDue = true
		c.backupOnly() // before packets may arrive
		if before == nil || !before.Active || before.Epoch < rc.role.Epoch {
			c.vips.anew(keys)
		}
		c.vips.settle(ctx, keys, c.serves)
		c.announce()
		if c.vips.waits(keys) {
			c.again()
			c.deferred = append(c.deferred, rc)
			return
		}
		c.check.Reset(checkAfter)
	} else {
		c.unannounce(rc.group)
		c.vips.standDown(ctx, keys)
		c.shield()
		c.syncDue = true
		c.backupOnly()
	}
	c.summarize()
	rc.reply <- c.roleErr(rc.group)
}

// unannounce ends the announcements of a group and silences it.
func (c *Controller) unannounce(group string) {
	if c.opts.Fence != nil {
		c.dropped(group, c.opts.Fence.Drop(group))
		delete(c.lifted, group)
	}
	c.vips.mute(c.keysIn(group))
	c.announce()
}

// dropped notes whether a group was silenced, or why not.
func (c *Controller) dropped(group string, err error) {
	if err == nil {
		delete(c.dropErrs, group)
		return
	}
	if fmt.Sprint(err) != fmt.Sprint(c.dropErrs[group]) {
		c.log.Error("the kernel does not guard the leases of a group", "group", group, "error", err)
	}
	c.dropErrs[group] = err
}

// fenceError says what of the fence is not as it should be.
func (c *Controller) fenceError() error {
	errs := []error{c.fenceErr}
	for _, g := range slices.Sorted(maps.Keys(c.dropErrs)) {
		errs = append(errs, c.dropErrs[g])
	}
	return errors.Join(errs...)
}

// answer replies to the calls of SetRole that waited for a pass.
func (c *Controller) answer() {
	for _, rc := range c.deferred {
		rc.reply <- c.roleErr(rc.group)
	}
	c.deferred = nil
}

// roleErr says what of a group is not as its role asks.
func (c *Controller) roleErr(group string) error {
	var errs []error
	for _, k := range c.keysIn(group) {
		v := c.vips.known[k]
		switch {
		case v == nil:
			errs = append(errs, fmt.Errorf("VIP %s was not looked at yet", k))
		case c.active(group) && v.announced(), !c.active(group) && v.off():
		case v.err != nil:
			errs = append(errs, fmt.Errorf("VIP %s: %s: %w", k, v.state, v.err))
		default:
			errs = append(errs, fmt.Errorf("VIP %s: %s", k, v.state))
		}
	}
	if err := errors.Join(c.fenceErr, c.dropErrs[group]); err != nil && len(errs) > 0 && !c.active(group) {
		errs = append(errs, fmt.Errorf("and the kernel may not silence it: %w", err))
	}
	return errors.Join(errs...)
}

// String returns active or standby.
func (r *role) String() string {
	if r.Active {
		return "active"
	}
	return "standby"
}

// again asks for a whole pass.
func (c *Controller) again() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// silent reports whether nothing of what this director may not hold is known to be on an interface.
func (c *Controller) silent() bool {
	for _, k := range c.vipKeys {
		if v := c.vips.known[k]; !c.active(c.vips.groups[k]) && (v == nil || !v.off() && v.state != VIPStatic) {
			return false
		}
	}
	return true
}

// guard keeps the fence where it belongs.
func (c *Controller) guard(ctx context.Context) {
	if c.opts.Fence == nil {
		return
	}
	var err error
	if c.fenced {
		c.await(ctx, func() { err = c.opts.Fence.Repair() })
	} else {
		var names []string
		addrs := make(map[netip.Addr]string, len(c.vipKeys))
		for _, k := range c.vipKeys {
			names = append(names, k.Interface)
			addrs[k.Prefix.Addr()] = c.vips.groups[k]
		}
		slices.Sort(names)
		names = slices.Compact(names)
		c.await(ctx, func() { err = c.opts.Fence.Set(names, addrs) })
		c.fenced = err == nil
		if err == nil && !c.hushed { // a predecessor may have been killed while it was active
			c.hushed = true
			for _, g := range c.groups {
				c.hush(g)
			}
		}
	}
	if fmt.Sprint(err) != fmt.Sprint(c.fenceErr) {
		if err != nil {
			c.log.Error("the kernel does not guard the leases on all interfaces; the VIPs' lifetime alone does there", "error", err)
		} else {
			c.log.Info("the kernel guards the leases")
		}
	}
	c.fenceErr = err
}

// shield lifts the fence of groups that are off the interfaces, and silences those standby groups that are
// not.
func (c *Controller) shield() {
	if c.opts.Fence == nil {
		return
	}
	for _, group := range c.groups {
		if c.active(group) {
			delete(c.lifted, group)
			delete(c.dropErrs, group)
			continue
		}
		off := true
		for _, k := range c.keysIn(group) {
			v := c.vips.known[k]
			off = off && v != nil && v.off()
		}
		was, known := c.lifted[group]
		if known && was == off {
			continue
		}
		var err error
		if off {
			err = c.opts.Fence.Lift(group)
		} else {
			err = c.opts.Fence.Drop(group)
		}
		if c.dropped(group, err); err != nil {
			continue
		}
		c.lifted[group] = off
	}
}

// roleWords says in a few words what this director is.
func (c *Controller) roleWords() string {
	var active []string
	for _, g := range c.groups {
		if c.active(g) {
			active = append(active, g)
		}
	}
	switch {
	case len(active) == 0:
		return "standby"
	case len(active) == len(c.groups):
		return "active"
	}
	return "active for " + strings.Join(active, ", ")
}

// groupStatus lists the groups of the spec.
func (c *Controller) groupStatus() []GroupStatus {
	out := make([]GroupStatus, 0, len(c.groups))
	if !c.clustered() {
		return out
	}
	for _, name := range c.groups {
		g := GroupStatus{Group: name, Role: "standby", Since: c.started}
		if r := c.roles[name]; r != nil {
			g.Role, g.Epoch, g.Since, g.Why = r.String(), r.Epoch, r.since, r.Why
		}
		out = append(out, g)
	}
	return out
}

// groupsOf lists the group of each VIP of a file.
func groupsOf(f *spec.File) map[vipKey]string {
	groups := make(map[vipKey]string, len(f.Spec.VIPs))
	for i, k := range unsortedKeys(f) {
		groups[k] = f.Spec.VIPs[i].Group
	}
	return groups
}
