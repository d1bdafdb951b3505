package realserver

import (
	"net/netip"
	"strings"
	"time"

	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/realserver/load"
)

// MaxVIPs bounds the VIPs of one real server.
const MaxVIPs = 4096

// OnStop says what the agent leaves behind on a clean stop.
type OnStop string

const (
	Release OnStop = "release" // VIPs are taken off, and settings go back to what they were
	Keep    OnStop = "keep"    // everything stays; the next start takes it over
)

// DefaultDummy is the name of the dummy interface.
const DefaultDummy = "drover"

// Loopback is the interface that is there already.
const Loopback = "lo"

// DefaultDrain is within what service managers wait for the end of a daemon.
const DefaultDrain = 10 * time.Second

// Config is what a real server is to be. Make one with [Load].
type Config struct {
	VIPs          []netip.Addr
	Device        string        // Loopback, or the name of the dummy interface that the agent makes
	CheckInterval time.Duration // 100 ms .. 1 h, default 5 s: look whether everything is as it should be
	OnStop        OnStop        // default Release

	// Cluster is nil for a real server on its own.
	Cluster *settings.Options
	// Learn: the file names no VIPs; they are those of Pool, as the directors of the cluster tell.
	Learn bool
	// Pool is what the real server is a member of, "" for none: a witness, or a static server.
	Pool string
	// Address is at which the directors send packets, by default the address in the cluster.
	Address netip.Addr
	Weight  uint32 // in the pool, 0 .. 65535, default 1
	// Drain is how long a member of a pool that is being stopped waits for its connections to end.
	Drain time.Duration // 0 .. 1 h, default 10 s
	// Load says how the load of this member is measured, for services whose weights follow loads; nil: it is not.
	Load *load.Config
}

type rawConfig struct {
	VIPs          conf.At[[]conf.Value] `yaml:"vips"`
	Device        conf.Value            `yaml:"device"`
	Dummy         conf.Value            `yaml:"dummy"`
	CheckInterval conf.Value            `yaml:"check_interval"`
	OnStop        conf.Value            `yaml:"on_stop"`
	Cluster       conf.At[settings.Raw] `yaml:"cluster"`
	Pool          conf.Value            `yaml:"pool"`
	Address       conf.Value            `yaml:"address"`
	Weight        conf.Value            `yaml:"weight"`
	Drain         conf.Value            `yaml:"drain"`
	Load          conf.At[load.Raw]     `yaml:"load"`
}

// Load reads the file at path. An error is of type [conf.Errors] when its content is at fault.
func Load(path string) (*Config, error) {
	var raw rawConfig
	r, err := conf.Load(path, &raw)
	if err != nil {
		return nil, err
	}
	return validate(path, r, &raw)
}

// Parse is Load for content that is already in memory; name stands for the file in complaints.
func Parse(name string, content []byte) (*Config, error) {
	var raw rawConfig
	r, err := conf.Parse(name, content, &raw)
	if err != nil {
		return nil, err
	}
	return validate(name, r, &raw)
}

func validate(name string, r *conf.Reader, raw *rawConfig) (*Config, error) {
	c := &Config{
		CheckInterval: r.Duration(raw.CheckInterval, "check_interval", 100*time.Millisecond, time.Hour, 5*time.Second),
		OnStop:        conf.OneOf(r, raw.OnStop, "on_stop", Release, Release, Keep),
	}
	switch conf.OneOf(r, raw.Device, "device", "lo", "lo", "dummy") {
	case "lo":
		c.Device = Loopback
		if raw.Dummy.Set {
			r.Errorf(raw.Dummy.Pos, "dummy", "names an interface that is not made: it needs device: dummy")
		}
	case "dummy":
		c.Device = r.String(raw.Dummy, DefaultDummy)
		if !validName(c.Device) {
			r.Errorf(raw.Dummy.Pos, "dummy", "%q is not a name for an interface: 1 to 15 characters without spaces, slashes and colons, and not lo, all or default", c.Device)
		}
	}
	c.member(name, r, raw)
	vips := raw.VIPs.V
	if len(vips) == 0 && c.Cluster == nil {
		r.Errorf(conf.Pos{Line: 1, Column: 1}, "vips", "is required: a list of at least one address")
	}
	if len(vips) > MaxVIPs {
		r.Errorf(vips[MaxVIPs].Pos, "vips", "%d addresses: at most %d", len(vips), MaxVIPs)
	}
	seen := make(map[netip.Addr]conf.Pos, len(vips))
	for i, v := range vips {
		in := r.In("vips[%d]", i)
		if !in.Required(v, "", conf.Pos{}) {
			continue
		}
		if addr, bits, ok := strings.Cut(v.Text, "/"); ok {
			in.Errorf(v.Pos, "", "%q has a prefix length: a real server has its VIPs as /32 and /128 only, write %s without /%s", v.Text, addr, bits)
			continue
		}
		a := in.Addr(v, "")
		why := ""
		switch {
		case !a.IsValid():
			continue
		case a.IsUnspecified():
			why = "stands for no address"
		case a.IsLoopback():
			why = "is a loopback address"
		case a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
			why = "is a multicast or broadcast address"
		case a.IsLinkLocalUnicast():
			why = "is a link-local address, which no router passes on"
		}
		if why != "" {
			in.Errorf(v.Pos, "", "%s cannot be a VIP: it %s", a, why)
			continue
		}
		if first, twice := seen[a]; twice {
			in.Errorf(v.Pos, "", "%s is listed already in line %d", a, first.Line)
			continue
		}
		seen[a] = v.Pos
		c.VIPs = append(c.VIPs, a)
	}
	if err := r.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// member reads what a real server is in a cluster.
func (c *Config) member(name string, r *conf.Reader, raw *rawConfig) {
	c.Cluster = settings.Read(r, raw.Cluster, settings.RealServer, name)
	c.Weight = uint32(r.Int(raw.Weight, "weight", 0, 65535, 1))
	c.Drain = r.Duration(raw.Drain, "drain", 0, time.Hour, DefaultDrain)
	c.Load = load.Read(r, raw.Load)
	c.Pool = raw.Pool.Text
	switch {
	case raw.Pool.Set && !settings.ValidName(c.Pool):
		r.Errorf(raw.Pool.Pos, "pool", "%q must be %s", c.Pool, settings.NameRule)
	case raw.Pool.Set && !raw.Cluster.Set:
		r.Errorf(raw.Pool.Pos, "pool", "is that of a cluster: it needs cluster")
	case raw.Weight.Set && !raw.Pool.Set:
		r.Errorf(raw.Weight.Pos, "weight", "is that of a member of a pool: it needs pool")
	case raw.Drain.Set && !raw.Pool.Set:
		r.Errorf(raw.Drain.Pos, "drain", "is that of a member of a pool: it needs pool")
	case raw.Load.Set && !raw.Pool.Set:
		r.Errorf(raw.Load.Pos, "load", "is that of a member of a pool: it needs pool")
	case raw.Address.Set && !raw.Pool.Set:
		r.Errorf(raw.Address.Pos, "address", "is that of a member of a pool: it needs pool")
	case raw.VIPs.Set && len(raw.VIPs.V) > 0 && raw.Pool.Set:
		r.Errorf(raw.VIPs.Pos, "vips", "are those of the pool: leave out vips or pool")
	}
	c.Learn = c.Pool != ""
	if c.Address = r.Addr(raw.Address, "address"); !c.Address.IsValid() && c.Cluster != nil {
		c.Address = c.Cluster.Address.Addr()
	}
}

// validName follows dev_valid_name() of the kernel's net/core/dev.c, and keeps off the names that mean
// something below /proc/sys/net.
func validName(s string) bool {
	return len(s) > 0 && len(s) <= 15 && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00") &&
		s != "." && s != ".." && s != Loopback && s != "all" && s != "default"
}
