package app

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The test binary raises its own priority when it is started so, and says what came of it.
func init() {
	if os.Getenv("DROVER_TEST_PRIORITY") == "" {
		return
	}
	if err := RaisePriority(); err != nil {
		fmt.Print(err)
		os.Exit(1)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		fmt.Print(err)
		os.Exit(2)
	}
	for _, t := range tasks {
		id, _ := strconv.Atoi(t.Name())
		raw, err := unix.Getpriority(unix.PRIO_PROCESS, id) // 20 less niceness, as the system call has it
		if err != nil || 20-raw != Niceness {
			fmt.Printf("thread %d: niceness %d, %v", id, 20-raw, err)
			os.Exit(2)
		}
	}
	os.Exit(0)
}

func TestRaisePriority(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "DROVER_TEST_PRIORITY=1")
	out, err := cmd.CombinedOutput()
	switch cmd.ProcessState.ExitCode() {
	case 0:
	case 1:
		if got := string(out); !strings.HasPrefix(got, "failed to raise the priority: ") || !strings.HasSuffix(got, "(needs CAP_SYS_NICE)") {
			t.Errorf("refused with %q", got)
		}
	default:
		t.Errorf("%v: %s", err, out)
	}
}
