package lab

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/lab/topology"
)

// FileName is the file that makes a folder a lab.
const FileName = "lab.yaml"

// Limits of a lab; each bounds what a file can ask for.
const (
	maxHosts     = 64
	maxTime      = time.Hour
	defaultStep  = 15 * time.Second
	defaultTotal = 5 * time.Minute
)

// Role says what a host is in the cluster; it orders and colours the report.
type Role string

const (
	Client     Role = "client"
	Director   Role = "director"
	RealServer Role = "real-server"
	Router     Role = "router" // forwards packets between its networks
)

// Config is a lab as described by its folder.
type Config struct {
	Folder      string
	Title       string
	Observe     string // what a reader should look at, for the report
	Timeout     time.Duration
	MemoryMiB   int
	Seed        int64
	Networks    []topology.Network
	Hosts       []Host
	Scenario    []Step
	patience    int // how many times the bounds of steps that the file does not have are longer; 0 is 1
	marks       map[string]bool
	timelineFor string
}

// Host is one machine.
type Host struct {
	topology.Host
	Role Role
	Run  []Process
}

// Process is a program, a probe or a back end on a host.
type Process struct {
	Name    string
	Host    string
	Command []string       // a program with its arguments; or else
	Probe   *Probe         // a built-in probe or back end
	Ready   Ready          // when a start is complete
	Manual  bool           // not started before the scenario
	Env     []string       // KEY=value
	output  *regexp.Regexp // for Ready output
}

// Ref is how a scenario names the process: HOST/NAME.
func (p Process) Ref() string { return p.Host + "/" + p.Name }

// Ready says how a process tells that it serves.
type Ready struct {
	Kind   string // "", notify (sd_notify), output, tcp
	Output string // regular expression, for output
	Addr   netip.AddrPort
}

// Probe is a measuring client or a back end of package probe.
type Probe struct {
	Kind    string // connect, stream, udp, arp; http, echo, udp-echo
	Target  netip.AddrPort
	Listen  netip.AddrPort
	Address netip.Addr // for arp
	Every   time.Duration
	Timeout time.Duration
	Count   int
	// Lifetime of each stream; 0: they are kept.
	Lifetime time.Duration
	// ServiceTime is how long a page of an http back end keeps one of Workers busy; 0: pages take no time. Its page /load
	// tells how many requests it has for each worker.
	ServiceTime time.Duration
	Workers     int
}

// Patient multiplies the bounds in time of the whole, of each step and of each start by n, for a machine that is slow or
// busy. What is expected stays as it is.
func (c *Config) Patient(n int) {
	c.Timeout *= time.Duration(n)
	c.patience = n
	for i := range c.Scenario {
		c.Scenario[i].Within *= time.Duration(n)
	}
}

// Step is one step of the scenario; exactly one of its actions is set.
type Step struct {
	Name   string
	Within time.Duration
	Text   string // the step in words, for the account
	Action Action
}

// Action is what a step does.
type Action interface{ describe() string }

type (
	// Processes starts, stops (SIGTERM, awaited), kills (SIGKILL), pauses (SIGSTOP), resumes (SIGCONT),
	// reloads (SIGHUP) or restarts (stop, then start) processes.
	Processes struct {
		Verb string
		Refs []string
	}
	// Cable cuts or restores a host's cable on its side of the switch.
	Cable struct {
		Cut       bool
		Host      string
		Interface string // empty: all
	}
	// Separate drops all traffic from one host to another, both ways unless OneWay; Join undoes it.
	Separate struct {
		Join     bool
		From, To string
		OneWay   bool
	}
	// Impair disturbs the packets on a host's cable.
	Impair struct {
		Host      string
		Interface string
		topology.Impairment
	}
	// Command runs a program to its end.
	Command struct {
		Host   string
		Argv   []string
		Exit   int
		Output *regexp.Regexp
		SameAs []string // another command whose output is to be the same
	}
	// Apply puts a file of the lab's folder in the place of another, atomically, in the host's folder.
	Apply struct{ Host, From, To string }
	// Wait lets time pass while traffic flows.
	Wait struct{ Min, Max time.Duration }
	// Expect checks now, and when Until is set, as often as needed until all hold at once.
	Expect struct {
		Until  bool
		Checks []Check
	}
	// Repeat plays steps several times.
	Repeat struct {
		Times int
		Steps []Step
	}
)

type rawLab struct {
	Title    conf.Value            `yaml:"title"`
	Observe  conf.Value            `yaml:"observe"`
	Timeout  conf.Value            `yaml:"timeout"`
	Memory   conf.Value            `yaml:"memory_mib"`
	Seed     conf.Value            `yaml:"seed"`
	Timeline conf.Value            `yaml:"timeline"`
	Networks []conf.At[rawNetwork] `yaml:"networks"`
	Hosts    []conf.At[rawHost]    `yaml:"hosts"`
	Scenario []conf.At[rawStep]    `yaml:"scenario"`
}

type rawNetwork struct {
	Name    conf.Value `yaml:"name"`
	Subnets conf.List  `yaml:"subnets"`
}

type rawHost struct {
	Name      conf.Value            `yaml:"name"`
	Role      conf.Value            `yaml:"role"`
	Addresses conf.List             `yaml:"addresses"`
	Gateways  conf.List             `yaml:"gateways"`
	Sysctls   map[string]conf.Value `yaml:"sysctls"`
	Run       []conf.At[rawProcess] `yaml:"run"`
}

type rawProcess struct {
	Name     conf.Value        `yaml:"name"`
	Command  conf.List         `yaml:"command"`
	Probe    conf.Value        `yaml:"probe"`
	Target   conf.Value        `yaml:"target"`
	Listen   conf.Value        `yaml:"listen"`
	Address  conf.Value        `yaml:"address"`
	Every    conf.Value        `yaml:"every"`
	Timeout  conf.Value        `yaml:"timeout"`
	Count    conf.Value        `yaml:"count"`
	Lifetime conf.Value        `yaml:"lifetime"`
	Service  conf.Value        `yaml:"service_time"`
	Workers  conf.Value        `yaml:"workers"`
	Env      conf.List         `yaml:"env"`
	Start    conf.Value        `yaml:"start"`
	Ready    conf.At[rawReady] `yaml:"ready"`
}

type rawReady struct {
	Notify conf.Value `yaml:"notify"`
	Output conf.Value `yaml:"output"`
	TCP    conf.Value `yaml:"tcp"`
}

type rawStep struct {
	Name     conf.Value           `yaml:"name"`
	Within   conf.Value           `yaml:"within"`
	Start    conf.List            `yaml:"start"`
	Stop     conf.List            `yaml:"stop"`
	Kill     conf.List            `yaml:"kill"`
	Pause    conf.List            `yaml:"pause"`
	Resume   conf.List            `yaml:"resume"`
	Reload   conf.List            `yaml:"reload"`
	Restart  conf.List            `yaml:"restart"`
	Cut      conf.Value           `yaml:"cut"`
	Restore  conf.Value           `yaml:"restore"`
	PowerOff conf.Value           `yaml:"power_off"`
	PowerOn  conf.Value           `yaml:"power_on"`
	Separate conf.At[rawSeparate] `yaml:"separate"`
	Join     conf.At[rawSeparate] `yaml:"join"`
	Impair   conf.At[rawImpair]   `yaml:"impair"`
	Run      conf.At[rawCommand]  `yaml:"run"`
	Apply    conf.At[rawApply]    `yaml:"apply"`
	Wait     conf.Value           `yaml:"wait"`
	WaitUpTo conf.Value           `yaml:"wait_up_to"`
	Expect   []conf.At[rawCheck]  `yaml:"expect"`
	Until    []conf.At[rawCheck]  `yaml:"until"`
	Measure  conf.At[rawMeasure]  `yaml:"measure"`
	Repeat   conf.At[rawRepeat]   `yaml:"repeat"`
}

type rawSeparate struct {
	From   conf.Value `yaml:"from"`
	To     conf.Value `yaml:"to"`
	OneWay conf.Value `yaml:"one_way"`
}

type rawImpair struct {
	Host      conf.Value `yaml:"host"`
	Interface conf.Value `yaml:"interface"`
	Loss      conf.Value `yaml:"loss"`
	Duplicate conf.Value `yaml:"duplicate"`
	Delay     conf.Value `yaml:"delay"`
	Jitter    conf.Value `yaml:"jitter"`
}

type rawCommand struct {
	Host    conf.Value `yaml:"host"`
	Command conf.List  `yaml:"command"`
	Exit    conf.Value `yaml:"exit"`
	Output  conf.Value `yaml:"output"`
	SameAs  conf.List  `yaml:"same_as"`
}

type rawApply struct {
	Host conf.Value `yaml:"host"`
	From conf.Value `yaml:"from"`
	To   conf.Value `yaml:"to"`
}

type rawRepeat struct {
	Times conf.Value         `yaml:"times"`
	Steps []conf.At[rawStep] `yaml:"steps"`
}

// Load reads the lab.yaml of a folder. Errors about its content are conf.Errors: they name file, line
// and column.
func Load(folder string) (*Config, error) {
	var raw rawLab
	r, err := conf.Load(filepath.Join(folder, FileName), &raw)
	if err != nil {
		return nil, err
	}
	return build(r, folder, &raw)
}

// names that end up in interface and file names.
var nameRE = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

const maxHostName = 11 // the switch side of its cable is called NAME-INDEX, in the 15 characters of an interface name

func readName(r *conf.Reader, v conf.Value, field string, pos conf.Pos, limit int) string {
	if !r.Required(v, field, pos) {
		return ""
	}
	if len(v.Text) > limit || !nameRE.MatchString(v.Text) {
		r.Errorf(v.Pos, field, "%q must be 1 to %d characters out of a-z, 0-9 and -, beginning with a letter", v.Text, limit)
		return ""
	}
	return v.Text
}

func build(r *conf.Reader, folder string, raw *rawLab) (*Config, error) {
	c := &Config{Folder: folder, marks: map[string]bool{}}
	c.Title = r.String(raw.Title, filepath.Base(folder))
	c.Observe = strings.TrimSpace(r.String(raw.Observe, ""))
	c.Timeout = r.Duration(raw.Timeout, "timeout", time.Second, maxTime, defaultTotal)
	c.MemoryMiB = int(r.Int(raw.Memory, "memory_mib", 128, 16384, 1024))
	c.Seed = r.Int(raw.Seed, "seed", 0, 1<<62, 1)
	if len(raw.Networks) == 0 {
		r.Errorf(conf.Pos{}, "networks", "is required: at least one network")
	}
	for i, n := range raw.Networks {
		c.Networks = append(c.Networks, readNetwork(r.In("networks[%d]", i), n, c.Networks))
	}
	if len(raw.Hosts) == 0 || len(raw.Hosts) > maxHosts {
		r.Errorf(conf.Pos{}, "hosts", "%d hosts: must be between 1 and %d", len(raw.Hosts), maxHosts)
	}
	if r.Failed() {
		return nil, r.Err()
	}
	for i, h := range raw.Hosts {
		in := r.In("hosts[%d]", i)
		if h.V.Name.Set {
			in = r.In("hosts[%d] (%q)", i, h.V.Name.Text)
		}
		c.Hosts = append(c.Hosts, readHost(in, h, c))
	}
	if r.Failed() { // what follows names hosts and processes: it would only complain of the same again
		return nil, r.Err()
	}
	b := &builder{Config: c}
	c.Scenario = b.steps(r, "scenario", raw.Scenario)
	if raw.Timeline.Set {
		if p := c.process(raw.Timeline.Text); p == nil || p.Probe == nil || p.Probe.Kind != "connect" {
			r.Errorf(raw.Timeline.Pos, "timeline", "%q is not a connect probe of this lab", raw.Timeline.Text)
		}
	}
	c.timelineFor = raw.Timeline.Text
	if err := r.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

func readRegexp(r *conf.Reader, v conf.Value, field string) *regexp.Regexp {
	if !v.Set {
		return nil
	}
	re, err := regexp.Compile("(?m)" + v.Text)
	if err != nil {
		r.Errorf(v.Pos, field, "%q is not a regular expression: %v", v.Text, err)
		return nil
	}
	return re
}

func readNetwork(r *conf.Reader, n conf.At[rawNetwork], before []topology.Network) topology.Network {
	out := topology.Network{Name: readName(r, n.V.Name, "name", n.Pos, maxHostName)}
	for _, b := range before {
		if out.Name != "" && b.Name == out.Name {
			r.Errorf(n.V.Name.Pos, "name", "%q is the name of two networks", out.Name)
		}
	}
	if len(n.V.Subnets) == 0 {
		r.Errorf(n.Pos, "subnets", "is required: at least one, such as 10.0.0.0/24")
	}
	for _, s := range n.V.Subnets {
		p := r.Prefix(s, "subnets")
		if !p.IsValid() {
			continue
		}
		if p.Masked() != p || p.IsSingleIP() {
			r.Errorf(s.Pos, "subnets", "%q is not a subnet: its host part must be 0", s.Text)
			continue
		}
		out.Subnets = append(out.Subnets, p)
	}
	return out
}

func readHost(r *conf.Reader, h conf.At[rawHost], c *Config) Host {
	out := Host{Host: topology.Host{Name: readName(r, h.V.Name, "name", h.Pos, maxHostName)}}
	for _, b := range c.Hosts {
		if out.Name != "" && b.Name == out.Name {
			r.Errorf(h.V.Name.Pos, "name", "%q is the name of two hosts", out.Name)
		}
	}
	if r.Required(h.V.Role, "role", h.Pos) {
		out.Role = conf.OneOf(r, h.V.Role, "role", Client, Client, Director, RealServer, Router)
	}
	if len(h.V.Addresses) == 0 {
		r.Errorf(h.Pos, "addresses", "is required: at least one")
	}
	for _, v := range h.V.Addresses {
		a := r.Addr(v, "addresses")
		if !a.IsValid() {
			continue
		}
		for _, b := range c.Hosts {
			for _, i := range b.Interfaces {
				for _, p := range i.Addresses {
					if p.Addr() == a {
						r.Errorf(v.Pos, "addresses", "%s is the address of %s already", a, b.Name)
					}
				}
			}
		}
		if !attach(&out.Host, c.Networks, a) {
			r.Errorf(v.Pos, "addresses", "%s lies in no subnet of the networks", a)
		}
	}
	for _, v := range h.V.Gateways {
		if a := r.Addr(v, "gateways"); a.IsValid() {
			out.Gateways = append(out.Gateways, a)
		}
	}
	for k, v := range h.V.Sysctls {
		out.Sysctls = append(out.Sysctls, topology.Sysctl{Key: k, Value: v.Text})
	}
	if out.Role == Router {
		out.Sysctls = append(out.Sysctls, topology.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"},
			topology.Sysctl{Key: "net.ipv6.conf.all.forwarding", Value: "1"})
	}
	for i, p := range h.V.Run {
		in := r.In("run[%d]", i)
		if p.V.Name.Set {
			in = r.In("run[%d] (%q)", i, p.V.Name.Text)
		}
		pr := readProcess(in, p)
		pr.Host = out.Name
		for _, b := range out.Run {
			if b.Name == pr.Name {
				in.Errorf(p.V.Name.Pos, "name", "%q is the name of two processes of this host", pr.Name)
			}
		}
		out.Run = append(out.Run, pr)
	}
	return out
}

// attach adds an address to the interface of the network that it lies in.
func attach(h *topology.Host, networks []topology.Network, a netip.Addr) bool {
	for _, n := range networks {
		for _, s := range n.Subnets {
			if !s.Contains(a) {
				continue
			}
			p := netip.PrefixFrom(a, s.Bits())
			for i := range h.Interfaces {
				if h.Interfaces[i].Network == n.Name {
					h.Interfaces[i].Addresses = append(h.Interfaces[i].Addresses, p)
					return true
				}
			}
			h.Interfaces = append(h.Interfaces, topology.Interface{Network: n.Name, Addresses: []netip.Prefix{p}})
			return true
		}
	}
	return false
}

func readProcess(r *conf.Reader, p conf.At[rawProcess]) Process {
	out := Process{Name: readName(r, p.V.Name, "name", p.Pos, 32), Command: p.V.Command.Texts(), Env: p.V.Env.Texts()}
	out.Manual = conf.OneOf(r, p.V.Start, "start", "auto", "auto", "manual") == "manual"
	switch {
	case p.V.Probe.Set && len(out.Command) > 0:
		r.Errorf(p.V.Probe.Pos, "probe", "a process has a probe or a command, not both")
	case p.V.Probe.Set:
		out.Probe = readProbe(r, p)
	case len(out.Command) == 0:
		r.Errorf(p.Pos, "command", "is required, or else a probe")
	}
	if rd := p.V.Ready; rd.Set {
		n := 0
		if rd.V.Notify.Set {
			n++
			if r.Bool(rd.V.Notify, "ready: notify", true) {
				out.Ready.Kind = "notify"
			}
		}
		if rd.V.Output.Set {
			n++
			out.Ready.Kind, out.Ready.Output = "output", rd.V.Output.Text
			out.output = readRegexp(r, rd.V.Output, "ready: output")
		}
		if rd.V.TCP.Set {
			n++
			out.Ready.Kind = "tcp"
			out.Ready.Addr = readAddrPort(r, rd.V.TCP, "ready: tcp")
		}
		if n != 1 {
			r.Errorf(rd.Pos, "ready", "needs exactly one of notify, output, tcp")
		}
		if out.Probe != nil {
			r.Errorf(rd.Pos, "ready", "a probe tells by itself when it is ready")
		}
	}
	return out
}

func readAddrPort(r *conf.Reader, v conf.Value, field string) netip.AddrPort {
	if !v.Set {
		return netip.AddrPort{}
	}
	ap, err := netip.ParseAddrPort(v.Text)
	if err != nil || ap.Port() == 0 {
		r.Errorf(v.Pos, field, "%q is not address:port, such as 10.0.0.100:80 or [fd00::100]:80, port 1 to 65535", v.Text)
		return netip.AddrPort{}
	}
	return ap
}

// probeFields: what each kind of probe takes besides its name.
var probeFields = map[string]struct {
	target, listen, address, every, timeout, count, lifetime, service bool
	defEvery                                                          time.Duration
}{
	"connect":  {target: true, every: true, timeout: true, defEvery: 20 * time.Millisecond},
	"stream":   {target: true, every: true, timeout: true, count: true, lifetime: true, defEvery: 100 * time.Millisecond},
	"udp":      {target: true, every: true, timeout: true, defEvery: 20 * time.Millisecond},
	"arp":      {address: true, every: true, defEvery: 50 * time.Millisecond},
	"http":     {listen: true, service: true},
	"echo":     {listen: true},
	"udp-echo": {listen: true},
}

func readProbe(r *conf.Reader, p conf.At[rawProcess]) *Probe {
	kind := conf.OneOf(r, p.V.Probe, "probe", "", "connect", "stream", "udp", "arp", "http", "echo", "udp-echo")
	f, ok := probeFields[kind]
	if !ok {
		return nil
	}
	for _, x := range []struct {
		v        conf.Value
		name     string
		wanted   bool
		required bool
	}{
		{p.V.Target, "target", f.target, true}, {p.V.Listen, "listen", f.listen, true}, {p.V.Address, "address", f.address, true},
		{p.V.Every, "every", f.every, false}, {p.V.Timeout, "timeout", f.timeout, false}, {p.V.Count, "count", f.count, false},
		{p.V.Lifetime, "lifetime", f.lifetime, false}, {p.V.Service, "service_time", f.service, false}, {p.V.Workers, "workers", f.service, false},
	} {
		switch {
		case x.wanted && x.required:
			r.Required(x.v, x.name, p.Pos)
		case !x.wanted && x.v.Set:
			r.Errorf(x.v.Pos, x.name, "a probe of kind %s does not take it", kind)
		}
	}
	if f.service && p.V.Workers.Set && !p.V.Service.Set {
		r.Errorf(p.V.Workers.Pos, "workers", "needs service_time: pages take no time without one")
	}
	return &Probe{
		Kind:     kind,
		Target:   readAddrPort(r, p.V.Target, "target"),
		Listen:   readAddrPort(r, p.V.Listen, "listen"),
		Address:  r.Addr(p.V.Address, "address"),
		Every:    r.Duration(p.V.Every, "every", time.Millisecond, time.Minute, f.defEvery),
		Timeout:  r.Duration(p.V.Timeout, "timeout", 10*time.Millisecond, time.Minute, 2*time.Second),
		Count:    int(r.Int(p.V.Count, "count", 1, 10000, 1)),
		Lifetime: r.Duration(p.V.Lifetime, "lifetime", 100*time.Millisecond, time.Hour, 0),

		ServiceTime: r.Duration(p.V.Service, "service_time", time.Millisecond, time.Minute, 0),
		Workers:     int(r.Int(p.V.Workers, "workers", 1, 1000, 1)),
	}
}

func (c *Config) host(name string) *Host {
	for i := range c.Hosts {
		if c.Hosts[i].Name == name {
			return &c.Hosts[i]
		}
	}
	return nil
}

func (c *Config) process(ref string) *Process {
	host, name, _ := strings.Cut(ref, "/")
	h := c.host(host)
	if h == nil {
		return nil
	}
	for i := range h.Run {
		if h.Run[i].Name == name {
			return &h.Run[i]
		}
	}
	return nil
}

// readPercent reads "12.5%" between 0 and 100.
func readPercent(r *conf.Reader, v conf.Value, field string, def float64) float64 {
	if !v.Set {
		return def
	}
	text, ok := strings.CutSuffix(v.Text, "%")
	f, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	if !ok || err != nil || f < 0 || f > 100 {
		r.Errorf(v.Pos, field, "%q is not a percentage between 0%% and 100%%", v.Text)
		return def
	}
	return f
}
