package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	maxConns        = 256     // of streams from others at a time
	maxConnsOfOne   = 64      // of one address
	udpBuffer       = 2 << 20 // bytes that the kernel keeps for us, if it allows that much
	largestDatagram = 64<<10 - 1
)

// socketTransport is a memberlist.Transport on one UDP and one TCP socket. Other than memberlist's own, it
// does not allocate 64 KiB for each packet of a stranger.
type socketTransport struct {
	advertise netip.AddrPort
	tcp       *net.TCPListener
	udp       *net.UDPConn
	packets   chan *memberlist.Packet
	streams   chan net.Conn
	done      chan struct{}
	once      sync.Once
	wg        sync.WaitGroup
	dialing   context.Context // ends with the transport
	stop      context.CancelFunc
}

func listen(bind, advertise netip.AddrPort) (*socketTransport, error) {
	var t *socketTransport
	var err error
	for range 10 { // the free TCP port that the kernel finds for port 0 may be taken for UDP
		if t, err = listenOnce(bind, advertise); err == nil || bind.Port() != 0 {
			break
		}
	}
	return t, err
}

func listenOnce(bind, advertise netip.AddrPort) (*socketTransport, error) {
	tcpNet, udpNet := "tcp", "udp"
	if bind.Addr().Is4() { // else the net package takes 0.0.0.0 for every address of IPv6, too
		tcpNet, udpNet = "tcp4", "udp4"
	}
	tcp, err := net.ListenTCP(tcpNet, net.TCPAddrFromAddrPort(bind))
	if err != nil {
		return nil, fmt.Errorf("failed to listen: %w", err)
	}
	at := tcp.Addr().(*net.TCPAddr).AddrPort()
	at = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
	udp, err := net.ListenUDP(udpNet, net.UDPAddrFromAddrPort(netip.AddrPortFrom(bind.Addr(), at.Port())))
	if err != nil {
		tcp.Close()
		return nil, fmt.Errorf("failed to listen: %w", err)
	}
	_ = udp.SetReadBuffer(udpBuffer) // the kernel caps it silently (net.core.rmem_max); less works too
	if !advertise.IsValid() {
		advertise = at
	}
	t := &socketTransport{
		advertise: advertise, tcp: tcp, udp: udp,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), done: make(chan struct{}),
	}
	t.dialing, t.stop = context.WithCancel(context.Background())
	t.wg.Go(t.accept)
	t.wg.Go(t.receive)
	return t, nil
}

func (t *socketTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.advertise.Addr().AsSlice(), int(t.advertise.Port()), nil
}

func (t *socketTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to)
	return time.Now(), err
}

func (t *socketTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	return d.DialContext(t.dialing, "tcp", addr)
}

func (t *socketTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *socketTransport) StreamCh() <-chan net.Conn           { return t.streams }

func (t *socketTransport) Shutdown() error {
	t.once.Do(func() {
		close(t.done)
		t.stop()
		t.tcp.Close()
		t.udp.Close()
	})
	t.wg.Wait()
	return nil
}

// pause waits a little after an error of a socket; false if it is closed.
func (t *socketTransport) pause(err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	select {
	case <-t.done:
		return false
	case <-time.After(50 * time.Millisecond):
		return true
	}
}

func (t *socketTransport) receive() {
	buf := make([]byte, largestDatagram)
	for {
		n, from, err := t.udp.ReadFromUDPAddrPort(buf)
		if err != nil {
			if !t.pause(err) {
				return
			}
			continue
		}
		if n == 0 {
			continue
		}
		p := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case t.packets <- p:
		case <-t.done:
			return
		}
	}
}

func (t *socketTransport) accept() {
	for {
		c, err := t.tcp.AcceptTCP()
		if err != nil {
			if !t.pause(err) {
				return
			}
			continue
		}
		select {
		case t.streams <- c:
		case <-t.done:
			c.Close()
			return
		}
	}
}

// meter stands between memberlist and a transport: it counts bytes, bounds the streams of others, gives every
// stream an end, and closes all when the node stops.
type meter struct {
	inner   memberlist.NodeAwareTransport
	metrics *metrics
	timeout time.Duration // of a stream that this node opened
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup

	mu     sync.Mutex // guards everything below
	closed bool
	conns  map[*meteredConn]struct{}
	of     map[string]int // streams from an address
	in     int            // streams from others
}

var _ memberlist.NodeAwareTransport = (*meter)(nil)

// byAddress makes a transport that knows no names one that takes and ignores them.
type byAddress struct{ memberlist.Transport }

func (t byAddress) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

func (t byAddress) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

func newMeter(t memberlist.Transport, m *metrics, timeout time.Duration) *meter {
	inner, ok := t.(memberlist.NodeAwareTransport)
	if !ok {
		inner = byAddress{t}
	}
	w := &meter{
		inner: inner, metrics: m, timeout: timeout,
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), done: make(chan struct{}),
		conns: make(map[*meteredConn]struct{}), of: make(map[string]int),
	}
	w.wg.Go(w.forward)
	return w
}

func (w *meter) forward() {
	in := w.metrics.bytes.WithLabelValues("in", "packet")
	for {
		select {
		case <-w.done:
			return
		case p := <-w.inner.PacketCh():
			in.Add(float64(len(p.Buf)))
			select {
			case w.packets <- p:
			case <-w.done:
				return
			}
		case c := <-w.inner.StreamCh():
			host, _, err := net.SplitHostPort(c.RemoteAddr().String())
			if err != nil {
				host = "" // a pipe in memory
			}
			m := w.add(c, host, true)
			if m == nil {
				c.Close()
				w.metrics.refused.WithLabelValues(refuseTooMany).Inc()
				continue
			}
			select {
			case w.streams <- m:
			case <-w.done:
				m.Close()
				return
			}
		}
	}
}

// add takes note of a stream; nil if there is no room for it.
func (w *meter) add(c net.Conn, host string, incoming bool) *meteredConn {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || incoming && (w.in >= maxConns || host != "" && w.of[host] >= maxConnsOfOne) {
		return nil
	}
	m := &meteredConn{Conn: c, w: w, host: host, incoming: incoming}
	w.conns[m] = struct{}{}
	if incoming {
		w.in++
		w.of[host]++
	}
	return m
}

func (w *meter) remove(m *meteredConn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, m)
	if m.incoming {
		w.in--
		if w.of[m.host]--; w.of[m.host] == 0 {
			delete(w.of, m.host)
		}
	}
}

func (w *meter) FinalAdvertiseAddr(ip string, port int) (net.IP, int, error) {
	return w.inner.FinalAdvertiseAddr(ip, port)
}

func (w *meter) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	w.metrics.bytes.WithLabelValues("out", "packet").Add(float64(len(b)))
	return w.inner.WriteToAddress(b, a)
}

func (w *meter) WriteTo(b []byte, addr string) (time.Time, error) {
	return w.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (w *meter) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	c, err := w.inner.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	// memberlist sets no deadline for writing a user message.
	_ = c.SetDeadline(time.Now().Add(w.timeout))
	m := w.add(c, "", false)
	if m == nil {
		c.Close()
		return nil, net.ErrClosed
	}
	return m, nil
}

func (w *meter) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return w.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (w *meter) PacketCh() <-chan *memberlist.Packet { return w.packets }
func (w *meter) StreamCh() <-chan net.Conn           { return w.streams }

func (w *meter) Shutdown() error {
	w.once.Do(func() { close(w.done) })
	w.mu.Lock()
	w.closed = true
	var open []*meteredConn
	for c := range w.conns {
		open = append(open, c)
	}
	w.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	err := w.inner.Shutdown()
	w.wg.Wait()
	return err
}

type meteredConn struct {
	net.Conn
	w        *meter
	host     string
	incoming bool
	once     sync.Once
}

func (c *meteredConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.w.metrics.bytes.WithLabelValues("in", "stream").Add(float64(n))
	return n, err
}

func (c *meteredConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.w.metrics.bytes.WithLabelValues("out", "stream").Add(float64(n))
	return n, err
}

func (c *meteredConn) Close() error {
	c.once.Do(func() { c.w.remove(c) })
	return c.Conn.Close()
}
