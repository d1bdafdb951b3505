package ipvsadm

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-lb/drover/ipvs"
)

// View is which columns a table has.
type View int

const (
	Plain          View = iota // forwarding method, weight, active and inactive connections
	Stats                      // --stats: counters since the service was made or zeroed
	Rate                       // --rate: per second, an average over some seconds
	Thresholds                 // --thresholds: connections at which a server gets no new ones
	PersistentConn             // --persistent-conn: persistence templates
	TunnelInfo                 // --tun-info: kind of tunnel
)

// Options of a table.
type Options struct {
	View  View
	Exact bool // --exact: numbers of Stats and Rate in full instead of in K, M, G and T (powers of 1,000)
	// NoSort keeps the order of the services and their destinations. Otherwise they are sorted as
	// ipvsadm sorts what the kernel lists in the given order.
	NoSort bool
	// Names are printed in place of addresses and ports where there are any; nil is --numeric.
	Names Names
}

// Names knows what hosts and ports are called.
type Names interface {
	Host(netip.Addr) (name string, ok bool)
	Service(port uint16, p ipvs.Protocol) (name string, ok bool)
}

// Destinations hands over the destinations of some services, each with the index of its service, which does
// not fall. [ipvs.Client.EachDestination] is one. A nil Destinations means that the services have theirs with them.
type Destinations func(services []ipvs.ServiceEntry, each func(service int, d *ipvs.DestinationEntry)) error

// read calls each for the destinations of the services.
func (f Destinations) read(services []ipvs.ServiceEntry, each func(service int, d *ipvs.DestinationEntry)) error {
	if f != nil {
		return f(services, each)
	}
	for i := range services {
		for j := range services[i].Destinations {
			each(i, &services[i].Destinations[j])
		}
	}
	return nil
}

// collected hands over the same when all of it is read, to somebody who may take his time: to ask for names.
func (f Destinations) collected() Destinations {
	if f == nil {
		return nil
	}
	return func(services []ipvs.ServiceEntry, each func(service int, d *ipvs.DestinationEntry)) error {
		type entry struct {
			service int
			d       ipvs.DestinationEntry
		}
		var all []entry
		if err := f(services, func(service int, d *ipvs.DestinationEntry) { all = append(all, entry{service, *d}) }); err != nil {
			return err
		}
		for i := range all {
			each(all[i].service, &all[i].d)
		}
		return nil
	}
}

// batchSize is of how many services the destinations are read at a time: a reader that waits, for somebody who turns
// pages, must not keep the kernel's answers waiting too.
const batchSize = 16

// Table prints the services with their destinations. It needs memory for the lines of a few services, whatever
// the length of the table.
func Table(w io.Writer, info ipvs.Info, services []ipvs.ServiceEntry, destinations Destinations, o Options) error {
	services = slices.Clone(services)
	if !o.NoSort {
		mergeSort(services, nil, compareServices)
	}
	b := make([]byte, 0, 64<<10)
	b = fmt.Appendf(b, "IP Virtual Server version %s (size=%d)\n", info.Version, info.ConnTableSize)
	return tableBody(w, b, services, destinations, o)
}

// Service prints one service with its destinations, as ipvsadm -L with a service does: without the
// first line of [Table].
func Service(w io.Writer, service ipvs.ServiceEntry, destinations Destinations, o Options) error {
	return tableBody(w, nil, []ipvs.ServiceEntry{service}, destinations, o)
}

// tableBody prints the titles and the services after what is in b.
func tableBody(w io.Writer, b []byte, services []ipvs.ServiceEntry, destinations Destinations, o Options) error {
	b = append(b, titles[o.View]...)
	if o.Names != nil {
		destinations = destinations.collected()
	}
	return each(w, b, services, destinations, o.NoSort,
		func(b []byte, s *ipvs.ServiceEntry) []byte { return appendService(b, s, o) },
		func(b []byte, s *ipvs.ServiceEntry, d *ipvs.DestinationEntry) []byte { return appendDest(b, s, d, o) })
}

// each prints, after what is in b, the services as they are given, with their destinations sorted unless noSort.
func each(w io.Writer, b []byte, services []ipvs.ServiceEntry, destinations Destinations, noSort bool,
	service func([]byte, *ipvs.ServiceEntry) []byte,
	dest func([]byte, *ipvs.ServiceEntry, *ipvs.DestinationEntry) []byte,
) error {
	var rows rows
	for batch := range slices.Chunk(services, batchSize) {
		rows.reset()
		err := destinations.read(batch, func(i int, d *ipvs.DestinationEntry) {
			rows.add(i, d, func(b []byte) []byte { return dest(b, &batch[i], d) })
		})
		if err != nil {
			return errors.Join(flush(w, &b, 0), err)
		}
		for i := range batch {
			b = service(b, &batch[i])
			for line := range rows.of(i, !noSort) {
				b = append(b, line...)
				if err := flush(w, &b, 60<<10); err != nil {
					return err
				}
			}
			if err := flush(w, &b, 60<<10); err != nil {
				return err
			}
		}
	}
	return flush(w, &b, 0)
}

var titles = map[View]string{
	Plain: "Prot LocalAddress:Port Scheduler Flags\n" +
		"  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn\n",
	Stats: "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n" +
		"  -> RemoteAddress:Port\n",
	Rate: "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n" +
		"  -> RemoteAddress:Port\n",
	Thresholds: "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n" +
		"  -> RemoteAddress:Port\n",
	PersistentConn: "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n" +
		"  -> RemoteAddress:Port\n",
	TunnelInfo: "Prot LocalAddress:Port Scheduler Flags\n" +
		"  -> RemoteAddress:Port           Forward TunnelInfo    Weight ActiveConn InActConn\n",
}

func appendService(b []byte, s *ipvs.ServiceEntry, o Options) []byte {
	start := len(b)
	if s.FWMark != 0 {
		b = append(b, "FWM  "...)
		b = strconv.AppendInt(b, int64(int32(s.FWMark)), 10)
		if s.Family == ipvs.IPv6 {
			b = append(b, " IPv6"...)
		}
	} else {
		b = appendPadded(b, protocolName(s.Protocol), 5)
		b = appendEndpoint(b, s.Addr, s.Port, s.Protocol, o.Names)
		if s.Family == ipvs.IPv4 && len(b)-start > 33 {
			b = b[:start+33]
		}
	}
	switch o.View {
	case Stats:
		b = padTo(b, start, 33)
		for _, v := range [...]uint64{s.Stats.Connections, s.Stats.InPackets, s.Stats.OutPackets, s.Stats.InBytes, s.Stats.OutBytes} {
			b = appendNumber(b, v, o.Exact)
		}
	case Rate:
		b = padTo(b, start, 33)
		for _, v := range [...]uint64{s.Stats.CPS, s.Stats.InPPS, s.Stats.OutPPS, s.Stats.InBPS, s.Stats.OutBPS} {
			b = appendNumber(b, v, o.Exact)
		}
	default:
		b = appendSettings(append(b, ' '), &s.Service, s.RawNetmask)
	}
	return append(b, '\n')
}

// appendSettings appends the scheduler and what else is set of a service.
func appendSettings(b []byte, s *ipvs.Service, rawNetmask uint32) []byte {
	b = append(b, s.Scheduler...)
	if s.Flags&(ipvs.Sched1|ipvs.Sched2|ipvs.Sched3) != 0 {
		b = append(b, " ("...)
		b = append(b, strings.Join(schedulerFlags(s.Flags, s.Scheduler), ",")...)
		b = append(b, ')')
	}
	if s.Flags&ipvs.Persistent != 0 {
		b = append(b, " persistent "...)
		b = strconv.AppendUint(b, uint64(s.Timeout), 10)
		switch {
		case s.Family == ipvs.IPv6 && rawNetmask != 128:
			b = append(b, " mask "...)
			b = strconv.AppendUint(b, uint64(rawNetmask), 10)
		case s.Family != ipvs.IPv6 && rawNetmask != 0xffffffff:
			b = append(b, " mask "...)
			b = dotted(rawNetmask).AppendTo(b)
		}
		if s.PE != "" {
			b = append(b, " pe "...)
			b = append(b, s.PE...)
		}
	}
	if s.Flags&ipvs.OnePacket != 0 {
		b = append(b, " ops"...)
	}
	return b
}

// schedulerFlags names the flags; of sh and mh ipvsadm knows no third.
func schedulerFlags(f ipvs.Flags, scheduler string) []string {
	names := [...]string{"flag-1", "flag-2", "flag-3"}
	switch scheduler {
	case "sh":
		names = [...]string{"sh-fallback", "sh-port", ""}
	case "mh":
		names = [...]string{"mh-fallback", "mh-port", ""}
	}
	set := make([]string, 0, len(names))
	for i, bit := range [...]ipvs.Flags{ipvs.Sched1, ipvs.Sched2, ipvs.Sched3} {
		if f&bit != 0 && names[i] != "" {
			set = append(set, names[i])
		}
	}
	return set
}

func appendDest(b []byte, s *ipvs.ServiceEntry, d *ipvs.DestinationEntry, o Options) []byte {
	b = append(b, "  -> "...)
	start := len(b)
	b = appendEndpoint(b, d.Addr, d.Port, s.Protocol, o.Names)
	if d.Addr.Is4() && len(b)-start > 28 {
		b = b[:start+28]
	}
	b = padTo(b, start, 28)
	switch o.View {
	case Stats:
		for _, v := range [...]uint64{d.Stats.Connections, d.Stats.InPackets, d.Stats.OutPackets, d.Stats.InBytes, d.Stats.OutBytes} {
			b = appendNumber(b, v, o.Exact)
		}
		return append(b, '\n')
	case Rate:
		// Connections and packets per second of a server are always exact.
		for _, v := range [...]uint64{d.Stats.CPS, d.Stats.InPPS, d.Stats.OutPPS} {
			b = appendNumber(b, v, true)
		}
		b = appendNumber(b, d.Stats.InBPS, o.Exact)
		b = appendNumber(b, d.Stats.OutBPS, o.Exact)
		return append(b, '\n')
	}
	b = append(b, ' ')
	switch o.View {
	case Thresholds:
		b = appendColumn(b, uint64(d.Upper), 10)
		b = appendColumn(b, uint64(d.Lower), 10)
	case PersistentConn:
		b = appendColumn(b, uint64(d.Weight), 9)
		b = appendColumn(b, uint64(d.Counts.Persistent), 11)
	default:
		b = append(appendPadded(b, forwardName(d.Forward), 7), ' ')
		if o.View == TunnelInfo {
			b = append(appendPadded(b, tunnelInfo(&d.Destination), 13), ' ')
		}
		start := len(b)
		b = strconv.AppendInt(b, int64(int32(d.Weight)), 10)
		b = append(padTo(b, start, 6), ' ')
	}
	b = appendColumn(b, uint64(d.Counts.Active), 10)
	start = len(b)
	b = strconv.AppendUint(b, uint64(d.Counts.Inactive), 10)
	return append(padTo(b, start, 10), '\n')
}

func protocolName(p ipvs.Protocol) string {
	switch p {
	case ipvs.TCP, ipvs.UDP, ipvs.SCTP:
		return p.String()
	}
	return "?"
}

func forwardName(f ipvs.Forward) string {
	if f > ipvs.DirectRoute {
		return "(null)"
	}
	return f.String()
}

// tunnelInfo is the kind of tunnel with the port of GUE, and the checksum: -c none, +c checked,
// r+c remote checksum offload.
func tunnelInfo(d *ipvs.Destination) string {
	if d.Forward != ipvs.Tunnel {
		return "n/a"
	}
	checksum := "(null)"
	switch d.TunnelFlags {
	case ipvs.TunnelNoChecksum:
		checksum = "-c"
	case ipvs.TunnelChecksum:
		checksum = "+c"
	case ipvs.TunnelRemoteChecksum:
		checksum = "r+c"
	}
	switch d.TunnelType {
	case ipvs.TunnelIPIP:
		return "ipip"
	case ipvs.TunnelGUE:
		return "gue:" + strconv.Itoa(int(d.TunnelPort)) + ":" + checksum
	case ipvs.TunnelGRE:
		return "gre:" + checksum
	}
	return "n/a"
}

// appendNumber appends a number in a column of nine: up to eight digits after a space, or eight and
// a letter for a power of 1,000. Longer numbers take the room they need.
func appendNumber(b []byte, v uint64, exact bool) []byte {
	suffix := byte(0)
	switch {
	case exact || v < 1e8:
	case v < 1e9:
		v, suffix = v/1e3, 'K'
	case v < 1e11:
		v, suffix = v/1e6, 'M'
	case v < 1e14:
		v, suffix = v/1e9, 'G'
	default:
		v, suffix = v/1e12, 'T'
	}
	var digits [20]byte
	d := strconv.AppendUint(digits[:0], v, 10)
	if suffix == 0 {
		b = append(b, ' ')
	}
	for range 8 - len(d) {
		b = append(b, ' ')
	}
	b = append(b, d...)
	if suffix != 0 {
		b = append(b, suffix)
	}
	return b
}

func appendColumn(b []byte, v uint64, width int) []byte {
	start := len(b)
	b = strconv.AppendUint(b, v, 10)
	return append(padTo(b, start, width), ' ')
}

func appendPadded(b []byte, s string, width int) []byte {
	start := len(b)
	return padTo(append(b, s...), start, width)
}

// padTo appends spaces until what follows start is width wide.
func padTo(b []byte, start, width int) []byte {
	for len(b)-start < width {
		b = append(b, ' ')
	}
	return b
}

// appendEndpoint appends an address and a port by their names where they have any.
func appendEndpoint(b []byte, a netip.Addr, port uint16, p ipvs.Protocol, names Names) []byte {
	if names == nil {
		return appendAddrPort(b, a, port)
	}
	start := len(b)
	host, ok := names.Host(a)
	switch {
	case ok && a.Is4():
		b = append(b, host...)
	case ok:
		b = append(append(append(b, '['), host...), ']')
	case a.Is4():
		b = a.AppendTo(b)
	default:
		b = append(appendIPv6(append(b, '['), a), ']')
	}
	b = append(b, ':')
	if service, ok := names.Service(port, p); ok {
		b = append(b, service...)
	} else {
		b = strconv.AppendUint(b, uint64(port), 10)
	}
	return b[:min(len(b), start+59)] // the size of ipvsadm's buffer
}

func appendAddrPort(b []byte, a netip.Addr, port uint16) []byte {
	if !a.Is4() {
		b = append(appendIPv6(append(b, '['), a), ']')
	} else {
		b = a.AppendTo(b)
	}
	return strconv.AppendUint(append(b, ':'), uint64(port), 10)
}

// appendIPv6 appends an address as inet_ntop(3) of the C library does: like netip, but for the
// obsolete IPv4-compatible addresses ::a.b.c.d.
func appendIPv6(b []byte, a netip.Addr) []byte {
	w := words(a)
	if w[0]|w[1]|w[2] == 0 && w[3]>>16 != 0 {
		return dotted(w[3]).AppendTo(append(b, "::"...))
	}
	return a.AppendTo(b)
}

func dotted(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// Timeouts prints the timeouts of connections, in seconds.
func Timeouts(w io.Writer, t ipvs.Timeouts) error {
	_, err := fmt.Fprintf(w, "Timeout (tcp tcpfin udp): %d %d %d\n",
		t.TCP/time.Second, t.TCPFin/time.Second, t.UDP/time.Second)
	return err
}

// Daemons prints the sync daemons, and nothing if none runs.
func Daemons(w io.Writer, daemons []ipvs.Daemon) error {
	var b []byte
	for _, d := range daemons {
		b = fmt.Appendf(b, "%s sync daemon (mcast=%s, syncid=%d, maxlen=%d, group=", d.Role, d.Interface, d.SyncID, d.MaxLen)
		if d.Group.Is6() {
			b = appendIPv6(b, d.Group)
		} else {
			b = d.Group.AppendTo(b)
		}
		b = fmt.Appendf(b, ", port=%d, ttl=%d)\n", d.Port, d.TTL)
	}
	_, err := w.Write(b)
	return err
}

// Connections prints connections one by one. Output is buffered until Close, which does not close
// the writer.
type Connections interface {
	Print(ipvs.Connection) error
	Close() error
}

type connectionTable struct {
	w          io.Writer
	persistent bool
	names      Names
	b          []byte
}

// NewConnections is a [Connections] that prints a table. With persistent, as --persistent-conn, it
// has the persistence engine and what it goes by.
func NewConnections(w io.Writer, persistent bool) Connections {
	return NewNamedConnections(w, persistent, nil)
}

// NewNamedConnections is [NewConnections] with names in place of addresses and ports.
func NewNamedConnections(w io.Writer, persistent bool, names Names) Connections {
	p := &connectionTable{w: w, persistent: persistent, names: names, b: make([]byte, 0, 64<<10)}
	p.b = append(p.b, "IPVS connection entries\npro expire state       source             virtual            destination"...)
	if persistent {
		p.b = append(p.b, "        pe name          pe_data"...)
	}
	p.b = append(p.b, '\n')
	return p
}

func (p *connectionTable) Print(c ipvs.Connection) error {
	b := p.b
	name := "IP"
	if c.Protocol != 0 {
		name = protocolName(c.Protocol)
	}
	b = append(appendPadded(b, name, 3), ' ')
	start := len(b)
	seconds := uint64(c.Expires / time.Second)
	b = appendTwoDigits(b, seconds/60)
	b = appendTwoDigits(append(b, ':'), seconds%60)
	b = append(padTo(b, start, 6), ' ')
	b = append(appendPadded(b, c.State, 11), ' ')
	for _, a := range [...]netip.AddrPort{c.Client, c.Virtual} {
		start = len(b)
		b = appendEndpoint(b, a.Addr(), a.Port(), c.Protocol, p.names)
		b = append(padTo(b, start, 18), ' ')
	}
	start = len(b)
	b = appendEndpoint(b, c.Destination.Addr(), c.Destination.Port(), c.Protocol, p.names)
	if p.persistent && c.PE != "" {
		b = append(padTo(b, start, 16), ' ')
		b = append(appendPadded(b, c.PE, 18), ' ')
		b = append(b, c.PEData...)
	}
	p.b = append(b, '\n')
	return flush(p.w, &p.b, 60<<10)
}

func (p *connectionTable) Close() error { return flush(p.w, &p.b, 0) }

// flush writes and empties b if it is longer than limit.
func flush(w io.Writer, b *[]byte, limit int) error {
	if len(*b) <= limit {
		return nil
	}
	_, err := w.Write(*b)
	*b = (*b)[:0]
	return err
}

func appendTwoDigits(b []byte, v uint64) []byte {
	if v < 10 {
		b = append(b, '0')
	}
	return strconv.AppendUint(b, v, 10)
}
