package frame

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"
)

var (
	server = MAC{0x02, 0, 0, 0, 0, 0x11}
	client = MAC{0x02, 0, 0, 0, 0, 0x99}
	vip4   = netip.MustParseAddr("10.0.0.100")
	vip6   = netip.MustParseAddr("2001:db8::aa:bbcc")
	own4   = netip.MustParseAddr("10.0.0.9")
	own6   = netip.MustParseAddr("fe80::9")
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The bytes are written out by hand from RFC 826, RFC 4861 and RFC 8200; the checksums are of an
// independent calculation.
func TestFramesByteForByte(t *testing.T) {
	for _, tc := range []struct {
		name string
		got  []byte
		want string
	}{
		{"gratuitous ARP, request form", Announcement(server, vip4)[0],
			"ffffffffffff 020000000011 0806 0001 0800 06 04 0001 020000000011 0a000064 000000000000 0a000064"},
		{"gratuitous ARP, reply form", Announcement(server, vip4)[1],
			"ffffffffffff 020000000011 0806 0001 0800 06 04 0002 020000000011 0a000064 020000000011 0a000064"},
		{"unsolicited advertisement", Announcement(server, vip6)[0],
			"333300000001 020000000011 86dd 60000000 0020 3a ff 20010db8000000000000000000aabbcc ff020000000000000000000000000001" +
				"88 00 802f 20000000 20010db8000000000000000000aabbcc 02 01 020000000011"},
		{"ARP request", Question(client, own4, vip4),
			"ffffffffffff 020000000099 0806 0001 0800 06 04 0001 020000000099 0a000009 000000000000 0a000064"},
		{"ARP probe", Question(client, netip.Addr{}, vip4),
			"ffffffffffff 020000000099 0806 0001 0800 06 04 0001 020000000099 00000000 000000000000 0a000064"},
		{"neighbour solicitation", Question(client, own6, vip6),
			"3333ffaabbcc 020000000099 86dd 60000000 0020 3a ff fe800000000000000000000000000009 ff0200000000000000000001ffaabbcc" +
				"87 00 d1d5 00000000 20010db8000000000000000000aabbcc 01 01 020000000099"},
		{"ARP request to one host", DirectQuestion(server, client, own4, vip4),
			"020000000011 020000000099 0806 0001 0800 06 04 0001 020000000099 0a000009 000000000000 0a000064"},
		{"solicitation to one host", DirectQuestion(server, client, own6, vip6),
			"020000000011 020000000099 86dd 60000000 0020 3a ff fe800000000000000000000000000009 20010db8000000000000000000aabbcc" +
				"87 00 a221 00000000 20010db8000000000000000000aabbcc 01 01 020000000099"},
		{"duplicate address detection", Question(client, netip.Addr{}, vip6),
			"3333ffaabbcc 020000000099 86dd 60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ffaabbcc" +
				"87 00 d401 00000000 20010db8000000000000000000aabbcc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := unhex(t, tc.want)
			if !bytes.Equal(tc.got, want) {
				t.Errorf("\n got %x\nwant %x", tc.got, want)
			}
		})
	}
}

func TestARPRoundTrip(t *testing.T) {
	in := ARP{Op: OpReply, SenderMAC: server, SenderIP: vip4, TargetMAC: client, TargetIP: own4}
	b := in.Append(nil)
	if len(b) != ARPLen {
		t.Fatalf("%d bytes", len(b))
	}
	out, err := ParseARP(append(b, make([]byte, 18)...)) // padded as Ethernet pads
	if err != nil || out != in {
		t.Errorf("got %+v, %v", out, err)
	}
	for name, bad := range map[string][]byte{
		"short":             b[:ARPLen-1],
		"empty":             nil,
		"other hardware":    append([]byte{0, 6}, b[2:]...),
		"other protocol":    append([]byte{0, 1, 0x86, 0xdd}, b[4:]...),
		"other MAC length":  append([]byte{0, 1, 8, 0, 8}, b[5:]...),
		"other addr length": append([]byte{0, 1, 8, 0, 6, 16}, b[6:]...),
	} {
		if a, err := ParseARP(bad); err == nil {
			t.Errorf("%s: got %+v", name, a)
		}
	}
}

func TestParseClaim(t *testing.T) {
	reply := arpFrame(client, server, ARP{Op: OpReply, SenderMAC: server, SenderIP: vip4, TargetMAC: client, TargetIP: own4})
	// As a Linux 6.1 kernel answered duplicate address detection.
	dadAnswer := unhex(t, "3333000000010a00c510985786dd6000000000203afffd000000000000000000000000000001ff0200000000000000000000000000018800f53320000000fd00000000000000000000000000000102010a00c5109857")
	change := func(b []byte, at int, v byte) []byte {
		b = bytes.Clone(b)
		b[at] = v
		return b
	}
	for _, tc := range []struct {
		name string
		in   []byte
		want Claim
		ok   bool
	}{
		{"reply", reply, Claim{Addr: vip4, MAC: server, Kind: Answer, To: client}, true},
		{"request form", Announcement(server, vip4)[0], Claim{Addr: vip4, MAC: server, Kind: Announced, To: Broadcast}, true},
		{"reply form", Announcement(server, vip4)[1], Claim{Addr: vip4, MAC: server, Kind: Announced, To: Broadcast}, true},
		{"question from the VIP", Question(server, vip4, own4), Claim{Addr: vip4, MAC: server, Kind: AskedAsOwner, To: Broadcast}, true},
		{"probe claims nothing", Question(server, netip.Addr{}, vip4), Claim{}, false},
		{"advertisement", Announcement(server, vip6)[0], Claim{Addr: vip6, MAC: server, Kind: Announced, To: MAC{0x33, 0x33, 0, 0, 0, 1}}, true},
		{"kernel's advertisement", dadAnswer, Claim{Addr: netip.MustParseAddr("fd00::1"), MAC: MAC{0x0a, 0, 0xc5, 0x10, 0x98, 0x57}, Kind: Announced, To: MAC{0x33, 0x33, 0, 0, 0, 1}}, true},
		{"solicitation from the VIP", Question(server, vip6, own6), Claim{Addr: vip6, MAC: server, Kind: AskedAsOwner, To: MAC{0x33, 0x33, 0xff, 0, 0, 9}}, true},
		{"duplicate address detection claims nothing", Question(server, netip.Addr{}, vip6), Claim{}, false},
		{"hop limit 254", change(dadAnswer, HeaderLen+7, 254), Claim{}, false},
		{"wrong checksum", change(dadAnswer, len(dadAnswer)-1, 0), Claim{}, false},
		{"longer than the frame", change(dadAnswer, HeaderLen+5, 0x21), Claim{}, false},
		{"not ICMP", change(dadAnswer, HeaderLen+6, 17), Claim{}, false},
		{"RARP", change(reply, HeaderLen+7, 3), Claim{}, false},
		{"IPv4", change(reply, 13, 0x00), Claim{}, false},
		{"cut", reply[:HeaderLen+ARPLen-1], Claim{}, false},
		{"header only", reply[:HeaderLen], Claim{}, false},
		{"nothing", nil, Claim{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got, ok := ParseClaim(tc.in); got != tc.want || ok != tc.ok {
				t.Errorf("\n got %+v %v\nwant %+v %v", got, ok, tc.want, tc.ok)
			}
		})
	}
}

func TestMACAsText(t *testing.T) {
	var m MAC
	b, err := server.MarshalText()
	if err != nil || m.UnmarshalText(b) != nil || m != server {
		t.Errorf("%s became %s, %v", server, m, err)
	}
	for _, bad := range []string{"", "x", "02:00:00:00:00", "02:00:00:00:00:00:00:01"} {
		if err := m.UnmarshalText([]byte(bad)); err == nil || m != server {
			t.Errorf("%q is taken for %s", bad, m)
		}
	}
}

func TestEthernet(t *testing.T) {
	eth := net.Interface{HardwareAddr: server[:], Flags: net.FlagUp | net.FlagBroadcast}
	if mac, ok := Ethernet(&eth); !ok || mac != server {
		t.Errorf("got %s, %v", mac, ok)
	}
	for _, other := range []net.Interface{
		{HardwareAddr: make([]byte, 6), Flags: net.FlagUp | net.FlagLoopback},
		{HardwareAddr: make([]byte, 20), Flags: net.FlagUp | net.FlagBroadcast}, // InfiniBand
		{Flags: net.FlagUp | net.FlagPointToPoint},
	} {
		if _, ok := Ethernet(&other); ok {
			t.Errorf("%+v counts as Ethernet", other)
		}
	}
}

func FuzzParseARP(f *testing.F) {
	f.Add(Announcement(server, vip4)[0][HeaderLen:])
	f.Add(make([]byte, ARPLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseARP(b)
		if err != nil {
			return
		}
		if again := a.Append(nil); !bytes.Equal(again, b[:ARPLen]) {
			t.Errorf("read %x, wrote %x", b[:ARPLen], again)
		}
	})
}

func FuzzParseClaim(f *testing.F) {
	for _, a := range []netip.Addr{vip4, vip6} {
		for _, b := range Announcement(server, a) {
			f.Add(b)
		}
	}
	f.Add(Question(client, own4, vip4))
	f.Add(Question(client, own6, vip6))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := ParseClaim(b)
		if ok != c.Addr.IsValid() {
			t.Errorf("%x: %+v, %v", b, c, ok)
		}
		if ok && c.Kind != Answer {
			// What was claimed can be announced again, and says the same.
			for _, again := range Announcement(c.MAC, c.Addr) {
				if d, ok := ParseClaim(again); !ok || d.Addr != c.Addr || d.MAC != c.MAC {
					t.Errorf("%+v announced again is %+v, %v", c, d, ok)
				}
			}
		}
	})
}
