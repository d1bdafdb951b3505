package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs"
)

// daemonTimeout bounds how long a daemon may take to be ready, or to end.
const daemonTimeout = time.Minute

// sections are the tables that are measured inside the lab's kernel, in the order in which they are printed.
var sections = []struct {
	name    string
	measure func(context.Context, *guest) (Section, error)
}{
	{"programming", programming},
	{"reload", reload},
	{"listing", listing},
	{"dropin", dropin},
	{"resident", resident},
	{"checks", checks},
}

// guest is this program inside the lab's kernel.
type guest struct {
	options
	ipvsadm string
	dir     string // for files, in memory
	log     io.Writer
	names   int
}

func inGuest(ctx context.Context, o options, stderr io.Writer) error {
	g := &guest{options: o, log: stderr}
	var err error
	if g.ipvsadm, err = findIpvsadm(); err != nil {
		return err
	}
	if g.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(g.dir)
	r := Report{Started: time.Now().UTC().Truncate(time.Second), Runs: o.runs}
	if r.Kernel, err = release(); err != nil {
		return err
	}
	for _, s := range []string{"wlc", "rr", "mh"} {
		if err := ipvs.LoadScheduler(ctx, s); err != nil {
			return err
		}
	}
	for _, s := range sections {
		if o.only.MatchString(s.name) {
			began := time.Now()
			fmt.Fprintf(g.log, "measuring: %s\n", s.name)
			t, err := s.measure(ctx, g)
			t.Name = s.name
			r.add(t, err)
			fmt.Fprintf(g.log, "measuring: %s took %s\n", s.name, time.Since(began).Round(time.Second))
		}
	}
	b, err := json.Marshal(&r)
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(o.share, resultFile), b, 0o644)
}

func release() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", err
	}
	return unix.ByteSliceToString(u.Release[:]), nil
}

func findIpvsadm() (string, error) {
	for _, path := range []string{"/sbin/ipvsadm", "/usr/sbin/ipvsadm"} {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no ipvsadm (Debian package ipvsadm)")
}

func (g *guest) program(name string) string { return filepath.Join(g.programs, name) }

// folder makes a new one.
func (g *guest) folder() (string, error) {
	g.names++
	dir := filepath.Join(g.dir, fmt.Sprint(g.names))
	return dir, os.Mkdir(dir, 0o755)
}

// write makes a new file.
func (g *guest) write(content []byte) (string, error) {
	dir, err := g.folder()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "file")
	return path, os.WriteFile(path, content, 0o644)
}

// inNamespace calls f on a thread in a new network namespace that has an interface eth0. The thread is
// never given back, so the namespace ends with f. Each repetition has its own: the kernel keeps deleted
// servers for a minute or two and looks through them for each one that is added (ip_vs_trash_get_dest in
// net/netfilter/ipvs/ip_vs_ctl.c), so what one repetition left would slow down the next.
func inNamespace(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("failed to make a network namespace (root is needed): %w", err)
			}
			if err := setUp(); err != nil {
				return fmt.Errorf("failed to set up a network namespace: %w", err)
			}
			return f()
		}()
	}()
	return <-done
}

func setUp() error {
	eth0 := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	if err := netlink.LinkAdd(eth0); err != nil {
		return err
	}
	for _, name := range []string{"lo", "eth0"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	a, err := netlink.ParseAddr("10.0.0.5/8")
	if err != nil {
		return err
	}
	return netlink.AddrAdd(eth0, a)
}

// repeat calls every contender runs times, by turns: each begins as often as any other.
func (g *guest) repeat(contenders ...func() error) error {
	for range g.runs {
		for _, f := range contenders {
			if err := f(); err != nil {
				return err
			}
		}
		contenders = append(contenders[1:], contenders[0])
	}
	return nil
}

// command runs a program to its end and times it.
func command(ctx context.Context, stdin, stdout *os.File, argv ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if stdout != nil {
		cmd.Stdout = stdout
	}
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		return 0, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return took, nil
}

// printing runs a program to its end, with its output in a file, and times it.
func printing(ctx context.Context, f *Figure, path string, argv ...string) error {
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	defer out.Close()
	took, err := command(ctx, nil, out, argv...)
	if err == nil {
		f.took(took)
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// tableHere reads the table of this namespace.
func tableHere(ctx context.Context) ([]ipvs.ServiceEntry, error) {
	c, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Services(ctx)
}

// count fails unless the table of this namespace has the shape.
func (s shape) count(ctx context.Context, c *ipvs.Client) error {
	table, err := c.Services(ctx)
	if err != nil {
		return err
	}
	return s.of(table)
}

// of fails unless a table has the shape.
func (s shape) of(table []ipvs.ServiceEntry) error {
	servers := 0
	for i := range table {
		servers += len(table[i].Destinations)
	}
	if len(table) != s.services || servers != s.services*s.servers {
		return fmt.Errorf("the table has %d services and %d servers instead of %s", len(table), servers, s)
	}
	return nil
}

// daemon is a running program of Drover's.
type daemon struct {
	cmd    *exec.Cmd
	dir    string // its own
	notify *net.UnixConn
	began  time.Time
	ended  chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

func (d *daemon) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.log.Write(b)
}

// start starts a program that tells when it is ready as systemd's daemons do. dir is for its socket.
func (g *guest) start(dir string, enter func(*exec.Cmd) error, argv ...string) (*daemon, error) {
	d := &daemon{dir: dir, ended: make(chan struct{})}
	path := filepath.Join(dir, "notify")
	var err error
	if d.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}); err != nil {
		return nil, err
	}
	d.cmd = exec.Command(argv[0], argv[1:]...)
	d.cmd.Env = append(slices.Clone(os.Environ()), "NOTIFY_SOCKET="+path)
	d.cmd.Stderr = d
	d.began = time.Now()
	if err := enter(d.cmd); err != nil {
		d.notify.Close()
		return nil, fmt.Errorf("failed to start %s: %w", argv[0], err)
	}
	go func() {
		defer close(d.ended)
		_ = d.cmd.Wait() // whoever waits for the daemon fails with its log
		d.notify.Close()
	}()
	return d, nil
}

// here starts a command in the namespace of the calling thread.
func here(cmd *exec.Cmd) error { return cmd.Start() }

// await waits until the daemon tells that it is ready.
func (d *daemon) await() error {
	if err := d.notify.SetReadDeadline(time.Now().Add(daemonTimeout)); err != nil {
		return err
	}
	b := make([]byte, 4096)
	for {
		n, err := d.notify.Read(b)
		if err != nil {
			return d.failed(err)
		}
		if slices.Contains(strings.Split(string(b[:n]), "\n"), "READY=1") {
			return nil
		}
	}
}

func (d *daemon) failed(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return fmt.Errorf("%s is not ready: %w; its log:\n%s", d.cmd.Path, err, d.log.String())
}

// kill ends the daemon without giving it time to take anything back.
func (d *daemon) kill() error {
	if err := d.cmd.Process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-d.ended:
		return nil
	case <-time.After(daemonTimeout):
		return fmt.Errorf("%s has not ended %s after SIGKILL", d.cmd.Path, daemonTimeout)
	}
}

// director starts drover-director with a file, in the namespace that enter starts commands in.
func (g *guest) director(enter func(*exec.Cmd) error, content func(dir string) []byte) (*daemon, error) {
	dir, err := g.folder()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "director.yaml")
	if err := os.WriteFile(file, content(dir), 0o644); err != nil {
		return nil, err
	}
	return g.start(dir, enter, g.program("drover-director"), "--config", file, "--state-dir", filepath.Join(dir, "state"))
}
