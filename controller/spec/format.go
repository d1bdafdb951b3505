package spec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/drover-lb/drover/ipvs"
)

// Format writes f as a file that Load reads back to the same values. Of what equals its default only
// the settings of the director are written; its sinks and the cluster are not. What Load would refuse, it does not repair.
func (f *File) Format() []byte {
	var w writer
	d := &f.Director
	w.line(0, "director:")
	if d.Interface != "" {
		w.line(1, "interface: %s", scalar(d.Interface))
	}
	w.line(1, "ownership: %s", d.Ownership)
	w.line(1, "on_stop: %s", d.OnStop)
	w.line(1, "reconcile_interval: %s", duration(d.ReconcileInterval))
	w.line(1, "vip_lifetime: %s", duration(d.VIPLifetime))
	w.line(1, "sysctls: %t", d.Sysctls)
	if d.Scripts {
		w.line(1, "scripts: true")
	}
	w.line(1, "check_mark: %d", d.CheckMark)
	w.line(1, "socket: %s", scalar(d.Socket))

	w.spec(&f.Spec)
	return w.b
}

// Format writes s as a document that ParseSpec reads back to the same values.
func (s *Spec) Format() []byte {
	var w writer
	w.spec(s)
	return w.b
}

// Format writes v as an element of the list of VIPs, without its dash: on one line, without its end.
func (v *VIP) Format() string {
	more := ""
	if v.Interface != "" {
		more += ", interface: " + scalar(v.Interface)
	}
	if v.Group != DefaultGroup {
		more += ", group: " + scalar(v.Group)
	}
	if more == "" {
		return prefix(v.Prefix)
	}
	return fmt.Sprintf("{address: %s%s}", prefix(v.Prefix), more)
}

// Format writes s as an element of a list of services that is indented by two: lines with a dash before the first.
func (s *Service) Format() []byte {
	var w writer
	w.service(s)
	return w.b
}

// Format writes d as an element of the list of real servers of a service with that port, forwarding and way to end
// drains, without its dash: on one line, without its end.
func (d *RealServer) Format(port uint16, forward ipvs.Forward, drain DrainPolicy) string {
	return string(appendServer(nil, d, port, forward, drain))
}

func (w *writer) spec(s *Spec) {
	w.list(0, "vips", len(s.VIPs))
	for i := range s.VIPs {
		w.line(1, "- %s", s.VIPs[i].Format())
	}
	w.list(0, "services", len(s.Services))
	for i := range s.Services {
		w.service(&s.Services[i])
	}
}

type writer struct{ b []byte }

func (w *writer) line(depth int, format string, args ...any) {
	for range depth {
		w.b = append(w.b, "  "...)
	}
	w.b = fmt.Appendf(w.b, format, args...)
	w.b = append(w.b, '\n')
}

func (w *writer) list(depth int, key string, n int) {
	if n == 0 {
		key += ": []"
	} else {
		key += ":"
	}
	w.line(depth, "%s", key)
}

func (w *writer) service(s *Service) {
	first := "- "
	field := func(format string, args ...any) {
		w.line(1, first+format, args...)
		first = "  "
	}
	if s.Name != s.Key.String() {
		field("name: %s", scalar(s.Name))
	}
	if s.FWMark != 0 {
		field("fwmark: %d", s.FWMark)
		if s.Family == ipvs.IPv6 {
			field("family: ipv6")
		}
	} else {
		field("address: %s", scalar(s.Addr.String()))
		field("port: %d", s.Port)
		if s.Protocol != ipvs.TCP {
			field("protocol: %s", strings.ToLower(s.Protocol.String()))
		}
	}
	field("scheduler: %s", s.Scheduler)
	if names := s.Flags.SchedulerFlags(s.Scheduler); names != "" {
		field("scheduler_flags: [%s]", strings.ReplaceAll(names, ",", ", "))
	}
	if s.Flags&ipvs.OnePacket != 0 {
		field("one_packet: true")
	}
	if s.Flags&ipvs.Persistent != 0 {
		p := fmt.Sprintf("timeout: %ds", s.Timeout)
		if int(s.Netmask) != s.Family.Bits() {
			p += fmt.Sprintf(", netmask: %d", s.Netmask)
		}
		if s.PE != "" {
			p += ", engine: " + s.PE
		}
		field("persistence: {%s}", p)
	}
	// What most servers have is said once.
	forward := commonForward(s.RealServers)
	if forward != ipvs.DirectRoute {
		field("forwarding: %s", forwardName(forward))
	}
	if s.Pool != "" {
		field("pool: %s", scalar(s.Pool))
	}
	w.checks(s)
	if f := s.Drain.fields(DrainPolicy{}); f != nil {
		field("drain: {%s}", strings.Join(f, ", "))
	}
	if s.Adaptive.On {
		field("adaptive: %s", s.Adaptive.text())
	}
	w.list(2, "real_servers", len(s.RealServers))
	for i := range s.RealServers {
		w.b = append(w.b, "      - "...)
		w.b = appendServer(w.b, &s.RealServers[i], s.Port, forward, s.Drain)
		w.b = append(w.b, '\n')
	}
}

func commonForward(servers []RealServer) ipvs.Forward {
	var count [3]int
	words := [3]ipvs.Forward{ipvs.DirectRoute, ipvs.Tunnel, ipvs.Masq}
	best := 0
	for i := range servers {
		for j, f := range words {
			if servers[i].Forward == f {
				count[j]++
			}
			if count[j] > count[best] {
				best = j
			}
		}
	}
	return words[best]
}

// appendServer appends a real server, in the short form where its address says it all.
func appendServer(b []byte, d *RealServer, port uint16, forward ipvs.Forward, drain DrainPolicy) []byte {
	addr := d.Addr.String()
	var more []byte
	add := func(key, value string) {
		more = append(more, ", "...)
		more = append(append(append(more, key...), ": "...), value...)
	}
	switch {
	case d.Name == addr && d.Port == port, d.Name == d.DestKey.String() && d.Port != port:
	default:
		add("name", scalar(d.Name))
	}
	if d.Port != port {
		add("port", strconv.Itoa(int(d.Port)))
	}
	if d.Weight != 1 {
		add("weight", strconv.FormatUint(uint64(d.Weight), 10))
	}
	if d.Upper != 0 {
		add("upper_threshold", strconv.FormatUint(uint64(d.Upper), 10))
	}
	if d.Lower != 0 {
		add("lower_threshold", strconv.FormatUint(uint64(d.Lower), 10))
	}
	if d.Forward != forward {
		add("forwarding", forwardName(d.Forward))
	}
	if t := (tunnel{d.TunnelType, d.TunnelPort, d.TunnelFlags}); t != (tunnel{}) {
		add("tunnel", t.String())
	}
	if d.Drain.On {
		add("drain", d.Drain.text(drain))
	}
	if more == nil {
		return append(b, scalar(addr)...)
	}
	b = append(append(b, "{address: "...), scalar(addr)...)
	return append(append(b, more...), '}')
}

func (t tunnel) String() string {
	s := "{type: "
	for word, typ := range tunnelTypes {
		if typ == t.typ {
			s += word
		}
	}
	if t.port != 0 {
		s += ", port: " + strconv.Itoa(int(t.port))
	}
	if t.flags != 0 {
		for word, f := range tunnelChecksums {
			if f == t.flags {
				s += ", checksum: " + word
			}
		}
	}
	return s + "}"
}

func prefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return scalar(p.Addr().String())
	}
	return scalar(p.String())
}

// duration prints 5s, not 1m0s for 1m: the units of a time that are zero are left out.
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// scalar quotes what YAML may read as something else than a string of these characters.
func scalar(s string) string {
	plain := s != ""
	for i := 0; plain && i < len(s); i++ {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte("./-_", c) >= 0:
		default:
			plain = false
		}
	}
	switch s {
	case "null", "true", "false", "yes", "no", "on", "off", "y", "n":
		plain = false
	}
	if plain {
		return s
	}
	// A string in JSON is one in YAML; strconv.Quote is not: it writes \x1b and \a.
	var b strings.Builder
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"', c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c < 0x20, c == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
