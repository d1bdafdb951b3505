package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/lab/probe"
	"github.com/drover-lb/drover/lab/topology"
)

// maxLog bounds what is kept of a program's output, in bytes.
const maxLog = 4 << 20

// exitState is how a process ended.
type exitState struct {
	status int
	signal syscall.Signal // 0 when it exited
	err    error          // it could not be waited for
}

func (e exitState) String() string {
	switch {
	case e.err != nil:
		return e.err.Error()
	case e.signal != 0:
		return "killed by " + unix.SignalName(e.signal)
	}
	return fmt.Sprintf("exit status %d", e.status)
}

type logLine struct {
	at   time.Duration
	text string
}

// process is a Process of the running lab; it can be started more than once.
type process struct {
	Process
	machine *topology.Machine
	bin     string // folder of Drover's programs
	series  *probe.Series
	onEnd   func(*process, exitState) // called when it ends by itself

	mu       sync.Mutex // guards everything below
	cmd      *exec.Cmd
	done     chan struct{} // closed when the process has ended and its output is read
	end      exitState
	expected bool // the scenario ended it
	log      []logLine
	logSize  int
	lines    chan struct{} // closed and replaced at each new line
}

func newProcess(p Process, m *topology.Machine, bin string) *process {
	return &process{Process: p, machine: m, bin: bin, series: probe.NewSeries(), lines: make(chan struct{})}
}

// argv is the command line; built-in probes are this very program.
func (p *process) argv() ([]string, error) {
	if p.Probe == nil {
		return p.Command, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	args := []string{self, "lab", "probe", p.Probe.Kind}
	switch p.Probe.Kind {
	case "connect", "udp":
		args = append(args, "--target", p.Probe.Target.String(), "--every", p.Probe.Every.String(), "--timeout", p.Probe.Timeout.String())
	case "stream":
		args = append(args, "--target", p.Probe.Target.String(), "--every", p.Probe.Every.String(), "--timeout", p.Probe.Timeout.String(),
			"--count", strconv.Itoa(p.Probe.Count), "--lifetime", p.Probe.Lifetime.String())
	case "arp":
		args = append(args, "--address", p.Probe.Address.String(), "--every", p.Probe.Every.String())
	case "http":
		args = append(args, "--listen", p.Probe.Listen.String(), "--service-time", p.Probe.ServiceTime.String(), "--workers", strconv.Itoa(p.Probe.Workers))
	case "echo", "udp-echo":
		args = append(args, "--listen", p.Probe.Listen.String())
	}
	return args, nil
}

// environ is the environment of programs on the lab's hosts.
func environ(bin string, extra ...string) []string {
	env := []string{"PATH=" + bin + ":/run/drover-lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "NO_COLOR=1"}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "GO") || strings.HasPrefix(kv, "DROVER_") || strings.HasPrefix(kv, "LD_LIBRARY_PATH=") {
			env = append(env, kv)
		}
	}
	return append(env, extra...)
}

// lookPath finds a program as the host's shell would.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, kv := range env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("program %q is not installed (looked in PATH of the lab)", name)
}

// start starts the process and waits until it is ready. An error is also what ended it before that.
func (p *process) start(ctx context.Context) error {
	if running, _ := p.state(); running {
		return errors.New("runs already")
	}
	argv, err := p.argv()
	if err != nil {
		return err
	}
	env := environ(p.bin, p.Env...)
	var notify *net.UnixConn
	if p.Ready.Kind == "notify" {
		path := filepath.Join(p.machine.Dir, ".notify-"+p.Name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
			return fmt.Errorf("failed to listen for readiness: %w", err)
		}
		env = append(env, "NOTIFY_SOCKET="+path)
	}
	path, err := lookPath(argv[0], env)
	if err != nil {
		return err
	}
	cmd := &exec.Cmd{Path: path, Args: argv, Env: env, SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	p.series.Rearm()
	began := probe.Now()
	done := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.done, p.expected, p.end = cmd, done, false, exitState{}
	p.mu.Unlock()
	if err := p.machine.Start(cmd); err != nil {
		p.mu.Lock()
		p.cmd = nil
		p.mu.Unlock()
		return fmt.Errorf("failed to start: %w", err)
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.readLog(stderr) })
	readers.Go(func() {
		if p.Probe == nil {
			p.readLog(stdout)
		} else if err := probe.ReadEvents(stdout, p.series.Add); err != nil {
			p.addLine(err.Error())
		}
	})
	go p.await(cmd, done, &readers)
	if notify != nil {
		defer notify.Close()
	}
	if err := p.awaitReady(ctx, notify, began, done); err != nil {
		return err
	}
	return nil
}

// outputDelay is how long the output of a process is read after its end: what it started may hold on to it.
const outputDelay = time.Second

// await reaps the process.
func (p *process) await(cmd *exec.Cmd, done chan struct{}, readers *sync.WaitGroup) {
	for { // until it has ended, without reaping it: that would close its output before it is read
		if err := unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	read := make(chan struct{})
	go func() {
		readers.Wait()
		close(read)
	}()
	select {
	case <-read:
	case <-time.After(outputDelay):
	}
	err := cmd.Wait()
	<-read
	var end exitState
	var ee *exec.ExitError
	switch {
	case errors.As(err, &ee):
		if ws := ee.Sys().(syscall.WaitStatus); ws.Signaled() {
			end.signal = ws.Signal()
		} else {
			end.status = ws.ExitStatus()
		}
	case err != nil:
		end.err = err
	}
	p.mu.Lock()
	p.end = end
	expected := p.expected
	p.mu.Unlock()
	close(done)
	if !expected && p.onEnd != nil {
		p.onEnd(p, end)
	}
}

// awaitReady waits until the process says that it serves, in the way that its Ready tells.
func (p *process) awaitReady(ctx context.Context, notify *net.UnixConn, began time.Duration, done chan struct{}) error {
	ready := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	switch {
	case p.Probe != nil:
		measures := p.series.Ready()
		go func() {
			select {
			case <-measures:
				ready <- nil
			case <-ctx.Done():
			}
		}()
	case p.Ready.Kind == "notify":
		stop := context.AfterFunc(ctx, func() { _ = notify.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		go func() {
			buf := make([]byte, 4096)
			for {
				n, err := notify.Read(buf)
				if err != nil {
					ready <- fmt.Errorf("failed to wait for readiness: %w", err)
					return
				}
				if bytes.Contains(append([]byte("\n"), buf[:n]...), []byte("\nREADY=1")) {
					ready <- nil
					return
				}
			}
		}()
	case p.Ready.Kind == "output":
		go func() {
			for {
				p.mu.Lock()
				more := p.lines
				p.mu.Unlock()
				if p.output.MatchString(p.logSince(began)) {
					ready <- nil
					return
				}
				select {
				case <-more:
				case <-ctx.Done():
					return
				}
			}
		}()
	case p.Ready.Kind == "tcp":
		go func() {
			for ctx.Err() == nil {
				err := p.machine.Do(func() error {
					d := net.Dialer{Timeout: 200 * time.Millisecond}
					c, err := d.DialContext(ctx, "tcp", p.Ready.Addr.String())
					if err != nil {
						return err
					}
					return c.Close()
				})
				if err == nil {
					ready <- nil
					return
				}
				select { // a port that opens gives no event: ask again
				case <-time.After(10 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}()
	default:
		return nil
	}
	select {
	case err := <-ready:
		return err
	case <-done:
		p.mu.Lock()
		end := p.end
		p.mu.Unlock()
		return fmt.Errorf("ended before it was ready: %s; its output:\n%s", end, lastLines(p.logSince(began), 12))
	case <-ctx.Done():
		return fmt.Errorf("is not ready: %w; its output:\n%s", context.Cause(ctx), lastLines(p.logSince(began), 12))
	}
}

func (p *process) readLog(r io.Reader) {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadString('\n')
		if line != "" {
			p.addLine(strings.TrimRight(line, "\n"))
		}
		if err != nil {
			return
		}
	}
}

func (p *process) addLine(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, logLine{probe.Now(), text})
	p.logSize += len(text) + 1
	for p.logSize > maxLog {
		p.logSize -= len(p.log[0].text) + 1
		p.log = p.log[1:]
	}
	close(p.lines)
	p.lines = make(chan struct{})
}

// logSince returns what the process has said since then.
func (p *process) logSince(from time.Duration) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b strings.Builder
	for _, l := range p.log {
		if l.at >= from {
			b.WriteString(l.text)
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// state tells whether the process runs, and else how it ended.
func (p *process) state() (running bool, end exitState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false, exitState{err: errors.New("never started")}
	}
	select {
	case <-p.done:
		return false, p.end
	default:
		return true, exitState{}
	}
}

// condemn announces that the host's power fails. It returns what is closed at the process's end, or nil
// when it does not run.
func (p *process) condemn() <-chan struct{} {
	if running, _ := p.state(); !running {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.expected = true
	return p.done
}

// signal sends sig to the process. What cannot be caught goes to those that it started, too: they
// could not otherwise be killed or stopped at the same moment.
func (p *process) signal(sig syscall.Signal) error {
	if running, end := p.state(); !running {
		return fmt.Errorf("does not run: %s", end)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch sig {
	case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCONT:
		return syscall.Kill(-p.cmd.Process.Pid, sig)
	}
	return p.cmd.Process.Signal(sig)
}

// finish ends the process with sig and waits until it is gone; when ctx ends, it is killed.
func (p *process) finish(ctx context.Context, sig syscall.Signal) error {
	p.mu.Lock()
	p.expected = true
	cmd, done := p.cmd, p.done
	p.mu.Unlock()
	if err := p.signal(sig); err != nil {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-done
		return fmt.Errorf("did not end after %s: %w", unix.SignalName(sig), context.Cause(ctx))
	}
	// What it started must not live on.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH is the normal answer
	return nil
}
