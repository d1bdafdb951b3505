package ipvsadm

import (
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-lb/drover/ipvs"
)

// Rules prints the services with their destinations as the command lines that make them, sorted, as
// ipvsadm -S does; with nil names as ipvsadm -Sn. Not all that can be set is in them: ipvsadm leaves the
// thresholds of servers out, and a mask without persistence.
func Rules(w io.Writer, services []ipvs.ServiceEntry, destinations Destinations, names Names) error {
	services = slices.Clone(services)
	mergeSort(services, nil, compareServices)
	if names != nil {
		destinations = destinations.collected()
	}
	return each(w, make([]byte, 0, 64<<10), services, destinations, false,
		func(b []byte, s *ipvs.ServiceEntry) []byte {
			return appendServiceRule(appendRuleKey(append(b, "-A "...), s, names), s)
		},
		func(b []byte, s *ipvs.ServiceEntry, d *ipvs.DestinationEntry) []byte {
			b = append(appendRuleKey(append(b, "-a "...), s, names), " -r "...)
			b = appendEndpoint(b, d.Addr, d.Port, s.Protocol, names)
			return appendDestRule(b, &d.Destination)
		})
}

// appendRuleKey appends the options that name the service.
func appendRuleKey(b []byte, s *ipvs.ServiceEntry, names Names) []byte {
	if s.FWMark != 0 {
		b = strconv.AppendInt(append(b, "-f "...), int64(int32(s.FWMark)), 10)
		if s.Family == ipvs.IPv6 {
			b = append(b, " -6"...)
		}
		return b
	}
	switch s.Protocol {
	case ipvs.TCP:
		b = append(b, "-t "...)
	case ipvs.UDP:
		b = append(b, "-u "...)
	case ipvs.SCTP:
		b = append(b, "--sctp-service "...)
	default:
		b = append(b, "--xxx-service "...)
	}
	return appendEndpoint(b, s.Addr, s.Port, s.Protocol, names)
}

// appendServiceRule appends what follows the service's key, and the end of the line.
func appendServiceRule(b []byte, s *ipvs.ServiceEntry) []byte {
	b = append(append(b, " -s "...), s.Scheduler...)
	if s.Flags&ipvs.Persistent != 0 {
		b = strconv.AppendUint(append(b, " -p "...), uint64(s.Timeout), 10)
		switch {
		case s.Family == ipvs.IPv6 && s.RawNetmask != 128:
			b = strconv.AppendInt(append(b, " -M "...), int64(int32(s.RawNetmask)), 10)
		case s.Family != ipvs.IPv6 && s.RawNetmask != 0xffffffff:
			b = dotted(s.RawNetmask).AppendTo(append(b, " -M "...))
		}
	}
	if s.PE != "" {
		b = append(append(b, " --pe "...), s.PE...)
	}
	if s.Flags&ipvs.OnePacket != 0 {
		b = append(b, " -o"...)
	}
	if s.Flags&(ipvs.Sched1|ipvs.Sched2|ipvs.Sched3) != 0 {
		b = append(b, " -b "...)
		b = append(b, strings.Join(schedulerFlags(s.Flags, s.Scheduler), ",")...)
	}
	return append(b, '\n')
}

// appendDestRule appends what follows the server's address, and the end of the line.
func appendDestRule(b []byte, d *ipvs.Destination) []byte {
	switch d.Forward {
	case ipvs.Masq:
		b = append(b, " -m"...)
	case ipvs.Tunnel:
		b = append(b, " -i"...)
	case ipvs.DirectRoute, ipvs.Local:
		b = append(b, " -g"...)
	default:
		b = append(b, " (null)"...)
	}
	b = strconv.AppendInt(append(b, " -w "...), int64(int32(d.Weight)), 10)
	if d.Forward != ipvs.Tunnel || d.TunnelType > ipvs.TunnelGRE {
		return append(b, '\n')
	}
	b = append(append(b, " --tun-type "...), d.TunnelType.String()...)
	if d.TunnelType == ipvs.TunnelGUE {
		b = strconv.AppendUint(append(b, " --tun-port "...), uint64(d.TunnelPort), 10)
	}
	if d.TunnelType != ipvs.TunnelIPIP {
		switch d.TunnelFlags {
		case ipvs.TunnelChecksum:
			b = append(b, " --tun-csum"...)
		case ipvs.TunnelRemoteChecksum:
			b = append(b, " --tun-remcsum"...)
		default:
			b = append(b, " --tun-nocsum"...)
		}
	}
	return append(b, '\n')
}
