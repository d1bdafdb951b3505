package arp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/arp/frame"
	"github.com/drover-lb/drover/internal/dump"
)

// writeTimeout bounds the wait for room in a socket's send buffer.
const writeTimeout = 200 * time.Millisecond

// link is an interface as far as announcing is concerned. It can be compared.
type link struct {
	index    int
	name     string
	mac      frame.MAC
	ethernet bool
	up       bool // administratively and with carrier (IFF_RUNNING, RFC 2863 OPER_UP)
	gone     bool
}

func linkOf(a *netlink.LinkAttrs) link {
	mac, ok := frame.Ethernet(&net.Interface{HardwareAddr: a.HardwareAddr, Flags: a.Flags})
	return link{index: a.Index, name: a.Name, mac: mac, ethernet: ok,
		up: a.RawFlags&(unix.IFF_UP|unix.IFF_RUNNING) == unix.IFF_UP|unix.IFF_RUNNING}
}

// netWire is the kernel.
type netWire struct{}

var _ wire = netWire{}

func (netWire) Links(stop <-chan struct{}) ([]link, <-chan link, error) {
	// The library closes updates after any error of the socket, but the socket only after done.
	updates, done := make(chan netlink.LinkUpdate, 64), make(chan struct{})
	err := netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{
		ErrorCallback:     func(error) {}, // it would be logged otherwise
		ReceiveBufferSize: 1 << 20,
	})
	if err != nil {
		close(done)
		return nil, nil, fmt.Errorf("failed to subscribe to link messages: %w", err)
	}
	// Listed after the subscription began, so that nothing falls between the two.
	list, err := listLinks()
	if err != nil {
		close(done)
		go drain(updates)
		return nil, nil, err
	}
	out := make(chan link, 64)
	go func() {
		defer drain(updates)
		defer close(done)
		defer close(out)
		for {
			select {
			case u, ok := <-updates:
				if !ok {
					return
				}
				// Messages of the bridge family are about ports of bridges: its DELLINK leaves the interface there.
				if u.Family != unix.AF_UNSPEC {
					continue
				}
				l := linkOf(u.Attrs())
				l.gone = u.Header.Type == unix.RTM_DELLINK
				select {
				case out <- l:
				case <-stop:
					return
				}
			case <-stop:
				return
			}
		}
	}()
	return list, out, nil
}

// drain lets the library's goroutine end, which would block on a full channel.
func drain[T any](ch <-chan T) {
	for range ch {
	}
}

func listLinks() ([]link, error) {
	list, err := dump.All(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("failed to list the interfaces: %w", err)
	}
	links := make([]link, len(list))
	for i, l := range list {
		links[i] = linkOf(l.Attrs())
	}
	return links, nil
}

func (netWire) Open(l link) (port, error) {
	// Protocol 0 receives nothing.
	c, err := packet.Listen(&net.Interface{Index: l.index}, packet.Raw, 0, nil)
	if err != nil {
		return nil, hint(fmt.Errorf("failed to open a packet socket on %s: %w", l.name, err))
	}
	return &packetPort{conn: c, link: l}, nil
}

type packetPort struct {
	conn *packet.Conn
	link link
}

func (p *packetPort) Announce(addr netip.Addr) error {
	for _, f := range frame.Announcement(p.link.mac, addr) {
		if err := send(p.conn, f); err != nil {
			return fmt.Errorf("failed to announce %s on %s: %w", addr, p.link.name, err)
		}
	}
	return nil
}

func (p *packetPort) Close() error { return p.conn.Close() }

func send(c *packet.Conn, f []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.WriteTo(f, &packet.Addr{HardwareAddr: f[:6]})
	return err
}

// hint names the capability that is missing.
func hint(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (needs root or CAP_NET_RAW)", err)
	}
	return err
}
