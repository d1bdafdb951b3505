// Package clustertest is a network in memory for nodes of package cluster: it delivers packets and streams between
// named hosts, and cuts them off on request. It uses channels only, so it runs in a bubble of testing/synctest.
package clustertest

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Port is that of every host.
const Port = 7946

const queued = 256 // packets that wait at a host; more are lost, as in a socket's buffer

// Network is a network in memory. The zero value is ready.
type Network struct {
	mu    sync.Mutex // guards everything below
	next  uint32
	hosts map[netip.AddrPort]*Host
	cut   func(from, to string) bool
	tap   func(from, to string, packet []byte)
}

// Host is the transport of one host.
type Host struct {
	net     *Network
	name    string
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once

	mu    sync.Mutex // guards everything below
	conns map[*conn]struct{}
}

var _ memberlist.Transport = (*Host)(nil)

// Host makes a host with the next address of 10.0.0.0/8. A name can be used again, for a host that has been
// started again elsewhere.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	n.next++
	i := n.next
	n.mu.Unlock()
	return n.HostAt(name, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), Port))
}

// HostAt makes a host at an address. A former one there is replaced.
func (n *Network) HostAt(name string, addr netip.AddrPort) *Host {
	h := &Host{
		net: n, name: name, addr: addr, packets: make(chan *memberlist.Packet, queued),
		streams: make(chan net.Conn), done: make(chan struct{}), conns: make(map[*conn]struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts == nil {
		n.hosts = make(map[netip.AddrPort]*Host)
	}
	n.hosts[addr] = h
	return h
}

// Address is where the host is reached.
func (h *Host) Address() netip.AddrPort { return h.addr }

// Cut loses what goes from one host to another when f says so, and breaks the streams between them. nil
// loses nothing.
func (n *Network) Cut(f func(from, to string) bool) {
	n.mu.Lock()
	n.cut = f
	hosts := make([]*Host, 0, len(n.hosts))
	for _, h := range n.hosts {
		hosts = append(hosts, h)
	}
	n.mu.Unlock()
	for _, h := range hosts {
		h.breakStreams(func(peer string) bool { return f != nil && (f(h.name, peer) || f(peer, h.name)) })
	}
}

// Split cuts the hosts of a name in group off from all others.
func (n *Network) Split(group ...string) {
	in := make(map[string]bool)
	for _, g := range group {
		in[g] = true
	}
	n.Cut(func(from, to string) bool { return in[from] != in[to] })
}

// Tap has f see every packet that is sent, before it may be lost. f must not keep it.
func (n *Network) Tap(f func(from, to string, packet []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tap = f
}

// Inject puts a packet into a host's queue, as if it came from an address.
func (n *Network) Inject(from, to netip.AddrPort, packet []byte) {
	n.mu.Lock()
	h := n.hosts[to]
	n.mu.Unlock()
	if h != nil {
		h.deliver(packet, from)
	}
}

func (h *Host) deliver(b []byte, from netip.AddrPort) {
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
	select {
	case <-h.done:
	case h.packets <- p:
	default:
	}
}

// route finds the host at an address, nil if there is none or it is cut off.
func (h *Host) route(addr string, packet []byte) (*Host, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	to := n.hosts[at]
	if to == nil {
		return nil, nil
	}
	if n.tap != nil && packet != nil {
		n.tap(h.name, to.name, packet)
	}
	if n.cut != nil && n.cut(h.name, to.name) {
		return nil, nil
	}
	return to, nil
}

// FinalAdvertiseAddr is the host's own address.
func (h *Host) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return h.addr.Addr().AsSlice(), int(h.addr.Port()), nil
}

// WriteTo sends a packet, which may get lost.
func (h *Host) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := h.route(addr, b)
	if err != nil {
		return time.Time{}, err
	}
	if to != nil {
		to.deliver(b, h.addr)
	}
	return time.Now(), nil
}

// DialTimeout opens a stream. If nobody is there, it fails at the end of the timeout.
func (h *Host) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := h.route(addr, nil)
	if err != nil {
		return nil, err
	}
	late := time.NewTimer(timeout)
	defer late.Stop()
	if to == nil {
		select {
		case <-late.C:
		case <-h.done:
		}
		return nil, fmt.Errorf("dial %s: no route", addr)
	}
	a, b := net.Pipe()
	ours, theirs := h.open(a, to.name), to.open(b, h.name)
	select {
	case to.streams <- theirs:
		return ours, nil
	case <-to.done:
		err = errors.New("connection refused")
	case <-h.done:
		err = net.ErrClosed
	case <-late.C:
		err = errors.New("timed out")
	}
	ours.Close()
	theirs.Close()
	return nil, fmt.Errorf("dial %s: %w", addr, err)
}

// PacketCh gives memberlist its packets.
func (h *Host) PacketCh() <-chan *memberlist.Packet { return h.packets }

// StreamCh gives memberlist its streams.
func (h *Host) StreamCh() <-chan net.Conn { return h.streams }

// Shutdown takes the host off the network.
func (h *Host) Shutdown() error {
	h.once.Do(func() {
		close(h.done)
		h.net.mu.Lock()
		if h.net.hosts[h.addr] == h {
			delete(h.net.hosts, h.addr)
		}
		h.net.mu.Unlock()
	})
	h.breakStreams(func(string) bool { return true })
	return nil
}

func (h *Host) open(c net.Conn, peer string) *conn {
	m := &conn{Conn: c, host: h, peer: peer}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[m] = struct{}{}
	return m
}

func (h *Host) breakStreams(which func(peer string) bool) {
	h.mu.Lock()
	var broken []*conn
	for c := range h.conns {
		if which(c.peer) {
			broken = append(broken, c)
		}
	}
	h.mu.Unlock()
	for _, c := range broken {
		c.Close()
	}
}

type conn struct {
	net.Conn
	host *Host
	peer string
}

func (c *conn) Close() error {
	c.host.mu.Lock()
	delete(c.host.conns, c)
	c.host.mu.Unlock()
	return c.Conn.Close()
}
