// Command bench measures Drover, and ipvsadm beside it, on one real kernel, and prints tables.
//
//	bench --programs build --out build/bench.json
//
// It boots the lab's kernel with `drover lab exec` and runs itself inside. What is measured there is
// true as a ratio: both contenders run in the same boot, by turns, each repetition in a network namespace
// of its own, and a figure is the median of the repetitions. Absolute times of user-mode Linux mean little: a
// system call costs some twenty times what it costs on a machine.
//
// The exit status is 0 whether or not targets are met, because machines are noisy, and 1 if something
// could not be measured.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
)

// hostTimeout bounds everything.
const hostTimeout = 30 * time.Minute

// resultFile is what the guest leaves in the folder that it shares with the host.
const resultFile = "bench.json"

type options struct {
	programs string // folder of drover, drover-director and drover-realserver
	out      string
	runs     int
	only     *regexp.Regexp
	share    string // in the guest: the folder for the result
}

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.programs, "programs", "build", "measure the programs in `DIR`")
	flags.StringVar(&o.out, "out", "build/bench.json", "write the figures, with every sample, to `FILE`")
	flags.IntVar(&o.runs, "runs", 5, "take the median of `N` repetitions, 1 to 99")
	only := flags.String("only", "", "measure the sections whose name matches `REGEXP`")
	flags.StringVar(&o.share, "share", "", "inside the lab's kernel: leave the figures in `DIR`")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	err := o.check(flags.Args(), *only)
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 2
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), hostTimeout, fmt.Errorf("not done within %s", hostTimeout))
	defer cancel()
	if o.share != "" {
		err = inGuest(ctx, o, stderr)
	} else {
		err = onHost(ctx, o, *only, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

func (o *options) check(rest []string, only string) (err error) {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q", rest[0])
	}
	if o.runs < 1 || o.runs > 99 {
		return fmt.Errorf("runs (%d) must be between 1 and 99", o.runs)
	}
	if o.only, err = regexp.Compile(only); err != nil {
		return fmt.Errorf("only: %w", err)
	}
	o.programs, err = filepath.Abs(o.programs)
	return err
}

// onHost boots the lab's kernel, and prints what comes out of it.
func onHost(ctx context.Context, o options, only string, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	share, err := os.MkdirTemp("", "drover-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(share)
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(o.programs, "drover"), "lab", "exec", "--memory", "1536", "--timeout", hostTimeout.String(), "--share", share, "--",
		self, "-share", share, "-programs", o.programs, "-runs", strconv.Itoa(o.runs), "-only", only)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("failed to measure in the lab's kernel: %w", err)
	}
	b, err := os.ReadFile(filepath.Join(share, resultFile))
	if err != nil {
		return err
	}
	var r Report
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("failed to read the figures of the guest: %w", err)
	}
	r.Load = strings.Join(strings.Fields(string(load))[:3], " ")
	if o.only.MatchString("binaries") {
		s, err := binaries(o.programs)
		r.add(s, err)
	}
	if len(r.Sections) == 0 {
		return errors.New("no section has that name")
	}
	if err := r.Print(stdout); err != nil {
		return err
	}
	if b, err = json.MarshalIndent(&r, "", "  "); err != nil {
		return err
	}
	if err := renameio.WriteFile(o.out, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("failed to write the figures: %w", err)
	}
	return r.err()
}

// binaries are the sizes of the programs.
func binaries(dir string) (Section, error) {
	s := Section{Name: "binaries", Title: "Sizes of the programs, static and stripped"}
	for _, name := range []string{"drover", "drover-director", "drover-realserver", "drover-ipvsadm"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			return s, err
		}
		s.Rows = append(s.Rows, Row{What: name, Drover: Figure{Unit: Bytes, Samples: []float64{float64(info.Size())}}})
	}
	return s, nil
}
