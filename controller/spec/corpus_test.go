package spec

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/drover-lb/drover/conf"
)

var update = flag.Bool("update", false, "rewrite the complaints in testdata/bad")

// Each file in testdata/bad is wrong in one way. Its first line says which one complaint that gives:
// "# want: LINE:COLUMN: text", or "# want: text" where no place can be named.
func TestBadFiles(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "bad", "*.yaml"))
	if err != nil || len(paths) < 60 {
		t.Fatalf("%d files, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".yaml"), func(t *testing.T) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			first, rest, _ := strings.Cut(string(b), "\n")
			want, ok := strings.CutPrefix(first, "# want: ")
			if !ok {
				t.Fatalf("the first line is %q", first)
			}
			f, err := Load(path)
			var es conf.Errors
			if !errors.As(err, &es) || f != nil {
				t.Fatalf("got %v, %v", f, err)
			}
			if len(es) != 1 {
				t.Errorf("want one complaint, got %d:\n%v", len(es), err)
			}
			got := strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(es[0].Error(), path), ":"), " ")
			if strings.ContainsAny(got, "\n") {
				t.Errorf("the complaint has more than one line: %q", got)
			}
			if *update {
				if err := os.WriteFile(path, []byte("# want: "+got+"\n"+rest), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
			// A place, unless there is nothing to point at.
			if !regexp.MustCompile(`^\d+:\d+: `).MatchString(got) {
				t.Errorf("no line and column: %s", got)
			}
		})
	}
}

func TestGoodFiles(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "good", "*.yaml"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		f, err := Load(path)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		again, err := Parse(path, f.Format())
		if err != nil || !again.Spec.Equal(&f.Spec) || again.Director != f.Director {
			t.Errorf("%s: does not read back from its own format: %v\n%s", path, err, f.Format())
		}
	}
}
