package spec

import (
	"cmp"
	"fmt"
	"net"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/net/http/httpguts"

	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/ipvs"
)

// Bounds of checks.
const (
	minCheckInterval, maxCheckInterval = 20 * time.Millisecond, time.Hour
	minCheckTimeout, maxCheckTimeout   = 10 * time.Millisecond, time.Minute
	maxRiseFall                        = 100
	maxChecks                          = 16      // of one service
	maxCheckText                       = 4 << 10 // bytes of a text in a check
)

type rawCheck struct {
	Type         conf.Value `yaml:"type"`
	Path         conf.Value `yaml:"path"`
	Port         conf.Value `yaml:"port"`
	Bind         conf.Value `yaml:"bind"`
	Mark         conf.Value `yaml:"mark"`
	Interval     conf.Value `yaml:"interval"`
	FastInterval conf.Value `yaml:"fast_interval"`
	Timeout      conf.Value `yaml:"timeout"`
	Rise         conf.Value `yaml:"rise"`
	Fall         conf.Value `yaml:"fall"`
	Method       conf.Value `yaml:"method"`
	URI          conf.Value `yaml:"uri"`
	Host         conf.Value `yaml:"host"`
	Headers      conf.List  `yaml:"headers"`
	Status       conf.List  `yaml:"status"`
	Body         conf.Value `yaml:"body"`
	ServerName   conf.Value `yaml:"server_name"`
	CA           conf.Value `yaml:"ca"`
	Cert         conf.Value `yaml:"cert"`
	Key          conf.Value `yaml:"key"`
	Verify       conf.Value `yaml:"verify"`
	Service      conf.Value `yaml:"service"`
	Name         conf.Value `yaml:"name"`
	Record       conf.Value `yaml:"record"`
	Send         conf.Value `yaml:"send"`
	Expect       conf.Value `yaml:"expect"`
	Helo         conf.Value `yaml:"helo"`
	Command      conf.List  `yaml:"command"`
	User         conf.Value `yaml:"user"`
	MinWeight    conf.Value `yaml:"min_weight"`
	MaxWeight    conf.Value `yaml:"max_weight"`
}

// only lists the keys that are for some kinds of checks.
func (raw *rawCheck) only() []onlyFor {
	http := []CheckKind{CheckHTTP, CheckHTTPS}
	tls := []CheckKind{CheckTLS, CheckHTTPS, CheckGRPCS}
	script := []CheckKind{CheckScript}
	return []onlyFor{
		{"method", raw.Method, http}, {"uri", raw.URI, http}, {"host", raw.Host, http}, {"headers", firstOf(raw.Headers), http},
		{"status", firstOf(raw.Status), http}, {"body", raw.Body, http},
		{"server_name", raw.ServerName, tls}, {"ca", raw.CA, tls}, {"cert", raw.Cert, tls}, {"key", raw.Key, tls}, {"verify", raw.Verify, tls},
		{"service", raw.Service, []CheckKind{CheckGRPC, CheckGRPCS}},
		{"name", raw.Name, []CheckKind{CheckDNS}}, {"record", raw.Record, []CheckKind{CheckDNS}},
		{"send", raw.Send, []CheckKind{CheckUDP}}, {"expect", raw.Expect, []CheckKind{CheckUDP}},
		{"helo", raw.Helo, []CheckKind{CheckSMTP}},
		{"command", firstOf(raw.Command), script}, {"user", raw.User, script}, {"min_weight", raw.MinWeight, script}, {"max_weight", raw.MaxWeight, script},
	}
}

type onlyFor struct {
	key   string
	value conf.Value
	kinds []CheckKind
}

func (c *rawCheck) UnmarshalYAML(n ast.Node) error {
	type mapping rawCheck
	return conf.ScalarOr(n, &c.Type, (*mapping)(c))
}

type rawHealth struct {
	OnFail         conf.Value         `yaml:"on_fail"`
	SlowStart      conf.Value         `yaml:"slow_start"`
	FlapHold       conf.Value         `yaml:"flap_hold"`
	Quorum         conf.Value         `yaml:"quorum"`
	Hysteresis     conf.Value         `yaml:"hysteresis"`
	SorryServer    conf.At[rawServer] `yaml:"sorry_server"`
	PanicThreshold conf.Value         `yaml:"panic_threshold"`
}

// checkReader reads one check.
type checkReader struct {
	*serviceReader
	r   *conf.Reader
	raw *rawCheck
	out Check
	ok  bool
}

func (s *serviceReader) checks() {
	list := s.raw.Checks.V
	if len(list) > maxChecks {
		s.r.Errorf(s.raw.Checks.Pos, "checks", "%d are too many: must be at most %d", len(list), maxChecks)
		return
	}
	for i := range list {
		c := checkReader{serviceReader: s, raw: &list[i].V, ok: true}
		c.r = s.r.In("%s", label("checks", i, c.raw.Type))
		c.read(list[i].Pos)
		if !c.ok {
			continue
		}
		if slices.Contains(s.svc.Checks, c.out) {
			c.r.Errorf(list[i].Pos, "", "is there twice")
			continue
		}
		s.svc.Checks = append(s.svc.Checks, c.out)
	}
	switch {
	case len(list) > 0, s.raw.Health.Set && s.svc.Pool != "":
		s.health()
	case s.raw.Health.Set:
		s.r.Errorf(s.raw.Health.Pos, "health", "is about what checks find, and there are neither checks nor a pool: write checks: [tcp], for instance")
	}
}

// health reads how the service reacts to its checks.
func (s *serviceReader) health() {
	raw, r, h := &s.raw.Health.V, s.r.In("health"), &s.svc.Health
	h.OnFail = conf.OneOf(r, raw.OnFail, "on_fail", Remove, Remove, WeightZero)
	h.SlowStart = r.Duration(raw.SlowStart, "slow_start", 0, time.Hour, 0)
	if sch := s.svc.Scheduler; h.SlowStart > 0 && !s.svc.ByWeight() {
		s.warn(raw.SlowStart.Pos, s.place, "health: slow_start has no effect with the scheduler %s, which does not share by weight: wrr and wlc do", sch)
	}
	h.FlapHold = r.Duration(raw.FlapHold, "flap_hold", 0, 10*time.Minute, DefaultFlapHold)
	h.Quorum = uint32(r.Int(raw.Quorum, "quorum", 1, maxThreshold, DefaultQuorum))
	h.Hysteresis = uint32(r.Int(raw.Hysteresis, "hysteresis", 0, int64(h.Quorum)-1, 0))
	panics := int64(DefaultPanic)
	if raw.SorryServer.Set {
		panics = 100
		d, ok := s.server(r.In("sorry_server"), &raw.SorryServer.V, raw.SorryServer.Pos)
		if d.Drain.On {
			r.Errorf(raw.SorryServer.V.Drain.Pos, "sorry_server: drain", "is for real servers: take the sorry server out instead")
		}
		if ok && d.Weight == 0 {
			r.Errorf(raw.SorryServer.V.Weight.Pos, "sorry_server: weight", "0 would let it answer nobody: must be between 1 and 65535")
		}
		h.Sorry = d.Destination
	}
	h.Panic = int(r.Int(raw.PanicThreshold, "panic_threshold", 1, 100, panics))
}

// fail notes a complaint.
func (c *checkReader) fail(pos conf.Pos, field, format string, args ...any) {
	c.ok = false
	c.r.Errorf(pos, field, format, args...)
}

func (c *checkReader) read(pos conf.Pos) {
	raw, o := c.raw, &c.out
	if !c.r.Required(raw.Type, "type", pos) {
		c.ok = false
		return
	}
	o.Kind = conf.OneOf(c.r, raw.Type, "type", "", checkKinds...)
	if o.Kind == "" {
		c.ok = false
		return
	}
	c.timing()
	c.way(pos)
	for _, f := range raw.only() {
		if f.value.Set && !slices.Contains(f.kinds, o.Kind) {
			words := make([]string, len(f.kinds))
			for i, k := range f.kinds {
				words[i] = string(k)
			}
			c.fail(f.value.Pos, f.key, "is for checks of type %s, not %s", strings.Join(words, ", "), o.Kind)
		}
	}
	switch o.Kind {
	case CheckHTTP:
		c.http()
	case CheckHTTPS:
		c.http()
		c.tls(pos)
	case CheckTLS, CheckGRPCS:
		c.tls(pos)
	case CheckDNS:
		c.dns()
	case CheckUDP:
		o.Send = c.text(raw.Send, "send", "")
		if o.Send == "" {
			c.fail(cmp.Or(raw.Send.Pos, pos), "send", "is required: the datagram that is to be answered")
		}
		c.expression(raw.Expect, "expect", &o.Expect)
	case CheckSMTP:
		if o.Helo = c.text(raw.Helo, "helo", DefaultHelo); !httpguts.ValidHostHeader(o.Helo) || o.Helo == "" {
			c.fail(raw.Helo.Pos, "helo", "%q is not a host name", o.Helo)
		}
	case CheckScript:
		c.script(pos)
	case CheckTCP, CheckGRPC, CheckICMP:
	}
	if o.Kind == CheckGRPC || o.Kind == CheckGRPCS {
		o.Service = c.text(raw.Service, "service", "")
	}
}

// text reads a text of bounded length.
func (c *checkReader) text(v conf.Value, field, def string) string {
	if !v.Set {
		return def
	}
	if len(v.Text) > maxCheckText {
		c.fail(v.Pos, field, "%d bytes are too long: must be at most %d", len(v.Text), maxCheckText)
		return def
	}
	return strings.Clone(v.Text)
}

func (c *checkReader) file(v conf.Value, field string) string {
	s := c.text(v, field, "")
	if v.Set && !strings.HasPrefix(s, "/") {
		c.fail(v.Pos, field, "%q is not an absolute path", s)
	}
	return s
}

func (c *checkReader) tls(pos conf.Pos) {
	raw, t := c.raw, &c.out.TLS
	t.ServerName = c.text(raw.ServerName, "server_name", hostOnly(c.out.HTTP.Host))
	t.CA, t.Cert, t.Key = c.file(raw.CA, "ca"), c.file(raw.Cert, "cert"), c.file(raw.Key, "key")
	t.Insecure = !c.r.Bool(raw.Verify, "verify", true)
	switch {
	case (t.Cert == "") != (t.Key == ""):
		c.fail(cmp.Or(raw.Cert.Pos, raw.Key.Pos), "cert", "needs key, and key needs cert")
	case !t.Insecure && t.ServerName == "":
		c.fail(pos, "server_name", "is required to verify the certificate: write the name that is in it, or verify: false")
	case t.Insecure && t.CA != "":
		c.fail(raw.CA.Pos, "ca", "is of no use with verify: false")
	}
}

// hostOnly is a host without its port.
func hostOnly(s string) string {
	if h, _, err := net.SplitHostPort(s); err == nil {
		return h
	}
	return s
}

func (c *checkReader) dns() {
	o := &c.out
	o.Name = c.text(c.raw.Name, "name", DefaultDNSName)
	if !strings.HasSuffix(o.Name, ".") {
		o.Name += "."
	}
	if _, err := dnsmessage.NewName(o.Name); err != nil || len(o.Name) > 254 || strings.Contains(o.Name[:len(o.Name)-1]+"x", "..") {
		c.fail(c.raw.Name.Pos, "name", "%q is not a domain name", o.Name)
	}
	o.Record = conf.OneOf(c.r, c.raw.Record, "record", DefaultDNSRecord, DNSRecords...)
	c.ok = c.ok && (!c.raw.Record.Set || o.Record == c.raw.Record.Text)
}

func (c *checkReader) script(pos conf.Pos) {
	raw, s := c.raw, &c.out.Script
	s.Command = strings.Join(raw.Command.Texts(), "\n")
	switch {
	case len(raw.Command) == 0:
		c.fail(pos, "command", "is required: the program and its arguments, such as [/usr/local/bin/check, --quick]")
	case !strings.HasPrefix(s.Command, "/"):
		c.fail(raw.Command[0].Pos, "command", "%q is not an absolute path", raw.Command[0].Text)
	case strings.Count(s.Command, "\n") != len(raw.Command)-1, strings.Contains(s.Command, "\x00"), len(s.Command) > maxCheckText:
		c.fail(raw.Command[0].Pos, "command", "must be at most %d bytes, without line ends", maxCheckText)
	}
	if s.User = c.text(raw.User, "user", DefaultScriptUser); s.User == "" {
		c.fail(raw.User.Pos, "user", "is empty: must be the name of a user")
	}
	s.Min = uint32(c.number(raw.MinWeight, "min_weight", 0, 253, 0))
	if s.Dynamic = raw.MaxWeight.Set; s.Dynamic {
		s.Max = uint32(c.number(raw.MaxWeight, "max_weight", int64(max(s.Min, 1)), 253, 0))
	} else if raw.MinWeight.Set {
		c.fail(raw.MinWeight.Pos, "min_weight", "needs max_weight: with that, an exit status of 2 and above is a weight, and 2 more than it")
	}
}

// duration is Reader.Duration that notes whether it complained.
func (c *checkReader) duration(v conf.Value, field string, lo, hi, def time.Duration) time.Duration {
	d := c.r.Duration(v, field, lo, hi, -1)
	if d < 0 {
		c.ok = c.ok && !v.Set
		return def
	}
	return d
}

func (c *checkReader) number(v conf.Value, field string, lo, hi, def int64) int64 {
	n := c.r.Int(v, field, lo, hi, -1)
	if n < 0 {
		c.ok = c.ok && !v.Set
		return def
	}
	return n
}

func (c *checkReader) timing() {
	raw, o := c.raw, &c.out
	o.Interval = c.duration(raw.Interval, "interval", minCheckInterval, maxCheckInterval, DefaultCheckInterval)
	o.Fast = c.duration(raw.FastInterval, "fast_interval", minCheckInterval, maxCheckInterval, min(DefaultCheckFast, o.Interval))
	if o.Fast > o.Interval {
		c.fail(raw.FastInterval.Pos, "fast_interval", "%s is above the interval: must be between %s and %s", o.Fast, minCheckInterval, o.Interval)
	}
	o.Timeout = c.duration(raw.Timeout, "timeout", minCheckTimeout, maxCheckTimeout, DefaultCheckTimeout)
	o.Rise = int(c.number(raw.Rise, "rise", 1, maxRiseFall, DefaultRise))
	o.Fall = int(c.number(raw.Fall, "fall", 1, maxRiseFall, DefaultFall))
}

// way reads where a check goes, and from where.
func (c *checkReader) way(pos conf.Pos) {
	raw, o := c.raw, &c.out
	if raw.Port.Set {
		n := c.number(raw.Port, "port", 1, 65535, 0)
		o.Port = uint16(n)
		if o.Kind == CheckICMP {
			c.fail(raw.Port.Pos, "port", "is nothing that ICMP has")
		}
	} else if c.port == 0 && o.Kind != CheckICMP {
		c.fail(pos, "port", "is required, as the service has none of its own")
	}
	def := PathVIP
	why := ""
	switch {
	case o.Kind == CheckICMP, o.Kind == CheckScript:
		def, why = PathRIP, "is not for checks of type "+string(o.Kind)
	case c.raw0().FWMark.Set:
		def, why = PathRIP, "needs a service with an address: which VIPs an fwmark stands for is not known here"
	case c.forwardOK && c.forward == ipvs.Masq:
		def, why = PathRIP, "is for forwarding: direct and tunnel, whose real servers have the VIP"
	}
	word := conf.OneOf(c.r, raw.Path, "path", def, PathVIP, PathRIP)
	if raw.Path.Set && string(word) != raw.Path.Text {
		c.ok = false
	}
	o.Path = word
	if word == PathVIP && why != "" {
		c.fail(raw.Path.Pos, "path", "vip %s", why)
	}
	if raw.Bind.Set {
		if o.Bind = hostAddr(c.r, raw.Bind); !o.Bind.IsValid() {
			c.ok = false
		} else if c.keyOK && ipvs.FamilyOf(o.Bind) != c.svc.Family {
			c.fail(raw.Bind.Pos, "bind", "%s is %s, the service is %s", o.Bind, familyName(ipvs.FamilyOf(o.Bind)), familyName(c.svc.Family))
		}
	}
	if raw.Mark.Set {
		o.Mark = uint32(c.number(raw.Mark, "mark", 1, 1<<32-1, 0))
		if word == PathVIP {
			c.fail(raw.Mark.Pos, "mark", "is for path: rip only: on the way to the VIP the mark says through which real server")
		}
	}
}

// raw0 is the service as it was written.
func (c *checkReader) raw0() *rawService { return c.serviceReader.raw }

func (c *checkReader) http() {
	raw, h := c.raw, &c.out.HTTP
	h.Method = strings.Clone(c.r.String(raw.Method, "GET"))
	if !httpguts.ValidHeaderFieldName(h.Method) { // both are tokens (RFC 9110, sections 5.6.2 and 9.1)
		c.fail(raw.Method.Pos, "method", "%q is not a method such as GET or HEAD", h.Method)
	}
	h.URI = strings.Clone(c.r.String(raw.URI, "/"))
	if !strings.HasPrefix(h.URI, "/") || len(h.URI) > maxCheckText || strings.ContainsFunc(h.URI, func(x rune) bool { return x <= ' ' || x > '~' }) {
		c.fail(raw.URI.Pos, "uri", "%q must begin with a slash and be at most %d printable ASCII characters without spaces", h.URI, maxCheckText)
	}
	h.Host = strings.Clone(raw.Host.Text)
	if !httpguts.ValidHostHeader(h.Host) || len(h.Host) > 255 || raw.Host.Set && h.Host == "" {
		c.fail(raw.Host.Pos, "host", "%q is not a host name", h.Host)
	}
	var lines []string
	for _, v := range raw.Headers {
		name, value, found := strings.Cut(v.Text, ":")
		value = strings.TrimSpace(value)
		switch name = textproto.CanonicalMIMEHeaderKey(name); {
		case !found, !httpguts.ValidHeaderFieldName(name), !httpguts.ValidHeaderFieldValue(value), len(v.Text) > maxCheckText:
			c.fail(v.Pos, "headers", "%q is not of the form \"Name: value\"", v.Text)
		case name == "Host":
			c.fail(v.Pos, "headers", "the header Host has a key of its own: host: %s", value)
		default:
			lines = append(lines, name+": "+value)
		}
	}
	h.Headers = strings.Join(lines, "\n")
	h.Status = DefaultStatus
	if len(raw.Status) > 0 {
		var list []string
		for _, v := range raw.Status {
			lo, hi, err := statusRange(v.Text)
			if err != nil {
				c.fail(v.Pos, "status", "%v", err)
				continue
			}
			if lo == hi {
				list = append(list, strconv.Itoa(lo))
			} else {
				list = append(list, fmt.Sprintf("%d-%d", lo, hi))
			}
		}
		h.Status = strings.Join(list, ",")
	}
	c.expression(raw.Body, "body", &h.Body)
}

// expression reads a regular expression.
func (c *checkReader) expression(v conf.Value, field string, into *string) {
	if !v.Set {
		return
	}
	if _, err := regexp.Compile(v.Text); err != nil || v.Text == "" || len(v.Text) > maxCheckText {
		c.fail(v.Pos, field, "%q is not a regular expression of 1 to %d characters: %v", v.Text, maxCheckText, cmp.Or(fmt.Sprint(err), "it is empty or too long"))
		return
	}
	*into = strings.Clone(v.Text)
}

// DefaultStatus is what an HTTP check expects unless the file says otherwise.
const DefaultStatus = "200-399"

func statusRange(s string) (lo, hi int, err error) {
	a, b, found := strings.Cut(s, "-")
	if !found {
		b = a
	}
	lo, err1 := strconv.Atoi(a)
	hi, err2 := strconv.Atoi(b)
	if err1 != nil || err2 != nil || lo < 100 || hi > 599 || lo > hi {
		return 0, 0, fmt.Errorf("%q is not a status or a range of them, such as 200 or 200-399: must be between 100 and 599", s)
	}
	return lo, hi, nil
}

// Statuses lists the ranges of h.Status.
func (h *HTTPCheck) Statuses() (ranges [][2]int) {
	for s := range strings.SplitSeq(h.Status, ",") {
		if lo, hi, err := statusRange(s); err == nil {
			ranges = append(ranges, [2]int{lo, hi})
		}
	}
	return ranges
}

// firstOf is the first value of a list.
func firstOf(l conf.List) conf.Value {
	if len(l) == 0 {
		return conf.Value{}
	}
	return conf.Value{Set: true, Pos: l[0].Pos}
}
