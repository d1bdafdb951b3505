package ipvsadm

import (
	"cmp"
	"encoding/binary"
	"net/netip"

	"github.com/drover-lb/drover/ipvs"
)

// compareServices orders as ipvsadm does: mark, family, protocol, address, port. Marks and the
// 32-bit words of addresses compare by the sign of their 32-bit difference, so mark 4294967295
// comes before 0, and 9.0.0.0 after 200.0.0.0 but before 100.0.0.0. That is no order, hence
// [mergeSort].
func compareServices(a, b *ipvs.ServiceEntry) int {
	if d := int32(a.FWMark - b.FWMark); d != 0 {
		return int(d)
	}
	if a.Family != b.Family {
		return cmp.Compare(a.Family, b.Family)
	}
	if a.Protocol != b.Protocol {
		return cmp.Compare(a.Protocol, b.Protocol)
	}
	wa, wb := words(a.Addr), words(b.Addr)
	if d := compareWords(&wa, &wb, a.Family); d != 0 {
		return d
	}
	return int(a.Port) - int(b.Port)
}

// destKey is what destinations are ordered by.
type destKey struct {
	addr   [4]uint32
	family ipvs.Family
	port   uint16
}

func keyOf(d *ipvs.DestinationEntry) destKey {
	return destKey{words(d.Addr), ipvs.FamilyOf(d.Addr), d.Port}
}

// compare orders by address, then port; of two families the first one's decides.
func (a *destKey) compare(b *destKey) int {
	if d := compareWords(&a.addr, &b.addr, a.family); d != 0 {
		return d
	}
	return int(a.port) - int(b.port)
}

func compareWords(a, b *[4]uint32, f ipvs.Family) int {
	n := 1
	if f == ipvs.IPv6 {
		n = 4
	}
	for i := range n {
		if d := int32(a[i] - b[i]); d != 0 {
			return int(d)
		}
	}
	return 0
}

// words are the 32-bit words of an address, an IPv4 address the first.
func words(a netip.Addr) (w [4]uint32) {
	if !a.IsValid() {
		return w
	}
	if a.Is4() {
		b := a.As4()
		w[0] = binary.BigEndian.Uint32(b[:])
		return w
	}
	b := a.As16()
	for i := range w {
		w[i] = binary.BigEndian.Uint32(b[4*i:])
	}
	return w
}

// mergeSort sorts top-down into halves, the smaller one first, and prefers the first of equals when
// it merges. With a compare that is no order the result depends on that; so does qsort(3) of the
// C library, which ipvsadm uses, up to glibc 2.36. It uses and returns tmp, or a longer one.
func mergeSort[E any](s, tmp []E, compare func(a, b *E) int) []E {
	if len(s) > len(tmp) {
		tmp = make([]E, len(s))
	}
	mergeSortInto(s, tmp, compare)
	return tmp
}

func mergeSortInto[E any](s, tmp []E, compare func(a, b *E) int) {
	if len(s) <= 1 {
		return
	}
	a, b := s[:len(s)/2], s[len(s)/2:]
	mergeSortInto(a, tmp, compare)
	mergeSortInto(b, tmp, compare)
	out := tmp[:0]
	for len(a) > 0 && len(b) > 0 {
		if compare(&a[0], &b[0]) <= 0 {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	out = append(out, a...)
	copy(s, out) // what is left of b is in its place
}
