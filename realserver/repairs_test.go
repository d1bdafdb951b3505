package realserver

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestNote(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	var list []Repair
	for _, x := range []struct {
		second int
		what   string
	}{{0, "a"}, {1, "b"}, {9, "a"}, {10, "a"}, {11, "a"}} {
		list = note(list, netip.Addr{}, x.what, at(x.second))
	}
	if want := []Repair{{When: at(1), What: "b"}, {When: at(10), What: "a"}}; !slices.Equal(list, want) {
		t.Errorf("got %v, want %v", list, want)
	}
	for i := range 2 * maxRepairs {
		list = note(list, netip.Addr{}, fmt.Sprint(i), at(20+i))
	}
	if len(list) != maxRepairs || list[maxRepairs-1].What != fmt.Sprint(2*maxRepairs-1) {
		t.Errorf("got %v", list)
	}
}
