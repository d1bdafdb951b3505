package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/arp"
	"github.com/drover-lb/drover/arp/frame"
	"github.com/drover-lb/drover/internal/dump"
)

const (
	arpWait    = time.Second            // default of --wait
	arpMaxWait = time.Hour              // and its bound
	arpLinger  = 500 * time.Millisecond // after the last of --count questions
	arpMaxAsk  = 10000                  // bound of --count
	// Bounds on finding the name of a host that answers.
	arpMaxHosts    = 1024
	arpHostsAtOnce = 32
	arpHostWait    = 500 * time.Millisecond
	arpHostAsk     = 150 * time.Millisecond
)

func arpCommand() *cli.Command {
	return &cli.Command{
		Name:      "arp",
		Usage:     "show who answers for a virtual IP on this link",
		ArgsUsage: "VIP",
		Description: "Asks by ARP, or neighbour discovery for IPv6, who has VIP, and prints each MAC that claims it, with\n" +
			"the other addresses of that host as far as they can be found. In direct routing exactly one host must\n" +
			"answer, the active director: exit status 0. When none or several do, 1. Needs root (CAP_NET_RAW).",
		UseShortOptionHandling: true,
		HideHelpCommand:        true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "interface", Aliases: []string{"i"}, Usage: "ask on `IFACE`; default: where VIP is routed to"},
			&cli.IntFlag{Name: "count", Aliases: []string{"c"}, Usage: "ask `N` times, 200ms apart; default: for as long as --wait"},
			&cli.DurationFlag{Name: "wait", Aliases: []string{"w"}, Value: arpWait, Usage: "listen for this `TIME`; with --count, by default until 500ms after the last question"},
			&cli.StringSliceFlag{Name: "hosts", Usage: "addresses or prefixes of hosts that may be the one that answers, for its name when the neighbour table does not know it; `LIST` separated by commas"},
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table or json"},
		},
		OnUsageError: func(_ *cli.Context, err error, _ bool) error { return arpUsage("%v", err) },
		Action:       arpAction,
	}
}

// arpUsage is a wrong command line, exit status 2.
func arpUsage(format string, args ...any) error {
	return cli.Exit("arp: "+fmt.Sprintf(format, args...)+" (drover arp --help explains the options)", 2)
}

func arpAction(c *cli.Context) error {
	args := c.Args().Slice()
	if len(args) > 1 {
		// The library takes options before the argument only.
		var err error
		if args, err = trailingFlags(c, args); err != nil {
			return arpUsage("%v", err)
		}
	}
	if len(args) != 1 {
		return arpUsage("expected one VIP, found %d arguments", len(args))
	}
	vip, err := netip.ParseAddr(args[0])
	if err != nil || vip.Zone() != "" {
		return arpUsage("%q is not an IPv4 or IPv6 address", args[0])
	}
	vip = vip.Unmap()
	hosts, err := parseHosts(c.StringSlice("hosts"))
	if err != nil {
		return arpUsage("%v", err)
	}
	count, wait, format := c.Int("count"), c.Duration("wait"), c.String("output")
	switch {
	case count < 0 || count > arpMaxAsk:
		return arpUsage("--count %d is out of range: 0 to %d", count, arpMaxAsk)
	case wait < 10*time.Millisecond || wait > arpMaxWait:
		return arpUsage("--wait %s is out of range: 10ms to %s", wait, arpMaxWait)
	case format != "table" && format != "json":
		return arpUsage("--output %q is not one of: table, json", format)
	}
	if count > 0 && !c.IsSet("wait") {
		wait = time.Duration(count-1)*arp.DefaultInterval + arpLinger
	}
	report, err := whoHas(c.Context, vip, c.String("interface"), arp.Prober{Count: count}, wait, hosts)
	if err != nil {
		return fmt.Errorf("arp: %w", err)
	}
	if format == "json" {
		err = report.json(c.App.Writer)
	} else {
		err = report.table(c.App.Writer)
	}
	if err != nil {
		return err
	}
	if len(report.Claimants) != 1 {
		return cli.Exit("", 1)
	}
	return nil
}

// trailingFlags takes in options that stand after the first argument, and returns the arguments.
func trailingFlags(c *cli.Context, args []string) ([]string, error) {
	set := flag.NewFlagSet(c.Command.Name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	for _, f := range c.Command.Flags {
		if err := f.Apply(set); err != nil {
			return nil, err
		}
	}
	if err := set.Parse(args[1:]); err != nil {
		return nil, err
	}
	var errs []error
	set.Visit(func(given *flag.Flag) {
		value := given.Value.String()
		if list, ok := given.Value.(cli.Serializer); ok {
			value = list.Serialize()
		}
		for _, f := range c.Command.Flags {
			if slices.Contains(f.Names(), given.Name) {
				errs = append(errs, c.Set(f.Names()[0], value))
			}
		}
	})
	return append(args[:1:1], set.Args()...), errors.Join(errs...)
}

// parseHosts reads addresses and prefixes.
func parseHosts(list []string) ([]netip.Addr, error) {
	var out []netip.Addr
	add := func(a netip.Addr) error {
		if len(out) == arpMaxHosts {
			return fmt.Errorf("--hosts names more than %d addresses", arpMaxHosts)
		}
		out = append(out, a.Unmap())
		return nil
	}
	for _, s := range list {
		if p, err := netip.ParsePrefix(s); err == nil {
			p = p.Masked()
			for a := p.Addr(); a.IsValid() && p.Contains(a); a = a.Next() {
				if err := add(a); err != nil {
					return nil, err
				}
			}
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return nil, fmt.Errorf("--hosts: %q is neither an address nor a prefix", s)
		}
		if err := add(a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// arpReport is what drover arp found out.
type arpReport struct {
	VIP       netip.Addr  `json:"address"`
	Interface string      `json:"interface"`
	Source    *netip.Addr `json:"source,omitempty"` // of the questions
	Questions int         `json:"questions"`
	Seconds   float64     `json:"seconds"`
	Claimants []claimant  `json:"claimants"`
	Truncated bool        `json:"truncated,omitempty"`
	Elsewhere []string    `json:"also_on_this_host,omitempty"` // other interfaces of this host that have the VIP
}

// claimant is a host that claims the VIP.
type claimant struct {
	MAC       frame.MAC    `json:"mac"`
	ThisHost  bool         `json:"this_host,omitempty"` // it has the VIP on the interface; nobody asked it
	FirstMS   float64      `json:"first_ms"`            // after the first question
	LastMS    float64      `json:"last_ms"`
	Count     int          `json:"count"`
	Unasked   int          `json:"unasked"`   // of these, announcements and the like
	Addresses []netip.Addr `json:"addresses"` // what else it has
}

func ms(d time.Duration) float64 {
	return float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
}

// whoHas asks for vip, and for the names of those who answer.
func whoHas(ctx context.Context, vip netip.Addr, iface string, p arp.Prober, wait time.Duration, hosts []netip.Addr) (*arpReport, error) {
	mine, err := devicesWith(vip)
	if err != nil {
		return nil, err
	}
	if iface == "" {
		if iface, err = interfaceFor(vip, mine); err != nil {
			return nil, err
		}
	}
	res, err := p.Probe(ctx, iface, vip, wait)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	r := &arpReport{VIP: vip, Interface: iface, Questions: res.Asked, Seconds: wait.Seconds(), Truncated: res.More, Claimants: []claimant{}}
	if res.Source.IsValid() {
		r.Source = &res.Source
	}
	for _, dev := range mine {
		if dev != iface {
			r.Elsewhere = append(r.Elsewhere, dev)
			continue
		}
		ifi, err := net.InterfaceByName(dev)
		if err != nil {
			return nil, err
		}
		mac, _ := frame.MACFrom(ifi.HardwareAddr)
		r.Claimants = append(r.Claimants, claimant{MAC: mac, ThisHost: true, Addresses: ownAddresses(ifi, vip)})
	}
	for _, a := range res.Answers {
		r.Claimants = append(r.Claimants, claimant{MAC: a.MAC, FirstMS: ms(a.First), LastMS: ms(a.Last), Count: a.Count, Unasked: a.Unasked, Addresses: []netip.Addr{}})
	}
	return r, r.name(ctx, hosts)
}

// devicesWith returns the interfaces of this host that have an address.
func devicesWith(addr netip.Addr) ([]string, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, fmt.Errorf("failed to list the addresses of %s: %w", i.Name, err)
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.Equal(addr.AsSlice()) {
				out = append(out, i.Name)
				break
			}
		}
	}
	return out, nil
}

func ownAddresses(ifi *net.Interface, except netip.Addr) []netip.Addr {
	out := []netip.Addr{}
	addrs, _ := ifi.Addrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() != except {
				out = append(out, ip.Unmap())
			}
		}
	}
	return out
}

// interfaceFor returns the interface on whose link vip is to be looked for.
func interfaceFor(vip netip.Addr, mine []string) (string, error) {
	for _, dev := range mine {
		if ifi, err := net.InterfaceByName(dev); err == nil {
			if _, ok := frame.Ethernet(ifi); ok {
				return dev, nil
			}
		}
	}
	if len(mine) > 0 {
		// It is local, so routed to lo; the link is the one in whose subnet it lies.
		ifs, err := net.Interfaces()
		if err != nil {
			return "", err
		}
		for _, i := range ifs {
			if _, ok := frame.Ethernet(&i); !ok {
				continue
			}
			addrs, _ := i.Addrs()
			for _, a := range addrs {
				if n, ok := a.(*net.IPNet); ok && n.Contains(vip.AsSlice()) {
					return i.Name, nil
				}
			}
		}
		return "", fmt.Errorf("this host has %s itself, on %s: say with -i on which link to ask for it", vip, strings.Join(mine, ", "))
	}
	routes, err := netlink.RouteGet(vip.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || err == nil && len(routes) == 0 {
		return "", fmt.Errorf("this host has no route to %s: say with -i on which link to ask for it", vip)
	}
	if err != nil {
		return "", fmt.Errorf("failed to look up the route to %s: %w", vip, err)
	}
	r := routes[0]
	if r.Gw != nil {
		return "", fmt.Errorf("%s is reached through the router %s, so its hosts are on another link: run this there, or say with -i on which link to ask", vip, r.Gw)
	}
	ifi, err := net.InterfaceByIndex(r.LinkIndex)
	if err != nil {
		return "", fmt.Errorf("failed to find interface %d, to which %s is routed: %w", r.LinkIndex, vip, err)
	}
	return ifi.Name, nil
}

// name finds the other addresses of the claimants: in the kernel's neighbour table, and, for those that it
// does not know, by asking for hosts.
func (r *arpReport) name(ctx context.Context, hosts []netip.Addr) error {
	ifi, err := net.InterfaceByName(r.Interface)
	if err != nil {
		return err
	}
	neighbours, err := dump.All(func() ([]netlink.Neigh, error) { return netlink.NeighList(ifi.Index, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("failed to list the neighbours on %s: %w", r.Interface, err)
	}
	for _, n := range neighbours {
		if a, ok := netip.AddrFromSlice(n.IP); ok && n.State&(netlink.NUD_FAILED|netlink.NUD_INCOMPLETE) == 0 {
			r.also(n.HardwareAddr, a.Unmap())
		}
	}
	nameless := func(c claimant) bool { return !c.ThisHost && len(c.Addresses) == 0 }
	if !slices.ContainsFunc(r.Claimants, nameless) {
		return nil
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, arpHostsAtOnce)
	for _, h := range hosts {
		if h == r.VIP || h.IsUnspecified() || h.IsMulticast() || h.IsLoopback() {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			hostCtx, cancel := context.WithCancel(ctx)
			defer cancel()
			p := arp.Prober{Interval: arpHostAsk, Notify: func(frame.MAC, frame.Kind, time.Duration) { cancel() }}
			res, err := p.Probe(hostCtx, r.Interface, h, arpHostWait)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			}
			for _, a := range res.Answers {
				r.also(a.MAC[:], h)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// also notes that the host with mac has addr too.
func (r *arpReport) also(mac net.HardwareAddr, addr netip.Addr) {
	for i := range r.Claimants {
		c := &r.Claimants[i]
		if addr != r.VIP && slices.Equal(c.MAC[:], mac) && !slices.Contains(c.Addresses, addr) {
			c.Addresses = append(c.Addresses, addr)
			slices.SortFunc(c.Addresses, netip.Addr.Compare)
		}
	}
}

// verdict is the report in one line.
func (r *arpReport) verdict() string {
	switch n := len(r.Claimants); n {
	case 0:
		return fmt.Sprintf("nobody answers for %s on %s: clients there cannot reach it", r.VIP, r.Interface)
	case 1:
		return fmt.Sprintf("1 host answers for %s on %s", r.VIP, r.Interface)
	default:
		return fmt.Sprintf("%d hosts answer for %s on %s: clients will reach either", n, r.VIP, r.Interface)
	}
}

func (r *arpReport) json(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *arpReport) table(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(r.Claimants) > 0 {
		fmt.Fprintln(w, "MAC\tFIRST\tCOUNT\tHOST")
	}
	for _, c := range r.Claimants {
		host := "unknown (name candidates with --hosts)"
		if len(c.Addresses) > 0 {
			names := make([]string, len(c.Addresses))
			for i, a := range c.Addresses {
				names[i] = a.String()
			}
			host = "also " + strings.Join(names, ", ")
		}
		if c.ThisHost {
			fmt.Fprintf(w, "%s\t-\t-\tthis host, %s\n", c.MAC, host)
			continue
		}
		if c.Unasked > 0 {
			host += fmt.Sprintf("; %d of %d unasked", c.Unasked, c.Count)
		}
		fmt.Fprintf(w, "%s\t%.1fms\t%d\t%s\n", c.MAC, c.FirstMS, c.Count, host)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if r.Truncated {
		fmt.Fprintf(out, "and more: only the first %d are told apart\n", arp.MaxAnswers)
	}
	for _, dev := range r.Elsewhere {
		fmt.Fprintf(out, "this host has it on %s\n", dev)
	}
	_, err := fmt.Fprintln(out, r.verdict())
	return err
}
