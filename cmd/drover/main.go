// Command drover steers LVS-DR clusters: it lists and plans the kernel's table as ipvsadm does, shows
// who answers for a virtual IP, and runs whole clusters in a lab.
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

	"github.com/drover-lb/drover/internal/version"
	"github.com/drover-lb/drover/lab/uml"
)

func main() {
	switch {
	case uml.IsInit():
		uml.Init()
	case uml.IsModprobe():
		os.Exit(uml.Modprobe(os.Args[1:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	commands := append([]*cli.Command{listCommand(), planCommand(), arpCommand(), labCommand()}, clusterCommands()...)
	usageErrors(commands)
	app := &cli.App{
		Name:                   "drover",
		Usage:                  "Linux Virtual Server clusters in direct routing",
		UseShortOptionHandling: true,
		Commands:               commands,
		Action:                 unknownCommand,
		Version:                version.Version,
		ExitErrHandler:         func(*cli.Context, error) {},
		OnUsageError:           usageError,
		Reader:                 in,
		Writer:                 out,
		ErrWriter:              errs,
	}
	err := app.RunContext(ctx, args)
	if err == nil {
		return 0
	}
	status := 1
	var ec cli.ExitCoder
	if errors.As(err, &ec) {
		status = ec.ExitCode()
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintf(errs, "drover: %s\n", msg)
	}
	return status
}

func usageError(_ *cli.Context, err error, _ bool) error { return cli.Exit(err, 2) }

// usageErrors gives wrong options and unknown commands the exit status 2 at every level, which the library does not.
func usageErrors(commands []*cli.Command) {
	for _, c := range commands {
		if c.OnUsageError == nil {
			c.OnUsageError = usageError
		}
		if c.Action == nil && len(c.Subcommands) > 0 {
			c.Action = unknownCommand
		}
		usageErrors(c.Subcommands)
	}
}

// unknownCommand is the action where a command is missing, or is none; the library's own ends with the exit
// status 3, which is [exitNoDirector] here.
func unknownCommand(c *cli.Context) error {
	if c.Args().Present() {
		return cli.Exit(fmt.Sprintf("there is no command %q (%s --help lists them)", c.Args().First(), c.Command.HelpName), 2)
	}
	if c.Command.Name == c.App.Name {
		return cli.ShowAppHelp(c)
	}
	return cli.ShowSubcommandHelp(c)
}
