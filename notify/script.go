package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/internal/program"
	"github.com/drover-lb/drover/notify/sink"
)

// envPrefix begins the variables of a program. That of the command line, DROVER_DIRECTOR, is another one.
const envPrefix = "DROVER_EVENT_"

// script runs a program for each event. It has taken the event if it ends with status 0.
type script struct {
	set   *sink.Script
	words string
}

func (*script) most() int { return 1 }

func (s *script) said() string { return s.words }

// environment is an event as variables.
func environment(e *Event) []string {
	var out []string
	for _, f := range e.fields() {
		out = append(out, envPrefix+strings.ToUpper(f.name)+"="+strings.ReplaceAll(f.value, "\x00", ""))
	}
	return out
}

func (s *script) send(ctx context.Context, list []*Event) error {
	cred, err := program.Credential(s.set.User, false)
	if err != nil {
		return fmt.Errorf("cannot be run as %q: %w", s.set.User, err)
	}
	in, err := json.Marshal(list[0])
	if err != nil {
		return &refused{err}
	}
	cmd := program.New(ctx, cred, environment(list[0]), s.set.Command...)
	cmd.Stdin = bytes.NewReader(append(in, '\n'))
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot be run: %w", err)
	}
	// A director in a cluster is favoured by the scheduler for the sake of the election; what it runs is not.
	_ = unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, 0)
	if err := cmd.Wait(); err != nil {
		if words := cmd.Words(); words != "" {
			return fmt.Errorf("%w: %s", err, words)
		}
		return err
	}
	s.words = clean(cmd.Words(), program.MaxWords)
	return nil
}
