package main

import (
	"os"
	"strings"
	"testing"
)

// The manual speaks of each command that is there for the cluster, or the README does.
func TestEveryCommandIsDocumented(t *testing.T) {
	var text string
	for _, path := range []string{"../../docs/cli.md", "../../README.md"} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text += string(b)
	}
	for _, c := range commands() {
		if !c.Hidden && !strings.Contains(text, "drover "+c.Name) && !strings.Contains(text, "`"+c.Name+"`") {
			t.Errorf("neither docs/cli.md nor README.md speaks of drover %s", c.Name)
		}
		if c.Usage == "" && !c.Hidden {
			t.Errorf("%s: no usage", c.Name)
		}
		for _, sub := range c.Subcommands {
			if !sub.Hidden && sub.Usage == "" {
				t.Errorf("%s %s: no usage", c.Name, sub.Name)
			}
		}
	}
}
