package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/cmd/internal/api"
)

func request(h http.Handler, method, target, content string) (status int, answer string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(content)))
	return w.Code, strings.TrimSuffix(w.Body.String(), "\n")
}

func TestAnswer(t *testing.T) {
	for _, tc := range []struct {
		err    error
		status int
	}{
		{refuse(http.StatusConflict, "version %d is in force", 7), 409},
		{fmt.Errorf("not done: %w", refuse(http.StatusNotFound, "no such group")), 404},
		{errors.Join(errors.New("first"), refuse(http.StatusServiceUnavailable, "second")), 503},
		{errors.New("plain"), 500},
		{&api.Error{Text: "without a status"}, 500},
		// What another director says is not trusted to be one: the HTTP library panics at some.
		{&api.Error{Status: 7, Text: "x"}, 500},
		{&api.Error{Status: -1, Text: "x"}, 500},
		{&api.Error{Status: 200, Text: "x"}, 500},
		{&api.Error{Status: 100000, Text: "x"}, 500},
	} {
		status, got := request(answer(func(context.Context, *http.Request) (any, error) { return nil, tc.err }), "GET", "/", "")
		want, _ := json.Marshal(api.Error{Text: tc.err.Error()})
		if status != tc.status || got != string(want) {
			t.Errorf("%v: %d %s, want %d %s", tc.err, status, got, tc.status, want)
		}
	}
	if status, got := request(answer(func(context.Context, *http.Request) (any, error) { return api.Maintenance{On: true}, nil }), "GET", "/", ""); status != 200 || got != `{"on":true}` {
		t.Errorf("%d %s", status, got)
	}
}

func TestAnswerIsBoundedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		status, got := request(answer(func(ctx context.Context, _ *http.Request) (any, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}), "GET", "/", "")
		if status != 500 || got != `{"error":"the director took too long"}` {
			t.Errorf("%d %s", status, got)
		}
	})
}

func TestBody(t *testing.T) {
	for _, tc := range []struct {
		content io.Reader
		want    string
	}{
		{strings.NewReader(`{"on": true}`), ""},
		{strings.NewReader(""), "400 the request makes no sense: unexpected end of JSON input"},
		{strings.NewReader(`{"on": 3}`), "400 the request makes no sense: json: "},
		{strings.NewReader(`{"on": true} x`), "400 the request makes no sense: invalid character"},
		{strings.NewReader(strings.Repeat(" ", api.MaxBody-12) + `{"on": true}`), ""},
		{strings.NewReader(strings.Repeat(" ", api.MaxBody-11) + `{"on": true}`), fmt.Sprintf("413 the request is longer than %d bytes", api.MaxBody)},
	} {
		var m api.Maintenance
		err := body(httptest.NewRequest("POST", "/", tc.content), &m)
		got := ""
		var e *api.Error
		if errors.As(err, &e) {
			got = fmt.Sprintf("%d %s", e.Status, e.Text)
		}
		if (err != nil) != (tc.want != "") || !strings.HasPrefix(got, tc.want) || m.On != (tc.want == "") {
			t.Errorf("got %v (%s), %+v; want %s", err, got, m, tc.want)
		}
	}
}

// A director that is alone says so.
func TestHandlerAlone(t *testing.T) {
	h := handler(nil, nil, prometheus.NewRegistry(), &desk{events: newEvents(slog.New(slog.DiscardHandler)), path: "/etc/drover/director.yaml"})
	for _, path := range []string{"/v1/cluster", "/v1/history", "/v1/keys"} {
		if status, got := request(h, "GET", path, ""); status != 404 || got != `{"error":"this director is not part of a cluster: its file has no cluster mapping"}` {
			t.Errorf("%s: %d %s", path, status, got)
		}
	}
}

// What is wrong with a request is said before anybody else is asked.
func TestHandlerRefuses(t *testing.T) {
	m := &member{
		path: "/etc/drover/director.yaml",
		opts: &settings.Options{Name: "d1", Groups: []string{"blue", "green"}, Voters: []settings.Voter{
			{Name: "d1", Address: netip.MustParseAddrPort("10.0.0.1:1"), Director: true}, {Name: "d2", Address: netip.MustParseAddrPort("10.0.0.2:1"), Director: true}, {Name: "w"}}},
		events: newEvents(slog.New(slog.DiscardHandler)),
		seats:  map[string]*seat{"blue": nil, "green": nil},
	}
	m.seats["blue"] = &seat{}
	m.events.add(slog.LevelInfo, "a", "one")
	h := handler(nil, m, prometheus.NewRegistry(), &desk{member: m, events: m.events})
	for _, tc := range []struct {
		method, target, content string
		status                  int
		want                    string
	}{
		{"GET", "/v1/events?after=x", "", 400, "after: "},
		{"GET", "/v1/events?after=-1", "", 400, "after: "},
		{"GET", "/v1/events?wait=soon", "", 400, `wait ("soon") must be between 0s and 20s`},
		{"GET", "/v1/events?wait=-1s", "", 400, `wait ("-1s") must be between 0s and 20s`},
		{"GET", "/v1/events?wait=21s", "", 400, `wait ("21s") must be between 0s and 20s`},
		{"POST", "/v1/handover", "{", 400, "the request makes no sense: "},
		{"POST", "/v1/handover", `{"group": "red"}`, 404, `there is no group "red": the groups are blue, green`},
		{"POST", "/v1/handover", `{"group": "blue", "to": "w"}`, 404, `"w" is not a director of this cluster: the directors are d1, d2`},
		{"POST", "/v1/maintenance", `{"on": "yes"}`, 400, "the request makes no sense: "},
		{"POST", "/v1/keys", `{"op": "steal"}`, 400, `"steal" is not one of: list, add, use, remove`},
		{"PUT", "/v1/spec", "x", 400, "the request makes no sense: "},
		{"PUT", "/v1/spec", "{}", 422, "VIPs and services stand in this director's own file: edit /etc/drover/director.yaml, "},
		{"GET", "/v1/history", "", 422, "VIPs and services stand in this director's own file: edit /etc/drover/director.yaml, "},
		{"GET", "/v1/history/1.1", "", 422, "VIPs and services stand in this director's own file: edit /etc/drover/director.yaml, "},
		{"POST", "/v1/history/1.1/rollback", "{}", 422, "VIPs and services stand in this director's own file: edit /etc/drover/director.yaml, "},
	} {
		status, got := request(h, tc.method, tc.target, tc.content)
		var e api.Error
		if err := json.Unmarshal([]byte(got), &e); err != nil || status != tc.status || !strings.HasPrefix(e.Text, tc.want) {
			t.Errorf("%s %s %s: %d %s, want %d %s", tc.method, tc.target, tc.content, status, got, tc.status, tc.want)
		}
	}
	for target, want := range map[string]string{"/v1/events": "1 a one", "/v1/events?after=1": "", "/v1/events?after=0&wait=20s": "1 a one"} {
		status, got := request(h, "GET", target, "")
		var list []api.Event
		if err := json.Unmarshal([]byte(got), &list); err != nil || status != 200 || texts(list) != want || list == nil {
			t.Errorf("%s: %d %s", target, status, got)
		}
	}
	for _, target := range []string{"/v1/handover", "/v1/maintenance", "/v1/keys", "/v2/x"} {
		if status, _ := request(h, "GET", target, ""); status != 405 && status != 404 {
			t.Errorf("GET %s: %d", target, status)
		}
	}
}

func TestClip(t *testing.T) {
	for _, tc := range []struct {
		in   string
		most int
		want string
	}{
		{"", 0, ""}, {"abc", 3, "abc"}, {"abc", 2, "ab"}, {"abc", 0, ""},
		{"aé", 3, "aé"}, {"aé", 2, "a"}, {"é", 1, ""}, {"a€b", 4, "a€"}, {"a€b", 3, "a"}, {"a€b", 2, "a"}, {"😀", 3, ""},
		{"\x80\x80\x80", 2, ""}, // no text at all
	} {
		if got := clip(tc.in, tc.most); got != tc.want {
			t.Errorf("%q to %d: %q, want %q", tc.in, tc.most, got, tc.want)
		}
	}
}

func TestSeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &seat{group: "g", wake: make(chan struct{}, 1), changed: make(chan struct{})}
		_, _, changed := s.get()
		began := time.Now()
		s.set(election.RoleChange{Group: "g", Role: election.Active, Epoch: 3, Why: "first"})
		select {
		case <-changed:
		default:
			t.Error("no word of the change")
		}
		time.Sleep(time.Second)
		s.set(election.RoleChange{Group: "g", Role: election.Active, Epoch: 4, Why: "again"}) // does not block
		if r, since, _ := s.get(); r.Epoch != 4 || r.Why != "again" || since != began {
			t.Errorf("%+v since %s", r, since)
		}
		s.set(election.RoleChange{Group: "g", Role: election.Yielding})
		if r, since, _ := s.get(); r.Role != election.Yielding || since != began.Add(time.Second) {
			t.Errorf("%+v since %s", r, since)
		}
		if len(s.wake) != 1 {
			t.Error("is not awake")
		}
	})
}
