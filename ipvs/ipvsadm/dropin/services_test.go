package dropin

import (
	"strings"
	"testing"

	"github.com/drover-lb/drover/ipvs"
)

func TestServices(t *testing.T) {
	s := readServices(strings.NewReader("# comment\nhttp\t80/tcp www web # WorldWideWeb\nwww 81/tcp\nhttp 80/sctp\n" +
		"second 80/tcp\nbad x/tcp\nbad 99999/tcp\nbad 5/dccp\nshort\n\nalone 7/udp"))
	for _, x := range []struct {
		name string
		p    ipvs.Protocol
		want uint16 // 0 if there is none
	}{
		{"http", ipvs.TCP, 80}, {"www", ipvs.TCP, 80}, {"web", ipvs.TCP, 80}, {"http", ipvs.UDP, 0}, {"http", ipvs.SCTP, 80},
		{"HTTP", ipvs.TCP, 0}, {"second", ipvs.TCP, 80}, {"bad", ipvs.TCP, 0}, {"alone", ipvs.UDP, 7}, {"", ipvs.TCP, 0}, {"#", ipvs.TCP, 0},
	} {
		if have, ok := s.port(x.name, x.p); ok != (x.want != 0) || have != x.want {
			t.Errorf("%s/%s: %d, want %d", x.name, x.p, have, x.want)
		}
	}
	for port, want := range map[uint16]string{80: "http", 81: "www", 7: ""} {
		if have, ok := s.name(port, ipvs.TCP); ok != (want != "") || have != want {
			t.Errorf("%d: %q, want %q", port, have, want)
		}
	}
}
