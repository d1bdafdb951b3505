//go:build kernel

package ipvsadm

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvstest"
)

// The tests of this file hold the printer against the real ipvsadm. They need a kernel with IPVS, as in
// `drover lab exec`, root, and ipvsadm 1.31.

// rules make, in the words of ipvsadm -R, a table with every protocol, scheduler, flag, kind of
// persistence, threshold, forwarding method and tunnel. Addresses of both ends of the range make
// ipvsadm's comparison overflow.
const rules = `
-A -t 192.0.2.10:80 -s rr
-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 5
-a -t 192.0.2.10:80 -r 10.0.0.2:80 -i -w 65535 -x 1000 -y 20
-a -t 192.0.2.10:80 -r 10.0.0.3:8080 -m -w 0
-a -t 192.0.2.10:80 -r 10.0.0.1:80 -g
-a -t 192.0.2.10:80 -r 10.0.0.4:80 -g -w 2147483647 -x 65535 -y 65535
-A -t 192.0.2.10:443 -s wlc -p 300 -M 255.255.255.0
-a -t 192.0.2.10:443 -r 10.0.0.11:443 -g -w 5
-A -t 192.0.2.10:444 -s wlc -p
-A -t 192.0.2.10:445 -s wlc -p 600 -M 255.0.255.0
-A -t 192.0.2.10:0 -s wlc -p 360
-A -t 192.0.2.10:446 -s sh -b sh-fallback
-A -t 192.0.2.10:447 -s sh -b sh-port
-A -t 192.0.2.10:448 -s sh -b sh-port,sh-fallback
-A -t 192.0.2.10:449 -s mh -b mh-port,mh-fallback
-A -t 192.0.2.10:450 -s wrr -b flag-1,flag-3
-A -t 192.0.2.10:451 -s sh -b flag-3,sh-port
-A -t 192.0.2.10:452 -s mh -b flag-3 -p 20
-A -t 192.0.2.10:453 -s mh -b mh-fallback
-A -t 192.0.2.10:454 -s mh -b mh-port -p 86400 -M 0.0.0.0
-A -t 192.0.2.10:455 -s none
-A -t 192.0.2.10:456 -s rr -M 255.255.255.0
-A -u 192.0.2.10:53 -s rr -o
-a -u 192.0.2.10:53 -r 10.0.0.53:53 -g
-A -u 192.0.2.10:54 -s wlc
-A -u 192.0.2.10:5060 -s rr -p 90 --pe sip -o
-A -u 192.0.2.10:5061 -s rr -p 90 --pe sip -b flag-2 -M 255.255.0.0
-a -u 192.0.2.10:5060 -r 10.0.0.53:5060 -g
--add-service --sctp-service 192.0.2.10:9 -s lc
-a --sctp-service 192.0.2.10:9 -r 10.0.0.12:9 -g
-A -f 7 -s nq
-A -f 70 -s sed -p 50
-A -f 4294967295 -s lblc
-a -f 7 -r 10.0.0.7:0 -g
-A -f 7 -6 -s lblcr
-A -f 8 -6 -s dh -p 40 -M 64
-a -f 7 -6 -r [fd00::7]:0 -g
-A -t [2001:db8::10]:80 -s fo
-a -t [2001:db8::10]:80 -r [fd00::11]:80 -g
-a -t [2001:db8::10]:80 -r [fd00:1111:2222:3333:4444:5555:6666:7777]:80 -g
-a -t [2001:db8::10]:80 -r [fd00::9]:80 -g
-A -t [2001:db8:1111:2222:3333:4444:5555:6666]:65535 -s ovf -p 100 -M 48
-A -t [::1]:80 -s rr
-A -t [::192.0.2.1]:80 -s rr
-A -t [::1:2]:80 -s rr
-A -t [2001:db8::9]:80 -s rr
-A -t [2001:db8::a]:80 -s rr
-A -t [2001:db8:0:1:2:3:4:5]:80 -s rr
-A -t [::ffff:192.0.2.4]:80 -s rr
-A -t 9.0.0.1:80 -s rr
-A -t 200.0.0.1:80 -s rr
-A -t 100.0.0.1:80 -s rr
-A -t 198.51.100.1:80 -s rr
-a -t 198.51.100.1:80 -r 10.0.0.1:80 -i --tun-type gue --tun-port 6080 --tun-nocsum
-a -t 198.51.100.1:80 -r 10.0.0.2:80 -i --tun-type gue --tun-port 6080 --tun-csum
-a -t 198.51.100.1:80 -r 10.0.0.3:80 -i --tun-type gue --tun-port 65535 --tun-remcsum
-a -t 198.51.100.1:80 -r 10.0.0.4:80 -i --tun-type gre --tun-csum
-a -t 198.51.100.1:80 -r 10.0.0.5:80 -i --tun-type gre
-a -t 198.51.100.1:80 -r [fd00::5]:80 -i
-a -t 198.51.100.1:80 -r 200.0.0.5:80 -m
-a -t 198.51.100.1:80 -r 9.0.0.5:80 -m
-a -t 198.51.100.1:80 -r 100.0.0.5:80 -m
-a -t 198.51.100.1:80 -r 100.0.0.5:79 -m
`

// views are the options of ipvsadm with ours that say the same.
var views = []struct {
	args string
	o    Options
}{
	{"", Options{}},
	{"--nosort", Options{NoSort: true}},
	{"--exact", Options{Exact: true}},
	{"--stats", Options{View: Stats}},
	{"--stats --exact", Options{View: Stats, Exact: true}},
	{"--stats --nosort", Options{View: Stats, NoSort: true}},
	{"--rate", Options{View: Rate}},
	{"--rate --exact", Options{View: Rate, Exact: true}},
	{"--thresholds", Options{View: Thresholds}},
	{"--persistent-conn", Options{View: PersistentConn}},
	{"--tun-info", Options{View: TunnelInfo}},
}

func dial(t *testing.T) *ipvs.Client {
	t.Helper()
	c, err := ipvs.Dial(t.Context(), ipvs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// same compares what ours prints with what ipvsadm prints. As counters and clocks go on, it tries
// until two of ours with one of ipvsadm between them are the same.
func same(t *testing.T, args string, ours func(*bytes.Buffer) error) {
	t.Helper()
	for try := 0; ; try++ {
		var before, after bytes.Buffer
		if err := ours(&before); err != nil {
			t.Fatal(err)
		}
		theirs := ipvstest.Ipvsadm(t, append([]string{"-L", "-n"}, strings.Fields(args)...)...)
		if err := ours(&after); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(before.Bytes(), after.Bytes()) && try < 50 {
			continue
		}
		if theirs != after.String() {
			have, want := strings.Split(after.String(), "\n"), strings.Split(theirs, "\n")
			for i := range max(len(have), len(want)) {
				if i >= len(have) || i >= len(want) || have[i] != want[i] {
					t.Errorf("ipvsadm -Ln %s: line %d differs", args, i+1)
					if i < len(have) {
						t.Errorf("have %q", have[i])
					}
					if i < len(want) {
						t.Errorf("want %q", want[i])
					}
					return
				}
			}
		}
		return
	}
}

func sameViews(t *testing.T, c *ipvs.Client) {
	t.Helper()
	for _, v := range views {
		same(t, v.args, func(b *bytes.Buffer) error {
			services, err := c.List(t.Context())
			if err != nil {
				return err
			}
			return Table(b, c.Info(), services, nil, v.o)
		})
	}
}

func sameConnections(t *testing.T, c *ipvs.Client) {
	t.Helper()
	for _, persistent := range []bool{false, true} {
		args := "-c"
		if persistent {
			args += " --persistent-conn"
		}
		same(t, args, func(b *bytes.Buffer) error {
			p := NewConnections(b, persistent)
			if err := c.Connections(t.Context(), p.Print); err != nil {
				return err
			}
			return p.Close()
		})
	}
}

func TestKernelTable(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	sameViews(t, c) // empty
	ipvstest.IpvsadmInput(t, rules, "-R")
	sameViews(t, c)
	sameConnections(t, c)
}

// What ipvsadm cannot set but a program can: settings of persistence without it, flags on services
// they are not meant for, thresholds of 32 bits.
func TestKernelTableOfOthers(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	var cmds []ipvs.Command
	port := uint16(0)
	for _, addr := range []string{"192.0.2.10", "2001:db8::10"} {
		a := netip.MustParseAddr(addr)
		for _, scheduler := range []string{"rr", "sh", "mh", "none"} {
			for flags := ipvs.Flags(0); flags < 64; flags++ {
				port++
				s := ipvs.Service{
					Key:       ipvs.Key{Family: ipvs.FamilyOf(a), Protocol: ipvs.TCP, Addr: a, Port: port},
					Scheduler: scheduler, Flags: flags, Timeout: 4000000 + uint32(port), Netmask: 1 + uint8(port%32),
				}
				if port%3 == 0 {
					s.PE = "sip"
				}
				cmds = append(cmds, ipvs.NewService(s))
			}
		}
	}
	k := ipvs.Key{Family: ipvs.IPv4, FWMark: 5}
	cmds = append(cmds, ipvs.NewService(ipvs.Service{Key: k, Scheduler: "rr", Netmask: 32}))
	for i := range 6 {
		d := ipvs.Destination{DestKey: ipvs.DestKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}, Forward: ipvs.Forward(i % 5), Upper: 1<<32 - 1 - uint32(i), Lower: 1 << 31}
		if i == 5 { // a tunnel that is none
			d.TunnelType, d.TunnelPort, d.TunnelFlags = ipvs.TunnelGUE, 1, 3
		}
		cmds = append(cmds, ipvs.NewDest(k, d))
	}
	for _, err := range c.Apply(t.Context(), cmds) {
		if err != nil {
			t.Fatal(err)
		}
	}
	sameViews(t, c)
}

// Random addresses, marks and orders of insertion: ipvsadm's sorting is no order, and ours is the same.
func TestKernelOrder(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	r := rand.New(rand.NewPCG(5, 6))
	for round := range 8 {
		var cmds []ipvs.Command
		services := map[ipvs.Key]bool{}
		for range 150 {
			k := ipvs.Key{Family: ipvs.IPv4}
			switch r.IntN(5) {
			case 0:
				k.FWMark = r.Uint32() | 1
				k.Family = []ipvs.Family{ipvs.IPv4, ipvs.IPv6}[r.IntN(2)]
			case 1:
				k.Family, k.Protocol = ipvs.IPv6, []ipvs.Protocol{ipvs.TCP, ipvs.UDP, ipvs.SCTP}[r.IntN(3)]
				k.Addr, k.Port = random6(r), uint16(r.Uint32())
			default:
				k.Protocol = []ipvs.Protocol{ipvs.TCP, ipvs.UDP, ipvs.SCTP}[r.IntN(3)]
				k.Addr, k.Port = random4(r), uint16(r.Uint32())
			}
			if services[k] {
				continue
			}
			services[k] = true
			cmds = append(cmds, ipvs.NewService(ipvs.Service{Key: k, Scheduler: "rr", Netmask: uint8(k.Family.Bits())}))
			dests := map[ipvs.DestKey]bool{}
			for range r.IntN(12) {
				d := ipvs.Destination{DestKey: ipvs.DestKey{Addr: random4(r), Port: uint16(r.IntN(3))}, Forward: ipvs.Tunnel}
				if r.IntN(3) == 0 {
					d.Addr = random6(r)
				}
				if !dests[d.DestKey] {
					dests[d.DestKey] = true
					cmds = append(cmds, ipvs.NewDest(k, d))
				}
			}
		}
		for _, err := range c.Apply(t.Context(), append([]ipvs.Command{ipvs.Flush()}, cmds...)) {
			if err != nil {
				t.Fatal(err)
			}
		}
		sameViews(t, c)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// random4 is an address of a host, from all over.
func random4(r *rand.Rand) netip.Addr {
	first := []byte{1, 9, 10, 100, 128, 172, 192, 200, 223}[r.IntN(9)]
	return netip.AddrFrom4([4]byte{first, byte(r.IntN(2) * 255), byte(r.IntN(3)), byte(1 + r.IntN(200))})
}

// random6 is a unicast address with groups of zeros.
func random6(r *rand.Rand) netip.Addr {
	var a [16]byte
	for i := 0; i < 16; i += 2 {
		if r.IntN(2) == 0 {
			a[i], a[i+1] = byte(r.IntN(2)*r.IntN(256)), byte(r.Uint32())
		}
	}
	a[0] = []byte{0x20, 0x3f, 0xfd, 0xfc}[r.IntN(4)]
	return netip.AddrFrom16(a)
}

func TestKernelTimeoutsAndDaemons(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	check := func() {
		t.Helper()
		same(t, "--timeout", func(b *bytes.Buffer) error {
			timeouts, err := c.Timeouts(t.Context())
			if err != nil {
				return err
			}
			return Timeouts(b, timeouts)
		})
		same(t, "--daemon", func(b *bytes.Buffer) error {
			daemons, err := c.Daemons(t.Context())
			if err != nil {
				return err
			}
			return Daemons(b, daemons)
		})
	}
	check()
	ipvstest.Ipvsadm(t, "--set", "100", "4000", "7")
	ipvstest.Ipvsadm(t, "--start-daemon", "master", "--mcast-interface", "d0", "--syncid", "5")
	check()
	ipvstest.Ipvsadm(t, "--start-daemon", "backup", "--mcast-interface", "d0", "--syncid", "255",
		"--sync-maxlen", "1400", "--mcast-group", "ff05::51", "--mcast-port", "8849", "--mcast-ttl", "5")
	check()
}

// Traffic of all protocols, over both families, by address and by mark, with and without persistence.
func TestKernelTraffic(t *testing.T) {
	ipvstest.NewNamespace(t)
	for _, a := range []string{"10.200.100.200/8", "2001:db8:1111:2222:3333:4444:5555:6666/128", "fd00:1111:2222:3333:4444:5555:6666:7777/16"} {
		if err := ipvstest.AddAddress(a); err != nil {
			t.Fatal(err)
		}
	}
	c := dial(t)
	ipvstest.IpvsadmInput(t, `
-A -t 192.0.2.10:80 -s rr
-a -t 192.0.2.10:80 -r 10.0.0.1:80
-a -t 192.0.2.10:80 -r 10.200.100.200:80
-A -t 192.0.2.10:443 -s rr -p 30000 -M 255.255.255.0
-a -t 192.0.2.10:443 -r 10.200.100.200:443
-A -t 192.0.2.10:81 -s rr
-a -t 192.0.2.10:81 -r 10.0.0.77:81
-A -u 192.0.2.10:53 -s rr
-a -u 192.0.2.10:53 -r 10.0.0.1:53
-A -u 192.0.2.10:5060 -s rr -p 60 --pe sip
-a -u 192.0.2.10:5060 -r 10.0.0.1:5060
-A -t [2001:db8::10]:80 -s rr
-a -t [2001:db8::10]:80 -r [fd00::1]:80
-A -t [2001:db8::10]:443 -s rr -p 100 -M 64
-a -t [2001:db8::10]:443 -r [fd00:1111:2222:3333:4444:5555:6666:7777]:443
-A -t [2001:db8:1111:2222:3333:4444:5555:6666]:65535 -s rr
-a -t [2001:db8:1111:2222:3333:4444:5555:6666]:65535 -r [fd00:1111:2222:3333:4444:5555:6666:7777]:65535
-A -u [2001:db8::10]:53 -s rr
-a -u [2001:db8::10]:53 -r [fd00::1]:53
-A -u [2001:db8::10]:5060 -s rr -p 60 --pe sip
-a -u [2001:db8::10]:5060 -r [fd00::1]:5060
-A -f 7 -s rr
-a -f 7 -r 10.0.0.1:0
-A -f 8 -s rr -p 77 -M 255.255.255.0
-a -f 8 -r 10.0.0.1:0
-A -f 7 -6 -s rr
-a -f 7 -6 -r [fd00::1]:0
-A -f 8 -6 -s rr -p 7000 -M 64
-a -f 8 -6 -r [fd00::1]:0
`, "-R")
	for _, x := range []struct {
		network, address string
		mark             int
	}{
		{"tcp", "192.0.2.10:80", 0}, {"tcp", "192.0.2.10:80", 0}, {"tcp", "192.0.2.10:80", 0}, {"tcp", "192.0.2.10:443", 0},
		{"udp", "192.0.2.10:53", 0}, {"udp", "192.0.2.10:5060", 0}, {"udp", "192.0.2.10:5060", 0},
		{"tcp", "[2001:db8::10]:80", 0}, {"tcp", "[2001:db8::10]:443", 0},
		{"tcp", "[2001:db8:1111:2222:3333:4444:5555:6666]:65535", 0},
		{"udp", "[2001:db8::10]:53", 0}, {"udp", "[2001:db8::10]:5060", 0},
		{"tcp", "192.0.2.10:8080", 7}, {"tcp", "192.0.2.10:8081", 8}, {"tcp", "[2001:db8::10]:8080", 7}, {"tcp", "[2001:db8::10]:8081", 8},
	} {
		if x.network == "udp" {
			ipvstest.SendUDP(t, "", x.address)
		} else {
			ipvstest.OpenTCP(t, "", x.address, x.mark)
		}
	}
	// A server that does not answer.
	d := net.Dialer{Timeout: 50 * time.Millisecond}
	if conn, err := d.Dial("tcp", "192.0.2.10:81"); err == nil {
		conn.Close()
		t.Error("a connection to nowhere")
	}
	var counted uint64
	for start := time.Now(); counted == 0 && time.Since(start) < 10*time.Second; time.Sleep(50 * time.Millisecond) {
		services, err := c.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		counted = services[0].Stats.InBytes // the kernel adds them all up every two seconds
	}
	if counted == 0 {
		t.Error("nothing was counted")
	}
	sameViews(t, c)
	sameConnections(t, c)
}
