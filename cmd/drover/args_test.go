package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestArrange(t *testing.T) {
	app := &cli.App{Name: "drover", Commands: []*cli.Command{
		listCommand(), labCommand(), serviceCommand(), serverCommand(),
		{Name: "promote", Flags: []cli.Flag{directorFlag, groupFlag, &cli.BoolFlag{Name: "force"}}},
		{Name: "raw", SkipFlagParsing: true},
	}}
	for in, want := range map[string]string{
		"":                             "",
		"promote web":                  "promote web",
		"promote web --force":          "promote --force web",
		"promote web -g a --force":     "promote -g a --force web",
		"promote web --group=a b":      "promote --group=a web b",
		"promote -- web --force":       "promote -- web --force",
		"promote web -- --force":       "promote -- web --force",
		"promote web --nope x":         "promote --nope web x",
		"promote web -g":               "promote -g web", // the parser says that the value is missing
		"promote -":                    "promote -",
		"promote web -h":               "promote -h web",
		"list -nc":                     "list -n -c",
		"list -nz":                     "list -nz",
		"list --exact -nco json":       "list --exact -n -c -o json",
		"list -no=json":                "list -n -o=json",
		"list -on json":                "list -on json", // only the last may have a value
		"raw -a b --c":                 "raw -a b --c",
		"lab on host ls -l":            "lab on host ls -l",
		"lab exec --memory 9 -- x -y":  "lab exec --memory 9 -- x -y",
		"lab run x --kernel uml":       "lab run --kernel uml x",
		"svc edit web -p":              "svc edit -p=300 web",
		"svc edit -p 60 web":           "svc edit -p=60 web",
		"svc edit -p web -s rr":        "svc edit -p=300 -s rr web",
		"svc edit --persistent=9 web":  "svc edit --persistent=9 web",
		"svc add -t 1.2.3.4:80 -ps rr": "svc add -t 1.2.3.4:80 -ps rr",
		"svc add -t 1.2.3.4:80 -op 5":  "svc add -t 1.2.3.4:80 -o -p=5",
		"server edit -w -1 web a":      "server edit -w -1 web a",
		"server -x drain":              "server -x drain",
		"--director x promote web":     "promote --director x web",
		"--director=x svc edit web":    "svc edit --director=x web",
		"svc --director x edit -p":     "svc edit -p=300 --director x",
		"--director x promote -- -y":   "promote --director x -- -y",
		"nope --x y":                   "--x nope y",
	} {
		got := arrange(app, append([]string{"drover"}, strings.Fields(in)...))
		if strings.Join(got[1:], " ") != want {
			t.Errorf("%q: got %q, want %q", in, strings.Join(got[1:], " "), want)
		}
		if again := arrange(app, slices.Clone(got)); !slices.Equal(again, got) {
			t.Errorf("%q: arranged again it is %q, not %q", in, again, got)
		}
	}
	if got := arrange(app, nil); got != nil {
		t.Errorf("%q", got)
	}
}

// Whatever is typed: nothing is lost and nothing is made up, beside the default of an option.
func FuzzArrange(f *testing.F) {
	app := &cli.App{Commands: []*cli.Command{serviceCommand(), labCommand(), listCommand()}}
	f.Add("service add -t 1.2.3.4:80 web -p -x -- -y")
	f.Add("lab on host ls -l --")
	f.Fuzz(func(t *testing.T, line string) {
		in := strings.Split(line, " ")
		letters := func(args []string) []byte {
			b := []byte(strings.ReplaceAll(strings.Join(args, ""), "-", ""))
			slices.Sort(b)
			return b
		}
		out := arrange(app, append([]string{"drover"}, in...))
		a, b := letters(in), letters(out[1:])
		b = []byte(strings.ReplaceAll(string(b), "=", ""))
		a = []byte(strings.ReplaceAll(string(a), "=", ""))
		if !bytes.Equal(a, b) && !strings.Contains(line, "-p") && !strings.Contains(line, "persistent") {
			t.Errorf("%q became %q", in, out)
		}
	})
}

func TestNearest(t *testing.T) {
	list := []string{"status", "members", "list", "promote"}
	for text, want := range map[string]string{"stauts": "status", "statu": "status", "lsit": "list", "member": "members", "x": "", "promotion": "promote", "": "", "apply": ""} {
		if got := nearest(text, list); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
