// Command drover-director keeps the IPVS table and the virtual IPs of an LVS-DR director as its file
// says.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/app"
	"github.com/drover-lb/drover/cmd/internal/manpage"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2 // command line or configuration file
)

var manual = manpage.Daemon{
	Files: [][2]string{
		{"/etc/drover/director.yaml", "the configuration; director.yaml beside the README has every key with its bounds"},
		{"/run/drover", "what a successor has to know, and the socket director.sock, at which drover(1) asks"},
		{"/var/lib/drover", "the specification of a cluster and its history"},
	},
	SeeAlso: "\\fBdrover\\fR(1), \\fBdrover\\-realserver\\fR(8), \\fBipvsadm\\fR(8)",
}

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	a := &cli.App{
		Name:      "drover-director",
		Usage:     "keep the IPVS table and the virtual IPs of a director as a file says",
		UsageText: "drover-director [--config FILE]\n   drover-director --check [--config FILE]",
		Description: "Programs the kernel's IPVS table as its file says, puts the virtual IPs on their interfaces for a limited time that\n" +
			"it renews, and heals what others change. It may be killed at any moment: the next start goes on with what it\n" +
			"finds. With others it elects the one that has a group of virtual IPs at a time.",
		Version:         app.Version(),
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    func(_ *cli.Context, err error, _ bool) error { return cli.Exit(err, exitUsage) },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: "/etc/drover/director.yaml", Usage: "read the desired state from `FILE`, and again whenever it changes or SIGHUP comes"},
			&cli.BoolFlag{Name: "check", Usage: "say whether the file is good and touch nothing; exit with 0 or 2"},
			&cli.StringFlag{Name: "state-dir", Value: "/run/drover", Usage: "keep in `DIR` what a successor has to know; one for each network namespace, gone after a reboot"},
			&cli.StringFlag{Name: "data-dir", Value: "/var/lib/drover", Usage: "keep what the directors of a cluster replicate in `DIR`, for good"},
			&cli.StringFlag{Name: "log-level", Value: "info", Usage: "log from `LEVEL` up: debug, info, warn, error"},
			&cli.StringFlag{Name: "log-format", Value: "text", Usage: "log as `FORMAT`: text, json"},
			&cli.BoolFlag{Name: "man", Usage: "print the manual page"},
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return cli.Exit(fmt.Sprintf("unexpected argument %q", c.Args().First()), exitUsage)
			}
			if c.Bool("man") {
				fmt.Fprint(stdout, manual.Page(c.App))
				return nil
			}
			if c.Bool("check") {
				return check(c.String("config"), stdout, stderr)
			}
			return serve(c, stderr)
		},
	}
	err := a.Run(args)
	if err == nil {
		return exitOK
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintf(stderr, "drover-director: %s\n", msg)
	}
	var bad *app.ConfigError
	var ec cli.ExitCoder
	switch {
	case errors.As(err, &ec):
		return ec.ExitCode()
	case errors.As(err, &bad):
		return exitUsage
	}
	return exitFailed
}

// check prints complaints as they are, one to a line, as compilers do.
func check(path string, stdout, stderr io.Writer) error {
	summary, warnings, err := describe(path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return cli.Exit("", exitUsage)
	}
	for _, w := range warnings {
		fmt.Fprintf(stderr, "%s (warning)\n", w)
	}
	fmt.Fprintln(stdout, summary)
	return nil
}

func serve(c *cli.Context, stderr io.Writer) error {
	log, err := app.NewLogger(stderr, c.String("log-level"), c.String("log-format"))
	if err != nil {
		return cli.Exit(err, exitUsage)
	}
	// The heap is small and the processor idle: trade a little of one for the other.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	// When the reader of the log goes away, the director must not.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	reload := make(chan struct{}, 1)
	go func() {
		stopping := false
		for s := range signals {
			switch {
			case s == syscall.SIGHUP:
				select {
				case reload <- struct{}{}:
				default:
				}
			case stopping:
				log.Error("second signal: ending at once; what is left behind is taken over by the next start", "signal", s.String())
				os.Exit(exitFailed)
			default:
				log.Info("stopping", "signal", s.String())
				stopping = true
				stop()
			}
		}
	}()

	notifier := app.NewNotifier(log)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		notifier.Run(end)
	}()
	defer func() {
		close(end)
		<-ended
	}()
	return director(ctx, options{
		config:   c.String("config"),
		stateDir: c.String("state-dir"),
		dataDir:  c.String("data-dir"),
		log:      log,
		notifier: notifier,
		reload:   reload,
	})
}
