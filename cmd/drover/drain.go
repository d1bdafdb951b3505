package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/controller/spec/edit"
	"github.com/drover-lb/drover/ipvs"
)

// lookBack bounds how many versions undrain reads to find what a real server was before.
const lookBack = 100

// members lists the members of pools that ref means, by the key of the service.
func members(ctx context.Context, d *api.Client, server edit.ServerRef) (map[string]spec.RealServer, error) {
	var list api.Services
	if err := d.Do(ctx, "GET", "/v1/services", nil, &list); err != nil {
		return nil, err
	}
	out := make(map[string]spec.RealServer)
	for _, s := range list.Services {
		for _, m := range s.Servers {
			r := edit.ParseServer(m.Server)
			if m.Node == "" || m.Listed || m.Name != server.Name && (server.Addr != r.Addr || server.Port != 0 && server.Port != r.Port) {
				continue
			}
			out[s.Service] = spec.RealServer{Name: m.Name, Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: r.Addr, Port: r.Port}, Weight: max(m.Weight, 1), Forward: ipvs.DirectRoute}}
		}
	}
	return out, nil
}

func drainServer(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, one, server, err := serverOf(c)
	if err != nil {
		return err
	}
	policy, err := drainOptions(c)
	if err != nil {
		return err
	}
	wait := c.Duration("wait")
	if c.IsSet("wait") && (wait < time.Second || wait > spec.MaxDrain) {
		return wrong(c, "wait (%s) must be between 1s and %s", wait, spec.MaxDrain)
	}
	if wait > 0 && c.Bool("dry-run") {
		return wrong(c, "--wait and --dry-run exclude each other: there is nothing to wait for")
	}
	pooled, err := members(ctx, d, server)
	if err != nil {
		return err
	}
	if err := change(ctx, c, d, drain(ref, one, server, pooled, policy, time.Now())); err != nil || wait == 0 {
		return err
	}
	return awaitDrain(c, d, ref, one, server, wait)
}

// drainOptions reads how the drain is to end; what is not given is for the service to say.
func drainOptions(c *cli.Context) (func(*spec.DrainPolicy), error) {
	deadline, then := c.Duration("deadline"), c.String("then")
	if c.IsSet("deadline") && (deadline < 0 || deadline > spec.MaxDrain) {
		return nil, wrong(c, "deadline (%s) must be between 0s, which is none, and %s", deadline, spec.MaxDrain)
	}
	if c.IsSet("then") && then != spec.DrainKeep && then != spec.DrainRemove {
		return nil, wrong(c, "then (%q) must be %s or %s", then, spec.DrainKeep, spec.DrainRemove)
	}
	return func(p *spec.DrainPolicy) {
		if c.IsSet("deadline") {
			p.Deadline = deadline
		}
		if c.IsSet("then") {
			p.Remove = then == spec.DrainRemove
		}
	}, nil
}

// drain has a real server drained, in one service or in all that have it. pooled are the members of pools that
// server may mean, by the key of the service. One that is drained already goes on from where it is, by policy.
func drain(ref edit.Ref, one bool, server edit.ServerRef, pooled map[string]spec.RealServer, policy func(*spec.DrainPolicy), now time.Time) edit.Change {
	start := func(svc *spec.Service, r *spec.RealServer) {
		if !r.Drain.On {
			r.Drain = spec.Drain{On: true, Since: now.UTC().Truncate(time.Second), DrainPolicy: svc.Drain}
		}
		policy(&r.Drain.DrainPolicy)
	}
	return func(s *spec.Spec) error {
		found := false
		for i := range s.Services {
			svc := &s.Services[i]
			if one {
				var err error
				if svc, err = ref.Find(s); err != nil {
					return err
				}
			}
			if j := server.Index(svc); j >= 0 {
				start(svc, &svc.RealServers[j])
				found = true
			} else if m, ok := pooled[svc.Key.String()]; ok {
				start(svc, &m)
				if err := edit.AddServer(edit.Ref{Key: svc.Key}, m)(s); err != nil {
					return err
				}
				found = true
			}
			if one {
				break
			}
		}
		if !found {
			return noServer(ref, one, server)
		}
		return nil
	}
}

// drainPoll is how often the director is asked how far a drain is: as often as it counts the connections.
const drainPoll = 500 * time.Millisecond

// awaitDrain waits until a real server is drained, and tells how far it is each time that this changes.
func awaitDrain(c *cli.Context, d *api.Client, ref edit.Ref, one bool, server edit.ServerRef, wait time.Duration) error {
	ctx, cancel := contextWithTimeout(c, wait)
	defer cancel()
	last := ""
	for {
		var list api.Services
		err := d.Do(ctx, "GET", "/v1/services", nil, &list)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil {
			text, open, expired := drainProgress(&list, ref, one, server)
			if text != "" && text != last {
				fmt.Fprintln(c.App.Writer, text)
				last = text
			}
			if expired {
				return errors.New("the deadline is over, and connections are left")
			}
			if text != "" && !open {
				return nil
			}
		}
		select {
		case <-time.After(drainPoll):
		case <-ctx.Done():
			return fmt.Errorf("not drained after %s: %s (it goes on; drover explain %s tells how far it is)", wait, cmp.Or(last, "no director says anything"), server)
		}
	}
}

// drainProgress says how far the drain of a real server is, "" if nothing is known of it yet.
func drainProgress(list *api.Services, ref edit.Ref, one bool, server edit.ServerRef) (text string, open, expired bool) {
	var parts []string
	for i := range list.Services {
		s := &list.Services[i]
		if one && s.Service != ref.Key.String() && s.Name != ref.Name && s.Service != ref.Name {
			continue
		}
		for j := range s.Servers {
			x := &s.Servers[j]
			at := edit.ParseServer(x.Server)
			if x.Name != server.Name && (at.Addr != server.Addr || server.Port != 0 && at.Port != server.Port) || x.Drain == nil {
				continue
			}
			parts = append(parts, fmt.Sprintf("%s/%s: %s: %s", s.Name, x.Name, x.Drain.State, x.Drain.Text))
			open = open || x.Drain.State == api.Draining
			expired = expired || x.Drain.State == api.Expired
		}
	}
	return strings.Join(parts, "; "), open, expired
}

func noServer(ref edit.Ref, one bool, server edit.ServerRef) error {
	if one {
		return fmt.Errorf("the service %s has no real server %s (drover service list shows what there is)", ref, server)
	}
	return fmt.Errorf("no service has a real server %s (drover service list shows what there is)", server)
}

func undrainServer(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, one, server, err := serverOf(c)
	if err != nil {
		return err
	}
	weight, given, err := number(c, "weight", ipvs.MaxWeight)
	if err != nil {
		return err
	}
	if given && weight == 0 {
		return wrong(c, "weight 0 is what a drained server has")
	}
	doc, err := document(ctx, d)
	if err != nil {
		return err
	}
	before := make(map[string]spec.RealServer)
	if !given && doc.Replicated {
		if before, err = formerly(ctx, d, doc, server); err != nil {
			return err
		}
	}
	return change(ctx, c, d, undrain(ref, one, server, weight, before))
}

// undrain ends the drain of a real server. One with weight 0 gets its former weight back, or weight unless that is 0. before is what it
// was, by the key of the service; if it was not listed before, and the service has a pool, it is not listed again.
func undrain(ref edit.Ref, one bool, server edit.ServerRef, weight uint32, before map[string]spec.RealServer) edit.Change {
	return func(s *spec.Spec) error {
		if one {
			if _, err := ref.Find(s); err != nil {
				return err
			}
		}
		found := false
		for i := range s.Services {
			svc := &s.Services[i]
			if one {
				if only, err := ref.Find(s); err != nil || only.Key != svc.Key {
					continue
				}
			}
			j := server.Index(svc)
			if j < 0 {
				continue
			}
			found = true
			old, known := before[svc.Key.String()]
			r := &svc.RealServers[j]
			listed := old.Addr.IsValid() // before the drain
			switch {
			case r.InForce() != 0 && weight == 0:
			case weight != 0:
				r.Weight = weight
			case known && !listed && svc.Pool != "": // for the drain only
				svc.RealServers = slices.Delete(svc.RealServers, j, j+1)
				continue
			case r.Weight != 0:
			case known && old.Weight != 0:
				r.Weight = old.Weight
			default:
				r.Weight = 1
			}
			r.Drain = spec.Drain{}
		}
		if !found {
			return noServer(ref, one, server)
		}
		return nil
	}
}

// formerly looks in the history for what a real server was before it was drained, by the key of the service. One
// that was not listed has no address in it.
func formerly(ctx context.Context, d *api.Client, doc *api.Document, server edit.ServerRef) (map[string]spec.RealServer, error) {
	now, err := spec.ParseSpec("the specification in force", []byte(doc.Content))
	if err != nil {
		return nil, err
	}
	open := make(map[ipvs.Key]bool) // drained, and not found yet
	for i := range now.Spec.Services {
		if j := server.Index(&now.Spec.Services[i]); j >= 0 && now.Spec.Services[i].RealServers[j].InForce() == 0 {
			open[now.Spec.Services[i].Key] = true
		}
	}
	out := make(map[string]spec.RealServer)
	var list []api.Entry
	if err := d.Do(ctx, "GET", "/v1/history", nil, &list); err != nil {
		return nil, err
	}
	for _, e := range list[:min(len(list), lookBack)] {
		if len(open) == 0 {
			break
		}
		var full api.Entry
		err := d.Do(ctx, "GET", "/v1/history/"+url.PathEscape(e.Version), nil, &full)
		var gone *api.Error
		if errors.As(err, &gone) {
			break // the history is not kept for ever
		}
		if err != nil {
			return nil, err
		}
		old, err := spec.ParseSpec("version "+e.Version, []byte(full.Content))
		if err != nil {
			continue
		}
		for k := range open {
			svc, err := (edit.Ref{Key: k}).Find(&old.Spec)
			if err != nil {
				delete(open, k) // the service is younger than that
				continue
			}
			j := server.Index(svc)
			if j >= 0 && svc.RealServers[j].InForce() == 0 {
				continue
			}
			delete(open, k)
			out[k.String()] = spec.RealServer{}
			if j >= 0 {
				out[k.String()] = svc.RealServers[j]
			}
		}
	}
	return out, nil
}
