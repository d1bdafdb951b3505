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
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/internal/version"
	"github.com/drover-lb/drover/ipvs/ipvsadm/dropin"
	"github.com/drover-lb/drover/lab/uml"
)

func main() {
	switch {
	case uml.IsInit():
		uml.Init()
	case uml.IsModprobe():
		os.Exit(uml.Modprobe(os.Args[1:]))
	}
	if name, args, ok := ipvsadmArgs(os.Args); ok {
		os.Exit(dropin.Main(name, args, os.Stdin, os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args, os.Stdin, os.Stdout, os.Stderr))
}

// commands are all of the program, in the order of its help.
func commands() []*cli.Command {
	return slices.Concat(
		under("This host's kernel", listCommand(), planCommand(), ipvsadmCommand(), arpCommand()),
		under("Services of a cluster", serviceCommand(), serverCommand(), topCommand()), under("Services of a cluster", wholeCommands()...),
		under("Cluster", clusterCommands()...),
		under("Tools", labCommand()), under("Tools", completionCommands()...), under("Tools", manCommand()),
	)
}

// under puts commands under one heading of the help.
func under(heading string, list ...*cli.Command) []*cli.Command {
	for _, c := range list {
		c.Category = heading
	}
	return list
}

func run(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) int {
	list := []*cli.Command{listCommand()}
	// Where list is asked for, the options of the other commands would cost it a tenth of its start.
	if len(args) < 2 || !list[0].HasName(args[1]) {
		list = commands()
	}
	usageErrors(list)
	app := &cli.App{
		Name:                   "drover",
		Usage:                  "Linux Virtual Server clusters in direct routing",
		Description:            "Options may stand behind other arguments.\n\nExit status " + exitStatuses,
		UseShortOptionHandling: true,
		Commands:               list,
		Action:                 unknownCommand,
		Version:                version.Version,
		ExitErrHandler:         func(*cli.Context, error) {},
		OnUsageError:           usageError,
		Reader:                 in,
		Writer:                 out,
		ErrWriter:              errs,
		Metadata:               map[string]any{"typed": typed(args)},
	}
	err := app.RunContext(ctx, arrange(app, args))
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

// typed is the command line as it goes into the history.
func typed(args []string) string {
	return strings.Join(append([]string{"drover"}, args[min(1, len(args)):]...), " ")
}

// usageError refuses options, and says which one may have been meant.
func usageError(c *cli.Context, err error, _ bool) error {
	name, unknown := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !unknown {
		return cli.Exit(err, 2)
	}
	flags, help := c.App.Flags, c.App.Name
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != c.App.Name {
		flags, help = c.Command.Flags, c.Command.HelpName
	}
	var names []string
	for _, f := range flags {
		for _, n := range f.Names() {
			if len(n) > 1 {
				names = append(names, n)
			}
		}
	}
	dashes := "--"
	if len(name) == 1 {
		dashes = "-"
	}
	meant := nearest(strings.TrimPrefix(name, "-"), names)
	if meant != "" {
		meant = ", did you mean --" + meant + "?"
	}
	return cli.Exit(fmt.Sprintf("there is no option %s%s%s (%s --help lists them)", dashes, strings.TrimPrefix(name, "-"), meant, help), 2)
}

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
		list := c.Command.Subcommands
		if len(list) == 0 {
			list = c.App.Commands
		}
		var names []string
		for _, x := range list {
			if !x.Hidden {
				names = append(names, x.Names()...)
			}
		}
		return cli.Exit(fmt.Sprintf("there is no command %q%s (%s --help lists them)", c.Args().First(), didYouMean(c.Args().First(), names), c.Command.HelpName), 2)
	}
	if c.Command.Name == c.App.Name {
		return cli.ShowAppHelp(c)
	}
	return cli.ShowSubcommandHelp(c)
}
