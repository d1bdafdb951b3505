package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
)

type known struct{}

func (known) services() []api.Service {
	return []api.Service{
		{Name: "web", Service: "TCP 192.0.2.10:80", State: api.In, Servers: []api.Server{{Name: "a b", Server: "10.0.0.11:80"}, {Name: "c", Server: "10.0.0.12:80"}}},
		{Name: "dns", Service: "UDP 192.0.2.10:53", State: api.In, Servers: []api.Server{{Name: "c", Server: "10.0.0.12:53"}}},
		{Name: "mark", Service: "FWM 7 IPv6"},
	}
}
func (known) members() []api.Member {
	return []api.Member{{Name: "d1", Role: "director"}, {Name: "r1", Role: "realserver"}}
}
func (known) versions() []api.Entry { return []api.Entry{{Version: "7.3"}, {Version: "7.2"}} }

func TestComplete(t *testing.T) {
	app := &cli.App{Name: "drover", Commands: commands()}
	var all []string
	for _, c := range app.Commands {
		if !c.Hidden {
			all = append(all, c.Name)
		}
	}
	for line, want := range map[string]string{
		"":                              strings.Join(all, " "),
		"ser":                           "service server",
		"service ":                      "add edit delete list show",
		"svc e":                         "edit",
		"nope ":                         "",
		"service edit ":                 "web dns mark",
		"service edit web ":             "",
		"service edit -s":               "",
		"service edit --s":              "--sctp-service --scheduler --sched-flags",
		"service edit web --scheduler=": "--scheduler=rr --scheduler=wrr --scheduler=lc --scheduler=wlc --scheduler=lblc --scheduler=lblcr --scheduler=dh --scheduler=sh --scheduler=sed --scheduler=nq --scheduler=fo --scheduler=ovf --scheduler=mh --scheduler=twos",
		"service edit -s w":             "wrr wlc",
		"service edit -os w":            "wrr wlc",
		"service edit -p w":             "web", // a value of -p is a number
		"service edit -t ":              "192.0.2.10:80",
		"service edit -u 192":           "192.0.2.10:53",
		"service edit -f ":              "7",
		"service edit -- --":            "",
		"service list web ":             "web dns mark",
		"server add w":                  "web",
		"server drain ":                 "web dns mark a b c",
		"server drain dns ":             "c",
		"server drain web c ":           "",
		"server drain -r ":              "10.0.0.11:80 10.0.0.12:80 10.0.0.12:53",
		"explain c":                     "c",
		"promote ":                      "d1",
		"promote d1 ":                   "",
		"rollback 7":                    "7.3 7.2",
		"apply -f ":                     ":files",
		"apply --if-version 7.2":        "7.2",
		"restore x":                     ":files",
		"maintenance ":                  "on off",
		"completion ":                   "bash zsh fish",
		"members -o ":                   "text wide name json yaml",
		"list -o ":                      "table json",
		"top --sort ":                   "name connections packets bytes active",
	} {
		var got []string
		for _, c := range complete(app, strings.Split(line, " "), known{}) {
			got = append(got, c.word)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: got %q, want %q", line, strings.Join(got, " "), want)
		}
	}
	if got := complete(app, nil, known{}); len(got) == 0 {
		t.Error("nothing for an empty line")
	}
}

func TestSplit(t *testing.T) {
	for line, want := range map[string][]string{
		"": {""}, "a": {"a"}, "a ": {"a", ""}, "  a  b": {"a", "b"}, `a\ b c`: {"a b", "c"}, `'a b' c`: {"a b", "c"}, `"a 'b" c`: {"a 'b", "c"}, `'' c`: {"", "c"}, `a 'b c`: {"a", "b c"}, `"a\"b"`: {`a"b`}, `a\`: {`a\`},
	} {
		if got := split(line); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestForShell(t *testing.T) {
	for _, tc := range []struct{ shell, word, help, last, want string }{
		{"bash", "10.0.0.11:80", "x", "10.0", "10.0.0.11:80"},
		{"bash", "10.0.0.11:80", "x", "10.0.0.11:", "80"},
		{"bash", "--sort=name", "", "--sort=n", "name"},
		{"bash", "a b", "", "", `a\ b`},
		{"zsh", "10.0.0.11:80", "web", "", `10.0.0.11\:80:web`},
		{"zsh", "web", "", "", "web"},
		{"fish", "web", "two\nlines", "", "web\ttwo lines"},
		{"zsh", ":files", "", "", ":files"},
	} {
		if got := forShell(tc.shell, candidate{tc.word, tc.help}, tc.last); got != tc.want {
			t.Errorf("%s %q: %q, want %q", tc.shell, tc.word, got, tc.want)
		}
	}
}

// A director that does not answer costs 300 ms, and one that is not there nothing.
func TestCompleteIsBoundedInTime(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	defer s.Close()
	for _, where := range []string{s.URL, "/nowhere/d.sock", "nonsense"} {
		t.Setenv("DROVER_DIRECTOR", where)
		began := time.Now()
		if status, out, errs := drover(t.Context(), "", "__complete", "fish", "explain", ""); status != 0 || out != "" || errs != "" {
			t.Errorf("%s: %d, %q, %q", where, status, out, errs)
		}
		if took := time.Since(began); took > completeTimeout+5*time.Second {
			t.Errorf("%s: took %s", where, took)
		}
	}
}

// The scripts, in the shells that there are.
func TestShells(t *testing.T) {
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(dir, "drover")); err != nil {
		t.Fatal(err)
	}
	g := newRegistry(t, site)
	g.services = someServices()
	for shell, command := range map[string]string{
		"bash": `. "$DIR/bash"; COMP_WORDS=(drover); COMP_LINE="drover explain we"; COMP_POINT=${#COMP_LINE}; _drover; printf '%s\n' "${COMPREPLY[@]}"`,
		"fish": `source "$DIR/fish"; complete -C "drover explain we" | cut -f1`,
		// Without a terminal zsh completes nothing: what its script asks, and that it can be read.
		"zsh": `autoload -Uz compinit; compinit -D -u; . "$DIR/zsh"; whence _drover >/dev/null && words=(drover explain we) CURRENT=3; _describe() { print -l ${out%%:*}; }; _drover`,
	} {
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed", shell)
			continue
		}
		status, script, _ := drover(t.Context(), "", "completion", shell)
		if err := os.WriteFile(filepath.Join(dir, shell), []byte(script), 0o644); status != 0 || err != nil {
			t.Fatal(status, err)
		}
		cmd := exec.CommandContext(t.Context(), path, "-c", command)
		cmd.Env = append(os.Environ(), "DIR="+dir, "HOME="+dir, "PATH="+dir+":"+os.Getenv("PATH"), "DROVER_TEST_MAIN=1")
		out, err := cmd.CombinedOutput()
		lines := strings.Fields(string(out))
		slices.Sort(lines)
		if strings.Join(lines, " ") != "web web5" {
			t.Errorf("%s: %v, %q", shell, err, out)
		}
	}
}
