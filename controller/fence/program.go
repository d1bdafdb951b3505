package fence

import (
	"encoding/binary"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// What the program returns in direct action (TC_ACT_* of include/uapi/linux/pkt_cls.h).
const (
	actUnspec = -1 // to the next filter
	actShot   = 2  // dropped
)

const (
	offProtocol = 16 // of protocol in struct __sk_buff, the EtherType in network order
	hdrStartNet = 1  // BPF_HDR_START_NET: offsets count from the network header, whatever is below

	icmp6Solicitation = 135 // RFC 4861, section 4.3

	offTCPFlags = 13 // RFC 9293, section 3.1
	tcpRST      = 4
	tcpACK      = 16
)

// Places on the program's stack, below the frame pointer.
const (
	stackKey    = -16 // the address, 16 bytes
	stackGroup  = -20 // index of the group, 4 bytes
	stackHeader = -48 // what is being read, up to 28 bytes
)

// native is the number that a load of b's bytes gives.
func native(b ...byte) int64 {
	if len(b) == 2 {
		return int64(binary.NativeEndian.Uint16(b))
	}
	return int64(int32(binary.NativeEndian.Uint32(b)))
}

func etherType(t uint16) int32 { return int32(native(byte(t>>8), byte(t))) }

// writer collects the instructions of a program whose register 6 is the packet.
type writer struct {
	ins   asm.Instructions
	short string // label to go to with a packet that is too short
}

func (w *writer) add(more ...asm.Instruction) { w.ins = append(w.ins, more...) }

func (w *writer) label(name string) { w.add(asm.Mov.Reg(asm.R6, asm.R6).WithSymbol(name)) }

// read copies size bytes at an offset from the network header to a place on the stack.
func (w *writer) read(offset, place, size int32) {
	w.add(
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, offset),
		asm.Mov.Reg(asm.R3, asm.RFP),
		asm.Add.Imm(asm.R3, place),
		asm.Mov.Imm(asm.R4, size),
		asm.Mov.Imm(asm.R5, hdrStartNet),
		asm.FnSkbLoadBytesRelative.Call(),
		asm.JNE.Imm(asm.R0, 0, w.short),
	)
}

func (w *writer) lookup(m *ebpf.Map, key int32) {
	w.add(
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
	)
}

// begin loads the EtherType into register 7 and makes the key that of an IPv4 address, all but its last 4 bytes.
func (w *writer) begin() {
	w.add(
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R7, asm.R6, offProtocol, asm.Word),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.RFP, stackKey, asm.R1, asm.DWord),
		asm.StoreImm(asm.RFP, stackKey+8, native(0, 0, 0xff, 0xff), asm.Word),
	)
}

// leaving drops the resets without ACK that leave from an address whose group is hushed: those of a TCP that
// does not know the connection. What IPVS passes on leaves from the client's address.
func leaving(addrs, groups *ebpf.Map, clock asm.BuiltinFunc) asm.Instructions {
	w := &writer{short: "pass"}
	flags := func(offset int32) {
		w.read(offset, stackHeader, 1)
		w.add(
			asm.LoadMem(asm.R1, asm.RFP, stackHeader, asm.Byte),
			asm.And.Imm(asm.R1, tcpRST|tcpACK),
			asm.JNE.Imm(asm.R1, tcpRST, "pass"),
		)
	}
	w.begin()
	w.add(
		asm.JEq.Imm(asm.R7, etherType(unix.ETH_P_IP), "ipv4"),
		asm.JEq.Imm(asm.R7, etherType(unix.ETH_P_IPV6), "ipv6"),
		asm.Ja.Label("pass"),
	)

	w.label("ipv4") // RFC 791, section 3.1
	w.read(0, stackHeader, 10)
	w.add(
		asm.LoadMem(asm.R1, asm.RFP, stackHeader, asm.Byte),
		asm.JNE.Imm(asm.R1, 0x45, "pass"), // options: not of a reset that answers
		asm.LoadMem(asm.R1, asm.RFP, stackHeader+9, asm.Byte),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "pass"),
	)
	flags(20 + offTCPFlags)
	w.read(12, stackKey+12, 4)
	w.add(asm.Ja.Label("address"))

	w.label("ipv6") // RFC 8200, section 3
	w.read(6, stackHeader, 1)
	w.add(
		asm.LoadMem(asm.R1, asm.RFP, stackHeader, asm.Byte),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_TCP, "pass"),
	)
	flags(40 + offTCPFlags)
	w.read(8, stackKey, 16)

	w.label("address")
	w.lookup(addrs, stackKey)
	w.add(
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word),
		asm.StoreMem(asm.RFP, stackGroup, asm.R1, asm.Word),
	)
	w.lookup(groups, stackGroup)
	w.add(
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R7, asm.R0, 16, asm.DWord), // groupState.Hush
		clock.Call(),
		asm.JGT.Reg(asm.R0, asm.R7, "pass"),
		asm.Mov.Imm(asm.R0, actShot),
		asm.Return(),
		asm.Mov.Imm(asm.R0, actUnspec).WithSymbol("pass"),
		asm.Return(),
	)
	return w.ins
}

// arriving drops what is for an address whose group's deadline has passed.
//
//	addrs:  address (16 bytes, IPv4 mapped) -> index of its group (4 bytes)
//	groups: index -> groupState
//	counts: index -> what was dropped (8 bytes)
//
// clock is the helper that reads the clock.
func arriving(addrs, groups, counts *ebpf.Map, clock asm.BuiltinFunc) asm.Instructions {
	w := &writer{short: "pass"} // too short: nobody answers it either
	add, label, read, lookup := w.add, w.label, w.read, w.lookup

	w.begin()
	add(
		asm.JEq.Imm(asm.R7, etherType(unix.ETH_P_IP), "ipv4"),
		asm.JEq.Imm(asm.R7, etherType(unix.ETH_P_IPV6), "ipv6"),
		asm.JEq.Imm(asm.R7, etherType(unix.ETH_P_ARP), "arp"),
		asm.Ja.Label("pass"),
	)

	label("arp") // RFC 826: 4 bytes of types, 1 and 1 of lengths, 2 of operation, then 6, 4, 6, 4
	read(0, stackHeader, 28)
	add(
		asm.LoadMem(asm.R1, asm.RFP, stackHeader+4, asm.Half),
		asm.JNE.Imm(asm.R1, int32(native(6, 4)), "pass"),
		asm.LoadMem(asm.R1, asm.RFP, stackHeader+6, asm.Half),
		asm.JNE.Imm(asm.R1, int32(native(0, 1)), "pass"), // request
		asm.LoadMem(asm.R1, asm.RFP, stackHeader+24, asm.Word),
		asm.StoreMem(asm.RFP, stackKey+12, asm.R1, asm.Word),
		asm.Ja.Label("address"),
	)

	label("ipv4") // RFC 791, section 3.1
	read(16, stackKey+12, 4)
	add(asm.Ja.Label("address"))

	label("ipv6") // RFC 8200, section 3
	read(24, stackKey, 16)
	lookup(addrs, stackKey)
	add(asm.JNE.Imm(asm.R0, 0, "found"))
	// A solicitation goes to a multicast address of many.
	read(6, stackHeader, 1)
	add(
		asm.LoadMem(asm.R1, asm.RFP, stackHeader, asm.Byte),
		asm.JNE.Imm(asm.R1, unix.IPPROTO_ICMPV6, "pass"),
	)
	read(40, stackHeader, 1)
	add(
		asm.LoadMem(asm.R1, asm.RFP, stackHeader, asm.Byte),
		asm.JNE.Imm(asm.R1, icmp6Solicitation, "pass"),
	)
	read(48, stackKey, 16)

	label("address")
	lookup(addrs, stackKey)
	add(
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word).WithSymbol("found"),
		asm.StoreMem(asm.RFP, stackGroup, asm.R1, asm.Word),
	)
	lookup(groups, stackGroup)
	add(
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R7, asm.R0, 0, asm.DWord), // groupState.Deadline
		asm.LoadMem(asm.R8, asm.R0, 8, asm.DWord), // groupState.Lapse
		clock.Call(),
		asm.JLE.Reg(asm.R0, asm.R7, "pass"),
		asm.JEq.Imm(asm.R8, 0, "drop"),
		asm.JGE.Reg(asm.R0, asm.R8, "pass"),
	)
	label("drop")
	lookup(counts, stackGroup)
	add(
		asm.JEq.Imm(asm.R0, 0, "shot"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, actShot).WithSymbol("shot"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, actUnspec).WithSymbol("pass"),
		asm.Return(),
	)
	return w.ins
}
