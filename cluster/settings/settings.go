package settings

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
)

// Bounds and defaults.
const (
	DefaultPort  = 7946 // of the gossip, TCP and UDP; what Serf and others use
	DefaultLabel = "drover"

	MinLease = 100 * time.Millisecond
	MaxLease = time.Minute
	// DefaultLease is short enough that a client's first retransmission (1 s, RFC 6298) finds the new
	// director, and long enough that a busy host of a quiet network keeps it.
	DefaultLease = 400 * time.Millisecond
	FastLease    = 150 * time.Millisecond // quiet network, real-time priority
	WANLease     = 3 * time.Second        // directors in different places

	MaxVoters       = 15
	MaxGroups       = 64
	DefaultGroup    = "default" // of VIPs
	DefaultPriority = 100       // VRRP's, RFC 5798 section 5.2.4

	DefaultSyncPort = 8848 // IP_VS_SYNC_PORT

	maxName  = 63  // bytes, a label of a host name (RFC 1035, section 2.3.4)
	maxLabel = 127 // bytes
)

// Mode says how the active director is found.
type Mode string

const (
	// Lease: a majority of the voters leases the VIPs to one director.
	Lease Mode = "lease"
	// Priority: the highest priority heard wins, as in VRRP. Two directors that do not hear each other are
	// both active.
	Priority Mode = "priority"
)

// Voter is a node that has a vote.
type Voter struct {
	Name     string
	Address  netip.AddrPort // of its gossip
	Director bool           // a candidate too
}

// Sync is how the kernel's connection synchronisation is to run.
type Sync struct {
	Enabled   bool
	Interface string // "": the director's default interface
	ID        uint8  // messages of another id are ignored; 0: those of any id are taken
	Group     netip.Addr
	Port      uint16
	TTL       uint8
	MaxLen    uint16 // bytes of a message; 0: the director's default
}

// Options are the settings of one node. Voters are in the order of the file.
type Options struct {
	Name    string         // of this node
	Address netip.AddrPort // own, of the gossip
	Label   string         // of the cluster
	KeyFile string         // a relative path is one from where the file is that names it
	Voters  []Voter
	Join    []netip.AddrPort // beside the voters

	Groups   []string // of VIPs, at least one
	Mode     Mode
	Lease    time.Duration
	Priority uint8
	// PreemptDelay is how long a director of higher priority has to be well before it asks the active one to
	// hand over; negative: never.
	PreemptDelay time.Duration
	Sync         Sync
	Trackers     []Tracker // beside those that every director has
}

// Raw is the mapping as it is written, for embedding in a file's raw struct.
type Raw struct {
	Name     conf.Value                `yaml:"name"`
	Address  conf.Value                `yaml:"address"`
	Label    conf.Value                `yaml:"label"`
	KeyFile  conf.Value                `yaml:"key_file"`
	Voters   conf.At[[]conf.At[voter]] `yaml:"voters"`
	Join     []conf.Value              `yaml:"join"`
	Groups   []conf.Value              `yaml:"groups"`
	Mode     conf.Value                `yaml:"mode"`
	Lease    conf.Value                `yaml:"lease"`
	Priority conf.Value                `yaml:"priority"`
	Preempt  conf.Value                `yaml:"preempt"`
	Sync     conf.At[rawSync]          `yaml:"sync"`

	Trackers conf.At[[]conf.At[rawTracker]] `yaml:"trackers"`
}

type voter struct {
	Name     conf.Value `yaml:"name"`
	Address  conf.Value `yaml:"address"`
	Director conf.Value `yaml:"director"`
}

type rawSync struct {
	Enabled   conf.Value `yaml:"enabled"`
	Interface conf.Value `yaml:"interface"`
	ID        conf.Value `yaml:"id"`
	Group     conf.Value `yaml:"group"`
	Port      conf.Value `yaml:"port"`
	TTL       conf.Value `yaml:"ttl"`
	MaxLen    conf.Value `yaml:"max_len"`
}

// Kind is the daemon whose file is read: some keys are for one of them only.
type Kind uint8

const (
	Director Kind = iota
	RealServer
)

// Read turns the mapping into Options, or nil if it is not there. Complaints go to r, which is that of the
// whole file; path is where that file is.
func Read(r *conf.Reader, raw conf.At[Raw], kind Kind, path string) *Options {
	if !raw.Set {
		return nil
	}
	w, in := &raw.V, r.In("cluster")
	o := &Options{
		Name:     name(in, w.Name, "name"),
		Label:    in.String(w.Label, DefaultLabel),
		KeyFile:  in.String(w.KeyFile, ""),
		Mode:     conf.OneOf(in, w.Mode, "mode", Lease, Lease, Priority),
		Lease:    lease(in, w.Lease),
		Priority: uint8(in.Int(w.Priority, "priority", 1, 254, DefaultPriority)),
	}
	if !w.Name.Set {
		host, err := os.Hostname()
		host, _, _ = strings.Cut(host, ".")
		if o.Name = strings.ToLower(host); err != nil || !ValidName(o.Name) {
			in.Errorf(raw.Pos, "name", "is required, as the host name (%q) is none that a node can have: must be %s", host, NameRule)
		}
	}
	if l := o.Label; l == "" || len(l) > maxLabel {
		in.Errorf(w.Label.Pos, "label", "%d bytes: must be 1 to %d", len(l), maxLabel)
	}
	if in.Required(w.KeyFile, "key_file", raw.Pos) && !filepath.IsAbs(o.KeyFile) {
		o.KeyFile = filepath.Join(filepath.Dir(path), o.KeyFile)
	}
	o.voters(in, w, raw.Pos, kind)
	o.groups(in, w.Groups)
	o.preempt(in, w.Preempt)
	for i, v := range w.Join {
		if a := address(in.In("join[%d]", i), v, ""); a.IsValid() {
			o.Join = append(o.Join, a)
		}
	}
	o.sync(in.In("sync"), &w.Sync.V)
	o.trackers(in, w.Trackers)
	if kind != Director {
		for _, x := range []struct {
			set   bool
			pos   conf.Pos
			field string
		}{{w.Priority.Set, w.Priority.Pos, "priority"}, {w.Preempt.Set, w.Preempt.Pos, "preempt"}, {w.Sync.Set, w.Sync.Pos, "sync"}, {w.Trackers.Set, w.Trackers.Pos, "trackers"}} {
			if x.set {
				in.Errorf(x.pos, x.field, "is for directors only")
			}
		}
	}
	return o
}

func (o *Options) voters(r *conf.Reader, w *Raw, pos conf.Pos, kind Kind) {
	if !w.Voters.Set || len(w.Voters.V) == 0 {
		if w.Voters.Pos != (conf.Pos{}) {
			pos = w.Voters.Pos
		}
		r.Errorf(pos, "voters", "is required: the directors, and a third node if there are two, each with name and address")
		return
	}
	if n := len(w.Voters.V); n > MaxVoters {
		r.Errorf(w.Voters.Pos, "voters", "%d: at most %d", n, MaxVoters)
	}
	names, addrs := map[string]int{}, map[netip.AddrPort]int{}
	for i, v := range w.Voters.V {
		in := r.In("voters[%d]", i)
		if !in.Required(v.V.Name, "name", v.Pos) || !in.Required(v.V.Address, "address", v.Pos) {
			continue
		}
		x := Voter{name(in, v.V.Name, "name"), address(in, v.V.Address, "address"), in.Bool(v.V.Director, "director", true)}
		if x.Name == "" || !x.Address.IsValid() {
			continue
		}
		if first, twice := names[x.Name]; twice {
			in.Errorf(v.V.Name.Pos, "name", "%q is a voter already in line %d", x.Name, first)
			continue
		}
		if first, twice := addrs[x.Address]; twice {
			in.Errorf(v.V.Address.Pos, "address", "%s is a voter's already in line %d", x.Address, first)
			continue
		}
		names[x.Name], addrs[x.Address] = v.V.Name.Pos.Line, v.V.Address.Pos.Line
		o.Voters = append(o.Voters, x)
	}
	o.Address = address(r, w.Address, "address")
	if self, ok := o.Voter(o.Name); ok {
		if o.Address.IsValid() && o.Address != self {
			r.Errorf(w.Address.Pos, "address", "%s is another than in voters, %s", o.Address, self)
		}
		o.Address = self
	} else if !w.Address.Set && kind != Director && o.Name != "" {
		r.Errorf(pos, "address", "is required, as %q is not among the voters", o.Name)
	}
	if o.Name == "" || len(o.Voters) != len(w.Voters.V) {
		return
	}
	for i, v := range o.Voters {
		if v.Name == o.Name && v.Director != (kind == Director) {
			p := w.Voters.V[i]
			if v.Director {
				r.Errorf(cmp.Or(p.V.Director.Pos, p.Pos), "voters", "%q is not a director: write director: false", v.Name)
			} else {
				r.Errorf(p.V.Director.Pos, "voters", "%q is a director: must be true", v.Name)
			}
		}
	}
	if _, ok := o.Voter(o.Name); !ok && kind == Director {
		r.Errorf(cmp.Or(w.Voters.Pos, pos), "voters", "must have %q, as every director has a vote", o.Name)
	}
}

// Directors lists the names of the voters that are directors, in the order of the file.
func (o *Options) Directors() []string {
	var out []string
	for _, v := range o.Voters {
		if v.Director {
			out = append(out, v.Name)
		}
	}
	return out
}

// Voter returns the address of a voter.
func (o *Options) Voter(name string) (netip.AddrPort, bool) {
	for _, v := range o.Voters {
		if v.Name == name {
			return v.Address, true
		}
	}
	return netip.AddrPort{}, false
}

func (o *Options) groups(r *conf.Reader, list []conf.Value) {
	for i, v := range list {
		in := r.In("groups[%d]", i)
		if !in.Required(v, "", v.Pos) {
			continue
		}
		g := name(in, v, "")
		if slices.Contains(o.Groups, g) {
			in.Errorf(v.Pos, "", "%q is listed already", g)
		} else if g != "" {
			o.Groups = append(o.Groups, g)
		}
	}
	if len(list) > MaxGroups {
		r.Errorf(list[MaxGroups].Pos, "groups", "%d: at most %d", len(list), MaxGroups)
	}
	if len(list) == 0 {
		o.Groups = []string{DefaultGroup}
	}
}

func (o *Options) preempt(r *conf.Reader, v conf.Value) {
	switch v.Text {
	case "", "false":
		o.PreemptDelay = -1
	case "true":
		o.PreemptDelay = 0
	default:
		o.PreemptDelay = r.Duration(v, "preempt", 0, time.Hour, -1)
	}
}

func (o *Options) sync(r *conf.Reader, w *rawSync) {
	s := &o.Sync
	s.Enabled = r.Bool(w.Enabled, "enabled", true)
	s.Interface = r.String(w.Interface, "")
	if len(s.Interface) > 15 {
		r.Errorf(w.Interface.Pos, "interface", "%q is too long: must be 1 to 15 bytes", s.Interface)
	}
	s.ID = uint8(r.Int(w.ID, "id", 0, 255, 0))
	s.Port = uint16(r.Int(w.Port, "port", 1, 65535, DefaultSyncPort))
	s.TTL = uint8(r.Int(w.TTL, "ttl", 1, 255, 1))
	s.MaxLen = uint16(r.Int(w.MaxLen, "max_len", 0, 65507, 0))
	if s.Group = r.Addr(w.Group, "group"); s.Group.IsValid() && !s.Group.IsMulticast() {
		r.Errorf(w.Group.Pos, "group", "%s is not a multicast address", s.Group)
	}
}

func lease(r *conf.Reader, v conf.Value) time.Duration {
	switch v.Text {
	case "default":
		return DefaultLease
	case "fast":
		return FastLease
	case "wan":
		return WANLease
	}
	return r.Duration(v, "lease", MinLease, MaxLease, DefaultLease)
}

// address reads an address with or without port.
func address(r *conf.Reader, v conf.Value, field string) netip.AddrPort {
	if !v.Set {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(v.Text)
	if err != nil {
		a := r.Addr(v, field)
		if !a.IsValid() {
			return netip.AddrPort{}
		}
		ap = netip.AddrPortFrom(a, DefaultPort)
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if a := ap.Addr(); ap.Port() == 0 || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() {
		r.Errorf(v.Pos, field, "%q is not an address at which a node can be reached", v.Text)
		return netip.AddrPort{}
	}
	return ap
}

func name(r *conf.Reader, v conf.Value, field string) string {
	if !v.Set {
		return ""
	}
	if !ValidName(v.Text) {
		r.Errorf(v.Pos, field, "%q must be %s", v.Text, NameRule)
		return ""
	}
	return strings.Clone(v.Text)
}

// NameRule is what ValidName asks for, in words.
const NameRule = "1 to 63 of a-z, 0-9 and -, not beginning or ending with -"

// ValidName reports whether s can be the name of a node, a group or a pool.
func ValidName(s string) bool {
	if s == "" || len(s) > maxName || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// Names lists the voters' names, in the order of the file.
func (o *Options) Names() []string {
	out := make([]string, len(o.Voters))
	for i, v := range o.Voters {
		out[i] = v.Name
	}
	return out
}

// Fingerprint is short and equal on nodes that agree on who votes, on what, in which mode, and for how long.
func (o *Options) Fingerprint() string {
	h := sha256.New()
	for _, v := range slices.SortedFunc(slices.Values(o.Voters), func(a, b Voter) int { return strings.Compare(a.Name, b.Name) }) {
		fmt.Fprintf(h, "%s=%s %t\n", v.Name, v.Address, v.Director)
	}
	for _, g := range slices.Sorted(slices.Values(o.Groups)) {
		h.Write([]byte(g + "\n"))
	}
	h.Write([]byte(string(o.Mode) + " " + o.Lease.String()))
	return hex.EncodeToString(h.Sum(nil)[:4])
}
