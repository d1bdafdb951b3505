// Package manpage writes manual pages in the macros of man(7), from what the programs say in their help.
package manpage

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/internal/version"
)

// Page is a manual page that is being written. Its zero value is an empty one.
type Page struct{ b strings.Builder }

// String is the page as far as it is.
func (p *Page) String() string { return p.b.String() }

// Title begins the page of a program, in a section of the manual: 1 for commands, 8 for daemons. usage is a few words.
func (p *Page) Title(name string, section int, usage string) {
	fmt.Fprintf(&p.b, ".TH %s %d \"\" \"drover %s\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(Escape(name)), section, Escape(version.Version), Escape(name), Escape(usage))
}

// Section begins a section.
func (p *Page) Section(name string) { fmt.Fprintf(&p.b, ".SH %s\n", Escape(name)) }

// Text writes paragraphs, which are roff: see [Escape]. Those that are indented stay as they are.
func (p *Page) Text(s string) {
	for i, par := range strings.Split(s, "\n\n") {
		if i > 0 {
			p.b.WriteString(".PP\n")
		}
		if strings.HasPrefix(par, " ") {
			p.b.WriteString(".nf\n" + par + "\n.fi\n")
			continue
		}
		p.b.WriteString(strings.TrimSpace(par) + "\n")
	}
}

// Item writes an item of a list with its text.
func (p *Page) Item(name, text string) {
	fmt.Fprintf(&p.b, ".TP\n\\fB%s\\fR\n%s\n", Escape(name), Escape(text))
}

// Command writes what there is to know of a command; with sections for it if name, which is that of the command line, is not empty.
func (p *Page) Command(c *cli.Command, name string) {
	usage := c.UsageText
	if usage == "" && name != "" && len(c.Subcommands) > 0 {
		usage = name + " COMMAND"
	} else if usage == "" {
		usage = strings.TrimSpace(name + " [options]")
	}
	if name != "" {
		p.Section("SYNOPSIS")
	} else {
		p.b.WriteString(".PP\n")
	}
	p.b.WriteString(".nf\n")
	for line := range strings.SplitSeq(usage, "\n") {
		fmt.Fprintf(&p.b, "\\fB%s\\fR\n", Escape(strings.TrimSpace(line)))
	}
	p.b.WriteString(".fi\n")
	if c.Description != "" {
		if name != "" {
			p.Section("DESCRIPTION")
		} else {
			p.b.WriteString(".PP\n")
		}
		p.Text(Escape(c.Description))
	}
	if len(c.Flags) > 0 && name != "" {
		p.Section("OPTIONS")
	}
	for _, f := range c.Flags {
		d, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		help, value := d.GetUsage(), ""
		if a, rest, ok := strings.Cut(help, "`"); ok {
			value, rest, _ = strings.Cut(rest, "`")
			help = a + value + rest
		} else if d.TakesValue() {
			value = "VALUE"
		}
		var names []string
		for _, n := range f.Names() {
			dash := "--"
			if len(n) == 1 {
				dash = "-"
			}
			names = append(names, dash+n)
		}
		text := strings.Join(names, ", ")
		if value != "" {
			text += " " + value
		}
		if def := d.GetDefaultText(); d.TakesValue() && def != "" && def != `""` && def != "0" {
			help += " (default: " + strings.Trim(def, `"`) + ")"
		}
		p.Item(text, help)
	}
}

// Escape keeps text from being read as requests and escapes of roff, and hyphens as they are.
func Escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

// Daemon is what a daemon's page says that its help does not.
type Daemon struct {
	Files   [][2]string // paths, and what they are
	SeeAlso string
}

// Daemon returns the page of a daemon with these options. All daemons end in the same way.
func (d Daemon) Page(a *cli.App) string {
	var p Page
	p.Title(a.Name, 8, a.Usage)
	p.Command(&cli.Command{UsageText: a.UsageText, Description: a.Description, Flags: a.Flags}, a.Name)
	p.Section("SIGNALS")
	p.Item("SIGHUP", "reads the configuration again; a file that is wrong is told of in the log and changes nothing")
	p.Item("SIGTERM, SIGINT", "stop in good order; a second one ends at once, and the next start takes over what is left behind")
	p.Section("FILES")
	for _, f := range d.Files {
		p.Item(f[0], f[1])
	}
	p.Section("EXIT STATUS")
	p.Text("0 if it was stopped, or the file is good; 1 if it failed; 2 if the command line or the file is wrong.")
	p.Section("SEE ALSO")
	p.Text(d.SeeAlso)
	return p.String()
}
