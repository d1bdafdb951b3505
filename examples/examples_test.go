//go:build lab

package examples

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// drover is the program under test, built by the Makefile.
func drover(t *testing.T) string {
	t.Helper()
	path := os.Getenv("DROVER")
	if path == "" {
		t.Fatal("DROVER must name the built program: run `make lab-test`")
	}
	return path
}

func folders(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*/lab.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples found: %v", err)
	}
	var out []string
	for _, f := range files {
		out = append(out, filepath.Dir(f))
	}
	return out
}

// labRun runs `drover lab run` in user-mode Linux and returns its output and exit status.
func labRun(t *testing.T, configure func(*exec.Cmd), args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, drover(t), append([]string{"lab", "run", "--kernel", "uml"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 5*time.Second
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if configure != nil {
		configure(cmd)
	}
	err := cmd.Run()
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func TestExamples(t *testing.T) {
	for _, f := range folders(t) {
		t.Run(f, func(t *testing.T) {
			t.Parallel()
			if out, status := labRun(t, nil, "--patience", "4", "--out", filepath.Join(filepath.Dir(drover(t)), "lab"), f); status != 0 {
				t.Errorf("exit status %d\n%s", status, out)
			}
		})
	}
}

// An ordinary user may run a lab: here "nobody", from files that nobody may write.
func TestAsOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("TestExamples has just shown it: this is an ordinary user")
	}
	dir, err := os.MkdirTemp("", "drover-user-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	uml := os.Getenv("DROVER_UML")
	for _, cp := range [][]string{
		{"cp", "-r", filepath.Dir(drover(t)) + "/.", dir + "/bin"}, {"rm", "-rf", dir + "/bin/uml", dir + "/bin/lab"},
		{"cp", "-r", "one-director", dir}, {"cp", "-r", uml, dir + "/uml"}, {"chmod", "-R", "go+rX", dir},
	} {
		if out, err := exec.Command(cp[0], cp[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", cp, err, out)
		}
	}
	out, status := labRun(t, func(cmd *exec.Cmd) {
		cmd.Path, cmd.Dir = dir+"/bin/drover", "/"
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "DROVER_UML=" + dir + "/uml"}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}, dir+"/one-director")
	if status != 0 {
		t.Errorf("exit status %d\n%s", status, out)
	}
}

// A lab with a false expectation fails, and says what was measured.
func TestAFalseExpectationFails(t *testing.T) {
	t.Parallel()
	out, status := labRun(t, nil, "testdata/false-expectation")
	if status != 1 {
		t.Errorf("exit status %d, want 1\n%s", status, out)
	}
	for _, want := range []string{
		"FAIL  client/web: longest gap at most 10ms since cut: ",
		"FAIL  web1 has 10.0.0.100: it is on no interface",
		"ok    client/web: failed at least 1 since cut: ",
		"FAILED: 1 of 3 expectations held",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the account lacks %q:\n%s", want, out)
		}
	}
}

// A lab.yaml that is wrong is refused with its place before any kernel is booted.
func TestAWrongLabIsRefused(t *testing.T) {
	out, status := labRun(t, nil, "testdata/wrong")
	if status != 2 || !strings.Contains(out, `testdata/wrong/lab.yaml:11:10: scenario[0]: cut: "web7" is not a host of this lab: one of: client, web1`) {
		t.Errorf("exit status %d: %s", status, out)
	}
}
