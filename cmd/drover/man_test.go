package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// There is a page for each command, with each of its options, and no line of it is a request by accident.
func TestManPages(t *testing.T) {
	dir := t.TempDir()
	if status, out, errs := drover(t.Context(), "", "man", dir); status != 0 || out != "" || errs != "" {
		t.Fatalf("%d, %q, %q", status, out, errs)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		for _, want := range []string{".TH DROVER", ".SH NAME\n", ".SH SYNOPSIS\n", ".SH EXIT STATUS\n0 if all is well; ", ".SH SEE ALSO\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q", path, want)
			}
		}
		for line := range strings.Lines(text) {
			request, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch {
			case strings.HasPrefix(request, "."):
				if !strings.Contains(" .TH .SH .TP .PP .nf .fi ", " "+request+" ") {
					t.Errorf("%s: request %q", path, line)
				}
			case strings.HasPrefix(line, "'"):
				t.Errorf("%s: request %q", path, line)
			}
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "drover-service.1"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		".SH DROVER SERVICE ADD\n", "\\fB\\-\\-tcp\\-service, \\-t ADDRESS:PORT\\fR\nthe TCP service at ADDRESS:PORT\n",
		"\\fB\\-\\-director ADDRESS\\fR\n", "(default: /run/drover/director.sock)\n",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Log("groff is not installed")
		return
	}
	if out, err := exec.CommandContext(t.Context(), groff, append([]string{"-man", "-ww", "-z"}, files...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("groff: %v, %s", err, out)
	}
}
