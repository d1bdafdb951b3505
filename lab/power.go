package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Power switches a host off, as if its power failed, or on again.
type Power struct {
	On   bool
	Host string
}

func (p Power) describe() string {
	if p.On {
		return "power on " + p.Host
	}
	return "power off " + p.Host
}

func (p Power) fault() string { return p.describe() }

// power: off stops every process where it is, so that none reacts to what comes, takes the cables away,
// so that nobody hears of the end of a connection, kills the processes and throws away what the host's
// kernel held. On boots the host and starts what starts by itself.
func (r *run) power(ctx context.Context, a Power) (string, error) {
	h, m := r.host(a.Host), r.world.Machine(a.Host)
	if a.On {
		r.ledger.add(change{host: a.Host, on: true, power: true})
		if err := r.world.PowerOn(a.Host); err != nil {
			return "", err
		}
		var refs []string
		for _, p := range h.Run {
			if !p.Manual {
				refs = append(refs, p.Ref())
			}
		}
		return r.processes(ctx, Processes{Verb: "start", Refs: refs})
	}
	inode, err := os.Readlink(m.Namespaces()["net"])
	if err != nil {
		return "", err
	}
	var waits []<-chan struct{}
	for _, p := range h.Run {
		if done := r.procs[p.Ref()].condemn(); done != nil {
			waits = append(waits, done)
		}
	}
	if _, err := signalNamespace(inode, syscall.SIGSTOP); err != nil {
		return "", err
	}
	if err := r.world.PowerOff(a.Host); err != nil {
		return "", err
	}
	r.ledger.add(change{host: a.Host, power: true})
	for { // until nobody is left: what is killed may just have started another
		n, err := signalNamespace(inode, syscall.SIGKILL)
		if err != nil {
			return "", err
		}
		if n == 0 {
			break
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
	}
	for _, done := range waits {
		select {
		case <-done:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	return "", nil
}

// signalNamespace sends a signal to every process of a network namespace, which is named by its link in
// /proc, and returns how many there were that had not ended yet.
func signalNamespace(inode string, sig syscall.Signal) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process that has ended meanwhile has no namespace any more.
		if got, err := os.Readlink("/proc/" + e.Name() + "/ns/net"); err != nil || got != inode {
			continue
		}
		n++
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return n, fmt.Errorf("failed to send %s to process %d: %w", unix.SignalName(sig), pid, err)
		}
	}
	return n, nil
}
