package lease

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now reads CLOCK_BOOTTIME.
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("lease: no clock: " + err.Error()) // impossible since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}
