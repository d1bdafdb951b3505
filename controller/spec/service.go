package spec

import (
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/ipvs"
)

// Schedulers are those of the kernel, in the order of the manual of ipvsadm, and twos (since Linux
// 5.17). Which of them a kernel really has, only that kernel knows.
var Schedulers = []string{"rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"}

// schedulerFlags are the names that ipvsadm -b takes. The kernel knows the bits only; flag-1 and
// sh-fallback are the same one.
var schedulerFlags = map[string]struct {
	bit       ipvs.Flags
	scheduler string // "" for any
}{
	"sh-fallback": {ipvs.Sched1, "sh"},
	"sh-port":     {ipvs.Sched2, "sh"},
	"mh-fallback": {ipvs.Sched1, "mh"},
	"mh-port":     {ipvs.Sched2, "mh"},
	"flag-1":      {ipvs.Sched1, ""},
	"flag-2":      {ipvs.Sched2, ""},
	"flag-3":      {ipvs.Sched3, ""},
}

var forwards = map[string]ipvs.Forward{
	"direct":     ipvs.DirectRoute,
	"tunnel":     ipvs.Tunnel,
	"masquerade": ipvs.Masq,
}

var tunnelTypes = map[string]ipvs.TunnelType{
	"ipip": ipvs.TunnelIPIP,
	"gue":  ipvs.TunnelGUE,
	"gre":  ipvs.TunnelGRE,
}

var tunnelChecksums = map[string]ipvs.TunnelFlags{
	"false":  ipvs.TunnelNoChecksum,
	"true":   ipvs.TunnelChecksum,
	"remote": ipvs.TunnelRemoteChecksum,
}

func (rd *reader) services(raw *rawFile) {
	services := list(rd.Reader, raw.Services, "services", start)
	var (
		keys  = make(map[ipvs.Key]conf.Pos, len(services))
		names = make(map[string]conf.Pos, len(services))
		used  = make(map[netip.Addr]bool, len(services))
		marks bool
	)
	rd.file.Spec.Services = make([]Service, 0, len(services))
	for i := range services {
		s := serviceReader{reader: rd, raw: &services[i].V, pos: services[i].Pos}
		s.place = label("services", i, s.raw.Name)
		s.r = rd.In("%s", s.place)
		s.read()
		again := false
		if s.keyOK {
			var first conf.Pos
			pos := s.keyPos()
			if first, again = keys[s.svc.Key]; again {
				s.r.Errorf(pos, s.keyField(), "%s is a service already in line %d", s.svc.Key, first.Line)
			} else {
				keys[s.svc.Key] = pos
			}
			used[s.svc.Addr] = true
			marks = marks || s.svc.FWMark != 0
			if _, ok := rd.vip[s.svc.Addr]; !ok && s.svc.FWMark == 0 && len(raw.VIPs.V) > 0 {
				rd.warn(pos, s.place, "%s is not one of the VIPs of this file", s.svc.Addr)
			}
		}
		if name := s.svc.Name; name != "" && (s.raw.Name.Set || !again) {
			pos := s.raw.Name.Pos
			if !s.raw.Name.Set {
				pos = s.keyPos()
			}
			if first, again := names[name]; again {
				s.r.Errorf(pos, "name", "%q is the name of a service already in line %d", name, first.Line)
			} else {
				names[name] = pos
			}
		}
		rd.file.Spec.Services = append(rd.file.Spec.Services, s.svc)
	}
	if len(services) == 0 || marks {
		return // a fwmark service may be for any address
	}
	for i := range rd.file.Spec.VIPs {
		if a := rd.file.Spec.VIPs[i].Prefix.Addr(); !used[a] {
			rd.warn(rd.vip[a], label("vips", i), "no service has the address %s", a)
		}
	}
}

// serviceReader reads one service. Where a field is absent or wrong, what depends on it is not checked:
// one mistake, one complaint.
type serviceReader struct {
	*reader
	r     *conf.Reader
	raw   *rawService
	pos   conf.Pos
	place string
	svc   Service

	keyOK      bool // svc.Key is whole
	schedOK    bool // svc.Scheduler is known
	port       int64
	persistent bool // asked for, rightly or wrongly
	forward    ipvs.Forward
	forwardOK  bool
	tunnel     tunnel
}

type tunnel struct {
	typ   ipvs.TunnelType
	port  uint16
	flags ipvs.TunnelFlags
}

func (s *serviceReader) read() {
	s.svc.Name = properName(s.r, s.raw.Name)
	s.persistent = s.raw.Persistence.Set
	s.key()
	s.scheduling()
	s.persistence()
	s.forward, s.forwardOK = s.forwarding(s.r, s.raw.Forwarding, ipvs.DirectRoute, true)
	s.tunnel, _ = readTunnel(s.r, s.raw.Tunnel, tunnel{})
	if s.svc.Name == "" && s.keyOK {
		s.svc.Name = s.svc.Key.String()
	}
	s.pool()
	s.checks()
	s.drain()
	s.adaptive()
	s.servers()
}

func (s *serviceReader) keyField() string {
	if s.svc.FWMark != 0 {
		return "fwmark"
	}
	return "address"
}

func (s *serviceReader) keyPos() conf.Pos {
	if s.svc.FWMark != 0 {
		return s.raw.FWMark.Pos
	}
	return s.raw.Address.Pos
}

// key reads what the kernel finds the service by.
func (s *serviceReader) key() {
	r, raw, k := s.r, s.raw, &s.svc.Key
	s.port = -1
	switch {
	case raw.FWMark.Set && raw.Address.Set:
		r.Errorf(raw.FWMark.Pos, "fwmark", "cannot stand beside address: a service is found by one of them")
		return
	case raw.FWMark.Set:
		s.mark()
		return
	case !raw.Address.Set:
		r.Errorf(s.pos, "", "needs an address with port, or an fwmark")
		return
	}

	k.Addr = hostAddr(r, raw.Address)
	protocol := conf.OneOf(r, raw.Protocol, "protocol", "tcp", "tcp", "udp", "sctp")
	protocolOK := !raw.Protocol.Set || raw.Protocol.Text == protocol
	switch {
	case !protocolOK: // stays 0
	case protocol == "tcp":
		k.Protocol = ipvs.TCP
	case protocol == "udp":
		k.Protocol = ipvs.UDP
	default:
		k.Protocol = ipvs.SCTP
	}
	if r.Required(raw.Port, "port", s.pos) {
		s.port = port(r, raw.Port, 0)
	}
	if s.port == 0 && !s.persistent {
		r.Errorf(raw.Port.Pos, "port", "0 stands for all ports and needs persistence: without it must be between 1 and 65535")
		s.port = -1
	}
	if raw.Family.Set {
		r.Errorf(raw.Family.Pos, "family", "is only for services by fwmark: the address has its own")
	}
	if !k.Addr.IsValid() {
		return
	}
	k.Family = ipvs.FamilyOf(k.Addr)
	if s.port >= 0 {
		k.Port = uint16(s.port)
		s.keyOK = protocolOK
	}
}

func (s *serviceReader) mark() {
	r, raw, k := s.r, s.raw, &s.svc.Key
	for _, f := range []struct {
		name string
		v    conf.Value
	}{{"port", raw.Port}, {"protocol", raw.Protocol}} {
		if f.v.Set {
			r.Errorf(f.v.Pos, f.name, "cannot stand beside fwmark: the rule that sets the mark decides what belongs to the service")
		}
	}
	family := conf.OneOf(r, raw.Family, "family", "ipv4", "ipv4", "ipv6")
	if raw.Family.Set && raw.Family.Text != family {
		family = ""
	}
	switch family {
	case "ipv4":
		k.Family = ipvs.IPv4
	case "ipv6":
		k.Family = ipvs.IPv6
	}
	k.FWMark = uint32(r.Int(raw.FWMark, "fwmark", 1, math.MaxUint32, 0))
	s.port = 0 // the kernel's port of such a service
	s.keyOK = k.FWMark != 0 && family != ""
}

func (s *serviceReader) scheduling() {
	r, raw, svc := s.r, s.raw, &s.svc
	svc.Scheduler = conf.OneOf(r, raw.Scheduler, "scheduler", "wlc", Schedulers...)
	s.schedOK = !raw.Scheduler.Set || raw.Scheduler.Text == svc.Scheduler
	for _, v := range raw.SchedulerFlags {
		f, known := schedulerFlags[v.Text]
		switch {
		case !known:
			r.Errorf(v.Pos, "scheduler_flags", "%q is not one of: %s", v.Text, strings.Join(flagsFor(svc.Scheduler, s.schedOK), ", "))
		case !s.schedOK:
		case f.scheduler != "" && f.scheduler != svc.Scheduler:
			r.Errorf(v.Pos, "scheduler_flags", "%q belongs to the scheduler %s, and this one is %s: expected one of: %s",
				v.Text, f.scheduler, svc.Scheduler, strings.Join(flagsFor(svc.Scheduler, true), ", "))
		case svc.Flags&f.bit != 0:
			r.Errorf(v.Pos, "scheduler_flags", "%q is set twice", v.Text)
		default:
			svc.Flags |= f.bit
			if f.scheduler == "" && (svc.Scheduler != "sh" && svc.Scheduler != "mh" || f.bit == ipvs.Sched3) {
				s.warn(v.Pos, s.place, "scheduler_flags: the kernel's %s does not look at %s", svc.Scheduler, v.Text)
			}
		}
	}
	// The kernel looks at the flag in UDP packets only (ip_vs_schedule). Which packets a mark brings, it
	// cannot know here.
	if r.Bool(raw.OnePacket, "one_packet", false) {
		if s.svc.FWMark == 0 && svc.Protocol != ipvs.UDP && svc.Protocol != 0 {
			r.Errorf(raw.OnePacket.Pos, "one_packet", "needs protocol udp, not %s", strings.ToLower(svc.Protocol.String()))
		}
		svc.Flags |= ipvs.OnePacket
	}
}

// flagsFor lists the flag names that fit a scheduler.
func flagsFor(scheduler string, known bool) []string {
	var names []string
	for _, n := range []string{"sh-fallback", "sh-port", "mh-fallback", "mh-port", "flag-1", "flag-2", "flag-3"} {
		if f := schedulerFlags[n]; !known || f.scheduler == "" || f.scheduler == scheduler {
			names = append(names, n)
		}
	}
	return names
}

func (s *serviceReader) persistence() {
	r, svc := s.r.In("persistence"), &s.svc
	svc.Netmask = uint8(svc.Family.Bits())
	if !s.persistent {
		return
	}
	p := &s.raw.Persistence.V
	svc.Flags |= ipvs.Persistent
	svc.Timeout = uint32(wholeSeconds(r, p.Timeout, "timeout", time.Second, MaxPersistence, DefaultPersistence) / time.Second)
	if p.Netmask.Set && (svc.Family != 0) {
		svc.Netmask = readNetmask(r, p.Netmask, svc.Family)
	}
	svc.PE = conf.OneOf(r, p.Engine, "engine", "", "sip")
	// The engine reads SIP in UDP packets only (ip_vs_sip_fill_param).
	if svc.PE == "sip" && svc.FWMark == 0 && svc.Protocol != ipvs.UDP && svc.Protocol != 0 {
		r.Errorf(p.Engine.Pos, "engine", "sip needs protocol udp, not %s", strings.ToLower(svc.Protocol.String()))
	}
}

// readNetmask reads a prefix length, with or without slash, or for IPv4 a mask in four parts.
func readNetmask(r *conf.Reader, v conf.Value, family ipvs.Family) uint8 {
	all := family.Bits()
	if m, err := netip.ParseAddr(v.Text); err == nil && m.Is4() && family == ipvs.IPv4 {
		b := m.As4()
		mask := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		n := bits.OnesCount32(mask)
		if n == 0 || bits.LeadingZeros32(^mask) != n {
			r.Errorf(v.Pos, "netmask", "%s is not a mask: must be ones followed by zeros, 128.0.0.0 to 255.255.255.255", v.Text)
			return uint8(all)
		}
		return uint8(n)
	}
	n, err := strconv.Atoi(strings.TrimPrefix(v.Text, "/"))
	switch {
	case err != nil && family == ipvs.IPv4:
		r.Errorf(v.Pos, "netmask", "%q is neither a prefix length between 1 and 32 nor a mask such as 255.255.255.0", v.Text)
	case err != nil:
		r.Errorf(v.Pos, "netmask", "%q is not a prefix length between 1 and 128", v.Text)
	case n < 1 || n > all:
		r.Errorf(v.Pos, "netmask", "%d is out of range: must be between 1 and %d", n, all)
	default:
		return uint8(n)
	}
	return uint8(all)
}

// forwarding reads a forwarding method; ok is false when it is wrong.
func (s *serviceReader) forwarding(r *conf.Reader, v conf.Value, def ipvs.Forward, defOK bool) (f ipvs.Forward, ok bool) {
	if !v.Set {
		return def, defOK
	}
	word := conf.OneOf(r, v, "forwarding", "", "direct", "tunnel", "masquerade")
	f, ok = forwards[word]
	return f, ok
}

// readTunnel reads how a tunnel wraps its packets; ok is false when it is wrong.
func readTunnel(r *conf.Reader, v conf.At[rawTunnel], def tunnel) (t tunnel, ok bool) {
	if !v.Set {
		return def, true
	}
	r = r.In("tunnel")
	word := conf.OneOf(r, v.V.Type, "type", "ipip", "ipip", "gue", "gre")
	if v.V.Type.Set && v.V.Type.Text != word {
		return t, false
	}
	t.typ = tunnelTypes[word]
	switch {
	case t.typ == ipvs.TunnelGUE:
		if !r.Required(v.V.Port, "port", v.Pos) {
			return t, false
		}
		n := port(r, v.V.Port, 1)
		if n < 0 {
			return t, false
		}
		t.port = uint16(n)
	case v.V.Port.Set:
		r.Errorf(v.V.Port.Pos, "port", "is only for type gue, not %s", word)
		return t, false
	}
	if !v.V.Checksum.Set {
		return t, true
	}
	if t.typ == ipvs.TunnelIPIP {
		r.Errorf(v.V.Checksum.Pos, "checksum", "is only for types gue and gre, not ipip")
		return t, false
	}
	allowed := []string{"true", "false"}
	if t.typ == ipvs.TunnelGUE {
		allowed = append(allowed, "remote")
	}
	t.flags, ok = tunnelChecksums[conf.OneOf(r, v.V.Checksum, "checksum", "", allowed...)]
	return t, ok
}

// pool reads the name of a pool. Its members have the VIPs on loopback, as their agents see to, which is for
// direct routing.
func (s *serviceReader) pool() {
	v := s.raw.Pool
	switch {
	case !v.Set:
	case !settings.ValidName(v.Text):
		s.r.Errorf(v.Pos, "pool", "%q must be %s", v.Text, settings.NameRule)
	case s.raw.FWMark.Set:
		s.r.Errorf(v.Pos, "pool", "needs a service with an address: which VIPs an fwmark stands for is not known here")
	case s.forwardOK && s.forward != ipvs.DirectRoute:
		s.r.Errorf(v.Pos, "pool", "needs forwarding: direct, not %s", forwardName(s.forward))
	default:
		s.svc.Pool = strings.Clone(v.Text)
	}
}

func (s *serviceReader) servers() {
	servers := s.raw.RealServers.V
	if !s.raw.Pool.Set {
		servers = list(s.r, s.raw.RealServers, "real_servers", s.pos)
	}
	var (
		keys    = make(map[ipvs.DestKey]conf.Pos, len(servers))
		names   = make(map[string]conf.Pos, len(servers))
		refused bool // a server may turn clients away in a scheduler that hashes
	)
	s.svc.RealServers = make([]RealServer, 0, len(servers))
	for i := range servers {
		raw, pos := &servers[i].V, servers[i].Pos
		r := s.r.In("%s", label("real_servers", i, raw.Name, raw.Address))
		d, ok := s.server(r, raw, pos)
		if !ok {
			continue
		}
		if first, again := keys[d.DestKey]; again {
			r.Errorf(raw.Address.Pos, "address", "%s is a real server of this service already in line %d", d.DestKey, first.Line)
			continue
		}
		keys[d.DestKey] = raw.Address.Pos
		if first, again := names[d.Name]; again {
			p := raw.Name.Pos
			if !raw.Name.Set {
				p = raw.Address.Pos
			}
			r.Errorf(p, "name", "%q is the name of a real server of this service already in line %d", d.Name, first.Line)
			continue
		}
		names[d.Name] = raw.Address.Pos
		refused = refused || d.InForce() == 0 || d.Upper != 0
		s.svc.RealServers = append(s.svc.RealServers, d)
	}
	if !s.schedOK || !s.keyOK {
		return
	}
	at := s.raw.Scheduler.Pos
	if sch := s.svc.Scheduler; (sch == "mh" || sch == "sh") && refused && s.svc.Flags&ipvs.Sched1 == 0 {
		s.warn(at, s.place, "scheduler %s turns away the clients of a server with weight 0, or above its upper_threshold: set scheduler_flags: [%s-fallback]", sch, sch)
	}
	if s.svc.Scheduler == "mh" && len(servers) > mhSlots {
		s.r.Errorf(at, "scheduler", "mh has a table of %d slots, and %d real servers do not fit: must be at most %d", mhSlots, len(servers), mhSlots)
	}
}

// server reads one real server; ok is false when anything in it is wrong.
func (s *serviceReader) server(r *conf.Reader, raw *rawServer, pos conf.Pos) (d RealServer, ok bool) {
	ok = true
	d.Name = properName(r, raw.Name)
	if raw.Name.Set && d.Name == "" {
		ok = false
	}
	if r.Required(raw.Address, "address", pos) {
		d.Addr = hostAddr(r, raw.Address)
	}
	ok = ok && d.Addr.IsValid()
	number := func(v conf.Value, field string, hi, def int64) (uint32, bool) {
		n := r.Int(v, field, 0, hi, -1)
		if n >= 0 {
			return uint32(n), true
		}
		return uint32(def), !v.Set
	}
	var weightOK, upperOK, lowerOK bool
	d.Weight, weightOK = number(raw.Weight, "weight", math.MaxUint16, 1)
	d.Upper, upperOK = number(raw.UpperThreshold, "upper_threshold", maxThreshold, 0)
	d.Lower, lowerOK = number(raw.LowerThreshold, "lower_threshold", maxThreshold, 0)
	ok = ok && weightOK && upperOK && lowerOK
	if upperOK && lowerOK && d.Lower > d.Upper {
		ok = false
		if raw.UpperThreshold.Set {
			r.Errorf(raw.LowerThreshold.Pos, "lower_threshold", "%d is above the upper_threshold: must be between 0 and %d", d.Lower, d.Upper)
		} else {
			r.Errorf(raw.LowerThreshold.Pos, "lower_threshold", "%d needs an upper_threshold: must be 0 without one", d.Lower)
		}
	}

	d.Drain = readDrain(r, raw.Drain, s.svc.Drain)

	f, forwardOK := s.forwarding(r, raw.Forwarding, s.forward, s.forwardOK)
	d.Forward = f
	own, tunnelOK := readTunnel(r, raw.Tunnel, s.tunnel)
	switch {
	case !forwardOK || !tunnelOK:
		ok = false
	case f == ipvs.Tunnel:
		d.TunnelType, d.TunnelPort, d.TunnelFlags = own.typ, own.port, own.flags
	case raw.Tunnel.Set:
		r.Errorf(raw.Tunnel.Pos, "tunnel", "is only for forwarding: tunnel, not %s", forwardName(f))
		ok = false
	}

	d.Port = uint16(max(s.port, 0))
	if raw.Port.Set {
		n := port(r, raw.Port, 0)
		ok = ok && n >= 0
		if n >= 0 && ok && s.port >= 0 && n != s.port {
			if why := s.translates(f); why != "" {
				r.Errorf(raw.Port.Pos, "port", "%d differs from the service's %s: %s, must be %d", n, s.portName(), why, s.port)
				ok = false
			}
		}
		d.Port = uint16(max(n, 0))
	}
	if forwardOK && d.Addr.IsValid() && s.svc.Family != 0 && s.addressMismatch(r, raw.Address.Pos, d.Addr, f) {
		ok = false
	}
	if d.Name == "" && d.Addr.IsValid() {
		if int64(d.Port) == s.port {
			d.Name = d.Addr.String()
		} else {
			d.Name = d.DestKey.String()
		}
	}
	return d, ok
}

// translates says why a port that differs from that of the service would be ignored, or "".
func (s *serviceReader) translates(f ipvs.Forward) string {
	switch {
	case f != ipvs.Masq:
		return fmt.Sprintf("forwarding: %s does not change ports", forwardName(f))
	case s.port == 0 && (s.svc.FWMark == 0 || s.persistent):
		return "the kernel keeps the port of each connection" // ip_vs_sched_persist
	}
	return ""
}

func (s *serviceReader) portName() string {
	if s.raw.FWMark.Set {
		return "port, which is 0 by fwmark"
	}
	return "port " + strconv.FormatInt(s.port, 10)
}

// addressMismatch complains when a server's address does not go with that of the service.
func (s *serviceReader) addressMismatch(r *conf.Reader, pos conf.Pos, a netip.Addr, f ipvs.Forward) bool {
	family := ipvs.FamilyOf(a)
	switch {
	case s.svc.FWMark == 0 && a == s.svc.Addr:
		r.Errorf(pos, "address", "%s is the address of the service: must be an address of the real server's own", a)
	case family != s.svc.Family && f != ipvs.Tunnel:
		hint := ""
		if s.raw.FWMark.Set && !s.raw.Family.Set {
			hint = ", or the service must say family: ipv6"
		}
		r.Errorf(pos, "address", "%s is %s, the service is %s: must be %s unless forwarding is tunnel%s",
			a, familyName(family), familyName(s.svc.Family), familyName(s.svc.Family), hint)
	default:
		return false
	}
	return true
}

func forwardName(f ipvs.Forward) string {
	for _, n := range []string{"direct", "tunnel", "masquerade"} {
		if forwards[n] == f {
			return n
		}
	}
	return f.String()
}

// SchedulerFlag returns the flag of a name such as sh-port.
func SchedulerFlag(name string) (ipvs.Flags, bool) {
	f, ok := schedulerFlags[name]
	return f.bit, ok
}
