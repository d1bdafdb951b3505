package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// runList runs drover list and returns what it printed and its exit status.
func runList(args ...string) (out string, status int, err error) {
	var b bytes.Buffer
	app := &cli.App{
		Name:           "drover",
		Writer:         &b,
		ErrWriter:      &b,
		Commands:       []*cli.Command{listCommand()},
		ExitErrHandler: func(*cli.Context, error) {},
	}
	err = app.RunContext(context.Background(), append([]string{"drover", "list"}, args...))
	var ec cli.ExitCoder
	switch {
	case errors.As(err, &ec):
		status = ec.ExitCode()
	case err != nil:
		status = 1
	}
	return b.String(), status, err
}

func TestListUsage(t *testing.T) {
	for args, want := range map[string]string{
		"--stat":                   "list: flag provided but not defined: -stat (drover list --help explains the options)",
		"-x":                       "list: flag provided but not defined: -x (drover list --help explains the options)",
		"-o":                       "list: flag needs an argument: -o (drover list --help explains the options)",
		"-o yaml":                  `list: output ("yaml") must be table or json (drover list --help explains the options)`,
		"-o=":                      `list: output ("") must be table or json (drover list --help explains the options)`,
		"web":                      `list: unexpected argument "web" (drover list --help explains the options)`,
		"--stats --rate":           "list: --stats and --rate exclude each other (drover list --help explains the options)",
		"-c --stats":               "list: --stats and --connections exclude each other (drover list --help explains the options)",
		"--timeout --daemon":       "list: --timeout and --daemon exclude each other (drover list --help explains the options)",
		"-nc --thresholds":         "list: --thresholds and --connections exclude each other (drover list --help explains the options)",
		"--connection --timeout":   "list: --connections and --timeout exclude each other (drover list --help explains the options)",
		"-c --persistent-conn foo": `list: unexpected argument "foo" (drover list --help explains the options)`,
	} {
		out, status, err := runList(strings.Fields(args)...)
		if status != 2 || err == nil || err.Error() != want {
			t.Errorf("%s: status %d\ngot  %v\nwant %s", args, status, err, want)
		}
		if out != "" {
			t.Errorf("%s: printed %q", args, out)
		}
	}
}

func TestListHelp(t *testing.T) {
	out, status, err := runList("--help")
	if status != 0 || err != nil {
		t.Fatal(status, err)
	}
	for _, want := range []string{"--stats", "--connections", "-c", "table or json", "ipvsadm -Ln", "CAP_NET_ADMIN"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
