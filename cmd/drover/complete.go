package main

import (
	"context"
	"embed"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/spec"
)

// completeTimeout bounds what a shell waits for names when the user presses the tabulator.
const completeTimeout = 300 * time.Millisecond

// candidate is a word that may stand where the cursor is.
type candidate struct{ word, help string }

// files says that a file's name may stand there, which is for the shell to find.
var files = []candidate{{":files", ""}}

// source tells the names that a director knows.
type source interface {
	services() []api.Service
	members() []api.Member
	versions() []api.Entry
}

// complete lists what may stand in the place of the last word; words begin behind the program's name.
func complete(app *cli.App, words []string, from source) []candidate {
	if len(words) == 0 {
		words = []string{""}
	}
	words, last := words[:len(words)-1], words[len(words)-1]
	commands, flags := app.Commands, app.Flags
	var path, rest []string
	var director string
	only := false // "--" stands before
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--":
			only = true
		case !only && len(w) > 1 && w[0] == '-':
			o := apart(flags, w)
			f := option(flags, o[len(o)-1])
			if _, optional := f.(*optionalFlag); f == nil || optional || !takesValue(f) || strings.Contains(w, "=") {
				continue
			}
			if i++; i == len(words) {
				return matching(values(f, path, from), last)
			}
			if f.Names()[0] == directorFlag.Name {
				director = words[i]
			}
		default:
			if c := find(commands, w); c != nil && len(rest) == 0 {
				path = append(path, c.Name)
				commands, flags = c.Subcommands, c.Flags
				continue
			}
			rest = append(rest, w)
		}
	}
	if d, ok := from.(*asked); ok && director != "" {
		d.where = director
	}
	if !only && strings.HasPrefix(last, "-") {
		if name, value, ok := strings.Cut(last, "="); ok {
			var out []candidate
			if f := option(flags, name); f != nil && takesValue(f) {
				for _, c := range matching(values(f, path, from), value) {
					out = append(out, candidate{name + "=" + c.word, c.help})
				}
			}
			return out
		}
		return matching(optionNames(flags), last)
	}
	if len(commands) > 0 && len(rest) == 0 {
		var out []candidate
		for _, c := range commands {
			if !c.Hidden {
				out = append(out, candidate{c.Name, c.Usage})
			}
		}
		return matching(out, last)
	}
	return matching(arguments(path, rest, from), last)
}

func matching(list []candidate, prefix string) []candidate {
	if len(list) == 1 && list[0] == files[0] {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(c candidate) bool { return !strings.HasPrefix(c.word, prefix) })
}

func optionNames(flags []cli.Flag) []candidate {
	out := []candidate{{"--help", "show help"}}
	for _, f := range flags {
		help := ""
		if d, ok := f.(cli.DocGenerationFlag); ok {
			help = strings.ReplaceAll(d.GetUsage(), "`", "")
		}
		for _, n := range f.Names() {
			if len(n) > 1 {
				out = append(out, candidate{"--" + n, help})
				break
			}
		}
	}
	return out
}

// values are what may stand behind an option.
func values(f cli.Flag, path []string, from source) []candidate {
	switch name := f.Names()[0]; name {
	case "scheduler":
		return plain(spec.Schedulers...)
	case "sched-flags":
		return plain("sh-fallback", "sh-port", "mh-fallback", "mh-port", "flag-1", "flag-2", "flag-3", "none")
	case "tun-type":
		return plain("ipip", "gue", "gre")
	case "sort":
		return plain("name", "connections", "packets", "bytes", "active")
	case "output":
		if d, ok := f.(cli.DocGenerationFlag); ok {
			_, list, _ := strings.Cut(strings.ReplaceAll(d.GetUsage(), " or ", ", "), ": ")
			return plain(strings.Split(list, ", ")...)
		}
	case "tcp-service", "udp-service", "sctp-service":
		var out []candidate
		for _, s := range from.services() {
			if protocol, addr, _ := strings.Cut(s.Service, " "); strings.EqualFold(protocol+"-service", name) {
				out = append(out, candidate{addr, s.Name})
			}
		}
		return out
	case "fwmark-service":
		var out []candidate
		for _, s := range from.services() {
			if mark, ok := strings.CutPrefix(s.Service, "FWM "); ok {
				mark, _, _ = strings.Cut(mark, " ")
				out = append(out, candidate{mark, s.Name})
			}
		}
		return out
	case "real-server":
		return servers(from.services(), true)
	case "if-version":
		return versions(from)
	case "file", "director", "state-dir", "config":
		return files
	}
	return nil
}

func plain(words ...string) []candidate {
	out := make([]candidate, len(words))
	for i, w := range words {
		out[i].word = w
	}
	return out
}

func versions(from source) []candidate {
	var out []candidate
	for _, e := range from.versions() {
		out = append(out, candidate{e.Version, strings.TrimSpace(e.When.Format(time.DateTime) + " " + e.What)})
	}
	return out
}

func services(list []api.Service) []candidate {
	var out []candidate
	for _, s := range list {
		out = append(out, candidate{s.Name, s.Service + ", " + s.State})
	}
	return out
}

// servers lists each real server once, by its address or by its name.
func servers(list []api.Service, addresses bool) []candidate {
	var out []candidate
	for _, s := range list {
		for _, d := range s.Servers {
			c := candidate{d.Name, d.Server + ", " + d.State}
			if addresses {
				c = candidate{d.Server, d.Name + ", " + d.State}
			}
			if !slices.ContainsFunc(out, func(o candidate) bool { return o.word == c.word }) {
				out = append(out, c)
			}
		}
	}
	return out
}

// arguments are what may stand behind a command and the arguments that it has already.
func arguments(path, rest []string, from source) []candidate {
	n := len(rest)
	switch strings.Join(path, " ") {
	case "service edit", "service delete", "service show", "zero":
		if n == 0 {
			return services(from.services())
		}
	case "service list":
		return services(from.services())
	case "server add":
		if n == 0 {
			return services(from.services())
		}
	case "server edit", "server delete", "server drain", "server undrain":
		list := from.services()
		if n == 0 {
			return append(services(list), servers(list, false)...)
		}
		if i := slices.IndexFunc(list, func(s api.Service) bool { return isService(&s, rest[0]) }); n == 1 && i >= 0 {
			return servers(list[i:i+1], false)
		}
	case "explain":
		if n == 0 {
			list := from.services()
			return append(services(list), servers(list, false)...)
		}
	case "promote":
		var out []candidate
		for _, m := range from.members() {
			if n == 0 && m.Role == "director" {
				out = append(out, candidate{m.Name, m.State})
			}
		}
		return out
	case "history", "rollback":
		if n == 0 {
			return versions(from)
		}
	case "maintenance":
		if n == 0 {
			return plain("on", "off")
		}
	case "completion":
		if n == 0 {
			return plain(shells...)
		}
	case "restore", "diff", "lab run", "lab check", "lab faults", "keys generate":
		return files
	}
	return nil
}

// asked asks a director for the names, once for each kind. What is not answered in time is left out.
type asked struct {
	ctx   context.Context
	where string
}

func ask1[T any](a *asked, path string) (out T) {
	d, err := api.NewClient(a.where)
	if err == nil {
		_ = d.Do(a.ctx, "GET", path, nil, &out) // the shell has no place for complaints
	}
	return out
}

func (a *asked) services() []api.Service { return ask1[api.Services](a, "/v1/services").Services }
func (a *asked) members() []api.Member   { return ask1[api.Cluster](a, "/v1/cluster").Members }
func (a *asked) versions() []api.Entry   { return ask1[[]api.Entry](a, "/v1/history") }

var shells = []string{"bash", "zsh", "fish"}

func completionCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name: "completion", Usage: "print a script by which a shell completes the command lines of drover",
			UsageText: "drover completion bash|zsh|fish",
			Description: "Names and addresses come from the director, if it answers within " + completeTimeout.String() + ".\n\n" +
				"   bash   drover completion bash > /etc/bash_completion.d/drover\n" +
				"   zsh    drover completion zsh > /usr/share/zsh/site-functions/_drover\n" +
				"   fish   drover completion fish > /etc/fish/completions/drover.fish",
			Action: func(c *cli.Context) error {
				if c.NArg() != 1 || !slices.Contains(shells, c.Args().First()) {
					return wrong(c, "for which shell? One of: %s", strings.Join(shells, ", "))
				}
				script, err := scripts.ReadFile("completion/drover." + c.Args().First())
				if err == nil {
					_, err = c.App.Writer.Write(script)
				}
				return err
			},
		},
		{
			// For the scripts: the shell, and the words up to the cursor; for bash the line up to the cursor.
			Name: "__complete", Hidden: true, SkipFlagParsing: true, HideHelp: true,
			Action: func(c *cli.Context) error {
				if c.NArg() < 1 {
					return nil
				}
				shell, list := c.Args().First(), c.Args().Tail()
				if shell == "bash" {
					list = split(strings.Join(list, " "))
					list = list[min(1, len(list)):]
				}
				ctx, cancel := context.WithTimeout(c.Context, completeTimeout)
				defer cancel()
				d := &asked{ctx: ctx, where: api.DefaultSocket}
				if v := os.Getenv(directorFlag.EnvVars[0]); v != "" {
					d.where = v
				}
				last := ""
				if len(list) > 0 {
					last = list[len(list)-1]
				}
				for _, k := range complete(c.App, list, d) {
					fmt.Fprintln(c.App.Writer, forShell(shell, k, last))
				}
				return nil
			},
		},
	}
}

// forShell writes a candidate as a shell's script wants it. bash takes a word apart at colons and equals signs, and
// completes what is behind the last.
func forShell(shell string, k candidate, last string) string {
	if k == files[0] {
		return k.word
	}
	help := strings.Join(strings.Fields(k.help), " ")
	switch shell {
	case "bash":
		cut := strings.LastIndexAny(last, ":=") + 1
		return strings.NewReplacer(" ", `\ `, "(", `\(`, ")", `\)`, "'", `\'`, "[", `\[`, "]", `\]`).Replace(k.word[min(cut, len(k.word)):])
	case "zsh":
		word := strings.ReplaceAll(k.word, ":", `\:`)
		if help == "" {
			return word
		}
		return word + ":" + help
	}
	if help == "" {
		return k.word
	}
	return k.word + "\t" + help
}

// split takes a line apart as a shell does; the last word may be unfinished.
func split(line string) []string {
	out := []string{""}
	var quote byte
	for i := 0; i < len(line); i++ {
		at := &out[len(out)-1]
		switch c := line[i]; {
		case quote == 0 && (c == ' ' || c == '\t'):
			if *at != "" || i > 0 && (line[i-1] == '"' || line[i-1] == '\'') {
				out = append(out, "")
			}
		case c == '\\' && quote != '\'' && i+1 < len(line):
			i++
			*at += line[i : i+1]
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		default:
			*at += line[i : i+1]
		}
	}
	return out
}

//go:embed completion
var scripts embed.FS
