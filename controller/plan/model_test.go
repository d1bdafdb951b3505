package plan

import (
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs"
)

// model is the part of net/netfilter/ipvs/ip_vs_ctl.c that a plan can trip over. It refuses what the
// kernel refuses, with the same errno, and counts what is dear.
type model struct {
	services map[ipvs.Key]*modelService
	rebuilds int // of a table of mh
	waits    int // for an RCU grace period
}

type modelService struct {
	ipvs.Service
	servers map[ipvs.DestKey]ipvs.Destination
}

func newModel(s State) *model {
	m := &model{services: make(map[ipvs.Key]*modelService)}
	for _, svc := range s.Services {
		ms := &modelService{Service: svc.Service, servers: make(map[ipvs.DestKey]ipvs.Destination)}
		for _, d := range svc.Servers {
			ms.servers[d.DestKey] = d
		}
		m.services[svc.Key] = ms
	}
	return m
}

func (m *model) state() State {
	var services []Service
	for _, s := range m.services {
		services = append(services, Service{Service: s.Service, Servers: slices.Collect(maps.Values(s.servers))})
	}
	return NewState(services)
}

func (m *model) apply(c ipvs.Command) error {
	s := m.services[c.Service.Key]
	switch c.Op {
	case ipvs.OpNewService:
		if s != nil {
			return unix.EEXIST
		}
		if err := modelCheck(&c.Service); err != nil {
			return err
		}
		m.services[c.Service.Key] = &modelService{Service: c.Service, servers: make(map[ipvs.DestKey]ipvs.Destination)}
		return nil
	case ipvs.OpSetService:
		if s == nil {
			return unix.ESRCH
		}
		if err := modelCheck(&c.Service); err != nil {
			return err
		}
		if s.Scheduler != c.Service.Scheduler {
			if s.Scheduler != idle {
				m.waits++
			}
			if c.Service.Scheduler == "mh" {
				m.rebuilds++
			}
		}
		s.Service = c.Service
		return nil
	case ipvs.OpDelService:
		if s == nil {
			return unix.ESRCH
		}
		delete(m.services, c.Service.Key)
		return nil
	}

	if s == nil {
		return unix.ESRCH
	}
	_, exists := s.servers[c.Dest.DestKey]
	switch c.Op {
	case ipvs.OpNewDest, ipvs.OpSetDest:
		switch isNew := c.Op == ipvs.OpNewDest; {
		case ipvs.FamilyOf(c.Dest.Addr) != s.Family && c.Dest.Forward != ipvs.Tunnel:
			return unix.EINVAL
		case c.Dest.Lower > c.Dest.Upper:
			return unix.ERANGE
		case isNew && exists:
			return unix.EEXIST
		case !isNew && !exists:
			return unix.ENOENT
		}
		s.servers[c.Dest.DestKey] = c.Dest
	case ipvs.OpDelDest:
		if !exists {
			return unix.ENOENT
		}
		delete(s.servers, c.Dest.DestKey)
	default:
		return fmt.Errorf("unexpected %s", c)
	}
	if s.Scheduler == "mh" {
		m.rebuilds++
	}
	return nil
}

var modelSchedulers = []string{idle, "rr", "wlc", "wrr", "sh", "mh"}

func modelCheck(s *ipvs.Service) error {
	switch {
	case !slices.Contains(modelSchedulers, s.Scheduler):
		return unix.ENOENT
	case s.Family == ipvs.IPv6 && (s.Netmask < 1 || s.Netmask > 128):
		return unix.EINVAL
	}
	return nil
}
