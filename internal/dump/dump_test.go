package dump

import (
	"errors"
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestAll(t *testing.T) {
	other := errors.New("no")
	for _, tc := range []struct {
		name        string
		interrupted int   // the first so many
		then        error // of the next
		calls       int
		want        error
	}{
		{"at once", 0, nil, 1, nil},
		{"after changes", 19, nil, 20, nil},
		{"changes without end", 1000, nil, 20, netlink.ErrDumpInterrupted},
		{"fails", 2, other, 3, other},
	} {
		calls := 0
		out, err := All(func() ([]int, error) {
			if calls++; calls <= tc.interrupted {
				return []int{calls}, fmt.Errorf("a change: %w", netlink.ErrDumpInterrupted)
			}
			return []int{calls}, tc.then
		})
		if calls != tc.calls || !errors.Is(err, tc.want) || len(out) != 1 || out[0] != calls {
			t.Errorf("%s: %d calls, %v, %v", tc.name, calls, out, err)
		}
	}
}
