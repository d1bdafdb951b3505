package ipvs

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// appendServiceKey appends what the kernel finds a service by.
func appendServiceKey(b []byte, k Key) []byte {
	b = appendUint16(b, svcFamily, uint16(k.Family))
	if k.FWMark != 0 {
		return appendUint32(b, svcFWMark, k.FWMark)
	}
	b = appendUint16(b, svcProtocol, uint16(k.Protocol))
	b = appendAddr(b, svcAddr, k.Addr)
	return appendPort(b, svcPort, k.Port)
}

// appendService appends a whole service. The mask of the flags covers them all, so that the kernel
// keeps none of an existing service's flags but IP_VS_SVC_F_HASHED, which it sets itself.
func appendService(b []byte, s Service) []byte {
	if s.Family == IPv6 {
		return appendRawService(b, s, uint32(s.Netmask)) // a prefix length (ip_vs_add_service in ip_vs_ctl.c)
	}
	return appendRawService(b, s, ^uint32(0)<<(32-min(s.Netmask, 32)))
}

// appendRawService appends a whole service with the mask as the kernel has it.
func appendRawService(b []byte, s Service, mask uint32) []byte {
	b = appendServiceKey(b, s.Key)
	b = appendString(b, svcScheduler, s.Scheduler)
	if s.PE != "" {
		b = appendString(b, svcPE, s.PE)
	}
	b = appendAttrHeader(b, svcFlags, 8)
	b = binary.NativeEndian.AppendUint32(b, uint32(s.Flags&^Hashed))
	b = binary.NativeEndian.AppendUint32(b, ^uint32(0))
	b = appendUint32(b, svcTimeout, s.Timeout)
	if s.Family == IPv6 {
		return appendUint32(b, svcNetmask, mask)
	}
	return binary.BigEndian.AppendUint32(appendAttrHeader(b, svcNetmask, 4), mask)
}

// appendDestKey appends what the kernel finds a destination by inside its service. A kernel before
// 3.18 ignores the family; it has destinations of the service's family only.
func appendDestKey(b []byte, k DestKey) []byte {
	b = appendUint16(b, dstFamily, uint16(FamilyOf(k.Addr)))
	b = appendAddr(b, dstAddr, k.Addr)
	return appendPort(b, dstPort, k.Port)
}

// appendDest appends a whole destination. The tunnel attributes are left out where they say nothing:
// the kernel takes missing ones for zero, and kernels before 5.3 do not know them.
func appendDest(b []byte, d Destination) []byte {
	b = appendDestKey(b, d.DestKey)
	b = appendUint32(b, dstForward, uint32(d.Forward))
	b = appendUint32(b, dstWeight, d.Weight)
	b = appendUint32(b, dstUpper, d.Upper)
	b = appendUint32(b, dstLower, d.Lower)
	if d.TunnelType != TunnelIPIP || d.TunnelPort != 0 || d.TunnelFlags != 0 {
		b = appendUint8(b, dstTunType, uint8(d.TunnelType))
		b = appendPort(b, dstTunPort, d.TunnelPort)
		b = appendUint16(b, dstTunFlags, uint16(d.TunnelFlags))
	}
	return b
}

// appendCommand appends c as one message with the given flags beside NLM_F_REQUEST.
func appendCommand(b []byte, c Command, family, flags uint16, seq uint32) []byte {
	start := len(b)
	b = appendMessage(b, family, unix.NLM_F_REQUEST|flags, seq, c.Op.genl(), familyVersion)
	if c.Op != OpZeroAll && c.Op != OpFlush {
		nest := len(b)
		b = appendNest(b, attrService)
		switch {
		case c.Op != OpNewService && c.Op != OpSetService:
			b = appendServiceKey(b, c.Service.Key)
		case c.Verbatim:
			b = appendRawService(b, c.Service, c.RawNetmask)
		default:
			b = appendService(b, c.Service)
		}
		endNest(b, nest)
	}
	if c.Op.onDest() {
		nest := len(b)
		b = appendNest(b, attrDest)
		if c.Op == OpDelDest {
			b = appendDestKey(b, c.Dest.DestKey)
		} else {
			b = appendDest(b, c.Dest)
		}
		endNest(b, nest)
	}
	endMessage(b, start)
	return b
}

// decodeService reads the value of an attrService. What it does not know it skips, what is missing
// stays zero; a service without family is an error.
func (n names) decodeService(b []byte) (ServiceEntry, error) {
	var (
		e       ServiceEntry
		addr    attrIter
		mask    attrIter
		has64   bool
		hasMask bool
	)
	it := attrs(b)
	for it.next() {
		switch it.typ {
		case svcFamily:
			e.Family = Family(it.uint16())
		case svcProtocol:
			e.Protocol = Protocol(it.uint16())
		case svcAddr:
			addr = it // the family may follow
		case svcPort:
			e.Port = it.port()
		case svcFWMark:
			e.FWMark = it.uint32()
		case svcScheduler:
			e.Scheduler = n.intern(it.text())
		case svcPE:
			e.PE = n.intern(it.text())
		case svcFlags:
			e.Flags = Flags(it.uint32()) &^ Hashed
		case svcTimeout:
			e.Timeout = it.uint32()
		case svcNetmask:
			mask, hasMask = it, len(it.value) >= 4
		case svcStats:
			if !has64 {
				e.Stats = decodeStats(it.value)
			}
		case svcStats64:
			has64 = true
			e.Stats = decodeStats(it.value)
		}
	}
	if it.bad || (e.Family != IPv4 && e.Family != IPv6) {
		return ServiceEntry{}, fmt.Errorf("service: %w", errMalformed)
	}
	if e.FWMark == 0 {
		if e.Addr = addr.addr(e.Family); !e.Addr.IsValid() {
			return ServiceEntry{}, fmt.Errorf("service: %w", errMalformed)
		}
	} else {
		e.Protocol, e.Port = 0, 0 // the kernel sends none
	}
	if hasMask {
		e.Netmask, e.RawNetmask = decodeNetmask(e.Family, mask.value)
	}
	return e, nil
}

// decodeNetmask returns the prefix length, IrregularNetmask for an IPv4 mask that is not a prefix, and
// the mask as the kernel keeps it.
func decodeNetmask(f Family, b []byte) (uint8, uint32) {
	if f == IPv6 {
		raw := binary.NativeEndian.Uint32(b)
		if raw > 128 {
			return IrregularNetmask, raw
		}
		return uint8(raw), raw
	}
	raw := binary.BigEndian.Uint32(b)
	ones := bits.LeadingZeros32(^raw)
	if raw<<ones != 0 {
		return IrregularNetmask, raw
	}
	return uint8(ones), raw
}

// decodeDest reads the value of an attrDest; f is the service's family, which the destination has
// unless it says otherwise.
func decodeDest(b []byte, f Family) (DestinationEntry, error) {
	var (
		e     DestinationEntry
		addr  attrIter
		has64 bool
	)
	it := attrs(b)
	for it.next() {
		switch it.typ {
		case dstFamily:
			f = Family(it.uint16())
		case dstAddr:
			addr = it // the family follows
		case dstPort:
			e.Port = it.port()
		case dstForward:
			e.Forward = Forward(it.uint32())
		case dstWeight:
			e.Weight = it.uint32()
		case dstUpper:
			e.Upper = it.uint32()
		case dstLower:
			e.Lower = it.uint32()
		case dstActive:
			e.Counts.Active = it.uint32()
		case dstInactive:
			e.Counts.Inactive = it.uint32()
		case dstPersistent:
			e.Counts.Persistent = it.uint32()
		case dstTunType:
			e.TunnelType = TunnelType(it.uint8())
		case dstTunPort:
			e.TunnelPort = it.port()
		case dstTunFlags:
			e.TunnelFlags = TunnelFlags(it.uint16())
		case dstStats:
			if !has64 {
				e.Stats = decodeStats(it.value)
			}
		case dstStats64:
			has64 = true
			e.Stats = decodeStats(it.value)
		}
	}
	if e.Addr = addr.addr(f); it.bad || !e.Addr.IsValid() {
		return DestinationEntry{}, fmt.Errorf("destination: %w", errMalformed)
	}
	return e, nil
}

// decodeStats reads both kinds of counters; 32-bit counters wrap in the kernel.
func decodeStats(b []byte) (s Stats) {
	for it := attrs(b); it.next(); {
		switch it.typ {
		case statConns:
			s.Connections = it.uint()
		case statInPkts:
			s.InPackets = it.uint()
		case statOutPkts:
			s.OutPackets = it.uint()
		case statInBytes:
			s.InBytes = it.uint()
		case statOutBytes:
			s.OutBytes = it.uint()
		case statCPS:
			s.CPS = it.uint()
		case statInPPS:
			s.InPPS = it.uint()
		case statOutPPS:
			s.OutPPS = it.uint()
		case statInBPS:
			s.InBPS = it.uint()
		case statOutBPS:
			s.OutBPS = it.uint()
		}
	}
	return s
}

// appendDaemon appends the nested attribute of a sync daemon; whole says whether all of it is wanted
// or what the kernel needs to stop one. Zero values are left to the kernel's defaults.
func appendDaemon(b []byte, d Daemon, whole bool) []byte {
	nest := len(b)
	b = appendNest(b, attrDaemon)
	b = appendUint32(b, dmnState, uint32(d.Role))
	if whole {
		b = appendString(b, dmnInterface, d.Interface)
		b = appendUint32(b, dmnSyncID, uint32(d.SyncID))
		if d.MaxLen != 0 {
			b = appendUint16(b, dmnMaxLen, d.MaxLen)
		}
		switch {
		case d.Group.Is4():
			a := d.Group.As4()
			b = append(appendAttrHeader(b, dmnGroup, 4), a[:]...)
		case d.Group.Is6():
			b = appendAddr(b, dmnGroup6, d.Group)
		}
		if d.Port != 0 {
			b = appendUint16(b, dmnPort, d.Port)
		}
		if d.TTL != 0 {
			b = appendUint8(b, dmnTTL, d.TTL)
		}
	}
	endNest(b, nest)
	return b
}

func decodeDaemon(b []byte) (Daemon, error) {
	var d Daemon
	it := attrs(b)
	for it.next() {
		switch it.typ {
		case dmnState:
			d.Role = DaemonRole(it.uint32())
		case dmnInterface:
			d.Interface = string(it.text())
		case dmnSyncID:
			d.SyncID = uint8(it.uint32())
		case dmnMaxLen:
			d.MaxLen = it.uint16()
		case dmnGroup:
			d.Group = it.addr(IPv4)
		case dmnGroup6:
			d.Group = it.addr(IPv6)
		case dmnPort:
			d.Port = it.uint16()
		case dmnTTL:
			d.TTL = it.uint8()
		}
	}
	if it.bad || (d.Role != Master && d.Role != Backup) {
		return Daemon{}, fmt.Errorf("sync daemon: %w", errMalformed)
	}
	return d, nil
}
