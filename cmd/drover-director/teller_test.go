package main

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/notify"
	"github.com/drover-lb/drover/notify/sink"
)

// Whoever was active, just one of the directors that are there tells.
func TestWhoTells(t *testing.T) {
	view := func(active, claims string, live ...string) groupView {
		return groupView{active: active, claims: strings.Fields(claims), live: live}
	}
	for name, tc := range map[string]struct {
		before string
		now    groupView
		want   string
	}{
		"the active one is there": {"d1", view("d1", "d1", "d1", "d2", "d3"), ""}, // and has told, as the active one
		"it has handed over":      {"d1", view("d2", "d2", "d1", "d2", "d3"), ""},
		"it has left":             {"d1", view("d2", "d2", "d2", "d3"), ""},
		"it died":                 {"d1", view("d2", "d1 d2", "d1", "d2", "d3"), "d2"},
		"it died, long ago":       {"d1", view("d3", "d1 d3", "d2", "d3"), "d3"},
		"it died, and nobody can": {"d1", view("", "d1", "d2", "d3"), "d2"},
		"nobody was active":       {"", view("d3", "d3", "d1", "d2", "d3"), "d3"},
		"nobody is active":        {"", view("", "", "d3", "d2"), "d2"},
	} {
		var got []string
		for _, self := range tc.now.live {
			if self != tc.before && tells(self, tc.before, tc.now) {
				got = append(got, self)
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %v tell, want %s", name, got, tc.want)
		}
	}
	if !tells("d1", "d1", view("d1", "", "d1")) {
		t.Error("who became active at that moment does not tell")
	}
}

func TestWhatAllDirectorsSee(t *testing.T) {
	ev := newEvents(slog.New(slog.DiscardHandler))
	var got []string
	ev.told = func(_ slog.Level, x *api.Event) {
		if common(&notify.Event{Kind: x.Kind, Service: x.Service, Server: x.Server}) {
			got = append(got, x.Kind)
		}
	}
	ev.health(health.Event{Service: "web", Server: "web1", Bad: true})
	ev.health(health.Event{Service: "web", Server: "web1", Weight: true})
	ev.drained(controller.DrainEvent{Service: "web", Server: "web1"})
	ev.repaired("web1", api.Repair{What: "x"})
	ev.trouble(slog.LevelError, "ops", "x")
	for _, kind := range []string{sink.Role, sink.Tracker, sink.Conflict, sink.Gossip, sink.Spec, sink.Late} {
		ev.add(slog.LevelInfo, kind, "x")
	}
	if want := "health weights drain health gossip"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

func TestGroupOf(t *testing.T) {
	f, err := spec.Parse("f", []byte(`
director: {interface: eth0}
cluster: {name: d1, key_file: k, groups: [blue, green], voters: [{name: d1, address: 10.0.0.1}]}
vips: [{address: 192.0.2.1, group: green}, {address: 192.0.2.2, group: blue}]
services:
  - {name: web, address: 192.0.2.1, port: 80, real_servers: []}
  - {name: dns, address: 192.0.2.2, port: 53, real_servers: []}
  - {name: marked, fwmark: 7, real_servers: []}
  - {name: elsewhere, address: 192.0.2.9, port: 80, real_servers: []}
`))
	if err != nil {
		t.Fatal(err)
	}
	m := &member{opts: f.Cluster, base: f}
	for service, want := range map[string]string{"web": "green", "dns": "blue", "marked": "blue", "elsewhere": "blue", "gone": "blue"} {
		if got := m.groupOf(service); got != want {
			t.Errorf("%s: %s, want %s", service, got, want)
		}
	}
}

// alone is a director without a cluster that tells a webhook.
func alone(t *testing.T) (ev *events, told *teller, got chan map[string]string) {
	got = make(chan map[string]string, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		var e map[string]string
		if err := json.Unmarshal(b, &e); err != nil {
			t.Errorf("%s: %v", b, err)
		}
		got <- e
	}))
	ev = newEvents(slog.New(slog.DiscardHandler))
	told = newTeller(&spec.File{})
	var err error
	if told.notifier, err = notify.New(notify.Options{Tell: told.tell, Trouble: ev.trouble}); err != nil {
		t.Fatal(err)
	}
	ev.told = told.event
	told.notifier.Set([]sink.Sink{{Name: "ops", Events: sink.DefaultKinds(), Timeout: time.Minute, Webhook: &sink.Webhook{URL: srv.URL}},
		{Name: "broken", Events: []string{sink.Role}, Timeout: time.Minute, Script: &sink.Script{Command: []string{"/none/such"}, User: "nobody"}}})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = told.notifier.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		srv.Close()
	})
	return ev, told, got
}

func TestEventsAreTold(t *testing.T) {
	ev, told, got := alone(t)
	host, _ := os.Hostname()
	host, _, _ = strings.Cut(host, ".")
	ev.health(health.Event{Service: "web", Server: "web1", State: "up", Text: "is up", First: true}) // is no news
	ev.health(health.Event{Service: "web", Server: "web2", State: "down", Text: "is down: no answer", Bad: true, First: true})
	ev.health(health.Event{Service: "web", Text: "the sorry server answers", Bad: true})
	ev.add(slog.LevelInfo, "zero", "counters set back") // not asked for
	ev.drained(controller.DrainEvent{Service: "web", Server: "web1", State: "expired", Text: "web/web1: 3 connections left", Bad: true})
	ev.add(slog.LevelError, "reload", "line\nbreak")
	for _, want := range []map[string]string{
		{"kind": "health", "level": "warn", "service": "web", "server": "web2", "state": "down", "text": "web: web2 is down: no answer"},
		{"kind": "health", "level": "warn", "service": "web", "text": "web: the sorry server answers"},
		{"kind": "drain", "level": "warn", "service": "web", "server": "web1", "state": "expired", "text": "web/web1: 3 connections left"},
		{"kind": "reload", "level": "error", "text": "line break"},
	} {
		e := <-got
		if e["director"] != host || !strings.HasPrefix(e["id"], fmt.Sprintf("%s-%d-", host, told.start)) || e["time"] == "" {
			t.Errorf("%v", e)
		}
		for _, k := range []string{"director", "id", "time"} {
			delete(e, k)
		}
		if fmt.Sprint(e) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", e, want)
		}
	}
	if list := ev.after(t.Context(), 0); len(list) != 6 || list[1].Server != "web2" || list[1].Level != "warn" || list[4].State != "expired" {
		t.Errorf("the history has %+v", list)
	}
}

func TestSinksAreTested(t *testing.T) {
	ev, told, got := alone(t)
	h := handler(nil, nil, prometheus.NewRegistry(), &desk{events: ev, told: told})
	if status, answer := request(h, "POST", "/v1/notify/test", `{"sink":"nobody"}`); status != 404 || answer != `{"error":"there is no sink \"nobody\": the sinks are [ops broken]"}` {
		t.Errorf("%d %s", status, answer)
	}
	var list []api.SinkTested
	status, answer := request(h, "POST", "/v1/notify/test", `{"who":"me@here"}`)
	if err := json.Unmarshal([]byte(answer), &list); err != nil || status != 200 || len(list) != 2 || list[0].Error != "" || list[0].Kind != "webhook" || !strings.Contains(list[1].Error, "cannot be run") {
		t.Errorf("%d %s", status, answer)
	}
	if e := <-got; e["kind"] != "test" || e["text"] != "a test, asked for by me@here" || e["level"] != "info" {
		t.Errorf("%v", e)
	}
	ev.add(slog.LevelInfo, sink.Role, "active")
	<-got
	for { // the broken one is asked on its own time
		_, answer = request(h, "GET", "/v1/notify", "")
		var sinks []api.Sink
		if err := json.Unmarshal([]byte(answer), &sinks); err != nil || len(sinks) != 2 {
			t.Fatalf("%s, %v", answer, err)
		}
		if s := sinks[1]; s.Dropped == 1 && !s.Failing.IsZero() && sinks[0].Sent == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	var kinds []string
	for seq := uint64(0); len(kinds) < 2; { // the history hears of it right after the counters
		for _, e := range ev.after(t.Context(), seq) {
			kinds, seq = append(kinds, e.Kind+" "+e.Sink), e.Seq
		}
	}
	if !slices.Equal(kinds, []string{"role ", "notify broken"}) {
		t.Errorf("the history has %q", kinds)
	}
	told.notifier.Set(nil)
	if status, answer := request(h, "POST", "/v1/notify/test", `{}`); status != 404 || !strings.Contains(answer, "tells nobody") {
		t.Errorf("%d %s", status, answer)
	}
	if status, answer := request(h, "GET", "/v1/notify", ""); status != 200 || answer != "[]" {
		t.Errorf("%d %s", status, answer)
	}
}

// What is told is a kind that a file can name.
func TestKindsOfEvents(t *testing.T) {
	paths, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, path := range paths {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) < 3 {
				return true
			}
			if fun, ok := call.Fun.(*ast.SelectorExpr); !ok || fun.Sel.Name != "add" {
				return true
			}
			if lit, ok := call.Args[1].(*ast.BasicLit); ok {
				kind, _ := strconv.Unquote(lit.Value)
				seen[kind] = true
				if !slices.Contains(sink.Kinds, kind) {
					t.Errorf("%s: the kind %q is not in sink.Kinds", path, kind)
				}
			}
			return true
		})
	}
	if len(seen) < 10 {
		t.Errorf("found %v only", seen)
	}
	for _, k := range sink.Kinds {
		if !seen[k] && !slices.Contains([]string{sink.Role, sink.Health, sink.Drain, sink.Weights, sink.Reload, sink.Notify}, k) {
			t.Errorf("nothing is of the kind %s", k)
		}
	}
}

func TestCheckReadsTheFilesOfSinks(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	file("loose", "x", 0o644)
	file("good", "x", 0o600)
	for keys, want := range map[string]string{
		`webhook: "http://a/", secret_file: good`:                                 "",
		`webhook: "http://a/", secret_file: none`:                                 "warning: director: notify: webhook: open " + dir + "/none: no such file or directory",
		`webhook: "http://a/", secret_file: loose`:                                "director: notify: webhook: " + dir + "/loose: mode 0644 lets others read or write it, must be 0600 or 0400",
		`webhook: "https://a/", ca: good`:                                         "director: notify: webhook: " + dir + "/good: has no certificate in PEM",
		`mail: {smtp_server: a, email_from: a@b, email_to: a@b, auth_file: good}`: "director: notify: mail: " + dir + "/good: the first line is not USER:PASSWORD",
	} {
		path := file("director.yaml", "director: {notify: [{"+keys+"}]}\nvips: []\nservices: []\n", 0o600)
		_, warnings, err := describe(path)
		got := ""
		switch {
		case err != nil:
			got = strings.TrimPrefix(err.Error(), path+": ")
		case len(warnings) > 0:
			got = "warning: " + strings.TrimPrefix(warnings.Error(), path+":1:1: ")
		}
		if got != want {
			t.Errorf("%s\n got %s\nwant %s", keys, got, want)
		}
	}
}
