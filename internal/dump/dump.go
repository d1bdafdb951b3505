// Package dump lists what the kernel has, again as long as changes get in between.
package dump

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// tries bounds how often a listing is repeated.
const tries = 20

// All returns what list does, which is called again while the kernel says that a change came in between
// (NLM_F_DUMP_INTR), at most twenty times: such a list may lack entries. If each was interrupted, the error is
// [netlink.ErrDumpInterrupted], and the last list comes with it.
func All[T any](list func() ([]T, error)) (out []T, err error) {
	for range tries {
		if out, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return out, err
}
