package realserver

import (
	"net/netip"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
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

// Config is what a real server is to be. Make one with [Load].
type Config struct {
	VIPs          []netip.Addr
	Device        string        // Loopback, or the name of the dummy interface that the agent makes
	CheckInterval time.Duration // 100 ms .. 1 h, default 5 s: look whether everything is as it should be
	OnStop        OnStop        // default Release
}

type rawConfig struct {
	VIPs          []conf.Value `yaml:"vips"`
	Device        conf.Value   `yaml:"device"`
	Dummy         conf.Value   `yaml:"dummy"`
	CheckInterval conf.Value   `yaml:"check_interval"`
	OnStop        conf.Value   `yaml:"on_stop"`
}

// Load reads the file at path. An error is of type [conf.Errors] when its content is at fault.
func Load(path string) (*Config, error) {
	var raw rawConfig
	r, err := conf.Load(path, &raw)
	if err != nil {
		return nil, err
	}
	return validate(r, &raw)
}

// Parse is Load for content that is already in memory; name stands for the file in complaints.
func Parse(name string, content []byte) (*Config, error) {
	var raw rawConfig
	r, err := conf.Parse(name, content, &raw)
	if err != nil {
		return nil, err
	}
	return validate(r, &raw)
}

func validate(r *conf.Reader, raw *rawConfig) (*Config, error) {
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
	if len(raw.VIPs) == 0 {
		r.Errorf(conf.Pos{Line: 1, Column: 1}, "vips", "is required: a list of at least one address")
	}
	if len(raw.VIPs) > MaxVIPs {
		r.Errorf(raw.VIPs[MaxVIPs].Pos, "vips", "%d addresses: at most %d", len(raw.VIPs), MaxVIPs)
	}
	seen := make(map[netip.Addr]conf.Pos, len(raw.VIPs))
	for i, v := range raw.VIPs {
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

// validName follows dev_valid_name() of the kernel's net/core/dev.c, and keeps off the names that mean
// something below /proc/sys/net.
func validName(s string) bool {
	return len(s) > 0 && len(s) <= 15 && !strings.ContainsAny(s, "/: \t\n\v\f\r\x00") &&
		s != "." && s != ".." && s != Loopback && s != "all" && s != "default"
}
