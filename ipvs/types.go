package ipvs

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Protocol is an IP protocol number; IPVS balances TCP, UDP and SCTP. It is 0 in fwmark services.
type Protocol uint16

const (
	TCP  Protocol = unix.IPPROTO_TCP
	UDP  Protocol = unix.IPPROTO_UDP
	SCTP Protocol = unix.IPPROTO_SCTP
)

// String returns TCP, UDP, SCTP, FWM for 0, and otherwise the number.
func (p Protocol) String() string {
	switch p {
	case 0:
		return "FWM"
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	case SCTP:
		return "SCTP"
	}
	return strconv.Itoa(int(p))
}

// Family is the address family of a service: unix.AF_INET or unix.AF_INET6.
type Family uint16

const (
	IPv4 Family = unix.AF_INET
	IPv6 Family = unix.AF_INET6
)

// FamilyOf returns the family of a valid address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Bits is the length of an address of the family.
func (f Family) Bits() int {
	if f == IPv6 {
		return 128
	}
	return 32
}

// Key identifies a service in the kernel: protocol, address and port, or else the firewall mark.
// Keys are comparable. Addr is unmapped and has no zone; it is invalid (zero) in fwmark services.
type Key struct {
	Family   Family
	Protocol Protocol
	Addr     netip.Addr
	Port     uint16
	FWMark   uint32 // 1..2^32-1; 0 when the service is not by mark
}

// String prints "TCP 192.0.2.10:80", "TCP [2001:db8::10]:80", "FWM 7" or "FWM 7 IPv6", as ipvsadm does.
func (k Key) String() string {
	if k.FWMark != 0 {
		if k.Family == IPv6 {
			return fmt.Sprintf("FWM %d IPv6", k.FWMark)
		}
		return fmt.Sprintf("FWM %d", k.FWMark)
	}
	return k.Protocol.String() + " " + netip.AddrPortFrom(k.Addr, k.Port).String()
}

// Compare orders keys: services by mark last, then family, protocol, address, port.
func (k Key) Compare(o Key) int {
	return cmp.Or(
		cmp.Compare(k.FWMark, o.FWMark),
		cmp.Compare(k.Family, o.Family),
		cmp.Compare(k.Protocol, o.Protocol),
		k.Addr.Compare(o.Addr),
		cmp.Compare(k.Port, o.Port),
	)
}

// Flags of a service (IP_VS_SVC_F_*). Sched1 to Sched3 mean something else to each scheduler: for sh
// fallback and port, for mh fallback and port.
type Flags uint32

const (
	Persistent Flags = 0x1  // set by the kernel's users with Timeout
	Hashed     Flags = 0x2  // set by the kernel itself; ignored in comparisons
	OnePacket  Flags = 0x4  // one-packet scheduling (ops), UDP only
	Sched1     Flags = 0x8  // sh-fallback, mh-fallback
	Sched2     Flags = 0x10 // sh-port, mh-port
	Sched3     Flags = 0x20
)

// SettableFlags are the flags that an administrator sets.
const SettableFlags = Persistent | OnePacket | Sched1 | Sched2 | Sched3

// SchedulerFlags names the scheduler flags in f the way ipvsadm -b takes them, separated by commas.
func (f Flags) SchedulerFlags(scheduler string) string {
	var names []string
	for i, bit := range []Flags{Sched1, Sched2, Sched3} {
		if f&bit == 0 {
			continue
		}
		name := "flag-" + strconv.Itoa(i+1)
		if (scheduler == "sh" || scheduler == "mh") && i < 2 {
			name = scheduler + [...]string{"-fallback", "-port"}[i]
		}
		names = append(names, name)
	}
	return strings.Join(names, ",")
}

// Service is what an administrator sets of a virtual service.
type Service struct {
	Key
	Scheduler string // rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh
	Flags     Flags  // without Hashed
	Timeout   uint32 // persistence, seconds; only with Persistent
	// Netmask groups clients for persistence: prefix length, 0..32 for IPv4 and 1..128 for IPv6. A
	// service without persistence has 32 or 128.
	Netmask uint8
	PE      string // persistence engine: "" or "sip"
}

// IrregularNetmask is the Netmask of a listed service whose mask in the kernel is no prefix, such as
// 255.0.255.0. It equals no mask that can be set, so that a comparison finds the difference.
const IrregularNetmask = 255

// Forward is how packets reach a real server (IP_VS_CONN_F_FWD_MASK).
type Forward uint32

const (
	Masq        Forward = 0
	Local       Forward = 1
	Tunnel      Forward = 2
	DirectRoute Forward = 3
	Bypass      Forward = 4
)

// String returns the word that ipvsadm prints.
func (f Forward) String() string {
	switch f {
	case Masq:
		return "Masq"
	case Local:
		return "Local"
	case Tunnel:
		return "Tunnel"
	case DirectRoute:
		return "Route"
	case Bypass:
		return "Bypass"
	}
	return "Forward(" + strconv.Itoa(int(f)) + ")"
}

// TunnelType is the encapsulation of Tunnel destinations (IP_VS_CONN_F_TUNNEL_TYPE_*).
type TunnelType uint8

const (
	TunnelIPIP TunnelType = 0
	TunnelGUE  TunnelType = 1
	TunnelGRE  TunnelType = 2
)

// String returns ipip, gue or gre.
func (t TunnelType) String() string {
	switch t {
	case TunnelIPIP:
		return "ipip"
	case TunnelGUE:
		return "gue"
	case TunnelGRE:
		return "gre"
	}
	return "tunnel(" + strconv.Itoa(int(t)) + ")"
}

// TunnelFlags choose the checksum of GUE and GRE tunnels (IP_VS_TUNNEL_ENCAP_FLAG_*).
type TunnelFlags uint16

const (
	TunnelNoChecksum     TunnelFlags = 0
	TunnelChecksum       TunnelFlags = 1
	TunnelRemoteChecksum TunnelFlags = 2
)

// String returns none, checksum or remote.
func (f TunnelFlags) String() string {
	switch f {
	case TunnelNoChecksum:
		return "none"
	case TunnelChecksum:
		return "checksum"
	case TunnelRemoteChecksum:
		return "remote"
	}
	return "flags(" + strconv.Itoa(int(f)) + ")"
}

// DestKey identifies a real server inside a service. Addr is unmapped.
type DestKey struct {
	Addr netip.Addr
	Port uint16
}

// String prints "10.0.0.11:80" or "[fd00::11]:80".
func (k DestKey) String() string { return netip.AddrPortFrom(k.Addr, k.Port).String() }

// Compare orders by address, then port.
func (k DestKey) Compare(o DestKey) int {
	return cmp.Or(k.Addr.Compare(o.Addr), cmp.Compare(k.Port, o.Port))
}

// Destination is what an administrator sets of a real server in a service.
type Destination struct {
	DestKey
	Forward     Forward
	Weight      uint32 // 0..65535
	Upper       uint32 // connections from which the server gets no new ones; 0 is no limit
	Lower       uint32 // connections below which it gets new ones again; at most Upper
	TunnelType  TunnelType
	TunnelPort  uint16 // GUE only
	TunnelFlags TunnelFlags
}

// Stats are the 64-bit counters of a service or destination, and its rates per second.
type Stats struct {
	Connections, InPackets, OutPackets, InBytes, OutBytes uint64
	CPS, InPPS, OutPPS, InBPS, OutBPS                     uint64
}

// Counts are the connections that a destination has now.
type Counts struct {
	Active, Inactive, Persistent uint32
}

// DestinationEntry is a destination as the kernel lists it.
type DestinationEntry struct {
	Destination
	Counts Counts
	Stats  Stats
}

// ServiceEntry is a service as the kernel lists it, with its destinations in the kernel's order.
type ServiceEntry struct {
	Service
	RawNetmask   uint32 // as the kernel has it: IPv4 mask with the first octet on top, IPv6 prefix length
	Stats        Stats
	Destinations []DestinationEntry
}
