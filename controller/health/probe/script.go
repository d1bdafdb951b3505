package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/health"
)

const (
	// maxOutput is how much of a script's output is kept for the reason, in bytes. The rest is read and dropped.
	maxOutput = 200
	// pipeTimeout bounds the wait for output of those whom a killed script has left behind.
	pipeTimeout = 100 * time.Millisecond
)

// script runs a program in a process group of its own, which is killed as a whole when ctx ends. It gets no
// environment but PATH and where the probe goes, and no input.
func (w *wire) script(ctx context.Context) (weight int, err error) {
	s := &w.target.Check.Script
	argv := strings.Split(s.Command, "\n")
	out := &firstBytes{}
	to := w.target.Place.To
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "DROVER_RIP=" + to.Addr().String(),
		"DROVER_PORT=" + strconv.Itoa(int(to.Port())), "DROVER_VIP=" + w.target.Place.VIP()}
	c.Dir, c.Stdout, c.Stderr = "/", out, out
	c.WaitDelay = pipeTimeout
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) }
	if c.SysProcAttr.Credential, err = credential(s.User); err != nil {
		return health.AsConfigured, err
	}
	err = c.Run()
	if c.Process != nil {
		_ = unix.Kill(-c.Process.Pid, unix.SIGKILL) // whoever it has left behind
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return health.AsConfigured, ctx.Err()
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return health.AsConfigured, nil
	case !errors.As(err, &exit):
		return health.AsConfigured, err
	}
	status := exit.ExitCode()
	if s.Dynamic && status >= 2 {
		return min(max(status-2, int(s.Min)), int(s.Max)), nil
	}
	return health.AsConfigured, fmt.Errorf("%v%s", exit, out)
}

// credential is that of a user, with its groups; nil if this process is that user already.
func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	if int(uid) == os.Getuid() {
		return nil, nil
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			c.Groups = append(c.Groups, uint32(n))
		}
	}
	return c, nil
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct{ b []byte }

func (f *firstBytes) Write(p []byte) (int, error) {
	f.b = append(f.b, p[:min(len(p), maxOutput-len(f.b))]...)
	return len(p), nil
}

// String is the first line, as the rest of a sentence.
func (f *firstBytes) String() string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(f.b), []byte("\n"))
	if len(line) == 0 {
		return ""
	}
	return ": " + strings.ToValidUTF8(string(line), "?")
}
