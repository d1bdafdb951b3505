package main

import (
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/drover-lb/drover/cmd/internal/api"
)

// paint colours text for a terminal; the zero paint does not.
type paint struct{ on bool }

// paintFor colours what c prints if it goes to a terminal, unless NO_COLOR is set (no-color.org) or the terminal
// is a dumb one.
func paintFor(c *cli.Context) paint {
	f, ok := c.App.Writer.(*os.File)
	return paint{ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))}
}

func (p paint) with(code, s string) string {
	if !p.on || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// state colours a state.
func (p paint) state(s string) string {
	switch s {
	case api.In:
		return p.with("32", s)
	case api.Draining, api.Drained, api.Standby:
		return p.with("33", s)
	case api.Out:
		return p.with("31", s)
	}
	return s
}

// table lines up columns of text that may be coloured.
type table struct{ rows [][]string }

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

// width is how many columns of a terminal s takes, its colours left out.
func width(s string) int {
	n := 0
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return n + utf8.RuneCountInString(s)
		}
		n += utf8.RuneCountInString(s[:i])
		_, s, _ = strings.Cut(s[i:], "m")
	}
}

func (t *table) write(w io.Writer) error {
	var widths []int
	for _, r := range t.rows {
		for i, cell := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(cell))
		}
	}
	var b strings.Builder
	for _, r := range t.rows {
		for i, cell := range r {
			b.WriteString(cell)
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-width(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
