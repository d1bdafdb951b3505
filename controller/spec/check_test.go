package spec

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/drover-lb/drover/ipvs"
)

// randomChecks gives a service valid checks, sometimes.
func randomChecks(r *rand.Rand, s *Service) {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	for i := range r.IntN(3) {
		c := Check{Kind: checkKinds[r.IntN(len(checkKinds))], Path: PathRIP, Port: uint16(1 + i)}
		if c.Kind == CheckICMP {
			c.Port = 0
		}
		if c.Kind != CheckICMP && c.Kind != CheckScript && s.FWMark == 0 && commonForward(s.RealServers) != ipvs.Masq && r.IntN(2) == 0 {
			c.Path = PathVIP
		}
		if c.Path == PathRIP && r.IntN(2) == 0 {
			c.Mark = 1 + r.Uint32N(1<<32-1)
		}
		if r.IntN(3) == 0 {
			c.Bind = netip.MustParseAddr("10.9.9.9")
			if s.Family == ipvs.IPv6 {
				c.Bind = netip.MustParseAddr("fd00::9")
			}
		}
		c.Interval = minCheckInterval + time.Duration(r.Int64N(int64(maxCheckInterval-minCheckInterval)))
		c.Fast = minCheckInterval + time.Duration(r.Int64N(int64(c.Interval-minCheckInterval)+1))
		c.Timeout = minCheckTimeout + time.Duration(r.Int64N(int64(maxCheckTimeout-minCheckTimeout)))
		c.Rise, c.Fall = 1+r.IntN(maxRiseFall), 1+r.IntN(maxRiseFall)
		switch c.Kind {
		case CheckGRPC, CheckGRPCS:
			c.Service = pick("", "a.b.C")
		case CheckDNS:
			c.Name, c.Record = pick(".", "example.com."), pick(DNSRecords...)
		case CheckUDP:
			c.Send, c.Expect = pick("x", "\x01\n\"", "null"), pick("", "^a", "1")
		case CheckSMTP:
			c.Helo = pick(DefaultHelo, "a.example.com")
		case CheckScript:
			c.Script = ScriptCheck{Command: pick("/bin/true", "/bin/a\n-b\n1"), User: pick(DefaultScriptUser, "root")}
			if c.Script.Dynamic = r.IntN(2) == 0; c.Script.Dynamic {
				c.Script.Min, c.Script.Max = r.Uint32N(10), 10+r.Uint32N(200)
			}
		case CheckTCP, CheckTLS, CheckICMP:
		case CheckHTTP, CheckHTTPS:
			c.HTTP = HTTPCheck{Method: pick("GET", "HEAD", "OPTIONS"), URI: pick("/", "/a?b=c&d", "/%20\"'#:"), Host: pick("", "example.com", "[fd00::1]:80"),
				Headers: pick("", "X-A: b: c", "X-A: \"b\"\nX-B: "), Status: pick(DefaultStatus, "200", "200-299,404"), Body: pick("", "^ok$", "a: \"b\" # c", "\\s+\t")}
		}
		if c.Kind == CheckTLS || c.Kind == CheckHTTPS || c.Kind == CheckGRPCS {
			c.TLS = TLSCheck{ServerName: pick("a.example.com", "b"), CA: pick("", "/a b")}
			if r.IntN(2) == 0 {
				c.TLS = TLSCheck{Insecure: true, ServerName: hostOnly(c.HTTP.Host), Cert: "/c", Key: "/k"}
			}
		}
		s.Checks = append(s.Checks, c)
	}
	if len(s.Checks) > 0 {
		h := &s.Health
		h.OnFail = []OnFail{Remove, WeightZero}[r.IntN(2)]
		h.SlowStart, h.FlapHold = time.Duration(r.Int64N(int64(time.Hour))), []time.Duration{0, DefaultFlapHold, time.Minute}[r.IntN(3)]
		h.Quorum, h.Panic = 1+r.Uint32N(5), 1+r.IntN(100)
		h.Hysteresis = r.Uint32N(h.Quorum)
		if len(s.RealServers) > 0 && r.IntN(2) == 0 {
			h.Sorry = s.RealServers[0].Destination
			h.Sorry.Weight = 1 + r.Uint32N(9)
		}
	}
}
