package spec

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/ipvs"
)

func parse(t *testing.T, content string) *File {
	t.Helper()
	f, err := Parse("f.yaml", []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

const head = "director: {interface: eth0}\nvips: [192.0.2.10]\n"

func TestDefaults(t *testing.T) {
	f := parse(t, "vips: []\nservices: []\n")
	want := Options{Ownership: OwnListed, OnStop: Release, ReconcileInterval: 5 * time.Second, VIPLifetime: 4 * time.Second, Sysctls: true, CheckMark: DefaultCheckMark, Socket: DefaultSocket}
	if f.Director != want || len(f.Spec.VIPs) != 0 || len(f.Spec.Services) != 0 || f.Warnings != nil {
		t.Errorf("got %+v", f)
	}

	f = parse(t, head+"services: [{address: 192.0.2.10, port: 80, real_servers: [10.0.0.11]}]\n")
	svc := Service{
		Name: "TCP 192.0.2.10:80",
		Service: ipvs.Service{Key: ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80},
			Scheduler: "wlc", Netmask: 32},
		RealServers: []RealServer{{Name: "10.0.0.11", Destination: ipvs.Destination{
			DestKey: ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.11"), Port: 80}, Forward: ipvs.DirectRoute, Weight: 1}}},
	}
	if !reflect.DeepEqual(f.Spec.Services, []Service{svc}) || f.Warnings != nil {
		t.Errorf("got %#v, %v", f.Spec.Services, f.Warnings)
	}
}

func TestReadsEverything(t *testing.T) {
	f := parse(t, `
director:
  interface: eth0
  ownership: all
  on_stop: keep
  reconcile_interval: 250ms
  vip_lifetime: 1m
  sysctls: false
  socket: ""
vips:
  - 192.0.2.10/24
  - {address: 2001:db8::10, interface: eth1, group: mail}
services:
  - name: a
    address: 192.0.2.10
    port: 5060
    protocol: udp
    scheduler: sh
    scheduler_flags: [sh-fallback, flag-2]
    one_packet: true
    persistence: {timeout: 1h, netmask: 255.255.240.0, engine: sip}
    forwarding: tunnel
    tunnel: {type: gue, port: 6080, checksum: remote}
    real_servers:
      - 10.0.0.11
      - {name: b, address: fd00::12, weight: 0, upper_threshold: 10, lower_threshold: 10, tunnel: {type: gre, checksum: true}}
      - {address: 10.0.0.13, forwarding: masquerade, port: 5061}
      - {address: 10.0.0.14, tunnel: ipip}
  - {fwmark: 4294967295, family: ipv6, persistence: 90s, scheduler: rr, forwarding: masquerade, real_servers: ["fd00::11"]}
  - {address: "2001:db8::10", port: 0, protocol: sctp, persistence: {netmask: /64}, real_servers: []}
`)
	addr := netip.MustParseAddr
	want := File{
		Director: Options{Interface: "eth0", Ownership: OwnAll, OnStop: Keep, ReconcileInterval: 250 * time.Millisecond, VIPLifetime: time.Minute, CheckMark: DefaultCheckMark},
		Spec: Spec{
			VIPs: []VIP{{Prefix: netip.MustParsePrefix("192.0.2.10/24"), Group: DefaultGroup}, {Prefix: netip.MustParsePrefix("2001:db8::10/128"), Interface: "eth1", Group: "mail"}},
			Services: []Service{
				{Name: "a", Service: ipvs.Service{Key: ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.UDP, Addr: addr("192.0.2.10"), Port: 5060},
					Scheduler: "sh", Flags: ipvs.Persistent | ipvs.OnePacket | ipvs.Sched1 | ipvs.Sched2, Timeout: 3600, Netmask: 20, PE: "sip"},
					RealServers: []RealServer{
						{Name: "10.0.0.11", Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: addr("10.0.0.11"), Port: 5060}, Forward: ipvs.Tunnel, Weight: 1,
							TunnelType: ipvs.TunnelGUE, TunnelPort: 6080, TunnelFlags: ipvs.TunnelRemoteChecksum}},
						{Name: "b", Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: addr("fd00::12"), Port: 5060}, Forward: ipvs.Tunnel, Upper: 10, Lower: 10,
							TunnelType: ipvs.TunnelGRE, TunnelFlags: ipvs.TunnelChecksum}},
						{Name: "10.0.0.13:5061", Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: addr("10.0.0.13"), Port: 5061}, Forward: ipvs.Masq, Weight: 1}},
						{Name: "10.0.0.14", Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: addr("10.0.0.14"), Port: 5060}, Forward: ipvs.Tunnel, Weight: 1}},
					}},
				{Name: "FWM 4294967295 IPv6", Service: ipvs.Service{Key: ipvs.Key{Family: ipvs.IPv6, FWMark: 4294967295},
					Scheduler: "rr", Flags: ipvs.Persistent, Timeout: 90, Netmask: 128},
					RealServers: []RealServer{{Name: "fd00::11", Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: addr("fd00::11")}, Forward: ipvs.Masq, Weight: 1}}}},
				{Name: "SCTP [2001:db8::10]:0", Service: ipvs.Service{Key: ipvs.Key{Family: ipvs.IPv6, Protocol: ipvs.SCTP, Addr: addr("2001:db8::10")},
					Scheduler: "wlc", Flags: ipvs.Persistent, Timeout: 300, Netmask: 64}, RealServers: []RealServer{}},
			},
		},
	}
	if !reflect.DeepEqual(*f, want) {
		t.Errorf("got\n%#v\nwant\n%#v", *f, want)
	}
}

// Addresses that are written in another form are the same address.
func TestMappedAddressIsItsIPv4Address(t *testing.T) {
	f := parse(t, head+"services: [{address: '::ffff:192.0.2.10', port: 80, real_servers: ['::ffff:10.0.0.11']}]\n")
	if s := f.Spec.Services[0]; s.Addr != netip.MustParseAddr("192.0.2.10") || s.RealServers[0].Addr != netip.MustParseAddr("10.0.0.11") {
		t.Errorf("got %v, %v", s.Addr, s.RealServers[0].Addr)
	}
}

func TestGroups(t *testing.T) {
	f := parse(t, "director: {interface: a}\nvips: [{address: 192.0.2.10, group: web}, 192.0.2.11, {address: 192.0.2.12, group: web}]\nservices: []\n")
	if got := f.Spec.Groups(); !slices.Equal(got, []string{DefaultGroup, "web"}) {
		t.Errorf("groups %q", got)
	}
	for _, name := range []string{"", "Web", "a b", "-a", "a-", strings.Repeat("a", 64)} {
		_, err := Parse("f.yaml", []byte(fmt.Sprintf("director: {interface: a}\nvips: [{address: 192.0.2.10, group: %q}]\nservices: []\n", name)))
		if err == nil || !strings.Contains(err.Error(), "f.yaml:2:37: vips[0]: group: ") || !strings.Contains(err.Error(), "must be 1 to 63 of a-z, 0-9 and -") {
			t.Errorf("%q: %v", name, err)
		}
	}
	parse(t, fmt.Sprintf("director: {interface: a}\nvips: [{address: 192.0.2.10, group: %s}]\nservices: []\n", strings.Repeat("a", 63)))
}

func TestWarnings(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"address is no VIP", head + "services:\n - {address: 192.0.2.10, port: 80, real_servers: []}\n - {name: b, address: 192.0.2.11, port: 80, real_servers: []}\n",
			`f.yaml:5:23: services[1] ("b"): 192.0.2.11 is not one of the VIPs of this file`},
		{"VIPs are elsewhere", "vips: []\nservices: [{address: 192.0.2.11, port: 80, real_servers: []}]\n", ""},
		{"VIP without service", head + "services: [{address: 192.0.2.10, port: 80, real_servers: []}]\n", ""},
		{"VIP without service", "vips: [{address: 192.0.2.10, interface: a}, {address: 192.0.2.11, interface: a}]\nservices: [{address: 192.0.2.10, port: 80, real_servers: []}]\n",
			"f.yaml:1:55: vips[1]: no service has the address 192.0.2.11"},
		{"VIP, and a mark that may be for it", head + "services: [{fwmark: 1, real_servers: []}]\n", ""},
		{"mh, weight 0", head + "services: [{address: 192.0.2.10, port: 80, scheduler: mh, real_servers: [{address: 10.0.0.1, weight: 0}]}]\n",
			`f.yaml:3:55: services[0]: scheduler mh turns away the clients of a server with weight 0, or above its upper_threshold: set scheduler_flags: [mh-fallback]`},
		{"sh, threshold", head + "services: [{address: 192.0.2.10, port: 80, scheduler: sh, real_servers: [{address: 10.0.0.1, upper_threshold: 5}]}]\n",
			`f.yaml:3:55: services[0]: scheduler sh turns away the clients of a server with weight 0, or above its upper_threshold: set scheduler_flags: [sh-fallback]`},
		{"mh, weight 0, fallback", head + "services: [{address: 192.0.2.10, port: 80, scheduler: mh, scheduler_flags: [mh-fallback], real_servers: [{address: 10.0.0.1, weight: 0}]}]\n", ""},
		{"idle flag", head + "services: [{address: 192.0.2.10, port: 80, scheduler_flags: [flag-1], real_servers: []}]\n",
			`f.yaml:3:62: services[0]: scheduler_flags: the kernel's wlc does not look at flag-1`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := parse(t, tc.in).Warnings.Error(); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestTooManyServersForMH(t *testing.T) {
	for _, n := range []int{mhSlots, mhSlots + 1} {
		_, err := Parse("f.yaml", []byte(strings.Replace(large(1, n, true), "wlc", "mh", 1)))
		want := ""
		if n > mhSlots {
			want = `f.yaml:7:16: services[0] ("service0"): scheduler: mh has a table of 4093 slots, and 4094 real servers do not fit: must be at most 4093`
		}
		if got := fmt.Sprint(err); got != want && (err != nil || want != "") {
			t.Errorf("%d servers:\n got %s\nwant %s", n, got, want)
		}
	}
}

func TestReferenceFile(t *testing.T) {
	path := filepath.Join("..", "..", "packaging", "director.yaml")
	f, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if f.Warnings != nil {
		t.Errorf("warnings:\n%v", f.Warnings)
	}
	// It says every key there is, in use or in a comment.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var keys func(reflect.Type)
	seen := map[reflect.Type]bool{}
	keys = func(typ reflect.Type) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		switch typ.Kind() {
		case reflect.Slice:
			keys(typ.Elem())
		case reflect.Struct:
			for i := range typ.NumField() {
				field := typ.Field(i)
				if key := field.Tag.Get("yaml"); key != "" && key != "-" && !strings.Contains(string(b), key+":") {
					t.Errorf("the reference file does not mention %s", key)
				}
				keys(field.Type)
			}
		}
	}
	keys(reflect.TypeFor[rawFile]())
}

// Whoever adds a field to Spec must add it to Equal, Clone and Format.
func TestEqualAndCloneKnowEveryField(t *testing.T) {
	full := randomFile(rand.New(rand.NewPCG(1, 1))).Spec
	for len(full.VIPs) == 0 || len(full.Services) == 0 || len(full.Services[0].Checks) == 0 || len(full.Services[0].RealServers) == 0 {
		full = randomFile(rand.New(rand.NewPCG(rand.Uint64(), 1))).Spec
	}
	full.Services[0].Addr = netip.MustParseAddr("192.0.2.1")
	original := full.Clone()
	if !full.Equal(&original) {
		t.Fatal("a clone is not equal")
	}
	n := 0
	var each func(path string, v reflect.Value)
	each = func(path string, v reflect.Value) {
		old := reflect.New(v.Type()).Elem()
		old.Set(v)
		switch {
		case v.Type() == reflect.TypeFor[netip.Addr]():
			v.Set(reflect.ValueOf(v.Interface().(netip.Addr).Next()))
		case v.Type() == reflect.TypeFor[netip.Prefix]():
			p := v.Interface().(netip.Prefix)
			v.Set(reflect.ValueOf(netip.PrefixFrom(p.Addr().Next(), p.Bits())))
		case v.Type() == reflect.TypeFor[time.Time]():
			v.Set(reflect.ValueOf(v.Interface().(time.Time).Add(time.Second)))
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				each(path+"."+v.Type().Field(i).Name, v.Field(i))
			}
			return
		case v.Kind() == reflect.Slice:
			each(path+"[0]", v.Index(0))
			shorter := v.Slice(0, v.Len()-1)
			v.Set(shorter)
		case v.Kind() == reflect.String:
			v.SetString(v.String() + "x")
		case v.CanUint():
			v.SetUint(v.Uint() + 1)
		case v.Kind() == reflect.Bool:
			v.SetBool(!v.Bool())
		case v.CanInt():
			v.SetInt(v.Int() + 1)
		default:
			t.Fatalf("%s is a %s: say here how to change it, and handle it in Equal, Clone and Format", path, v.Type())
		}
		n++
		if full.Equal(&original) {
			t.Errorf("Equal does not look at %s", path)
		}
		if c := full.Clone(); !c.Equal(&full) {
			t.Errorf("Clone does not copy %s", path)
		}
		v.Set(old)
		if !full.Equal(&original) {
			t.Errorf("Clone shares %s, or the test does not restore it", path)
		}
	}
	each("Spec", reflect.ValueOf(&full).Elem())
	if n < 20 {
		t.Errorf("only %d fields were tried", n)
	}
}

// randomFile is a file of valid values, with everything in it sooner or later.
func randomFile(r *rand.Rand) *File {
	f := &File{Director: Options{
		Interface: []string{"eth0", "bond0.100", `we"ird\`, "true", "1"}[r.IntN(5)], Ownership: []Ownership{OwnAll, OwnListed}[r.IntN(2)],
		OnStop: []OnStop{Release, Keep}[r.IntN(2)], ReconcileInterval: minReconcile + time.Duration(r.Int64N(int64(maxReconcile-minReconcile))),
		VIPLifetime: time.Duration(2+r.IntN(3599)) * time.Second, Sysctls: r.IntN(2) == 0, CheckMark: []uint32{DefaultCheckMark, 1 << 31}[r.IntN(2)], Scripts: true, Socket: []string{"", DefaultSocket, "/tmp/a b#c: d'\"\\"}[r.IntN(3)],
	}}
	for i := range r.IntN(4) {
		v := VIP{Interface: []string{"", "eth1", "é"[:0]}[r.IntN(3)], Group: []string{DefaultGroup, "mail", "1", "true"}[r.IntN(4)]}
		if r.IntN(2) == 0 {
			v.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)}), []int{32, 31, 24, 1}[r.IntN(4)])
		} else {
			v.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(10 + i)}), []int{128, 64}[r.IntN(2)])
		}
		f.Spec.VIPs = append(f.Spec.VIPs, v)
	}
	for i := range r.IntN(5) {
		var s Service
		s.Scheduler = Schedulers[r.IntN(len(Schedulers))]
		switch r.IntN(4) {
		case 0:
			s.Key = ipvs.Key{Family: []ipvs.Family{ipvs.IPv4, ipvs.IPv6}[r.IntN(2)], FWMark: uint32(1+i) + r.Uint32N(1<<28)<<3}
		case 1:
			s.Key = ipvs.Key{Family: ipvs.IPv6, Addr: netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(10 + i)})}
		default:
			s.Key = ipvs.Key{Family: ipvs.IPv4, Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + i)})}
		}
		if s.FWMark == 0 {
			s.Protocol = []ipvs.Protocol{ipvs.TCP, ipvs.UDP, ipvs.SCTP}[r.IntN(3)]
			s.Port = uint16(r.IntN(65536))
		}
		udp := s.Protocol == ipvs.UDP || s.FWMark != 0
		if udp && r.IntN(2) == 0 {
			s.Flags |= ipvs.OnePacket
		}
		s.Flags |= ipvs.Flags(r.IntN(8)) * ipvs.Sched1
		s.Netmask = uint8(s.Family.Bits())
		if r.IntN(2) == 0 || s.Port == 0 && s.FWMark == 0 {
			s.Flags |= ipvs.Persistent
			s.Timeout = uint32(1 + r.IntN(int(MaxPersistence/time.Second)))
			s.Netmask = uint8(1 + r.IntN(s.Family.Bits()))
			if udp && r.IntN(2) == 0 {
				s.PE = "sip"
			}
		}
		s.Name = s.Key.String()
		if r.IntN(2) == 0 {
			s.Name = []string{"web", "null", "1e3", "A ", "0x1f", "x.y_z-1"}[r.IntN(6)] + string(rune('a'+i))
		}
		policy := func() DrainPolicy {
			return DrainPolicy{Deadline: time.Duration(r.IntN(3)) * 90 * time.Second, Remove: r.IntN(2) == 0, Settle: time.Duration(r.IntN(3)) * 90 * time.Second}
		}
		s.Drain = policy()
		for j := range r.IntN(5) {
			d := RealServer{Destination: ipvs.Destination{DestKey: ipvs.DestKey{Port: s.Port}, Weight: uint32(r.IntN(3)),
				Forward: []ipvs.Forward{ipvs.DirectRoute, ipvs.Tunnel, ipvs.Masq}[r.IntN(3)]}}
			if (s.Family == ipvs.IPv4) != (d.Forward == ipvs.Tunnel && r.IntN(2) == 0) {
				d.Addr = netip.AddrFrom4([4]byte{10, 0, byte(i), byte(1 + j)})
			} else {
				d.Addr = netip.AddrFrom16([16]byte{0xfd, 14: byte(i), 15: byte(1 + j)})
			}
			if d.Forward == ipvs.Masq && (s.Port != 0 || s.FWMark != 0 && s.Flags&ipvs.Persistent == 0) {
				d.Port = uint16(r.IntN(65536))
			}
			if d.Forward == ipvs.Tunnel {
				d.TunnelType = ipvs.TunnelType(r.IntN(3))
				switch d.TunnelType {
				case ipvs.TunnelGUE:
					d.TunnelPort, d.TunnelFlags = uint16(1+r.IntN(65535)), ipvs.TunnelFlags(r.IntN(3))
				case ipvs.TunnelGRE:
					d.TunnelFlags = ipvs.TunnelFlags(r.IntN(2))
				}
			}
			if r.IntN(3) == 0 {
				d.Upper = r.Uint32N(maxThreshold + 1)
				d.Lower = r.Uint32N(d.Upper + 1)
			}
			if r.IntN(3) == 0 {
				d.Drain = Drain{On: true, DrainPolicy: s.Drain}
				if r.IntN(2) == 0 {
					d.Drain.Since, d.Drain.DrainPolicy = time.Unix(r.Int64N(1<<32), 0).UTC(), policy()
				}
			}
			switch {
			case r.IntN(3) == 0:
				d.Name = string(rune('A'+j)) + "1"
			case d.Port == s.Port:
				d.Name = d.Addr.String()
			default:
				d.Name = d.DestKey.String()
			}
			s.RealServers = append(s.RealServers, d)
		}
		randomChecks(r, &s)
		f.Spec.Services = append(f.Spec.Services, s)
	}
	return f
}

func TestFormatReadsBack(t *testing.T) {
	n := uint64(3000)
	if testing.Short() {
		n = 300
	}
	for seed := range n {
		f := randomFile(rand.New(rand.NewPCG(seed, 0)))
		text := f.Format()
		g, err := Parse("f.yaml", text)
		if err != nil {
			t.Fatalf("seed %d: %v\n%s", seed, err, text)
		}
		if f.Director != g.Director || !f.Spec.Equal(&g.Spec) {
			t.Fatalf("seed %d: got\n%#v\nwant\n%#v\nfrom\n%s", seed, g, f, text)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("vips: []\nservices: []\n")
	for _, dir := range []string{"good", "bad"} {
		paths, err := filepath.Glob(filepath.Join("testdata", dir, "*.yaml"))
		if err != nil || len(paths) == 0 {
			f.Fatal(dir, err)
		}
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(b))
		}
	}
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > 1<<13 {
			return
		}
		file, err := Parse("f.yaml", []byte(in))
		if err != nil {
			return
		}
		text := file.Format()
		again, err := Parse("f.yaml", text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if file.Director != again.Director || !file.Spec.Equal(&again.Spec) {
			t.Fatalf("got\n%#v\nwant\n%#v\nfrom\n%s", again, file, text)
		}
	})
}
