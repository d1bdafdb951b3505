package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/cluster/keyring"
	"github.com/drover-lb/drover/cmd/internal/api"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// drover runs the program, and returns its exit status and what it wrote.
func drover(ctx context.Context, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(ctx, append([]string{"drover"}, args...), strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

// director answers as a director would, in the order of the answers, and notes what it was asked.
type director struct {
	url   string
	asked []string
}

func newDirector(t *testing.T, status int, answers ...string) *director {
	d := new(director)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		d.asked = append(d.asked, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(b)))
		w.WriteHeader(status)
		io.WriteString(w, answers[min(len(d.asked), len(answers))-1])
	}))
	t.Cleanup(s.Close)
	d.url = s.URL
	return d
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s (-update rewrites it): got\n%s\nwant\n%s", path, got, want)
	}
}

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// aCluster has everything that a screen can show.
func aCluster() *api.Cluster {
	before := func(d time.Duration) time.Time { return now.Add(-d) }
	ip := netip.MustParseAddr
	return &api.Cluster{
		Node: "d1", Label: "prod", Mode: "lease", Lease: 0.4, Fingerprint: "0123abcd", Started: before(time.Hour), Maintenance: true,
		Fence: "the kernel (BPF at the VIPs' interfaces)",
		Spec:  api.Spec{Source: "replicated", Version: "7.3", Acked: "7.2", Hash: strings.Repeat("ab", 32)},
		Groups: []api.Group{
			{Name: "blue", Role: "active", Active: "d1", Since: before(90 * time.Second), Epoch: 7, Margin: 0.2871, Why: "elected with 2 of 3 votes", Eligible: true,
				Votes: []api.Vote{{Voter: "d1", For: "d1", Left: 0.3}, {Voter: "d2", For: "d1", Left: 0.2871}, {Voter: "w", Reason: "does not answer, for 3s"}}},
			{Name: "green", Role: "standby", Since: before(50 * time.Hour), Epoch: 6, Why: "not this", Reason: "interface eth1 has no carrier",
				Votes: []api.Vote{{Voter: "d1", Reason: "would grant"}}},
		},
		Members: []api.Member{
			{Name: "d1", Role: "director", Address: "10.0.0.1:7946", State: "alive", Since: before(time.Hour), Version: "1.2.3", Voter: true, Active: []string{"blue", "red"},
				Spec: &api.Spec{Version: "7.3", Hash: "ff"}, Conns: &api.Conns{Active: 1200, Inactive: 7}, Sync: &api.SyncReport{Enabled: true, Roles: []string{"master", "backup"}}},
			{Name: "d2", Role: "director", Address: "10.0.0.2:7946", State: "failed", Since: before(1500 * time.Millisecond), Version: "1.2.3", Voter: true,
				Spec: &api.Spec{Source: "/etc/drover/director.yaml", Hash: strings.Repeat("cd", 32)}, Sync: &api.SyncReport{Error: "no such device"}},
			{Name: "d3", Role: "director", Address: "10.0.0.3:7946", State: "never seen", Since: before(time.Minute)},
			{Name: "w", Role: "witness", Address: "10.0.0.9:7946", State: "alive", Since: before(12 * time.Millisecond), Voter: true},
			{Name: "r1", Role: "realserver", Address: "10.0.0.11:7946", State: "alive", Since: before(3 * time.Hour),
				Agent: &api.Agent{Pool: "web", Weight: 100, VIPs: []api.AgentVIP{{Address: ip("192.0.2.10"), Phase: "silent", Ready: true}, {Address: ip("192.0.2.11"), Phase: "silent", Ready: true}}}},
			{Name: "r2", Role: "realserver", State: "alive", Since: before(3 * time.Hour),
				Agent: &api.Agent{Weight: 0, VIPs: []api.AgentVIP{{Address: ip("192.0.2.10"), Phase: "silent", Ready: true}, {Address: ip("192.0.2.11"), Phase: "answered", Reason: "answers ARP"}, {Address: ip("fd00::1"), Phase: "absent", Reason: "the second reason"}}}},
			{Name: "r3", Role: "realserver", State: "left", Since: before(time.Minute), Agent: &api.Agent{Pool: "web", Weight: 1, Draining: true}},
			{Name: "r4", Role: "realserver", State: "alive", Since: before(time.Minute), Agent: &api.Agent{Pool: "web", Weight: 1, Draining: true}},
			{Name: "r5", Role: "realserver", State: "alive", Since: before(time.Minute)},
		},
		Drains: []api.DrainedServer{{Service: "web", Server: "r4", Drain: api.Drain{State: "draining", Since: before(5 * time.Second), Then: "keep", Text: "12 connections, 25 s left"}},
			{Service: "dns", Server: "r9", Drain: api.Drain{State: "expired", Since: before(time.Hour), Then: "remove", Text: "3 connections left at the deadline 59 s ago"}}},
		Notify: []api.Sink{{Name: "ops", Kind: "webhook", Sent: 7, Error: "once", ErrorAt: before(time.Hour), Last: before(time.Minute)},
			{Name: "pager", Kind: "script", Queued: 12, Dropped: 3, Failing: before(5 * time.Minute), Error: "exit status 3: no modem"}},
		Warnings: []string{"d2 has another specification", "mode priority: directors that do not hear each other are both active (split brain)"},
	}
}

func TestPrintStatus(t *testing.T) {
	for name, st := range map[string]*api.Cluster{
		"status.golden": aCluster(),
		// A director that has just started, of a file of its own, and alone.
		"status-first.golden": {Node: "d1", Label: "drover", Mode: "priority", Lease: 3, Fence: "nothing", Spec: api.Spec{Source: "/etc/drover/director.yaml", Hash: "ab"},
			Groups:  []api.Group{{Name: "default", Role: "standby", Since: now, Why: "just started", Eligible: true}},
			Members: []api.Member{{Name: "d1", Role: "director", State: "alive", Since: now, Voter: true}}},
		// One that knows no specification.
		"status-unknown.golden": {Node: "d1", Label: "drover", Mode: "lease", Lease: 0.4, Fence: "nothing", Spec: api.Spec{Source: "replicated"},
			Groups:   []api.Group{{Name: "default", Role: "standby", Since: now, Why: "just started", Eligible: true}},
			Members:  []api.Member{{Name: "d1", Role: "director", State: "alive", Since: now, Voter: true}},
			Warnings: []string{"d1: every stored specification is damaged: wait for another director to bring it"}},
	} {
		var b bytes.Buffer
		if err := printStatus(&b, st, now); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.String())
	}
}

func TestCommands(t *testing.T) {
	st, err := json.Marshal(aCluster())
	if err != nil {
		t.Fatal(err)
	}
	const specification = "vips: [{address: 192.0.2.10, interface: eth0}]\nservices: [{address: 192.0.2.10, port: 80, real_servers: [10.0.0.11]}]\n"
	file := filepath.Join(t.TempDir(), "s.yaml")
	if err := os.WriteFile(file, []byte(specification), 0o644); err != nil {
		t.Fatal(err)
	}
	change := func(extra string) string {
		b, _ := json.Marshal(specification)
		who, _ := json.Marshal(whoami())
		return `PUT /v1/spec {"content":` + string(b) + `,"who":` + string(who) + extra + "}"
	}
	changed := `{"version":"7.4","stored":["d1","d3"],"missing":{"d9":"no answer","d2":"is down"}}`
	entry := `{"version":"7.3","when":"2026-03-01T12:00:00Z","who":"me@here","what":"more","node":"d1","acknowledged":true,"content":"vips: []\n"}`
	for _, tc := range []struct {
		args   string
		answer string
		asked  string
		want   string
	}{
		{"promote d1", string(st), `POST /v1/handover {"to":"d1","why":"drover promote, by ` + whoami() + `"}`, "blue: d1 is active\ngreen: nobody is active\n"},
		{"promote --force d1", string(st), `POST /v1/handover {"to":"d1","why":"drover promote, by ` + whoami() + `","force":true}`, "blue: d1 is active\ngreen: nobody is active\n"},
		{"promote d1 -g green", string(st), `POST /v1/handover {"group":"green","to":"d1","why":"drover promote, by ` + whoami() + `"}`, "green: nobody is active\n"},
		{"promote -g green d1", string(st), `POST /v1/handover {"group":"green","to":"d1","why":"drover promote, by ` + whoami() + `"}`, "green: nobody is active\n"},
		{"stepdown -g blue", string(st), `POST /v1/handover {"group":"blue","why":"drover stepdown, by ` + whoami() + `"}`, "blue: d1 is active\n"},
		{"maintenance on", `{"on":true}`, `POST /v1/maintenance {"on":true}`, ""},
		{"maintenance off", `{"on":false}`, `POST /v1/maintenance {"on":false}`, ""},
		{"apply -f " + file, changed, change(`,"what":"drover apply -f ` + file + `"`),
			"version 7.4 is on 2 of 4 directors: d1, d3\n  d2 will get it when it is back: is down\n  d9 will get it when it is back: no answer\n"},
		{"apply -m more --if-version 7.3 --file -", `{"version":"7.3","unchanged":true}`, change(`,"what":"more","if_version":"7.3"`), "unchanged: this is version 7.3 already\n"},
		{"apply --dry-run -f -", `{"plan":"# nothing to do\n"}`, change(`,"what":"drover apply --dry-run -f -","dry_run":true`), "# nothing to do\n"},
		{"rollback --if-version 7.3 7.1", changed, `POST /v1/history/7.1/rollback {"content":"","who":"` + whoami() + `","if_version":"7.3"}`,
			"version 7.4 is on 2 of 4 directors: d1, d3\n  d2 will get it when it is back: is down\n  d9 will get it when it is back: no answer\n"},
		{"rollback ../spec", changed, `POST /v1/history/..%2Fspec/rollback {"content":"","who":"` + whoami() + `"}`,
			"version 7.4 is on 2 of 4 directors: d1, d3\n  d2 will get it when it is back: is down\n  d9 will get it when it is back: no answer\n"},
		{"history", "[" + entry + `,{"version":"7.2","when":"2026-03-01T11:00:00Z","node":"d2","acknowledged":false}]`, "GET /v1/history",
			"VERSION  WHEN                 WHO      BY  WHAT\n7.3      2026-03-01 12:00:00  me@here  d1  more\n7.2      2026-03-01 11:00:00  -        d2  (not acknowledged yet)\n"},
		{"history 7.3", entry, "GET /v1/history/7.3", "vips: []\n"},
		{"events", `[{"seq":3,"when":"2026-03-01T12:00:00.25Z","kind":"role","text":"group default: active"}]`, "GET /v1/events?after=0",
			"2026-03-01 12:00:00.250  role          group default: active\n"},
		{"events -o json", `[{"seq":3,"when":"2026-03-01T12:00:00Z","kind":"a","text":"b"},{"seq":4,"when":"2026-03-01T12:00:00Z","kind":"c","text":"d"}]`, "GET /v1/events?after=0",
			`{"seq":3,"when":"2026-03-01T12:00:00Z","kind":"a","text":"b"}` + "\n" + `{"seq":4,"when":"2026-03-01T12:00:00Z","kind":"c","text":"d"}` + "\n"},
		{"notify list", `[]`, "GET /v1/notify", "this director tells nobody: its file has no director: notify\n"},
		{"notify list", `[{"name":"ops","kind":"webhook","sent":0,"queued":0,"dropped":0}]`, "GET /v1/notify",
			"SINK  KIND     SENT  QUEUED  DROPPED  LAST SENT  STATE\nops   webhook  0     0       0        -          -\n"},
		{"notify test", `[{"name":"ops","kind":"webhook","took_seconds":0.0123}]`, `POST /v1/notify/test {"who":"` + whoami() + `"}`,
			"SINK  KIND     TOOK  ANSWER\nops   webhook  12ms  taken\n"},
		{"notify test -o json ops", `[{"name":"ops","kind":"mail","took_seconds":1}]`, `POST /v1/notify/test {"sink":"ops","who":"` + whoami() + `"}`,
			"[\n  {\n    \"name\": \"ops\",\n    \"kind\": \"mail\",\n    \"took_seconds\": 1\n  }\n]\n"},
		{"keys list", `[{"node":"d1","keys":["aa","bb"]},{"node":"w","keys":["aa"]}]`, `POST /v1/keys {"op":"list"}`, "NODE  KEYS\nd1    aa bb\nw     aa\n"},
		{"keys use KEY", `[]`, `POST /v1/keys {"op":"use","key":"KEY"}`, "NODE  KEYS\n"},
	} {
		d := newDirector(t, http.StatusOK, tc.answer)
		t.Setenv("DROVER_DIRECTOR", d.url)
		status, out, errs := drover(t.Context(), specification, strings.Fields(tc.args)...)
		if status != 0 || out != tc.want || errs != "" {
			t.Errorf("%s: exit status %d, %q\ngot\n%s\nwant\n%s", tc.args, status, errs, out, tc.want)
		}
		if !slices.Equal(d.asked, []string{tc.asked}) {
			t.Errorf("%s: asked\n%q\nwant\n%q", tc.args, d.asked, tc.asked)
		}
	}
}

func TestStatusAndMembers(t *testing.T) {
	st, err := json.Marshal(aCluster())
	if err != nil {
		t.Fatal(err)
	}
	d := newDirector(t, http.StatusOK, string(st))
	var back api.Cluster
	if status, out, errs := drover(t.Context(), "", "status", "-o", "json", "--director", d.url); status != 0 || json.Unmarshal([]byte(out), &back) != nil || back.Members[8].Name != "r5" {
		t.Errorf("exit status %d, %q, %q", status, out, errs)
	}
	var list []api.Member
	if status, out, errs := drover(t.Context(), "", "members", "-o=json", "--director", d.url); status != 0 || json.Unmarshal([]byte(out), &list) != nil || len(list) != 9 {
		t.Errorf("exit status %d, %q, %q", status, out, errs)
	}
	status, out, errs := drover(t.Context(), "", "members", "--director", d.url)
	line := strings.Fields(strings.Split(out, "\n")[4])
	if line[4] = "SINCE"; status != 0 || strings.Join(line, " ") != "w witness 10.0.0.9:7946 alive SINCE yes -" || strings.Count(out, "\n") != 10 {
		t.Errorf("exit status %d, %q\n%s", status, errs, out)
	}
	if status, out, errs := drover(t.Context(), "", "status", "--director", d.url); status != 0 || !strings.HasPrefix(out, "cluster prod, seen from d1: ") {
		t.Errorf("exit status %d, %q, %q", status, out, errs)
	}
}

// Nothing of what happened is left out or told twice, and an interruption is a good end.
func TestEventsWatch(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	var asked []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.RawQuery)
		switch len(asked) {
		case 1, 3:
			io.WriteString(w, "[]")
		case 2:
			io.WriteString(w, `[{"seq":1,"when":"2026-03-01T12:00:00Z","kind":"a","text":"b"},{"seq":2,"when":"2026-03-01T12:00:00Z","kind":"c","text":"d"}]`)
		default:
			interrupt()
			<-r.Context().Done()
		}
	}))
	defer s.Close()
	status, out, errs := drover(ctx, "", "events", "-w", "--director", s.URL)
	s.Close()
	if want := "2026-03-01 12:00:00.000  a             b\n2026-03-01 12:00:00.000  c             d\n"; status != 0 || out != want || errs != "" {
		t.Errorf("exit status %d, %q, %q", status, out, errs)
	}
	if want := []string{"after=0", "after=0&wait=10s", "after=2&wait=10s", "after=2&wait=10s"}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
}

func TestExitStatus(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good, bad := file("good.yaml", "vips: []\nservices: []\n"), file("bad.yaml", "vips: [{address: nope}]\nservices: []\n")
	nobody := filepath.Join(dir, "absent")
	asking := []string{"status", "members", "promote d1", "stepdown", "maintenance on", "apply -f " + good, "history", "history 1.1", "rollback 1.1", "events", "events -w", "notify list", "notify test", "keys list", "keys add K", "keys use K", "keys remove K"}

	t.Setenv("DROVER_DIRECTOR", nobody)
	for _, args := range asking {
		status, out, errs := drover(t.Context(), "", strings.Fields(args)...)
		if status != exitNoDirector || out != "" || !strings.HasPrefix(errs, "drover: no director answers at "+nobody+": ") || !strings.Contains(errs, "--director") {
			t.Errorf("no director: %s: %d, %q, %q", args, status, out, errs)
		}
	}
	for answer, want := range map[int]int{http.StatusConflict: exitConflict, http.StatusBadRequest: 1, http.StatusServiceUnavailable: 1} {
		d := newDirector(t, answer, `{"error":"it is not so"}`)
		t.Setenv("DROVER_DIRECTOR", d.url)
		for _, args := range asking {
			if status, out, errs := drover(t.Context(), "", strings.Fields(args)...); status != want || out != "" || errs != "drover: it is not so\n" {
				t.Errorf("answer %d: %s: %d, %q, %q", answer, args, status, out, errs)
			}
		}
	}
	d := newDirector(t, http.StatusOK, `[{"node":"d1","keys":["aa"]},{"node":"w","error":"no answer"}]`)
	t.Setenv("DROVER_DIRECTOR", d.url)
	if status, out, errs := drover(t.Context(), "", "keys", "add", "K"); status != 1 || out != "NODE  KEYS\nd1    aa\nw     FAILED: no answer\n" || errs != "drover: 1 of 2 nodes failed\n" {
		t.Errorf("keys add: %d, %q, %q", status, out, errs)
	}

	d = newDirector(t, http.StatusOK, `[{"name":"ops","kind":"webhook","took_seconds":2,"said":"200 OK"},{"name":"pager","kind":"script","took_seconds":0.5,"error":"exit status 3"}]`)
	t.Setenv("DROVER_DIRECTOR", d.url)
	if status, out, errs := drover(t.Context(), "", "notify", "test"); status != 1 || out != "SINK   KIND     TOOK   ANSWER\nops    webhook  2s     taken: 200 OK\npager  script   500ms  FAILED: exit status 3\n" || errs != "drover: 1 of 2 sinks have not taken it\n" {
		t.Errorf("notify test: %d, %q, %q", status, out, errs)
	}

	d = newDirector(t, http.StatusOK, "{}")
	t.Setenv("DROVER_DIRECTOR", d.url)
	for args, want := range map[string]string{
		"nope":                       `there is no command "nope" (drover --help lists them)`,
		"keys nope":                  `there is no command "nope" (drover keys --help lists them)`,
		"lab nope":                   `there is no command "nope" (drover lab --help lists them)`,
		"--nope":                     "there is no option --nope (drover --help lists them)",
		"status --nope":              "there is no option --nope (drover status --help lists them)",
		"keys list --nope":           "there is no option --nope (drover keys list --help lists them)",
		"status --driector=x":        "there is no option --driector, did you mean --director? (drover status --help lists them)",
		"stauts":                     `there is no command "stauts", did you mean status? (drover --help lists them)`,
		"service lst":                `there is no command "lst", did you mean list? (drover service --help lists them)`,
		"members -o nmae":            `members: output "nmae" is not one of: text, wide, name, json, yaml`,
		"status extra":               `status: unexpected argument "extra" (usage: `,
		"promote":                    "promote: an argument is missing (usage: ",
		"promote d1 d2":              `promote: unexpected argument "d2" (usage: `,
		"maintenance maybe":          `maintenance: "maybe" is neither on nor off`,
		"status -o xml":              `status: output "xml" is not one of: text, json, yaml`,
		"status --director 10.0.0.1": `director "10.0.0.1" is neither the path of a socket nor http://127.0.0.1:PORT`,
		"apply":                      "apply: -f is missing (usage: ",
		"plan":                       "plan: -f is missing (usage: ",
		"apply -f " + nobody:         "open " + nobody + ": no such file or directory",
		"rollback":                   "rollback: an argument is missing (usage: ",
		"notify test a b":            `test: unexpected argument "b" (usage: `,
		"keys use":                   "use: an argument is missing (usage: ",
		"keys list K":                `list: unexpected argument "K" (usage: `,
		"keys generate a b":          `unexpected argument "b"`,
	} {
		status, out, errs := drover(t.Context(), "", strings.Fields(args)...)
		if status != 2 || out != "" || !strings.HasPrefix(errs, "drover: "+want) {
			t.Errorf("%s: %d, %q\ngot  %s\nwant drover: %s", args, status, out, errs, want)
		}
	}
	if status, out, errs := drover(t.Context(), "", "apply", "-f", bad); status != 2 || out != "" || !strings.HasPrefix(errs, bad+":1:18: ") {
		t.Errorf("apply of a bad file: %d, %q, %q", status, out, errs)
	}
	if status, out, errs := drover(t.Context(), strings.Repeat("#", api.MaxBody+1), "apply", "-f", "-"); status != 2 || out != "" || errs != fmt.Sprintf("drover: standard input is longer than %d bytes\n", api.MaxBody) {
		t.Errorf("apply of too much: %d, %q, %q", status, out, errs)
	}
	if len(d.asked) != 0 {
		t.Errorf("asked %q", d.asked)
	}
	for _, args := range []string{"", "keys", "lab"} { // help
		if status, out, errs := drover(t.Context(), "", strings.Fields(args)...); status != 0 || !strings.Contains(out, "COMMANDS:") || errs != "" {
			t.Errorf("%q: %d, %q, %q", args, status, out, errs)
		}
	}
}

func TestKeysGenerate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "etc", "drover", "cluster.key")
	if status, out, errs := drover(t.Context(), "", "keys", "generate", path); status != 0 || out != "" || errs != "" {
		t.Fatalf("exit status %d, %q, %q", status, out, errs)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", fi.Mode(), err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if status, out, errs := drover(t.Context(), "", "keys", "generate", path); status != 1 || out != "" || errs != "drover: failed to write the key: open "+path+": file exists\n" {
		t.Errorf("a second time: exit status %d, %q, %q", status, out, errs)
	}
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, first) {
		t.Errorf("the key was overwritten: %q, %q, %v", first, again, err)
	}
	if _, err := keyring.Parse(strings.TrimSpace(string(first))); err != nil {
		t.Errorf("%q is no key: %v", first, err)
	}
	status, out, errs := drover(t.Context(), "", "keys", "generate")
	if status != 0 || errs != "" || out == string(first) || len(out) != len(first) {
		t.Errorf("exit status %d, %q, %q", status, out, errs)
	}
}

func TestSpans(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1234567: "1ms", 999 * time.Millisecond: "999ms", time.Second: "1s", 1500 * time.Millisecond: "2s", 59*time.Minute + 59*time.Second: "59m59s",
		time.Hour: "1h00m", 47*time.Hour + 59*time.Minute + 59*time.Second: "47h59m", 48 * time.Hour: "2d00h", 100*24*time.Hour + 5*time.Hour: "100d05h",
		-1500 * time.Millisecond: "-1.5s", // another node's clock
	} {
		if got := ago(d); got != want {
			t.Errorf("ago(%d): %s, want %s", d, got, want)
		}
	}
	for s, want := range map[float64]string{0: "0s", 0.4: "400ms", 0.28714: "287ms", 3: "3s", 90.5: "1m30.5s"} {
		if got := seconds(s); got != want {
			t.Errorf("seconds(%v): %s, want %s", s, got, want)
		}
	}
}

func TestWhoami(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SUDO_USER", "alice")
	if got := whoami(); got != "alice@"+host {
		t.Errorf("behind sudo: %q", got)
	}
	t.Setenv("SUDO_USER", "")
	if got := whoami(); got == "alice@"+host || !strings.HasSuffix(got, "@"+host) {
		t.Errorf("got %q", got)
	}
}
