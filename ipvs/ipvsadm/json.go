package ipvsadm

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/drover-lb/drover/ipvs"
)

// The JSON forms of what the kernel holds. Fields are only ever added. What does not apply is left
// out; numbers are exact.

// TableJSON is the table.
type TableJSON struct {
	Version             string        `json:"version"` // of IPVS, such as 1.2.1
	ConnectionTableSize uint32        `json:"connection_table_size"`
	Services            []ServiceJSON `json:"services"`
}

// ServiceJSON is a virtual service.
type ServiceJSON struct {
	Family      string           `json:"family"`             // ipv4 or ipv6
	Protocol    string           `json:"protocol,omitempty"` // tcp, udp, sctp or a number; without fwmark
	Address     *netip.Addr      `json:"address,omitempty"`  // without fwmark
	Port        *uint16          `json:"port,omitempty"`     // without fwmark
	FWMark      uint32           `json:"fwmark,omitempty"`
	Scheduler   string           `json:"scheduler"`
	Flags       []string         `json:"flags,omitempty"`      // mh-fallback, mh-port, sh-fallback, sh-port, flag-1 ... flag-3
	OnePacket   bool             `json:"one_packet,omitempty"` // each packet is scheduled
	Persistence *PersistenceJSON `json:"persistence,omitempty"`
	Stats       StatsJSON        `json:"stats"`
	Rate        RateJSON         `json:"rate"`
	Servers     []ServerJSON     `json:"servers"`
}

// PersistenceJSON ties clients to servers.
type PersistenceJSON struct {
	TimeoutSeconds uint32 `json:"timeout_seconds"`
	Netmask        string `json:"netmask"`          // of clients that are taken together: 255.255.255.0, or a prefix length for ipv6
	Engine         string `json:"engine,omitempty"` // sip
}

// ServerJSON is a real server of a service.
type ServerJSON struct {
	Address               netip.Addr  `json:"address"`
	Port                  uint16      `json:"port"`
	Forward               string      `json:"forward"` // route, tunnel, masq, local or bypass
	Tunnel                *TunnelJSON `json:"tunnel,omitempty"`
	Weight                uint32      `json:"weight"`
	UpperThreshold        uint32      `json:"upper_threshold"` // 0 is none
	LowerThreshold        uint32      `json:"lower_threshold"`
	ActiveConnections     uint32      `json:"active_connections"`
	InactiveConnections   uint32      `json:"inactive_connections"`
	PersistentConnections uint32      `json:"persistent_connections"`
	Stats                 StatsJSON   `json:"stats"`
	Rate                  RateJSON    `json:"rate"`
}

// TunnelJSON is the encapsulation of a tunnel.
type TunnelJSON struct {
	Type     string `json:"type"`               // ipip, gue or gre
	Port     uint16 `json:"port,omitempty"`     // gue
	Checksum string `json:"checksum,omitempty"` // gue and gre: none, checksum or remote
}

// StatsJSON counts since the service was made or zeroed.
type StatsJSON struct {
	Connections uint64 `json:"connections"`
	InPackets   uint64 `json:"in_packets"`
	OutPackets  uint64 `json:"out_packets"`
	InBytes     uint64 `json:"in_bytes"`
	OutBytes    uint64 `json:"out_bytes"`
}

// RateJSON is per second.
type RateJSON struct {
	Connections uint64 `json:"connections"`
	InPackets   uint64 `json:"in_packets"`
	OutPackets  uint64 `json:"out_packets"`
	InBytes     uint64 `json:"in_bytes"`
	OutBytes    uint64 `json:"out_bytes"`
}

// ConnectionJSON is a connection or a persistence template.
type ConnectionJSON struct {
	Protocol       string         `json:"protocol"` // tcp, udp, sctp; ip for a template of a fwmark service
	ExpiresSeconds uint64         `json:"expires_seconds"`
	State          string         `json:"state"`
	Client         netip.AddrPort `json:"client"`
	Virtual        netip.AddrPort `json:"virtual"`
	Server         netip.AddrPort `json:"server"`
	Engine         string         `json:"engine,omitempty"`
	EngineData     string         `json:"engine_data,omitempty"`
}

// TimeoutsJSON are the timeouts of connections without packets.
type TimeoutsJSON struct {
	TCPSeconds    uint64 `json:"tcp_seconds"`
	TCPFinSeconds uint64 `json:"tcp_fin_seconds"`
	UDPSeconds    uint64 `json:"udp_seconds"`
}

// DaemonJSON is a connection sync daemon.
type DaemonJSON struct {
	Role      string     `json:"role"` // master or backup
	Interface string     `json:"interface"`
	SyncID    uint8      `json:"sync_id"`
	MaxLen    uint16     `json:"max_len"`
	Group     netip.Addr `json:"group"`
	Port      uint16     `json:"port"`
	TTL       uint8      `json:"ttl"`
}

func statsJSON(s *ipvs.Stats) (StatsJSON, RateJSON) {
	return StatsJSON{s.Connections, s.InPackets, s.OutPackets, s.InBytes, s.OutBytes},
		RateJSON{s.CPS, s.InPPS, s.OutPPS, s.InBPS, s.OutBPS}
}

func familyJSON(f ipvs.Family) string {
	if f == ipvs.IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

func serviceJSON(s *ipvs.ServiceEntry, dests []ipvs.DestinationEntry) ServiceJSON {
	slices.SortFunc(dests, func(a, b ipvs.DestinationEntry) int { return a.DestKey.Compare(b.DestKey) })
	j := ServiceJSON{
		Family:    familyJSON(s.Family),
		FWMark:    s.FWMark,
		Scheduler: s.Scheduler,
		OnePacket: s.Flags&ipvs.OnePacket != 0,
		Servers:   make([]ServerJSON, len(dests)),
	}
	if s.FWMark == 0 {
		j.Protocol, j.Address, j.Port = strings.ToLower(s.Protocol.String()), &s.Addr, &s.Port
	}
	if s.Flags&(ipvs.Sched1|ipvs.Sched2|ipvs.Sched3) != 0 {
		j.Flags = schedulerFlags(s.Flags, s.Scheduler)
	}
	if s.Flags&ipvs.Persistent != 0 {
		j.Persistence = &PersistenceJSON{TimeoutSeconds: s.Timeout, Engine: s.PE}
		if s.Family == ipvs.IPv6 {
			j.Persistence.Netmask = strconv.FormatUint(uint64(s.RawNetmask), 10)
		} else {
			j.Persistence.Netmask = dotted(s.RawNetmask).String()
		}
	}
	j.Stats, j.Rate = statsJSON(&s.Stats)
	for i := range dests {
		j.Servers[i] = serverJSON(&dests[i])
	}
	return j
}

func serverJSON(d *ipvs.DestinationEntry) ServerJSON {
	j := ServerJSON{
		Address:               d.Addr,
		Port:                  d.Port,
		Forward:               strings.ToLower(d.Forward.String()),
		Weight:                d.Weight,
		UpperThreshold:        d.Upper,
		LowerThreshold:        d.Lower,
		ActiveConnections:     d.Counts.Active,
		InactiveConnections:   d.Counts.Inactive,
		PersistentConnections: d.Counts.Persistent,
	}
	j.Stats, j.Rate = statsJSON(&d.Stats)
	if d.Forward == ipvs.Tunnel {
		j.Tunnel = &TunnelJSON{Type: d.TunnelType.String(), Port: d.TunnelPort}
		if d.TunnelType != ipvs.TunnelIPIP {
			j.Tunnel.Checksum = d.TunnelFlags.String()
		}
	}
	return j
}

// WriteTableJSON prints the table as a [TableJSON], ordered by the keys of services and servers.
func WriteTableJSON(w io.Writer, info ipvs.Info, services []ipvs.ServiceEntry, destinations Destinations) error {
	version, err := json.Marshal(info.Version)
	if err != nil {
		return err
	}
	b := fmt.Appendf(nil, "{\n  \"version\": %s,\n  \"connection_table_size\": %d,\n  \"services\": [", version, info.ConnTableSize)
	services = slices.SortedFunc(slices.Values(services), func(a, b ipvs.ServiceEntry) int { return a.Key.Compare(b.Key) })
	separator := "\n    "
	for batch := range slices.Chunk(services, batchSize) {
		var dests [batchSize][]ipvs.DestinationEntry
		err := destinations.read(batch, func(service int, d *ipvs.DestinationEntry) { dests[service] = append(dests[service], *d) })
		if err != nil {
			return err
		}
		for i := range batch {
			text, err := json.MarshalIndent(serviceJSON(&batch[i], dests[i]), "    ", "  ")
			if err != nil {
				return err
			}
			b = append(append(b, separator...), text...)
			separator = ",\n    "
			if err := flush(w, &b, 60<<10); err != nil {
				return err
			}
		}
	}
	if len(services) > 0 {
		b = append(b, "\n  "...)
	}
	b = append(b, "]\n}\n"...)
	return flush(w, &b, 0)
}

// WriteTimeoutsJSON prints {"timeouts": ...} with a [TimeoutsJSON].
func WriteTimeoutsJSON(w io.Writer, t ipvs.Timeouts) error {
	return writeJSON(w, map[string]TimeoutsJSON{"timeouts": {
		TCPSeconds:    uint64(t.TCP / time.Second),
		TCPFinSeconds: uint64(t.TCPFin / time.Second),
		UDPSeconds:    uint64(t.UDP / time.Second),
	}})
}

// WriteDaemonsJSON prints {"daemons": [...]} with a [DaemonJSON] each.
func WriteDaemonsJSON(w io.Writer, daemons []ipvs.Daemon) error {
	list := make([]DaemonJSON, len(daemons))
	for i, d := range daemons {
		list[i] = DaemonJSON{d.Role.String(), d.Interface, d.SyncID, d.MaxLen, d.Group, d.Port, d.TTL}
	}
	return writeJSON(w, map[string][]DaemonJSON{"daemons": list})
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// connectionsJSON prints {"connections": [...]} with a [ConnectionJSON] on each line.
type connectionsJSON struct {
	w     io.Writer
	b     []byte
	count int
}

// NewConnectionsJSON is a [Connections] that prints {"connections": [...]}, a [ConnectionJSON] each.
func NewConnectionsJSON(w io.Writer) Connections {
	return &connectionsJSON{w: w, b: []byte(`{"connections": [`)}
}

func (p *connectionsJSON) Print(c ipvs.Connection) error {
	name := "ip"
	if c.Protocol != 0 {
		name = strings.ToLower(c.Protocol.String())
	}
	line, err := json.Marshal(ConnectionJSON{
		Protocol:       name,
		ExpiresSeconds: uint64(c.Expires / time.Second),
		State:          c.State,
		Client:         c.Client,
		Virtual:        c.Virtual,
		Server:         c.Destination,
		Engine:         c.PE,
		EngineData:     c.PEData,
	})
	if err != nil {
		return err
	}
	if p.count > 0 {
		p.b = append(p.b, ',')
	}
	p.count++
	p.b = append(append(p.b, "\n  "...), line...)
	return flush(p.w, &p.b, 4<<10)
}

func (p *connectionsJSON) Close() error {
	if p.count > 0 {
		p.b = append(p.b, '\n')
	}
	p.b = append(p.b, "]}\n"...)
	return flush(p.w, &p.b, 0)
}
