package probe

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/internal/program"
)

func TestTLS(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.TLS.ServerName) }))
	t.Cleanup(srv.Close)
	srv.Config.ErrorLog = nil
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	addr := srv.Listener.Addr().String()
	for _, tc := range []struct{ check, want string }{
		{"type: tls, verify: false", ""},
		{"type: tls, server_name: example.com", "x509: certificate signed by unknown authority"},
		{"type: tls, server_name: example.com, ca: " + ca, ""},
		{"type: tls, server_name: other.org, ca: " + ca, "x509: certificate is valid for example.com, *.example.com, not other.org"},
		{"type: tls, server_name: example.com, ca: /nowhere", "open /nowhere: no such file or directory"},
		{"type: https, host: example.com, body: ^example.com$, ca: " + ca, ""},
		{"type: https, verify: false, body: x", `status 200, but the first 0 bytes of the body do not match "x"`},
	} {
		if got := ask(t, "{path: rip, timeout: 5s, "+tc.check+"}", addr); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.check, got, tc.want)
		}
	}
	if got := ask(t, "{type: tls, verify: false, path: rip, timeout: 100ms}", silent(t)); got != "no answer within 100ms" {
		t.Errorf("a server that says nothing: %q", got)
	}
}

func TestGRPC(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.ProtoMajor != 2 || r.URL.Path != "/grpc.health.v1.Health/Check" || r.Header.Get("Content-Type") != "application/grpc+proto" || r.Header.Get("Te") != "trailers" || len(b) < 5 {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		service := ""
		if len(b) > 5 {
			v, _ := protowire.ConsumeString(b[6:])
			service = v
		}
		w.Header().Set("Content-Type", "application/grpc")
		answer := func(status uint64) {
			w.Header().Set("Trailer", "Grpc-Status")
			_, _ = w.Write(grpcFrame(protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), status)))
			w.Header().Set("Grpc-Status", "0")
		}
		switch service {
		case "":
			answer(1)
		case "sick":
			answer(2)
		case "odd":
			answer(77)
		case "garbage":
			w.Header().Set("Trailer", "Grpc-Status")
			fmt.Fprint(w, "xxxxxxxxxxxxx")
			w.Header().Set("Grpc-Status", "0")
		default:
			w.Header().Set("Grpc-Status", "5")
			w.Header().Set("Grpc-Message", "unknown service")
		}
	})
	for _, secure := range []bool{false, true} {
		srv := httptest.NewUnstartedServer(handler)
		kind := "type: grpc"
		if secure {
			kind = "type: grpcs, verify: false"
			srv.EnableHTTP2 = true
			srv.StartTLS()
		} else {
			srv.Config.Protocols = new(http.Protocols)
			srv.Config.Protocols.SetUnencryptedHTTP2(true)
			srv.Start()
		}
		t.Cleanup(srv.Close)
		for _, tc := range []struct{ service, want string }{
			{"", ""},
			{", service: sick", "it says NOT_SERVING"},
			{", service: odd", "it says status 77"},
			{", service: garbage", "the answer is no message of grpc.health.v1"},
			{", service: other", `gRPC status "5" unknown service`},
		} {
			if got := ask(t, "{path: rip, timeout: 5s, "+kind+tc.service+"}", srv.Listener.Addr().String()); got != tc.want {
				t.Errorf("%s%s: got %q, want %q", kind, tc.service, got, tc.want)
			}
		}
	}
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	if got := ask(t, "{type: grpc, path: rip, timeout: 2s}", plain.Listener.Addr().String()); got == "" {
		t.Error("a server that speaks HTTP/1 alone passes")
	}
	if got := ask(t, "{type: grpc, path: rip, timeout: 100ms}", silent(t)); got != "no answer within 100ms" {
		t.Errorf("a server that says nothing: %q", got)
	}
}

func FuzzHealthResponse(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 2, 8, 1})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{0, 0, 0, 0, 4, 18, 2, 'a', 'b'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if status, err := healthResponse(b); err != nil && status != 0 {
			t.Errorf("%x: %d, %v", b, status, err)
		}
	})
}

// udpServer answers datagrams with what f makes of them; nil is no answer.
func udpServer(t *testing.T, f func([]byte) [][]byte) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, maxDatagram)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			for _, answer := range f(b[:n]) {
				_, _ = c.WriteTo(answer, from)
			}
		}
	}()
	return c.LocalAddr().String()
}

func TestUDP(t *testing.T) {
	echo := udpServer(t, func(b []byte) [][]byte { return [][]byte{append([]byte("got "), b...)} })
	nobody := udpServer(t, func([]byte) [][]byte { return nil })
	for _, tc := range []struct{ check, addr, want string }{
		{`send: ping`, echo, ""},
		{`send: "a\x01", expect: "^got a\x01$"`, echo, ""},
		{`send: ping, expect: pong`, echo, `the answer of 8 bytes does not match "pong"`},
		{`send: ping`, nobody, "no answer within 100ms"},
		{`send: ping`, strings.Replace(closed(t), "127.0.0.1", "127.0.0.1", 1), "connection refused"},
	} {
		if got := ask(t, "{type: udp, path: rip, timeout: 100ms, "+tc.check+"}", tc.addr); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.check, got, tc.want)
		}
	}
}

func TestDNS(t *testing.T) {
	server := udpServer(t, func(b []byte) [][]byte {
		var m dnsmessage.Message
		if m.Unpack(b) != nil || len(m.Questions) != 1 {
			return nil
		}
		m.Response = true
		stray := m
		stray.ID++
		stray.RCode = dnsmessage.RCodeServerFailure
		switch name := m.Questions[0].Name.String(); {
		case name == "sick.":
			m.RCode = dnsmessage.RCodeServerFailure
		case name == "other." && m.Questions[0].Type == dnsmessage.TypeA:
			m.RCode = dnsmessage.RCodeNameError
		}
		x, _ := stray.Pack()
		y, _ := m.Pack()
		return [][]byte{{1, 2, 3}, x, b, y} // garbage, an answer to something else, the query itself, and the answer
	})
	for _, tc := range []struct{ check, want string }{
		{"", ""},
		{", name: example.com, record: AAAA", ""},
		{", name: sick", "ServerFailure for sick."},
		{", name: other, record: A", "NameError for other."},
	} {
		if got := ask(t, "{type: dns, path: rip"+tc.check+"}", server); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.check, got, tc.want)
		}
	}
}

func FuzzDNSAnswer(f *testing.F) {
	query := dnsmessage.Message{Header: dnsmessage.Header{ID: 7}, Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET}}}
	b, err := query.Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		if ours, err := dnsAnswer(b, &query); !ours && err != nil {
			t.Errorf("%x: %v", b, err)
		}
	})
}

func TestSMTP(t *testing.T) {
	say := func(lines ...string) string {
		return serve(t, func(c net.Conn) {
			b := make([]byte, 1024)
			for _, l := range lines {
				fmt.Fprint(c, l)
				if _, err := c.Read(b); err != nil {
					return
				}
			}
		})
	}
	for _, tc := range []struct{ addr, want string }{
		{say("220-hello\r\n220 ready\r\n", "250-a\r\n250 b\r\n", "221 bye\r\n"), ""},
		{say("554 go away\r\n"), "554 go away, expected 220"},
		{say("220 ready\r\n", "421 too busy\r\n"), "421 too busy, expected 250"},
		{say("220-" + strings.Repeat("x", maxSMTP)), "the connection was closed without an answer"},
		{silent(t), "no answer within 200ms"},
	} {
		if got := ask(t, "{type: smtp, path: rip, timeout: 200ms}", tc.addr); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
}

func TestICMP(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		got := ask(t, "icmp", addr)
		if strings.Contains(got, "not permitted") {
			t.Skip("needs CAP_NET_RAW")
		}
		if got != "" && !(strings.HasPrefix(addr, "[") && strings.Contains(got, "assign requested address")) {
			t.Errorf("%s: %s", addr, got)
		}
	}
}

// script is a shell script in a file.
func script(t *testing.T, text string) string {
	t.Helper()
	// A directory that every user can reach.
	dir, err := os.MkdirTemp("/tmp", "drover-script")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "check")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755)); err != nil {
		t.Fatal(err)
	}
	return path
}

// runScript runs one as the user of the test.
func runScript(t *testing.T, timeout time.Duration, text string, change func(*spec.ScriptCheck)) (weight int, reason string) {
	t.Helper()
	c := spec.Check{Kind: spec.CheckScript, Timeout: timeout, Script: spec.ScriptCheck{Command: script(t, text) + "\na b"}}
	c.Script.User = map[bool]string{true: "root", false: os.Getenv("USER")}[os.Getuid() == 0]
	if change != nil {
		change(&c.Script)
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	w, err := (&Prober{}).Probe(ctx, health.Target{Check: c, Place: spec.Place{To: netip.MustParseAddrPort("10.0.0.1:80"), For: netip.MustParseAddr("192.0.2.10")}}, 0)
	if err != nil {
		reason = err.Error()
	}
	return w, reason
}

func TestScript(t *testing.T) {
	dynamic := func(s *spec.ScriptCheck) { s.Dynamic, s.Min, s.Max = true, 5, 20 }
	for _, tc := range []struct {
		text   string
		change func(*spec.ScriptCheck)
		weight int
		reason string
	}{
		{`exit 0`, nil, health.AsConfigured, ""},
		{`test "$1 $DROVER_VIP $DROVER_RIP $DROVER_PORT $PWD" = "a b 192.0.2.10 10.0.0.1 80 /"`, nil, health.AsConfigured, ""},
		{`test -z "$HOME$USER"`, nil, health.AsConfigured, ""},
		{`echo no disk; echo more; exit 3`, nil, health.AsConfigured, "exit status 3: no disk"},
		{`head -c 100000 /dev/zero | tr '\0' x; exit 1`, nil, health.AsConfigured, "exit status 1: " + strings.Repeat("x", program.MaxWords)},
		{`kill -9 $$`, nil, health.AsConfigured, "signal: killed"},
		{`exit 1`, dynamic, health.AsConfigured, "exit status 1"},
		{`exit 0`, dynamic, health.AsConfigured, ""},
		{`exit 12`, dynamic, 10, ""},
		{`exit 2`, dynamic, 5, ""},
		{`exit 255`, dynamic, 20, ""},
		{``, func(s *spec.ScriptCheck) { s.Command = "/nowhere/at/all" }, health.AsConfigured, "fork/exec /nowhere/at/all: no such file or directory"},
		{``, func(s *spec.ScriptCheck) { s.User = "nobody-at-all" }, health.AsConfigured, "user: unknown user nobody-at-all"},
	} {
		if w, reason := runScript(t, 10*time.Second, tc.text, tc.change); w != tc.weight || reason != tc.reason {
			t.Errorf("%s: got %d, %q, want %d, %q", tc.text, w, reason, tc.weight, tc.reason)
		}
	}
	if os.Getuid() == 0 {
		if _, reason := runScript(t, 10*time.Second, `id -un; exit 1`, func(s *spec.ScriptCheck) { s.User = "nobody" }); reason != "exit status 1: nobody" {
			t.Errorf("as nobody: %q", reason)
		}
	}
}

// At the timeout everybody in the group is killed, and nothing grows: neither goroutines nor processes nor files.
func TestScriptTimeout(t *testing.T) {
	files := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	pids := filepath.Join(t.TempDir(), "pids")
	runScript(t, 200*time.Millisecond, "sleep 100", nil)
	goroutines, before := runtime.NumGoroutine(), files()
	for range 10 {
		begin := time.Now()
		_, reason := runScript(t, 200*time.Millisecond, "sleep 100 & echo $! >>"+pids+"; (sleep 100) & sleep 100", nil)
		if reason != "no answer within 200ms" || time.Since(begin) > 5*time.Second {
			t.Errorf("%q after %s", reason, time.Since(begin))
		}
	}
	if n := runtime.NumGoroutine(); n > goroutines+2 {
		t.Errorf("%d goroutines, there were %d", n, goroutines)
	}
	if n := files(); n > before+2 {
		t.Errorf("%d files, there were %d", n, before)
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		gone := false
		for end := time.Now().Add(10 * time.Second); !gone && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			gone = err != nil || strings.Contains(string(stat), ") Z ")
		}
		if !gone {
			t.Errorf("process %d lives: %v", pid, syscall.Kill(pid, 0))
		}
	}
	// One that goes leaves nobody behind either, and its output is not waited for.
	begin := time.Now()
	if _, reason := runScript(t, 10*time.Second, "sleep 100 & exit 0", nil); reason != "" || time.Since(begin) > 5*time.Second {
		t.Errorf("%q after %s", reason, time.Since(begin))
	}
}
