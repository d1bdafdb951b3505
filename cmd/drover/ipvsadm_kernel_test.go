//go:build kernel

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-lb/drover/ipvs/ipvstest"
)

// inPlaceOfOriginal puts this test where the files of ipvsadm are, and configuration files where their
// originals are, for one command and what it runs. No server is asked for names.
const inPlaceOfOriginal = `
mount --make-rprivate / || exit 99
mount -t tmpfs none /mnt || exit 99
if [ -n "$DROP_IN" ]; then
	for name in ipvsadm ipvsadm-save ipvsadm-restore; do mount --bind "$DROP_IN" /sbin/$name || exit 99; done
fi
printf '%s\n' AUTO=true DAEMON=both IFACE=d0 SYNCID=7 > /mnt/default
mount --bind /mnt/default /etc/default/ipvsadm || exit 99
echo > /mnt/rules
mount --bind /mnt/rules /etc/ipvsadm.rules || exit 99
echo 'hosts: files' > /mnt/nsswitch
mount --bind /mnt/nsswitch /etc/nsswitch.conf || exit 99
exec "$@"
`

// runScript runs a command in a new network namespace, with ipvsadm or with Drover in its place.
func runScript(t *testing.T, dropIn string, argv ...string) string {
	t.Helper()
	ipvstest.NewNamespace(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", append([]string{"-c", inPlaceOfOriginal, "sh"}, argv...)...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "DROP_IN="+dropIn, "DROVER_TEST_MAIN=1", "PATH=/sbin:/usr/sbin:/bin:/usr/bin", "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", argv, err, out)
	}
	return string(out)
}

// Scripts that were written for ipvsadm do the same with Drover in its place: one of ours, and the one that
// Debian starts ipvsadm with.
func TestKernelScriptsRunUnchanged(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	operator, err := filepath.Abs("testdata/operator.sh")
	if err != nil {
		t.Fatal(err)
	}
	debian := `
settle() { while cat /proc/[0-9]*/stat 2>/dev/null | grep -q '(ipvs-[mb]:.*) [RD]'; do :; done; } # as in operator.sh
ipvsadm -A -t 192.0.2.10:80 -s rr
ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.11
for action in save load start status restart stop; do
	echo "== $action"
	/etc/init.d/ipvsadm $action; echo "-- $?"
	settle
	ipvsadm -Ln; ipvsadm -Ln --daemon
done
cat /etc/ipvsadm.rules
`
	for name, argv := range map[string][]string{"operator": {"sh", operator}, "debian": {"sh", "-c", debian}} {
		want := runScript(t, "", argv...)
		have := runScript(t, self, argv...)
		if strings.Count(want, "\n") < 50 || !strings.Contains(want, "192.0.2.10:80 ") {
			t.Errorf("%s: the script does nothing:\n%s", name, want)
		}
		if have == want {
			continue
		}
		h, w := strings.Split(have, "\n"), strings.Split(want, "\n")
		for i := range max(len(h), len(w)) {
			if i >= len(h) || i >= len(w) || h[i] != w[i] {
				t.Errorf("%s: line %d is %q, with ipvsadm %q", name, i+1, h[min(i, len(h)):min(i+3, len(h))], w[min(i, len(w)):min(i+3, len(w))])
				break
			}
		}
	}
}

// `drover ipvsadm` is the same, under its own name.
func TestKernelIpvsadmCommand(t *testing.T) {
	ipvstest.NewNamespace(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	drover := func(args ...string) string {
		cmd := exec.Command(self)
		cmd.Args = append([]string{"drover", "ipvsadm"}, args...)
		cmd.Env = append(os.Environ(), "DROVER_TEST_MAIN=1")
		out, _ := cmd.CombinedOutput()
		return fmt.Sprintf("%s[%d]", out, cmd.ProcessState.ExitCode())
	}
	for _, x := range []struct{ line, want string }{
		{"-A -t 192.0.2.10:80", "[0]"},
		{"-A -t 192.0.2.10:80", "Service already exists\n[255]"},
		{"-Sn", "-A -t 192.0.2.10:80 -s wlc\n[0]"},
		{"--nosuch", "Try `drover ipvsadm -h' or 'drover ipvsadm --help' for more information.\n[255]"},
	} {
		if have := drover(strings.Fields(x.line)...); have != x.want {
			t.Errorf("drover ipvsadm %s: %q, want %q", x.line, have, x.want)
		}
	}
	if have := drover("-h"); !strings.Contains(have, "\nUsage: drover ipvsadm COMMAND") || !strings.HasSuffix(have, "\n[0]") {
		t.Errorf("-h: %s", have)
	}
}
