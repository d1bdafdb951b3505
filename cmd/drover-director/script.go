package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/internal/program"
)

// runScript runs a tracker's program once, as its user and in a process group of its own, of which nothing is left
// when it returns. The error says how it ended, with the first line of what it wrote.
func runScript(ctx context.Context, t *settings.Tracker) error {
	cred, err := program.Credential(t.User, false)
	if err != nil {
		return fmt.Errorf("cannot be run as %q: %w", t.User, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, t.Timeout, fmt.Errorf("not done after %s", t.Timeout))
	defer cancel()
	cmd := program.New(ctx, cred, nil, t.Command...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot be run: %w", err)
	}
	// This process is favoured by the scheduler for the sake of the election; what it runs is not.
	_ = unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, 0)
	if err = cmd.Wait(); err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if words := cmd.Words(); words != "" {
		return fmt.Errorf("%w: %s", err, words)
	}
	return err
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
