package ipvstest

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// OpenTCP opens a connection through the director of the namespace, with packets of the given mark, from
// an address with port or, for "", from any. It is left open to the end of the test, or closed if the
// mark is 7, to see other states.
func OpenTCP(t testing.TB, from, address string, mark int) {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, mark) }); e != nil {
			return e
		}
		return err
	}}
	if from != "" {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	client, err := d.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	if _, err := client.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if mark == 7 {
		client.Close()
	}
}

// SendUDP sends a SIP request through the director of the namespace, from an address with port or, for "",
// from any.
func SendUDP(t testing.TB, from, address string) {
	t.Helper()
	l, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var d net.Dialer
	if from != "" {
		d.LocalAddr = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
	}
	conn, err := d.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
	if _, err := fmt.Fprintf(conn, "INVITE sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: %s@10.0.0.1\r\nContent-Length: 0\r\n\r\n", client.String()+strings.Repeat("x", 30)); err != nil {
		t.Fatal(err)
	}
}
