package ipvs

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"golang.org/x/sys/unix"
)

// FuzzAnswers lets a client read datagrams that no kernel sends. It must not panic, hang, or invent a
// success.
func FuzzAnswers(f *testing.F) {
	dump := appendMessage(nil, fakeFamily, unix.NLM_F_MULTI, 1, cmdNewService, familyVersion)
	nest := len(dump)
	dump = appendNest(dump, attrService)
	dump = appendService(dump, service(key(TCP, "192.0.2.10:80"), "rr"))
	endNest(dump, nest)
	endMessage(dump, 0)
	f.Add(dump, doneMessage(1))
	f.Add(errorMessage(1, unix.EPERM, "text"), errorMessage(2, 0, ""))
	f.Add([]byte{}, []byte("short"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(a) == 0 || len(b) == 0 || len(a) > receiveSize || len(b) > receiveSize {
			return // not a datagram, or more than fits
		}
		for name, call := range map[string]func(*Client) error{
			"services": func(c *Client) error { _, err := c.Services(t.Context()); return err },
			"apply":    func(c *Client) error { return errors.Join(c.Apply(t.Context(), []Command{Flush()})...) },
			"daemons":  func(c *Client) error { _, err := c.Daemons(t.Context()); return err },
			"timeouts": func(c *Client) error { _, err := c.Timeouts(t.Context()); return err },
			"info":     func(c *Client) error { _, err := c.readInfo(t.Context()); return err },
		} {
			ours, theirs := socketPair(t)
			for _, d := range [][]byte{a, b} {
				if _, err := theirs.Write(d); err != nil {
					t.Fatal(err)
				}
			}
			c := newClient(t, ours, false)
			start := time.Now()
			err := call(c)
			if time.Since(start) > DefaultTimeout {
				t.Errorf("%s: hung", name)
			}
			if err == nil && !answers(a, 1) && !answers(b, 1) {
				t.Errorf("%s: succeeded without an answer", name)
			}
			c.Close()
			ours.Close()
			theirs.Close()
		}
	})
}

// answers says whether a datagram has an end of the exchange with the given number.
func answers(b []byte, seq uint32) bool {
	for m, err := range messages(b) {
		if err == nil && m.seq == seq && (m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE) {
			return true
		}
	}
	return false
}

// FuzzDecode reads nested attributes of any kind; what is understood is understood again after
// being written.
func FuzzDecode(f *testing.F) {
	f.Add(appendService(nil, service(key(TCP, "192.0.2.10:80"), "rr")))
	f.Add(appendService(nil, Service{Key: mark(7, IPv6), Scheduler: "mh", PE: "sip", Netmask: 64, Flags: 63}))
	f.Add(appendDest(nil, dest("[fd00::1]:80", 1)))
	f.Add(appendDest(nil, Destination{DestKey: dest("10.0.0.1:80", 1).DestKey, Forward: Tunnel, TunnelType: TunnelGUE, TunnelPort: 1, TunnelFlags: 2}))
	f.Add(appendDaemon(nil, Daemon{Role: Master, Interface: "eth0", SyncID: 1, Group: key(TCP, "[ff05::1]:1").Addr, TTL: 1}, true)[attrHeaderLen:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := (names{}).decodeService(b); err == nil && s.Netmask != IrregularNetmask && len(s.Scheduler) < 1000 && len(s.PE) < 1000 {
			again, err := (names{}).decodeService(appendService(nil, s.Service))
			if err != nil || again.Service != s.Service {
				t.Errorf("service:\n%+v\n%+v, %v", s.Service, again.Service, err)
			}
		}
		for _, family := range []Family{IPv4, IPv6} {
			if d, err := decodeDest(b, family); err == nil {
				again, err := decodeDest(appendDest(nil, d.Destination), family)
				if err != nil || again.Destination != d.Destination {
					t.Errorf("destination:\n%+v\n%+v, %v", d.Destination, again.Destination, err)
				}
			}
		}
		if d, err := decodeDaemon(b); err == nil && len(d.Interface) < 1000 {
			again, err := decodeDaemon(appendDaemon(nil, d, true)[attrHeaderLen:])
			if err != nil || again != d {
				t.Errorf("daemon:\n%+v\n%+v, %v", d, again, err)
			}
		}
		for m := range messages(b) {
			if _, err := decodeAnswer(m); err != nil && !errors.Is(err, errMalformed) {
				t.Error(err)
			}
		}
	})
}

// All values of counters are read, of 64 bits and of the 32 bits of kernels before 4.1.
func TestStats(t *testing.T) {
	encode := func(s Stats, typ uint16, wide bool) []byte {
		var b []byte
		nest := 0
		b = appendNest(b, typ)
		v := reflect.ValueOf(s)
		for i := range v.NumField() {
			if wide {
				b = appendAttrHeader(b, uint16(i+1), 8)
				b = append(b, reflectUint64(v.Field(i).Uint())...)
			} else {
				b = appendUint32(b, uint16(i+1), uint32(v.Field(i).Uint()))
			}
		}
		endNest(b, nest)
		return b
	}
	check := func(s Stats, old bool) bool {
		base := appendDest(nil, dest("10.0.0.1:80", 1))
		narrow, wide := encode(s, dstStats, false), encode(s, dstStats64, true)
		want := s
		b := append(append(append([]byte{}, base...), narrow...), wide...)
		if old {
			b = append(append([]byte{}, base...), narrow...)
			v := reflect.ValueOf(&want).Elem()
			for i := range v.NumField() {
				v.Field(i).SetUint(v.Field(i).Uint() & (1<<32 - 1))
			}
		}
		d, err := decodeDest(b, IPv4)
		return err == nil && d.Stats == want
	}
	if err := quick.Check(check, nil); err != nil {
		t.Error(err)
	}
}

func reflectUint64(v uint64) []byte {
	b := appendUint32(nil, 0, uint32(v))[4:]
	high := appendUint32(nil, 0, uint32(v>>32))[4:]
	if nativeIsLittle() {
		return append(b, high...)
	}
	return append(high, b...)
}

func nativeIsLittle() bool { return bytes.Equal(appendUint16(nil, 0, 1)[4:6], []byte{1, 0}) }

// Attributes that a newer kernel may send are skipped.
func TestUnknownAttributes(t *testing.T) {
	b := appendUint32(nil, 99, 1)
	b = appendService(b, service(key(TCP, "192.0.2.10:80"), "rr"))
	b = appendString(b, 98, "new")
	s, err := (names{}).decodeService(b)
	if err != nil || s.Service != service(key(TCP, "192.0.2.10:80"), "rr") {
		t.Errorf("%+v, %v", s, err)
	}
}

const procConnections = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C000020A B878 C000020A 0050 0A000001 0050 ESTABLISHED     897
SCTP C000020A EC3A C000020A 0009 0A000009 0009 CLOSED           60
UDP C000020A 0000 C000020A 13C4 0A000009 13C4 NONE             57 sip abc0@10.0.0.1
IP  C0000200 0000 00000008 0000 0A000009 0000 ASSURED          74
IP_50 C0000200 0000 00000008 0000 0A000009 0000 NONE             74
TCP 2001:0db8:0000:0000:0000:0000:0000:0010 DE66 2001:0db8:0000:0000:0000:0000:0000:0010 0050 fd00:0000:0000:0000:0000:0000:0000:0009 0050 ESTABLISHED     897
TCP C000020A DE66 C000020A 0050 fd00:0000:0000:0000:0000:0000:0000:0009 0050 ESTABLISHED 4294967
`

func TestConnections(t *testing.T) {
	var got []Connection
	for c, err := range Connections(strings.NewReader(procConnections)) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c)
	}
	ap := func(s string) (k Key) { return key(TCP, s) }
	conn := func(p Protocol, client, virtual, server, state string, expires int) Connection {
		return Connection{Protocol: p, Client: addrPort(ap(client)), Virtual: addrPort(ap(virtual)), Destination: addrPort(ap(server)), State: state, Expires: time.Duration(expires) * time.Second}
	}
	sip := conn(UDP, "192.0.2.10:0", "192.0.2.10:5060", "10.0.0.9:5060", "NONE", 57)
	sip.PE, sip.PEData = "sip", "abc0@10.0.0.1"
	want := []Connection{
		conn(TCP, "192.0.2.10:47224", "192.0.2.10:80", "10.0.0.1:80", "ESTABLISHED", 897),
		conn(SCTP, "192.0.2.10:60474", "192.0.2.10:9", "10.0.0.9:9", "CLOSED", 60),
		sip,
		conn(0, "192.0.2.0:0", "0.0.0.8:0", "10.0.0.9:0", "ASSURED", 74),
		conn(50, "192.0.2.0:0", "0.0.0.8:0", "10.0.0.9:0", "NONE", 74),
		conn(TCP, "[2001:db8::10]:56934", "[2001:db8::10]:80", "[fd00::9]:80", "ESTABLISHED", 897),
		conn(TCP, "192.0.2.10:56934", "192.0.2.10:80", "[fd00::9]:80", "ESTABLISHED", 4294967),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

func TestConnectionsErrors(t *testing.T) {
	const header = "Pro FromIP\n"
	for in, want := range map[string]string{
		"hello":                 `line 1: header of ip_vs_conn expected, got "hello"`,
		header + "TCP C000020A": `line 2: 9 fields expected, got 2 in "TCP C000020A"`,
		header + "\n":           `line 2: 9 fields expected, got 0 in ""`,
		header + "FOO C000020A B878 C000020A 0050 0A000001 0050 NONE 1":                                `line 2: protocol ("FOO") is unknown`,
		header + "IP_256 C000020A B878 C000020A 0050 0A000001 0050 NONE 1":                             `line 2: protocol ("IP_256") is unknown`,
		header + "TCP C000020A B878 C000020A 0050 0A00001 0050 NONE 1":                                 `line 2: address ("0A00001") must be 8 hexadecimal digits or 8 groups of 4`,
		header + "TCP C000020A B878 C000020A 0050 0A0000zz 0050 NONE 1":                                `line 2: address ("0A0000zz") must be 8 hexadecimal digits or 8 groups of 4`,
		header + "TCP C000020A B878 2001:0db8:0000:0000:0000:0000:0000-0010 0050 0A000001 0050 NONE 1": `line 2: address ("2001:0db8:0000:0000:0000:0000:0000-0010") must be 8 hexadecimal digits or 8 groups of 4`,
		header + "TCP C000020A 878 C000020A 0050 0A000001 0050 NONE 1":                                 `line 2: port ("878") must be 4 hexadecimal digits`,
		header + "TCP C000020A B8z8 C000020A 0050 0A000001 0050 NONE 1":                                `line 2: port ("B8z8") must be 4 hexadecimal digits`,
		header + "TCP C000020A B878 C000020A 0050 0A000001 0050 NONE -1":                               `line 2: expiry ("-1") must be seconds`,
	} {
		var got error
		n := 0
		for _, err := range Connections(strings.NewReader(in)) {
			got, n = err, n+1
		}
		if got == nil || got.Error() != want || n != 1 {
			t.Errorf("%q: got %v, want %s", in, got, want)
		}
	}
}

// FuzzConnections reads anything; what is read has what the format can say.
func FuzzConnections(f *testing.F) {
	f.Add([]byte(procConnections))
	f.Add([]byte("Pro \nTCP C000020A B878 C000020A 0050 0A000001 0050 ESTABLISHED 1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for c, err := range Connections(bytes.NewReader(b)) {
			if err != nil {
				continue
			}
			if !c.Client.IsValid() || !c.Virtual.IsValid() || !c.Destination.IsValid() || c.State == "" || c.Expires < 0 || c.Protocol > 255 {
				t.Errorf("%+v", c)
			}
		}
	})
}
