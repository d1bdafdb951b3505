package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/controller/spec/edit"
	"github.com/drover-lb/drover/ipvs"
)

// Options of edits. Their letters are those of ipvsadm.
var (
	keyFlags = []cli.Flag{
		&cli.StringFlag{Name: "tcp-service", Aliases: []string{"t"}, Usage: "the TCP service at `ADDRESS:PORT`"},
		&cli.StringFlag{Name: "udp-service", Aliases: []string{"u"}, Usage: "the UDP service at `ADDRESS:PORT`"},
		&cli.StringFlag{Name: "sctp-service", Usage: "the SCTP service at `ADDRESS:PORT`"},
		&cli.StringFlag{Name: "fwmark-service", Aliases: []string{"f"}, Usage: "the service by firewall `MARK`"},
		&cli.BoolFlag{Name: "ipv6", Aliases: []string{"6"}, Usage: "with -f: of IPv6 packets"},
	}
	serviceFlags = []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "call the service `NAME`"},
		&cli.StringFlag{Name: "scheduler", Aliases: []string{"s"}, Usage: "one of " + strings.Join(spec.Schedulers, ", ") + "; the default of a new service is wlc"},
		&cli.StringFlag{Name: "sched-flags", Aliases: []string{"b"}, Usage: "`FLAGS` of the scheduler, such as sh-fallback,sh-port; none for none"},
		&optionalFlag{StringFlag: &cli.StringFlag{Name: "persistent", Aliases: []string{"p"}, Usage: "keep a client at its server for `SECONDS`, 300 if none are given; 0 for no persistence"}, absent: "300"},
		&cli.StringFlag{Name: "netmask", Aliases: []string{"M"}, Usage: "with -p: clients of one network count as one: `MASK` or prefix length"},
		&cli.StringFlag{Name: "pe", Usage: "with -p: the persistence `ENGINE`, sip"},
		&cli.BoolFlag{Name: "ops", Aliases: []string{"o"}, Usage: "schedule every packet on its own (UDP)"},
		&cli.StringFlag{Name: "pool", Usage: "the members of `POOL` are real servers of the service; none for none"},
	}
	serverFlags = []cli.Flag{
		&cli.StringFlag{Name: "real-server", Aliases: []string{"r"}, Usage: "the real server `ADDRESS[:PORT]`, or its name"},
		&cli.StringFlag{Name: "weight", Aliases: []string{"w"}, Usage: "`WEIGHT`, 0 to 65535"},
		&cli.BoolFlag{Name: "gatewaying", Aliases: []string{"g"}, Usage: "direct routing, the default of a new real server"},
		&cli.BoolFlag{Name: "ipip", Aliases: []string{"i"}, Usage: "tunnelling"},
		&cli.BoolFlag{Name: "masquerading", Aliases: []string{"m"}, Usage: "network address translation"},
		&cli.StringFlag{Name: "tun-type", Usage: "with -i: the `KIND` of tunnel: ipip, gue or gre"},
		&cli.StringFlag{Name: "tun-port", Usage: "with -i: the UDP `PORT` of a gue tunnel"},
		&cli.BoolFlag{Name: "tun-nocsum", Usage: "with -i: no checksum"},
		&cli.BoolFlag{Name: "tun-csum", Usage: "with -i: checksum"},
		&cli.BoolFlag{Name: "tun-remcsum", Usage: "with -i: remote checksum (gue)"},
		&cli.StringFlag{Name: "u-threshold", Aliases: []string{"x"}, Usage: "no new connections from `CONNECTIONS` on; 0 for no limit"},
		&cli.StringFlag{Name: "l-threshold", Aliases: []string{"y"}, Usage: "and again below `CONNECTIONS`"},
	}
	drainFlags = []cli.Flag{
		&cli.DurationFlag{Name: "deadline", Usage: "the drain is over after `TIME`, such as 90s; 0s: never (default: what the service says)"},
		&cli.StringFlag{Name: "then", Usage: "`WHAT` becomes of it when the drain is over: keep with weight 0, or remove from the table, which cuts what is left (default: what the service says)"},
		&cli.DurationFlag{Name: "wait", Usage: "wait until it is drained, for `TIME` at most; exit status 1 if it is not then"},
	}
	editFlags = []cli.Flag{
		directorFlag,
		&cli.BoolFlag{Name: "dry-run", Usage: "print what would change in the active director's table, and change nothing"},
		&cli.StringFlag{Name: "if-version", Usage: "only if `VERSION` is in force"},
		&cli.StringFlag{Name: "message", Usage: "say `TEXT` in the history; default: the command"},
	}
)

func flags(lists ...[]cli.Flag) []cli.Flag {
	var out []cli.Flag
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

const editHelp = "The rest of the specification stays as it is written, its comments included. If somebody else changes\n" +
	"it meanwhile the edit is made again on what they made of it, unless --if-version is given or it does not\n" +
	"apply any more: exit status 4."

const serviceArg = "SERVICE is a name, or -t, -u, --sctp-service or -f as with ipvsadm."

func serviceCommand() *cli.Command {
	vip := func(usage string) cli.Flag { return &cli.BoolFlag{Name: "vip", Usage: usage} }
	return &cli.Command{
		Name: "service", Aliases: []string{"svc"}, Usage: "add, edit, delete and show the services of the cluster",
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "add a service",
				UsageText:   "drover service add -t|-u|--sctp-service ADDRESS:PORT | -f MARK [options] [NAME]",
				Description: "Real servers are added by drover server add, or are the members of --pool.\n\n" + editHelp,
				Flags:       flags(keyFlags, serviceFlags, []cli.Flag{vip("add the address to the virtual IPs too, unless it is there")}, editFlags),
				Action:      ask(0, 1, addService),
			},
			{
				Name: "edit", Usage: "change options of a service",
				UsageText:   "drover service edit [options] SERVICE",
				Description: "Unlike ipvsadm -E it changes what is named, and leaves the rest. " + serviceArg + "\n\n" + editHelp,
				Flags:       flags(keyFlags, serviceFlags, editFlags),
				Action:      ask(0, 1, editService),
			},
			{
				Name: "delete", Aliases: []string{"rm"}, Usage: "delete a service with its real servers",
				UsageText:   "drover service delete [options] SERVICE",
				Description: serviceArg + "\n\n" + editHelp,
				Flags:       flags(keyFlags, []cli.Flag{vip("delete its address from the virtual IPs too, if no other service has it")}, editFlags),
				Action:      ask(0, 1, deleteService),
			},
			{
				Name: "list", Aliases: []string{"ls"}, Usage: "list the services and their real servers, their state, and why one is out",
				UsageText:   "drover service list [-o FORMAT] [SERVICE...]",
				Description: listHelp,
				Flags:       []cli.Flag{directorFlag, formatFlag},
				Action:      ask(0, 1000, listServices),
			},
			{
				Name: "show", Usage: "print a service as the specification has it",
				UsageText:   "drover service show [-o FORMAT] SERVICE",
				Description: serviceArg + "\n\nWith -o json or yaml it is the service as drover service list has it.",
				Flags:       flags(keyFlags, []cli.Flag{directorFlag, formatFlag}),
				Action:      ask(0, 1, showService),
			},
		},
	}
}

func serverCommand() *cli.Command {
	const args = "[SERVICE] SERVER"
	const help = "SERVICE is a name, or -t, -u, --sctp-service or -f as with ipvsadm; SERVER is a name, an address with or\n" +
		"without port, or -r. SERVICE/SERVER does too, as drover service list -o name prints it."
	const every = " Without a\nservice it is about each service that has the real server.\n\n"
	return &cli.Command{
		Name: "server", Usage: "add, edit, delete, drain and undrain real servers of the cluster",
		Subcommands: []*cli.Command{
			{
				Name: "add", Usage: "add a real server to a service",
				UsageText:   "drover server add [options] SERVICE ADDRESS[:PORT]",
				Description: help + "\n\n" + editHelp,
				Flags:       flags(keyFlags, serverFlags, []cli.Flag{&cli.StringFlag{Name: "name", Usage: "call it `NAME`"}}, editFlags),
				Action:      ask(0, 2, addServer),
			},
			{
				Name: "edit", Usage: "change options of a real server",
				UsageText:   "drover server edit [options] " + args,
				Description: "Unlike ipvsadm -e it changes what is named, and leaves the rest. " + help + every + editHelp,
				Flags:       flags(keyFlags, serverFlags, []cli.Flag{&cli.StringFlag{Name: "name", Usage: "call it `NAME`"}}, editFlags),
				Action:      ask(0, 2, editServer),
			},
			{
				Name: "delete", Aliases: []string{"rm"}, Usage: "delete a real server from a service",
				UsageText:   "drover server delete [options] " + args,
				Description: help + every + editHelp,
				Flags:       flags(keyFlags, serverFlags[:1], editFlags),
				Action:      ask(0, 2, deleteServer),
			},
			{
				Name: "drain", Usage: "send a real server no new connections; those that it has go on",
				UsageText: "drover server drain [options] " + args,
				Description: "It has weight 0 in the kernel until it is undrained, and keeps its own weight in the specification for\n" +
					"then. A member of a pool is listed for that. The drain is over some seconds after its last active\n" +
					"connection, or at the deadline; drover explain, status and events tell how far it is. It goes on where it\n" +
					"is after a restart and on another director.\n\n" +
					help + every + editHelp,
				Flags:  flags(keyFlags, serverFlags[:1], drainFlags, editFlags),
				Action: ask(0, 2, drainServer),
			},
			{
				Name: "undrain", Usage: "send a drained real server new connections again",
				UsageText: "drover server undrain [options] " + args,
				Description: "At any time. One whose weight is 0 gets the weight back that it had before, which the history knows,\n" +
					"or 1. A member of a pool is a member again.\n\n" + help + every + editHelp,
				Flags:  flags(keyFlags, serverFlags[:2], editFlags),
				Action: ask(0, 2, undrainServer),
			},
		},
	}
}

// wrong is a wrong command line.
func wrong(c *cli.Context, format string, args ...any) error {
	return cli.Exit(fmt.Sprintf("%s: %s (usage: %s)", strings.TrimPrefix(c.Command.HelpName, "drover "), fmt.Sprintf(format, args...), c.Command.UsageText), 2)
}

// keyOf reads -t, -u, --sctp-service and -f; the zero key if none is given.
func keyOf(c *cli.Context) (k ipvs.Key, err error) {
	given := ""
	for _, f := range []struct {
		name     string
		protocol ipvs.Protocol
	}{{"tcp-service", ipvs.TCP}, {"udp-service", ipvs.UDP}, {"sctp-service", ipvs.SCTP}, {"fwmark-service", 0}} {
		if !c.IsSet(f.name) {
			continue
		}
		if given != "" {
			return k, wrong(c, "--%s and --%s exclude each other", given, f.name)
		}
		given = f.name
		text := c.String(f.name)
		if f.protocol == 0 {
			mark, err := strconv.ParseUint(text, 10, 32)
			if err != nil || mark == 0 {
				return k, wrong(c, "the mark (%q) must be a number between 1 and 4294967295", text)
			}
			k.Family, k.FWMark = ipvs.IPv4, uint32(mark)
			if c.Bool("ipv6") {
				k.Family = ipvs.IPv6
			}
			continue
		}
		ap, err := netip.ParseAddrPort(text)
		if err != nil || ap.Addr().Zone() != "" {
			return k, wrong(c, "%q is not an address with port, such as 192.0.2.10:80 or [2001:db8::10]:80", text)
		}
		k = ipvs.Key{Protocol: f.protocol, Addr: ap.Addr().Unmap(), Port: ap.Port()}
		k.Family = ipvs.FamilyOf(k.Addr)
	}
	if c.Bool("ipv6") && k.FWMark == 0 {
		return k, wrong(c, "--ipv6 goes with --fwmark-service")
	}
	return k, nil
}

// refOf reads which service is meant; ok is false if none is named. rest are the arguments that are left.
func refOf(c *cli.Context, args []string, most int) (ref edit.Ref, ok bool, rest []string, err error) {
	k, err := keyOf(c)
	if err != nil {
		return ref, false, nil, err
	}
	if k != (ipvs.Key{}) {
		if len(args) >= most {
			return ref, false, nil, wrong(c, "%q and %s both name a service", args[0], k)
		}
		return edit.Ref{Key: k}, true, args, nil
	}
	if len(args) == most {
		return edit.Ref{Name: args[0]}, true, args[1:], nil
	}
	return ref, false, args, nil
}

func oneService(c *cli.Context) (edit.Ref, error) {
	ref, ok, _, err := refOf(c, c.Args().Slice(), 1)
	if err == nil && !ok {
		err = wrong(c, "which service?")
	}
	return ref, err
}

// serverOf reads which real server of which service is meant; the service is not ok if it is about all.
func serverOf(c *cli.Context) (ref edit.Ref, ok bool, server edit.ServerRef, err error) {
	args := c.Args().Slice()
	if len(args) == 1 && !c.IsSet("real-server") {
		if svc, srv, both := strings.Cut(args[0], "/"); both {
			args = []string{svc, srv}
		}
	}
	most := 2
	if c.IsSet("real-server") {
		most = 1
	}
	ref, ok, args, err = refOf(c, args, most)
	if err != nil {
		return ref, ok, server, err
	}
	text := c.String("real-server")
	if most == 2 {
		if len(args) != 1 {
			return ref, ok, server, wrong(c, "which real server?")
		}
		text = args[0]
	}
	return ref, ok, edit.ParseServer(text), nil
}

// number reads an option that is a number; ok is false if it is not given.
func number(c *cli.Context, name string, most uint64) (n uint32, ok bool, err error) {
	if !c.IsSet(name) {
		return 0, false, nil
	}
	v, err := strconv.ParseUint(c.String(name), 10, 32)
	if err != nil || v > most {
		return 0, false, wrong(c, "--%s (%q) must be a number between 0 and %d", name, c.String(name), most)
	}
	return uint32(v), true, nil
}

// serviceOptions are the options of the command line as a change of a service.
func serviceOptions(c *cli.Context) (func(*spec.Service) error, error) {
	timeout, persist, err := number(c, "persistent", uint64(spec.MaxPersistence/time.Second))
	if err != nil {
		return nil, err
	}
	var set ipvs.Flags
	if c.IsSet("sched-flags") {
		for word := range strings.SplitSeq(c.String("sched-flags"), ",") {
			f, ok := spec.SchedulerFlag(word)
			if !ok && word != "none" {
				return nil, wrong(c, "%q is no flag of a scheduler: sh-fallback, sh-port, mh-fallback, mh-port, flag-1, flag-2, flag-3 or none", word)
			}
			set |= f
		}
	}
	if persist && timeout == 0 && (c.IsSet("netmask") || c.IsSet("pe")) {
		return nil, wrong(c, "--netmask and --pe need persistence, and -p 0 takes it away")
	}
	return func(s *spec.Service) error {
		if c.IsSet("name") {
			s.Name = c.String("name")
		}
		if c.IsSet("scheduler") {
			s.Scheduler = c.String("scheduler")
		}
		if c.IsSet("sched-flags") {
			s.Flags = s.Flags&^(ipvs.Sched1|ipvs.Sched2|ipvs.Sched3) | set
		}
		if c.IsSet("ops") {
			s.Flags &^= ipvs.OnePacket
			if c.Bool("ops") {
				s.Flags |= ipvs.OnePacket
			}
		}
		switch {
		case persist && timeout == 0:
			s.Flags &^= ipvs.Persistent
			s.Timeout, s.Netmask, s.PE = 0, uint8(s.Family.Bits()), ""
		case persist:
			s.Flags |= ipvs.Persistent
			s.Timeout = timeout
		}
		if (c.IsSet("netmask") || c.IsSet("pe")) && s.Flags&ipvs.Persistent == 0 {
			return errors.New("--netmask and --pe need persistence: -p [SECONDS]")
		}
		if c.IsSet("netmask") {
			n, err := prefixLength(c.String("netmask"), s.Family)
			if err != nil {
				return err
			}
			s.Netmask = n
		}
		if c.IsSet("pe") {
			s.PE = c.String("pe")
		}
		if c.IsSet("pool") {
			if s.Pool = c.String("pool"); s.Pool == "none" {
				s.Pool = ""
			}
		}
		return nil
	}, nil
}

// prefixLength reads a netmask as ipvsadm takes it: 255.255.255.0, or a prefix length.
func prefixLength(text string, family ipvs.Family) (uint8, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Is4() && family == ipvs.IPv4 {
		for n := 1; n <= 32; n++ {
			if p, _ := netip.AddrFrom4([4]byte{255, 255, 255, 255}).Prefix(n); p.Addr() == a {
				return uint8(n), nil
			}
		}
	}
	if n, err := strconv.ParseUint(strings.TrimPrefix(text, "/"), 10, 8); err == nil && n >= 1 && int(n) <= family.Bits() {
		return uint8(n), nil
	}
	if family == ipvs.IPv6 {
		return 0, fmt.Errorf("netmask (%q) must be a prefix length between 1 and 128", text)
	}
	return 0, fmt.Errorf("netmask (%q) must be a mask such as 255.255.255.0, or a prefix length between 1 and 32", text)
}

func addService(ctx context.Context, c *cli.Context, d *api.Client) error {
	k, err := keyOf(c)
	if err != nil {
		return err
	}
	if k == (ipvs.Key{}) {
		return wrong(c, "one of --tcp-service, --udp-service, --sctp-service and --fwmark-service says what the service is")
	}
	if c.NArg() == 1 && c.IsSet("name") {
		return wrong(c, "%q and --name both name the service", c.Args().First())
	}
	options, err := serviceOptions(c)
	if err != nil {
		return err
	}
	s := spec.Service{Name: c.Args().First(), Service: ipvs.Service{Key: k, Scheduler: "wlc", Netmask: uint8(k.Family.Bits())}}
	if err := options(&s); err != nil {
		return cli.Exit(err, 2)
	}
	list := []edit.Change{edit.AddService(s)}
	if c.Bool("vip") {
		if !k.Addr.IsValid() {
			return wrong(c, "--vip needs a service with an address")
		}
		list = append(list, edit.AddVIP(netip.PrefixFrom(k.Addr, k.Addr.BitLen())))
	}
	return change(ctx, c, d, list...)
}

func editService(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, err := oneService(c)
	if err != nil {
		return err
	}
	options, err := serviceOptions(c)
	if err != nil {
		return err
	}
	return change(ctx, c, d, edit.EditService(ref, options))
}

func deleteService(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, err := oneService(c)
	if err != nil {
		return err
	}
	return change(ctx, c, d, func(s *spec.Spec) error {
		svc, err := ref.Find(s)
		if err != nil {
			return err
		}
		vip := svc.Addr
		if err := edit.DeleteService(ref)(s); err != nil || !c.Bool("vip") {
			return err
		}
		for i := range s.Services {
			if s.Services[i].Addr == vip {
				return nil
			}
		}
		return edit.DeleteVIP(vip)(s)
	})
}

// serverOptions are the options of the command line as a change of a real server.
func serverOptions(c *cli.Context) (func(*spec.RealServer) error, error) {
	weight, hasWeight, err := number(c, "weight", ipvs.MaxWeight)
	if err != nil {
		return nil, err
	}
	upper, hasUpper, err := number(c, "u-threshold", 1<<31-1)
	if err != nil {
		return nil, err
	}
	lower, hasLower, err := number(c, "l-threshold", 1<<31-1)
	if err != nil {
		return nil, err
	}
	port, hasPort, err := number(c, "tun-port", 65535)
	if err != nil {
		return nil, err
	}
	forward, given := ipvs.DirectRoute, ""
	for _, f := range []struct {
		name    string
		forward ipvs.Forward
	}{{"gatewaying", ipvs.DirectRoute}, {"ipip", ipvs.Tunnel}, {"masquerading", ipvs.Masq}} {
		if c.Bool(f.name) {
			if given != "" {
				return nil, wrong(c, "--%s and --%s exclude each other", given, f.name)
			}
			forward, given = f.forward, f.name
		}
	}
	types := map[string]ipvs.TunnelType{"ipip": ipvs.TunnelIPIP, "gue": ipvs.TunnelGUE, "gre": ipvs.TunnelGRE}
	kind, ok := types[c.String("tun-type")]
	if !ok && c.IsSet("tun-type") {
		return nil, wrong(c, "--tun-type (%q) must be ipip, gue or gre", c.String("tun-type"))
	}
	return func(d *spec.RealServer) error {
		if c.IsSet("name") {
			d.Name = c.String("name")
		}
		if hasWeight {
			d.Weight = weight
		}
		if hasUpper {
			d.Upper = upper
		}
		if hasLower {
			d.Lower = lower
		}
		if given != "" {
			d.Forward = forward
			if forward != ipvs.Tunnel {
				d.TunnelType, d.TunnelPort, d.TunnelFlags = 0, 0, 0
			}
		}
		if c.IsSet("tun-type") {
			d.TunnelType = kind
		}
		if hasPort {
			d.TunnelPort = uint16(port)
		}
		for name, f := range map[string]ipvs.TunnelFlags{"tun-nocsum": ipvs.TunnelNoChecksum, "tun-csum": ipvs.TunnelChecksum, "tun-remcsum": ipvs.TunnelRemoteChecksum} {
			if c.Bool(name) {
				d.TunnelFlags = f
			}
		}
		if d.Forward != ipvs.Tunnel && (c.IsSet("tun-type") || hasPort || c.Bool("tun-csum") || c.Bool("tun-remcsum") || c.Bool("tun-nocsum")) {
			return errors.New("the options of tunnels need --ipip")
		}
		return nil
	}, nil
}

func addServer(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, ok, server, err := serverOf(c)
	if err != nil {
		return err
	}
	if !ok {
		return wrong(c, "to which service?")
	}
	if !server.Addr.IsValid() {
		return wrong(c, "%s is not an address, such as 10.0.0.11 or 10.0.0.11:80", server)
	}
	options, err := serverOptions(c)
	if err != nil {
		return err
	}
	r := spec.RealServer{Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: server.Addr, Port: server.Port}, Weight: 1, Forward: ipvs.DirectRoute}}
	if err := options(&r); err != nil {
		return cli.Exit(err, 2)
	}
	return change(ctx, c, d, edit.AddServer(ref, r))
}

// everywhere makes a change of a real server in one service, or in all that list it.
func everywhere(ref edit.Ref, one bool, server edit.ServerRef, f func(edit.Ref) edit.Change) edit.Change {
	return func(s *spec.Spec) error {
		if one {
			return f(ref)(s)
		}
		found := false
		for i := range s.Services {
			if server.Index(&s.Services[i]) >= 0 {
				found = true
				if err := f(edit.Ref{Key: s.Services[i].Key})(s); err != nil {
					return err
				}
			}
		}
		if !found {
			return fmt.Errorf("no service lists a real server %s (members of pools are not listed; drover service list shows them)", server)
		}
		return nil
	}
}

func editServer(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, one, server, err := serverOf(c)
	if err != nil {
		return err
	}
	options, err := serverOptions(c)
	if err != nil {
		return err
	}
	return change(ctx, c, d, everywhere(ref, one, server, func(r edit.Ref) edit.Change { return edit.EditServer(r, server, options) }))
}

func deleteServer(ctx context.Context, c *cli.Context, d *api.Client) error {
	ref, one, server, err := serverOf(c)
	if err != nil {
		return err
	}
	return change(ctx, c, d, everywhere(ref, one, server, func(r edit.Ref) edit.Change { return edit.DeleteServer(r, server) }))
}
