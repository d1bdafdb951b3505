package dropin

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvsadm"
)

// Action is the command of a command line.
type Action uint8

const (
	AddService Action = iota + 1
	EditService
	DeleteService
	Clear
	List
	AddServer
	DeleteServer
	EditServer
	SetTimeouts
	StartDaemon
	StopDaemon
	Restore
	Save
	Zero
	Help
	Version
)

// String is the long option of the command.
func (a Action) String() string {
	for i := range words {
		if words[i].action == a {
			return "--" + words[i].long
		}
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// Listing is which list a [List] prints.
type Listing uint8

const (
	Table       Listing = iota // all services with their servers
	OneService                 // with its servers
	Connections                // -c
	Timeouts                   // --timeout
	Daemons                    // --daemon
)

// Command is what a command line asks for. Which fields count follows from Action.
type Command struct {
	Action Action
	// Change is what Clear, Zero and the commands on services and servers ask of the kernel: to be
	// applied as it is, see [ipvs.Verbatim].
	Change   ipvs.Command
	Timeouts ipvs.Timeouts // of SetTimeouts; 0 leaves one alone
	Daemon   ipvs.Daemon   // of StartDaemon; of StopDaemon the role

	List    Listing // of List, and of Save the Table
	Service ipvs.Key
	Options ipvsadm.Options // Names is not set
	Numeric bool            // -n
}

// Exit statuses.
const (
	statusOK     = 0
	statusList   = 1   // what is to be listed is not there
	statusUsage  = 2   // options that make no sense, or no IPVS
	statusFailed = 255 // the kernel refused, or the command line is not understood; -1 in C
)

const (
	protoMark = 0
	protoTCP  = uint8(ipvs.TCP)
	protoUDP  = uint8(ipvs.UDP)
	protoSCTP = uint8(ipvs.SCTP)

	forwardMasq   = uint8(ipvs.Masq)
	forwardTunnel = uint8(ipvs.Tunnel)
	forwardRoute  = uint8(ipvs.DirectRoute)
)

const (
	defaultScheduler   = "wlc"
	defaultInterface   = "eth0"
	defaultPersistence = 360            // seconds (IPVS_SVC_PERSISTENT_TIMEOUT)
	maxTimeout         = 31 * 24 * 3600 // seconds
	maxInt             = 1<<31 - 1
	maxSyncLen         = 65535 - 20 - 8 // bytes: the headers of IPv4 and UDP are in the packet too
	fullMask           = 1<<32 - 1
	maxName            = 15 // bytes, of schedulers, persistence engines and interfaces
)

// parser is the state of one command line.
type parser struct {
	scanner
	names Resolver
	given optionSet
	c     Command
	svc   ipvs.Service
	flags string // the argument of -b, which is looked at when the scheduler is known
	dst   ipvs.Destination
	mask  uint32 // of svc, as the kernel has it
	// family is the service's, 0 as long as it is not known.
	family, serverFamily ipvs.Family
}

// Parse reads a command line, the program's name first. The error is an [*Error].
func Parse(args []string, names Resolver) (Command, error) {
	program := "ipvsadm"
	if len(args) > 0 {
		program, args = args[0], args[1:]
	}
	p := &parser{scanner: scanner{args: args}, names: names, mask: fullMask}
	p.dst.Weight, p.dst.Forward = 1, ipvs.DirectRoute
	w, arg, _, problem := p.next()
	if problem != noError || w == nil || w.option != command {
		return Command{}, help(program)
	}
	p.c.Action = w.action
	switch w.action {
	case Help, Version: // whatever follows
		return p.c, nil
	case StartDaemon, StopDaemon:
		switch arg {
		case "master":
			p.c.Daemon.Role = ipvs.Master
		case "backup":
			p.c.Daemon.Role = ipvs.Backup
		default:
			if w.action == StartDaemon {
				return Command{}, refuse("illegal start-daemon parameter specified")
			}
			return Command{}, refuse("illegal start_daemon specified")
		}
	}
	for {
		w, arg, hasArg, problem := p.next()
		if problem != noError {
			return Command{}, &Error{Text: p.last + ": " + problem, Status: statusFailed}
		}
		if w == nil {
			break
		}
		if err := p.option(w, arg, hasArg); err != nil {
			return Command{}, err
		}
	}
	if err := p.leftovers(); err != nil {
		return Command{}, err
	}
	if p.svc.Scheduler == "" {
		p.svc.Scheduler = defaultScheduler
	}
	flags, err := parseSchedulerFlags(p.svc.Scheduler, p.flags)
	if err != nil {
		return Command{}, err
	}
	p.svc.Flags |= flags
	if err := uses[p.c.Action].check("command", p.given); err != nil {
		return Command{}, err
	}
	return p.finish()
}

// leftovers takes the three arguments of --set; no other command has any.
func (p *parser) leftovers() error {
	if p.c.Action == SetTimeouts {
		if len(p.arguments) < 3 {
			return refuse("--set option requires 3 timeout values")
		}
		for i, t := range []*time.Duration{&p.c.Timeouts.TCP, &p.c.Timeouts.TCPFin, &p.c.Timeouts.UDP} {
			v, err := parseTimeout(p.arguments[i], 0)
			if err != nil {
				return err
			}
			*t = time.Duration(v) * time.Second
		}
		p.arguments = p.arguments[3:]
	}
	if len(p.arguments) > 0 {
		return refuse("unexpected argument %s", p.arguments[0])
	}
	return nil
}

// option takes one option with its argument.
func (p *parser) option(w *word, arg string, hasArg bool) error {
	if w.option < optionCount {
		if p.given.has(w.option) {
			return refuse("multiple '%s' options specified", optionNames[w.option])
		}
		p.given |= setOf(w.option)
	}
	switch w.option {
	case command:
		return refuse("invalid option `%s'", p.last)
	case service:
		return p.service(w.value, arg)
	case ipv6:
		if p.svc.FWMark == 0 {
			return refuse("-6 used before -f\n")
		}
		p.family, p.mask = ipvs.IPv6, 128
	case scheduler:
		p.svc.Scheduler = arg
	case persistent:
		p.svc.Flags |= ipvs.Persistent
		p.svc.Timeout = defaultPersistence
		if hasArg {
			v, err := parseTimeout(arg, 1)
			if err != nil {
				return err
			}
			p.svc.Timeout = v
		}
	case netmask:
		return p.netmask(arg)
	case engine:
		p.svc.PE = arg
	case schedFlags:
		p.flags = arg
	case ops:
		p.svc.Flags |= ipvs.OnePacket
	case server:
		return p.server(arg)
	case forward:
		p.dst.Forward = ipvs.Forward(w.value)
	case tunType:
		switch arg {
		case "ipip":
			p.dst.TunnelType = ipvs.TunnelIPIP
		case "gue":
			p.dst.TunnelType = ipvs.TunnelGUE
		case "gre":
			p.dst.TunnelType = ipvs.TunnelGRE
		default:
			return refuse("illegal tunnel type specified")
		}
	case tunCsum:
		p.dst.TunnelFlags |= ipvs.TunnelChecksum
	case tunRemCsum:
		p.dst.TunnelFlags |= ipvs.TunnelRemoteChecksum
	case tunPort:
		return number(&p.dst.TunnelPort, arg, 1, 65535, "tunnel port")
	case weight:
		return number(&p.dst.Weight, arg, 0, maxInt, "weight")
	case upper:
		return number(&p.dst.Upper, arg, 0, maxInt, "u_threshold")
	case lower:
		return number(&p.dst.Lower, arg, 0, maxInt, "l_threshold")
	case numeric:
		p.c.Numeric = true
	case nosort:
		p.c.Options.NoSort = true
	case exact:
		p.c.Options.Exact = true
	case mcastInterface:
		p.c.Daemon.Interface = cut(arg)
	case syncID:
		return number(&p.c.Daemon.SyncID, arg, 0, 255, "syncid")
	case syncMaxLen:
		return number(&p.c.Daemon.MaxLen, arg, 1, maxSyncLen, "sync-maxlen")
	case mcastPort:
		return number(&p.c.Daemon.Port, arg, 1, 65535, "mcast-port")
	case mcastTTL:
		return number(&p.c.Daemon.TTL, arg, 1, 255, "mcast-ttl")
	case mcastGroup:
		return p.group(arg)
	}
	return nil
}

// number reads a number into v.
func number[T uint8 | uint16 | uint32](v *T, arg string, low, high int64, what string) error {
	n, ok := parseNumber(arg, low, high)
	if !ok {
		return refuse("illegal %s specified", what)
	}
	*v = T(n)
	return nil
}

// service takes the argument of -t, -u, --sctp-service and -f.
func (p *parser) service(protocol uint8, arg string) error {
	if protocol == protoMark {
		mark, ok := parseMark(arg)
		if !ok {
			return refuse("invalid fwmark value `%s' specified", arg)
		}
		// The protocol is there for the names of the ports of servers alone.
		p.family, p.svc.Protocol, p.svc.FWMark = ipvs.IPv4, ipvs.TCP, mark
		return nil
	}
	p.svc.Protocol = ipvs.Protocol(protocol)
	e, ok := parseEndpoint(arg, p.svc.Protocol, p.names)
	if !ok {
		return refuse("illegal virtual server address[:port] specified")
	}
	p.svc.Addr, p.svc.Port = e.addr, e.port
	p.family = ipvs.FamilyOf(e.addr)
	if p.family == ipvs.IPv6 {
		p.mask = 128
	}
	return nil
}

// server takes the argument of -r. Without a port it has the service's, if that is known already.
func (p *parser) server(arg string) error {
	e, ok := parseEndpoint(arg, p.svc.Protocol, p.names)
	if !ok {
		return refuse("illegal real server address[:port] specified")
	}
	if !e.hasPort {
		e.port = p.svc.Port
	}
	p.dst.Addr, p.dst.Port = e.addr, e.port
	p.serverFamily = ipvs.FamilyOf(e.addr)
	return nil
}

// netmask takes the argument of -M: a prefix length behind an IPv6 service, else an address. A service
// that follows sets the mask again.
func (p *parser) netmask(arg string) error {
	if p.family == ipvs.IPv6 {
		n := leadingNumber(arg)
		if n < 1 || n > 128 {
			return refuse("illegal ipv6 netmask specified")
		}
		p.mask = uint32(n)
		return nil
	}
	a, ok := parseIPv4(arg)
	if !ok {
		a, ok = p.names.Addr(arg)
	}
	if !ok {
		return refuse("illegal virtual server persistent mask specified")
	}
	b := a.As4()
	p.mask = uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	return nil
}

// group takes the argument of --mcast-group.
func (p *parser) group(arg string) error {
	a, err := netip.ParseAddr(arg)
	v6 := strings.Contains(arg, ":")
	switch {
	case err == nil && a.IsMulticast() && a.Zone() == "" && a.Is6() == v6:
		p.c.Daemon.Group = a
		return nil
	case v6:
		return refuse("invalid IPv6 mcast-group `%s'", arg)
	}
	return refuse("invalid IPv4 mcast-group `%s'", arg)
}

// finish checks what depends on several options, and makes the command.
func (p *parser) finish() (Command, error) {
	p.svc.Family = p.family
	if p.svc.FWMark != 0 {
		p.svc.Protocol = 0
	}
	p.c.Service = p.svc.Key
	var err error
	switch p.c.Action {
	case AddService, EditService:
		err = p.finishService()
	case AddServer, EditServer:
		err = p.finishServer()
	case DeleteService:
		p.change(ipvs.DelService(p.svc.Key))
	case DeleteServer:
		p.change(ipvs.DelDest(p.svc.Key, p.dst.DestKey))
	case Clear:
		p.change(ipvs.Flush())
	case Zero:
		if p.svc.FWMark == 0 && p.svc.Port == 0 && (!p.svc.Addr.IsValid() || p.svc.Addr.IsUnspecified()) {
			p.change(ipvs.ZeroAll()) // for the service 0.0.0.0:0 too
			break
		}
		p.change(ipvs.Zero(p.svc.Key))
	case StartDaemon:
		if p.c.Daemon.Interface == "" {
			p.c.Daemon.Interface = defaultInterface
		}
	case List:
		err = p.finishList()
	}
	if err != nil {
		return Command{}, err
	}
	return p.c, nil
}

func (p *parser) change(c ipvs.Command) { p.c.Change = ipvs.Verbatim(c, p.mask) }

func (p *parser) finishService() error {
	s := &p.svc
	switch {
	case s.FWMark == 0 && s.Port == 0 && s.Flags&ipvs.Persistent == 0:
		return refuse("Zero port specified for non-persistent service")
	case s.Flags&ipvs.OnePacket != 0 && s.FWMark == 0 && s.Protocol != ipvs.UDP:
		return refuse("One-Packet Scheduling is only for UDP virtual services")
	}
	s.Scheduler, s.PE = cut(s.Scheduler), cut(s.PE)
	if p.c.Action == AddService {
		p.change(ipvs.NewService(*s))
	} else {
		p.change(ipvs.SetService(*s))
	}
	return nil
}

// cut is what of a name gets to the kernel.
func cut(name string) string { return name[:min(len(name), maxName)] }

func (p *parser) finishServer() error {
	d := &p.dst
	tunnel := d.Forward == ipvs.Tunnel
	if p.svc.FWMark == 0 && d.Forward != ipvs.Masq {
		d.Port = p.svc.Port // the packet keeps it
	}
	if p.serverFamily != p.family && !tunnel {
		return refuse("Different address family is allowed only for tunneling servers")
	}
	if p.given&(tunnelOptions|setOf(tunType)) != 0 && !tunnel {
		return refuse("Tunnel options conflict with forward method")
	}
	if err := tunnelUses[d.TunnelType].check("tunnel type", p.given&tunnelOptions); err != nil {
		return err
	}
	if p.c.Action == AddServer {
		p.change(ipvs.NewDest(p.svc.Key, *d))
	} else {
		p.change(ipvs.SetDest(p.svc.Key, *d))
	}
	return nil
}

// views are the options that choose one, the first that is given counts.
var views = []struct {
	option option
	view   ipvsadm.View
}{
	{stats, ipvsadm.Stats},
	{rate, ipvsadm.Rate},
	{thresholds, ipvsadm.Thresholds},
	{persistentConn, ipvsadm.PersistentConn},
	{tunInfo, ipvsadm.TunnelInfo},
}

func (p *parser) finishList() error {
	for _, v := range views {
		if p.given.has(v.option) {
			p.c.Options.View = v.view
			break
		}
	}
	other := setOf(stats, rate, thresholds)
	switch {
	case p.given.has(connection):
		p.c.List = Connections
	case p.given.has(service):
		p.c.List = OneService
		return nil
	case p.given.has(timeout):
		p.c.List, other = Timeouts, other|setOf(persistentConn)
	case p.given.has(daemon):
		p.c.List, other = Daemons, other|setOf(persistentConn)
	default:
		return nil
	}
	if p.given&other != 0 {
		return refuse("options conflicts in the list command")
	}
	return nil
}
