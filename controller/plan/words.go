package plan

import (
	"net/netip"
	"strconv"

	"github.com/drover-lb/drover/ipvs"
)

// The words are those of ipvsadm -S, so that what a plan prints can be read, and typed, by whoever
// knows ipvsadm.

func appendKey(b []byte, k ipvs.Key) []byte {
	if k.FWMark != 0 {
		b = strconv.AppendUint(append(b, "-f "...), uint64(k.FWMark), 10)
		if k.Family == ipvs.IPv6 {
			b = append(b, " -6"...)
		}
		return b
	}
	switch k.Protocol {
	case ipvs.TCP:
		b = append(b, "-t "...)
	case ipvs.UDP:
		b = append(b, "-u "...)
	case ipvs.SCTP:
		b = append(b, "--sctp-service "...)
	default: // none of ipvsadm's, but another tool may have made it
		b = append(b, "--protocol="...)
		b = append(append(b, k.Protocol.String()...), ' ')
	}
	return netip.AddrPortFrom(k.Addr, k.Port).AppendTo(b)
}

func appendService(b []byte, s *ipvs.Service) []byte {
	b = append(append(b, "-s "...), s.Scheduler...)
	if s.Flags&ipvs.Persistent != 0 {
		b = strconv.AppendUint(append(b, " -p "...), uint64(s.Timeout), 10)
		switch bits := s.Family.Bits(); {
		case int(s.Netmask) == bits:
		case s.Family == ipvs.IPv6:
			b = strconv.AppendUint(append(b, " -M "...), uint64(s.Netmask), 10)
		default:
			ones := ^uint32(0) << (32 - min(int(s.Netmask), 32))
			mask := netip.AddrFrom4([4]byte{byte(ones >> 24), byte(ones >> 16), byte(ones >> 8), byte(ones)})
			b = mask.AppendTo(append(b, " -M "...))
		}
	}
	if s.PE != "" {
		b = append(append(b, " --pe "...), s.PE...)
	}
	if s.Flags&ipvs.OnePacket != 0 {
		b = append(b, " -o"...)
	}
	if names := s.Flags.SchedulerFlags(s.Scheduler); names != "" {
		b = append(append(b, " -b "...), names...)
	}
	return b
}

func appendServer(b []byte, d *ipvs.Destination) []byte {
	switch d.Forward {
	case ipvs.Masq:
		b = append(b, "-m"...)
	case ipvs.Tunnel:
		b = append(b, "-i"...)
	case ipvs.DirectRoute:
		b = append(b, "-g"...)
	default: // none of ipvsadm's, but another tool may have made it
		b = append(append(b, "--forward="...), d.Forward.String()...)
	}
	b = strconv.AppendUint(append(b, " -w "...), uint64(d.Weight), 10)
	if d.Upper != 0 {
		b = strconv.AppendUint(append(b, " -x "...), uint64(d.Upper), 10)
	}
	if d.Lower != 0 {
		b = strconv.AppendUint(append(b, " -y "...), uint64(d.Lower), 10)
	}
	if d.Forward != ipvs.Tunnel || d.TunnelType == ipvs.TunnelIPIP {
		return b
	}
	switch d.TunnelType {
	case ipvs.TunnelGUE:
		b = strconv.AppendUint(append(b, " --tun-type gue --tun-port "...), uint64(d.TunnelPort), 10)
	case ipvs.TunnelGRE:
		b = append(b, " --tun-type gre"...)
	}
	switch d.TunnelFlags {
	case ipvs.TunnelNoChecksum:
		b = append(b, " --tun-nocsum"...)
	case ipvs.TunnelChecksum:
		b = append(b, " --tun-csum"...)
	case ipvs.TunnelRemoteChecksum:
		b = append(b, " --tun-remcsum"...)
	}
	return b
}
