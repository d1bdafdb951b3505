package ipvs

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// openNetNS opens the network namespace of a file descriptor, or of the calling thread for 0. The
// file is nil where there is no /proc to find the thread's.
func openNetNS(fd int) (*os.File, error) {
	if fd != 0 {
		f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			return nil, fmt.Errorf("failed to open network namespace: %w", err)
		}
		return f, nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, nil
	}
	return f, nil
}

// inNetNS calls f in a thread of the client's network namespace.
func (c *Client) inNetNS(f func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closed:
		return ErrClosed
	default:
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		entered, err := enter(c.netns)
		if err == nil {
			err = f()
		}
		if !entered {
			runtime.UnlockOSThread()
		} // else the thread ends with the goroutine
		done <- err
	}()
	return <-done
}

// enter moves the calling thread into a network namespace unless it is there: to move needs
// CAP_SYS_ADMIN, which a client of its own namespace can do without.
func enter(netns *os.File) (entered bool, err error) {
	if netns == nil {
		return false, nil
	}
	want, err := netns.Stat()
	if err != nil {
		return false, err
	}
	if have, err := os.Stat("/proc/thread-self/ns/net"); err == nil && os.SameFile(have, want) {
		return false, nil
	}
	if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
		return false, fmt.Errorf("failed to enter network namespace: %w", os.NewSyscallError("setns", err))
	}
	return true, nil
}
