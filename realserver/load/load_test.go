package load

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/conf"
)

func read(t *testing.T, in string) (*Config, error) {
	t.Helper()
	var raw struct {
		Load conf.At[Raw] `yaml:"load"`
	}
	r, err := conf.Parse("f.yaml", []byte(in), &raw)
	if err != nil {
		return nil, err
	}
	c := Read(r, raw.Load)
	if err := r.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

func TestRead(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"", "<nil>"},
		{"load: cpu", "&{Source:cpu Command:[] User: URL: Field: Full:1 Interval:1s Timeout:1s}"},
		{"load: {interval: 2s}", "&{Source:cpu Command:[] User: URL: Field: Full:1 Interval:2s Timeout:2s}"},
		{"load: run_queue", "&{Source:run_queue Command:[] User: URL: Field: Full:1 Interval:1s Timeout:1s}"},
		{"load: {script: [/bin/load, -x], full: 50, timeout: 200ms}", "&{Source:script Command:[/bin/load -x] User:nobody URL: Field: Full:50 Interval:1s Timeout:200ms}"},
		{"load: {http: 'http://127.0.0.1/x', field: a.b}", "&{Source:http Command:[] User: URL:http://127.0.0.1/x Field:a.b Full:1 Interval:1s Timeout:1s}"},
		{"load: memory", `f.yaml:1:7: load: source: "memory" is not one of: cpu, pressure, run_queue`},
		{"load: {script: [load]}", `f.yaml:1:17: load: script: "load" is not an absolute path`},
		{"load: {script: [/a], http: 'http://b'}", "f.yaml:1:28: load: http: cannot stand beside script: the load comes from one of them"},
		{"load: {source: cpu, http: 'http://b'}", "f.yaml:1:16: load: source: cannot stand beside script or http: the load comes from one of them"},
		{"load: {http: b}", `f.yaml:1:14: load: http: "b" is not an address such as http://127.0.0.1:8080/load`},
		{"load: {http: 'ftp://b'}", `f.yaml:1:14: load: http: "ftp://b" is not an address such as http://127.0.0.1:8080/load`},
		{"load: {full: 2}", "f.yaml:1:14: load: full: is for script and http, not cpu"},
		{"load: {source: cpu, user: root}", "f.yaml:1:27: load: user: is for script, not cpu"},
		{"load: {script: [/a], field: b}", "f.yaml:1:29: load: field: is for http, not script"},
		{"load: {script: [/a], full: 0}", "f.yaml:1:28: load: full: 0 cannot be what means fully used: must be above 0"},
		{"load: {interval: 100ms}", "f.yaml:1:18: load: interval: 100ms is out of range: must be between 500ms and 10s"},
		{"load: {script: [/a], timeout: 2s}", "f.yaml:1:31: load: timeout: 2s is out of range: must be between 10ms and 1s"},
		{"load: {scripts: [/a]}", `f.yaml:1:8: load: unknown field "scripts": expected one of: source, script, user, http, field, full, interval, timeout`},
	} {
		got, err := read(t, c.in)
		text := fmt.Sprintf("%+v", got)
		if err != nil {
			text = err.Error()
		}
		if text != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.in, text, c.want)
		}
	}
}

const statFile = `cpu  %d 0 100 %d 0 0 0 0 0 0
cpu0 1 2 3 4 5
cpu1 1 2 3 4 5
intr 1 2 3
procs_running %d
`

// host is a directory that stands for /proc.
type host struct {
	dir string
	t   *testing.T
}

func (h *host) write(name, text string) {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

func TestKernel(t *testing.T) {
	at := func(s float64) time.Time { return time.Unix(1000, 0).Add(time.Duration(s * float64(time.Second))) }
	for _, source := range []Source{CPU, Pressure, RunQueue} {
		h := &host{t.TempDir(), t}
		m := &Meter{c: &Config{Source: source, Interval: time.Second, Timeout: time.Second, Full: 1}, proc: h.dir}
		var out []string
		measure := func(s float64) {
			n, err := m.Measure(t.Context(), at(s))
			switch {
			case errors.Is(err, ErrSoon):
				out = append(out, "soon")
			case err != nil:
				out = append(out, "error")
			default:
				out = append(out, fmt.Sprintf("%.2f", n))
			}
		}
		measure(0) // nothing is there
		h.write("stat", fmt.Sprintf(statFile, 100, 1000, 1))
		h.write("pressure/cpu", "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\nfull avg10=0.00 total=0\n")
		measure(1) // the first
		measure(1.01)
		h.write("stat", fmt.Sprintf(statFile, 150, 1150, 3)) // 50 of 200 ticks used, two tasks beside this one
		h.write("pressure/cpu", "some avg10=0.00 total=5250000\n")
		measure(2) // a quarter of a second waited
		h.write("stat", fmt.Sprintf(statFile, 350, 1150, 7))
		h.write("pressure/cpu", "some avg10=0.00 total=8000000\n")
		measure(3) // all used; more waiting than time: at most 1
		h.write("stat", fmt.Sprintf(statFile, 350, 1140, 7))
		measure(4) // the times went back
		if err := os.RemoveAll(filepath.Join(h.dir, "pressure")); err != nil {
			t.Fatal(err)
		}
		h.write("stat", fmt.Sprintf(statFile, 450, 1240, 4)) // half used, three tasks for two processors
		measure(5)
		want := map[Source]string{
			CPU:      "error soon soon 0.50 2.00 soon 1.00",
			Pressure: "error soon soon 0.25 1.00 0.00 error",
			RunQueue: "error soon soon 1.00 3.00 3.00 1.50",
		}[source]
		if got := strings.Join(out, " "); got != want {
			t.Errorf("%s\n got %s\nwant %s", source, got, want)
		}
	}
}

// On this host, whatever it has, there is a load.
func TestRealHost(t *testing.T) {
	for _, source := range []Source{CPU, RunQueue} {
		m := New(&Config{Source: source, Interval: time.Second, Timeout: time.Second, Full: 1})
		n, err := m.Measure(t.Context(), time.Now().Add(time.Second))
		if errors.Is(err, ErrSoon) { // no tick has passed
			continue
		}
		if err != nil || n < 0 || n > 1000 {
			t.Errorf("%s: %v, %v", source, n, err)
		}
	}
}

func TestScript(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ script, want string }{
		{"echo 25", "0.5"},
		{"echo ' 5.5 '; echo more", "0.11"},
		{"echo 1e400", `"1e400" is not a number from 0 on`},
		{"echo NaN", `"NaN" is not a number from 0 on`},
		{"echo -1", `"-1" is not a number from 0 on`},
		{"true", `"" is not a number from 0 on`},
		{"echo no; exit 3", "the script ended with exit status 3: no"},
		{"echo 1; sleep 60 & wait", "no answer within 300ms"},
	} {
		m := New(&Config{Source: Script, Command: []string{"/bin/sh", "-c", c.script}, User: me.Username, Full: 50, Interval: time.Second, Timeout: 5 * time.Second})
		if strings.Contains(c.script, "sleep") {
			m.c.Timeout = 300 * time.Millisecond
		}
		n, err := m.Measure(t.Context(), time.Now())
		got := fmt.Sprint(n)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.script, got, c.want)
		}
	}
	m := New(&Config{Source: Script, Command: []string{"/nonexistent"}, User: "nobody-of-that-name", Full: 1, Timeout: time.Second})
	if _, err := m.Measure(t.Context(), time.Now()); err == nil {
		t.Error("an unknown user may run it")
	}
}

func TestPage(t *testing.T) {
	answer, status := "", http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status == 0 {
			<-r.Context().Done()
			return
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(answer))
	}))
	defer srv.Close()
	for _, c := range []struct {
		answer, field string
		status        int
		want          string
	}{
		{"0.75\n", "", 200, "0.75"},
		{`{"queue": {"length": 3}}`, "queue.length", 200, "3"},
		{`{"queue": {"length": "3.5"}}`, "queue.length", 200, "3.5"},
		{`{"queue": 3}`, "queue.length", 200, `it has no field "queue.length"`},
		{`{"queue": null}`, "queue", 200, `the field "queue" is not a number`},
		{`{"queue": -3}`, "queue", 200, `the field "queue" is -3, and not a number from 0 on`},
		{"1", "", 503, "the page has status 503"},
		{"1", "", 302, "the page has status 302"},
		{"", "", 0, "no answer within 100ms"},
	} {
		answer, status = c.answer, c.status
		m := New(&Config{Source: HTTP, URL: srv.URL, Field: c.field, Full: 1, Interval: time.Second, Timeout: 100 * time.Millisecond})
		n, err := m.Measure(context.Background(), time.Now())
		m.Close()
		got := fmt.Sprint(n)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%d %s %s: %s, want %s", c.status, c.answer, c.field, got, c.want)
		}
	}
}

// Whatever others print, a load is a finite number from 0 on.
func FuzzForeign(f *testing.F) {
	f.Add("0.5\n", "a.b")
	f.Add(`{"a":{"b":1e300}}`, "a.b")
	f.Add(`{"a":["1"]}`, "a")
	f.Add("0x1p-2", "")
	f.Add("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1\nprocs_running 3\n", "some")
	f.Add("some avg10=0.00 total=5\n", "")
	f.Fuzz(func(t *testing.T, text, path string) {
		for _, parse := range []func() (float64, error){
			func() (float64, error) { return parseNumber(text) },
			func() (float64, error) { return parseField([]byte(text), path) },
		} {
			if n, err := parse(); err == nil && !(n >= 0 && n <= math.MaxFloat64) {
				t.Errorf("%q gives %v", text, n)
			}
		}
		if s, err := parseStat([]byte(text)); err == nil && (s.cpus < 1 || s.running < 0) {
			t.Errorf("%q gives %+v", text, s)
		}
		_, _ = parsePressure([]byte(text))
	})
}
