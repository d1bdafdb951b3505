package ipvsadm

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"

	"github.com/drover-lb/drover/ipvs"
)

// names calls every host the same, and port 80.
type names string

func (n names) Host(a netip.Addr) (string, bool) { return string(n), a.Is4() }

func (n names) Service(port uint16, _ ipvs.Protocol) (string, bool) { return "http", port == 80 }

// Names are cut where ipvsadm cuts them: IPv4 at the width of the column, everything at its buffer's size.
func TestNames(t *testing.T) {
	s := ipvs.ServiceEntry{Service: ipvs.Service{Scheduler: "rr", Key: ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80}}}
	for _, a := range []string{"10.0.0.1", "fd00::1"} {
		s.Destinations = append(s.Destinations, ipvs.DestinationEntry{Destination: ipvs.Destination{
			DestKey: ipvs.DestKey{Addr: netip.MustParseAddr(a), Port: 8080}, Forward: ipvs.Tunnel}})
	}
	long := strings.Repeat("x", 70)
	for _, x := range []struct{ host, table, rules string }{
		{"web", "TCP  web:http rr\n" +
			"  -> [fd00::1]:8080               Tunnel  0      0          0         \n" +
			"  -> web:8080                     Tunnel  0      0          0         \n",
			"-A -t web:http -s rr\n" +
				"-a -t web:http -r [fd00::1]:8080 -i -w 0 --tun-type ipip\n" +
				"-a -t web:http -r web:8080 -i -w 0 --tun-type ipip\n"},
		{long, "TCP  " + long[:28] + " rr\n" +
			"  -> [fd00::1]:8080               Tunnel  0      0          0         \n" +
			"  -> " + long[:28] + " Tunnel  0      0          0         \n",
			"-A -t " + long[:59] + " -s rr\n" +
				"-a -t " + long[:59] + " -r [fd00::1]:8080 -i -w 0 --tun-type ipip\n" +
				"-a -t " + long[:59] + " -r " + long[:59] + " -i -w 0 --tun-type ipip\n"},
	} {
		var table, rules bytes.Buffer
		if err := Service(&table, s, nil, Options{Names: names(x.host)}); err != nil {
			t.Fatal(err)
		}
		if err := Rules(&rules, []ipvs.ServiceEntry{s}, nil, names(x.host)); err != nil {
			t.Fatal(err)
		}
		if have, want := table.String(), titles[Plain]+x.table; have != want {
			t.Errorf("have\n%s\nwant\n%s", have, want)
		}
		if have := rules.String(); have != x.rules {
			t.Errorf("have\n%s\nwant\n%s", have, x.rules)
		}
	}
}
