package dropin

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/drover-lb/drover/ipvs"
)

// parseNumber reads a decimal number as strtol(3) does: after white space, with an optional sign.
func parseNumber(s string, low, high int64) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimLeft(s, whiteSpace), 10, 64)
	if err != nil || strings.Contains(s, "_") || n < low || n > high {
		return 0, false
	}
	return n, true
}

// whiteSpace is what isspace(3) says is.
const whiteSpace = " \t\n\v\f\r"

// leadingNumber reads the decimal number at the start of s as atoi(3) does, 0 if there is none.
func leadingNumber(s string) int64 {
	s = strings.TrimLeft(s, whiteSpace)
	end := 0
	for end < len(s) && (isDigit(s[end]) || end == 0 && (s[0] == '-' || s[0] == '+')) {
		end++
	}
	n, _ := strconv.ParseInt(s[:end], 10, 64) // the nearest if it is out of range
	return int64(int32(n))
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func parseTimeout(s string, low int64) (uint32, error) {
	n, ok := parseNumber(s, low, maxTimeout)
	if !ok {
		return 0, refuse("invalid timeout value `%s' specified", s)
	}
	return uint32(n), nil
}

func parseMark(s string) (uint32, bool) {
	n, ok := parseNumber(s, 1, 1<<32-1)
	return uint32(n), ok
}

// parseSchedulerFlags reads the argument of -b for a scheduler.
func parseSchedulerFlags(scheduler, s string) (f ipvs.Flags, err error) {
	for name := range strings.SplitSeq(s, ",") {
		var bit ipvs.Flags
		of := scheduler
		switch name {
		case "":
			continue
		case "flag-1":
			bit = ipvs.Sched1
		case "flag-2":
			bit = ipvs.Sched2
		case "flag-3":
			bit = ipvs.Sched3
		case "sh-fallback":
			bit, of = ipvs.Sched1, "sh"
		case "sh-port":
			bit, of = ipvs.Sched2, "sh"
		case "mh-fallback":
			bit, of = ipvs.Sched1, "mh"
		case "mh-port":
			bit, of = ipvs.Sched2, "mh"
		default:
			return 0, refuse("invalid scheduler flag `%s'", name)
		}
		if of != scheduler {
			return 0, refuse("incompatible scheduler flag `%s'", name)
		}
		f |= bit
	}
	return f, nil
}

// endpoint is an address with a port.
type endpoint struct {
	addr    netip.Addr
	port    uint16
	hasPort bool
}

// parseEndpoint reads HOST[:PORT], [IPv6]:PORT or IPv6. A number alone is neither a host nor a port.
func parseEndpoint(s string, protocol ipvs.Protocol, names Resolver) (e endpoint, ok bool) {
	if strings.Trim(s, "0123456789") == "" {
		return endpoint{}, false
	}
	host, port := s, ""
	if inner, ok := strings.CutPrefix(s, "["); ok {
		var found bool
		if host, port, found = strings.Cut(inner, "]"); !found {
			return endpoint{}, false
		}
		if port, e.hasPort = strings.CutPrefix(port, ":"); !e.hasPort {
			return endpoint{}, false
		}
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() && a.Zone() == "" {
		e.addr = a
	} else {
		// A port behind brackets is that of an IPv6 address alone.
		e.hasPort = false
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			host, port, e.hasPort = host[:i], host[i+1:], true
		}
		if e.addr, ok = parseIPv4(host); !ok {
			if e.addr, ok = names.Addr(host); !ok {
				return endpoint{}, false
			}
		}
	}
	if !e.hasPort {
		return e, true
	}
	if n, ok := parseNumber(port, 0, 65535); ok {
		e.port = uint16(n)
		return e, true
	}
	e.port, ok = names.Port(port, protocol)
	return e, ok
}

// parseIPv4 reads an address as inet_aton(3) does: one to four numbers, decimal, octal or hexadecimal,
// of which the last fills the rest of the address. What follows white space is ignored.
func parseIPv4(s string) (netip.Addr, bool) {
	if i := strings.IndexAny(s, whiteSpace); i >= 0 {
		s = s[:i]
	}
	parts := strings.Split(s, ".")
	if len(parts) > 4 {
		return netip.Addr{}, false
	}
	var v uint64
	for i, part := range parts {
		if part == "" || !isDigit(part[0]) || strings.Contains(part, "_") {
			return netip.Addr{}, false
		}
		n, ok := parseCNumber(part)
		last := i == len(parts)-1
		if !ok || !last && n > 255 || last && n >= 1<<(8*(4-i)) {
			return netip.Addr{}, false
		}
		if last {
			v |= n
		} else {
			v |= n << (24 - 8*i)
		}
	}
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}), true
}

// parseCNumber reads a number in the notation of C.
func parseCNumber(s string) (uint64, bool) {
	base := 10
	switch {
	case len(s) > 2 && (s[:2] == "0x" || s[:2] == "0X"):
		s, base = s[2:], 16
	case len(s) > 1 && s[0] == '0':
		s, base = s[1:], 8
	}
	n, err := strconv.ParseUint(s, base, 64)
	return n, err == nil
}
