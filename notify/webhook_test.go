package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/notify/sink"
)

// write makes a file of a mode.
func write(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func event(text string) *Event {
	return &Event{ID: "d1-7-1", Time: time.Unix(1, 2), Director: "d1", Cluster: "lab", Kind: sink.Health, Text: text, Service: "web", Server: "web1", State: "down"}
}

func TestWebhookPosts(t *testing.T) {
	var got *http.Request
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
	}))
	defer srv.Close()
	set := &sink.Webhook{URL: srv.URL + "/x?y=z", Headers: []string{"Authorization: Bearer abc", "X-Team: lb"}, SecretFile: write(t, "top secret\nrest", 0o600)}
	if err := newWebhook(set, "1.2").send(t.Context(), []*Event{event("hello")}); err != nil {
		t.Fatal(err)
	}
	m := hmac.New(sha256.New, []byte("top secret"))
	m.Write(body)
	for name, want := range map[string]string{"Content-Type": "application/json", "User-Agent": "drover/1.2", "Authorization": "Bearer abc", "X-Team": "lb",
		"X-Drover-Signature": "sha256=" + hex.EncodeToString(m.Sum(nil))} {
		if v := got.Header.Values(name); len(v) != 1 || v[0] != want {
			t.Errorf("%s: %q, want %q", name, v, want)
		}
	}
	var e map[string]string
	if err := json.Unmarshal(body, &e); err != nil || got.Method != "POST" || got.URL.String() != "/x?y=z" || e["text"] != "hello" || e["time"] != "1970-01-01T00:00:01.000000002Z" {
		t.Errorf("%s %s: %s, %v", got.Method, got.URL, body, err)
	}
}

func TestWhatWebhooksAnswer(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the other host was asked") }))
	defer other.Close()
	var posts int
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = io.WriteString(w, "thanks\n")
		if posts++; r.Method != "POST" || len(b) == 0 {
			t.Errorf("%s of %d bytes", r.Method, len(b))
		}
	})
	mux.Handle("/moved", http.RedirectHandler("/ok", http.StatusTemporaryRedirect))
	mux.Handle("/get", http.RedirectHandler("/ok", http.StatusFound))
	mux.Handle("/loop", http.RedirectHandler("/loop", http.StatusPermanentRedirect))
	mux.Handle("/away", http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	mux.HandleFunc("/{status}", func(w http.ResponseWriter, r *http.Request) {
		code := map[string]int{"bad": 400, "gone": 410, "timeout": 408, "many": 429, "fails": 500, "busy": 503}[r.PathValue("status")]
		if code == 429 {
			w.Header().Set("Retry-After", "7")
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "\n because\x1b[31m\nmore\n")
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for path, want := range map[string]struct {
		err     string
		refused bool
		after   time.Duration
	}{
		"/ok": {}, "/moved": {},
		"/get":     {err: "answers 302 Found: not followed, as it leads to another host, or is no 307 or 308"},
		"/loop":    {err: "answers 308 Permanent Redirect: not followed, as it leads to another host, or is no 307 or 308"},
		"/away":    {err: "answers 307 Temporary Redirect: not followed, as it leads to another host, or is no 307 or 308"},
		"/bad":     {err: "answers 400 Bad Request: because [31m", refused: true},
		"/gone":    {err: "answers 410 Gone: because [31m", refused: true},
		"/timeout": {err: "answers 408 Request Timeout: because [31m"},
		"/many":    {err: "answers 429 Too Many Requests: because [31m", after: 7 * time.Second},
		"/fails":   {err: "answers 500 Internal Server Error: because [31m"},
		"/busy":    {err: "answers 503 Service Unavailable: because [31m"},
	} {
		w := newWebhook(&sink.Webhook{URL: srv.URL + path}, "")
		err := w.send(t.Context(), []*Event{event("x")})
		if err == nil && w.said() != "200 OK: thanks" {
			t.Errorf("%s: it said %q", path, w.said())
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		var no *refused
		var l *later
		if got != want.err || errors.As(err, &no) != want.refused || errors.As(err, &l) != (want.after > 0) || l != nil && l.after != want.after {
			t.Errorf("%s: %#v\n got %s\nwant %+v", path, err, got, want)
		}
	}
	if posts != 2 {
		t.Errorf("%d were posted", posts)
	}
}

func TestWebhookWithCA(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	ca := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})), 0o644)
	with := newWebhook(&sink.Webhook{URL: srv.URL, CA: ca}, "")
	for range 2 {
		if err := with.send(t.Context(), []*Event{event("x")}); err != nil {
			t.Error(err)
		}
	}
	first := with.client
	if err := os.WriteFile(ca, []byte("no PEM"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := with.send(t.Context(), []*Event{event("x")}); err == nil || !strings.Contains(err.Error(), "has no certificate in PEM") || with.client != first {
		t.Errorf("with another file: %v", err)
	}
	err := newWebhook(&sink.Webhook{URL: srv.URL}, "").send(t.Context(), []*Event{event("x")})
	if err == nil || !strings.Contains(err.Error(), "certificate") || strings.Contains(err.Error(), srv.URL) {
		t.Errorf("without: %v", err)
	}
}

func TestWebhookIsBounded(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-release }))
	defer srv.Close()
	defer close(release)
	err := try(t.Context(), 50*time.Millisecond, newWebhook(&sink.Webhook{URL: srv.URL}, ""), []*Event{event("x")})
	if err == nil || err.Error() != "no answer after 50ms" {
		t.Errorf("got %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := try(over, time.Minute, newWebhook(&sink.Webhook{URL: srv.URL}, ""), []*Event{event("x")}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSecretsAreForTheirOwnerOnly(t *testing.T) {
	for want, path := range map[string]string{
		"mode 0640 lets others read or write it, must be 0600 or 0400": write(t, "x", 0o640),
		"no such file":              filepath.Join(t.TempDir(), "none"),
		"the first line is empty":   write(t, "\nx", 0o600),
		"is not a regular file":     t.TempDir(),
		"is longer than 4096 bytes": write(t, strings.Repeat("x", 4097), 0o400),
	} {
		if b, err := readSecret(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, %v, want %s", path, b, err, want)
		}
		err := newWebhook(&sink.Webhook{URL: "http://127.0.0.1:1/", SecretFile: path}, "").send(t.Context(), []*Event{event("x")})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: sent, %v", path, err)
		}
	}
	if b, err := readSecret(write(t, "a b\r\nc", 0o400)); err != nil || string(b) != "a b" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-7": 0, "soon": 0, "99999999999": 0,
		"Sat, 31 Jan 2026 12:01:00 GMT": time.Minute, "Sat, 31 Jan 2026 11:01:00 GMT": 0,
	} {
		if got := retryAfter(in, now); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}
