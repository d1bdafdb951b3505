package frame

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
)

// Announcement returns the frames that tell a link that addr is at mac.
//
// For IPv4 there are two, the request form and the reply form. Both carry addr as sender and target; the
// reply's target MAC is mac, because Linux ignores a reply to the broadcast address that comes within
// a second of the last update (net/ipv4/arp.c, arp_is_garp and locktime). Some switches and hosts heed
// only the one or the other. For IPv6 it is one unsolicited neighbour advertisement with the Override
// flag, to all nodes (RFC 4861 section 7.2.6).
func Announcement(mac MAC, addr netip.Addr) [][]byte {
	if addr.Is4() {
		request := ARP{Op: OpRequest, SenderMAC: mac, SenderIP: addr, TargetIP: addr}
		reply := ARP{Op: OpReply, SenderMAC: mac, SenderIP: addr, TargetMAC: mac, TargetIP: addr}
		return [][]byte{arpFrame(Broadcast, mac, request), arpFrame(Broadcast, mac, reply)}
	}
	return [][]byte{ndFrame(multicastMAC(allNodes), mac, addr, allNodes, &ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac[:]}},
	})}
}

// Question returns the frame that asks a link who has addr. The answer goes to mac and, when it is
// valid, to source, an address of the asker of the same family. Without source it is the form that
// teaches nobody anything: the probe of RFC 5227 section 2.1.1, or duplicate address detection (RFC 4862
// section 5.4), whose answer goes to all nodes.
func Question(mac MAC, source, addr netip.Addr) []byte {
	if addr.Is4() {
		if !source.IsValid() {
			source = netip.IPv4Unspecified()
		}
		return arpFrame(Broadcast, mac, ARP{Op: OpRequest, SenderMAC: mac, SenderIP: source, TargetIP: addr})
	}
	ns := &ndp.NeighborSolicitation{TargetAddress: addr}
	if source.IsValid() {
		ns.Options = []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac[:]}}
	} else {
		source = nobody
	}
	group := solicitedNode(addr)
	return ndFrame(multicastMAC(group), mac, source, group, ns)
}

// DirectQuestion is [Question] sent to one host alone, as neighbours do that want to know whether it
// still has addr (RFC 1122 section 2.3.2.1, RFC 4861 section 7.3.3).
func DirectQuestion(to, mac MAC, source, addr netip.Addr) []byte {
	if addr.Is4() || !source.IsValid() {
		f := Question(mac, source, addr)
		copy(f, to[:])
		return f
	}
	return ndFrame(to, mac, source, addr, &ndp.NeighborSolicitation{TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac[:]}}})
}

func arpFrame(dst, src MAC, a ARP) []byte {
	return a.Append(appendHeader(make([]byte, 0, HeaderLen+ARPLen), dst, src, TypeARP))
}

func ndFrame(dst, src MAC, from, to netip.Addr, m ndp.Message) []byte {
	return appendND(appendHeader(make([]byte, 0, HeaderLen+ipv6HeaderLen+32), dst, src, TypeIPv6), from, to, m)
}

// Kind is the occasion on which a host claims an address.
type Kind uint8

const (
	Answer       Kind = iota // to a question: ARP reply, solicited advertisement
	Announced                // unasked: gratuitous ARP, unsolicited advertisement
	AskedAsOwner             // in a question for another address: receivers learn from it all the same
)

func (k Kind) String() string {
	switch k {
	case Answer:
		return "answer"
	case Announced:
		return "announcement"
	case AskedAsOwner:
		return "question"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Claim is what one frame says: Addr is at MAC.
type Claim struct {
	Addr netip.Addr
	MAC  MAC
	Kind Kind
	To   MAC // whom the frame was sent to
}

// ParseClaim returns the claim in an Ethernet frame without VLAN tag. ok is false when the frame claims
// nothing, is damaged, or is of another protocol.
func ParseClaim(b []byte) (c Claim, ok bool) {
	if len(b) < HeaderLen {
		return Claim{}, false
	}
	to, from := MAC(b[:6]), MAC(b[6:12])
	switch EtherType(binary.BigEndian.Uint16(b[12:])) {
	case TypeARP:
		a, err := ParseARP(b[HeaderLen:])
		if err != nil || a.SenderIP.IsUnspecified() {
			return Claim{}, false
		}
		c = Claim{Addr: a.SenderIP, MAC: a.SenderMAC, To: to}
		switch {
		case a.Op != OpRequest && a.Op != OpReply:
			return Claim{}, false
		case a.SenderIP == a.TargetIP:
			c.Kind = Announced
		case a.Op == OpRequest:
			c.Kind = AskedAsOwner
		}
		return c, true
	case TypeIPv6:
		src, m, err := parseND(b[HeaderLen:])
		if err != nil {
			return Claim{}, false
		}
		switch m := m.(type) {
		case *ndp.NeighborAdvertisement:
			// A host that answers with a unicast frame may leave its link-layer address out (RFC 4861
			// section 4.4).
			c = Claim{Addr: m.TargetAddress, MAC: from, To: to, Kind: Announced}
			if mac, ok := linkLayer(m.Options, ndp.Target); ok {
				c.MAC = mac
			}
			if m.Solicited {
				c.Kind = Answer
			}
			return c, true
		case *ndp.NeighborSolicitation:
			mac, ok := linkLayer(m.Options, ndp.Source)
			if !ok || src.IsUnspecified() {
				return Claim{}, false
			}
			return Claim{Addr: src, MAC: mac, To: to, Kind: AskedAsOwner}, true
		}
	}
	return Claim{}, false
}

// Ethernet reports whether an interface speaks Ethernet and can claim addresses, and its MAC.
func Ethernet(ifi *net.Interface) (MAC, bool) {
	mac, ok := MACFrom(ifi.HardwareAddr)
	return mac, ok && ifi.Flags&(net.FlagLoopback|net.FlagPointToPoint) == 0 && ifi.Flags&net.FlagBroadcast != 0
}
