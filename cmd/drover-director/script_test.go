package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/internal/program"
)

// tracker is one that runs a shell text as the user of the test.
func tracker(t *testing.T, text string) *settings.Tracker {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return &settings.Tracker{Name: "x", Command: []string{"/bin/sh", "-c", text}, Timeout: 10 * time.Second, User: u.Username, Fall: 1, Rise: 1}
}

func TestRunScript(t *testing.T) {
	for text, want := range map[string]string{
		"exit 0":                         "",
		"echo fine":                      "",
		"exit 3":                         "exit status 3",
		"echo the link is bad; exit 1":   "exit status 1: the link is bad",
		"echo; echo two >&2; exit 1":     "exit status 1: two",
		"kill -9 $$":                     "signal: killed",
		"printf 'a\\377b'; exit 1":       "exit status 1: a?b",
		"env | grep -q ^HOME= && exit 1": "exit status 1", // grep fails, and so does the list
	} {
		err := runScript(t.Context(), tracker(t, text))
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	long := runScript(t.Context(), tracker(t, "yes | tr -d '\\n' | head -c 100000; exit 1"))
	if long == nil || len(long.Error()) > program.MaxWords+50 {
		t.Errorf("much output: %v", long)
	}
	none := tracker(t, "")
	none.Command = []string{"/nonexistent/check"}
	if err := runScript(t.Context(), none); err == nil || !strings.Contains(err.Error(), "cannot be run: ") || !strings.Contains(err.Error(), "/nonexistent/check") {
		t.Errorf("no program: %v", err)
	}
	none.User = "no-such-user"
	if err := runScript(t.Context(), none); err == nil || !strings.Contains(err.Error(), `cannot be run as "no-such-user"`) {
		t.Errorf("no user: %v", err)
	}
}

// A program is killed with all that it has started, when its time is up and also when it ends before that.
func TestRunScriptKillsTheGroup(t *testing.T) {
	for _, end := range []string{"exit 0", "wait"} {
		file := filepath.Join(t.TempDir(), "pid")
		s := tracker(t, "sleep 1000 & echo $! > "+file+"; "+end)
		s.Timeout = 500 * time.Millisecond
		began := time.Now()
		err := runScript(t.Context(), s)
		if end == "exit 0" && err != nil || end == "wait" && (err == nil || err.Error() != "not done after 500ms") {
			t.Errorf("%s: %v", end, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: took %s", end, took)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); running(pid); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("%s: process %d is left", end, pid)
				break
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := runScript(ctx, tracker(t, "sleep 1000")); err == nil {
		t.Error("cancelled: no error")
	}
}

// running reports whether there is a process of that number which has not ended.
func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func TestRunScriptAsAnotherUser(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root to become another user")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skipf("there is no user nobody: %v", err)
	}
	s := tracker(t, "echo $(id -u) $(id -G); exit 1")
	s.User = "nobody"
	if err := runScript(t.Context(), s); err == nil || err.Error() != "exit status 1: "+nobody.Uid+" "+nobody.Gid {
		t.Errorf("ran as %v, want %s and no other groups than %s", err, nobody.Uid, nobody.Gid)
	}
}

func TestStreak(t *testing.T) {
	for _, tc := range []struct {
		fall, rise int
		results    string // + and -
		want       string // f where it becomes failed, r where it recovers, . where nothing changes
	}{
		{1, 1, "+-+--+", ".frf.r"},
		{2, 2, "-+--++", "...f.r"},
		{3, 1, "--+---+", ".....fr"},
		{1, 3, "-++-+++", "f.....r"},
	} {
		s := streak{fall: tc.fall, rise: tc.rise}
		var got strings.Builder
		for _, c := range tc.results {
			switch changed := s.add(c == '+'); {
			case changed && s.failed:
				got.WriteByte('f')
			case changed:
				got.WriteByte('r')
			default:
				got.WriteByte('.')
			}
		}
		if got.String() != tc.want {
			t.Errorf("fall %d, rise %d: %s gives %s, want %s", tc.fall, tc.rise, tc.results, got.String(), tc.want)
		}
	}
}
