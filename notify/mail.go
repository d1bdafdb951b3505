package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/smtp"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-lb/drover/notify/sink"
)

const (
	maxMailEvents = 100 // of one mail
	maxSubject    = 200 // bytes
	// maxConversation bounds what a server says, TLS included, bytes.
	maxConversation = 256 << 10
)

// mail sends what is queued as one mail.
type mail struct {
	set   *sink.Mail
	log   *slog.Logger
	words string
}

func (*mail) most() int { return maxMailEvents }

func (m *mail) said() string { return m.words }

// send returns nil when the server has taken responsibility for the mail (RFC 5321, section 4.2.5) for one recipient at least.
func (m *mail) send(ctx context.Context, list []*Event) error {
	conf, auth, err := m.credentials()
	if err != nil {
		return err
	}
	where := net.JoinHostPort(m.set.Host, strconv.Itoa(int(m.set.Port)))
	conn, err := dialer.DialContext(ctx, "tcp", where)
	if err != nil {
		return err
	}
	// The conversation knows nothing of contexts: the end of this one closes the connection.
	raw := conn
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	defer raw.Close()
	conn = &bounded{Conn: raw, left: maxConversation}
	if m.set.TLS == sink.Implicit {
		conn = tls.Client(conn, conf)
	}
	c, err := smtp.NewClient(conn, m.set.Host)
	if err != nil {
		return answer(err)
	}
	if err := m.greet(c, conf); err != nil {
		return answer(err)
	}
	if auth != nil {
		if err := c.Auth(auth); err != nil {
			return fmt.Errorf("authentication: %w", unexpected(err)) // may be mended in the file of it
		}
	}
	if err := m.deliver(c, message(m.set, list)); err != nil {
		return answer(err)
	}
	_ = c.Quit() // it has the mail
	return nil
}

// bounded is a connection from which no more than so many bytes are read: the conversation takes lines of any length.
type bounded struct {
	net.Conn
	left int
}

// Read implements [net.Conn].
func (b *bounded) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, fmt.Errorf("the server says more than %d bytes", maxConversation)
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// credentials reads the files.
func (m *mail) credentials() (*tls.Config, smtp.Auth, error) {
	// Who is told that there is no TLS sends in the clear if TLS is opportunistic, so a certificate protects nothing there.
	conf := &tls.Config{ServerName: m.set.Host, MinVersion: tls.VersionTLS12, InsecureSkipVerify: m.set.TLS == sink.Opportunistic}
	if m.set.CA != "" {
		pool, _, err := readCA(m.set.CA)
		if err != nil {
			return nil, nil, err
		}
		conf.RootCAs, conf.InsecureSkipVerify = pool, false
	}
	if m.set.AuthFile == "" {
		return conf, nil, nil
	}
	line, err := readSecret(m.set.AuthFile)
	if err != nil {
		return nil, nil, err
	}
	user, password, err := splitAuth(m.set.AuthFile, line)
	return conf, &login{user: user, password: password}, err
}

// greet says hello, and switches to TLS where that is wanted.
func (m *mail) greet(c *smtp.Client, conf *tls.Config) error {
	helo := m.set.Helo
	if helo == "" {
		host, _ := os.Hostname()
		helo = cmp.Or(host, "localhost")
	}
	if err := c.Hello(helo); err != nil {
		return err
	}
	if m.set.TLS != sink.Opportunistic && m.set.TLS != sink.Required {
		return nil
	}
	if ok, _ := c.Extension("STARTTLS"); ok {
		return c.StartTLS(conf)
	}
	if m.set.TLS == sink.Required {
		return errors.New("the server offers no STARTTLS")
	}
	return nil
}

// deliver hands the mail over. A recipient that is refused for good does not keep it from the others.
func (m *mail) deliver(c *smtp.Client, text []byte) error {
	if err := c.Mail(m.set.From); err != nil {
		return err
	}
	var errs []error
	for _, to := range m.set.To {
		if err := c.Rcpt(to); err != nil {
			if !final(err) {
				return err
			}
			m.log.Warn("a recipient of mail is refused", "recipient", to, "error", unexpected(err))
			errs = append(errs, err)
		}
	}
	if len(errs) == len(m.set.To) {
		return errs[0]
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(text); err != nil {
		return err
	}
	m.words = fmt.Sprintf("for %d of %d recipients", len(m.set.To)-len(errs), len(m.set.To))
	return w.Close()
}

// final reports whether the server will not do later either what it has not done (RFC 5321, section 4.2.1). That it does not let this
// host in (454, 530, 535 and such, and 421) is not about the mail.
func final(err error) bool {
	var e *textproto.Error
	return errors.As(err, &e) && e.Code/100 == 5 && !slices.Contains([]int{530, 534, 535, 538}, e.Code)
}

// answer makes an error of the conversation one for the queue.
func answer(err error) error {
	var e *textproto.Error
	switch {
	case final(err):
		return &refused{unexpected(err)}
	case errors.As(err, &e):
		return unexpected(err)
	}
	return err
}

// unexpected says that words are those of the server.
func unexpected(err error) error {
	var e *textproto.Error
	if errors.As(err, &e) {
		return fmt.Errorf("the server answers %d %s", e.Code, clean(e.Msg, maxWords))
	}
	return err
}

// message writes the mail of some events (RFC 5322).
func message(set *sink.Mail, list []*Event) []byte {
	first := list[0]
	var b bytes.Buffer
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("Date", time.Now().Format(time.RFC1123Z))
	header("From", "<"+set.From+">")
	header("To", "<"+strings.Join(set.To, ">,\r\n <")+">")
	_, domain, _ := strings.Cut(set.From, "@")
	header("Message-ID", fmt.Sprintf("<%s.%d@%s>", idWord(first.ID), len(list), domain))
	// Lines of 76 (RFC 2047, section 2).
	header("Subject", strings.ReplaceAll(mime.QEncoding.Encode("utf-8", subject(list)), "?= =?", "?=\r\n =?"))
	header("Auto-Submitted", "auto-generated") // RFC 3834: nobody answers that they are on holiday
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	for i, e := range list {
		if i > 0 {
			fmt.Fprint(w, "\n")
		}
		fmt.Fprintf(w, "%s\n\n", e.Text)
		for _, f := range e.fields() {
			if f.name != "text" {
				fmt.Fprintf(w, "%-9s %s\n", f.name+":", clean(f.value, MaxText))
			}
		}
	}
	_ = w.Close() // a bytes.Buffer takes everything
	return b.Bytes()
}

func subject(list []*Event) string {
	first := list[0]
	who := cmp.Or(first.Cluster, "drover") + "/" + first.Director
	if len(list) > 1 {
		return clean(fmt.Sprintf("[%s] %d events: %s", who, len(list), first.Text), maxSubject)
	}
	return clean(fmt.Sprintf("[%s] %s: %s", who, LevelWord(first.Level), first.Text), maxSubject)
}

// idWord makes s fit into a Message-ID (RFC 5322, section 3.6.4).
func idWord(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, s)
}

// login is PLAIN (RFC 4616), or LOGIN where a server has only that; not without TLS.
type login struct {
	user, password string
	asked          int // of LOGIN
	plain          bool
}

// Start implements [smtp.Auth].
func (l *login) Start(s *smtp.ServerInfo) (mechanism string, first []byte, err error) {
	l.asked, l.plain = 0, false
	if !s.TLS {
		return "", nil, errors.New("the connection is not encrypted")
	}
	switch {
	case slices.Contains(s.Auth, "PLAIN"):
		l.plain = true
		return "PLAIN", []byte("\x00" + l.user + "\x00" + l.password), nil
	case slices.Contains(s.Auth, "LOGIN"):
		return "LOGIN", nil, nil
	}
	return "", nil, fmt.Errorf("the server has neither PLAIN nor LOGIN, but %q", clean(strings.Join(s.Auth, " "), maxWords))
}

// Next implements [smtp.Auth]: LOGIN asks for the user, then for the password, in words that differ.
func (l *login) Next(_ []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	l.asked++
	switch {
	case l.plain || l.asked > 2:
		return nil, errors.New("the server asks for more than user and password")
	case l.asked == 1:
		return []byte(l.user), nil
	}
	return []byte(l.password), nil
}
