package notify

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	netmail "net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-lb/drover/notify/sink"
)

// server is a small mail server: it takes one connection after the other.
type server struct {
	starttls bool
	implicit bool
	auth     string            // what it offers; "" nothing
	answers  map[string]string // by the beginning of a command, instead of what it would answer
	cert     tls.Certificate
	ca       []byte // PEM

	listener net.Listener
	ended    sync.WaitGroup
	mu       sync.Mutex
	commands []string
	mails    []string
}

func mailServer(t *testing.T, s *server) *server {
	t.Helper()
	// A certificate for 127.0.0.1.
	h := httptest.NewTLSServer(http.NotFoundHandler())
	s.cert = h.TLS.Certificates[0]
	s.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
	h.Close()
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.ended.Go(func() {
		for {
			c, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.serve(c)
			c.Close()
		}
	})
	t.Cleanup(func() {
		s.listener.Close()
		s.ended.Wait()
	})
	return s
}

func (s *server) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if s.implicit {
		c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{s.cert}})
	}
	encrypted := s.implicit
	r := bufio.NewReader(c)
	say := func(format string, args ...any) { fmt.Fprintf(c, format+"\r\n", args...) }
	hello := "220 test"
	if a, ok := s.answers["CONNECT"]; ok {
		hello = a
	}
	say("%s", hello)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		s.mu.Lock()
		s.commands = append(s.commands, line)
		s.mu.Unlock()
		special := ""
		for begin, answer := range s.answers {
			if strings.HasPrefix(line, begin) {
				special = answer
			}
		}
		verb, _, _ := strings.Cut(line, " ")
		switch {
		case special != "":
			say("%s", special)
		case verb == "EHLO":
			say("250-test")
			if s.starttls && !encrypted {
				say("250-STARTTLS")
			}
			if s.auth != "" && encrypted {
				say("250-AUTH %s", s.auth)
			}
			say("250 SMTPUTF8")
		case verb == "STARTTLS":
			say("220 go on")
			t := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{s.cert}})
			if t.Handshake() != nil {
				return
			}
			c, r, encrypted = t, bufio.NewReader(t), true
		case line == "AUTH LOGIN":
			for _, ask := range []string{"VXNlcm5hbWU6", "UGFzc3dvcmQ6"} {
				say("334 %s", ask)
				answer, _ := r.ReadString('\n')
				s.mu.Lock()
				s.commands = append(s.commands, strings.TrimSpace(answer))
				s.mu.Unlock()
			}
			say("235 welcome")
		case verb == "AUTH":
			say("235 welcome")
		case verb == "DATA":
			say("354 go on")
			var b strings.Builder
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				b.WriteString(strings.TrimPrefix(l, "."))
			}
			answer := "250 taken"
			if a, ok := s.answers["."]; ok {
				answer = a
			} else {
				s.mu.Lock()
				s.mails = append(s.mails, b.String())
				s.mu.Unlock()
			}
			say("%s", answer)
		case verb == "QUIT":
			say("221 bye")
			return
		default:
			say("250 ok")
		}
	}
}

func (s *server) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.commands, "\n")
}

func (s *server) mail(change func(*sink.Mail)) *mail {
	set := &sink.Mail{Host: "127.0.0.1", Port: uint16(s.listener.Addr().(*net.TCPAddr).Port), From: "lvs@example.com",
		To: []string{"ops@example.com", "night@example.com"}, Helo: "d1.example.com", TLS: sink.Opportunistic}
	if change != nil {
		change(set)
	}
	return &mail{set: set, log: slog.New(slog.DiscardHandler)}
}

func TestMailIsSent(t *testing.T) {
	s := mailServer(t, &server{})
	e := event("web: web1 is down: Fehler „nö“\r\nBcc: x@example.com")
	e.Text = clean(e.Text, MaxText) // as Add does
	if err := s.mail(nil).send(t.Context(), []*Event{e}); err != nil {
		t.Fatal(err)
	}
	if got, want := s.said(), "EHLO d1.example.com\nMAIL FROM:<lvs@example.com> SMTPUTF8\nRCPT TO:<ops@example.com>\nRCPT TO:<night@example.com>\nDATA\nQUIT"; got != want {
		t.Errorf("said\n%s\nwant\n%s", got, want)
	}
	m, err := netmail.ReadMessage(strings.NewReader(s.mails[0]))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if want := "[lab/d1] info: web: web1 is down: Fehler „nö“ Bcc: x@example.com"; err != nil || subject != want {
		t.Errorf("subject %q, want %q, %v", subject, want, err)
	}
	if to, err := m.Header.AddressList("To"); err != nil || len(to) != 2 || to[1].Address != "night@example.com" {
		t.Errorf("to %v, %v", to, err)
	}
	if when, err := m.Header.Date(); err != nil || time.Since(when) > time.Minute {
		t.Errorf("date %s, %v", when, err)
	}
	for name, want := range map[string]string{"From": "<lvs@example.com>", "Message-Id": "<d1-7-1.1@example.com>", "Auto-Submitted": "auto-generated", "Bcc": "", "Mime-Version": "1.0"} {
		if got := m.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	body, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if want := e.Text + "\r\n\r\nid:       d1-7-1\r\ntime:     1970-01-01T00:00:01.000000002Z\r\ndirector: d1\r\ncluster:  lab\r\nkind:     health\r\nlevel:    info\r\nservice:  web\r\nserver:   web1\r\nstate:    down\r\n"; err != nil || string(body) != want {
		t.Errorf("body %q\nwant %q, %v", body, want, err)
	}
	for line := range strings.Lines(s.mails[0]) {
		if len(line) > 100 || !strings.HasSuffix(line, "\r\n") {
			t.Errorf("line %q", line)
		}
	}
}

func TestSeveralEventsAreOneMail(t *testing.T) {
	s := mailServer(t, &server{})
	if err := s.mail(nil).send(t.Context(), []*Event{event("first"), event("second"), event(".")}); err != nil {
		t.Fatal(err)
	}
	text := s.mails[0]
	if len(s.mails) != 1 || !strings.Contains(text, "Subject: [lab/d1] 3 events: first\r\n") || !strings.Contains(text, "\r\nsecond\r\n") || !strings.Contains(text, "\r\n.\r\n") {
		t.Errorf("%d mails: %s", len(s.mails), text)
	}
}

func TestMailByTLS(t *testing.T) {
	secret := write(t, "user:pass:word\n", 0o600)
	const plain = "AUTH PLAIN AHVzZXIAcGFzczp3b3Jk" // \0user\0pass:word
	for name, tc := range map[string]struct {
		server *server
		change func(*server, *sink.Mail)
		want   string // of the error
		said   string
	}{
		"opportunistic":                  {&server{starttls: true}, nil, "", "STARTTLS"},
		"opportunistic, with a CA":       {&server{starttls: true}, func(s *server, m *sink.Mail) { m.CA = write(t, string(s.ca), 0o644) }, "", "STARTTLS"},
		"opportunistic, with another CA": {&server{starttls: true}, func(_ *server, m *sink.Mail) { m.CA = "/none/such" }, "open /none/such: no such file or directory", ""},
		"off":                            {&server{starttls: true}, func(_ *server, m *sink.Mail) { m.TLS = sink.Off }, "", "EHLO"},
		"required":                       {&server{starttls: true}, func(s *server, m *sink.Mail) { m.TLS, m.CA = sink.Required, write(t, string(s.ca), 0o644) }, "", "STARTTLS"},
		"required, a stranger":           {&server{starttls: true}, func(_ *server, m *sink.Mail) { m.TLS = sink.Required }, "certificate", "STARTTLS"},
		"required, not offered":          {&server{}, func(_ *server, m *sink.Mail) { m.TLS = sink.Required }, "the server offers no STARTTLS", "EHLO"},
		"implicit":                       {&server{implicit: true}, func(s *server, m *sink.Mail) { m.TLS, m.CA = sink.Implicit, write(t, string(s.ca), 0o644) }, "", "EHLO"},
		"plain": {&server{starttls: true, auth: "LOGIN PLAIN"}, func(s *server, m *sink.Mail) {
			m.TLS, m.CA, m.AuthFile = sink.Required, write(t, string(s.ca), 0o644), secret
		}, "", plain},
		"login": {&server{implicit: true, auth: "LOGIN"}, func(s *server, m *sink.Mail) {
			m.TLS, m.CA, m.AuthFile = sink.Implicit, write(t, string(s.ca), 0o644), secret
		}, "", "AUTH LOGIN\ndXNlcg==\ncGFzczp3b3Jk"},
		"neither": {&server{starttls: true, auth: "XOAUTH2"}, func(s *server, m *sink.Mail) {
			m.TLS, m.CA, m.AuthFile = sink.Required, write(t, string(s.ca), 0o644), secret
		}, `authentication: the server has neither PLAIN nor LOGIN, but "XOAUTH2"`, "STARTTLS"},
		"wrong password": {&server{starttls: true, auth: "PLAIN", answers: map[string]string{"AUTH": "535 5.7.8 no"}}, func(s *server, m *sink.Mail) {
			m.TLS, m.CA, m.AuthFile = sink.Required, write(t, string(s.ca), 0o644), secret
		}, "authentication: the server answers 535 5.7.8 no", plain},
		"not in the clear": {&server{auth: "PLAIN", answers: map[string]string{"EHLO": "250 AUTH PLAIN"}}, func(_ *server, m *sink.Mail) { m.AuthFile = secret },
			"authentication: the connection is not encrypted", "EHLO"},
		"everybody may read it": {&server{starttls: true}, func(_ *server, m *sink.Mail) { m.AuthFile = write(t, "a:b", 0o644) }, "mode 0644 lets others read", ""},
		"no password":           {&server{starttls: true}, func(_ *server, m *sink.Mail) { m.AuthFile = write(t, "hunter2", 0o600) }, "the first line is not USER:PASSWORD", ""},
	} {
		s := mailServer(t, tc.server)
		err := s.mail(func(m *sink.Mail) {
			if tc.change != nil {
				tc.change(s, m)
			}
		}).send(t.Context(), []*Event{event("x")})
		got := ""
		if err != nil {
			got = err.Error()
		}
		var no *refused
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) || strings.Contains(got, "hunter2") || errors.As(err, &no) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
		if said := s.said(); !strings.Contains(said, tc.said) || strings.Contains(said, "MAIL") != (tc.want == "") || strings.Contains(said, "STARTTLS") && name == "off" {
			t.Errorf("%s: said\n%s", name, said)
		}
	}
}

func TestWhatMailServersAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		answers map[string]string
		want    string
		refused bool
	}{
		"not now":          {map[string]string{"CONNECT": "421 too busy"}, "the server answers 421 too busy", false},
		"never":            {map[string]string{"CONNECT": "554 go away"}, "the server answers 554 go away", true},
		"greylisted":       {map[string]string{"RCPT TO:<night": "451 4.7.1 later\x1b"}, "the server answers 451 4.7.1 later", false},
		"one unknown":      {map[string]string{"RCPT TO:<night": "550 no such user"}, "", false},
		"all unknown":      {map[string]string{"RCPT": "550 no such user"}, "the server answers 550 no such user", true},
		"sender refused":   {map[string]string{"MAIL": "553 who?"}, "the server answers 553 who?", true},
		"wants to know":    {map[string]string{"MAIL": "530 5.7.0 authenticate"}, "the server answers 530 5.7.0 authenticate", false},
		"no space":         {map[string]string{".": "452 full"}, "the server answers 452 full", false},
		"spam":             {map[string]string{".": "554 spam"}, "the server answers 554 spam", true},
		"nonsense":         {map[string]string{"CONNECT": "hello"}, "short response", false},
		"quits in a hurry": {map[string]string{"QUIT": "500 what?"}, "", false},
	} {
		s := mailServer(t, &server{answers: tc.answers})
		m := s.mail(nil)
		err := m.send(t.Context(), []*Event{event("x")})
		if want := map[string]string{"one unknown": "for 1 of 2 recipients", "quits in a hurry": "for 2 of 2 recipients"}[name]; err == nil && m.said() != want {
			t.Errorf("%s: it said %q, want %q", name, m.said(), want)
		}
		got := ""
		if err != nil {
			got = err.Error()
		}
		var no *refused
		if (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) || errors.As(err, &no) != tc.refused {
			t.Errorf("%s: %#v: %v, want %q", name, err, err, tc.want)
		}
		if len(s.mails) != 0 != (tc.want == "") {
			t.Errorf("%s: %d mails", name, len(s.mails))
		}
	}
}

// A server that says nothing, or trickles, is bounded by the time of a try.
func TestMailIsBounded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := (&server{listener: l}).mail(nil)
	if err := try(t.Context(), 50*time.Millisecond, m, []*Event{event("x")}); err == nil || err.Error() != "no answer after 50ms" {
		t.Errorf("got %v", err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			for err == nil { // without end
				_, err = c.Write(bytes.Repeat([]byte("220-"), 1<<12))
			}
			c.Close()
		}
	}()
	if err := try(t.Context(), 10*time.Second, (&server{listener: l}).mail(nil), []*Event{event("x")}); err == nil || err.Error() != "the server says more than 262144 bytes" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.send(ctx, []*Event{event("x")}); err == nil {
		t.Error("sent")
	}
}

// What a director has read somewhere cannot become a header or end the mail.
func FuzzMessage(f *testing.F) {
	f.Add("web: web1 is down", "d1-7-1", "lab")
	f.Add("a\r\nBcc: x@y\r\n\r\n.\r\n", "<>@\r\n", "\x00")
	f.Add(strings.Repeat("é", 2000)+"=?utf-8?q?x?=", "", "\u2028")
	set := &sink.Mail{From: "lvs@example.com", To: []string{"ops@example.com"}}
	f.Fuzz(func(t *testing.T, text, id, cluster string) {
		e := &Event{ID: id, Time: time.Unix(1, 2), Cluster: cluster, Kind: sink.Health, Text: clean(text, MaxText)}
		b := message(set, []*Event{e})
		m, err := netmail.ReadMessage(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%v\n%q", err, b)
		}
		if len(m.Header) != 9 {
			t.Errorf("headers %q", m.Header)
		}
		if bytes.Contains(bytes.ReplaceAll(b, []byte("\r\n"), nil), []byte("\n")) {
			t.Errorf("a bare line end in %q", b)
		}
		for line := range bytes.Lines(b) {
			if len(line) > 998+2 { // RFC 5322, section 2.1.1
				t.Errorf("a line of %d bytes", len(line))
			}
		}
	})
}
