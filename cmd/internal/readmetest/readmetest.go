// Package readmetest has the files that the README tells a reader to write, for the tests that check them.
package readmetest

import (
	"os"
	"strings"
	"testing"
)

// Files are the contents that the README gives for a file, in their order: blocks of code that begin with a comment
// which is the name. It stands two folders above that of the test. A test fails that finds another number than want.
func Files(t *testing.T, name string, want int) []string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for block := range strings.SplitSeq(string(readme), "\n\n") {
		lines := strings.Split(strings.Trim(block, "\n"), "\n")
		indent := len(lines[0]) - len(strings.TrimLeft(lines[0], " "))
		if indent < 4 || lines[0][indent:] != "# "+name {
			continue
		}
		for i := range lines {
			lines[i] = lines[i][min(indent, len(lines[i])):]
		}
		out = append(out, strings.Join(lines, "\n")+"\n")
	}
	if len(out) != want {
		t.Fatalf("README.md has %d blocks for %s, want %d", len(out), name, want)
	}
	return out
}
