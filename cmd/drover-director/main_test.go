package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drover-lb/drover/cluster/keyring"
	"github.com/drover-lb/drover/cmd/internal/readmetest"
	"github.com/drover-lb/drover/controller/spec"
)

// The test binary is drover-director when a test starts it as such.
func init() {
	if os.Getenv("DROVER_TEST_DIRECTOR") != "" {
		os.Exit(run(append([]string{"drover-director"}, os.Args[1:]...), os.Stdout, os.Stderr))
	}
}

const corpus = "../../controller/spec/testdata/"

func files(t *testing.T, kind string) []string {
	t.Helper()
	list, err := filepath.Glob(corpus + kind + "/*.yaml")
	if err != nil || len(list) == 0 {
		t.Fatalf("no files in %s%s: %v", corpus, kind, err)
	}
	return list
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// writeKey makes a key of a cluster.
func writeKey(t *testing.T, path string) {
	t.Helper()
	key, err := keyring.Generate()
	if err == nil {
		err = os.WriteFile(path, []byte(key+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The files that the README tells a reader to write are good.
func TestReadme(t *testing.T) {
	path := filepath.Join(t.TempDir(), "director.yaml")
	writeKey(t, filepath.Join(filepath.Dir(path), "cluster.key"))
	for _, text := range readmetest.Files(t, "/etc/drover/director.yaml", 2) {
		write(t, path, text)
		if _, warnings, err := describe(path); err != nil || len(warnings) > 0 {
			t.Errorf("%v %v\n%s", err, warnings, text)
		}
	}
	for _, text := range readmetest.Files(t, "site.yaml", 1) {
		if f, err := spec.ParseSpec("site.yaml", []byte(text)); err != nil || len(f.Warnings) > 0 {
			t.Errorf("%v %v\n%s", err, f.Warnings, text)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	call := func(args ...string) (status int, out, errs string) {
		var o, e bytes.Buffer
		status = run(append([]string{"drover-director", "--state-dir", dir + "/state"}, args...), &o, &e)
		return status, strings.ReplaceAll(o.String(), dir, "DIR"), strings.ReplaceAll(e.String(), dir, "DIR")
	}
	bad := files(t, "bad")
	if len(bad) < 40 {
		t.Errorf("%d bad files", len(bad))
	}
	for _, path := range bad {
		status, out, errs := call("--check", "--config", path)
		if status != exitUsage || out != "" || !strings.HasPrefix(errs, path+":") {
			t.Errorf("%s: status %d, output %q, errors %q", path, status, out, errs)
		}
	}
	for _, path := range append(files(t, "good"), "../../packaging/director.yaml") {
		if status, out, errs := call("--check", "--config", path); status != exitOK || !strings.HasPrefix(out, path+": good: ") {
			t.Errorf("%s: status %d, output %q, errors %q", path, status, out, errs)
		}
	}

	path := filepath.Join(dir, "d.yaml")
	write(t, path, "director: {interface: eth0}\nvips: [192.0.2.10]\nservices: [{address: 192.0.2.11, port: 80, real_servers: [10.0.0.11]}]\n")
	status, out, errs := call("--check", "--config", path)
	if status != exitOK || out != "DIR/d.yaml: good: 1 VIPs, 1 services, 1 real servers\n" || strings.Count(errs, "(warning)") != 2 {
		t.Errorf("status %d, output %q, errors %q", status, out, errs)
	}
	// Without --check a bad file, or none, ends it before anything is touched.
	if status, _, errs := call("--config", bad[0]); status != exitUsage || !strings.Contains(errs, bad[0]+":") {
		t.Errorf("status %d, errors %q", status, errs)
	}
	if status, _, errs := call("--check", "--config", path+".missing"); status != exitUsage || !strings.Contains(errs, "no such file") {
		t.Errorf("status %d, errors %q", status, errs)
	}
	for _, args := range [][]string{{"--frobnicate"}, {"--config", path, "extra"}, {"--config", path, "--log-level", "loud"}, {"--config", path, "--log-format", "xml"}} {
		if status, _, errs := call(args...); status != exitUsage || !strings.HasPrefix(errs, "drover-director: ") {
			t.Errorf("%q: status %d, errors %q", args, status, errs)
		}
	}
	if _, err := os.Stat(dir + "/state"); err == nil {
		t.Error("something was written")
	}
	if status, out, _ := call("--version"); status != exitOK || !strings.HasPrefix(out, "drover-director version ") {
		t.Errorf("status %d, output %q", status, out)
	}
}

func TestManualPage(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run([]string{"drover-director", "--man"}, &out, &errs); status != exitOK || errs.Len() > 0 {
		t.Fatalf("status %d: %s", status, errs.String())
	}
	for _, want := range []string{".TH DROVER\\-DIRECTOR 8 ", "\\fB\\-\\-data\\-dir DIR\\fR\n", ".SH SIGNALS\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
