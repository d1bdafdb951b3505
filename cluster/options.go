package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cluster/keyring"
)

// Bounds.
const (
	DefaultPort = 7946

	MaxName    = 63 // bytes
	MaxLabel   = memberlist.LabelMaxSize
	MaxVersion = 64  // bytes
	MaxMeta    = 400 // bytes; memberlist has 512, of which role, start and version need a part
	MaxSeeds   = 64

	// MaxDatagram bounds a message of Send together with the header of the envelope (20 bytes and both
	// names), so that with label and encryption it fits an Ethernet frame for labels up to 90 bytes. Longer
	// labels make IP fragments of the largest.
	MaxDatagram = 1300
	// MaxMessage bounds the payload of SendReliable, of a request and of a reply. memberlist would drop what is larger
	// than 20 MiB and tell nobody.
	MaxMessage = 16 << 20

	// ReservedKind is the first of the kinds that Handle and HandleRequest refuse.
	ReservedKind = 0xf0
)

// Role is what a node is for.
type Role uint8

const (
	Director Role = iota + 1
	RealServer
	Witness // votes, and nothing else
)

func (r Role) String() string {
	switch r {
	case Director:
		return "director"
	case RealServer:
		return "realserver"
	case Witness:
		return "witness"
	}
	return "role " + strconv.Itoa(int(r))
}

// Timing is how fast membership is gossiped. A zero field takes DefaultTiming's.
type Timing struct {
	// A member is failed after about ProbeInterval * (1 + SuspicionMult * max(1, log10 n)), twice that if few
	// confirm it.
	ProbeInterval time.Duration
	ProbeTimeout  time.Duration // of one probe, less than ProbeInterval
	SuspicionMult int

	GossipInterval   time.Duration
	PushPullInterval time.Duration // of the exchange of everything with one member; longer above 32 members

	// ReconnectInterval is how often seeds that are not alive, and one of the failed members, are tried.
	ReconnectInterval time.Duration
	// GossipToTheDeadTime is how long after its failure a member is still told things; memberlist forgets it then.
	GossipToTheDeadTime time.Duration
	// DeadNodeReclaimTime is when the name of a failed member may come back from another address.
	DeadNodeReclaimTime time.Duration

	StreamTimeout time.Duration // of connecting, and of an exchange
	LeaveTimeout  time.Duration // of saying goodbye
}

// DefaultTiming is for any network; a member that failed is known after some two seconds.
func DefaultTiming() Timing {
	return Timing{
		ProbeInterval: 500 * time.Millisecond, ProbeTimeout: 250 * time.Millisecond, SuspicionMult: 3,
		GossipInterval: 100 * time.Millisecond, PushPullInterval: 5 * time.Second,
		ReconnectInterval: 3 * time.Second, GossipToTheDeadTime: 30 * time.Second, DeadNodeReclaimTime: 10 * time.Second,
		StreamTimeout: 10 * time.Second, LeaveTimeout: time.Second,
	}
}

// FastTiming is for tests on one host.
func FastTiming() Timing {
	return Timing{
		ProbeInterval: 100 * time.Millisecond, ProbeTimeout: 50 * time.Millisecond, SuspicionMult: 2,
		GossipInterval: 20 * time.Millisecond, PushPullInterval: time.Second,
		ReconnectInterval: 200 * time.Millisecond, GossipToTheDeadTime: 2 * time.Second, DeadNodeReclaimTime: 500 * time.Millisecond,
		StreamTimeout: 2 * time.Second, LeaveTimeout: time.Second,
	}
}

// Options are the settings of a node.
type Options struct {
	Name  string // unique in the cluster; ValidName
	Role  Role
	Label string // of the cluster, 0 to MaxLabel bytes: nodes of other labels are strangers

	Bind      netip.AddrPort // TCP and UDP; port 0 takes a free one. The zero value is every IPv4 address and DefaultPort.
	Advertise netip.AddrPort // where others reach this node; zero: Bind, which must be a single address then

	// Keys are one or two, of 16, 24 or 32 bytes; the first encrypts. Without any, KeyFile is read.
	Keys [][]byte
	// KeyFile is read if Keys is empty, and written when the keys of the cluster change.
	KeyFile  string
	Insecure bool // no keys: nothing is encrypted, and whoever reaches the port is a member

	Seeds   []string // "address", "host", or either with ":port"; at most MaxSeeds; this node's own does no harm
	Meta    []byte   // at most MaxMeta bytes, seen in Member.Meta
	Version string   // of the product, at most MaxVersion bytes, seen in Member.Version
	Timing  Timing

	// RememberFor is how long members that failed or left stay in Members, and their records in Records; default 72 h.
	RememberFor time.Duration
	// Remember bounds how many of them; default 1,000. The longest gone are forgotten first.
	Remember int

	Log      *slog.Logger          // nil: silent
	Registry prometheus.Registerer // nil: metrics are counted but not exported

	// Transport, if not nil, is what the node speaks through instead of sockets; clustertest has one in memory.
	Transport memberlist.Transport

	now func() time.Time
}

// NameRule is what ValidName asks for, in words.
const NameRule = "1 to 63 of a-z, 0-9, - and ., not beginning or ending with - or ."

// ValidName reports whether s can be the name of a node.
func ValidName(s string) bool {
	if s == "" || len(s) > MaxName || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" {
		return false
	}
	return !strings.ContainsAny(s[:1]+s[len(s)-1:], "-.")
}

func orDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// check fills in defaults and says what is wrong.
func (o *Options) check() error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if !ValidName(o.Name) {
		bad("name %q must be %s", o.Name, NameRule)
	}
	if o.Role < Director || o.Role > Witness {
		bad("role (%d) must be %d to %d", o.Role, Director, Witness)
	}
	if n := len(o.Label); n > MaxLabel {
		bad("label: %d bytes, at most %d", n, MaxLabel)
	}
	if n := len(o.Version); n > MaxVersion {
		bad("version: %d bytes, at most %d", n, MaxVersion)
	}
	if n := len(o.Meta); n > MaxMeta {
		bad("meta: %d bytes, at most %d", n, MaxMeta)
	}
	if n := len(o.Seeds); n > MaxSeeds {
		bad("seeds: %d, at most %d", n, MaxSeeds)
	}
	for _, s := range o.Seeds {
		if _, _, err := splitSeed(s); err != nil {
			bad("seed %q: %w", s, err)
		}
	}
	orDefault(&o.Bind, netip.AddrPortFrom(netip.IPv4Unspecified(), DefaultPort))
	if !o.Bind.Addr().IsValid() || o.Bind.Addr().IsMulticast() {
		bad("bind address %s is not one of a host", o.Bind)
	}
	o.Bind = netip.AddrPortFrom(o.Bind.Addr().Unmap(), o.Bind.Port())
	switch a := o.Advertise.Addr(); {
	case !a.IsValid() && o.Bind.Addr().IsUnspecified() && o.Transport == nil:
		bad("advertise address is required, as bind (%s) is every address", o.Bind)
	case a.IsValid() && (a.IsUnspecified() || a.IsMulticast() || o.Advertise.Port() == 0):
		bad("advertise address %s is not one at which a node can be reached", o.Advertise)
	}
	if o.Advertise.IsValid() {
		o.Advertise = netip.AddrPortFrom(o.Advertise.Addr().Unmap(), o.Advertise.Port())
	}
	errs = append(errs, o.checkKeys()...)
	errs = append(errs, o.Timing.check()...)
	orDefault(&o.RememberFor, 72*time.Hour)
	orDefault(&o.Remember, 1000)
	if o.RememberFor < 0 || o.Remember < 0 {
		bad("remember: %d for %s, must not be negative", o.Remember, o.RememberFor)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registry == nil {
		o.Registry = prometheus.NewRegistry()
	}
	if o.now == nil {
		o.now = time.Now
	}
	return errors.Join(errs...)
}

func (o *Options) checkKeys() (errs []error) {
	if o.Insecure {
		if len(o.Keys) > 0 || o.KeyFile != "" {
			errs = append(errs, errors.New("insecure and keys exclude each other"))
		}
		return errs
	}
	if len(o.Keys) == 0 && o.KeyFile != "" {
		keys, err := keyring.ReadFile(o.KeyFile)
		if err != nil {
			return []error{err}
		}
		o.Keys = keys
	}
	if len(o.Keys) == 0 {
		return []error{errors.New("a key is required (or insecure must be set)")}
	}
	if err := keyring.CheckAll(o.Keys); err != nil {
		errs = append(errs, err)
	}
	return errs
}

func (t *Timing) check() (errs []error) {
	d := DefaultTiming()
	orDefault(&t.ProbeInterval, d.ProbeInterval)
	orDefault(&t.ProbeTimeout, min(d.ProbeTimeout, t.ProbeInterval/2))
	orDefault(&t.SuspicionMult, d.SuspicionMult)
	orDefault(&t.GossipInterval, d.GossipInterval)
	orDefault(&t.PushPullInterval, d.PushPullInterval)
	orDefault(&t.ReconnectInterval, d.ReconnectInterval)
	orDefault(&t.GossipToTheDeadTime, d.GossipToTheDeadTime)
	orDefault(&t.DeadNodeReclaimTime, d.DeadNodeReclaimTime)
	orDefault(&t.StreamTimeout, d.StreamTimeout)
	orDefault(&t.LeaveTimeout, d.LeaveTimeout)
	for _, x := range []struct {
		name     string
		v        time.Duration
		min, max time.Duration
	}{
		{"probe interval", t.ProbeInterval, 10 * time.Millisecond, time.Minute},
		{"probe timeout", t.ProbeTimeout, 5 * time.Millisecond, t.ProbeInterval},
		{"gossip interval", t.GossipInterval, 5 * time.Millisecond, 10 * time.Second},
		{"push/pull interval", t.PushPullInterval, 50 * time.Millisecond, time.Hour},
		{"reconnect interval", t.ReconnectInterval, 50 * time.Millisecond, time.Hour},
		{"gossip-to-the-dead time", t.GossipToTheDeadTime, 10 * time.Millisecond, 24 * time.Hour},
		{"reclaim time", t.DeadNodeReclaimTime, 10 * time.Millisecond, 24 * time.Hour},
		{"stream timeout", t.StreamTimeout, 100 * time.Millisecond, time.Minute},
		{"leave timeout", t.LeaveTimeout, 10 * time.Millisecond, time.Minute},
	} {
		if x.v < x.min || x.v > x.max {
			errs = append(errs, fmt.Errorf("timing: %s (%s) must be between %s and %s", x.name, x.v, x.min, x.max))
		}
	}
	if t.SuspicionMult < 1 || t.SuspicionMult > 20 {
		errs = append(errs, fmt.Errorf("timing: suspicion multiplier (%d) must be between 1 and 20", t.SuspicionMult))
	}
	return errs
}

// splitSeed takes apart "host", "host:port", "address", "[address]:port".
func splitSeed(s string) (host string, port uint16, err error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.String(), DefaultPort, nil
	}
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		if strings.Contains(s, ":") {
			return "", 0, errors.New("is not a host or address with or without port")
		}
		host, p = s, strconv.Itoa(DefaultPort)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("port %q must be 1 to 65535", p)
	}
	if host == "" || strings.ContainsAny(host, "/ ") {
		return "", 0, errors.New("is not a host or address with or without port")
	}
	return host, uint16(n), nil
}
