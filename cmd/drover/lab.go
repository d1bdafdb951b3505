package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/lab"
	"github.com/drover-lb/drover/lab/topology"
	"github.com/drover-lb/drover/lab/uml"
)

func labCommand() *cli.Command {
	return &cli.Command{
		Name:  "lab",
		Usage: "run whole clusters on a real IPVS kernel, as an ordinary user, and break them",
		Subcommands: []*cli.Command{
			labRunCommand(),
			labFaultsCommand(),
			labCheckCommand(),
			labOnCommand(),
			labExecCommand(),
			labKernelCommand(),
			labProbeCommand(),
		},
	}
}

// labModules are loaded before a lab starts; the rest the kernel loads when it is asked for.
var labModules = []string{"ipv6", "ip_vs", "veth", "bridge", "sch_netem", "sch_ingress", "cls_flower", "act_gact"}

func labRunCommand() *cli.Command {
	return &cli.Command{
		Name:      "run",
		Usage:     "build the cluster of a folder, play its scenario, and report",
		ArgsUsage: "FOLDER...",
		Description: "Each FOLDER has a lab.yaml. The account of what happens is printed while it happens. The exit status\n" +
			"is 0 only if every expectation of every folder held, 1 if not, 2 if a lab.yaml is wrong.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kernel", Value: "auto", Usage: "`WHERE`: native (namespaces of this kernel; needs root and IPVS), uml (user-mode Linux; needs neither), or auto"},
			&cli.StringFlag{Name: "out", Usage: "write report.json and timeline.svg of each lab below this `DIR`"},
			&cli.BoolFlag{Name: "keep", Usage: "leave the lab running after the scenario: natively until ^C, in user-mode Linux with --shell"},
			&cli.BoolFlag{Name: "shell", Usage: "open a shell in the running lab after the scenario; there, `drover lab on HOST COMMAND` enters a host"},
			&cli.IntFlag{Name: "patience", Value: 1, Usage: "make all bounds in time `N` times longer, 1 to 20, on a slow machine; expectations stay as they are"},
			&cli.BoolFlag{Name: "colour", Aliases: []string{"color"}, Usage: "colour the account even if it does not go to a terminal", EnvVars: []string{"DROVER_LAB_COLOUR"}},
		},
		Action: func(c *cli.Context) error {
			if n := c.Int("patience"); n < 1 || n > 20 {
				return cli.Exit(fmt.Sprintf("lab run: patience (%d) must be between 1 and 20", n), 2)
			}
			if c.NArg() == 0 {
				return cli.Exit("lab run: which FOLDER? For example: drover lab run examples/one-director", 2)
			}
			var labs []*lab.Config
			for _, f := range c.Args().Slice() {
				cfg, err := loadLab(f)
				if err != nil {
					return err
				}
				labs = append(labs, cfg)
			}
			where, err := chooseKernel(c.Context, c.String("kernel"))
			if err != nil {
				return err
			}
			var failed []string
			for _, cfg := range labs {
				err := runLab(c, cfg, where)
				if errors.Is(err, lab.ErrExpectation) {
					failed = append(failed, cfg.Folder)
					continue
				}
				if err != nil {
					return fmt.Errorf("%s: %w", cfg.Folder, err)
				}
			}
			if len(failed) > 0 {
				return fmt.Errorf("%w in %s", lab.ErrExpectation, strings.Join(failed, ", "))
			}
			return nil
		},
	}
}

// loadLab reads a folder; what is wrong in it is a usage error.
func loadLab(folder string) (*lab.Config, error) {
	abs, err := filepath.Abs(folder)
	if err != nil {
		return nil, err
	}
	cfg, err := lab.Load(folder)
	if err != nil {
		return nil, cli.Exit(err, 2)
	}
	cfg.Folder = abs
	return cfg, nil
}

func labCheckCommand() *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "read the lab.yaml of each folder and say what is wrong, without running anything",
		ArgsUsage: "FOLDER...",
		Action: func(c *cli.Context) error {
			for _, f := range c.Args().Slice() {
				cfg, err := loadLab(f)
				if err != nil {
					return err
				}
				fmt.Fprintf(c.App.Writer, "%s: %d hosts, %d steps: ok\n", f, len(cfg.Hosts), len(cfg.Scenario))
			}
			return nil
		},
	}
}

// chooseKernel decides between native and uml.
func chooseKernel(ctx context.Context, wish string) (string, error) {
	switch wish {
	case "uml":
		return wish, nil
	case "native", "auto":
	default:
		return "", cli.Exit(fmt.Sprintf("--kernel %q is not one of: auto, uml, native", wish), 2)
	}
	err := nativeIPVS(ctx)
	switch {
	case err == nil:
		return "native", nil
	case wish == "native":
		return "", fmt.Errorf("this kernel cannot run the lab: %w", err)
	}
	return "uml", nil
}

func nativeIPVS(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cl, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		return err
	}
	return cl.Close()
}

func runLab(c *cli.Context, cfg *lab.Config, where string) error {
	cfg.Patient(c.Int("patience"))
	out := ""
	if c.IsSet("out") {
		out = filepath.Join(c.String("out"), filepath.Base(cfg.Folder))
		if err := os.MkdirAll(out, 0o755); err != nil {
			return err
		}
	}
	colour := c.Bool("colour") || term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""
	if where == "uml" {
		return runLabInUML(c, cfg, out, colour)
	}
	o := lab.Options{Out: c.App.Writer, Colour: colour}
	if c.Bool("shell") || c.Bool("keep") {
		o.After = func(ctx context.Context, w *topology.World) error { return lookAround(ctx, w, c.Bool("shell")) }
	}
	rep, err := lab.Run(c.Context, cfg, o)
	if rep != nil && out != "" {
		if werr := rep.Write(out); werr != nil {
			return errors.Join(err, fmt.Errorf("failed to write the report: %w", werr))
		}
	}
	return err
}

// runLabInUML plays the lab in a user-mode Linux kernel: this program runs inside, natively.
func runLabInUML(c *cli.Context, cfg *lab.Config, out string, colour bool) error {
	k, err := uml.Find()
	if err != nil {
		return err
	}
	share, err := os.MkdirTemp("", "drover-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(share)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv, env := []string{self, "lab", "run", "--kernel", "native", "--patience", strconv.Itoa(c.Int("patience")), "--out", share}, passOn()
	if colour {
		argv = append(argv, "--colour")
	} else {
		env = append(env, "NO_COLOR=1")
	}
	o := uml.Options{Dir: "/", Share: share, MemoryMiB: cfg.MemoryMiB, Stdout: os.Stdout, Env: env, Modules: labModules}
	bound := cfg.Timeout + time.Minute
	if c.Bool("shell") || c.Bool("keep") {
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return cli.Exit("--shell and --keep need a terminal when the lab runs in user-mode Linux", 2)
		}
		argv = append(argv, "--shell")
		o.Interactive, o.Stdin = true, os.Stdin
		bound = 24 * time.Hour
	}
	o.Argv = append(argv, cfg.Folder)
	ctx, cancel := contextWithTimeout(c, bound)
	defer cancel()
	err = uml.Run(ctx, k, o)
	if out != "" {
		if cerr := copyReports(filepath.Join(share, filepath.Base(cfg.Folder)), out); cerr != nil {
			return errors.Join(err, cerr)
		}
	}
	var exit *uml.ExitError
	if errors.As(err, &exit) {
		if exit.Status == 1 {
			return lab.ErrExpectation
		}
		return cli.Exit("", exit.Status)
	}
	return err
}

func copyReports(from, to string) error {
	for _, name := range []string{"report.json", "timeline.svg"} {
		b, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), b, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hostsFile tells `drover lab on` where the hosts of the running lab are.
const hostsFile = "/run/drover-lab/hosts.json"

// lookAround keeps the lab while an operator looks at it.
func lookAround(ctx context.Context, w *topology.World, shell bool) error {
	hosts := map[string]labHost{}
	for _, m := range w.Machines() {
		hosts[m.Name] = labHost{Namespaces: m.Namespaces(), Dir: m.Dir}
	}
	b, err := json.Marshal(hosts)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(hostsFile), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(hostsFile, b, 0o644); err != nil {
		return err
	}
	defer os.Remove(hostsFile)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	fmt.Printf("\nThe lab stands. Enter a host with: drover lab on HOST [COMMAND...]\n")
	if !shell {
		fmt.Printf("It is taken down by ^C.\n")
		<-ctx.Done()
		return nil
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-i")
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(self)+":"+os.Getenv("PATH"), "PS1=lab# ")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	_ = cmd.Run() // the exit status of a shell says nothing about the lab
	return nil
}

type labHost struct {
	Namespaces map[string]string
	Dir        string
}

func labOnCommand() *cli.Command {
	return &cli.Command{
		Name:            "on",
		Usage:           "enter a host of a lab that stands (lab run --shell or --keep)",
		ArgsUsage:       "HOST [COMMAND [ARG...]]",
		SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return cli.Exit("lab on: which HOST?", 2)
			}
			b, err := os.ReadFile(hostsFile)
			if errors.Is(err, os.ErrNotExist) {
				return errors.New("no lab stands here: start one with `drover lab run --shell FOLDER`, and use its shell")
			} else if err != nil {
				return err
			}
			var hosts map[string]labHost
			if err := json.Unmarshal(b, &hosts); err != nil {
				return fmt.Errorf("failed to read %s: %w", hostsFile, err)
			}
			h, ok := hosts[c.Args().First()]
			if !ok {
				var names []string
				for n := range hosts {
					names = append(names, n)
				}
				return cli.Exit(fmt.Sprintf("no host %q in the lab: it has %v", c.Args().First(), names), 2)
			}
			argv := c.Args().Tail()
			if len(argv) == 0 {
				argv = []string{"/bin/sh", "-i"}
			}
			return enterHost(h, argv)
		},
	}
}

// enterHost replaces this process by argv in the namespaces of a host.
func enterHost(h labHost, argv []string) error {
	runtime.LockOSThread()
	// A thread that shares its file system state with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	var fds []int
	for _, kind := range []string{"net", "uts", "ipc", "mnt"} {
		fd, err := unix.Open(h.Namespaces[kind], unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("failed to open the %s namespace: %w", kind, err)
		}
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		if err := unix.Setns(fd, 0); err != nil {
			return fmt.Errorf("failed to enter the host: %w", err)
		}
	}
	if err := os.Chdir(h.Dir); err != nil {
		return err
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("failed to run %q: %w", argv[0], syscall.Exec(path, argv, os.Environ()))
}

func labKernelCommand() *cli.Command {
	return &cli.Command{
		Name:  "kernel",
		Usage: "show which user-mode Linux kernel the lab uses; unpack one if there is none (needs no root)",
		Flags: []cli.Flag{&cli.StringFlag{Name: "dir", Value: uml.UnpackDir(), Usage: "unpack into this `DIR`"}},
		Action: func(c *cli.Context) error {
			k, err := uml.Find(c.String("dir"))
			if errors.Is(err, uml.ErrNoKernel) {
				ctx, cancel := contextWithTimeout(c, 10*time.Minute)
				defer cancel()
				k, err = uml.Fetch(ctx, c.String("dir"))
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(c.App.Writer, "%s (%s)\n", k.Binary, k.Release)
			return nil
		},
	}
}

func labExecCommand() *cli.Command {
	return &cli.Command{
		Name:      "exec",
		Usage:     "boot a user-mode Linux kernel with IPVS and run a command in it as root",
		ArgsUsage: "[--] COMMAND [ARG...]",
		Description: "The command sees this system's files, and may write to them, but what it writes is gone when it\n" +
			"ends. Its exit status is passed on. Without a command, a shell.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "memory", Value: 1024, Usage: "memory of the kernel in `MiB`"},
			&cli.DurationFlag{Name: "timeout", Value: 30 * time.Minute, Usage: "kill the kernel after this `TIME`"},
			&cli.StringFlag{Name: "share", Usage: "a `DIR` of this system that the command may write to for good"},
		},
		Action: func(c *cli.Context) error {
			k, err := uml.Find()
			if err != nil {
				return err
			}
			share := c.String("share")
			if share == "" {
				if share, err = os.MkdirTemp("", "drover-lab-"); err != nil {
					return err
				}
				defer os.RemoveAll(share)
			} else if share, err = filepath.Abs(share); err != nil {
				return err
			}
			dir, err := os.Getwd()
			if err != nil {
				return err
			}
			o := uml.Options{Argv: c.Args().Slice(), Dir: dir, Share: share, MemoryMiB: c.Int("memory"), Stdout: io.Writer(os.Stdout), Env: passOn(), Modules: labModules}
			if len(o.Argv) == 0 {
				o.Argv = []string{"/bin/sh", "-i"}
			}
			if c.NArg() == 0 && term.IsTerminal(int(os.Stdin.Fd())) {
				o.Interactive, o.Stdin = true, os.Stdin
			}
			ctx, cancel := contextWithTimeout(c, c.Duration("timeout"))
			defer cancel()
			err = uml.Run(ctx, k, o)
			var exit *uml.ExitError
			if errors.As(err, &exit) {
				return cli.Exit("", exit.Status)
			}
			return err
		},
	}
}
