package controller

import (
	"context"
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
)

// Status is what a director tells about itself. Durations are in seconds.
type Status struct {
	Version   string          `json:"version"`
	Started   time.Time       `json:"started"`
	Uptime    float64         `json:"uptime_seconds"`
	Ready     bool            `json:"ready"`   // the first pass has been made
	Healthy   bool            `json:"healthy"` // everything is as wanted
	Summary   string          `json:"summary"`
	File      FileStatus      `json:"file"`
	Options   OptionStatus    `json:"options"`
	Reconcile ReconcileStatus `json:"reconcile"`
	Groups    []GroupStatus   `json:"groups"` // none for a director that is alone
	VIPs      []VIPStatus     `json:"vips"`
	Sync      *SyncStatus     `json:"sync,omitempty"` // nil where nothing is synchronised
	// Connections is nil before the table was listed. A large table is listed once a minute.
	Connections *ConnectionStatus `json:"connections,omitempty"`
	FenceError  string            `json:"fence_error,omitempty"` // why the kernel does not guard the leases
	Writes      WriteStatus       `json:"writes"`
	Errors      []ErrorStatus     `json:"errors"`    // changes that the kernel refuses
	Strangers   []string          `json:"strangers"` // services that are not ours and left alone
	Sysctls     []SysctlStatus    `json:"sysctls"`
	SysctlError string            `json:"sysctl_error,omitempty"`
	StateError  string            `json:"state_error,omitempty"` // why it cannot be recorded what is ours
	Pending     plan.Plan         `json:"pending"`               // what is to be done still
	Want        []ServiceStatus   `json:"want"`
	Have        []ServiceStatus   `json:"have"` // as last seen, with strangers
	Checks      []health.Report   `json:"checks"`
	Drains      []DrainStatus     `json:"drains"` // real servers that are drained

	want, have plan.State
	names      map[string]string
}

// FileStatus is which file is in force, and why a newer one is not.
type FileStatus struct {
	Path       string     `json:"path"`
	Hash       string     `json:"hash"` // SHA-256 of the spec
	Loaded     time.Time  `json:"loaded"`
	Warnings   []string   `json:"warnings,omitempty"`
	Rejected   string     `json:"rejected,omitempty"`
	RejectedAt *time.Time `json:"rejected_at,omitempty"`
}

// OptionStatus are the settings in force.
type OptionStatus struct {
	Ownership         spec.Ownership `json:"ownership"`
	OnStop            spec.OnStop    `json:"on_stop"`
	ReconcileInterval float64        `json:"reconcile_interval_seconds"`
	VIPLifetime       float64        `json:"vip_lifetime_seconds"`
	Sysctls           bool           `json:"sysctls"`
}

// ReconcileStatus is about the comparison with the kernel.
type ReconcileStatus struct {
	Passes   uint64    `json:"passes"`
	Last     time.Time `json:"last"`
	Duration float64   `json:"duration_seconds"` // of the last
	Heals    uint64    `json:"heals"`            // passes that undid somebody else's changes
	Error    string    `json:"error,omitempty"`  // why the table could not be read or changed
}

// GroupStatus is what this director is for one group of VIPs.
type GroupStatus struct {
	Group string    `json:"group"`
	Role  string    `json:"role"` // active or standby
	Epoch uint64    `json:"epoch"`
	Since time.Time `json:"since"`
	Why   string    `json:"why"`
}

// VIPStatus is one VIP.
type VIPStatus struct {
	Address   netip.Prefix `json:"address"`
	Interface string       `json:"interface"`
	Group     string       `json:"group"`
	State     VIPState     `json:"state"`
	Since     time.Time    `json:"since"`
	Carrier   bool         `json:"carrier"` // of the interface
	Error     string       `json:"error,omitempty"`
}

// WriteStatus counts since the start.
type WriteStatus struct {
	Messages uint64         `json:"messages"` // commands sent to the kernel that change the IPVS table
	Changes  []ChangeCounts `json:"changes"`
}

// ChangeCounts counts changes of one kind with one result: done, failed, skipped (they needed one that
// failed) or unknown (the kernel did not answer).
type ChangeCounts struct {
	Kind   string `json:"kind"`
	Result string `json:"result"`
	Count  uint64 `json:"count"`
}

// ErrorStatus is a change that the kernel refuses.
type ErrorStatus struct {
	Change  string    `json:"change"`
	Service string    `json:"service"`
	Name    string    `json:"name,omitempty"` // of the service in the file
	Server  string    `json:"server,omitempty"`
	Error   string    `json:"error"`
	Since   time.Time `json:"since"`
	Tries   int       `json:"tries"`
}

// SysctlStatus is one kernel setting that a director wants.
type SysctlStatus struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Reason string `json:"reason"`
	Source string `json:"source"`
}

// ServiceStatus is a service with its real servers, in the words of ipvsadm.
type ServiceStatus struct {
	Service string         `json:"service"`
	Name    string         `json:"name,omitempty"`
	Error   string         `json:"error,omitempty"` // the last one
	Command string         `json:"command"`
	Servers []ServerStatus `json:"servers"`
}

// ServerStatus is a real server of a service.
type ServerStatus struct {
	Server  string `json:"server"`
	Forward string `json:"forward"`
	Weight  uint32 `json:"weight"`
	Upper   uint32 `json:"upper_threshold,omitempty"`
	Lower   uint32 `json:"lower_threshold,omitempty"`
}

// Status asks the loop how things are. While the kernel does not answer the loop does not either: bound
// the wait with ctx.
func (c *Controller) Status(ctx context.Context) (*Status, error) {
	reply := make(chan *Status, 1)
	select {
	case c.requests <- reply:
		return <-reply, nil
	case <-c.done:
		return nil, errStopped
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// status runs in the loop. Tables are handed over as they are: nobody changes them.
func (c *Controller) status() *Status {
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	ready := false
	select {
	case <-c.ready:
		ready = true
	default:
	}
	d := &c.file.Director
	st := &Status{
		Version: c.opts.Version,
		Started: c.started,
		Uptime:  time.Since(c.started).Seconds(),
		Ready:   ready,
		Summary: c.summary,
		File:    FileStatus{Path: c.path, Hash: c.hash, Loaded: c.loaded, Rejected: text(c.rejected)},
		Options: OptionStatus{
			Ownership:         d.Ownership,
			OnStop:            d.OnStop,
			ReconcileInterval: d.ReconcileInterval.Seconds(),
			VIPLifetime:       d.VIPLifetime.Seconds(),
			Sysctls:           d.Sysctls,
		},
		Reconcile:   ReconcileStatus{Passes: c.passes, Last: c.lastPass, Duration: c.lastTook.Seconds(), Heals: c.heals, Error: text(c.tableErr)},
		Groups:      c.groupStatus(),
		VIPs:        []VIPStatus{},
		FenceError:  text(c.fenceError()),
		Sync:        c.syncStatus(),
		Connections: c.connections,
		Writes:      WriteStatus{Messages: c.kernel.Writes(), Changes: []ChangeCounts{}},
		Errors:      []ErrorStatus{},
		Strangers:   []string{},
		Sysctls:     []SysctlStatus{},
		SysctlError: text(c.sysctlErr),
		StateError:  text(c.storeErr),
		Pending:     c.pending,
		Checks:      health.Reports(&c.file.Spec, c.opts.Health.View()),
		Drains:      c.drainStatus(time.Now()),
		want:        c.want,
		have:        c.have,
		names:       make(map[string]string),
	}
	if !c.rejectAt.IsZero() {
		st.File.RejectedAt = &c.rejectAt
	}
	for _, w := range c.file.Warnings {
		st.File.Warnings = append(st.File.Warnings, w.Error())
	}
	st.Healthy = ready && c.syncErr == nil && c.backupOnlyErr == nil && c.fenceError() == nil && c.tableErr == nil && c.sysctlErr == nil && c.rejected == nil && len(c.failing) == 0 && len(c.pending.Ops) == 0
	for _, k := range slices.SortedFunc(maps.Keys(c.vips.known), vipKey.Compare) {
		v := c.vips.known[k]
		st.VIPs = append(st.VIPs, VIPStatus{Address: k.Prefix, Interface: k.Interface, Group: c.vips.groups[k], State: v.state, Since: v.since, Carrier: v.carrier, Error: text(v.err)})
		standby := v.state == VIPStandby && !c.active(c.vips.groups[k])
		st.Healthy = st.Healthy && (v.announced() || standby) && v.err == nil
	}
	for i := range c.file.Spec.Services {
		s := &c.file.Spec.Services[i]
		st.names[s.Key.String()] = s.Name
	}
	for k, f := range c.failing {
		e := ErrorStatus{Change: k.String(), Service: k.service.String(), Error: f.err.Error(), Since: f.since, Tries: f.tries}
		e.Name = st.names[e.Service]
		if k.server.Addr.IsValid() {
			e.Server = k.server.String()
		}
		st.Errors = append(st.Errors, e)
	}
	slices.SortFunc(st.Errors, func(a, b ErrorStatus) int { return strings.Compare(a.Change, b.Change) })
	for _, k := range c.have.Keys() {
		if c.want.Find(k) == nil {
			if _, ours := c.owned[k]; !ours {
				st.Strangers = append(st.Strangers, k.String())
			}
		}
	}
	for _, s := range c.settings {
		st.Sysctls = append(st.Sysctls, SysctlStatus{Key: s.Key, Value: s.Value, Reason: s.Reason, Source: s.Source})
	}
	for k, n := range c.metrics.counted {
		st.Writes.Changes = append(st.Writes.Changes, ChangeCounts{Kind: k[0], Result: k[1], Count: n})
	}
	slices.SortFunc(st.Writes.Changes, func(a, b ChangeCounts) int {
		return strings.Compare(a.Kind+" "+a.Result, b.Kind+" "+b.Result)
	})
	return st
}

// MarshalJSON fills in the tables, which is work for the one who asks and not for the loop.
func (s *Status) MarshalJSON() ([]byte, error) {
	type plain Status
	out := plain(*s)
	errs := make(map[string]string)
	for _, e := range s.Errors {
		errs[e.Service] = e.Error
	}
	table := func(t plan.State) []ServiceStatus {
		list := make([]ServiceStatus, len(t.Services))
		for i := range t.Services {
			svc := &t.Services[i]
			key := svc.Key.String()
			list[i] = ServiceStatus{
				Service: key,
				Name:    s.names[key],
				Command: plan.Op{Kind: plan.AddService, Service: svc.Service}.String(),
				Servers: make([]ServerStatus, len(svc.Servers)),
			}
			for j := range svc.Servers {
				d := &svc.Servers[j]
				list[i].Servers[j] = ServerStatus{Server: d.DestKey.String(), Forward: d.Forward.String(), Weight: d.Weight, Upper: d.Upper, Lower: d.Lower}
			}
		}
		return list
	}
	out.Want, out.Have = table(s.want), table(s.have)
	for i := range out.Want {
		out.Want[i].Error = errs[out.Want[i].Service]
	}
	return json.Marshal(out)
}
