package manpage

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// Text that looks like requests, or like escapes, is text.
func TestPage(t *testing.T) {
	page := Daemon{Files: [][2]string{{"/etc/x.yaml", ".file of 'x'"}}, SeeAlso: "\\fBx\\fR(1)"}.Page(&cli.App{
		Name: "x-daemon", Usage: "does x", UsageText: "x-daemon [--config FILE]\n   x-daemon --check", Description: "Does x.\n.and y\\z",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Value: "/etc/x.yaml", Usage: "read `FILE`"},
			&cli.BoolFlag{Name: "check", Usage: "check it"},
		},
	})
	for _, want := range []string{
		".TH X\\-DAEMON 8 ", "x\\-daemon \\- does x\n", "\\fBx\\-daemon \\-\\-check\\fR\n", "\n\\&.and y\\ez\n",
		"\\fB\\-\\-config, \\-c FILE\\fR\nread FILE (default: /etc/x.yaml)\n", "\\fB\\-\\-check\\fR\ncheck it\n",
		"\\fB/etc/x.yaml\\fR\n\\&.file of \\(aqx\\(aq\n", ".SH SEE ALSO\n\\fBx\\fR(1)\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("groff is not installed")
		return
	}
	cmd := exec.CommandContext(t.Context(), groff, "-man", "-ww", "-z")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v, %s", err, out)
	}
}
