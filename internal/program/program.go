// Package program runs the programs of operators: each as a user, in a process group of its own of which nothing is left
// afterwards, and with a bound for its output.
package program

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxWords bounds what is kept of a program's output, in bytes. The rest is read and dropped.
	MaxWords = 200
	// pipeTimeout bounds the wait for the output of what has left the process group.
	pipeTimeout = 100 * time.Millisecond
)

// Command is a program that is run once.
type Command struct {
	*exec.Cmd
	out firstLine
}

// New prepares argv to be run in / until ctx ends, when its process group is killed. It gets no input, and no environment
// but PATH and env. A nil cred is whom this process runs as.
func New(ctx context.Context, cred *syscall.Credential, env []string, argv ...string) *Command {
	c := &Command{Cmd: exec.CommandContext(ctx, argv[0], argv[1:]...)}
	c.Dir, c.Env = "/", append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, env...)
	c.Stdout, c.Stderr = &c.out, &c.out
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: cred}
	c.Cancel = c.kill
	c.WaitDelay = pipeTimeout
	return c
}

func (c *Command) kill() error { return unix.Kill(-c.Process.Pid, unix.SIGKILL) }

// Wait waits for a program that was started, and kills what it has left in the background.
func (c *Command) Wait() error {
	err := c.Cmd.Wait()
	_ = c.kill()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}

// Words are the first line of what it wrote.
func (c *Command) Words() string { return c.out.String() }

// Credential is that of a user, with its groups or without; nil if this process is that user already.
func Credential(name string, groups bool) (*syscall.Credential, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, uerr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gerr := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(uerr, gerr); err != nil {
		return nil, err
	}
	if int(uid) == unix.Geteuid() {
		return nil, nil
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if !groups {
		return c, nil
	}
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

// firstLine keeps the beginning of what is written to it.
type firstLine struct{ b []byte }

func (f *firstLine) Write(p []byte) (int, error) {
	f.b = append(f.b, p[:min(len(p), MaxWords-len(f.b))]...)
	return len(p), nil
}

func (f *firstLine) String() string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(f.b), []byte("\n"))
	return strings.TrimSpace(strings.ToValidUTF8(string(line), "?"))
}
