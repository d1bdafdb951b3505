package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// icmp asks for an echo (RFC 792, RFC 4443 section 4.1). It needs CAP_NET_RAW. The socket is connected, so that it
// gets what comes from the one host.
func (w *wire) icmp(ctx context.Context) error {
	to := w.target.Place.To.Addr()
	network, request, reply, protocol := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), 1
	if to.Is6() {
		network, request, reply, protocol = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 58
	}
	d := net.Dialer{Control: w.control}
	if b := w.target.Check.Bind; b.IsValid() {
		d.LocalAddr = &net.IPAddr{IP: b.AsSlice()}
	}
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	echo := &icmp.Echo{ID: int(uint16(rand.Uint32())), Seq: 1, Data: binary.BigEndian.AppendUint64([]byte("drover "), rand.Uint64())}
	b, err := (&icmp.Message{Type: request, Body: echo}).Marshal(nil) // the kernel fills in the checksum for IPv6
	if err != nil {
		return err
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	answer := make([]byte, 1500)
	for {
		n, err := c.Read(answer)
		if err != nil {
			return err
		}
		if echoed(answer[:n], to, protocol, reply, echo) {
			return nil
		}
	}
}

// echoed reports whether a packet is the answer to echo.
func echoed(b []byte, from netip.Addr, protocol int, reply icmp.Type, echo *icmp.Echo) bool {
	if from.Is4() && len(b) >= ipv4.HeaderLen && b[0]>>4 == 4 { // with its header, as raw IPv4 sockets have it
		b = b[min(int(b[0]&15)*4, len(b)):]
	}
	m, err := icmp.ParseMessage(protocol, b)
	if err != nil || m.Type != reply {
		return false
	}
	got, ok := m.Body.(*icmp.Echo)
	return ok && got.ID == echo.ID && got.Seq == echo.Seq && bytes.Equal(got.Data, echo.Data)
}
