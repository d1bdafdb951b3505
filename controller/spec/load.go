package spec

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/notify/sink"
)

// Bounds of what a file may say, beside those of the kernel's types.
const (
	minReconcile, maxReconcile = 100 * time.Millisecond, time.Hour
	minLifetime, maxLifetime   = 2 * time.Second, time.Hour

	// MaxPersistence is ipvsadm's limit. The kernel counts the time in ticks in 32 bits, which holds
	// 49 days at 1,000 ticks a second.
	MaxPersistence = 31 * 24 * time.Hour
	// DefaultPersistence is ipvsadm's default.
	DefaultPersistence = 300 * time.Second

	maxThreshold = math.MaxInt32 // the kernel compares with a signed 32-bit count of connections
	maxName      = 63            // bytes in the name of a service or real server
	maxInterface = 15            // bytes, IFNAMSIZ less its final zero
	maxSocket    = 107           // bytes, sun_path less its final zero

	// mhSlots is the size of the table of the scheduler mh in a kernel with the usual
	// CONFIG_IP_VS_MH_TAB_INDEX of 12. With more servers than slots mh refuses to start, and leaves the
	// service without a scheduler.
	mhSlots = 4093
)

// Defaults of Options.
const (
	DefaultReconcileInterval = 5 * time.Second
	DefaultVIPLifetime       = 4 * time.Second
	DefaultSocket            = "/run/drover/director.sock"
)

// Load reads a director's file. An error is of type [conf.Errors] when the content is at fault, with
// every complaint in the order of the file, and otherwise what the file system said.
func Load(path string) (*File, error) {
	var raw rawFile
	r, err := conf.Load(path, &raw)
	if err != nil {
		return nil, err
	}
	f, err := read(path, r, &raw)
	if f.servers() >= 1000 {
		// The syntax tree of a file takes a hundred times the memory of what it says. Give it back now; a
		// director that does not allocate much would keep it for minutes.
		raw = rawFile{}
		debug.FreeOSMemory()
	}
	return f, err
}

// servers counts the real servers of all services; f may be nil.
func (f *File) servers() int {
	n := 0
	if f != nil {
		for i := range f.Spec.Services {
			n += len(f.Spec.Services[i].RealServers)
		}
	}
	return n
}

// Parse is Load for content that is already in memory; name stands for the file in complaints.
func Parse(name string, content []byte) (*File, error) {
	var raw rawFile
	r, err := conf.Parse(name, content, &raw)
	if err != nil {
		return nil, err
	}
	return read(name, r, &raw)
}

// ParseSpec reads what directors replicate: a document with vips and services, and nothing that is for one
// director only. Interfaces may be left to each director's own file.
func ParseSpec(name string, content []byte) (*File, error) {
	var raw rawFile
	r, err := conf.Parse(name, content, &raw)
	if err != nil {
		return nil, err
	}
	for _, x := range []struct {
		set   bool
		pos   conf.Pos
		field string
	}{{raw.Director.Set, raw.Director.Pos, "director"}, {raw.Cluster.Set, raw.Cluster.Pos, "cluster"}} {
		if x.set {
			r.Errorf(x.pos, x.field, "is a setting of one node and belongs into its own file: this one is for vips and services")
		}
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	rd := reader{Reader: r, file: &File{}, name: name, shared: true}
	rd.vips(&raw)
	rd.services(&raw)
	if err := r.Err(); err != nil {
		return nil, err
	}
	return rd.file, nil
}

// With returns the file of a director whose VIPs and services are those of shared, which [ParseSpec] read.
func (f *File) With(shared *File) (*File, error) {
	out := *f
	out.Spec, out.Warnings, out.Unknown = shared.Spec, shared.Warnings, false
	for i := range out.Spec.Services {
		s := &out.Spec.Services[i]
		if f.Director.reserved(s.FWMark) {
			return nil, fmt.Errorf("service %q: fwmark %s", s.Name, f.Director.reservedWhy(s.FWMark))
		}
		if s.scripted() && !f.Director.Scripts {
			return nil, fmt.Errorf("service %q: checks: %s", s.Name, noScripts)
		}
	}
	for i := range out.Spec.VIPs {
		v := &out.Spec.VIPs[i]
		if v.Interface == "" && f.Director.Interface == "" {
			return nil, fmt.Errorf("VIP %s names no interface, and neither does this director's file (director: interface)", v.Prefix)
		}
		if o := f.Cluster; o != nil && !slices.Contains(o.Groups, v.Group) {
			return nil, fmt.Errorf("VIP %s is in the group %q, which is not one of the groups of the cluster: %s", v.Prefix, v.Group, strings.Join(o.Groups, ", "))
		}
	}
	return &out, nil
}

func read(name string, r *conf.Reader, raw *rawFile) (*File, error) {
	rd := reader{Reader: r, file: &File{}, name: name}
	if !raw.VIPs.Set && !raw.Services.Set && raw.VIPs.Pos == raw.Services.Pos && !raw.Cluster.Set {
		r.Errorf(start, "", "says nothing about vips and services: write vips: [] and services: [] if there are none")
		return nil, r.Err()
	}
	rd.director(raw)
	rd.file.Cluster = settings.Read(r, raw.Cluster, settings.Director, name)
	if o := rd.file.Cluster; o != nil && len(o.Voters)%2 == 0 && o.Mode == settings.Lease {
		rd.warn(raw.Cluster.V.Voters.Pos, "cluster", "voters: %d of them have to agree among %d: one more would make no difference to that, and allow for one more to be lost", len(o.Voters)/2+1, len(o.Voters))
	}
	if rd.file.Cluster != nil && !raw.VIPs.Set && !raw.Services.Set {
		rd.file.Replicated, rd.file.Unknown = true, true
		if err := r.Err(); err != nil {
			return nil, err
		}
		return rd.file, nil
	}
	rd.vips(raw)
	rd.services(raw)
	for i := range rd.file.Spec.Services {
		s, w := &rd.file.Spec.Services[i], &raw.Services.V[i].V
		in := rd.In("%s", label("services", i, w.Name))
		if rd.file.Director.reserved(s.FWMark) {
			in.Errorf(w.FWMark.Pos, "fwmark", "%s", rd.file.Director.reservedWhy(s.FWMark))
		}
		if s.scripted() && !rd.file.Director.Scripts {
			in.Errorf(w.Checks.Pos, "checks", "%s", noScripts)
		}
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return rd.file, nil
}

// noScripts: whoever may change the specification of a cluster must not thereby run programs on its directors.
const noScripts = "checks of type script run programs on this director, which its own file has to allow: director: {scripts: true}"

// scripted reports whether a check of the service runs a program.
func (s *Service) scripted() bool {
	return slices.ContainsFunc(s.Checks, func(c Check) bool { return c.Kind == CheckScript })
}

// reserved reports whether a firewall mark is one of the checks'.
func (o *Options) reserved(mark uint32) bool {
	return mark >= o.CheckMark && mark-o.CheckMark < CheckMarks
}

func (o *Options) reservedWhy(mark uint32) string {
	return fmt.Sprintf("%d is one of the marks that health checks use, %d to %d: choose another, or move those by director: check_mark", mark, o.CheckMark, o.CheckMark+CheckMarks-1)
}

// start is where complaints about what a file lacks point to.
var start = conf.Pos{Line: 1, Column: 1}

// reader fills file from raw structs.
type reader struct {
	*conf.Reader
	name string
	file *File
	// shared: what is read is for all directors, whose own files name the interface.
	shared bool
	vip    map[netip.Addr]conf.Pos // the VIPs that were read, and where
}

// warn adds to what is allowed but hardly meant.
func (rd *reader) warn(pos conf.Pos, place, format string, args ...any) {
	rd.file.Warnings = append(rd.file.Warnings, &conf.Error{File: rd.name, Pos: pos, Place: place, Message: fmt.Sprintf(format, args...)})
}

func (rd *reader) director(raw *rawFile) {
	d, r := &raw.Director.V, rd.In("director")
	o := &rd.file.Director
	o.Interface = interfaceName(r, d.Interface)
	o.Ownership = conf.OneOf(r, d.Ownership, "ownership", OwnListed, OwnAll, OwnListed)
	o.OnStop = conf.OneOf(r, d.OnStop, "on_stop", Release, Release, Keep)
	o.ReconcileInterval = r.Duration(d.ReconcileInterval, "reconcile_interval", minReconcile, maxReconcile, DefaultReconcileInterval)
	o.VIPLifetime = wholeSeconds(r, d.VIPLifetime, "vip_lifetime", minLifetime, maxLifetime, DefaultVIPLifetime)
	o.Sysctls = r.Bool(d.Sysctls, "sysctls", true)
	o.CheckMark = uint32(r.Int(d.CheckMark, "check_mark", 1, math.MaxUint32-CheckMarks+1, DefaultCheckMark))
	o.Scripts = r.Bool(d.Scripts, "scripts", false)
	rd.file.Notify = sink.Read(r, d.Notify, rd.name)
	o.Socket = r.String(d.Socket, DefaultSocket)
	switch s := o.Socket; {
	case s == "":
	case !strings.HasPrefix(s, "/"):
		r.Errorf(d.Socket.Pos, "socket", "%q is not an absolute path, and not empty for no socket", s)
	case len(s) > maxSocket:
		r.Errorf(d.Socket.Pos, "socket", "path of %d bytes is too long for a socket: must be at most %d", len(s), maxSocket)
	case !utf8.ValidString(s), strings.ContainsFunc(s, unicode.IsControl):
		r.Errorf(d.Socket.Pos, "socket", "%q is not a path of printable characters", s)
	}
}

// list complains when a list that must be written is not. Empty is fine: it is the difference between
// "none" and a file that was cut off.
func list[T any](r *conf.Reader, l conf.At[[]T], field string, pos conf.Pos) []T {
	if !l.Set {
		if l.Pos != (conf.Pos{}) {
			pos = l.Pos
		}
		r.Errorf(pos, field, "is required: write %s: [] if there are none", field)
	}
	return l.V
}

func (rd *reader) vips(raw *rawFile) {
	vips := list(rd.Reader, raw.VIPs, "vips", start)
	rd.vip = make(map[netip.Addr]conf.Pos, len(vips))
	rd.file.Spec.VIPs = make([]VIP, 0, len(vips))
	missing := false
	for i, v := range vips {
		r := rd.In("vips[%d]", i)
		vip := VIP{Interface: interfaceName(r, v.V.Interface), Group: groupName(r, v.V.Group)}
		if o := rd.file.Cluster; o != nil && !slices.Contains(o.Groups, vip.Group) {
			r.Errorf(cmp.Or(v.V.Group.Pos, v.Pos), "group", "%q is not one of the groups of the cluster: %s", vip.Group, strings.Join(o.Groups, ", "))
		}
		if !v.V.Interface.Set && !raw.Director.V.Interface.Set && !missing && !rd.shared {
			missing = true // one complaint does for all
			r.Errorf(v.Pos, "interface", "is required, here or as the default in director: interface")
		}
		if !r.Required(v.V.Address, "address", v.Pos) {
			continue
		}
		vip.Prefix = r.Prefix(v.V.Address, "address")
		pos := v.V.Address.Pos
		if !vip.Prefix.IsValid() || !vipPrefix(r, pos, vip.Prefix) {
			continue
		}
		a := vip.Prefix.Addr()
		if first, again := rd.vip[a]; again {
			r.Errorf(pos, "address", "%s is a VIP already in line %d", a, first.Line)
			continue
		}
		rd.vip[a] = pos
		rd.file.Spec.VIPs = append(rd.file.Spec.VIPs, vip)
	}
}

func vipPrefix(r *conf.Reader, pos conf.Pos, p netip.Prefix) bool {
	a := p.Addr()
	if !unicast(r, pos, a) {
		return false
	}
	switch {
	case p.Bits() == 0:
		r.Errorf(pos, "address", "prefix length 0 is out of range: must be between 1 and %d", a.BitLen())
	case p.Bits() < a.BitLen()-1 && p == p.Masked():
		r.Errorf(pos, "address", "%s is a whole network: must be the address of a host in it", p)
	case a.Is4() && p.Bits() < 31 && a == lastAddr(p):
		r.Errorf(pos, "address", "%s is the broadcast address of its network: must be the address of a host in it", p)
	default:
		return true
	}
	return false
}

// lastAddr is the last address of an IPv4 network.
func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// unicast complains about addresses that no VIP and no real server can have.
func unicast(r *conf.Reader, pos conf.Pos, a netip.Addr) bool {
	kind := ""
	switch {
	case a.IsUnspecified(), a.Is4() && a.As4()[0] == 0:
		kind = "an unspecified address"
	case a.IsLoopback():
		kind = "a loopback address"
	case a.IsMulticast():
		kind = "a multicast address"
	case a.IsLinkLocalUnicast():
		kind = "a link-local address"
	case a.Is4() && a.As4() == [4]byte{255, 255, 255, 255}:
		kind = "the broadcast address"
	default:
		return true
	}
	r.Errorf(pos, "address", "%s is %s: must be a unicast address that other hosts can reach", a, kind)
	return false
}

// hostAddr reads the address of a service or real server. The zero Addr stands for absent or wrong.
func hostAddr(r *conf.Reader, v conf.Value) netip.Addr {
	if !v.Set {
		return netip.Addr{}
	}
	if ap, err := netip.ParseAddrPort(v.Text); err == nil {
		r.Errorf(v.Pos, "address", "%q has a port: write the address %s and port: %d", v.Text, ap.Addr(), ap.Port())
		return netip.Addr{}
	}
	if p, err := netip.ParsePrefix(v.Text); err == nil {
		r.Errorf(v.Pos, "address", "%q has a prefix length: write the address %s", v.Text, p.Addr())
		return netip.Addr{}
	}
	a := r.Addr(v, "address")
	if !a.IsValid() || !unicast(r, v.Pos, a) {
		return netip.Addr{}
	}
	return a
}

// interfaceName holds names to what the kernel takes (dev_valid_name in net/core/dev.c), and to ASCII.
func interfaceName(r *conf.Reader, v conf.Value) string {
	s := v.Text
	switch {
	case !v.Set:
		return ""
	case s == "":
		r.Errorf(v.Pos, "interface", "is empty: must be a name of 1 to %d bytes", maxInterface)
	case len(s) > maxInterface:
		r.Errorf(v.Pos, "interface", "%q is too long: must be 1 to %d bytes", s, maxInterface)
	case s == ".", s == "..", strings.ContainsAny(s, "/:"), strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }):
		r.Errorf(v.Pos, "interface", "%q cannot be the name of an interface: must be 1 to %d printable ASCII characters without slash, colon and space", s, maxInterface)
	default:
		return strings.Clone(s)
	}
	return ""
}

// groupName reads the name of a group of VIPs, DefaultGroup when absent or wrong.
func groupName(r *conf.Reader, v conf.Value) string {
	switch {
	case !v.Set:
	case !settings.ValidName(v.Text):
		r.Errorf(v.Pos, "group", "%q must be %s", v.Text, settings.NameRule)
	default:
		return strings.Clone(v.Text)
	}
	return DefaultGroup
}

func wholeSeconds(r *conf.Reader, v conf.Value, field string, lo, hi, def time.Duration) time.Duration {
	d := r.Duration(v, field, lo, hi, def)
	if d%time.Second != 0 {
		r.Errorf(v.Pos, field, "%s is not a whole number of seconds, between %s and %s", v.Text, lo, hi)
		return def
	}
	return d
}

// properName reads a name for people, "" when absent or wrong.
func properName(r *conf.Reader, v conf.Value) string {
	if !v.Set {
		return ""
	}
	ok := v.Text != "" && len(v.Text) <= maxName
	for i := 0; ok && i < len(v.Text); i++ {
		switch c := v.Text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte("._-", c) >= 0:
		case i > 0 && i < len(v.Text)-1 && c == ' ':
		default:
			ok = false
		}
	}
	if !ok {
		r.Errorf(v.Pos, "name", "%q is not a name: must be 1 to %d letters, digits, dots, hyphens, underscores and spaces, starting with a letter or digit", v.Text, maxName)
		return ""
	}
	return strings.Clone(v.Text)
}

// absent and wrong numbers are -1 in what these return, so that nothing is built on them.

func port(r *conf.Reader, v conf.Value, lo int64) int64 {
	return r.Int(v, "port", lo, math.MaxUint16, -1)
}

// label says which element of a list a complaint is about: its number, and what people know it by.
func label(list string, i int, names ...conf.Value) string {
	s := list + "[" + strconv.Itoa(i) + "]"
	for _, n := range names {
		if n.Set && n.Text != "" {
			return s + " (" + strconv.Quote(n.Text) + ")"
		}
	}
	return s
}

func familyName(f ipvs.Family) string {
	if f == ipvs.IPv6 {
		return "IPv6"
	}
	return "IPv4"
}
