package ipvs

import (
	"net/netip"
	"slices"
	"testing"
)

func TestUniqueKeepsTheLastOfEachKey(t *testing.T) {
	type entry struct {
		key    byte
		weight uint32
	}
	for _, tt := range []struct{ in, want []entry }{
		{nil, nil},
		{[]entry{{1, 1}}, []entry{{1, 1}}},
		{[]entry{{1, 1}, {2, 2}, {3, 3}}, []entry{{1, 1}, {2, 2}, {3, 3}}},
		{[]entry{{3, 1}, {2, 2}, {1, 3}}, []entry{{3, 1}, {2, 2}, {1, 3}}},
		{[]entry{{2, 1}, {3, 2}, {1, 3}}, []entry{{2, 1}, {3, 2}, {1, 3}}},
		{[]entry{{1, 1}, {1, 2}}, []entry{{1, 2}}},
		{[]entry{{1, 1}, {2, 2}, {2, 3}, {3, 4}}, []entry{{1, 1}, {2, 3}, {3, 4}}},
		{[]entry{{3, 1}, {2, 2}, {3, 3}, {1, 4}, {2, 5}}, []entry{{3, 3}, {2, 5}, {1, 4}}},
	} {
		var dests []DestinationEntry
		for _, e := range tt.in {
			var d DestinationEntry
			d.DestKey, d.Weight = DestKey{netip.AddrFrom4([4]byte{10, 0, 0, e.key}), 80}, e.weight
			dests = append(dests, d)
		}
		var got []entry
		for _, d := range unique(dests, func(d *DestinationEntry) DestKey { return d.DestKey }, DestKey.Compare) {
			got = append(got, entry{d.Addr.As4()[3], d.Weight})
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("unique(%v) = %v, want %v", tt.in, got, tt.want)
		}
	}
}
