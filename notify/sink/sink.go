package sink

import (
	"log/slog"
	"slices"
	"time"
)

// Bounds and defaults of sinks.
const (
	MaxSinks = 16

	DefaultTimeout = 10 * time.Second // of one try
	MinTimeout     = 100 * time.Millisecond
	MaxTimeout     = time.Minute

	DefaultRetryFor = time.Hour
	MaxRetryFor     = 24 * time.Hour

	DefaultUser = "nobody" // whom programs run as

	// Ports of SMTP: RFC 5321 section 4.5.4.2, and RFC 8314 section 7.3.
	DefaultMailPort     = 25
	DefaultImplicitPort = 465

	maxText       = 4 << 10 // bytes of a text, a URL or a command
	maxHeaders    = 32
	maxRecipients = 100 // RFC 5321 section 4.5.3.1.8: what every server takes
)

// Kinds of events, in the order in which they are documented.
const (
	Role        = "role"        // this director became active or standby
	Health      = "health"      // a real server, or the sorry server or panic of a service
	Drain       = "drain"       // the drain of a real server
	Weights     = "weights"     // a weight that follows loads has changed much, or its server tells none any more
	Tracker     = "tracker"     // what keeps this director from being active
	Conflict    = "conflict"    // somebody else claims a VIP
	Election    = "election"    // a node that does not fit the election
	Late        = "late"        // this process did not get to run in time
	Spec        = "spec"        // a change of the specification
	Gossip      = "gossip"      // two nodes of one name
	Handover    = "handover"    // asked for by an operator
	Maintenance = "maintenance" // switched on or off
	Keys        = "keys"        // the cluster's keys changed
	Reload      = "reload"      // a file that is not taken, or not all of it
	Sync        = "sync"        // of connections, before preempting
	Timeouts    = "timeouts"    // of connections, set by an operator
	Zero        = "zero"        // counters set back by an operator
	Notify      = "notify"      // a sink fails, or works again
	Test        = "test"        // drover notify test; goes to every sink that is tested
)

// Kinds lists those that a file can name.
var Kinds = []string{Role, Health, Drain, Weights, Tracker, Conflict, Election, Late, Spec, Gossip, Handover, Maintenance, Keys, Reload, Sync, Timeouts, Zero, Notify}

// quiet are the kinds that nobody is told of who does not ask for them: acts of operators that change no traffic, what
// mends itself, and sinks that fail, which more of them would do then.
var quiet = []string{Weights, Sync, Timeouts, Zero, Notify}

// DefaultKinds lists the kinds that a sink takes whose events are not written.
func DefaultKinds() []string {
	return slices.DeleteFunc(slices.Clone(Kinds), func(k string) bool { return slices.Contains(quiet, k) })
}

// Sink is somebody who is told. One of Webhook, Script and Mail is set.
type Sink struct {
	Name     string        // unique; letters, digits and hyphens
	Events   []string      // kinds that it takes
	Level    slog.Level    // the least level that it takes: info, warn or error
	Timeout  time.Duration // of one try, MinTimeout to MaxTimeout
	RetryFor time.Duration // how old an event may get that is tried again, 0 to MaxRetryFor; each is tried once at least
	Webhook  *Webhook
	Script   *Script
	Mail     *Mail
}

// Takes reports whether events of a kind and a level are for it.
func (s *Sink) Takes(kind string, level slog.Level) bool {
	return level >= s.Level && slices.Contains(s.Events, kind)
}

// Kind is webhook, script or mail.
func (s *Sink) Kind() string {
	switch {
	case s.Webhook != nil:
		return "webhook"
	case s.Script != nil:
		return "script"
	}
	return "mail"
}

// Files lists what it reads: paths of files that only their owner may read, and of others.
func (s *Sink) Files() (secret, public []string) {
	add := func(to *[]string, path string) {
		if path != "" {
			*to = append(*to, path)
		}
	}
	if w := s.Webhook; w != nil {
		add(&secret, w.SecretFile)
		add(&public, w.CA)
	}
	if m := s.Mail; m != nil {
		add(&secret, m.AuthFile)
		add(&public, m.CA)
	}
	return secret, public
}

// Webhook is a URL to which events are posted.
type Webhook struct {
	URL        string   // http or https, without user and fragment
	Headers    []string // "Name: value"
	SecretFile string   // of the key of the signature; "": none
	CA         string   // PEM file of the authorities that are trusted; "": those of the system
}

// Script is a program that is run for each event.
type Script struct {
	Command []string // absolute path and arguments
	User    string
}

// TLS says how a mail server is spoken with.
type TLS string

const (
	Opportunistic TLS = "opportunistic" // STARTTLS if the server offers it; the certificate is verified then
	Required      TLS = "required"      // STARTTLS, or nothing is sent
	Implicit      TLS = "implicit"      // TLS from the first byte (RFC 8314, section 3)
	Off           TLS = "off"
)

// Mail is a server that takes mail, and for whom.
type Mail struct {
	Host     string // name or address
	Port     uint16
	From     string   // an address, without name
	To       []string // likewise, at least one
	Helo     string   // what this host calls itself; "": its host name
	TLS      TLS
	AuthFile string // its first line is USER:PASSWORD; "": none
	CA       string // PEM file of the authorities that are trusted; "": those of the system
}
