package dropin

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvsadm"
)

// Resolver knows the addresses of hosts and the ports of services.
type Resolver interface {
	Addr(host string) (addr netip.Addr, ok bool) // an IPv4 address
	Port(service string, p ipvs.Protocol) (port uint16, ok bool)
}

// lookupTimeout bounds the search for one name, with all servers that are asked. It is what a resolver
// takes that asks three servers twice for five seconds (resolv.conf(5)).
const lookupTimeout = 30 * time.Second

// System is the [Resolver] and [ipvsadm.Names] of this host: /etc/hosts and DNS, and /etc/services.
// It is made for one command; what it has found it remembers.
type System struct {
	services *services
	hosts    map[netip.Addr]string // "" for one without a name
	addrs    map[string]netip.Addr // the zero Addr for a name without an address
}

var (
	_ Resolver      = (*System)(nil)
	_ ipvsadm.Names = (*System)(nil)
)

// Addr implements [Resolver].
func (s *System) Addr(host string) (netip.Addr, bool) {
	// What looks like an address is none, or it would have been taken for one: no server is asked.
	if strings.Trim(host, "0123456789.") == "" || strings.ContainsAny(host, ": \t") {
		return netip.Addr{}, false
	}
	a, known := s.addrs[host]
	if !known {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		if found, err := net.DefaultResolver.LookupNetIP(ctx, "ip4", host); err == nil && len(found) > 0 {
			a = found[0].Unmap()
		} else if found, err := net.DefaultResolver.LookupNetIP(ctx, "ip6", host); err == nil && slices.Equal(found, []netip.Addr{netip.IPv6Loopback()}) {
			a = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // what the C library makes of a ::1 in /etc/hosts
		}
		if s.addrs == nil {
			s.addrs = map[string]netip.Addr{}
		}
		s.addrs[host] = a
	}
	return a, a.IsValid()
}

// Host implements [ipvsadm.Names].
func (s *System) Host(a netip.Addr) (string, bool) {
	host, known := s.hosts[a]
	if !known {
		ctx, cancel := context.WithTimeout(context.Background(), lookupTimeout)
		defer cancel()
		if found, err := net.DefaultResolver.LookupAddr(ctx, a.String()); err == nil && len(found) > 0 {
			host = strings.TrimSuffix(found[0], ".")
		}
		if s.hosts == nil {
			s.hosts = map[netip.Addr]string{}
		}
		s.hosts[a] = host
	}
	return host, host != ""
}

// Port implements [Resolver].
func (s *System) Port(name string, p ipvs.Protocol) (uint16, bool) { return s.load().port(name, p) }

// Service implements [ipvsadm.Names].
func (s *System) Service(port uint16, p ipvs.Protocol) (string, bool) { return s.load().name(port, p) }

func (s *System) load() *services {
	if s.services == nil {
		f, err := os.Open("/etc/services")
		if err != nil {
			s.services = &services{} // as if it were empty
			return s.services
		}
		defer f.Close()
		s.services = readServices(f)
	}
	return s.services
}
