package uml

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// IsInit reports whether this process is PID 1 of a guest that [Run] booted.
func IsInit() bool { return os.Getpid() == 1 && os.Getenv(envJob) != "" }

// IsModprobe reports whether the guest's kernel, or a program in the guest, called this program to
// load a module.
func IsModprobe() bool { return filepath.Base(os.Args[0]) == "modprobe" }

// Init is PID 1 of the guest. It does not return.
func Init() {
	share := os.Getenv(envJob)
	res := result{}
	var j job
	err := setUp(share, &j)
	if err == nil {
		res.Exit, err = run(j)
	}
	if err != nil {
		res.Error = err.Error()
	}
	if err := writeJSON(share, "exit.json", res); err != nil {
		fmt.Fprintf(os.Stderr, "lab: failed to write the result: %v\n", err)
	}
	unix.Sync()
	_ = os.WriteFile("/proc/sys/kernel/printk", []byte("0"), 0) // no farewell on the user's terminal
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	for {
		time.Sleep(time.Hour) // the kernel is gone by then
	}
}

// mounts are what a Linux system has, in order.
var mounts = []struct{ source, target, fstype, data string }{
	{"proc", "/proc", "proc", ""},
	{"sysfs", "/sys", "sysfs", ""},
	{"devtmpfs", "/dev", "devtmpfs", "mode=755"},
	{"devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "tmpfs", "mode=1777"},
	{"tmpfs", "/run", "tmpfs", "mode=755"},
}

// links are those below /dev that a program may expect and that the kernel does not make (elsewhere udev does).
var links = []struct{ target, path string }{
	{"/proc/self/fd", "/dev/fd"},
	{"fd/0", "/dev/stdin"},
	{"fd/1", "/dev/stdout"},
	{"fd/2", "/dev/stderr"},
}

// setUp turns the bare kernel into a system and reads the job.
func setUp(share string, j *job) error {
	// The share must be reachable at the same path below the new root, and it may lie below /tmp, which
	// is still the host's. So everything is prepared below one tmpfs and entered with chroot.
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("failed to mount /proc: %w", err)
	}
	if err := readJSON(share, "job.json", j); err != nil {
		return fmt.Errorf("failed to read the job: %w", err)
	}
	if err := insertModule(j.Modules, "overlay"); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "mode=1777,size=90%"); err != nil {
		return fmt.Errorf("failed to mount a tmpfs: %w", err)
	}
	for _, d := range []string{"upper", "work", "root"} {
		if err := os.Mkdir("/tmp/"+d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", "/tmp/root", "overlay", 0, "lowerdir=/,upperdir=/tmp/upper,workdir=/tmp/work"); err != nil {
		return fmt.Errorf("failed to lay memory over the host's files: %w", err)
	}
	if err := unix.Mount("none", "/tmp/root"+share, "hostfs", 0, share); err != nil {
		return fmt.Errorf("failed to mount the share %q: %w", share, err)
	}
	if err := unix.Chroot("/tmp/root"); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	for _, m := range mounts {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.source, m.target, m.fstype, 0, m.data); err != nil {
			return fmt.Errorf("failed to mount %s: %w", m.target, err)
		}
	}
	for _, l := range links {
		if err := os.Symlink(l.target, l.path); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	for _, d := range []string{"/run/lock", "/run/netns"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := provideModprobe(j.Modules); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("drover-lab")); err != nil {
		return err
	}
	if lo, err := netlink.LinkByName("lo"); err != nil {
		return fmt.Errorf("failed to find the loopback interface: %w", err)
	} else if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("failed to set the loopback interface up: %w", err)
	}
	for _, m := range j.LoadModules {
		if err := insertModule(j.Modules, m); err != nil {
			return err
		}
	}
	return nil
}

// provideModprobe makes this program the guest's modprobe, for the kernel itself and for programs that
// call it by name; the host may have none, or one that looks for modules of the host's kernel.
func provideModprobe(modules string) error {
	const dir = "/run/drover-lab/bin"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := os.Symlink(self, dir+"/modprobe"); err != nil {
		return err
	}
	if err := os.WriteFile(modulesFile, []byte(modules), 0o644); err != nil {
		return err
	}
	return os.WriteFile("/proc/sys/kernel/modprobe", []byte(dir+"/modprobe"), 0)
}

// run starts the command and reaps every process of the guest until the command has ended.
func run(j job) (int, error) {
	console, err := os.OpenFile("/dev/tty0", os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("failed to open the console: %w", err)
	}
	if !j.Interactive {
		// Output goes on byte for byte: no carriage returns.
		if t, err := unix.IoctlGetTermios(int(console.Fd()), unix.TCGETS); err == nil {
			t.Oflag &^= unix.OPOST
			_ = unix.IoctlSetTermios(int(console.Fd()), unix.TCSETS, t)
		}
	}
	env := append([]string{
		"PATH=/run/drover-lab/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "TERM=" + os.Getenv("TERM")}, j.Env...)
	for _, kv := range env {
		k, v, _ := strings.Cut(kv, "=")
		os.Setenv(k, v)
	}
	path, err := exec.LookPath(j.Argv[0])
	if err != nil {
		return 0, err
	}
	attr := &os.ProcAttr{Dir: j.Dir, Env: os.Environ(), Files: []*os.File{console, console, console},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: j.Interactive}}
	var once sync.Once
	child := make(chan syscall.WaitStatus, 1)
	chld := make(chan struct{}, 1)
	p, err := os.StartProcess(path, j.Argv, attr)
	if err != nil {
		return 0, fmt.Errorf("failed to run %q: %w", j.Argv[0], err)
	}
	go func() {
		for {
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, 0, nil)
			switch {
			case errors.Is(err, syscall.EINTR):
			case err != nil: // ECHILD: only possible after the command
				close(chld)
				return
			case pid == p.Pid:
				once.Do(func() { child <- ws })
				return
			}
		}
	}()
	select {
	case ws := <-child:
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	case <-chld:
		return 0, errors.New("the command was lost")
	}
}
