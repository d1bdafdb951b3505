package ipvs

import (
	"encoding/binary"
	"errors"
	"iter"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// The family "IPVS" of generic netlink, include/uapi/linux/ip_vs.h. All integers are in the host's
// byte order, ports and IPv4 netmasks in network byte order.
const (
	familyName    = "IPVS"
	familyVersion = 1
)

// Commands (IPVS_CMD_*).
const (
	cmdNewService = iota + 1
	cmdSetService
	cmdDelService
	cmdGetService
	cmdNewDest
	cmdSetDest
	cmdDelDest
	cmdGetDest
	cmdNewDaemon
	cmdDelDaemon
	cmdGetDaemon
	cmdSetConfig
	cmdGetConfig
	cmdSetInfo
	cmdGetInfo
	cmdZero
	cmdFlush
)

// Attributes of the first level (IPVS_CMD_ATTR_*).
const (
	attrService = iota + 1
	attrDest
	attrDaemon
	attrTimeoutTCP
	attrTimeoutTCPFin
	attrTimeoutUDP
)

// Attributes of a service (IPVS_SVC_ATTR_*).
const (
	svcFamily = iota + 1
	svcProtocol
	svcAddr
	svcPort
	svcFWMark
	svcScheduler
	svcFlags // struct ip_vs_flags: flags, mask
	svcTimeout
	svcNetmask
	svcStats
	svcPE
	svcStats64 // since Linux 4.1
)

// Attributes of a destination (IPVS_DEST_ATTR_*).
const (
	dstAddr = iota + 1
	dstPort
	dstForward
	dstWeight
	dstUpper
	dstLower
	dstActive
	dstInactive
	dstPersistent
	dstStats
	dstFamily   // since Linux 3.18
	dstStats64  // since Linux 4.1
	dstTunType  // since Linux 5.3
	dstTunPort  // since Linux 5.3
	dstTunFlags // since Linux 5.3
)

// Attributes of counters (IPVS_STATS_ATTR_*), 32 bits wide in svcStats and dstStats but for the
// bytes, all 64 bits wide in svcStats64 and dstStats64.
const (
	statConns = iota + 1
	statInPkts
	statOutPkts
	statInBytes
	statOutBytes
	statCPS
	statInPPS
	statOutPPS
	statInBPS
	statOutBPS
)

// Attributes of a sync daemon (IPVS_DAEMON_ATTR_*).
const (
	dmnState = iota + 1
	dmnInterface
	dmnSyncID
	dmnMaxLen
	dmnGroup
	dmnGroup6
	dmnPort // host byte order, unlike all other ports
	dmnTTL
)

// Attributes of the information (IPVS_INFO_ATTR_*).
const (
	infoVersion = iota + 1
	infoConnTableSize
)

const (
	nlHeaderLen   = unix.NLMSG_HDRLEN
	genlHeaderLen = 4 // struct genlmsghdr: cmd, version, reserved
	attrHeaderLen = 4 // struct nlattr: len, type
	attrTypeMask  = 0x3fff
	attrAlignment = 4
)

func align(n int) int { return (n + attrAlignment - 1) &^ (attrAlignment - 1) }

// appendMessage begins a message of the family; the length is set by endMessage.
func appendMessage(b []byte, family uint16, flags uint16, seq uint32, cmd, version uint8) []byte {
	b = binary.NativeEndian.AppendUint32(b, 0)
	b = binary.NativeEndian.AppendUint16(b, family)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0) // port id: the kernel knows the socket
	return append(b, cmd, version, 0, 0)
}

// endMessage sets the length of the message that began at start. All attributes are padded, so the
// message is aligned.
func endMessage(b []byte, start int) {
	binary.NativeEndian.PutUint32(b[start:], uint32(len(b)-start))
}

func appendAttrHeader(b []byte, typ uint16, n int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(attrHeaderLen+n))
	return binary.NativeEndian.AppendUint16(b, typ)
}

func appendUint8(b []byte, typ uint16, v uint8) []byte {
	return append(appendAttrHeader(b, typ, 1), v, 0, 0, 0)
}

func appendUint16(b []byte, typ uint16, v uint16) []byte {
	return append(binary.NativeEndian.AppendUint16(appendAttrHeader(b, typ, 2), v), 0, 0)
}

func appendPort(b []byte, typ uint16, v uint16) []byte {
	return append(binary.BigEndian.AppendUint16(appendAttrHeader(b, typ, 2), v), 0, 0)
}

func appendUint32(b []byte, typ uint16, v uint32) []byte {
	return binary.NativeEndian.AppendUint32(appendAttrHeader(b, typ, 4), v)
}

// appendString appends s with the terminating zero.
func appendString(b []byte, typ uint16, s string) []byte {
	b = append(appendAttrHeader(b, typ, len(s)+1), s...)
	return append(b, "\x00\x00\x00\x00"[:align(len(s)+1)-len(s)]...)
}

// appendAddr appends a union nf_inet_addr: 16 bytes, an IPv4 address in the first four.
func appendAddr(b []byte, typ uint16, a netip.Addr) []byte {
	b = appendAttrHeader(b, typ, 16)
	if a.Is4() {
		a4 := a.As4()
		b = append(b, a4[:]...)
		return append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	a16 := a.As16() // 16 zero bytes for the zero Addr
	return append(b, a16[:]...)
}

// appendNest begins a nested attribute; endNest sets its length.
func appendNest(b []byte, typ uint16) []byte {
	return appendAttrHeader(b, typ|unix.NLA_F_NESTED, 0)
}

func endNest(b []byte, start int) {
	binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
}

// errMalformed is a reply whose lengths do not fit together.
var errMalformed = errors.New("malformed netlink message")

// message is one netlink message; data is what follows its header.
type message struct {
	typ   uint16
	flags uint16
	seq   uint32
	data  []byte
}

// messages yields the messages of a datagram. A length that does not fit ends it with errMalformed.
func messages(b []byte) iter.Seq2[message, error] {
	return func(yield func(message, error) bool) {
		for len(b) > 0 {
			if len(b) < nlHeaderLen {
				yield(message{}, errMalformed)
				return
			}
			n := int(binary.NativeEndian.Uint32(b))
			if n < nlHeaderLen || n > len(b) {
				yield(message{}, errMalformed)
				return
			}
			m := message{
				typ:   binary.NativeEndian.Uint16(b[4:]),
				flags: binary.NativeEndian.Uint16(b[6:]),
				seq:   binary.NativeEndian.Uint32(b[8:]),
				data:  b[nlHeaderLen:n:n],
			}
			if !yield(m, nil) {
				return
			}
			b = b[min(align(n), len(b)):]
		}
	}
}

// attrIter walks over the attributes of a message or of a nested attribute:
//
//	for it := attrs(data); it.next(); { switch it.typ { ... it.value ... } }
//
// An attribute whose length does not fit ends the walk and leaves it.bad set.
type attrIter struct {
	rest  []byte
	typ   uint16
	value []byte
	bad   bool
}

func attrs(b []byte) attrIter { return attrIter{rest: b} }

func (it *attrIter) next() bool {
	if len(it.rest) < attrHeaderLen {
		it.bad = len(it.rest) != 0
		return false
	}
	n := int(binary.NativeEndian.Uint16(it.rest))
	if n < attrHeaderLen || n > len(it.rest) {
		it.bad = true
		return false
	}
	it.typ = binary.NativeEndian.Uint16(it.rest[2:]) & attrTypeMask
	it.value = it.rest[attrHeaderLen:n:n]
	it.rest = it.rest[min(align(n), len(it.rest)):]
	return true
}

// The readers of values take the value's leading bytes and return 0 where there are too few: a newer
// kernel may widen a value but no kernel narrows one.

func (it *attrIter) uint8() uint8 {
	if len(it.value) < 1 {
		return 0
	}
	return it.value[0]
}

func (it *attrIter) uint16() uint16 {
	if len(it.value) < 2 {
		return 0
	}
	return binary.NativeEndian.Uint16(it.value)
}

func (it *attrIter) port() uint16 {
	if len(it.value) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(it.value)
}

func (it *attrIter) uint32() uint32 {
	if len(it.value) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(it.value)
}

// uint reads 32 or 64 bits.
func (it *attrIter) uint() uint64 {
	if len(it.value) >= 8 {
		return binary.NativeEndian.Uint64(it.value)
	}
	return uint64(it.uint32())
}

// text is the value up to its first zero byte.
func (it *attrIter) text() []byte {
	for i, c := range it.value {
		if c == 0 {
			return it.value[:i]
		}
	}
	return it.value
}

// addr reads a union nf_inet_addr.
func (it *attrIter) addr(f Family) netip.Addr {
	switch {
	case f == IPv6 && len(it.value) >= 16:
		return netip.AddrFrom16([16]byte(it.value))
	case f == IPv4 && len(it.value) >= 4:
		return netip.AddrFrom4([4]byte(it.value))
	}
	return netip.Addr{}
}

// names makes the strings of schedulers and persistence engines without an allocation each.
type names map[string]string

func (n names) intern(b []byte) string {
	if s, ok := n[string(b)]; ok {
		return s
	}
	s := strings.ToValidUTF8(string(b), "?")
	if len(n) < 256 { // a kernel has some twenty
		n[string(b)] = s
	}
	return s
}
