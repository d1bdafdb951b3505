package spec

import (
	"fmt"
	"strings"
)

// checks writes the checks of a service, and how it reacts to them.
func (w *writer) checks(s *Service) {
	if !s.Checked() {
		return
	}
	if len(s.Checks) > 0 {
		w.line(2, "checks:")
	}
	for i := range s.Checks {
		w.line(3, "- {%s}", s.Checks[i].fields())
	}
	var health []string
	if s.Health.OnFail == WeightZero {
		health = append(health, "on_fail: "+string(s.Health.OnFail))
	}
	rules := s.Reaction()
	h := &rules
	add := func(format string, args ...any) { health = append(health, fmt.Sprintf(format, args...)) }
	if h.SlowStart != 0 {
		add("slow_start: %s", duration(h.SlowStart))
	}
	if h.FlapHold != DefaultFlapHold {
		add("flap_hold: %s", duration(h.FlapHold))
	}
	if h.Quorum != DefaultQuorum {
		add("quorum: %d", h.Quorum)
	}
	if h.Hysteresis != 0 {
		add("hysteresis: %d", h.Hysteresis)
	}
	if h.Sorry.Addr.IsValid() {
		d := RealServer{Name: h.Sorry.Addr.String(), Destination: h.Sorry}
		if d.Port != s.Port {
			d.Name = d.DestKey.String()
		}
		add("sorry_server: %s", appendServer(nil, &d, s.Port, commonForward(s.RealServers), DrainPolicy{}))
	}
	if h.Panic != DefaultPanic || h.Sorry.Addr.IsValid() {
		add("panic_threshold: %d", h.Panic)
	}
	if len(health) > 0 {
		w.line(2, "health: {%s}", strings.Join(health, ", "))
	}
}

// fields lists the keys of a check as a mapping in one line has them. Only what has a default that does not
// depend on anything else is left out.
func (c *Check) fields() string {
	out := []string{"type: " + string(c.Kind), "path: " + string(c.Path)}
	add := func(key, format string, args ...any) { out = append(out, key+": "+fmt.Sprintf(format, args...)) }
	text := func(key, value, def string) {
		if value != def {
			add(key, "%s", scalar(value))
		}
	}
	if c.Port != 0 {
		add("port", "%d", c.Port)
	}
	if c.Bind.IsValid() {
		add("bind", "%s", scalar(c.Bind.String()))
	}
	if c.Mark != 0 {
		add("mark", "%d", c.Mark)
	}
	add("interval", "%s", duration(c.Interval))
	add("fast_interval", "%s", duration(c.Fast))
	add("timeout", "%s", duration(c.Timeout))
	add("rise", "%d", c.Rise)
	add("fall", "%d", c.Fall)
	switch c.Kind {
	case CheckHTTP, CheckHTTPS:
		h := &c.HTTP
		text("method", h.Method, "GET")
		text("uri", h.URI, "/")
		text("host", h.Host, "")
		if h.Headers != "" {
			var lines []string
			for l := range strings.SplitSeq(h.Headers, "\n") {
				lines = append(lines, scalar(l))
			}
			add("headers", "[%s]", strings.Join(lines, ", "))
		}
		if h.Status != DefaultStatus {
			add("status", "[%s]", strings.ReplaceAll(h.Status, ",", ", "))
		}
		text("body", h.Body, "")
	case CheckGRPC, CheckGRPCS:
		text("service", c.Service, "")
	case CheckDNS:
		text("name", c.Name, DefaultDNSName)
		text("record", c.Record, DefaultDNSRecord)
	case CheckUDP:
		text("send", c.Send, "")
		text("expect", c.Expect, "")
	case CheckSMTP:
		text("helo", c.Helo, DefaultHelo)
	case CheckScript:
		var words []string
		for w := range strings.SplitSeq(c.Script.Command, "\n") {
			words = append(words, scalar(w))
		}
		add("command", "[%s]", strings.Join(words, ", "))
		text("user", c.Script.User, DefaultScriptUser)
		if c.Script.Dynamic {
			add("min_weight", "%d", c.Script.Min)
			add("max_weight", "%d", c.Script.Max)
		}
	case CheckTCP, CheckTLS, CheckICMP:
	}
	if c.Kind == CheckTLS || c.Kind == CheckHTTPS || c.Kind == CheckGRPCS {
		text("server_name", c.TLS.ServerName, hostOnly(c.HTTP.Host))
		text("ca", c.TLS.CA, "")
		text("cert", c.TLS.Cert, "")
		text("key", c.TLS.Key, "")
		if c.TLS.Insecure {
			add("verify", "false")
		}
	}
	return strings.Join(out, ", ")
}
