package main

import (
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
)

// optionalFlag is an option whose value may be left out, as -p of ipvsadm: it is the next argument if that is a
// number.
type optionalFlag struct {
	*cli.StringFlag
	absent string // the value if there is none
}

// passesOn are the commands whose arguments are a command line of another program: what follows the first of them
// is not looked at.
var passesOn = []string{"lab on", "lab exec"}

// arrange puts options in front of the other arguments of their command, where the library wants them: users of
// ipvsadm and of most other programs write them anywhere. Short options that stand together are taken apart. What
// follows "--" is no option. --director may also stand in front of the command.
func arrange(app *cli.App, args []string) []string {
	if len(args) == 0 {
		return args
	}
	out := []string{args[0]}
	commands, flags := app.Commands, app.Flags
	path := ""
	var rest []string // the arguments that are no options
	var held []string // --director in front of the command that it is an option of
	for i := 1; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--":
			rest = append(rest, args[i+1:]...)
			return finish(append(out, held...), rest)
		case len(a) < 2 || a[0] != '-':
			if c := find(commands, a); c != nil && len(rest) == 0 {
				if path = strings.TrimPrefix(path+" "+c.Name, " "); c.SkipFlagParsing {
					return append(append(out, a), args[i+1:]...)
				}
				out = append(out, a)
				commands, flags = c.Subcommands, c.Flags
				continue
			}
			rest = append(rest, a)
			if slices.Contains(passesOn, path) {
				return append(append(out, rest...), args[i+1:]...)
			}
		default:
			for _, o := range apart(flags, a) {
				f := option(flags, o)
				to := &out
				if f == nil && len(commands) > 0 && option([]cli.Flag{directorFlag}, o) != nil {
					f, to = directorFlag, &held
				}
				if opt, ok := f.(*optionalFlag); ok && !strings.Contains(o, "=") {
					value := opt.absent
					if i+1 < len(args) {
						if _, err := strconv.ParseUint(args[i+1], 10, 64); err == nil {
							i++
							value = args[i]
						}
					}
					o += "=" + value
				} else if f != nil && takesValue(f) && !strings.Contains(o, "=") && i+1 < len(args) {
					i++
					*to = append(*to, o)
					o = args[i]
				}
				*to = append(*to, o)
			}
		}
	}
	return finish(append(out, held...), rest)
}

// finish appends the arguments that are no options, even if they look like some.
func finish(out, rest []string) []string {
	if slices.ContainsFunc(rest, func(a string) bool { return strings.HasPrefix(a, "-") && a != "-" }) {
		out = append(out, "--")
	}
	return append(out, rest...)
}

func find(commands []*cli.Command, name string) *cli.Command {
	for _, c := range commands {
		if c.HasName(name) {
			return c
		}
	}
	return nil
}

// option finds the option that a is, with one dash or two, and with or without a value.
func option(flags []cli.Flag, a string) cli.Flag {
	name, _, _ := strings.Cut(strings.TrimLeft(a, "-"), "=")
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func takesValue(f cli.Flag) bool {
	d, ok := f.(cli.DocGenerationFlag)
	return ok && d.TakesValue()
}

// apart takes short options apart that stand together, if all of them are known: only the last may have a value.
func apart(flags []cli.Flag, a string) []string {
	if len(a) < 3 || a[1] == '-' || option(flags, a) != nil {
		return []string{a}
	}
	letters, value, has := strings.Cut(a[1:], "=")
	var out []string
	for i, r := range letters {
		f := option(flags, "-"+string(r))
		if f == nil || takesValue(f) && i < len(letters)-1 {
			return []string{a}
		}
		out = append(out, "-"+string(r))
	}
	if has {
		out[len(out)-1] += "=" + value
	}
	return out
}

// nearest is the word of list that text may be a misspelling of; "" if none is near.
func nearest(text string, list []string) string {
	best, at := "", max(1, len(text)/3)+1
	for _, w := range list {
		if d := distance(text, w); d < at {
			best, at = w, d
		}
	}
	return best
}

// distance is how many letters have to be put in, taken out, changed or swapped with their neighbour to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}

// didYouMean is what follows a word that is none of list.
func didYouMean(text string, list []string) string {
	if w := nearest(text, list); w != "" {
		return ", did you mean " + w + "?"
	}
	return ""
}
