package sink

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/conf"
)

func read(content string) ([]Sink, error) {
	var raw struct {
		Notify conf.At[[]conf.At[Raw]] `yaml:"notify"`
	}
	r, err := conf.Parse("f.yaml", []byte(content), &raw)
	if err != nil {
		return nil, err
	}
	list := Read(r, raw.Notify, "/etc/drover/director.yaml")
	return list, r.Err()
}

func TestDefaults(t *testing.T) {
	got, err := read(`notify: [{webhook: "http://a/"}, {script: /bin/page}, {mail: {smtp_server: mx, email_from: a@b, email_to: c@d}}]`)
	if err != nil {
		t.Fatal(err)
	}
	base := func(name string) Sink {
		return Sink{Name: name, Timeout: 10 * time.Second, RetryFor: time.Hour, Level: slog.LevelInfo,
			Events: []string{"role", "health", "drain", "tracker", "conflict", "election", "late", "spec", "gossip", "handover", "maintenance", "keys", "reload"}}
	}
	w, s, m := base("webhook"), base("script"), base("mail")
	w.Webhook = &Webhook{URL: "http://a/"}
	s.Script = &Script{Command: []string{"/bin/page"}, User: "nobody"}
	m.Mail = &Mail{Host: "mx", Port: 25, From: "a@b", To: []string{"c@d"}, TLS: Opportunistic}
	if !reflect.DeepEqual(got, []Sink{w, s, m}) {
		t.Errorf("got %+v", got)
	}
	for i, want := range []string{"webhook", "script", "mail"} {
		if got[i].Kind() != want {
			t.Errorf("%s is a %s", want, got[i].Kind())
		}
	}
}

func TestReadsEverything(t *testing.T) {
	got, err := read(`
notify:
  - name: hooks-1
    events: [role, notify]
    level: error
    timeout: 2s
    retry_for: 0s
    webhook: https://a:8443/x?y=z
    headers: ["x-team:  lvs ", "Authorization: Bearer a b"]
    secret_file: hooks.secret
    ca: /etc/ca.pem
  - script: [/bin/page, "", -x]
    user: root
    events: all
    level: warn
  - mail:
      smtp_server: "[2001:db8::25]:587"
      email_from: a@b
      email_to: [c@d, e@f]
      helo_name: d1
      auth_file: mail.auth
      ca: ca.pem
  - {name: implicit, mail: {smtp_server: "2001:db8::25", email_from: a@b, email_to: c@d, tls: implicit}}
  - {name: "off", mail: {smtp_server: "192.0.2.25:26", email_from: a@b, email_to: c@d, tls: off}}
`)
	if err != nil {
		t.Fatal(err)
	}
	want := []Sink{
		{Name: "hooks-1", Events: []string{"role", "notify"}, Level: slog.LevelError, Timeout: 2 * time.Second, Webhook: &Webhook{
			URL: "https://a:8443/x?y=z", Headers: []string{"X-Team: lvs", "Authorization: Bearer a b"}, SecretFile: "/etc/drover/hooks.secret", CA: "/etc/ca.pem"}},
		{Name: "script", Events: Kinds, Level: slog.LevelWarn, Timeout: DefaultTimeout, RetryFor: DefaultRetryFor, Script: &Script{Command: []string{"/bin/page", "", "-x"}, User: "root"}},
		{Name: "mail", Events: DefaultKinds(), Timeout: DefaultTimeout, RetryFor: DefaultRetryFor, Mail: &Mail{
			Host: "2001:db8::25", Port: 587, From: "a@b", To: []string{"c@d", "e@f"}, Helo: "d1", TLS: Required, AuthFile: "/etc/drover/mail.auth", CA: "/etc/drover/ca.pem"}},
		{Name: "implicit", Events: DefaultKinds(), Timeout: DefaultTimeout, RetryFor: DefaultRetryFor, Mail: &Mail{Host: "2001:db8::25", Port: 465, From: "a@b", To: []string{"c@d"}, TLS: Implicit}},
		{Name: "off", Events: DefaultKinds(), Timeout: DefaultTimeout, RetryFor: DefaultRetryFor, Mail: &Mail{Host: "192.0.2.25", Port: 26, From: "a@b", To: []string{"c@d"}, TLS: Off}},
	}
	for i := range want {
		if i >= len(got) || !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("got %+v\nwant %+v", got[i], want[i])
		}
	}
	for i, want := range []string{"[/etc/drover/hooks.secret] [/etc/ca.pem]", "[] []", "[/etc/drover/mail.auth] [/etc/drover/ca.pem]", "[] []"} {
		if secret, public := got[i].Files(); fmt.Sprint(secret, public) != want {
			t.Errorf("%s reads %v %v, want %s", got[i].Name, secret, public, want)
		}
	}
}

// What is wrong in one way each is in the corpus of package spec; here are the bounds.
func TestBounds(t *testing.T) {
	many := func(n int, format string) string {
		list := make([]string, n)
		for i := range list {
			list[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(list, ", ")
	}
	for in, want := range map[string]string{
		many(MaxSinks+1, `{name: s%d, script: /bin/x}`):                                                             "f.yaml:1:9: notify: 17 are too many: must be at most 16",
		`{webhook: "http://a/` + strings.Repeat("x", maxText) + `"}`:                                                "f.yaml:1:20: notify[0]: webhook: 4105 bytes are too long: must be at most 4096",
		`{webhook: "http://a/", headers: [` + many(maxHeaders+1, `"X-%d: y"`) + `]}`:                                "f.yaml:1:43: notify[0]: headers: 33 are too many: must be at most 32",
		`{script: [/bin/x, ` + strings.Repeat("y", maxText) + `]}`:                                                  "f.yaml:1:20: notify[0]: script: 4102 bytes are too long: must be at most 4096",
		`{mail: {smtp_server: a, email_from: a@b, email_to: [` + many(maxRecipients+1, `"u%d@example.com"`) + `]}}`: "f.yaml:1:62: notify[0]: mail: email_to: 101 are too many: must be at most 100",
		`{name: ` + strings.Repeat("n", 64) + `, script: /bin/x}`:                                                   fmt.Sprintf("f.yaml:1:17: notify[0] (%q): name: %q must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", strings.Repeat("n", 64), strings.Repeat("n", 64)),
		`{webhook: "http://a/", timeout: 99ms}`:                                                                     "f.yaml:1:42: notify[0]: timeout: 99ms is out of range: must be between 100ms and 1m0s",
		`{webhook: "http://a/", secret_file: ""}`:                                                                   "f.yaml:1:46: notify[0]: secret_file: is required",
	} {
		if _, err := read("notify: [" + in + "]"); err == nil || err.Error() != want {
			t.Errorf("%.80s\n got %v\nwant %s", in, err, want)
		}
	}
	if list, err := read("notify: [" + many(MaxSinks, `{name: s%d, script: /bin/x}`) + "]"); err != nil || len(list) != MaxSinks {
		t.Errorf("%d sinks, %v", len(list), err)
	}
}

func TestTakes(t *testing.T) {
	s := Sink{Events: []string{Role, Health}, Level: slog.LevelWarn}
	for _, tc := range []struct {
		kind  string
		level slog.Level
		want  bool
	}{
		{Role, slog.LevelWarn, true}, {Health, slog.LevelError, true}, {Role, slog.LevelInfo, false}, {Drain, slog.LevelError, false},
	} {
		if got := s.Takes(tc.kind, tc.level); got != tc.want {
			t.Errorf("%s %s: %t", tc.kind, tc.level, got)
		}
	}
}

// The manual has every kind, with whether it is told by default, and its example is one.
func TestManual(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "notifications.md"))
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]string)
	var example []string
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "## ") {
			break
		}
		if l, ok := strings.CutPrefix(line, "      "); ok && (len(example) > 0 || strings.HasPrefix(l, "notify:")) {
			example = append(example, l)
		}
	}
	for line := range strings.Lines(string(b)) {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			for _, kind := range strings.Split(cells[1], ",") {
				told[strings.Trim(kind, " `")] = strings.TrimSpace(cells[2])
			}
		}
	}
	for _, kind := range Kinds {
		want := "no"
		if slices.Contains(DefaultKinds(), kind) {
			want = "yes"
		}
		if told[kind] != want {
			t.Errorf("%s: told by default: %q, want %s", kind, told[kind], want)
		}
	}
	if list, err := read(strings.Join(example, "")); err != nil || len(list) != 3 {
		t.Errorf("the example has %d sinks, %v:\n%s", len(list), err, strings.Join(example, ""))
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`notify: [{webhook: "http://a/", headers: ["a: b"]}]`)
	f.Add(`notify: [{script: [/bin/x], events: [all], level: warn}]`)
	f.Add(`notify: [{mail: {smtp_server: "[::1]:25", email_from: a@b, email_to: [c@d], tls: implicit}}]`)
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > 1<<12 {
			return
		}
		list, err := read(in)
		if err != nil {
			return
		}
		names := make(map[string]bool)
		for i := range list {
			s := &list[i]
			n := 0
			for _, set := range []bool{s.Webhook != nil, s.Script != nil, s.Mail != nil} {
				if set {
					n++
				}
			}
			if n != 1 || names[s.Name] || !validName(s.Name) || len(s.Events) == 0 || s.Timeout < MinTimeout || s.Timeout > MaxTimeout {
				t.Errorf("%+v", s)
			}
			names[s.Name] = true
			if m := s.Mail; m != nil && (m.Host == "" || m.Port == 0 || len(m.To) == 0 || strings.ContainsAny(m.From+strings.Join(m.To, ""), "\r\n")) {
				t.Errorf("%+v", m)
			}
		}
	})
}
