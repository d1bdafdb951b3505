package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/lab"
	"github.com/drover-lb/drover/lab/uml"
)

func labFaultsCommand() *cli.Command {
	return &cli.Command{
		Name:      "faults",
		Usage:     "run labs many times and print what each fault costs: median, p95 and maximum",
		ArgsUsage: "FOLDER...",
		Description: "Each round boots one kernel and runs the labs in it one after the other, so that systems can be\n" +
			"compared. What is counted are the `measure` steps of each lab.yaml. Exit status 1 if an expectation\n" +
			"failed in any round, or the distribution exceeds a bound of a lab.yaml.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "kernel", Value: "auto", Usage: "`WHERE`: native, uml, or auto, as for lab run"},
			&cli.IntFlag{Name: "rounds", Value: 20, Usage: "`NUMBER` of rounds, at least 1"},
			&cli.StringFlag{Name: "out", Usage: "write faults.json, and each round's reports and account, below this `DIR`"},
		},
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return cli.Exit("lab faults: which FOLDER? For example: drover lab faults examples/testdata/faults/*", 2)
			}
			if n := c.Int("rounds"); n < 1 || n > 10000 {
				return cli.Exit(fmt.Sprintf("--rounds %d is out of range: must be between 1 and 10000", n), 2)
			}
			var labs []*lab.Config
			names := map[string]bool{}
			for _, f := range c.Args().Slice() {
				cfg, err := loadLab(f)
				if err != nil {
					return err
				}
				name := filepath.Base(cfg.Folder)
				if names[name] {
					return cli.Exit(fmt.Sprintf("two folders are called %q: their reports have the same name", name), 2)
				}
				names[name] = true
				labs = append(labs, cfg)
			}
			where, err := chooseKernel(c.Context, c.String("kernel"))
			if err != nil {
				return err
			}
			return runFaults(c, labs, where)
		},
	}
}

// faultsFile is the JSON form of what `drover lab faults` found. Durations are nanoseconds.
type faultsFile struct {
	Rounds    int                `json:"rounds"`
	Failed    []string           `json:"failed,omitempty"` // what was not as expected, by round and lab
	Summaries []lab.FaultSummary `json:"faults"`
	Each      []lab.FaultReport  `json:"each"` // in the order of the rounds
}

func runFaults(c *cli.Context, labs []*lab.Config, where string) error {
	out := c.String("out")
	if out == "" {
		tmp, err := os.MkdirTemp("", "drover-faults-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		out = tmp
	}
	res := faultsFile{Rounds: c.Int("rounds")}
	var reports []*lab.Report
	for n := range res.Rounds {
		dir := filepath.Join(out, fmt.Sprintf("round-%03d", n+1))
		if err := os.RemoveAll(dir); err != nil { // of an earlier run
			return err
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		began := time.Now()
		account := filepath.Join(dir, "account.txt")
		rerr := runRound(c, labs, where, dir, account)
		if err := context.Cause(c.Context); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "round %d of %d, %s\n", n+1, res.Rounds, time.Since(began).Round(time.Second))
		complete := true
		for _, cfg := range labs {
			name := filepath.Base(cfg.Folder)
			rep, err := readReport(filepath.Join(dir, name))
			if err != nil {
				complete = false
				res.fail(c.App.Writer, n+1, name, fmt.Sprintf("no report: %v", err))
				continue
			}
			reports = append(reports, rep)
			res.Each = append(res.Each, rep.Faults...)
			for _, f := range rep.Faults {
				fmt.Fprintf(c.App.Writer, "  %s, %s: %s\n", f.System, f.Fault, f)
			}
			for _, s := range rep.Steps {
				if s.Error != "" {
					res.fail(c.App.Writer, n+1, name, s.Text+": "+s.Error)
				}
			}
			for _, e := range rep.Expectations {
				if !e.Held {
					res.fail(c.App.Writer, n+1, name, e.Text+": "+e.Measured)
				}
			}
		}
		if rerr != nil && (!errors.Is(rerr, lab.ErrExpectation) || !complete) {
			res.fail(c.App.Writer, n+1, "all", rerr.Error())
			b, err := os.ReadFile(account)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.App.Writer, tail(string(b), 20))
		}
	}
	res.Summaries = lab.Summarise(reports)
	fmt.Fprintln(c.App.Writer)
	if err := lab.WriteSummary(c.App.Writer, res.Summaries); err != nil {
		return err
	}
	b, err := json.MarshalIndent(res, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(out, "faults.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	missed := 0
	for _, s := range res.Summaries {
		missed += len(s.Missed)
	}
	if len(res.Failed)+missed > 0 {
		return fmt.Errorf("%w: %d in %d rounds, and %d bounds of the distribution", lab.ErrExpectation, len(res.Failed), res.Rounds, missed)
	}
	return nil
}

func (f *faultsFile) fail(w io.Writer, round int, name, text string) {
	f.Failed = append(f.Failed, fmt.Sprintf("round %d, %s: %s", round, name, text))
	fmt.Fprintf(w, "  FAIL  %s: %s\n", name, text)
}

// runRound runs the labs once, all in one kernel; their reports go below dir, what happens to a file.
func runRound(c *cli.Context, labs []*lab.Config, where, dir, accountFile string) error {
	account, err := os.Create(accountFile)
	if err != nil {
		return err
	}
	defer account.Close()
	if where != "uml" {
		var errs []error
		for _, cfg := range labs {
			rep, err := lab.Run(c.Context, cfg, lab.Options{Out: account})
			if rep != nil {
				to := filepath.Join(dir, filepath.Base(cfg.Folder))
				err = errors.Join(err, os.MkdirAll(to, 0o755), rep.Write(to))
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	k, err := uml.Find()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	share, err := os.MkdirTemp("", "drover-lab-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(share)
	o := uml.Options{Argv: []string{self, "lab", "run", "--kernel", "native", "--out", share}, Dir: "/", Share: share,
		Stdout: account, Env: append(passOn(), "NO_COLOR=1"), Modules: labModules}
	bound := time.Minute
	for _, cfg := range labs {
		o.Argv = append(o.Argv, cfg.Folder)
		o.MemoryMiB = max(o.MemoryMiB, cfg.MemoryMiB)
		bound += cfg.Timeout
	}
	ctx, cancel := contextWithTimeout(c, bound)
	defer cancel()
	err = uml.Run(ctx, k, o)
	var exit *uml.ExitError
	if errors.As(err, &exit) && exit.Status == 1 {
		err = lab.ErrExpectation
	}
	for _, cfg := range labs {
		name := filepath.Base(cfg.Folder)
		if merr := os.MkdirAll(filepath.Join(dir, name), 0o755); merr != nil {
			return errors.Join(err, merr)
		}
		if cerr := copyReports(filepath.Join(share, name), filepath.Join(dir, name)); cerr != nil {
			return errors.Join(err, cerr)
		}
	}
	return err
}

func readReport(dir string) (*lab.Report, error) {
	b, err := os.ReadFile(filepath.Join(dir, "report.json"))
	if err != nil {
		return nil, err
	}
	var rep lab.Report
	if err := json.Unmarshal(b, &rep); err != nil {
		return nil, fmt.Errorf("failed to read %s: %w", filepath.Join(dir, "report.json"), err)
	}
	return &rep, nil
}

// tail returns the last n lines.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
