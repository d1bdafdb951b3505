package arp

import (
	"net/netip"
	"testing"

	"golang.org/x/net/bpf"

	"github.com/drover-lb/drover/arp/frame"
)

// The kernel hands over what others claim, and nothing else: no questions, not what this host says itself.
func TestOthersFilter(t *testing.T) {
	own, thief := frame.MAC{2, 0, 0, 0, 0, 1}, frame.MAC{2, 0, 0, 0, 0, 2}
	near := frame.MAC{2, 0, 0, 0, 1, 1} // differs from own in the second part that is compared
	ip := netip.MustParseAddr
	vips := []netip.Addr{ip("10.0.0.100"), ip("10.0.0.101")}
	var many []netip.Addr
	for a := ip("10.1.0.0"); len(many) <= maxFiltered; a = a.Next() {
		many = append(many, a)
	}
	question := frame.Question(thief, ip("10.0.0.2"), ip("10.0.0.100"))
	for _, tc := range []struct {
		name  string
		addrs []netip.Addr
		frame []byte
		heard bool
	}{
		{"another one's announcement", vips, frame.Announcement(thief, ip("10.0.0.100"))[0], true},
		{"of the second one", vips, frame.Announcement(thief, ip("10.0.0.101"))[0], true},
		{"by one with nearly the same MAC", vips, frame.Announcement(near, ip("10.0.0.101"))[0], true},
		{"a question as its owner", vips, frame.Question(thief, ip("10.0.0.100"), ip("10.0.0.2")), true},
		{"an announcement of something else", vips, frame.Announcement(thief, ip("10.0.0.102"))[0], false},
		{"our own announcement", vips, frame.Announcement(own, ip("10.0.0.100"))[0], false},
		{"a question for it", vips, question, false},
		{"a question of nobody", vips, frame.Question(thief, netip.Addr{}, ip("10.0.0.100")), false},
		{"nothing is watched", nil, frame.Announcement(thief, ip("10.0.0.100"))[0], false},
		{"too many to filter", many, question, true},
		{"as many as can be", many[:maxFiltered], frame.Announcement(thief, many[maxFiltered-1])[0], true},
		{"as many, and another", many[:maxFiltered], question, false},
		{"cut off", vips, question[:20], false},
	} {
		program, whole := bpf.Disassemble(othersFilter(own, tc.addrs))
		vm, err := bpf.NewVM(program)
		if err != nil || !whole {
			t.Fatalf("%s: %v, whole %v", tc.name, err, whole)
		}
		n, err := vm.Run(tc.frame)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if heard := n > 0; heard != tc.heard {
			t.Errorf("%s: heard %v", tc.name, heard)
		}
	}
}
