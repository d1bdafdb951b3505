package local

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func listener(p Protocol, at string, only bool) Listener {
	return Listener{Protocol: p, At: netip.MustParseAddrPort(at), Only: only}
}

func TestTakes(t *testing.T) {
	four := Service{TCP, netip.MustParseAddrPort("192.0.2.10:80")}
	six := Service{TCP, netip.MustParseAddrPort("[2001:db8::10]:80")}
	for _, tc := range []struct {
		l         Listener
		four, six bool
	}{
		{listener(TCP, "0.0.0.0:80", false), true, false},
		{listener(TCP, "[::]:80", false), true, true},
		{listener(TCP, "[::]:80", true), false, true},
		{listener(TCP, "192.0.2.10:80", false), true, false},
		{listener(TCP, "[::ffff:192.0.2.10]:80", false), true, false},
		{listener(TCP, "10.0.0.11:80", false), false, false},
		{listener(TCP, "0.0.0.0:81", false), false, false},
		{listener(UDP, "0.0.0.0:80", false), false, false},
	} {
		if got4, got6 := tc.l.takes(four), tc.l.takes(six); got4 != tc.four || got6 != tc.six {
			t.Errorf("%+v: %v, %v", tc.l, got4, got6)
		}
	}
}

func TestTracker(t *testing.T) {
	web := Service{TCP, netip.MustParseAddrPort("192.0.2.10:80")}
	all, own := listener(TCP, "0.0.0.0:80", false), listener(TCP, "10.0.0.11:80", false)
	var x Tracker
	for i, step := range []struct {
		services  []Service
		listeners []Listener
		down      string
		changed   bool
	}{
		{[]Service{web}, nil, "", false}, // never seen: nothing is said
		{[]Service{web}, []Listener{own}, "", false},
		{[]Service{web}, []Listener{all}, "", false},
		{[]Service{web}, nil, "nobody listens at TCP 192.0.2.10:80 any more", true},
		{[]Service{web}, nil, "nobody listens at TCP 192.0.2.10:80 any more", false},
		{[]Service{web}, []Listener{own}, "nobody listens at TCP 192.0.2.10:80 any more, only at 10.0.0.11:80", true},
		{[]Service{web}, []Listener{own, all}, "", true},
		{[]Service{web}, nil, "nobody listens at TCP 192.0.2.10:80 any more", true},
		{nil, nil, "", true}, // not asked about any more
		{[]Service{web}, nil, "", false},
	} {
		down, changed := x.Step(step.services, step.listeners)
		if down[web] != step.down || changed != step.changed {
			t.Errorf("step %d: %q, changed %v", i, down[web], changed)
		}
	}
}

// What this process listens at is found in the kernel.
func TestListeners(t *testing.T) {
	only := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var err error
		_ = c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_V6ONLY, 1) })
		return err
	}}
	four, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer four.Close()
	udp, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	want := []Listener{
		{TCP, four.Addr().(*net.TCPAddr).AddrPort(), false},
		{UDP, udp.LocalAddr().(*net.UDPAddr).AddrPort(), false},
	}
	if six, err := only.Listen(context.Background(), "tcp6", "[::]:0"); err == nil {
		defer six.Close()
		want = append(want, Listener{TCP, six.Addr().(*net.TCPAddr).AddrPort(), true})
	} else if !strings.Contains(err.Error(), "not supported") {
		t.Fatal(err)
	}
	sockets, err := OpenSockets()
	if err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	// Services that nobody serves, so that all are listed.
	absent := []Service{{TCP, netip.MustParseAddrPort("192.0.2.1:1")}, {UDP, netip.MustParseAddrPort("192.0.2.1:1")}}
	got, err := sockets.Listeners(absent)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			t.Errorf("%+v is not among %+v", l, got)
		}
	}
	four.Close()
	if got, err = sockets.Listeners(absent); err != nil || slices.Contains(got, want[0]) {
		t.Errorf("after it was closed: %+v, %v", got, err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(append(make([]byte, messageSize), 5, 0, 11, 0, 1, 0, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) { decode(b, TCP) })
}

func BenchmarkListeners(b *testing.B) {
	sockets, err := OpenSockets()
	if err != nil {
		b.Fatal(err)
	}
	defer sockets.Close()
	services := []Service{{TCP, netip.MustParseAddrPort("192.0.2.1:1")}}
	for b.Loop() {
		if _, err := sockets.Listeners(services); err != nil {
			b.Fatal(err)
		}
	}
}
