package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/drover-lb/drover/cluster/keyring"
	"github.com/drover-lb/drover/cmd/internal/readmetest"
)

// The test binary is drover-realserver when a test starts it as such.
func init() {
	if os.Getenv("DROVER_TEST_REALSERVER") != "" {
		os.Exit(run(append([]string{"drover-realserver"}, os.Args[1:]...), os.Stdout, os.Stderr))
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The files that the README tells a reader to write are good.
func TestReadme(t *testing.T) {
	path := filepath.Join(t.TempDir(), "realserver.yaml")
	key, err := keyring.Generate()
	if err == nil {
		err = os.WriteFile(filepath.Join(filepath.Dir(path), "cluster.key"), []byte(key+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range readmetest.Files(t, "/etc/drover/realserver.yaml", 2) {
		write(t, path, text)
		var out, errs bytes.Buffer
		if status := run([]string{"drover-realserver", "--check", "--config", path}, &out, &errs); status != 0 || errs.Len() > 0 {
			t.Errorf("status %d: %s\n%s", status, errs.String(), text)
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "rs.yaml")
	state := filepath.Join(dir, "run/state.json")
	call := func(args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		status := run(append([]string{"drover-realserver", "--state", state}, args...), &out, &errs)
		return status, strings.ReplaceAll(out.String(), dir, "DIR"), strings.ReplaceAll(errs.String(), dir, "DIR")
	}
	for _, tc := range []struct {
		content, out, errs string
		status             int
	}{
		{"vips: [192.0.2.1, 192.0.2.2]\n", "DIR/rs.yaml: good: 2 VIPs on lo\n", "", 0},
		{"vips: [192.0.2.1]\ndevice: dummy\n", "DIR/rs.yaml: good: 1 VIPs on drover\n", "", 0},
		{"vips: [192.0.2.1/24]\non_stop: x\n", "", "DIR/rs.yaml:1:8: vips[0]: \"192.0.2.1/24\" has a prefix length: a real server has its VIPs as /32 and /128 only, write 192.0.2.1 without /24\nDIR/rs.yaml:2:10: on_stop: \"x\" is not one of: release, keep\n", 2},
	} {
		write(t, path, tc.content)
		if status, out, errs := call("--check", "--config", path); status != tc.status || out != tc.out || errs != tc.errs {
			t.Errorf("%q: status %d, output %q, errors %q", tc.content, status, out, errs)
		}
	}
	// Without --check a bad file, or none, ends it before anything is touched.
	if status, _, errs := call("--config", path); status != 2 || !strings.Contains(errs, "rs.yaml:1:8:") {
		t.Errorf("status %d, errors %q", status, errs)
	}
	if status, _, errs := call("--check", "--config", path+".missing"); status != 2 || !strings.Contains(errs, "no such file") {
		t.Errorf("status %d, errors %q", status, errs)
	}
	for _, args := range [][]string{{"--frobnicate"}, {"--config", path, "extra"}, {"--config", path, "--log-level", "loud"}, {"--config", path, "--log-format", "xml"}} {
		if status, _, errs := call(args...); status != 2 || !strings.HasPrefix(errs, "drover-realserver: ") {
			t.Errorf("%q: status %d, errors %q", args, status, errs)
		}
	}
	if _, err := os.Stat(filepath.Dir(state)); err == nil {
		t.Error("something was written")
	}
}
