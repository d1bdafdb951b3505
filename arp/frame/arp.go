package frame

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// MAC is an Ethernet address (EUI-48). Unlike net.HardwareAddr it can be compared.
type MAC [6]byte

// Broadcast is every host on the link.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// MACFrom converts an address of six bytes; ok is false for another length, as interfaces that are
// not Ethernet have.
func MACFrom(a net.HardwareAddr) (mac MAC, ok bool) {
	if len(a) != len(mac) {
		return MAC{}, false
	}
	return MAC(a), true
}

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (m *MAC) UnmarshalText(b []byte) error {
	a, err := net.ParseMAC(string(b))
	if err != nil {
		return err
	}
	mac, ok := MACFrom(a)
	if !ok {
		return fmt.Errorf("%q is not an Ethernet address of 6 bytes", b)
	}
	*m = mac
	return nil
}

// Op is what an ARP packet is for (RFC 826, "ar$op").
type Op uint16

const (
	OpRequest Op = 1
	OpReply   Op = 2
)

func (o Op) String() string {
	switch o {
	case OpRequest:
		return "request"
	case OpReply:
		return "reply"
	}
	return fmt.Sprintf("operation %d", uint16(o))
}

// ARPLen is the length in bytes of an ARP packet for IPv4 over Ethernet.
const ARPLen = 28

// ARP is an ARP packet for IPv4 over Ethernet (RFC 826). The sender's pair is what receivers learn.
//
//	0  hardware type 1 (Ethernet)     2  protocol type 0x0800 (IPv4)
//	4  hardware length 6   5  protocol length 4   6  operation
//	8  sender MAC   14  sender address   18  target MAC   24  target address
type ARP struct {
	Op        Op
	SenderMAC MAC
	SenderIP  netip.Addr // IPv4
	TargetMAC MAC
	TargetIP  netip.Addr // IPv4
}

// arpHead is the fixed beginning: Ethernet, IPv4, lengths 6 and 4.
const arpHead = "\x00\x01\x08\x00\x06\x04"

// Append appends the packet to b. It panics when an address is not IPv4, which is a mistake of the caller.
func (a ARP) Append(b []byte) []byte {
	sender, target := a.SenderIP.As4(), a.TargetIP.As4()
	b = append(b, arpHead...)
	b = binary.BigEndian.AppendUint16(b, uint16(a.Op))
	b = append(b, a.SenderMAC[:]...)
	b = append(b, sender[:]...)
	b = append(b, a.TargetMAC[:]...)
	return append(b, target[:]...)
}

// ParseARP reads an ARP packet for IPv4 over Ethernet. Bytes after it are Ethernet's padding and ignored.
func ParseARP(b []byte) (ARP, error) {
	if len(b) < ARPLen {
		return ARP{}, fmt.Errorf("ARP packet of %d bytes: expected at least %d", len(b), ARPLen)
	}
	if string(b[:len(arpHead)]) != arpHead {
		return ARP{}, fmt.Errorf("ARP packet begins with %x: expected %x (IPv4 over Ethernet)", b[:len(arpHead)], arpHead)
	}
	return ARP{
		Op:        Op(binary.BigEndian.Uint16(b[6:])),
		SenderMAC: MAC(b[8:14]),
		SenderIP:  netip.AddrFrom4([4]byte(b[14:18])),
		TargetMAC: MAC(b[18:24]),
		TargetIP:  netip.AddrFrom4([4]byte(b[24:28])),
	}, nil
}

// EtherType is the protocol of an Ethernet frame's content (IEEE 802 numbers).
type EtherType uint16

const (
	TypeARP  EtherType = 0x0806
	TypeIPv6 EtherType = 0x86dd
)

// HeaderLen is the length in bytes of an Ethernet header without VLAN tag.
const HeaderLen = 14

func appendHeader(b []byte, dst, src MAC, typ EtherType) []byte {
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	return binary.BigEndian.AppendUint16(b, uint16(typ))
}
