package notify

import (
	"encoding/json"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/notify/sink"
)

// shell makes a script, run as who runs the test.
func shell(t *testing.T, text string, args ...string) *script {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return &script{set: &sink.Script{Command: append([]string{"/bin/sh", "-c", text, "page"}, args...), User: me.Username}}
}

func TestScriptFindsTheEvent(t *testing.T) {
	dir := t.TempDir()
	e := event("web: web1 is \x00down; `id` $HOME")
	err := shell(t, `env >"$2/env"; cat >"$2/in"; echo "$1" >"$2/arg"; pwd >>"$2/arg"`, "--team lb", dir).send(t.Context(), []*Event{e})
	if err != nil {
		t.Fatal(err)
	}
	s := shell(t, "echo paged the night shift; echo more")
	if err := s.send(t.Context(), []*Event{e}); err != nil || s.said() != "paged the night shift" {
		t.Errorf("%v, it said %q", err, s.said())
	}
	read := func(name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	want := map[string]string{"ID": "d1-7-1", "TIME": "1970-01-01T00:00:01.000000002Z", "DIRECTOR": "d1", "CLUSTER": "lab", "KIND": "health", "LEVEL": "info",
		"TEXT": "web: web1 is down; `id` $HOME", "SERVICE": "web", "SERVER": "web1", "STATE": "down"}
	got := make(map[string]string)
	for line := range strings.Lines(read("env")) {
		if name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "="); strings.HasPrefix(name, "D") {
			got[name] = value
		}
	}
	if len(got) != len(want) {
		t.Errorf("variables %v", got)
	}
	for name, value := range want {
		if got["DROVER_EVENT_"+name] != value {
			t.Errorf("%s is %q, want %q", name, got["DROVER_EVENT_"+name], value)
		}
	}
	var in map[string]string
	if err := json.Unmarshal([]byte(read("in")), &in); err != nil || in["server"] != "web1" || !strings.HasSuffix(read("in"), "}\n") {
		t.Errorf("standard input %q, %v", read("in"), err)
	}
	if got := read("arg"); got != "--team lb\n/\n" {
		t.Errorf("argument and folder %q", got)
	}
}

func TestHowScriptsEnd(t *testing.T) {
	for want, s := range map[string]*script{
		"":                              shell(t, "exit 0"),
		"exit status 3":                 shell(t, "exit 3"),
		"exit status 1: no pager today": shell(t, "echo no pager today >&2; echo more; exit 1"),
		"signal: terminated":            shell(t, "kill $$"),
		`cannot be run as "nobody-here": user: unknown user nobody-here`:     {set: &sink.Script{Command: []string{"/bin/true"}, User: "nobody-here"}},
		"cannot be run: fork/exec /bin/none-such: no such file or directory": {set: &sink.Script{Command: []string{"/bin/none-such"}, User: shell(t, "").set.User}},
		"no answer after 200ms": shell(t, "sleep 60 & sleep 60"),
	} {
		begin := time.Now()
		timeout := 10 * time.Second
		if strings.HasPrefix(want, "no answer") {
			timeout = 200 * time.Millisecond
		}
		got := ""
		if err := try(t.Context(), timeout, s, []*Event{event(strings.Repeat("x", MaxText))}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("%s: it took %s", want, d)
		}
	}
}
