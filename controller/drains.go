package controller

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/drover-lb/drover/controller/drain"
	"github.com/drover-lb/drover/controller/owned"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

const (
	// drainLook is how often the connections of real servers that are drained are counted.
	drainLook = 500 * time.Millisecond
	// drainLookLarge is how often in a table of largeTable real servers and more.
	drainLookLarge = 5 * time.Second
)

// drains is how far the real servers are that are drained. What each step decides, package drain says.
type drains struct {
	wished   map[owned.Server]bool // by the file
	records  map[owned.Server]drain.Record
	verdicts map[owned.Server]drain.Verdict
	counted  map[owned.Server]seen // by the last listing
	unsaved  bool                  // records differ from the state file
	look     *time.Timer           // for the next step
}

// seen is a real server as the kernel listed it.
type seen struct {
	weight uint32
	counts drain.Counts
}

// observe notes the connections of the real servers that are to be drained.
func (d *drains) observe(entries []ipvs.ServiceEntry) {
	d.counted = nil
	for i := range entries {
		for j := range entries[i].Destinations {
			e := &entries[i].Destinations[j]
			k := owned.Server{Service: entries[i].Key, Server: e.DestKey}
			if !d.wished[k] {
				continue
			}
			if d.counted == nil {
				d.counted = make(map[owned.Server]seen)
			}
			d.counted[k] = seen{weight: e.Weight, counts: drain.Counts{Active: uint64(e.Counts.Active), Inactive: uint64(e.Counts.Inactive), Persistent: uint64(e.Counts.Persistent)}}
		}
	}
}

// wish takes in whom a file wants to be drained.
func (d *drains) wish(s *spec.Spec) {
	d.wished = make(map[owned.Server]bool)
	for i := range s.Services {
		for j := range s.Services[i].RealServers {
			if r := &s.Services[i].RealServers[j]; drain.Wish(r).On {
				d.wished[owned.Server{Service: s.Services[i].Key, Server: r.DestKey}] = true
			}
		}
	}
}

// apply takes out the real servers whose drain is over and that are not kept.
func (d *drains) apply(want plan.State) plan.State {
	for i := range want.Services {
		s := &want.Services[i]
		in := s.Servers[:0]
		for _, x := range s.Servers {
			if !d.verdicts[owned.Server{Service: s.Key, Server: x.DestKey}].Remove {
				in = append(in, x)
			}
		}
		s.Servers = in
	}
	return want
}

// stepDrains brings all drains up to date with what was listed last.
func (c *Controller) stepDrains(now time.Time) {
	d := &c.drains
	records := make(map[owned.Server]drain.Record)
	verdicts := make(map[owned.Server]drain.Verdict)
	var next time.Time
	wake := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	look := drainLook
	if c.want.Servers() >= largeTable {
		look = drainLookLarge
	}
	groups := make(map[netip.Addr]string, len(c.file.Spec.VIPs))
	for i := range c.file.Spec.VIPs {
		groups[c.file.Spec.VIPs[i].Prefix.Addr()] = c.file.Spec.VIPs[i].Group
	}
	for i := range c.file.Spec.Services {
		s := &c.file.Spec.Services[i]
		for j := range s.RealServers {
			r := &s.RealServers[j]
			k := owned.Server{Service: s.Key, Server: r.DestKey}
			wish := drain.Wish(r)
			before, was := d.records[k]
			if !wish.On && !was {
				continue
			}
			x, listed := d.counted[k]
			if !listed {
				x.counts = d.verdicts[k].Counts // as last seen
			}
			x.counts.Known = listed && x.weight == 0 && c.counts(s, groups)
			rec, v := drain.Step(before, drain.Input{Wish: wish, Counts: x.counts, Now: now,
				Templates: s.Flags&ipvs.Persistent != 0 && !c.file.Director.Sysctls, Whole: s.Protocol != ipvs.TCP})
			c.tellDrain(s, r, before, d.verdicts[k], v, c.countsSince(s, groups), now)
			if v.State == drain.Serving {
				continue
			}
			records[k], verdicts[k] = rec, v
			if v.State == drain.Draining {
				wake(now.Add(look))
				if !v.Until.IsZero() {
					wake(v.Until)
				}
				if !v.Settles.IsZero() {
					wake(v.Settles)
				}
			}
		}
	}
	same := len(records) == len(d.records)
	for k, r := range records {
		before := d.records[k]
		before.Quiet, r.Quiet = time.Time{}, time.Time{} // counted anew by the next start
		same = same && before == r
	}
	d.unsaved = d.unsaved || !same
	d.records, d.verdicts = records, verdicts
	if next.IsZero() {
		d.look.Stop()
	} else {
		d.look.Reset(max(next.Sub(now), 0))
	}
}

// counts reports whether this director's kernel has all connections of a service: it has the VIP.
func (c *Controller) counts(s *spec.Service, groups map[netip.Addr]string) bool {
	if !c.clustered() {
		return true
	}
	if group, ok := groups[s.Addr]; ok {
		return c.active(group)
	}
	for _, r := range c.roles { // by mark, or for an address that somebody else puts there
		if r.Active {
			return true
		}
	}
	return false
}

// countsSince is when this director came to count the connections of a service; zero if it always has.
func (c *Controller) countsSince(s *spec.Service, groups map[netip.Addr]string) time.Time {
	if r := c.roles[groups[s.Addr]]; r != nil && r.Active {
		return r.since
	}
	return time.Time{}
}

// tellDrain tells what has become of a drain since the last step. before is the record, zero if there was none; counts is
// since when this director counts.
func (c *Controller) tellDrain(s *spec.Service, r *spec.RealServer, before drain.Record, old, v drain.Verdict, counts, now time.Time) {
	say := func(bad bool, format string, args ...any) {
		text := fmt.Sprintf("%s/%s: ", s.Name, r.Name) + fmt.Sprintf(format, args...)
		c.opts.Drained(DrainEvent{Service: s.Name, Server: r.Name, State: v.State.String(), Text: text, Bad: bad})
	}
	if v.State == drain.Serving {
		say(false, "not drained any more, after %s", now.Sub(before.Since).Round(time.Second))
		return
	}
	if before.Since.IsZero() || !before.Since.Equal(v.Since) {
		say(false, "draining: %s", v.Progress(now))
	}
	if v.State == old.State || before.Done && v.State == drain.Drained {
		return
	}
	end := "it is kept with weight 0"
	switch {
	case v.Remove && v.State == drain.Expired:
		end = "it is taken out, and they are cut"
	case v.Remove:
		end = "it is taken out"
	}
	// A standby does not count, and the director that did has told how it ended.
	if c.clustered() && !v.Counts.Known || !old.Counts.Known && v.Since.Before(counts) {
		return
	}
	switch v.State {
	case drain.Drained:
		say(false, "drained after %s: %s", now.Sub(v.Since).Round(time.Second), end)
	case drain.Expired:
		say(true, "%s: %s", v.Progress(now), end)
	case drain.Serving, drain.Draining:
	}
}

// DrainEvent is a step of the drain of a real server.
type DrainEvent struct {
	Service, Server string // names
	State           string // serving, draining, drained or expired
	Text            string
	Bad             bool // connections were left
}

// DrainStatus is a real server that is drained.
type DrainStatus struct {
	Service    string    `json:"service"` // such as "TCP 192.0.2.10:80"
	Name       string    `json:"name"`    // of the service
	Server     string    `json:"server"`  // address and port
	ServerName string    `json:"server_name"`
	State      string    `json:"state"` // draining, drained or expired
	Since      time.Time `json:"since"`
	Until      time.Time `json:"until,omitzero"` // the deadline
	Then       string    `json:"then"`           // keep or remove
	Active     uint64    `json:"active"`
	Inactive   uint64    `json:"inactive"`
	Persistent uint64    `json:"persistent"`
	Text       string    `json:"text"` // how far it is, such as "12 connections, 25 s left"
}

// drainStatus lists the real servers that are drained, in the order of the file.
func (c *Controller) drainStatus(now time.Time) []DrainStatus {
	out := []DrainStatus{}
	for i := range c.file.Spec.Services {
		s := &c.file.Spec.Services[i]
		for j := range s.RealServers {
			r := &s.RealServers[j]
			v, ok := c.drains.verdicts[owned.Server{Service: s.Key, Server: r.DestKey}]
			if !ok {
				continue
			}
			out = append(out, DrainStatus{Service: s.Key.String(), Name: s.Name, Server: r.DestKey.String(), ServerName: r.Name, State: v.State.String(),
				Since: v.Since, Until: v.Until, Then: drain.Wish(r).Then(), Active: v.Counts.Active, Inactive: v.Counts.Inactive, Persistent: v.Counts.Persistent,
				Text: v.Progress(now)})
		}
	}
	return out
}
