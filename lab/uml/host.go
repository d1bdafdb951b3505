package uml

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Options of [Run].
type Options struct {
	Argv        []string  // the command; Argv[0] is looked up in the guest's PATH
	Env         []string  // KEY=value, added to a small standard environment
	Dir         string    // working folder; default /
	Share       string    // a folder of the host that the guest sees, writable, at the same path; required
	MemoryMiB   int       // memory of the guest; default 1024
	Interactive bool      // Stdin is a terminal that the command is to control
	Modules     []string  // kernel modules to load before the command
	Stdin       *os.File  // default: none
	Stdout      io.Writer // console of the guest: output and errors of the command
}

// ExitError is the exit status of a command that failed inside the guest.
type ExitError struct{ Status int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// Run boots kernel k, runs a command in it as root and waits for it. It returns an [*ExitError] when
// the command's exit status is not zero, and another error when the kernel did not boot or died. When
// ctx ends, the kernel is killed.
func Run(ctx context.Context, k Kernel, o Options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if strings.ContainsAny(self+o.Share, " \"\t\n") {
		return fmt.Errorf("failed to boot: the paths %q and %q must not contain spaces, because they go on a kernel command line", self, o.Share)
	}
	if o.MemoryMiB == 0 {
		o.MemoryMiB = 1024
	}
	if err := os.Remove(filepath.Join(o.Share, "exit.json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	j := job{Argv: o.Argv, Env: o.Env, Dir: o.Dir, Interactive: o.Interactive, LoadModules: o.Modules,
		Modules: filepath.Join(k.Modules, k.Release)}
	if err := writeJSON(o.Share, "job.json", j); err != nil {
		return err
	}
	umlDir, err := os.MkdirTemp("", "drover-uml-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(umlDir)

	cmd := exec.CommandContext(ctx, k.Binary,
		fmt.Sprintf("mem=%dM", o.MemoryMiB), "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
		"init="+self, "con=null", "con0=fd:0,fd:1", "quiet", "loglevel=1", "selinux=0", "panic=-1", "uml_dir="+umlDir+"/", "umid=lab",
		envJob+"="+o.Share)
	// The memory of the guest is a file: in memory where the system has a place for it.
	cmd.Env = append(os.Environ(), "HOME="+umlDir)
	if st, err := os.Stat("/dev/shm"); err == nil && st.IsDir() {
		cmd.Env = append(cmd.Env, "TMPDIR=/dev/shm")
	}
	cmd.Stdin = o.Stdin
	console := &tail{w: o.Stdout}
	cmd.Stdout = console
	if f, ok := o.Stdout.(*os.File); ok && o.Interactive {
		cmd.Stdout = f
	}
	var kernelLog bytes.Buffer
	cmd.Stderr = &limited{w: &kernelLog, left: 64 << 10}
	// Every process of the guest is a process of the host too: one group, so that none is left over.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Foreground: o.Interactive, Pdeathsig: syscall.SIGKILL}
	if o.Interactive {
		cmd.SysProcAttr.Ctty = int(o.Stdin.Fd())
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	cpu, err := onOneCPU(cmd.Start)
	if cpu != nil {
		defer cpu.Close()
	}
	if err != nil {
		return fmt.Errorf("failed to boot %q: %w", k.Binary, err)
	}
	waitErr := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH is the normal answer
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var res result
	if err := readJSON(o.Share, "exit.json", &res); err != nil {
		return fmt.Errorf("the kernel ended without a result (%v, %w); its last words:\n%s%s", waitErr, err, console.last(), kernelLog.String())
	}
	if res.Error != "" {
		return errors.New(res.Error)
	}
	if res.Exit != 0 {
		return &ExitError{res.Exit}
	}
	return nil
}

// tail passes everything on and remembers the end.
type tail struct {
	w   io.Writer
	end []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.end = append(t.end, p...)
	if n := len(t.end) - 4096; n > 0 {
		t.end = t.end[n:]
	}
	if t.w == nil {
		return len(p), nil
	}
	return t.w.Write(p)
}

func (t *tail) last() string { return string(t.end) }

// limited keeps the first bytes and drops the rest.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	q := p[:min(len(p), l.left)]
	l.left -= len(q)
	if _, err := l.w.Write(q); err != nil {
		return 0, err
	}
	return len(p), nil
}
