package main

import (
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/ipvs/ipvsadm/dropin"
)

// ipvsadmArgs says whether the program is to be ipvsadm, ipvsadm-save or ipvsadm-restore: by the name of a
// link to it, or as `drover ipvsadm`. The arguments begin with the name that messages have.
func ipvsadmArgs(args []string) (name string, rest []string, ok bool) {
	if len(args) == 0 {
		return "", nil, false
	}
	switch name = filepath.Base(args[0]); name {
	case "ipvsadm", "ipvsadm-save", "ipvsadm-restore":
		return name, args, true
	}
	if len(args) > 1 && args[1] == "ipvsadm" {
		return "ipvsadm", append([]string{args[0] + " ipvsadm"}, args[2:]...), true
	}
	return "", nil, false
}

// ipvsadmCommand shows the command in the help; main runs it, before the library for command lines is
// set up: that of ipvsadm has another grammar.
func ipvsadmCommand() *cli.Command {
	return &cli.Command{
		Name:  "ipvsadm",
		Usage: "everything that ipvsadm 1.31 does, with its command line; also by a link of that name",
		Description: "Takes the options of ipvsadm and acts on the IPVS table of this network namespace. Links to drover\n" +
			"named ipvsadm, ipvsadm-save and ipvsadm-restore do what those do, and so do links to drover-ipvsadm, which is this\n" +
			"command alone and starts in half the time. `drover ipvsadm -h` lists the options.",
		SkipFlagParsing: true,
		HideHelpCommand: true,
		Action: func(c *cli.Context) error {
			args := append([]string{"drover ipvsadm"}, c.Args().Slice()...)
			if status := dropin.Run(args, c.App.Reader, c.App.Writer, c.App.ErrWriter); status != 0 {
				return cli.Exit("", status)
			}
			return nil
		},
	}
}
