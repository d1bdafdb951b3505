package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
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

// Sockets asks the kernel for sockets, of the network namespace in which it was opened. It is for one goroutine.
type Sockets struct {
	handle *nl.SocketHandle
}

// OpenSockets opens it. Each of its calls is bounded by a second.
func OpenSockets() (*Sockets, error) {
	s, err := nl.GetNetlinkSocketAt(netns.None(), netns.None(), unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, fmt.Errorf("failed to open a socket to list sockets: %w", err)
	}
	tv := unix.Timeval{Sec: 1}
	if err := errors.Join(s.SetSendTimeout(&tv), s.SetReceiveTimeout(&tv)); err != nil {
		s.Close()
		return nil, fmt.Errorf("failed to bound the waits of a socket: %w", err)
	}
	return &Sockets{&nl.SocketHandle{Socket: s}}, nil
}

// Close closes it.
func (s *Sockets) Close() { s.handle.Close() }

// Listeners lists the sockets that take connections or datagrams for the services from anybody: all of a protocol, or
// those of IPv4 alone where they do for all. Of TCP the kernel looks at those that listen alone, however many
// connections there are. It is called ten times a second, hence the frugality.
func (s *Sockets) Listeners(services []Service) (out []Listener, err error) {
	for _, p := range []struct {
		protocol Protocol
		states   uint32
	}{{TCP, stateListen}, {UDP, stateUnbound}} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			lacking := slices.ContainsFunc(services, func(x Service) bool {
				return x.Protocol == p.protocol && !slices.ContainsFunc(out, func(l Listener) bool { return l.takes(x) })
			})
			if !lacking {
				continue
			}
			if out, err = s.list(out, request{family, uint8(p.protocol), p.states}); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

func (s *Sockets) list(out []Listener, r request) ([]Listener, error) {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_INET_DIAG: s.handle}
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
