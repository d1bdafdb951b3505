package plan

import (
	"slices"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// State is an IPVS table without its counters: services in the order of their keys, each key once.
// Make one with [Want], [StateOf] or [NewState].
type State struct {
	Services []Service
}

// Service is a virtual service with its real servers in the order of their keys, each key once.
type Service struct {
	ipvs.Service
	Servers []ipvs.Destination
}

// Want is the table that a spec asks for. It shares no memory with the spec.
func Want(s *spec.Spec) State {
	st := State{Services: make([]Service, len(s.Services))}
	for i := range s.Services {
		svc := &s.Services[i]
		servers := make([]ipvs.Destination, len(svc.RealServers))
		for j := range svc.RealServers {
			servers[j] = svc.RealServers[j].Destination
			servers[j].Weight = svc.RealServers[j].InForce()
		}
		st.Services[i] = Service{Service: svc.Service, Servers: servers}
	}
	return NewState(st.Services)
}

// StateOf is the table that the kernel listed.
func StateOf(entries []ipvs.ServiceEntry) State {
	services := make([]Service, len(entries))
	for i := range entries {
		e := &entries[i]
		servers := make([]ipvs.Destination, len(e.Destinations))
		for j := range e.Destinations {
			servers[j] = e.Destinations[j].Destination
		}
		services[i] = Service{Service: e.Service, Servers: servers}
	}
	return NewState(services)
}

// NewState takes over services and brings them into order. Of services or servers with the same key
// the first stays: a listing by the kernel is not a snapshot, and an entry that is added or removed
// while it runs can make others appear twice.
func NewState(services []Service) State {
	sortUnique(&services, func(a, b Service) int { return a.Key.Compare(b.Key) })
	for i := range services {
		sortUnique(&services[i].Servers, func(a, b ipvs.Destination) int { return a.DestKey.Compare(b.DestKey) })
	}
	return State{Services: services}
}

// sortUnique sorts *s and drops all but the first of equal elements.
func sortUnique[T any](s *[]T, compare func(a, b T) int) {
	if !slices.IsSortedFunc(*s, compare) {
		slices.SortStableFunc(*s, compare)
	}
	*s = slices.CompactFunc(*s, func(a, b T) bool { return compare(a, b) == 0 })
}

// Find returns the service with key k, or nil.
func (s State) Find(k ipvs.Key) *Service {
	i, found := slices.BinarySearchFunc(s.Services, k, func(svc Service, k ipvs.Key) int { return svc.Key.Compare(k) })
	if !found {
		return nil
	}
	return &s.Services[i]
}

// Keys lists the keys of all services, in order.
func (s State) Keys() []ipvs.Key {
	keys := make([]ipvs.Key, len(s.Services))
	for i := range s.Services {
		keys[i] = s.Services[i].Key
	}
	return keys
}

// Servers counts the real servers of all services.
func (s State) Servers() int {
	n := 0
	for i := range s.Services {
		n += len(s.Services[i].Servers)
	}
	return n
}

// Find returns the server with key k, or nil.
func (s *Service) Find(k ipvs.DestKey) *ipvs.Destination {
	i, found := slices.BinarySearchFunc(s.Servers, k, func(d ipvs.Destination, k ipvs.DestKey) int { return d.DestKey.Compare(k) })
	if !found {
		return nil
	}
	return &s.Servers[i]
}
