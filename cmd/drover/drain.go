package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

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
			out[s.Service] = spec.RealServer{Name: m.Name, Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: r.Addr, Port: r.Port}, Forward: ipvs.DirectRoute}}
		}
	}
	return out, nil
}

func drainServer(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, one, server, err := serverOf(c)
	if err != nil {
		return err
	}
	pooled, err := members(ctx, d, server)
	if err != nil {
		return err
	}
	return change(ctx, c, d, drain(ref, one, server, pooled))
}

// drain gives a real server weight 0, in one service or in all that have it. pooled are the members of pools that
// server may mean, by the key of the service.
func drain(ref edit.Ref, one bool, server edit.ServerRef, pooled map[string]spec.RealServer) edit.Change {
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
				svc.RealServers[j].Weight = 0
				found = true
			} else if m, ok := pooled[svc.Key.String()]; ok {
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

// undrain gives a real server with weight 0 its former weight back, or weight unless that is 0. before is what it
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
			switch r := &svc.RealServers[j]; {
			case r.Weight != 0 && weight == 0:
			case weight != 0:
				r.Weight = weight
			case known && old.Weight != 0:
				r.Weight = old.Weight
			case known && svc.Pool != "": // listed for the drain only
				svc.RealServers = slices.Delete(svc.RealServers, j, j+1)
			default:
				r.Weight = 1
			}
		}
		if !found {
			return noServer(ref, one, server)
		}
		return nil
	}
}

// formerly looks in the history for what a real server was before it had weight 0, by the key of the service. One
// that was not listed has weight 0 in it.
func formerly(ctx context.Context, d *api.Client, doc *api.Document, server edit.ServerRef) (map[string]spec.RealServer, error) {
	now, err := spec.ParseSpec("the specification in force", []byte(doc.Content))
	if err != nil {
		return nil, err
	}
	open := make(map[ipvs.Key]bool) // drained, and not found yet
	for i := range now.Spec.Services {
		if j := server.Index(&now.Spec.Services[i]); j >= 0 && now.Spec.Services[i].RealServers[j].Weight == 0 {
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
			if j >= 0 && svc.RealServers[j].Weight == 0 {
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
