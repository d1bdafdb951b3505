package plan

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// randomState draws from few keys and few values, so that two states have much in common and
// everything meets everything.
func randomState(r *rand.Rand) State {
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	var services []Service
	for range r.IntN(6) {
		var k ipvs.Key
		switch r.IntN(5) {
		case 0:
			k = ipvs.Key{Family: ipvs.IPv4, FWMark: uint32(1 + r.IntN(2))}
		case 1:
			k = ipvs.Key{Family: ipvs.IPv6, FWMark: uint32(1 + r.IntN(2))}
		case 2:
			k = ipvs.Key{Family: ipvs.IPv6, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("2001:db8::10"), Port: 80}
		default:
			k = ipvs.Key{Family: ipvs.IPv4, Protocol: []ipvs.Protocol{ipvs.TCP, ipvs.UDP}[r.IntN(2)],
				Addr: netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + r.IntN(2))}), Port: uint16(80 + r.IntN(2))}
		}
		s := Service{Service: ipvs.Service{Key: k, Scheduler: pick(modelSchedulers[1:]...), Netmask: uint8(k.Family.Bits())}}
		if r.IntN(3) == 0 {
			s.Flags |= ipvs.Persistent
			s.Timeout = uint32(1 + r.IntN(2))
			s.Netmask = 24
		}
		if r.IntN(3) == 0 {
			s.Flags |= ipvs.Sched1
		}
		if r.IntN(8) == 0 {
			s.Flags |= ipvs.Hashed
		}
		for range r.IntN(5) {
			d := ipvs.Destination{DestKey: ipvs.DestKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + r.IntN(4))}), Port: k.Port},
				Forward: ipvs.DirectRoute, Weight: uint32(r.IntN(3)), Upper: uint32(r.IntN(2))}
			if k.Family == ipvs.IPv6 {
				d.Addr = netip.AddrFrom16([16]byte{0xfd, 15: byte(1 + r.IntN(4))})
			}
			if r.IntN(4) == 0 {
				d.Forward, d.TunnelType, d.TunnelPort = ipvs.Tunnel, ipvs.TunnelType(r.IntN(3)), uint16(r.IntN(2))
			}
			s.Servers = append(s.Servers, d)
		}
		services = append(services, s)
	}
	return NewState(services)
}

func shuffled(r *rand.Rand, s State) State {
	out := State{Services: slices.Clone(s.Services)}
	r.Shuffle(len(out.Services), func(i, j int) { out.Services[i], out.Services[j] = out.Services[j], out.Services[i] })
	for i := range out.Services {
		servers := slices.Clone(out.Services[i].Servers)
		r.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
		out.Services[i].Servers = servers
	}
	return NewState(out.Services)
}

func same(a, b *Service) bool {
	return sameService(&a.Service, &b.Service) && slices.EqualFunc(a.Servers, b.Servers, func(a, b ipvs.Destination) bool {
		return a.DestKey == b.DestKey && sameServer(&a, &b)
	})
}

// serving counts the servers that get new clients.
func serving(s *Service) int {
	n := 0
	for _, d := range s.Servers {
		if d.Weight > 0 {
			n++
		}
	}
	return n
}

// checkDiff holds Diff to everything that it promises, for one pair of tables.
func checkDiff(t *testing.T, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	want, have := randomState(r), randomState(r)
	if r.IntN(3) == 0 { // a small change, as in life
		have = shuffled(r, want)
		if len(have.Services) > 0 {
			if s := &have.Services[r.IntN(len(have.Services))]; len(s.Servers) > 0 {
				s.Servers[r.IntN(len(s.Servers))].Weight++
			}
		}
	}
	owned := map[ipvs.Key]struct{}{}
	for _, s := range have.Services {
		if r.IntN(2) == 0 {
			owned[s.Key] = struct{}{}
		}
	}
	mode := spec.OwnListed
	if r.IntN(2) == 0 {
		mode = spec.OwnAll
	}
	owns := Owner(mode, owned)

	p := Diff(want, have, owns)
	if q := Diff(shuffled(r, want), shuffled(r, have), owns); !reflect.DeepEqual(p.String(), q.String()) {
		t.Fatalf("seed %d: the plan depends on the order of the input:\n%s\n%s", seed, p, q)
	}

	kernel := newModel(have)
	added := map[ipvs.Key]bool{}
	deleting := false
	for i, op := range p.Ops {
		c := op.Command()
		if err := kernel.apply(c); err != nil {
			t.Fatalf("seed %d: op %d (%s): %v\nhave %v\nplan:\n%s", seed, i, op, err, have, p)
		}
		if op.Kind == AddService {
			added[op.Service.Key] = true
		}
		if deleting && op.Kind != DeleteService {
			t.Fatalf("seed %d: %s after a service was deleted:\n%s", seed, op, p)
		}
		deleting = op.Kind == DeleteService

		// What holds between any two ops.
		now := kernel.state()
		for _, w := range want.Services {
			h, n := have.Find(w.Key), now.Find(w.Key)
			if h == nil {
				continue
			}
			switch {
			case n == nil:
				t.Fatalf("seed %d: service %s is gone after op %d:\n%s", seed, w.Key, i, p)
			case len(n.Servers) == 0 && len(h.Servers) > 0 && len(w.Servers) > 0:
				t.Fatalf("seed %d: service %s has no server after op %d:\n%s", seed, w.Key, i, p)
			case serving(n) == 0 && serving(h) > 0 && serving(&w) > 0:
				t.Fatalf("seed %d: service %s serves nobody after op %d:\n%s", seed, w.Key, i, p)
			case n.Scheduler == idle:
				t.Fatalf("seed %d: service %s, which was there, has no scheduler after op %d:\n%s", seed, w.Key, i, p)
			}
		}
	}

	// What holds at the end.
	now := kernel.state()
	for _, w := range want.Services {
		if n := now.Find(w.Key); n == nil || !same(n, &w) {
			t.Fatalf("seed %d: got %+v, want %+v, plan:\n%s", seed, n, w, p)
		}
	}
	var strangers []ipvs.Key
	for _, h := range have.Services {
		n := now.Find(h.Key)
		switch {
		case want.Find(h.Key) != nil:
		case owns(h.Key) && n != nil:
			t.Fatalf("seed %d: %s is ours, not wanted, and still there:\n%s", seed, h.Key, p)
		case !owns(h.Key):
			strangers = append(strangers, h.Key)
			if n == nil || !reflect.DeepEqual(*n, h) {
				t.Fatalf("seed %d: the stranger %s was touched:\n%s", seed, h.Key, p)
			}
		}
	}
	if !slices.Equal(p.Strangers, strangers) {
		t.Fatalf("seed %d: strangers %v, want %v", seed, p.Strangers, strangers)
	}
	if again := Diff(want, now, owns); !again.Empty() {
		t.Fatalf("seed %d: a second plan is not empty:\n%s", seed, again)
	}
	if len(added) > 0 {
		fresh := newModel(State{})
		for _, op := range Diff(want, State{}, owns).Ops {
			if err := fresh.apply(op.Command()); err != nil {
				t.Fatal(err)
			}
		}
		if fresh.waits > 0 {
			t.Fatalf("seed %d: programming an empty table waits %d times for a grace period", seed, fresh.waits)
		}
		if mh := slices.DeleteFunc(slices.Clone(want.Services), func(s Service) bool { return s.Scheduler != "mh" }); fresh.rebuilds > len(mh) {
			t.Fatalf("seed %d: %d tables of mh are filled %d times", seed, len(mh), fresh.rebuilds)
		}
	}
}

func TestDiffProperties(t *testing.T) {
	n := uint64(20000)
	if testing.Short() {
		n = 2000
	}
	for seed := range n {
		checkDiff(t, seed)
	}
}

func FuzzDiff(f *testing.F) {
	for seed := range uint64(16) {
		f.Add(seed)
	}
	f.Fuzz(checkDiff)
}

// One pair of tables that differ in one thing, and the whole plan.
func TestDiff(t *testing.T) {
	base := func(change func(*Service)) State {
		s := Service{Service: service("192.0.2.10", 80, "wlc"), Servers: []ipvs.Destination{server("10.0.0.11", 80), server("10.0.0.12", 80)}}
		if change != nil {
			change(&s)
		}
		return NewState([]Service{s})
	}
	persistent := func(s *Service) { s.Flags, s.Timeout, s.Netmask = ipvs.Persistent, 300, 32 }
	for _, tc := range []struct {
		name       string
		want, have State
		plan       string
	}{
		{"nothing", base(nil), base(nil), ""},
		{"the kernel's own flag", base(nil), base(func(s *Service) { s.Flags |= ipvs.Hashed }), ""},
		{"flag unknown to us", base(nil), base(func(s *Service) { s.Flags |= 0x1000 }), ""},
		{"timeout without persistence", base(nil), base(func(s *Service) { s.Timeout = 300 }), ""},
		{"netmask without persistence", base(nil), base(func(s *Service) { s.Netmask = 24 }), ""},
		{"tunnel without tunnelling", base(nil), base(func(s *Service) { s.Servers[0].TunnelPort, s.Servers[0].TunnelType = 6080, ipvs.TunnelGUE }), ""},
		{"port of a tunnel without ports",
			base(func(s *Service) { s.Servers[0].Forward = ipvs.Tunnel }),
			base(func(s *Service) { s.Servers[0].Forward, s.Servers[0].TunnelPort = ipvs.Tunnel, 6080 }), ""},
		{"persistence on", base(persistent), base(nil), "-E -t 192.0.2.10:80 -s wlc -p 300  # was -s wlc\n"},
		{"persistence off", base(nil), base(persistent), "-E -t 192.0.2.10:80 -s wlc  # was -s wlc -p 300\n"},
		{"netmask", base(func(s *Service) { persistent(s); s.Netmask = 20 }), base(persistent),
			"-E -t 192.0.2.10:80 -s wlc -p 300 -M 255.255.240.0  # was -s wlc -p 300\n"},
		{"engine", base(func(s *Service) { persistent(s); s.PE = "sip" }), base(persistent),
			"-E -t 192.0.2.10:80 -s wlc -p 300 --pe sip  # was -s wlc -p 300\n"},
		{"weight", base(func(s *Service) { s.Servers[1].Weight = 5 }), base(nil),
			"-e -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 5  # was -g -w 1\n"},
		{"thresholds", base(func(s *Service) { s.Servers[1].Upper, s.Servers[1].Lower = 9, 8 }), base(nil),
			"-e -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1 -x 9 -y 8  # was -g -w 1\n"},
		{"forwarding", base(func(s *Service) { s.Servers[1].Forward = ipvs.Tunnel }), base(nil),
			"-e -t 192.0.2.10:80 -r 10.0.0.12:80 -i -w 1  # was -g -w 1\n"},
		{"tunnel", base(func(s *Service) {
			s.Servers[1].Forward, s.Servers[1].TunnelType, s.Servers[1].TunnelPort, s.Servers[1].TunnelFlags = ipvs.Tunnel, ipvs.TunnelGUE, 6080, ipvs.TunnelChecksum
		}), base(func(s *Service) {
			s.Servers[1].Forward, s.Servers[1].TunnelType = ipvs.Tunnel, ipvs.TunnelGRE
		}), "-e -t 192.0.2.10:80 -r 10.0.0.12:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum  # was -i -w 1 --tun-type gre --tun-nocsum\n"},
		{"weights move: up before down",
			base(func(s *Service) { s.Servers[0].Weight, s.Servers[1].Weight = 0, 1 }),
			base(func(s *Service) { s.Servers[0].Weight, s.Servers[1].Weight = 1, 0 }),
			"-e -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1  # was -g -w 0\n-e -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 0  # was -g -w 1\n"},
		{"all servers replaced: add before delete",
			base(func(s *Service) {
				s.Servers = []ipvs.Destination{server("10.0.0.1", 80), server("10.0.0.99", 80)}
			}), base(nil),
			"-a -t 192.0.2.10:80 -r 10.0.0.1:80 -g -w 1\n-a -t 192.0.2.10:80 -r 10.0.0.99:80 -g -w 1\n" +
				"-d -t 192.0.2.10:80 -r 10.0.0.11:80\n-d -t 192.0.2.10:80 -r 10.0.0.12:80\n"},
		{"to mh: after the servers",
			base(func(s *Service) { s.Scheduler = "mh"; s.Servers = append(s.Servers, server("10.0.0.13", 80)) }), base(nil),
			"-a -t 192.0.2.10:80 -r 10.0.0.13:80 -g -w 1\n-E -t 192.0.2.10:80 -s mh  # was -s wlc\n"},
		{"from mh: before the servers",
			base(func(s *Service) { s.Servers = append(s.Servers, server("10.0.0.13", 80)) }),
			base(func(s *Service) { s.Scheduler = "mh" }),
			"-E -t 192.0.2.10:80 -s wlc  # was -s mh\n-a -t 192.0.2.10:80 -r 10.0.0.13:80 -g -w 1\n"},
		{"fallback gained: before the weight",
			base(func(s *Service) { s.Scheduler, s.Flags, s.Servers[0].Weight = "mh", ipvs.Sched1, 0 }),
			base(func(s *Service) { s.Scheduler = "mh" }),
			"-E -t 192.0.2.10:80 -s mh -b mh-fallback  # was -s mh\n-e -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 0  # was -g -w 1\n"},
		{"fallback lost: after the weight",
			base(func(s *Service) { s.Scheduler = "mh" }),
			base(func(s *Service) { s.Scheduler, s.Flags, s.Servers[0].Weight = "mh", ipvs.Sched1, 0 }),
			"-e -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1  # was -g -w 0\n-E -t 192.0.2.10:80 -s mh  # was -s mh -b mh-fallback\n"},
		{"left half-way: no scheduler yet",
			base(func(s *Service) { s.Scheduler = "mh" }),
			base(func(s *Service) { s.Scheduler, s.Servers = idle, s.Servers[:1] }),
			"-a -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1\n-E -t 192.0.2.10:80 -s mh  # was -s none\n"},
		{"new, with one server: mh at once",
			base(func(s *Service) { s.Scheduler, s.Servers = "mh", s.Servers[:1] }), State{},
			"-A -t 192.0.2.10:80 -s mh\n-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1\n"},
		{"new, with servers: mh at the end",
			base(func(s *Service) { s.Scheduler = "mh" }), State{},
			"-A -t 192.0.2.10:80 -s none\n-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1\n" +
				"-a -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1\n-E -t 192.0.2.10:80 -s mh  # was -s none\n"},
		{"deleted: one op", State{}, base(nil), "-D -t 192.0.2.10:80\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Diff(tc.want, tc.have, Owner(spec.OwnAll, nil)).String(); got != tc.plan {
				t.Errorf("got\n%swant\n%s", got, tc.plan)
			}
		})
	}
}

func TestNilOwnsNothing(t *testing.T) {
	have := NewState([]Service{{Service: service("192.0.2.10", 80, "wlc")}})
	p := Diff(State{}, have, nil)
	if !p.Empty() || len(p.Strangers) != 1 {
		t.Errorf("got %v", p)
	}
}

func TestOwner(t *testing.T) {
	mine, other := service("192.0.2.10", 80, "").Key, service("192.0.2.11", 80, "").Key
	before := map[ipvs.Key]struct{}{mine: {}}
	for _, tc := range []struct {
		mode        spec.Ownership
		mine, other bool
	}{{spec.OwnAll, true, true}, {spec.OwnListed, true, false}} {
		owns := Owner(tc.mode, before)
		if owns(mine) != tc.mine || owns(other) != tc.other {
			t.Errorf("%s: mine %v, other %v", tc.mode, owns(mine), owns(other))
		}
	}
}

// A field of the kernel's values that Diff does not compare would be a difference that never heals.
func TestDiffSeesEveryField(t *testing.T) {
	svc := Service{Service: ipvs.Service{Key: service("192.0.2.10", 80, "").Key, Scheduler: "wlc", Flags: ipvs.Persistent, Timeout: 300, Netmask: 24},
		Servers: []ipvs.Destination{{DestKey: ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.11"), Port: 80}, Forward: ipvs.Tunnel, Weight: 1, TunnelType: ipvs.TunnelGUE, TunnelPort: 6080}}}
	have := NewState([]Service{svc})
	fields := func(v reflect.Value, skip string, change func(name string)) {
		for i := range v.NumField() {
			name := v.Type().Field(i).Name
			if name == skip {
				continue
			}
			f := v.Field(i)
			old := reflect.ValueOf(f.Interface())
			switch f.Kind() {
			case reflect.String:
				f.SetString(f.String() + "x")
			case reflect.Uint8, reflect.Uint16, reflect.Uint32:
				f.SetUint(f.Uint() ^ 4)
			default:
				t.Fatalf("field %s of kind %s: say here how to change it, and in Diff how to compare it", name, f.Kind())
			}
			change(name)
			f.Set(old)
		}
	}
	want := Service{Service: svc.Service, Servers: slices.Clone(svc.Servers)}
	fields(reflect.ValueOf(&want.Service).Elem(), "Key", func(name string) {
		if p := Diff(State{Services: []Service{want}}, have, nil); len(p.Ops) != 1 || p.Ops[0].Kind != EditService {
			t.Errorf("service field %s: got %v", name, p)
		}
	})
	fields(reflect.ValueOf(&want.Servers[0]).Elem(), "DestKey", func(name string) {
		if p := Diff(State{Services: []Service{want}}, have, nil); len(p.Ops) != 1 || p.Ops[0].Kind != EditServer {
			t.Errorf("server field %s: got %v", name, p)
		}
	})
}

func service(addr string, port uint16, scheduler string) ipvs.Service {
	a := netip.MustParseAddr(addr)
	return ipvs.Service{Key: ipvs.Key{Family: ipvs.FamilyOf(a), Protocol: ipvs.TCP, Addr: a, Port: port}, Scheduler: scheduler, Netmask: uint8(a.BitLen())}
}

func server(addr string, port uint16) ipvs.Destination {
	return ipvs.Destination{DestKey: ipvs.DestKey{Addr: netip.MustParseAddr(addr), Port: port}, Forward: ipvs.DirectRoute, Weight: 1}
}

// table is n services of m servers each.
func table(n, m int, scheduler string) State {
	services := make([]Service, n)
	for i := range services {
		services[i].Service = service(netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)}).String(), 80, scheduler)
		services[i].Servers = make([]ipvs.Destination, m)
		for j := range services[i].Servers {
			services[i].Servers[j] = server(netip.AddrFrom4([4]byte{10, byte(j >> 16), byte(j >> 8), byte(j)}).String(), 80)
		}
	}
	return NewState(services)
}

func TestOneWeightInTenThousandIsOneOp(t *testing.T) {
	for _, shape := range []struct{ services, servers int }{{1, 10000}, {100, 100}, {1000, 10}} {
		want, have := table(shape.services, shape.servers, "mh"), table(shape.services, shape.servers, "mh")
		want.Services[shape.services/2].Servers[shape.servers/2].Weight = 7
		if p := Diff(want, have, nil); len(p.Ops) != 1 || p.Ops[0].Kind != EditServer {
			t.Errorf("%d x %d: %s", shape.services, shape.servers, p)
		}
	}
}

func BenchmarkDiff(b *testing.B) {
	for _, bc := range []struct {
		name              string
		services, servers int
		change            func(want, have *State)
	}{
		{"unchanged/1x10000", 1, 10000, func(_, _ *State) {}},
		{"unchanged/1000x10", 1000, 10, func(_, _ *State) {}},
		{"weight/1x10000", 1, 10000, func(want, _ *State) { want.Services[0].Servers[5000].Weight = 7 }},
		{"all-weights/1x10000", 1, 10000, func(want, _ *State) {
			for i := range want.Services[0].Servers {
				want.Services[0].Servers[i].Weight = 7
			}
		}},
		{"from-empty/1000x10", 1000, 10, func(_, have *State) { *have = State{} }},
	} {
		b.Run(bc.name, func(b *testing.B) {
			want, have := table(bc.services, bc.servers, "wlc"), table(bc.services, bc.servers, "wlc")
			bc.change(&want, &have)
			b.ReportAllocs()
			for b.Loop() {
				Diff(want, have, nil)
			}
		})
	}
}

func BenchmarkNewState(b *testing.B) {
	sorted := table(1, 10000, "wlc")
	random := shuffled(rand.New(rand.NewPCG(1, 2)), sorted).Services[0].Servers
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(random), func(i, j int) { random[i], random[j] = random[j], random[i] })
	for _, bc := range []struct {
		name    string
		servers []ipvs.Destination
	}{{"sorted", sorted.Services[0].Servers}, {"random", random}} {
		b.Run(bc.name, func(b *testing.B) {
			for b.Loop() {
				NewState([]Service{{Service: sorted.Services[0].Service, Servers: slices.Clone(bc.servers)}})
			}
		})
	}
}
