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

	HTTP HTTPCheck // of kinds http and https
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
	CheckTCP  CheckKind = "tcp"  // the connection is accepted
	CheckHTTP CheckKind = "http" // a request is answered as expected
)

// checkKinds are all kinds, in the order of the reference.
var checkKinds = []CheckKind{CheckTCP, CheckHTTP}

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
	DefaultCheckInterval = time.Second
	DefaultCheckFast     = 200 * time.Millisecond
	DefaultCheckTimeout  = time.Second
	DefaultFlapHold      = 10 * time.Second
	DefaultQuorum        = 1
	DefaultPanic         = 99 // without a sorry server; all of them, that is
	DefaultRise          = 2
	DefaultFall          = 3
)

// Checked reports whether any real server of the service is checked.
func (s *Service) Checked() bool { return len(s.Checks) > 0 }

// Place is where a probe goes. It is comparable.
type Place struct {
	To netip.AddrPort
	// Via is the real server through which the probe goes, without port, weight and thresholds; its Addr is
	// invalid if the probe goes to To by the way of all packets.
	Via ipvs.Destination
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
	return Place{To: netip.AddrPortFrom(d.Addr, port)}
}
