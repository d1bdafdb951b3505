//go:build kernel

package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netns"
)

func TestKernelPlan(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	sh := func(command string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), "/bin/sh", "-ec", command).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", command, err, out)
		}
	}
	sh("ip link set lo up; ipvsadm -A -t 198.51.100.1:22 -s rr; ipvsadm -A -t 192.0.2.10:80 -s wlc; ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.11 -g -w 5")

	file := filepath.Join(t.TempDir(), "director.yaml")
	content := "director: {interface: eth0}\nvips: [192.0.2.10]\nservices:\n- {address: 192.0.2.10, port: 80, real_servers: [10.0.0.11, 10.0.0.12]}\n"
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	edits := "-a -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1\n-e -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1  # was -g -w 5\n"
	for _, tc := range []struct {
		args []string
		want string
	}{
		{nil, edits + "# real servers: 1 added, 1 changed\n# left alone: TCP 198.51.100.1:22\n"},
		{[]string{"--ownership", "all"}, edits + "-D -t 198.51.100.1:22\n# services: 1 deleted; real servers: 1 added, 1 changed\n"},
	} {
		// Twice: the first has not changed anything.
		for range 2 {
			args := append([]string{"-f", file, "--state-dir", t.TempDir()}, tc.args...)
			if status, out, errs := runPlanCommand(t.Context(), planCommand(), args...); status != 0 || out != tc.want || errs != "" {
				t.Errorf("%v: exit status %d, %q\n%s", tc.args, status, errs, out)
			}
		}
	}

	status, out, errs := runPlanCommand(t.Context(), planCommand(), "-f", file, "-o", "json", "--state-dir", t.TempDir())
	var j struct {
		Summary string
		Ops     []struct{ Op, Service, Server, Command, Old string }
	}
	if err := json.Unmarshal([]byte(out), &j); err != nil || status != 0 || errs != "" {
		t.Fatalf("exit status %d, %q, %v\n%s", status, errs, err, out)
	}
	if len(j.Ops) != 2 || j.Ops[1].Op != "edit-server" || j.Ops[1].Server != "10.0.0.11:80" || j.Ops[1].Old != "-g -w 5" {
		t.Errorf("got %+v", j)
	}

	sh("ipvsadm -e -t 192.0.2.10:80 -r 10.0.0.11 -g -w 1; ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.12 -g -w 1")
	if status, out, _ := runPlanCommand(t.Context(), planCommand(), "-f", file, "--state-dir", t.TempDir()); status != 0 || out != "# nothing to do\n# left alone: TCP 198.51.100.1:22\n" {
		t.Errorf("exit status %d\n%s", status, out)
	}
}
