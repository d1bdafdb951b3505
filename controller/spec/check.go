package spec

import (
	"net/netip"
	"time"

	"github.com/drover-lb/drover/ipvs"
)

// Check is one way to find out whether a real server serves. It is comparable: real servers whose checks are
// equal and go to the same place share one probe.
type Check struct {
	Kind CheckKind
	Path CheckPath
	Port uint16     // 0: that of the real server
	Bind netip.Addr // source address; invalid: the kernel chooses, but never a VIP
	Mark uint32     // firewall mark of the probes; path rip only, 0 for none

	Interval time.Duration // between the starts of two probes, ± a tenth at random
	Fast     time.Duration // the same while the outcome differs from the state; at most Interval
	Timeout  time.Duration // of one probe
	Rise     int           // so many good ones in a row make a server up
	Fall     int           // so many bad ones in a row make it down

	HTTP   HTTPCheck // http and https
	TLS    TLSCheck  // tls, https and grpcs
	Script ScriptCheck

	Service string // grpc and grpcs: whose health is asked for; "" for that of the server
	Name    string // dns: what is asked for, with a final dot
	Record  string // dns: the type of the record, such as SOA
	Send    string // udp: the payload of the datagram
	Expect  string // udp: regular expression that the answer has to match; "" for any answer
	Helo    string // smtp: how the director calls itself
}

// TLSCheck is how a check speaks TLS. Files are read with each probe, so that they may be replaced.
type TLSCheck struct {
	ServerName string // sent, and verified
	CA         string // file of certificates to trust; "" for those of the system
	Cert, Key  string // files of the director's own certificate; "" for none
	Insecure   bool   // the certificate is not verified
}

// ScriptCheck is a program whose exit status is the answer: 0 is good, all else bad. With Dynamic, 2 and above
// are good too, and the weight of the server is the status less 2, but at least Min and at most Max.
type ScriptCheck struct {
	Command  string // its arguments, joined by newlines; the first is an absolute path
	User     string // name of whom it runs as
	Dynamic  bool
	Min, Max uint32
}

// HTTPCheck is what an HTTP check sends and expects. Its lists are texts in one form, so that it is comparable.
type HTTPCheck struct {
	Method  string // GET unless written
	URI     string // begins with a slash
	Host    string // "": the address that is checked
	Headers string // lines of "Name: value"
	Status  string // ranges such as "200-399,418"
	Body    string // regular expression that the first MaxBody bytes have to match; "" for none
}

// MaxBody is how much of an answer's body a check reads, in bytes.
const MaxBody = 64 << 10

// CheckKind is the protocol of a check.
type CheckKind string

// Kinds of checks.
const (
	CheckTCP    CheckKind = "tcp"    // the connection is accepted
	CheckTLS    CheckKind = "tls"    // the handshake is completed
	CheckHTTP   CheckKind = "http"   // a request is answered as expected
	CheckHTTPS  CheckKind = "https"  // the same over TLS
	CheckGRPC   CheckKind = "grpc"   // grpc.health.v1.Health/Check says SERVING
	CheckGRPCS  CheckKind = "grpcs"  // the same over TLS
	CheckDNS    CheckKind = "dns"    // a query is answered without an error
	CheckUDP    CheckKind = "udp"    // a datagram is answered
	CheckSMTP   CheckKind = "smtp"   // greeting and EHLO are answered
	CheckICMP   CheckKind = "icmp"   // an echo request is answered
	CheckScript CheckKind = "script" // a program ends with 0
)

// checkKinds are all kinds, in the order of the reference.
var checkKinds = []CheckKind{CheckTCP, CheckTLS, CheckHTTP, CheckHTTPS, CheckGRPC, CheckGRPCS, CheckDNS, CheckUDP, CheckSMTP, CheckICMP, CheckScript}

// DNSRecords are the types of records that a check can ask for.
var DNSRecords = []string{"SOA", "NS", "A", "AAAA", "MX", "TXT", "SRV", "CNAME", "PTR"}

// Reaction is Health, and where that says nothing, as of a pool without checks, its defaults.
func (s *Service) Reaction() Health {
	if s.Health != (Health{}) {
		return s.Health
	}
	return Health{OnFail: Remove, FlapHold: DefaultFlapHold, Quorum: DefaultQuorum, Panic: DefaultPanic}
}

// CheckPath is the way of a probe.
type CheckPath string

const (
	// PathVIP: to the VIP, by way of the one real server, as a client's packets go.
	PathVIP CheckPath = "vip"
	// PathRIP: to the real server's own address.
	PathRIP CheckPath = "rip"
)

// Health is how a service with checks reacts to what they say. It is comparable.
type Health struct {
	OnFail OnFail
	// SlowStart is how long the weight of a server that comes up takes to grow from a tenth to the whole.
	SlowStart time.Duration
	// FlapHold is how long a server that went down for the second time in a row has to stay up before it counts
	// as such; with each further time twice as long. 0: not at all.
	FlapHold time.Duration
	// Quorum is the weight that the servers that are up need to have together. It is lost below Quorum less
	// Hysteresis, and there again from Quorum plus Hysteresis on.
	Quorum, Hysteresis uint32
	// Sorry answers instead while the quorum is lost. Its Addr is invalid if there is none.
	Sorry ipvs.Destination
	// Panic: if more than so many percent of the servers go down at once, they are served on. 100: never.
	Panic int
}

// OnFail is what becomes of a real server that is down.
type OnFail string

const (
	// Remove takes it out of the table: with expire_nodest_conn its clients are told at their next packet.
	Remove OnFail = "remove"
	// WeightZero keeps it with weight 0: it gets no new connections, those that it has go on.
	WeightZero OnFail = "weight_0"
)

const (
	// DefaultCheckMark is the first firewall mark of the checks unless a director's file says otherwise.
	DefaultCheckMark = 0x44520000
	// CheckMarks is how many marks from the first on the checks use: one for each real server that is checked at
	// its VIPs.
	CheckMarks = 1 << 16
)

// Defaults of checks.
const (
	DefaultDNSName    = "."
	DefaultDNSRecord  = "SOA"
	DefaultHelo       = "localhost"
	DefaultScriptUser = "nobody"
)

// Defaults of all checks, and of how a service reacts to them.
const (
	DefaultCheckInterval = time.Second
	DefaultCheckFast     = 200 * time.Millisecond
	DefaultCheckTimeout  = time.Second
	DefaultFlapHold      = 10 * time.Second
	DefaultQuorum        = 1
	DefaultPanic         = 99 // without a sorry server; all of them, that is
	DefaultRise          = 2
	DefaultFall          = 3
)

// Checked reports whether the real servers of the service are looked after: by checks, or, as members of a pool, by
// their agents.
func (s *Service) Checked() bool { return len(s.Checks) > 0 || s.Pool != "" }

// Place is where a probe goes. It is comparable.
type Place struct {
	To netip.AddrPort
	// Via is the real server through which the probe goes, without port, weight and thresholds; its Addr is
	// invalid if the probe goes to To by the way of all packets.
	Via ipvs.Destination
	// For is the VIP that a script is told of; invalid for all other checks, which do not depend on it.
	For netip.Addr
}

// VIP is For as text, "" if there is none.
func (p *Place) VIP() string {
	if !p.For.IsValid() {
		return ""
	}
	return p.For.String()
}

// Place says where a check of a real server of the service goes, on the way of path.
func (s *Service) Place(c *Check, path CheckPath, d *ipvs.Destination) Place {
	port := d.Port
	if c.Port != 0 {
		port = c.Port
	}
	if path == PathVIP {
		via := *d
		via.Port, via.Weight, via.Upper, via.Lower = 0, 1, 0, 0
		return Place{To: netip.AddrPortFrom(s.Addr, port), Via: via}
	}
	p := Place{To: netip.AddrPortFrom(d.Addr, port)}
	if c.Kind == CheckScript {
		p.For = s.Addr
	}
	return p
}
