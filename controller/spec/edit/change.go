package edit

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// Ref names a service: by its key, or, if the key is zero, by its name, or what people take for one: what its key
// prints as, or its address and port.
type Ref struct {
	Key  ipvs.Key
	Name string
}

func (r Ref) String() string {
	if r.Key != (ipvs.Key{}) {
		return r.Key.String()
	}
	return fmt.Sprintf("%q", r.Name)
}

// Find returns the service that r names. The error lists what there is.
func (r Ref) Find(s *spec.Spec) (*spec.Service, error) {
	for _, is := range []func(*spec.Service) bool{
		func(svc *spec.Service) bool { return r.Key == (ipvs.Key{}) && svc.Name == r.Name },
		func(svc *spec.Service) bool { return svc.Key == r.Key || svc.Key.String() == r.Name },
		func(svc *spec.Service) bool {
			return r.Key == (ipvs.Key{}) && svc.FWMark == 0 && netip.AddrPortFrom(svc.Addr, svc.Port).String() == r.Name
		},
	} {
		for i := range s.Services {
			if is(&s.Services[i]) {
				return &s.Services[i], nil
			}
		}
	}
	names := make([]string, len(s.Services))
	for i := range s.Services {
		names[i] = s.Services[i].Name
	}
	return nil, fmt.Errorf("there is no service %s: %s", r, listed("the services are", names))
}

// ParseServer reads an address, an address with a port, or a name.
func ParseServer(text string) ServerRef {
	if ap, err := netip.ParseAddrPort(text); err == nil {
		return ServerRef{Addr: ap.Addr().Unmap(), Port: ap.Port()}
	}
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil && a.Zone() == "" {
		return ServerRef{Addr: a.Unmap()}
	}
	return ServerRef{Name: text}
}

// ServerRef names real servers: by address and port, by address if the port is zero, or by name if the address is
// not valid.
type ServerRef struct {
	Addr netip.Addr
	Port uint16
	Name string
}

func (r ServerRef) String() string {
	switch {
	case !r.Addr.IsValid():
		return fmt.Sprintf("%q", r.Name)
	case r.Port == 0:
		return r.Addr.String()
	}
	return netip.AddrPortFrom(r.Addr, r.Port).String()
}

// Index returns the place of the server in svc, or -1.
func (r ServerRef) Index(svc *spec.Service) int {
	return slices.IndexFunc(svc.RealServers, func(d spec.RealServer) bool {
		if !r.Addr.IsValid() {
			return d.Name == r.Name
		}
		return d.Addr == r.Addr && (r.Port == 0 || r.Port == d.Port)
	})
}

func (r ServerRef) find(svc *spec.Service) (int, error) {
	if i := r.Index(svc); i >= 0 {
		return i, nil
	}
	names := make([]string, len(svc.RealServers))
	for i := range svc.RealServers {
		names[i] = svc.RealServers[i].Name
	}
	return -1, fmt.Errorf("the service %q lists no real server %s: %s", svc.Name, r, listed("it lists", names))
}

// listed says what there is, briefly.
func listed(intro string, names []string) string {
	const most = 10
	switch {
	case len(names) == 0:
		return "there is none"
	case len(names) > most:
		return fmt.Sprintf("%s %s and %d more", intro, strings.Join(names[:most], ", "), len(names)-most)
	}
	return intro + " " + strings.Join(names, ", ")
}

// AddService adds a service at the end.
func AddService(svc spec.Service) Change {
	return func(s *spec.Spec) error {
		if old, err := (Ref{Key: svc.Key}).Find(s); err == nil {
			return fmt.Errorf("the service %s exists, with the name %q", svc.Key, old.Name)
		}
		if _, err := (Ref{Name: svc.Name}).Find(s); err == nil && svc.Name != "" {
			return fmt.Errorf("a service with the name %q exists", svc.Name)
		}
		if svc.Name == "" {
			svc.Name = svc.Key.String()
		}
		s.Services = append(s.Services, svc)
		return nil
	}
}

// EditService changes one service by f, which may not change its key.
func EditService(r Ref, f func(*spec.Service) error) Change {
	return func(s *spec.Spec) error {
		svc, err := r.Find(s)
		if err != nil {
			return err
		}
		return f(svc)
	}
}

// DeleteService deletes a service with its real servers.
func DeleteService(r Ref) Change {
	return func(s *spec.Spec) error {
		svc, err := r.Find(s)
		if err != nil {
			return err
		}
		key := svc.Key
		s.Services = slices.DeleteFunc(s.Services, func(o spec.Service) bool { return o.Key == key })
		return nil
	}
}

// AddVIP adds a virtual IP at the end, unless its address is there.
func AddVIP(p netip.Prefix) Change {
	return func(s *spec.Spec) error {
		if !slices.ContainsFunc(s.VIPs, func(v spec.VIP) bool { return v.Prefix.Addr() == p.Addr() }) {
			s.VIPs = append(s.VIPs, spec.VIP{Prefix: p, Group: spec.DefaultGroup})
		}
		return nil
	}
}

// DeleteVIP deletes a virtual IP that no service has. It is no error if it is not there.
func DeleteVIP(a netip.Addr) Change {
	return func(s *spec.Spec) error {
		for i := range s.Services {
			if s.Services[i].Addr == a {
				return fmt.Errorf("the VIP %s is that of the service %q", a, s.Services[i].Name)
			}
		}
		s.VIPs = slices.DeleteFunc(s.VIPs, func(v spec.VIP) bool { return v.Prefix.Addr() == a })
		return nil
	}
}

// AddServer adds a real server at the end of a service. Without a port it has that of the service.
func AddServer(r Ref, d spec.RealServer) Change {
	return EditService(r, func(svc *spec.Service) error {
		d := d
		if d.Port == 0 {
			d.Port = svc.Port
		}
		if i := (ServerRef{Addr: d.Addr, Port: d.Port}).Index(svc); i >= 0 {
			return fmt.Errorf("the service %q lists the real server %s already, with the name %q", svc.Name, d.DestKey, svc.RealServers[i].Name)
		}
		if i := (ServerRef{Name: d.Name}).Index(svc); i >= 0 && d.Name != "" {
			return fmt.Errorf("the service %q lists a real server with the name %q already: it is %s", svc.Name, d.Name, svc.RealServers[i].DestKey)
		}
		if d.Name == "" {
			d.Name = serverName(svc, &d)
		}
		svc.RealServers = append(svc.RealServers, d)
		return nil
	})
}

// serverName is the name of a server that is given none, as package spec has it.
func serverName(svc *spec.Service, d *spec.RealServer) string {
	if d.Port != svc.Port {
		return d.DestKey.String()
	}
	return d.Addr.String()
}

// EditServer changes one real server of a service by f, which may not change its key.
func EditServer(r Ref, server ServerRef, f func(*spec.RealServer) error) Change {
	return EditService(r, func(svc *spec.Service) error {
		i, err := server.find(svc)
		if err != nil {
			return err
		}
		return f(&svc.RealServers[i])
	})
}

// DeleteServer deletes one real server of a service.
func DeleteServer(r Ref, server ServerRef) Change {
	return EditService(r, func(svc *spec.Service) error {
		i, err := server.find(svc)
		if err != nil {
			return err
		}
		svc.RealServers = slices.Delete(svc.RealServers, i, i+1)
		return nil
	})
}
