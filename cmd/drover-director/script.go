package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/cluster/settings"
)

// maxScriptWords bounds what is kept of a tracker's output, in bytes.
const maxScriptWords = 200

// runScript runs a tracker's program once, as its user and in a process group of its own, of which nothing is left
// when it returns. The error says how it ended, with the first line of what it wrote.
func runScript(ctx context.Context, t *settings.Tracker) error {
	cred, err := credential(t.User)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.Timeout, fmt.Errorf("not done after %s", t.Timeout))
	defer cancel()
	var out firstLine
	cmd := exec.CommandContext(ctx, t.Command[0], t.Command[1:]...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 100 * time.Millisecond // for the output of what has left the group
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot be run: %w", err)
	}
	// This process is favoured by the scheduler for the sake of the election; what it runs is not.
	_ = unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, 0)
	err = cmd.Wait()
	_ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) // what it has left in the background
	switch cause := context.Cause(ctx); {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil
	case cause != nil:
		err = cause
	}
	if words := out.String(); words != "" {
		return fmt.Errorf("%w: %s", err, words)
	}
	return err
}

// credential is that of a user; nil for whom this process runs as.
func credential(name string) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, fmt.Errorf("cannot be run as %q: %w", name, err)
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return nil, fmt.Errorf("cannot be run as %q: %w", name, err)
	}
	if int(uid) == unix.Geteuid() {
		return nil, nil
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// firstLine keeps the beginning of the first line that is written to it.
type firstLine struct{ b []byte }

func (f *firstLine) Write(p []byte) (int, error) {
	if room := maxScriptWords - len(f.b); room > 0 {
		f.b = append(f.b, p[:min(len(p), room)]...)
	}
	return len(p), nil
}

func (f *firstLine) String() string {
	line, _, _ := bytes.Cut(bytes.TrimLeft(f.b, "\r\n \t"), []byte("\n"))
	return strings.TrimSpace(strings.ToValidUTF8(string(line), "?"))
}

// streak tells when enough successes or failures have come in a row.
type streak struct {
	fall, rise int // at least 1
	failed     bool
	n          int // in a row that contradict failed
}

// add takes one result in, and reports whether failed has changed.
func (s *streak) add(ok bool) bool {
	if ok != s.failed {
		s.n = 0
		return false
	}
	s.n++
	if s.failed && s.n < s.rise || !s.failed && s.n < s.fall {
		return false
	}
	s.failed, s.n = !s.failed, 0
	return true
}

// script runs a tracker until ctx ends, and says what keeps this director from being active whenever that changes.
// Its first run decides at once.
func (m *member) script(ctx context.Context, t *settings.Tracker) {
	s := streak{fall: 1, rise: 1}
	for n := 0; ; n++ {
		err := runScript(ctx, t)
		if ctx.Err() != nil {
			return
		}
		if s.add(err == nil) || n == 0 {
			why := ""
			if err != nil {
				why = fmt.Sprintf("tracker %s: %v", t.Name, err)
			}
			m.hinder("tracker "+t.Name, why)
		}
		s.fall, s.rise = t.Fall, t.Rise
		select {
		case <-ctx.Done():
			return
		case <-time.After(t.Every):
		}
	}
}
