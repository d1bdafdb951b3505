package dropin

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"runtime/debug"
	"strings"

	"github.com/drover-lb/drover/ipvs"
)

// Main is the program of which the last element of a path is the name: ipvsadm-save, ipvsadm-restore, or else ipvsadm.
// args are the name that messages have, and the arguments. It returns the exit status, and is for a process that does
// nothing else: it makes the collector of the whole process wait for ten times of what is in use.
func Main(name string, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	// Short and frugal: the first collection at 40 MiB is none, where one costs a fifth of the time.
	debug.SetGCPercent(1000)
	switch path.Base(name) {
	case "ipvsadm-save":
		return RunSave(args, stdout, stderr)
	case "ipvsadm-restore":
		return RunRestore(args, stdin, stdout, stderr)
	}
	return Run(args, stdin, stdout, stderr)
}

// RunSave is ipvsadm-save: it prints the table as rules, by numbers with -n. Arguments that are no options it
// ignores.
func RunSave(args []string, stdout, stderr io.Writer) int {
	save := []string{"ipvsadm", "-S"}
	for _, arg := range args[1:] {
		switch {
		case arg == "-n":
			save = []string{"ipvsadm", "-S", "-n"}
		case strings.HasPrefix(arg, "-"):
			fmt.Fprintf(stderr, "%s: prints the IPVS table in the form that ipvsadm-restore reads; -n: by numbers, not names\n", path.Base(args[0]))
			return 1
		}
	}
	return Run(save, strings.NewReader(""), stdout, stderr)
}

// RunRestore is ipvsadm-restore: it deletes all services and makes those of the rules that it reads, which
// may have lines that begin with #. Nothing is deleted before the rules are read to their end. It ignores
// its arguments.
func RunRestore(_ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	input, err := io.ReadAll(stdin)
	if err != nil {
		fmt.Fprintf(stderr, "failed to read rules: %v\n", err)
		return statusFailed
	}
	var rules []byte
	for line := range bytes.Lines(input) {
		if line[0] != '#' {
			rules = append(rules, line...)
		}
	}
	rules = append(bytes.TrimRight(rules, "\n"), '\n')
	ctx := context.Background()
	t := &tool{args: []string{"ipvsadm"}, out: stdout, errs: stderr, names: &System{}}
	if t.client, err = dial(ctx); err != nil {
		return t.refused(err)
	}
	defer t.client.Close()
	t.run(ctx, Command{Action: Clear, Change: ipvs.Flush()})
	status, _ := t.restore(ctx, bytes.NewReader(rules))
	return status
}
