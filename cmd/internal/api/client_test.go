package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// serve answers every request with h, and returns a client for it.
func serve(t *testing.T, h http.HandlerFunc) (*Client, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	c, err := NewClient(s.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestNewClientComplains(t *testing.T) {
	for _, where := range []string{"director.sock", "127.0.0.1:80", "https://d1", "http://", "http:/d1", "unix://run/x", "unix:/run/x", "http://[::1", " /run/x"} {
		if c, err := NewClient(where); c != nil || err == nil || err.Error() != fmt.Sprintf("director %q is neither the path of a socket nor http://127.0.0.1:PORT", where) {
			t.Errorf("%q: %v, %v", where, c, err)
		}
	}
	for _, where := range []string{"http://10.0.0.5:80", "http://d1", "http://[2001:db8::1]:80"} {
		if c, err := NewClient(where); c != nil || err == nil || !strings.HasPrefix(err.Error(), fmt.Sprintf("director %q is on another host: ", where)) {
			t.Errorf("%q: %v, %v", where, c, err)
		}
	}
	for where, want := range map[string]string{"unix:///run/x": "/run/x", "/run/x": "/run/x", "http://localhost:8080": "http://localhost:8080", "http://[::1]:80": "http://[::1]:80"} {
		if c, err := NewClient(where); err != nil || c.where != want {
			t.Errorf("%q: %+v, %v", where, c, err)
		}
	}
	if c, err := NewClient(""); err != nil || c.where != DefaultSocket {
		t.Errorf("no address: %+v, %v", c, err)
	}
}

func TestDo(t *testing.T) {
	h := func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, `{"seq": 7, "kind": "%s %s", "text": %q}`, r.Method, r.URL.RequestURI(), b)
	}
	overTCP, _ := serve(t, h)
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(h)}}
	s.Start()
	defer s.Close()
	overSocket, err := NewClient(socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*Client{overTCP, overSocket} {
		var e Event
		if err := c.Do(t.Context(), "PUT", "/v1/x?after=3", Maintenance{On: true}, &e); err != nil || e.Seq != 7 || e.Kind != "PUT /v1/x?after=3" || e.Text != `{"on":true}` {
			t.Errorf("%s: %+v, %v", c.where, e, err)
		}
		if err := c.Do(t.Context(), "GET", "/v1/x", nil, &e); err != nil || e.Kind != "GET /v1/x" || e.Text != "" {
			t.Errorf("%s: %+v, %v", c.where, e, err)
		}
		if err := c.Do(t.Context(), "GET", "/v1/x", nil, nil); err != nil {
			t.Errorf("%s, answer not wanted: %v", c.where, err)
		}
	}
	if err := overTCP.Do(t.Context(), "PUT", "/", func() {}, nil); err == nil {
		t.Error("sent what is no JSON")
	}
}

func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		status   int
		body     string
		want     string
		conflict bool
	}{
		{409, `{"error": "version 1.2 is in force"}`, "version 1.2 is in force", true},
		{400, `{"error": "weight: -1"}`, "weight: -1", false},
		{503, `{"error": "nobody is active"}`, "nobody is active", false},
		{404, "404 page not found\n", "the director at URL answers 404 Not Found", false},
		{500, `{"error": ""}`, "the director at URL answers 500 Internal Server Error", false},
		{502, `{"error": 3}`, "the director at URL answers 502 Bad Gateway", false},
		{409, "", "the director at URL answers 409 Conflict", true},
		{304, "", "the director at URL answers 304 Not Modified", false},
	} {
		c, s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tc.status)
			io.WriteString(w, tc.body)
		})
		err := c.Do(t.Context(), "GET", "/", nil, new(Event))
		var e *Error
		if !errors.As(fmt.Errorf("wrapped: %w", err), &e) || e.Status != tc.status || e.Conflict() != tc.conflict {
			t.Errorf("%d %s: %#v", tc.status, tc.body, err)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), s.URL+"/", "URL"); got != tc.want {
			t.Errorf("%d %s: %q, want %q", tc.status, tc.body, got, tc.want)
		}
		var none *ErrNoDirector
		if errors.As(err, &none) {
			t.Errorf("%d: is no answer", tc.status)
		}
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNoDirector(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent")
	socket, err := NewClient(path)
	if err != nil {
		t.Fatal(err)
	}
	closed, s := serve(t, nil)
	s.Close()
	broken, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"seq"`)
	})
	hung, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	stuck, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	enough := errors.New("enough")
	over, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, enough)
	defer cancel()
	later, end := context.WithCancelCause(t.Context())
	stuck.http.Transport = roundTrip(func(r *http.Request) (*http.Response, error) {
		defer end(enough) // when the head of the answer is there
		return http.DefaultTransport.RoundTrip(r)
	})
	for _, tc := range []struct {
		ctx    context.Context
		c      *Client
		cause  error
		prefix string
	}{
		{t.Context(), socket, syscall.ENOENT, "no director answers at " + path + ": "},
		{t.Context(), closed, syscall.ECONNREFUSED, "no director answers at " + s.URL + "/: "},
		{t.Context(), broken, io.ErrUnexpectedEOF, "the director at " + broken.where + " broke off: "},
		{over, hung, enough, "no director answers at " + hung.where + ": enough"},
		{later, stuck, enough, "the director at " + stuck.where + " broke off: enough"},
	} {
		err := tc.c.Do(tc.ctx, "GET", "/v1/cluster", nil, new(Cluster))
		var none *ErrNoDirector
		if !errors.As(err, &none) || !errors.Is(err, tc.cause) || !strings.HasPrefix(err.Error(), tc.prefix) {
			t.Errorf("got %v, want %s%v", err, tc.prefix, tc.cause)
		}
		if err != nil && strings.Contains(err.Error(), "Get ") {
			t.Errorf("names the request: %v", err)
		}
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	// White space in front of a good answer makes it as long as one likes.
	for length, good := range map[int]bool{MaxBody: true, MaxBody + 1: false} {
		c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, strings.Repeat(" ", length-2)+"{}")
		})
		err := c.Do(t.Context(), "GET", "/", nil, new(Cluster))
		if want := fmt.Sprintf("the answer of %s is longer than %d bytes", c.where, MaxBody); good != (err == nil) || !good && err.Error() != want {
			t.Errorf("%d bytes: %v", length, err)
		}
	}
	for _, body := range []string{"", "<html>", "[]", `{"groups": 7}`, `{} {}`, `{"started": "yesterday"}`, `{"members": [{"agent": {"address": "x"}}]}`} {
		c, _ := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
		err := c.Do(t.Context(), "GET", "/", nil, new(Cluster))
		if err == nil || !strings.HasPrefix(err.Error(), "the answer of "+c.where+" makes no sense: ") {
			t.Errorf("%s: %v", body, err)
		}
	}
}
