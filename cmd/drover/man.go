package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/manpage"
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
	var p manpage.Page
	p.Title("drover", 1, app.Usage)
	p.Section("SYNOPSIS")
	p.Text("\\fBdrover\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]")
	p.Section("DESCRIPTION")
	p.Text(manpage.Escape("Options may stand behind other arguments; what follows -- is none. Short options may stand together. Commands that ask a director ask the one of this host, unless --director or DROVER_DIRECTOR names another socket."))
	p.Section("COMMANDS")
	for _, c := range app.Commands {
		if c.Hidden {
			continue
		}
		p.Item("drover-"+c.Name+"(1)", c.Usage)
		out["drover-"+c.Name+".1"] = commandPage(c)
	}
	p.Section("EXIT STATUS")
	p.Text(manpage.Escape(exitStatuses))
	p.Section("ENVIRONMENT")
	p.Item("DROVER_DIRECTOR", "the director to ask, if --director does not name one")
	p.Item("NO_COLOR", "if set, nothing is coloured; otherwise states are, on a terminal")
	p.Section("SEE ALSO")
	p.Text("\\fBdrover\\-director\\fR(8), \\fBdrover\\-realserver\\fR(8), \\fBipvsadm\\fR(8), \\fBkeepalived\\fR(8)")
	out["drover.1"] = p.String()
	return out
}

func commandPage(c *cli.Command) string {
	var p manpage.Page
	p.Title("drover-"+c.Name, 1, c.Usage)
	p.Command(c, "drover "+c.Name)
	for _, sub := range c.Subcommands {
		if !sub.Hidden {
			p.Section(strings.ToUpper("drover " + c.Name + " " + sub.Name))
			p.Text(manpage.Escape(sub.Usage + "."))
			p.Command(sub, "")
		}
	}
	p.Section("EXIT STATUS")
	p.Text(manpage.Escape(exitStatuses))
	p.Section("SEE ALSO")
	p.Text("\\fBdrover\\fR(1)")
	return p.String()
}
