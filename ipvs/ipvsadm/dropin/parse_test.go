package dropin

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvsadm"
)

// book is a small world of names.
type book struct{}

func (book) Addr(host string) (netip.Addr, bool) {
	if host == "vip" {
		return netip.MustParseAddr("192.0.2.10"), true
	}
	return netip.Addr{}, false
}

func (book) Port(name string, p ipvs.Protocol) (uint16, bool) {
	if name == "http" && p == ipvs.TCP {
		return 80, true
	}
	return 0, false
}

func key(p ipvs.Protocol, addrPort string) ipvs.Key {
	a := netip.MustParseAddrPort(addrPort)
	return ipvs.Key{Family: ipvs.FamilyOf(a.Addr()), Protocol: p, Addr: a.Addr(), Port: a.Port()}
}

func dest(addrPort string, f ipvs.Forward, weight uint32) ipvs.Destination {
	a := netip.MustParseAddrPort(addrPort)
	return ipvs.Destination{DestKey: ipvs.DestKey{Addr: a.Addr(), Port: a.Port()}, Forward: f, Weight: weight}
}

func TestParse(t *testing.T) {
	web := key(ipvs.TCP, "192.0.2.10:80")
	web6 := key(ipvs.TCP, "[2001:db8::10]:80")
	mark6 := ipvs.Key{Family: ipvs.IPv6, FWMark: 7}
	const all4, all6 = 0xffffffff, 128
	change := func(a Action, k ipvs.Key, c ipvs.Command, mask uint32) Command {
		return Command{Action: a, Service: k, Change: ipvs.Verbatim(c, mask)}
	}
	for _, x := range []struct {
		line string
		want Command
	}{
		{"-A -t vip:http", change(AddService, web, ipvs.NewService(ipvs.Service{Key: web, Scheduler: "wlc"}), all4)},
		{"-At192.0.2.10:80 -s=rr", change(AddService, web, ipvs.NewService(ipvs.Service{Key: web, Scheduler: "rr"}), all4)},
		{"--add-service --tcp-service=[2001:db8::10]:http -p -M 64", change(AddService, web6,
			ipvs.NewService(ipvs.Service{Key: web6, Scheduler: "wlc", Flags: ipvs.Persistent, Timeout: 360}), 64)},
		{"-A -M 64 -t [2001:db8::10]:80 -p5", change(AddService, web6,
			ipvs.NewService(ipvs.Service{Key: web6, Scheduler: "wlc", Flags: ipvs.Persistent, Timeout: 5}), all6)},
		{"-E -t vip:80 -p 7 -M 255.0.255.0 --pe sip -b sh-port,sh-fallback -s sh", change(EditService, web,
			ipvs.SetService(ipvs.Service{Key: web, Scheduler: "sh", Flags: ipvs.Persistent | ipvs.Sched1 | ipvs.Sched2, Timeout: 7, PE: "sip"}), 0xff00ff00)},
		{"-A -f 7 -6 -o -s abcdefghijklmnopqrs", change(AddService, mark6,
			ipvs.NewService(ipvs.Service{Key: mark6, Scheduler: "abcdefghijklmno", Flags: ipvs.OnePacket}), all6)},
		{"-D -f7 -6", change(DeleteService, mark6, ipvs.DelService(mark6), all6)},
		{"-C", change(Clear, ipvs.Key{}, ipvs.Flush(), all4)},
		{"-Z", change(Zero, ipvs.Key{}, ipvs.ZeroAll(), all4)},
		{"-Zt vip:80", change(Zero, web, ipvs.Zero(web), all4)},
		{"-a -t vip:80 -r 10.1", change(AddServer, web, ipvs.NewDest(web, dest("10.0.0.1:80", ipvs.DirectRoute, 1)), all4)},
		{"-amt vip:80 -r10.0.0.1:8080 -w 2147483647", change(AddServer, web, ipvs.NewDest(web, dest("10.0.0.1:8080", ipvs.Masq, 2147483647)), all4)},
		{"-e -r 10.0.0.1:9 -t vip:80", change(EditServer, web, ipvs.SetDest(web, dest("10.0.0.1:80", ipvs.DirectRoute, 1)), all4)},
		{"-a -t vip:80 -i -r [fd00::1]:1", change(AddServer, web, ipvs.NewDest(web, dest("[fd00::1]:80", ipvs.Tunnel, 1)), all4)},
		{"-d -t vip:80 -r 10.0.0.1", change(DeleteServer, web, ipvs.DelDest(web, dest("10.0.0.1:80", 0, 0).DestKey), all4)},
		{"--set 1 2 0", Command{Action: SetTimeouts, Timeouts: ipvs.Timeouts{TCP: time.Second, TCPFin: 2 * time.Second}}},
		{"--start-daemon backup", Command{Action: StartDaemon, Daemon: ipvs.Daemon{Role: ipvs.Backup, Interface: "eth0"}}},
		{"--start-daemon=master --mcast-interface d0 --syncid 9 --sync-maxlen 1400 --mcast-group ff05::51 --mcast-port 1 --mcast-ttl 2",
			Command{Action: StartDaemon, Daemon: ipvs.Daemon{Role: ipvs.Master, Interface: "d0", SyncID: 9, MaxLen: 1400,
				Group: netip.MustParseAddr("ff05::51"), Port: 1, TTL: 2}}},
		{"--stop-daemon master --syncid 3", Command{Action: StopDaemon, Daemon: ipvs.Daemon{Role: ipvs.Master, SyncID: 3}}},
		{"-Ln", Command{Action: List, Numeric: true}},
		{"-lX --nosort --sort --sort --rate --stats", Command{Action: List, Options: ipvsadm.Options{View: ipvsadm.Stats, Exact: true, NoSort: true}}},
		{"-Lnc --persistent-conn", Command{Action: List, Numeric: true, List: Connections, Options: ipvsadm.Options{View: ipvsadm.PersistentConn}}},
		{"-L -f 7 -6", Command{Action: List, List: OneService, Service: mark6}},
		{"-L --timeout", Command{Action: List, List: Timeouts}},
		{"-L --daemon", Command{Action: List, List: Daemons}},
		{"-Sn", Command{Action: Save, Numeric: true}},
		{"-R", Command{Action: Restore}},
		{"-h what --ever", Command{Action: Help}},
		{"-vL", Command{Action: Version}},
	} {
		have, err := Parse(append([]string{"ipvsadm"}, strings.Fields(x.line)...), book{})
		// The zero destination of Parse has a weight and a method, which count in no other command.
		if a := x.want.Action; a != AddServer && a != EditServer && a != DeleteServer {
			have.Change.Dest = ipvs.Destination{}
		}
		if err != nil || !reflect.DeepEqual(have, x.want) {
			t.Errorf("%s: %v\nhave %+v\nwant %+v", x.line, err, have, x.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const try = "Try `ipvsadm -h' or 'ipvsadm --help' for more information."
	for _, x := range []struct {
		line string
		want Error
	}{
		{"", Error{try, 255, true}},
		{"-n", Error{try, 255, true}},
		{"--li", Error{try, 255, true}},
		{"--set=1 2 3", Error{try, 255, true}},
		{"-- -L", Error{try, 255, true}},
		{"-A -t", Error{"-t: missing argument", 255, false}},
		{"-Lq", Error{"-Lq: unknown option", 255, false}},
		{"-Ln=1", Error{"-Ln=1: option does not take an argument", 255, false}},
		{"-L --daemon=", Error{"--daemon=: option does not take an argument", 255, false}},
		{"-L -A", Error{"invalid option `-A'", 2, true}},
		{"-L --start-daemon master", Error{"invalid option `master'", 2, true}},
		{"-L foo", Error{"unexpected argument foo", 2, true}},
		{"-A", Error{"You need to supply the 'service-address' option for the 'add-service' command", 2, true}},
		{"-A -t 80", Error{"illegal virtual server address[:port] specified", 2, true}},
		{"-A -t [::1]", Error{"illegal virtual server address[:port] specified", 2, true}},
		{"-A -t vip", Error{"Zero port specified for non-persistent service", 2, true}},
		{"-A -t vip:80 -o", Error{"One-Packet Scheduling is only for UDP virtual services", 2, true}},
		{"-A -t vip:80 -b sh-port", Error{"incompatible scheduler flag `sh-port'", 2, true}},
		{"-A -t vip:80 -6", Error{"-6 used before -f\n", 2, true}},
		{"-A -f 4294967296", Error{"invalid fwmark value `4294967296' specified", 2, true}},
		{"-a -t vip:80 -r 10.1 -w 1 -w 1", Error{"multiple 'weight' options specified", 2, true}},
		{"-a -t vip:80 -r [fd00::1]:80", Error{"Different address family is allowed only for tunneling servers", 2, true}},
		{"-a -t vip:80 -r 10.1 --tun-type gre", Error{"Tunnel options conflict with forward method", 2, true}},
		{"-a -t vip:80 -r 10.1 -i --tun-type gue", Error{"You need to supply the 'tun-port' option for the 'gue' tunnel type", 2, true}},
		{"-L -c --daemon", Error{"The option 'daemon' conflicts with the 'connection' option in the 'list' command", 2, true}},
		{"-L --timeout --persistent-conn", Error{"options conflicts in the list command", 2, true}},
		{"-C -n", Error{"Illegal 'numeric' option with the 'flush' command", 2, true}},
		{"--set 1 2", Error{"--set option requires 3 timeout values", 2, true}},
		{"--stop-daemon both", Error{"illegal start_daemon specified", 2, true}},
	} {
		_, err := Parse(append([]string{"ipvsadm"}, strings.Fields(x.line)...), book{})
		var have *Error
		if !errors.As(err, &have) || *have != x.want {
			t.Errorf("%s: %#v, want %#v", x.line, err, x.want)
		}
	}
}

func TestParseIPv4(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "1": "0.0.0.1", "1.2": "1.0.0.2", "1.2.3": "1.2.0.3", "4294967295": "255.255.255.255",
		"0x7f.1": "127.0.0.1", "0300.0.2.1": "192.0.2.1", "1.2.65535": "1.2.255.255", "0": "0.0.0.0", "1.2.3.4 x": "1.2.3.4",
		"": "", ".": "", "1.": "", "1..2": "", "1.2.3.4.5": "", "256.1": "", "1.16777216": "", "4294967296": "", "08": "", "0x": "", "0xg": "",
		"a": "", "+1": "", "-1": "", "1_0": "", "18446744073709551616": "", "1.2.3.": "",
	} {
		a, ok := parseIPv4(in)
		if ok != (want != "") || ok && a.String() != want {
			t.Errorf("%q: %v %v, want %q", in, a, ok, want)
		}
	}
}

// FuzzParse reads any command line, its words separated by zero bytes. What is understood is something that
// the kernel's encoding can say; what is not is refused with words and a status.
func FuzzParse(f *testing.F) {
	for _, line := range []string{
		"-A -t vip:http -s rr -p 5 -M 255.255.255.0 -b flag-1,flag-2 --pe sip", "-a -f 7 -6 -r [fd00::1]:80 -i --tun-type gue --tun-port 9 --tun-csum -w 3 -x 4 -y 2",
		"-Ln --stats --exact", "--set 1 2 3", "--start-daemon master --mcast-group ff02::1 --sync-maxlen 9", "-Aou[::]:0 -p=", "-L- -=", "--=", "-- -",
		"-d -t 0x1.2:1 -r 1", "-Z -u 1:2", "-A -p -t", "-Sn",
	} {
		f.Add(strings.ReplaceAll(line, " ", "\x00"))
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := append([]string{"ipvsadm"}, strings.Split(line, "\x00")...)
		c, err := Parse(args, book{})
		again, errAgain := Parse(args, book{})
		if !reflect.DeepEqual(c, again) || !reflect.DeepEqual(err, errAgain) {
			t.Fatal("two results of one line")
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Text == "" || e.Status != statusUsage && e.Status != statusFailed {
				t.Fatalf("%#v", err)
			}
			return
		}
		switch {
		case c.Action == 0 || c.Action > Version:
			t.Fatalf("%+v", c)
		case c.Change.Op != 0 && !c.Change.Verbatim:
			t.Fatalf("%+v would be judged here", c)
		case c.Change.Dest.Weight > maxInt || c.Change.Dest.TunnelType > ipvs.TunnelGRE || len(c.Change.Service.Scheduler) > maxName:
			t.Fatalf("%+v is out of range", c)
		}
	})
}
