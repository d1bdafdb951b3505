package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/internal/version"
)

// exitStatuses are those of all commands, for help and manual.
const exitStatuses = "0 if all is well; 1 if something failed, or drover diff found a difference; 2 if the command line or a file is\n" +
	"wrong; 3 if no director answers; 4 if somebody else has changed the specification meanwhile."

func manCommand() *cli.Command {
	return &cli.Command{
		Name: "man", Hidden: true, Usage: "write the manual pages", UsageText: "drover man DIR",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return wrong(c, "a folder is needed")
			}
			dir := c.Args().First()
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			for name, text := range manPages(c.App) {
				if err := renameio.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// manPages writes a page in man(7)'s macros for the program and each of its commands.
func manPages(app *cli.App) map[string]string {
	out := make(map[string]string)
	var p page
	p.title("drover", app.Usage)
	p.section("SYNOPSIS")
	p.text("\\fBdrover\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]")
	p.section("DESCRIPTION")
	p.text(escape("Options may stand behind other arguments; what follows -- is none. Short options may stand together. Commands that ask a director ask the one of this host, unless --director or DROVER_DIRECTOR names another socket."))
	p.section("COMMANDS")
	for _, c := range app.Commands {
		if c.Hidden {
			continue
		}
		p.item("drover-"+c.Name+"(1)", c.Usage)
		out["drover-"+c.Name+".1"] = commandPage(c)
	}
	p.section("EXIT STATUS")
	p.text(escape(exitStatuses))
	p.section("ENVIRONMENT")
	p.item("DROVER_DIRECTOR", "the director to ask, if --director does not name one")
	p.item("NO_COLOR", "if set, nothing is coloured; otherwise states are, on a terminal")
	p.section("SEE ALSO")
	p.text("\\fBipvsadm\\fR(8), \\fBkeepalived\\fR(8)")
	out["drover.1"] = p.b.String()
	return out
}

func commandPage(c *cli.Command) string {
	var p page
	p.title("drover-"+c.Name, c.Usage)
	p.command(c, "drover "+c.Name)
	for _, sub := range c.Subcommands {
		if !sub.Hidden {
			p.section(strings.ToUpper("drover " + c.Name + " " + sub.Name))
			p.text(escape(sub.Usage + "."))
			p.command(sub, "")
		}
	}
	p.section("EXIT STATUS")
	p.text(escape(exitStatuses))
	p.section("SEE ALSO")
	p.text("\\fBdrover\\fR(1)")
	return p.b.String()
}

// page is a manual page that is being written.
type page struct{ b strings.Builder }

func (p *page) title(name, usage string) {
	fmt.Fprintf(&p.b, ".TH %s 1 \"\" \"drover %s\"\n.SH NAME\n%s \\- %s\n", strings.ToUpper(escape(name)), escape(version.Version), escape(name), escape(usage))
}

func (p *page) section(name string) { fmt.Fprintf(&p.b, ".SH %s\n", escape(name)) }

// text writes paragraphs; lines that are indented stay as they are.
func (p *page) text(s string) {
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

func (p *page) item(name, text string) {
	fmt.Fprintf(&p.b, ".TP\n\\fB%s\\fR\n%s\n", escape(name), escape(text))
}

// command writes what there is to know of a command; with a synopsis section if name is not empty.
func (p *page) command(c *cli.Command, name string) {
	usage := c.UsageText
	if usage == "" && name != "" && len(c.Subcommands) > 0 {
		usage = name + " COMMAND"
	} else if usage == "" {
		usage = strings.TrimSpace(name + " [options]")
	}
	if name != "" {
		p.section("SYNOPSIS")
	} else {
		p.b.WriteString(".PP\n")
	}
	p.b.WriteString(".nf\n")
	for line := range strings.SplitSeq(usage, "\n") {
		fmt.Fprintf(&p.b, "\\fB%s\\fR\n", escape(strings.TrimSpace(line)))
	}
	p.b.WriteString(".fi\n")
	if c.Description != "" {
		if name != "" {
			p.section("DESCRIPTION")
		} else {
			p.b.WriteString(".PP\n")
		}
		p.text(escape(c.Description))
	}
	if len(c.Flags) > 0 && name != "" {
		p.section("OPTIONS")
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
		p.item(text, help)
	}
}

// escape keeps text from being read as requests and escapes of roff, and hyphens as they are.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
