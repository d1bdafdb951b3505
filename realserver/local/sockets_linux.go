package local

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of include/uapi/linux/inet_diag.h and include/net/tcp_states.h.
const (
	requestSize   = 56 // struct inet_diag_req_v2
	messageSize   = 72 // struct inet_diag_msg
	offPort       = 4  // of id.idiag_sport in it
	offAddr       = 8  // of id.idiag_src
	attrV6Only    = 11 // INET_DIAG_SKV6ONLY
	stateListen   = 1 << 10
	stateUnbound  = 1 << 7 // TCP_CLOSE: a UDP socket that is not connected
	sizeofAttrHdr = 4
)

// request is struct inet_diag_req_v2: sockets of a family and a protocol in some states.
type request struct {
	family, protocol uint8
	states           uint32
}

func (r request) Len() int { return requestSize }

func (r request) Serialize() []byte {
	b := make([]byte, requestSize)
	b[0], b[1] = r.family, r.protocol
	binary.NativeEndian.PutUint32(b[4:], r.states)
	return b
}

// Listeners lists the sockets of this network namespace that take connections or datagrams from anybody. Of TCP the
// kernel looks at those that listen alone, however many connections there are.
func Listeners() ([]Listener, error) {
	var out []Listener
	for _, r := range []request{
		{unix.AF_INET, uint8(TCP), stateListen}, {unix.AF_INET6, uint8(TCP), stateListen},
		{unix.AF_INET, uint8(UDP), stateUnbound}, {unix.AF_INET6, uint8(UDP), stateUnbound},
	} {
		req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		req.AddData(r)
		messages, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
		if err != nil {
			return nil, fmt.Errorf("failed to list the sockets that listen: %w", err)
		}
		for _, b := range messages {
			if l, ok := decode(b, Protocol(r.protocol)); ok {
				out = append(out, l)
			}
		}
	}
	return out, nil
}

// decode reads one struct inet_diag_msg with its attributes.
func decode(b []byte, p Protocol) (l Listener, ok bool) {
	if len(b) < messageSize {
		return l, false
	}
	var a netip.Addr
	switch b[0] {
	case unix.AF_INET:
		a = netip.AddrFrom4([4]byte(b[offAddr:]))
	case unix.AF_INET6:
		a = netip.AddrFrom16([16]byte(b[offAddr:]))
	default:
		return l, false
	}
	l = Listener{Protocol: p, At: netip.AddrPortFrom(a, binary.BigEndian.Uint16(b[offPort:]))}
	for b = b[messageSize:]; len(b) >= sizeofAttrHdr; {
		n, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if n < sizeofAttrHdr || n > len(b) {
			break
		}
		if typ == attrV6Only && n > sizeofAttrHdr {
			l.Only = b[sizeofAttrHdr] != 0
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return l, true
}
