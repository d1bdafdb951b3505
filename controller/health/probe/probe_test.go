package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/spec"
)

// check reads one check as a file has it.
func check(t *testing.T, text string) spec.Check {
	t.Helper()
	f, err := spec.Parse("test", fmt.Appendf(nil, "director: {interface: eth0}\nvips: [192.0.2.10]\nservices: [{address: 192.0.2.10, port: 80, real_servers: [], checks: [%s]}]", text))
	if err != nil {
		t.Fatal(err)
	}
	return f.Spec.Services[0].Checks[0]
}

// ask probes an address.
func ask(t *testing.T, text, addr string) string {
	t.Helper()
	c := check(t, text)
	ctx, cancel := context.WithTimeout(t.Context(), c.Timeout)
	defer cancel()
	begin := time.Now()
	_, err := (&Prober{}).Probe(ctx, health.Target{Check: c, Place: spec.Place{To: netip.MustParseAddrPort(addr)}}, 0)
	if took := time.Since(begin); took > c.Timeout+2*time.Second {
		t.Errorf("%s: took %s", text, took)
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// serve answers each TCP connection with f, and returns the address.
func serve(t *testing.T, f func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l.Addr().String()
}

// silent accepts connections and never says anything.
func silent(t *testing.T) string {
	return serve(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
}

// closed is an address at which nobody listens.
func closed(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestTCP(t *testing.T) {
	for _, tc := range []struct{ name, addr, want string }{
		{"accepts", silent(t), ""},
		{"refuses", closed(t), "connection refused"},
	} {
		if got := ask(t, "{type: tcp, path: rip}", tc.addr); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestHTTP(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			fmt.Fprintf(w, "%s %s %s %s close=%v", r.Method, r.Host, r.URL.RawQuery, strings.Join(r.Header["X-A"], ","), r.Close)
		case "/moved":
			http.Redirect(w, r, "/echo", http.StatusFound)
		case "/large":
			_, _ = w.Write(make([]byte, 2*spec.MaxBody))
			fmt.Fprint(w, "end")
		case "/header":
			w.Header().Set("X-Long", strings.Repeat("x", 2*maxHeader))
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	addr := srv.Listener.Addr().String()
	for _, tc := range []struct{ check, want string }{
		{"", "status 404, expected 200-399"},
		{"status: [404]", ""},
		{"status: [200, 401-404]", ""},
		{"uri: /moved", ""},
		{"uri: /moved, status: [200-299]", "status 302, expected 200-299"},
		{`uri: "/echo?a=b", host: example.com, headers: ["x-a: 1", "X-A: 2"], body: "^GET example.com a=b 1,2 close=true$"`, ""},
		{`uri: /echo, method: POST, body: "^POST ` + addr + `  "`, ""},
		{`uri: /echo, body: nothing`, fmt.Sprintf(`status 200, but the first %d bytes of the body do not match "nothing"`, len("GET   close=true")+len(addr)+1)},
		{`uri: /large, body: end`, `status 200, but the first 65536 bytes of the body do not match "end"`},
		{`uri: /header`, "net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 65536 bytes; aborted"},
	} {
		if got := ask(t, "{type: http, path: rip, timeout: 5s, "+strings.TrimSuffix(tc.check, ", ")+"}", addr); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.check, got, tc.want)
		}
	}
	for _, tc := range []struct {
		name, addr, want string
	}{
		{"refused", closed(t), "connection refused"},
		{"hung", silent(t), "no answer within 200ms"},
		{"closed", serve(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }), "the connection was closed without an answer"},
		{"slow", serve(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 1024))
			fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
			_, _ = io.Copy(io.Discard, c)
		}), "no answer within 200ms"},
	} {
		got := ask(t, "{type: http, path: rip, timeout: 200ms, body: y}", tc.addr)
		if tc.name == "closed" && strings.Contains(got, "reset") {
			got = tc.want // what was not read makes it a reset
		}
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}
