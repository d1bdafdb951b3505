package ipvs

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Connection is one entry of the kernel's table of connections, or a persistence template, which
// ties a client (port 0) to a destination.
type Connection struct {
	// Protocol is TCP, UDP or SCTP; 0 in templates of services by mark, which the kernel names IP,
	// and whose Virtual address is the mark.
	Protocol    Protocol
	Client      netip.AddrPort
	Virtual     netip.AddrPort
	Destination netip.AddrPort // of the other family in mixed tunnels
	State       string         // ESTABLISHED, SYN_RECV, UDP, CLOSE, ...; ASSURED or NONE in templates
	Expires     time.Duration  // whole seconds
	PE          string         // persistence engine, mostly empty
	PEData      string         // what it goes by: the Call-ID for sip
}

// Connections reads the table of connections in the format of /proc/net/ip_vs_conn
// (ip_vs_conn_seq_show in net/netfilter/ipvs/ip_vs_conn.c). It ends after the first error, which
// names the line.
func Connections(r io.Reader) iter.Seq2[Connection, error] {
	return func(yield func(Connection, error) bool) {
		s := bufio.NewScanner(r)
		// The kernel gives a page of lines at most for each read, and finds the place to go on from by
		// walking there (ip_vs_conn_array): no read should ask for less.
		s.Buffer(make([]byte, 64<<10), 64<<10)
		n := names{}
		for line := 1; s.Scan(); line++ {
			if line == 1 {
				if !bytes.HasPrefix(s.Bytes(), []byte("Pro ")) {
					yield(Connection{}, fmt.Errorf("line 1: header of ip_vs_conn expected, got %q", s.Text()))
					return
				}
				continue
			}
			c, err := n.parseConnection(s.Bytes())
			if err != nil {
				yield(Connection{}, fmt.Errorf("line %d: %w", line, err))
				return
			}
			if !yield(c, nil) {
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(Connection{}, err)
		}
	}
}

// parseConnection reads a line of nine fields or more:
//
//	TCP C000020A B878 C0000264 0050 0A000001 0050 ESTABLISHED     897
//	UDP C000020A 0000 C0000264 13C4 0A000009 13C4 NONE             57 sip abc0@10.0.0.1
//
// Addresses are 8 hexadecimal digits, or 8 groups of 4 with colons, ports are hexadecimal, the
// expiry is in seconds.
func (n names) parseConnection(b []byte) (Connection, error) {
	line := b
	var f [9][]byte
	for i := range f {
		b = bytes.TrimLeft(b, " ")
		end := bytes.IndexByte(b, ' ')
		if end < 0 {
			end = len(b)
		}
		if end == 0 {
			return Connection{}, fmt.Errorf("%d fields expected, got %d in %q", len(f), i, line)
		}
		f[i], b = b[:end], b[end:]
	}
	c := Connection{State: n.intern(f[7])}
	switch string(f[0]) {
	case "TCP":
		c.Protocol = TCP
	case "UDP":
		c.Protocol = UDP
	case "SCTP":
		c.Protocol = SCTP
	case "IP":
	default:
		number, ok := bytes.CutPrefix(f[0], []byte("IP_")) // of others (ip_vs_proto_name)
		v, err := strconv.ParseUint(string(number), 10, 8)
		if !ok || err != nil {
			return Connection{}, fmt.Errorf("protocol (%q) is unknown", f[0])
		}
		c.Protocol = Protocol(v)
	}
	var err error
	for i, p := range []*netip.AddrPort{&c.Client, &c.Virtual, &c.Destination} {
		if *p, err = parseHexAddrPort(f[1+2*i], f[2+2*i]); err != nil {
			return Connection{}, err
		}
	}
	seconds, err := strconv.ParseUint(string(f[8]), 10, 32)
	if err != nil {
		return Connection{}, fmt.Errorf("expiry (%q) must be seconds", f[8])
	}
	c.Expires = time.Duration(seconds) * time.Second
	if pe, data, _ := bytes.Cut(bytes.TrimLeft(b, " "), []byte(" ")); len(pe) > 0 {
		c.PE, c.PEData = n.intern(pe), strings.ToValidUTF8(string(data), "?")
	}
	return c, nil
}

func parseHexAddrPort(addr, port []byte) (netip.AddrPort, error) {
	var p [2]byte
	if len(port) != 4 {
		return netip.AddrPort{}, fmt.Errorf("port (%q) must be 4 hexadecimal digits", port)
	}
	if _, err := hex.Decode(p[:], port); err != nil {
		return netip.AddrPort{}, fmt.Errorf("port (%q) must be 4 hexadecimal digits", port)
	}
	a, ok := parseHexAddr(addr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("address (%q) must be 8 hexadecimal digits or 8 groups of 4", addr)
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(p[:])), nil
}

func parseHexAddr(b []byte) (netip.Addr, bool) {
	switch len(b) {
	case 8:
		var a [4]byte
		_, err := hex.Decode(a[:], b)
		return netip.AddrFrom4(a), err == nil
	case 39:
		var a [16]byte
		for i := range 8 {
			if i > 0 && b[5*i-1] != ':' {
				return netip.Addr{}, false
			}
			if _, err := hex.Decode(a[2*i:2*i+2], b[5*i:5*i+4]); err != nil {
				return netip.Addr{}, false
			}
		}
		return netip.AddrFrom16(a), true
	}
	return netip.Addr{}, false
}

// Connections lists the connections of the client's network namespace, which may be many: f is
// called for each, and an error of f ends the list. The kernel's list is not consistent: a
// connection that is made or ends meanwhile may be missing or appear twice.
func (c *Client) Connections(ctx context.Context, f func(Connection) error) error {
	var file *os.File
	err := c.inNetNS(func() (err error) {
		file, err = os.Open("/proc/thread-self/net/ip_vs_conn")
		return err
	})
	if err != nil {
		return fmt.Errorf("failed to list connections: %w", err)
	}
	defer file.Close()
	for conn, err := range Connections(file) {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return fmt.Errorf("failed to list connections: %w", err)
		}
		if err := f(conn); err != nil {
			return err
		}
	}
	return nil
}
