package keyring

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys")
	a, b := bytes.Repeat([]byte{1}, 16), bytes.Repeat([]byte{2}, 32)
	if err := WriteFile(path, [][]byte{a, b}); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", st.Mode(), err)
	}
	if keys, err := ReadFile(path); err != nil || !reflect.DeepEqual(keys, [][]byte{a, b}) {
		t.Errorf("%v, %v", keys, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("mode %04o", mode)) {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	for content, want := range map[string]string{
		"":                              "no key",
		"# nothing\n\n":                 "no key",
		"AQEBAQEBAQEBAQEBAQEBAQ==\n!\n": "line 2: key is not base64",
		"AQEB\n":                        "line 1: key of 3 bytes: must be 16, 24 or 32",
		"AQEBAQEBAQEBAQEBAQEBAQ==\n AQEBAQEBAQEBAQEBAQEBAQ==": "key 2: is there twice",
		strings.Repeat("#", maxFile+1):                        "longer than 4096 bytes",
	} {
		if _, err := parseFile([]byte(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.30q: %v, want %q", content, err, want)
		}
	}
	if k, err := Generate(); err != nil {
		t.Error(err)
	} else if b, err := Parse(k); err != nil || len(b) != 32 {
		t.Errorf("a generated key is none: %v", err)
	}
}
