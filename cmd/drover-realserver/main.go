// Command drover-realserver keeps the virtual IPs of an LVS-DR real server on it, and the host silent
// about having them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
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
		{"/etc/drover/realserver.yaml", "the configuration; realserver.yaml beside the README has every key with its bounds"},
		{"/run/drover", "what this host was before, for the way back"},
	},
	SeeAlso: "\\fBdrover\\fR(1), \\fBdrover\\-director\\fR(8)",
}

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	a := &cli.App{
		Name:      "drover-realserver",
		Usage:     "keep the virtual IPs of a real server on it, and silent",
		UsageText: "drover-realserver [--config FILE]\n   drover-realserver --check [--config FILE]",
		Description: "Keeps the host silent about the virtual IPs in ARP and neighbour discovery, puts them on a local interface, proves that\n" +
			"nobody is answered, and is ready then. It repairs what others change, and puts back what was there before as it stops. In a\n" +
			"cluster it learns the virtual IPs of its pool from the directors, tells them how it is, and votes for the active one.",
		Version:         app.Version(),
		HideHelpCommand: true,
		Writer:          stdout,
		ErrWriter:       stderr,
		ExitErrHandler:  func(*cli.Context, error) {},
		OnUsageError:    func(_ *cli.Context, err error, _ bool) error { return cli.Exit(err, exitUsage) },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: "/etc/drover/realserver.yaml", Usage: "read the VIPs from `FILE`, and again whenever it changes or SIGHUP comes"},
			&cli.BoolFlag{Name: "check", Usage: "say whether the file is good and touch nothing; exit with 0 or 2"},
			&cli.StringFlag{Name: "state", Value: "/run/drover/realserver.json", Usage: "keep in `FILE`, and in sysctl.json beside it, what this host was before; one for each network namespace, gone after a reboot"},
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
		fmt.Fprintf(stderr, "drover-realserver: %s\n", msg)
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
	cfg, err := loadFile(path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return cli.Exit("", exitUsage)
	}
	fmt.Fprintf(stdout, "%s: good: %d VIPs on %s\n", path, len(cfg.VIPs), cfg.Device)
	return nil
}

func serve(c *cli.Context, stderr io.Writer) error {
	log, err := app.NewLogger(stderr, c.String("log-level"), c.String("log-format"))
	if err != nil {
		return cli.Exit(err, exitUsage)
	}
	// When the reader of the log goes away, the agent must not.
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
	return agent(ctx, options{
		config:   c.String("config"),
		state:    c.String("state"),
		log:      log,
		notifier: notifier,
		reload:   reload,
	})
}
