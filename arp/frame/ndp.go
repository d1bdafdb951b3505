package frame

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/ndp"
)

const (
	ipv6HeaderLen = 40
	protoICMPv6   = 58  // RFC 4443
	ndHopLimit    = 255 // RFC 4861 section 7.1: proof that no router passed it on
	ndMaxLen      = 1500
)

var (
	allNodes = netip.MustParseAddr("ff02::1")
	nobody   = netip.IPv6Unspecified()
)

// multicastMAC is where an IPv6 multicast address goes on Ethernet (RFC 2464 section 7).
func multicastMAC(a netip.Addr) MAC {
	b := a.As16()
	return MAC{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// solicitedNode is the group that a question for a goes to (RFC 4291 section 2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	b := a.As16()
	return netip.AddrFrom16([16]byte{0xff, 0x02, 11: 0x01, 12: 0xff, 13: b[13], 14: b[14], 15: b[15]})
}

// appendND appends the IPv6 header and the message m with its checksum.
func appendND(b []byte, src, dst netip.Addr, m ndp.Message) []byte {
	payload, err := ndp.MarshalMessageChecksum(m, src, dst)
	if err != nil {
		panic(fmt.Sprintf("frame: %v", err)) // only for options that we never use
	}
	s, d := src.As16(), dst.As16()
	b = append(b, 0x60, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
	b = append(b, protoICMPv6, ndHopLimit)
	b = append(b, s[:]...)
	b = append(b, d[:]...)
	return append(b, payload...)
}

// parseND reads an IPv6 packet with a neighbour discovery message, with the checks of RFC 4861 section 7.1.
func parseND(b []byte) (src netip.Addr, m ndp.Message, err error) {
	if len(b) < ipv6HeaderLen || b[0]>>4 != 6 || b[6] != protoICMPv6 {
		return netip.Addr{}, nil, fmt.Errorf("not ICMP in IPv6")
	}
	if b[7] != ndHopLimit {
		return netip.Addr{}, nil, fmt.Errorf("hop limit %d: must be %d", b[7], ndHopLimit)
	}
	n := int(binary.BigEndian.Uint16(b[4:]))
	if n < 8 || n > ndMaxLen || len(b) < ipv6HeaderLen+n {
		return netip.Addr{}, nil, fmt.Errorf("payload of %d bytes in %d bytes: must be whole, 8 to %d", n, len(b), ndMaxLen)
	}
	payload := b[ipv6HeaderLen : ipv6HeaderLen+n]
	if sum := checksum(b[8:ipv6HeaderLen], payload); sum != 0 {
		return netip.Addr{}, nil, fmt.Errorf("checksum is off by %#04x", sum)
	}
	m, err = ndp.ParseMessage(payload)
	return netip.AddrFrom16([16]byte(b[8:24])), m, err
}

// checksum is the Internet checksum over the pseudo header and payload (RFC 8200 section 8.1): 0 when
// the checksum in payload is right.
func checksum(addrs, payload []byte) uint16 {
	sum := uint32(len(payload)) + protoICMPv6
	for _, b := range [][]byte{addrs, payload} {
		for ; len(b) >= 2; b = b[2:] {
			sum += uint32(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			sum += uint32(b[0]) << 8
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// linkLayer returns the MAC of the option with direction d.
func linkLayer(opts []ndp.Option, d ndp.Direction) (MAC, bool) {
	for _, o := range opts {
		if lla, ok := o.(*ndp.LinkLayerAddress); ok && lla.Direction == d {
			return MACFrom(lla.Addr)
		}
	}
	return MAC{}, false
}
