package app

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Niceness is that of a daemon with a part in an election: a lease must not end because a backup runs.
const Niceness = -15

// RaisePriority gives every thread of this process [Niceness], and so those that they will start
// (setpriority(2), "C library/kernel differences": each thread has its own). It needs CAP_SYS_NICE.
func RaisePriority() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("failed to list the threads: %w", err)
	}
	for _, t := range tasks {
		id, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, Niceness); err != nil && err != unix.ESRCH {
			return fmt.Errorf("failed to raise the priority: %w (needs CAP_SYS_NICE)", err)
		}
	}
	return nil
}
