package spec

import (
	"cmp"
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/goccy/go-yaml/ast"

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
	case len(list) > 0:
		s.health()
	case s.raw.Health.Set:
		s.r.Errorf(s.raw.Health.Pos, "health", "is about what checks find, and there are none: write checks: [tcp], for instance")
	}
}

// health reads how the service reacts to its checks.
func (s *serviceReader) health() {
	raw, r, h := &s.raw.Health.V, s.r.In("health"), &s.svc.Health
	h.OnFail = conf.OneOf(r, raw.OnFail, "on_fail", Remove, Remove, WeightZero)
	h.SlowStart = r.Duration(raw.SlowStart, "slow_start", 0, time.Hour, 0)
	if sch := s.svc.Scheduler; h.SlowStart > 0 && slices.Contains([]string{"rr", "lc", "dh", "fo", "ovf"}, sch) {
		s.warn(raw.SlowStart.Pos, s.place, "health: slow_start has no effect with the scheduler %s, which does not share by weight: wrr and wlc do", sch)
	}
	h.FlapHold = r.Duration(raw.FlapHold, "flap_hold", 0, 10*time.Minute, DefaultFlapHold)
	h.Quorum = uint32(r.Int(raw.Quorum, "quorum", 1, maxThreshold, DefaultQuorum))
	h.Hysteresis = uint32(r.Int(raw.Hysteresis, "hysteresis", 0, int64(h.Quorum)-1, 0))
	panics := int64(DefaultPanic)
	if raw.SorryServer.Set {
		panics = 100
		d, ok := s.server(r.In("sorry_server"), &raw.SorryServer.V, raw.SorryServer.Pos)
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
	c.http()
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
	} else if c.port == 0 {
		c.fail(pos, "port", "is required, as the service has none of its own")
	}
	def := PathVIP
	why := ""
	switch {
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
	if c.out.Kind != CheckHTTP {
		for _, f := range []struct {
			name string
			pos  conf.Pos
			set  bool
		}{
			{"method", raw.Method.Pos, raw.Method.Set}, {"uri", raw.URI.Pos, raw.URI.Set}, {"host", raw.Host.Pos, raw.Host.Set},
			{"headers", first(raw.Headers), len(raw.Headers) > 0}, {"status", first(raw.Status), len(raw.Status) > 0}, {"body", raw.Body.Pos, raw.Body.Set},
		} {
			if f.set {
				c.fail(f.pos, f.name, "is for checks of type http, not %s", c.out.Kind)
			}
		}
		return
	}
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

func first(l conf.List) conf.Pos {
	if len(l) == 0 {
		return conf.Pos{}
	}
	return l[0].Pos
}
