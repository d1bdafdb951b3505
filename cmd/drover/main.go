// Command drover steers LVS-DR clusters: it lists and plans the kernel's table as ipvsadm does, shows
// who answers for a virtual IP, and runs whole clusters in a lab.
package main

import (
	"context"
	"errors"
	"fmt"
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
	os.Exit(run(ctx, os.Args))
}

func run(ctx context.Context, args []string) int {
	app := &cli.App{
		Name:                   "drover",
		Usage:                  "Linux Virtual Server clusters in direct routing",
		UseShortOptionHandling: true,
		Commands:               append([]*cli.Command{listCommand(), planCommand(), arpCommand(), labCommand()}, clusterCommands()...),
		Version:                version.Version,
		ExitErrHandler:         func(*cli.Context, error) {},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error {
			return cli.Exit(err, 2)
		},
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
		fmt.Fprintf(os.Stderr, "drover: %s\n", msg)
	}
	return status
}
