package sink

import (
	"cmp"
	"log/slog"
	"net"
	"net/mail"
	"net/textproto"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/drover-lb/drover/conf"
)

// Raw is a sink as it is written.
type Raw struct {
	Name       conf.Value       `yaml:"name"`
	Events     conf.List        `yaml:"events"`
	Level      conf.Value       `yaml:"level"`
	Timeout    conf.Value       `yaml:"timeout"`
	RetryFor   conf.Value       `yaml:"retry_for"`
	Webhook    conf.Value       `yaml:"webhook"`
	Headers    conf.List        `yaml:"headers"`
	SecretFile conf.Value       `yaml:"secret_file"`
	CA         conf.Value       `yaml:"ca"`
	Script     conf.List        `yaml:"script"`
	User       conf.Value       `yaml:"user"`
	Mail       conf.At[rawMail] `yaml:"mail"`
}

type rawMail struct {
	Server   conf.Value `yaml:"smtp_server"`
	From     conf.Value `yaml:"email_from"`
	To       conf.List  `yaml:"email_to"`
	Helo     conf.Value `yaml:"helo_name"`
	TLS      conf.Value `yaml:"tls"`
	AuthFile conf.Value `yaml:"auth_file"`
	CA       conf.Value `yaml:"ca"`
}

// levels are the words for the levels of events.
var levels = map[string]slog.Level{"info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// Read turns a list as it is written into sinks, and complains to r. path is that of the file: relative paths in the list are from
// its folder.
func Read(r *conf.Reader, list conf.At[[]conf.At[Raw]], path string) []Sink {
	if n := len(list.V); n > MaxSinks {
		r.Errorf(list.Pos, "notify", "%d are too many: must be at most %d", n, MaxSinks)
		return nil
	}
	var out []Sink
	lines := make(map[string]int)
	for i := range list.V {
		raw := &list.V[i].V
		place := "notify[" + strconv.Itoa(i) + "]"
		if raw.Name.Set && raw.Name.Text != "" {
			place += " (" + strconv.Quote(raw.Name.Text) + ")"
		}
		x := reader{r: r.In("%s", place), raw: raw, pos: list.V[i].Pos, folder: filepath.Dir(path)}
		s := x.read()
		if s.Name == "" {
			continue
		}
		if first, twice := lines[s.Name]; twice {
			x.r.Errorf(cmp.Or(raw.Name.Pos, x.pos), "name", "%q is a sink already in line %d: each needs a name of its own", s.Name, first)
			continue
		}
		lines[s.Name] = cmp.Or(raw.Name.Pos, x.pos).Line
		out = append(out, s)
	}
	return out
}

// reader reads one sink.
type reader struct {
	r      *conf.Reader
	raw    *Raw
	pos    conf.Pos
	folder string
}

// read returns a sink without a name if it is not known what it is.
func (x *reader) read() Sink {
	raw, r := x.raw, x.r
	s := Sink{
		Timeout:  r.Duration(raw.Timeout, "timeout", MinTimeout, MaxTimeout, DefaultTimeout),
		RetryFor: r.Duration(raw.RetryFor, "retry_for", 0, MaxRetryFor, DefaultRetryFor),
		Level:    levels[conf.OneOf(r, raw.Level, "level", "info", "info", "warn", "error")],
		Events:   x.events(),
	}
	var kinds []string
	for _, k := range []struct {
		name string
		set  bool
	}{{"webhook", raw.Webhook.Set}, {"script", len(raw.Script) > 0}, {"mail", raw.Mail.Set}} {
		if k.set {
			kinds = append(kinds, k.name)
		}
	}
	switch len(kinds) {
	case 1:
	case 0:
		r.Errorf(x.pos, "", "says not whom to tell: must have one of: webhook, script, mail")
		return Sink{}
	default:
		r.Errorf(x.pos, "", "has %s: must have one of them; another one is a sink of its own", strings.Join(kinds, " and "))
		return Sink{}
	}
	kind := kinds[0]
	for _, only := range []struct {
		key   string
		value conf.Value
		kind  string
	}{
		{"headers", first(raw.Headers), "webhook"}, {"secret_file", raw.SecretFile, "webhook"}, {"ca", raw.CA, "webhook"}, {"user", raw.User, "script"},
	} {
		switch {
		case !only.value.Set || only.kind == kind:
		case only.key == "ca" && kind == "mail":
			r.Errorf(only.value.Pos, only.key, "belongs into the mapping mail")
		default:
			r.Errorf(only.value.Pos, only.key, "is for a %s, not for a %s", only.kind, kind)
		}
	}
	switch kind {
	case "webhook":
		s.Webhook = x.webhook()
	case "script":
		s.Script = x.script()
	case "mail":
		s.Mail = x.mail(r.In("mail"))
	}
	if s.Name = kind; raw.Name.Set {
		if s.Name = raw.Name.Text; !validName(s.Name) {
			r.Errorf(raw.Name.Pos, "name", "%q must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", s.Name)
			return Sink{}
		}
		s.Name = strings.Clone(s.Name)
	}
	return s
}

// validName holds names to what is a word in the status, in metrics and on the command line.
func validName(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

func first(l conf.List) conf.Value {
	if len(l) == 0 {
		return conf.Value{}
	}
	return conf.Value{Set: true, Pos: l[0].Pos}
}

func (x *reader) events() []string {
	if len(x.raw.Events) == 0 {
		return DefaultKinds()
	}
	var out []string
	for _, v := range x.raw.Events {
		switch {
		case v.Text == "all":
			out = append(out, Kinds...)
		case !slices.Contains(Kinds, v.Text):
			x.r.Errorf(v.Pos, "events", "%q is not one of: all, %s", v.Text, strings.Join(Kinds, ", "))
		case slices.Contains(out, v.Text):
			x.r.Errorf(v.Pos, "events", "%q is there already", v.Text)
		default:
			out = append(out, strings.Clone(v.Text))
		}
	}
	return out
}

// text reads what has to be there, of bounded length and without control characters; "" if it is not.
func text(r *conf.Reader, v conf.Value, field string, pos conf.Pos) string {
	switch s := v.Text; {
	case !r.Required(v, field, pos):
	case len(s) > maxText:
		r.Errorf(v.Pos, field, "%d bytes are too long: must be at most %d", len(s), maxText)
	case !utf8.ValidString(s), strings.ContainsFunc(s, unicode.IsControl):
		r.Errorf(v.Pos, field, "%q has characters that cannot be printed", s)
	default:
		return strings.Clone(s)
	}
	return ""
}

// file reads the path of a file, if there is one.
func (x *reader) file(r *conf.Reader, v conf.Value, field string) string {
	if !v.Set {
		return ""
	}
	s := text(r, v, field, v.Pos)
	if s != "" && !filepath.IsAbs(s) {
		s = filepath.Join(x.folder, s)
	}
	return s
}

func (x *reader) webhook() *Webhook {
	raw, r := x.raw, x.r
	w := &Webhook{SecretFile: x.file(r, raw.SecretFile, "secret_file"), CA: x.file(r, raw.CA, "ca")}
	if s := text(r, raw.Webhook, "webhook", x.pos); s != "" {
		u, err := url.Parse(s)
		switch {
		case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "":
			r.Errorf(raw.Webhook.Pos, "webhook", "is not a URL such as https://hooks.example.com/lvs")
		case u.User != nil:
			r.Errorf(raw.Webhook.Pos, "webhook", "has a user in the URL: write the header Authorization among headers instead")
		case u.Fragment != "":
			r.Errorf(raw.Webhook.Pos, "webhook", "has a fragment, which is not sent: write the URL without what begins with #")
		case w.CA != "" && u.Scheme != "https":
			r.Errorf(raw.CA.Pos, "ca", "is of no use without https")
		}
		if p := portOf(u); err == nil && u.User == nil && p != "" && !validPort(p) {
			r.Errorf(raw.Webhook.Pos, "webhook", "port %s is out of range: must be between 1 and 65535", p)
		}
		w.URL = s
	}
	if n := len(raw.Headers); n > maxHeaders {
		r.Errorf(raw.Headers[0].Pos, "headers", "%d are too many: must be at most %d", n, maxHeaders)
		return w
	}
	for _, v := range raw.Headers {
		name, value, found := strings.Cut(v.Text, ":")
		value = strings.TrimSpace(value)
		switch name = textproto.CanonicalMIMEHeaderKey(name); {
		case !found, !httpguts.ValidHeaderFieldName(name), !httpguts.ValidHeaderFieldValue(value), len(v.Text) > maxText:
			r.Errorf(v.Pos, "headers", "must each be of the form \"Name: value\", of at most %d bytes", maxText) // not repeated: it may be a secret
		case slices.Contains([]string{"Host", "Content-Length", "Content-Type", "Transfer-Encoding", "Connection", SignatureHeader}, name):
			r.Errorf(v.Pos, "headers", "%s is set by the director", name)
		default:
			w.Headers = append(w.Headers, name+": "+value)
		}
	}
	return w
}

// SignatureHeader is the header of a webhook that has the signature.
const SignatureHeader = "X-Drover-Signature"

func portOf(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Port()
}

func validPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func (x *reader) script() *Script {
	raw, r := x.raw, x.r
	s := &Script{User: DefaultUser}
	n := 0
	for _, a := range raw.Script {
		n += len(a.Text)
		if strings.Contains(a.Text, "\x00") {
			r.Errorf(a.Pos, "script", "%q has a zero byte", a.Text)
		}
		s.Command = append(s.Command, strings.Clone(a.Text))
	}
	switch {
	case !filepath.IsAbs(s.Command[0]):
		r.Errorf(raw.Script[0].Pos, "script", "%q is not an absolute path", s.Command[0])
	case n > maxText:
		r.Errorf(raw.Script[0].Pos, "script", "%d bytes are too long: must be at most %d", n, maxText)
	}
	if raw.User.Set {
		s.User = text(r, raw.User, "user", raw.User.Pos)
	}
	return s
}

func (x *reader) mail(r *conf.Reader) *Mail {
	raw, pos := &x.raw.Mail.V, x.raw.Mail.Pos
	m := &Mail{AuthFile: x.file(r, raw.AuthFile, "auth_file"), CA: x.file(r, raw.CA, "ca")}
	def := Opportunistic
	if m.AuthFile != "" {
		def = Required // a password is not sent in the clear because somebody on the way says that there is no TLS
	}
	m.TLS = conf.OneOf(r, raw.TLS, "tls", def, Required, Opportunistic, Implicit, Off)
	if m.AuthFile != "" && m.TLS != Required && m.TLS != Implicit {
		r.Errorf(raw.TLS.Pos, "tls", "%s may send what is in auth_file in the clear: must be required or implicit", m.TLS)
	}
	if m.CA != "" && m.TLS == Off {
		r.Errorf(raw.CA.Pos, "ca", "is of no use with tls: off")
	}
	m.server(r, raw.Server, pos)
	if raw.Helo.Set {
		if m.Helo = text(r, raw.Helo, "helo_name", pos); m.Helo != "" && !httpguts.ValidHostHeader(m.Helo) {
			r.Errorf(raw.Helo.Pos, "helo_name", "%q is not a host name", m.Helo)
		}
	}
	m.From = address(r, raw.From, "email_from", pos)
	switch n := len(raw.To); {
	case n == 0:
		r.Errorf(pos, "email_to", "is required")
	case n > maxRecipients:
		r.Errorf(raw.To[0].Pos, "email_to", "%d are too many: must be at most %d", n, maxRecipients)
	default:
		for _, v := range raw.To {
			if a := address(r, v, "email_to", pos); a != "" {
				m.To = append(m.To, a)
			}
		}
	}
	return m
}

// server reads a host with or without port.
func (m *Mail) server(r *conf.Reader, v conf.Value, pos conf.Pos) {
	s := text(r, v, "smtp_server", pos)
	if s == "" {
		return
	}
	m.Host, m.Port = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"), DefaultMailPort
	if m.TLS == Implicit {
		m.Port = DefaultImplicitPort
	}
	if host, port, err := net.SplitHostPort(s); err == nil && strings.Trim(port, "0123456789") == "" {
		if !validPort(port) {
			r.Errorf(v.Pos, "smtp_server", "port %q is out of range: must be between 1 and 65535", port)
			return
		}
		n, _ := strconv.ParseUint(port, 10, 16)
		m.Host, m.Port = host, uint16(n)
	}
	if net.ParseIP(m.Host) == nil && (m.Host == "" || strings.ContainsAny(m.Host, ":/@[]") || !httpguts.ValidHostHeader(m.Host)) {
		r.Errorf(v.Pos, "smtp_server", "%q is not a host or HOST:PORT, such as mail.example.com:25", s)
	}
}

// address reads an address of mail, without a name.
func address(r *conf.Reader, v conf.Value, field string, pos conf.Pos) string {
	s := text(r, v, field, pos)
	if s == "" {
		return ""
	}
	if a, err := mail.ParseAddress(s); err != nil || a.Name != "" || a.Address != s {
		r.Errorf(v.Pos, field, "%q is not an address such as ops@example.com", s)
		return ""
	}
	return s
}
