package ipvsadm

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/ipvs"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file of testdata, as the real ipvsadm's output was compared (kernel_test.go).
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant\n%s", name, got, want)
	}
}

func sample() (ipvs.Info, []ipvs.ServiceEntry) {
	dest := func(addr string, weight uint32, f func(*ipvs.DestinationEntry)) ipvs.DestinationEntry {
		a := netip.MustParseAddrPort(addr)
		d := ipvs.DestinationEntry{Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: a.Addr(), Port: a.Port()}, Forward: ipvs.DirectRoute, Weight: weight}}
		if f != nil {
			f(&d)
		}
		return d
	}
	service := func(p ipvs.Protocol, addr, scheduler string, dests ...ipvs.DestinationEntry) ipvs.ServiceEntry {
		a := netip.MustParseAddrPort(addr)
		f := ipvs.FamilyOf(a.Addr())
		s := ipvs.ServiceEntry{
			Service: ipvs.Service{
				Key:       ipvs.Key{Family: f, Protocol: p, Addr: a.Addr(), Port: a.Port()},
				Scheduler: scheduler, Netmask: uint8(f.Bits()),
			},
			RawNetmask:   1<<32 - 1,
			Destinations: dests,
		}
		if f == ipvs.IPv6 {
			s.RawNetmask = 128
		}
		return s
	}
	web := service(ipvs.TCP, "192.0.2.10:80", "mh",
		dest("10.0.0.12:80", 1, func(d *ipvs.DestinationEntry) {
			d.Counts = ipvs.Counts{Active: 1234, Inactive: 56, Persistent: 7}
			d.Stats = ipvs.Stats{Connections: 99999999, InPackets: 100000000, OutPackets: 1<<32 + 5, InBytes: 1e11, OutBytes: 1e14, CPS: 1, InPPS: 123456789, OutPPS: 3, InBPS: 1e9, OutBPS: 5}
		}),
		dest("10.0.0.11:80", 65535, func(d *ipvs.DestinationEntry) {
			d.Upper, d.Lower = 1000, 800
			d.Forward, d.TunnelType, d.TunnelPort, d.TunnelFlags = ipvs.Tunnel, ipvs.TunnelGUE, 6080, ipvs.TunnelRemoteChecksum
		}),
	)
	web.Flags = ipvs.Persistent | ipvs.Sched1 | ipvs.Sched2
	web.Timeout, web.Netmask, web.RawNetmask = 300, 24, 0xffffff00
	web.Stats = ipvs.Stats{Connections: 99999999, InPackets: 100000000, OutPackets: 999999999, InBytes: 99999999999, OutBytes: 1<<64 - 1, CPS: 1e8}
	sip := service(ipvs.UDP, "[2001:db8::10]:5060", "rr", dest("[fd00::11]:5060", 1, nil))
	sip.Flags, sip.Timeout, sip.PE = ipvs.Persistent|ipvs.OnePacket, 60, "sip"
	sip.Netmask, sip.RawNetmask = 64, 64
	fwm := service(ipvs.TCP, "0.0.0.0:0", "sed")
	fwm.Key = ipvs.Key{Family: ipvs.IPv6, FWMark: 7}
	fwm.RawNetmask, fwm.Netmask = 128, 128
	return ipvs.Info{Version: "1.2.1", ConnTableSize: 4096}, []ipvs.ServiceEntry{fwm, sip, web}
}

func TestTable(t *testing.T) {
	info, services := sample()
	for name, o := range map[string]Options{
		"plain": {}, "nosort": {NoSort: true}, "stats": {View: Stats}, "stats-exact": {View: Stats, Exact: true}, "rate": {View: Rate},
		"rate-exact": {View: Rate, Exact: true}, "thresholds": {View: Thresholds}, "persistent-conn": {View: PersistentConn}, "tun-info": {View: TunnelInfo},
	} {
		var b bytes.Buffer
		if err := Table(&b, info, services, nil, o); err != nil {
			t.Fatal(err)
		}
		golden(t, name+".txt", b.Bytes())
	}
	if services[0].FWMark != 7 {
		t.Error("the caller's table was sorted")
	}
}

func TestJSON(t *testing.T) {
	info, services := sample()
	var b bytes.Buffer
	if err := WriteTableJSON(&b, info, services, nil); err != nil {
		t.Fatal(err)
	}
	golden(t, "table.json", b.Bytes())
	var table TableJSON
	if err := json.Unmarshal(b.Bytes(), &table); err != nil || len(table.Services) != 3 || len(table.Services[0].Servers) != 2 {
		t.Errorf("%+v, %v", table, err)
	}
	b.Reset()
	if err := WriteTableJSON(&b, info, nil, nil); err != nil {
		t.Fatal(err)
	}
	golden(t, "empty.json", b.Bytes())
}

func TestSettingsJSON(t *testing.T) {
	var table, out bytes.Buffer
	timeouts := ipvs.Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}
	daemons := []ipvs.Daemon{
		{Role: ipvs.Master, Interface: "eth0", SyncID: 5, MaxLen: 1472, Group: netip.MustParseAddr("224.0.0.81"), Port: 8848, TTL: 1},
		{Role: ipvs.Backup, Interface: "eth0", SyncID: 7, MaxLen: 1400, Group: netip.MustParseAddr("ff05::51"), Port: 8849, TTL: 255},
	}
	for _, err := range []error{
		Timeouts(&table, timeouts), Daemons(&table, nil), Daemons(&table, daemons),
		WriteTimeoutsJSON(&out, timeouts), WriteDaemonsJSON(&out, nil), WriteDaemonsJSON(&out, daemons),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	golden(t, "settings.txt", table.Bytes())
	golden(t, "settings.json", out.Bytes())
}

func TestConnections(t *testing.T) {
	const proc = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C000020A B878 C000020A 0050 0A000001 0050 ESTABLISHED     897
SCTP C000020A EC3A C000020A 0009 0A000009 0009 CLOSED           60
UDP C000020A 0000 C000020A 13C4 0A000009 13C4 NONE             57 sip abc0@10.0.0.1
IP  2001:0db8:0000:0000:0000:0000:0000:0000 0000 0000:0008:0000:0000:0000:0000:0000:0000 0000 fd00:0000:0000:0000:0000:0000:0000:0009 0000 ASSURED       29997
TCP 2001:0db8:1111:2222:3333:4444:5555:6666 C134 2001:0db8:1111:2222:3333:4444:5555:6666 FFFF fd00:1111:2222:3333:4444:5555:6666:7777 FFFF SYN_RECV        9
`
	for name, make := range map[string]func(*bytes.Buffer) Connections{
		"connections.txt":            func(b *bytes.Buffer) Connections { return NewConnections(b, false) },
		"connections-persistent.txt": func(b *bytes.Buffer) Connections { return NewConnections(b, true) },
		"connections.json":           func(b *bytes.Buffer) Connections { return NewConnectionsJSON(b) },
	} {
		var b bytes.Buffer
		p := make(&b)
		for c, err := range ipvs.Connections(strings.NewReader(proc)) {
			if err != nil {
				t.Fatal(err)
			}
			if err := p.Print(c); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		golden(t, name, b.Bytes())
	}
}

// Numbers have eight digits, or eight and a letter.
func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		v    uint64
		want string
	}{
		{0, "        0"},
		{99999999, " 99999999"},
		{100000000, "  100000K"},
		{999999999, "  999999K"},
		{1000000000, "    1000M"},
		{99999999999, "   99999M"},
		{100000000000, "     100G"},
		{99999999999999, "   99999G"},
		{100000000000000, "     100T"},
		{1<<64 - 1, "18446744T"},
	} {
		if got := string(appendNumber(nil, tt.v, false)); got != tt.want {
			t.Errorf("%d: %q, want %q", tt.v, got, tt.want)
		}
		if got, want := string(appendNumber(nil, tt.v, true)), fmt.Sprintf(" %8d", tt.v); got != want {
			t.Errorf("%d exact: %q, want %q", tt.v, got, want)
		}
	}
}

// With a compare that is an order the sort is a stable sort.
func TestMergeSort(t *testing.T) {
	for n := range 40 {
		s := make([][2]int, n)
		for i := range s {
			s[i] = [2]int{i * 7919 % 5, i}
		}
		mergeSort(s, nil, func(a, b *[2]int) int { return a[0] - b[0] })
		for i := 1; i < n; i++ {
			if s[i-1][0] > s[i][0] || s[i-1][0] == s[i][0] && s[i-1][1] > s[i][1] {
				t.Fatalf("%d: %v", n, s)
			}
		}
	}
}
