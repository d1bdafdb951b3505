package dropin

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvsadm"
)

func readRules(r io.Reader) (lines [][]string, err error) {
	rules := NewRules(r)
	for {
		words, err := rules.Next()
		if err == io.EOF {
			return lines, nil
		}
		if err != nil {
			return lines, err
		}
		lines = append(lines, words)
	}
}

func TestRules(t *testing.T) {
	for _, x := range []struct {
		in   string
		want [][]string
	}{
		{"", nil},
		{"\n", [][]string{nil}},
		{"-C\n-A -t x\n", [][]string{{"-C"}, {"-A", "-t", "x"}}},
		{" \t-C\r\n", [][]string{{"-C"}}},
		{"ipvsadm -C ipvsadm\n", [][]string{{"-C"}}},
		{"-C", [][]string{{"-C"}}},
		{"-C ", [][]string{{"-C"}}},
		{"-C  ", nil},
		{"-L\n-C\t\r", [][]string{{"-L"}}},
		{"# -C\n", [][]string{{"#", "-C"}}},
		{"-C\x00-L \x00\n", [][]string{{"-C", ""}}},
	} {
		for _, r := range []io.Reader{strings.NewReader(x.in), iotest.OneByteReader(strings.NewReader(x.in))} {
			if have, err := readRules(r); err != nil || !reflect.DeepEqual(have, x.want) {
				t.Errorf("%q: %q, want %q, %v", x.in, have, x.want, err)
			}
		}
	}
	if _, err := readRules(strings.NewReader("-A " + strings.Repeat("x", maxWord) + "\n")); err != nil {
		t.Error(err)
	}
	var e *Error
	if _, err := readRules(strings.NewReader("-A " + strings.Repeat("x", maxWord+1) + "\n")); !errors.As(err, &e) || !e.Ends {
		t.Error(err)
	}
	if _, err := readRules(iotest.ErrReader(io.ErrUnexpectedEOF)); err != io.ErrUnexpectedEOF {
		t.Error(err)
	}
}

// FuzzRules reads any input of -R: whole or byte by byte it is the same, and no word has a blank in it.
func FuzzRules(f *testing.F) {
	f.Add([]byte("-A -t 192.0.2.10:80 -s rr\n-a -t 192.0.2.10:80 -r 10.0.0.1\n"))
	f.Add([]byte("ipvsadm -C \r\n\t\n# x\x00y"))
	f.Add([]byte("-C  "))
	f.Fuzz(func(t *testing.T, in []byte) {
		have, err := readRules(bytes.NewReader(in))
		again, errAgain := readRules(iotest.OneByteReader(bytes.NewReader(in)))
		if !reflect.DeepEqual(have, again) || !reflect.DeepEqual(err, errAgain) {
			t.Fatalf("%q %v, byte by byte %q %v", have, err, again, errAgain)
		}
		if len(have) > bytes.Count(in, []byte("\n"))+1 {
			t.Fatalf("%d lines", len(have))
		}
		for _, words := range have {
			for _, word := range words {
				if strings.ContainsAny(word, blanks+"\x00") || word == "ipvsadm" || len(word) > maxWord {
					t.Fatalf("%q", word)
				}
			}
			_, _ = Parse(append([]string{"ipvsadm"}, words...), book{})
		}
	})
}

// What -S prints, Parse understands as the commands that make the table again, but for what ipvsadm leaves
// out: thresholds, and a mask or timeout without persistence.
func TestSavedRulesMakeTheTable(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := randomService(r)
		var out bytes.Buffer
		if err := ipvsadm.Rules(&out, []ipvs.ServiceEntry{s}, nil, nil); err != nil {
			t.Fatal(err)
		}
		lines, err := readRules(&out)
		if err != nil || len(lines) != 1+len(s.Destinations) {
			t.Fatal(lines, err)
		}
		want := []ipvs.Command{ipvs.Verbatim(ipvs.NewService(s.Service), s.RawNetmask)}
		want[0].Service.Netmask = 0
		for _, d := range s.Destinations {
			want = append(want, ipvs.Verbatim(ipvs.NewDest(s.Key, d.Destination), 0))
		}
		var have []ipvs.Command
		for i, words := range lines {
			c, err := Parse(append([]string{"ipvsadm"}, words...), book{})
			if err != nil {
				t.Fatalf("%q: %v", words, err)
			}
			if i == 0 {
				c.Change.Dest = ipvs.Destination{}
			} else {
				c.Change.RawNetmask = 0
			}
			have = append(have, c.Change)
		}
		byDest := func(a, b ipvs.Command) int { return a.Dest.DestKey.Compare(b.Dest.DestKey) }
		slices.SortFunc(have[1:], byDest)
		slices.SortFunc(want[1:], byDest)
		if !reflect.DeepEqual(have, want) {
			t.Fatalf("%q\nhave %+v\nwant %+v", lines, have, want)
		}
	}
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomService(r *rand.Rand) ipvs.ServiceEntry {
	v6 := r.IntN(2) == 0
	addr := func() netip.Addr {
		if v6 {
			return netip.AddrFrom16([16]byte{0xfd, 15: byte(r.IntN(256))})
		}
		return netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), 0, byte(r.IntN(256))})
	}
	var s ipvs.ServiceEntry
	s.Family = pick(r, ipvs.IPv4)
	s.RawNetmask = 0xffffffff
	if v6 {
		s.Family, s.RawNetmask = ipvs.IPv6, 128
	}
	if r.IntN(3) == 0 {
		s.FWMark = 1 + r.Uint32N(1<<31-1)
	} else {
		s.Protocol, s.Addr, s.Port = pick(r, ipvs.TCP, ipvs.UDP, ipvs.SCTP), addr(), uint16(1+r.IntN(65535))
	}
	s.Scheduler = pick(r, "rr", "sh", "mh", "wlc")
	s.Flags = pick(r, 0, ipvs.Sched1, ipvs.Sched2, ipvs.Sched1|ipvs.Sched2)
	if s.Protocol == ipvs.UDP || s.FWMark != 0 {
		s.Flags |= pick(r, 0, ipvs.OnePacket)
	}
	if r.IntN(2) == 0 {
		s.Flags |= ipvs.Persistent
		s.Timeout = 1 + r.Uint32N(maxTimeout)
		s.PE = pick(r, "", "sip")
		if v6 {
			s.RawNetmask = 1 + r.Uint32N(128)
		} else {
			s.RawNetmask = r.Uint32()
		}
	}
	seen := map[ipvs.DestKey]bool{}
	for range r.IntN(4) {
		d := ipvs.DestinationEntry{}
		d.Addr, d.Port = addr(), s.Port
		d.Forward, d.Weight = pick(r, ipvs.Masq, ipvs.Tunnel, ipvs.DirectRoute), r.Uint32N(1<<31)
		if d.Forward == ipvs.Masq || s.FWMark != 0 {
			d.Port = uint16(r.IntN(65536))
		}
		if d.Forward == ipvs.Tunnel {
			d.TunnelType = pick(r, ipvs.TunnelIPIP, ipvs.TunnelGUE, ipvs.TunnelGRE)
			switch d.TunnelType {
			case ipvs.TunnelGUE:
				d.TunnelPort, d.TunnelFlags = uint16(1+r.IntN(65535)), ipvs.TunnelFlags(r.IntN(3))
			case ipvs.TunnelGRE:
				d.TunnelFlags = ipvs.TunnelFlags(r.IntN(2))
			}
		}
		if !seen[d.DestKey] {
			seen[d.DestKey] = true
			s.Destinations = append(s.Destinations, d)
		}
	}
	return s
}
