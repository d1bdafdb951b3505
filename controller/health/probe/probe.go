package probe

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/spec"
)

// Prober probes. Its zero value is ready.
type Prober struct{}

var _ health.Prober = (*Prober)(nil)

// Probe implements [health.Prober].
func (p *Prober) Probe(ctx context.Context, t health.Target, mark uint32) (weight int, err error) {
	w := wire{target: &t, mark: mark}
	weight = health.AsConfigured
	switch t.Check.Kind {
	case spec.CheckTCP:
		err = w.tcp(ctx)
	case spec.CheckTLS:
		err = w.tls(ctx)
	case spec.CheckHTTP, spec.CheckHTTPS:
		err = w.http(ctx)
	case spec.CheckGRPC, spec.CheckGRPCS:
		err = w.grpc(ctx)
	case spec.CheckDNS:
		err = w.dns(ctx)
	case spec.CheckUDP:
		err = w.udp(ctx)
	case spec.CheckSMTP:
		err = w.smtp(ctx)
	case spec.CheckICMP:
		err = w.icmp(ctx)
	case spec.CheckScript:
		weight, err = w.script(ctx)
	default:
		err = fmt.Errorf("there is no check of type %q", t.Check.Kind)
	}
	return weight, plain(ctx, err, t.Check.Timeout.String())
}

// wire makes the connections of one probe.
type wire struct {
	target *health.Target
	mark   uint32
}

// dial connects to where the probe goes; network is tcp or udp.
func (w *wire) dial(ctx context.Context, network string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1, FallbackDelay: -1, Control: w.control}
	if source, err := w.source(); err != nil {
		return nil, err
	} else if source.IsValid() {
		if network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		} else {
			d.LocalAddr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0))
		}
	}
	return d.DialContext(ctx, network, w.target.Place.To.String())
}

func (w *wire) control(_, _ string, c syscall.RawConn) error {
	var serr error
	err := c.Control(func(fd uintptr) {
		if w.mark != 0 {
			if serr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, int(w.mark)); serr != nil {
				serr = os.NewSyscallError("setsockopt SO_MARK (needs CAP_NET_ADMIN)", serr)
				return
			}
		}
		// A bound socket gets its port when it connects, as others do (Linux 4.2): one port serves many servers.
		_ = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	})
	return errors.Join(err, serr)
}

// source is the address from which the probe goes; the zero Addr leaves it to the kernel. For a VIP that this host
// has the kernel would choose that VIP, so a probe through a real server goes from where that server is reached
// from.
func (w *wire) source() (netip.Addr, error) {
	if b := w.target.Check.Bind; b.IsValid() {
		return b, nil
	}
	via := w.target.Place.Via.Addr
	if !via.IsValid() || via.Is4() != w.target.Place.To.Addr().Is4() {
		return netip.Addr{}, nil
	}
	// Nothing is sent: connecting a datagram socket chooses route and source.
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(via, 9)))
	if err != nil {
		return netip.Addr{}, err
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// tcp connects, and resets the connection: it leaves no TIME_WAIT here and nothing to accept there.
func (w *wire) tcp(ctx context.Context) error {
	c, err := w.dial(ctx, "tcp")
	if err != nil {
		return err
	}
	_ = c.(*net.TCPConn).SetLinger(0)
	return c.Close()
}

// plain says in few words what went wrong.
func plain(ctx context.Context, err error, timeout string) error {
	var errno syscall.Errno
	var cert *tls.CertificateVerificationError
	var op *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), ctx.Err() != nil:
		return fmt.Errorf("no answer within %s", timeout)
	case errors.As(err, &cert):
		return cert.Err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection was closed without an answer")
	case errors.As(err, &op) && errors.As(err, &errno):
		return errno
	}
	return err
}
