package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func apply(t testing.TB, c *Client, commands ...Command) {
	t.Helper()
	for _, err := range c.Apply(context.Background(), commands) {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// table reads the table without counters.
func table(t testing.TB, c *Client) map[Service][]Destination {
	t.Helper()
	services, err := c.Services(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	m := map[Service][]Destination{}
	for _, s := range services {
		dests := []Destination{}
		for _, d := range s.Destinations {
			dests = append(dests, d.Destination)
		}
		slices.SortFunc(dests, func(a, b Destination) int { return a.DestKey.Compare(b.DestKey) })
		if _, ok := m[s.Service]; ok {
			t.Fatalf("%s is listed twice", s.Key)
		}
		m[s.Service] = dests
	}
	return m
}

func key(p Protocol, addr string) Key {
	a := netip.MustParseAddrPort(addr)
	return Key{Family: FamilyOf(a.Addr()), Protocol: p, Addr: a.Addr(), Port: a.Port()}
}

func addrPort(k Key) netip.AddrPort { return netip.AddrPortFrom(k.Addr, k.Port) }

func mark(m uint32, f Family) Key { return Key{Family: f, FWMark: m} }

func service(k Key, scheduler string) Service {
	return Service{Key: k, Scheduler: scheduler, Netmask: uint8(k.Family.Bits())}
}

func dest(addr string, weight uint32) Destination {
	a := netip.MustParseAddrPort(addr)
	return Destination{DestKey: DestKey{a.Addr(), a.Port()}, Forward: DirectRoute, Weight: weight}
}

var schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh"}

// everything is a table with every protocol, scheduler, flag, kind of persistence, threshold,
// forwarding method and tunnel.
func everything() map[Service][]Destination {
	m := map[Service][]Destination{}
	with := func(s Service, f func(*Service)) Service { f(&s); return s }
	withDest := func(d Destination, f func(*Destination)) Destination { f(&d); return d }
	for i, name := range schedulers {
		m[service(key(TCP, fmt.Sprintf("192.0.2.10:%d", 100+i)), name)] = []Destination{
			dest(fmt.Sprintf("10.0.0.2:%d", 100+i), 0), dest(fmt.Sprintf("10.0.0.3:%d", 100+i), MaxWeight),
		}
		m[service(key(TCP, fmt.Sprintf("[2001:db8::10]:%d", 100+i)), name)] = []Destination{
			dest(fmt.Sprintf("[fd00::2]:%d", 100+i), 7),
		}
	}
	m[service(key(UDP, "192.0.2.10:53"), "rr")] = []Destination{dest("10.0.0.2:53", 1)}
	m[service(key(SCTP, "192.0.2.10:9"), "rr")] = []Destination{dest("10.0.0.2:9", 1)}
	m[service(key(UDP, "[2001:db8::10]:53"), "rr")] = []Destination{dest("[fd00::2]:53", 1)}
	m[service(key(SCTP, "[2001:db8::10]:9"), "rr")] = []Destination{}
	m[service(mark(7, IPv4), "rr")] = []Destination{dest("10.0.0.2:0", 1)}
	m[service(mark(7, IPv6), "rr")] = []Destination{dest("[fd00::2]:0", 1)}
	m[service(mark(1<<32-1, IPv6), "rr")] = []Destination{}
	for flags := Flags(0); flags < 8; flags++ {
		port := 200 + int(flags)
		for i, name := range []string{"sh", "mh", "wlc"} {
			m[with(service(key(TCP, fmt.Sprintf("192.0.2.%d:%d", 20+i, port)), name), func(s *Service) {
				s.Flags = flags << 3
			})] = []Destination{}
		}
	}
	m[with(service(key(UDP, "192.0.2.10:300"), "rr"), func(s *Service) { s.Flags = OnePacket })] = []Destination{}
	m[with(service(mark(8, IPv4), "mh"), func(s *Service) { s.Flags = OnePacket | Sched1 | Sched2 })] = []Destination{}
	for bits := uint8(0); bits <= 32; bits++ {
		m[with(service(key(TCP, fmt.Sprintf("192.0.2.10:%d", 400+int(bits))), "rr"), func(s *Service) {
			s.Flags, s.Timeout, s.Netmask = Persistent, uint32(bits)+1, bits
		})] = []Destination{}
	}
	for _, bits := range []uint8{1, 31, 32, 33, 64, 127, 128} {
		m[with(service(key(TCP, fmt.Sprintf("[2001:db8::10]:%d", 400+int(bits))), "rr"), func(s *Service) {
			s.Flags, s.Timeout, s.Netmask = Persistent, 360, bits
		})] = []Destination{}
	}
	m[with(service(key(TCP, "192.0.2.10:0"), "wlc"), func(s *Service) { s.Flags, s.Timeout = Persistent, 86400 })] = []Destination{dest("10.0.0.2:0", 1)}
	m[with(service(key(TCP, "192.0.2.10:500"), "wlc"), func(s *Service) { s.Netmask = 24 })] = []Destination{} // a mask without persistence
	m[with(service(key(UDP, "192.0.2.10:5060"), "rr"), func(s *Service) {
		s.Flags, s.Timeout, s.PE = Persistent|OnePacket, 60, "sip"
	})] = []Destination{}
	m[with(service(key(UDP, "[2001:db8::10]:5060"), "mh"), func(s *Service) {
		s.Flags, s.Timeout, s.PE, s.Netmask = Persistent|OnePacket|Sched1, 60, "sip", 64
	})] = []Destination{}
	dests := []Destination{}
	for i, f := range []Forward{Masq, Local, Tunnel, DirectRoute, Bypass} {
		dests = append(dests, withDest(dest(fmt.Sprintf("10.0.1.%d:600", i), 1), func(d *Destination) { d.Forward = f }))
	}
	dests = append(dests,
		withDest(dest("10.0.2.1:600", 1), func(d *Destination) { d.Upper = 1000 }),
		withDest(dest("10.0.2.2:600", 1), func(d *Destination) { d.Upper, d.Lower = 1<<32-1, 1<<32-1 }),
		withDest(dest("10.0.2.3:600", 1), func(d *Destination) { d.Upper, d.Lower = 1000, 1 }),
	)
	m[service(key(TCP, "192.0.2.10:600"), "wlc")] = dests
	dests = []Destination{}
	for _, typ := range []TunnelType{TunnelIPIP, TunnelGUE, TunnelGRE} {
		for _, flags := range []TunnelFlags{TunnelNoChecksum, TunnelChecksum, TunnelRemoteChecksum} {
			dests = append(dests, withDest(dest(fmt.Sprintf("10.0.%d.%d:601", 3+typ, flags), 1), func(d *Destination) {
				d.Forward, d.TunnelType, d.TunnelFlags = Tunnel, typ, flags
				if typ == TunnelGUE {
					d.TunnelPort = 6080
				}
			}))
		}
	}
	dests = append(dests, withDest(dest("[fd00::3]:601", 1), func(d *Destination) { d.Forward = Tunnel }))
	m[service(key(TCP, "192.0.2.10:601"), "wlc")] = dests
	m[service(key(TCP, "[2001:db8::10]:601"), "wlc")] = []Destination{
		withDest(dest("10.0.0.4:601", 1), func(d *Destination) { d.Forward = Tunnel }),
	}
	return m
}

// commands make a table from nothing.
func commands(m map[Service][]Destination) []Command {
	var cmds []Command
	for s, dests := range m {
		cmds = append(cmds, NewService(s))
		for _, d := range dests {
			cmds = append(cmds, NewDest(s.Key, d))
		}
	}
	return cmds
}

func diff(have, want map[Service][]Destination) string {
	var b strings.Builder
	for s, d := range want {
		if h, ok := have[s]; !ok {
			fmt.Fprintf(&b, "missing: %+v\n", s)
		} else if !reflect.DeepEqual(h, d) {
			fmt.Fprintf(&b, "%s:\n have %+v\n want %+v\n", s.Key, h, d)
		}
	}
	for s := range have {
		if _, ok := want[s]; !ok {
			fmt.Fprintf(&b, "unexpected: %+v\n", s)
		}
	}
	return b.String()
}
