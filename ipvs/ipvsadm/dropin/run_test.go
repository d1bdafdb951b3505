package dropin

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Help needs neither root nor IPVS, which this test may have or not.
func TestHelpAndVersion(t *testing.T) {
	for _, x := range []struct{ arg, want string }{
		{"-h", "Usage: /sbin/ipvsadm COMMAND"}, {"--help", "--sctp-service"}, {"-v", "ipvsadm v1.31 "}, {"--version", "ipvsadm v1.31 "},
	} {
		var out, errs bytes.Buffer
		if status := Run([]string{"/sbin/ipvsadm", x.arg}, strings.NewReader(""), &out, &errs); status != 0 || errs.Len() > 0 || !strings.Contains(out.String(), x.want) {
			t.Errorf("%s: %d %q\n%s", x.arg, status, errs.String(), out.String())
		}
	}
}

// Every option is in the help.
func TestHelpIsComplete(t *testing.T) {
	text := usage("ipvsadm")
	for _, w := range words {
		if !strings.Contains(text, "--"+w.long) {
			t.Errorf("--%s is missing", w.long)
		}
		if w.short != 0 && w.option != exact && !strings.Contains(text, " -"+string(w.short)+",") {
			t.Errorf("-%c is missing", w.short)
		}
	}
}

func TestMessages(t *testing.T) {
	for _, x := range []struct {
		a    Action
		err  error
		want string
	}{
		{AddService, unix.EEXIST, "Service already exists"},
		{AddServer, unix.EEXIST, "Destination already exists"},
		{StartDaemon, unix.EEXIST, "Daemon has already run"},
		{StopDaemon, unix.ESRCH, "No daemon is running"},
		{DeleteServer, unix.ESRCH, "Service not defined"},
		{List, fmt.Errorf("failed: %w", unix.ESRCH), "No such service"},
		{AddServer, unix.ERANGE, "Numerical result out of range"},
		{Clear, os.ErrPermission, "Permission denied (you must be root)"},
		{Clear, unix.EPERM, "Permission denied (you must be root)"},
		{Clear, errors.New("no answer"), "no answer"},
	} {
		if have := message(x.a, x.err); have != x.want {
			t.Errorf("%s, %v: %q, want %q", x.a, x.err, have, x.want)
		}
	}
}
