package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/internal/program"
)

const (
	// maxBody bounds what is read of a page, in bytes.
	maxBody = 64 << 10
	// least is the shortest time over which the kernel's counters, which count ticks, say something.
	least = 100 * time.Millisecond
)

// ErrSoon says that too little time has passed since the last measurement, or there was none yet.
var ErrSoon = errors.New("too little time has passed to measure the load")

// Meter measures by a [Config]. It is for one goroutine.
type Meter struct {
	c      *Config
	proc   string // /proc
	client *http.Client

	when     time.Time // of what follows
	stat     stat
	waited   uint64 // microseconds
	pressure bool   // waited is known
}

// New returns a meter. What the kernel counts is measured from now on.
func New(c *Config) *Meter {
	m := &Meter{c: c, proc: "/proc"}
	switch c.Source {
	case HTTP:
		m.client = &http.Client{
			// The page is one of this host: neither a proxy nor another place.
			Transport:     &http.Transport{MaxIdleConns: 1, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	case CPU, Pressure, RunQueue:
		_, _ = m.kernel(time.Now()) // an error shows at the next one
	case Script:
	}
	return m
}

// Close gives up what it holds.
func (m *Meter) Close() {
	if m.client != nil {
		m.client.CloseIdleConnections()
	}
}

// Measure returns the load, at now; where the kernel counts, that since the last one. It takes no longer than the
// timeout. The error says why there is none.
func (m *Meter) Measure(ctx context.Context, now time.Time) (float64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, m.c.Timeout, fmt.Errorf("no answer within %s", m.c.Timeout))
	defer cancel()
	var n float64
	var err error
	switch m.c.Source {
	case Script:
		n, err = m.script(ctx)
	case HTTP:
		n, err = m.page(ctx)
	case CPU, Pressure, RunQueue:
		return m.kernel(now)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return 0, err
	}
	return n / m.c.Full, nil
}

// script runs the program, in a process group of its own of which nothing is left.
func (m *Meter) script(ctx context.Context) (float64, error) {
	cred, err := program.Credential(m.c.User, false)
	if err != nil {
		return 0, fmt.Errorf("the script cannot be run as %q: %w", m.c.User, err)
	}
	return run(ctx, cred, m.c.Command)
}

func run(ctx context.Context, cred *syscall.Credential, command []string) (float64, error) {
	cmd := program.New(ctx, cred, nil, command...)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("the script cannot be run: %w", err)
	}
	// This process may be favoured by the scheduler for the sake of the election; what it runs is not.
	_ = unix.Setpriority(unix.PRIO_PGRP, cmd.Process.Pid, 0)
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("the script ended with %w: %s", err, cmd.Words())
	}
	return parseNumber(cmd.Words())
}

// page asks for the page.
func (m *Meter) page(ctx context.Context) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.c.URL, nil)
	if err != nil {
		return 0, err
	}
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case err != nil:
		return 0, err
	case resp.StatusCode != http.StatusOK:
		return 0, fmt.Errorf("the page has status %d", resp.StatusCode)
	case m.c.Field != "":
		return parseField(body, m.c.Field)
	}
	return parseNumber(string(body))
}

// kernel reads what the kernel counts.
func (m *Meter) kernel(now time.Time) (float64, error) {
	b, err := os.ReadFile(filepath.Join(m.proc, "stat"))
	if err != nil {
		return 0, err
	}
	s, err := parseStat(b)
	if err != nil {
		return 0, fmt.Errorf("failed to read %s/stat: %w", m.proc, err)
	}
	waited, pressure, perr := uint64(0), false, error(nil)
	if m.c.Source != RunQueue {
		if b, perr = os.ReadFile(filepath.Join(m.proc, "pressure", "cpu")); perr == nil {
			waited, perr = parsePressure(b)
		}
		pressure = perr == nil
	}
	if m.c.Source == Pressure && !pressure {
		return 0, fmt.Errorf("this kernel tells no pressure (it needs CONFIG_PSI, and psi=1): %w", perr)
	}
	before := *m
	past := now.Sub(m.when)
	if !m.when.IsZero() && past < least {
		return 0, ErrSoon
	}
	m.when, m.stat, m.waited, m.pressure = now, s, waited, pressure
	if before.when.IsZero() {
		return 0, ErrSoon
	}
	queue := float64(max(s.running-1, 0)) / float64(s.cpus) // without this task
	if m.c.Source == RunQueue {
		return queue, nil
	}
	waiting := min(max(queue-1, 0), 1)
	if pressure && before.pressure && waited >= before.waited {
		waiting = min(float64(waited-before.waited)/float64(past.Microseconds()), 1)
	}
	if m.c.Source == Pressure {
		return waiting, nil
	}
	all, idle := int64(s.all-before.stat.all), int64(s.idle-before.stat.idle)
	if all <= 0 {
		return 0, ErrSoon
	}
	idle = min(max(idle, 0), all) // iowait may go back
	return 1 - float64(idle)/float64(all) + waiting, nil
}
