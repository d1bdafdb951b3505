package topology

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// AddressChange says that a host has got an address on an interface other than loopback, or lost it.
type AddressChange struct {
	Host      string
	Link      int    // index of the interface
	Interface string // eth0, ...; empty for one that is no end of a cable
	Addr      netip.Addr
	Has       bool
}

// loopback is the index of lo in every network namespace (net/core/dev.c).
const loopback = 1

// watch reads the address events of all hosts from one socket (NETLINK_LISTEN_ALL_NSID, netlink(7)), so
// that they come in the order in which they happened in the whole lab. The kernel tells namespaces apart
// by the numbers under which this one knows them.
type watch struct {
	file *os.File
	done chan struct{}
	fn   func(AddressChange, error)

	mu    sync.Mutex       // guards everything below
	hosts map[int]*Machine // by number of the namespace
}

// WatchAddresses calls fn for every change of an address on any host from now on, one call at a time,
// until the World is closed. An error means that changes may have been missed. fn must return quickly.
// It is to be called once, by a thread that is no host.
func (w *World) WatchAddresses(fn func(AddressChange, error)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("failed to open a netlink socket: %w", err)
	}
	wt := &watch{file: os.NewFile(uintptr(fd), "netlink"), done: make(chan struct{}), fn: fn, hosts: map[int]*Machine{}}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1),
		unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR}))
	for _, m := range w.order {
		if err == nil {
			err = wt.add(m)
		}
	}
	if err != nil {
		wt.file.Close()
		return fmt.Errorf("failed to watch the addresses of the hosts: %w", err)
	}
	w.watch = wt
	go wt.read()
	return nil
}

// add gives the namespace of a host a number, without which its events are not heard.
func (wt *watch) add(m *Machine) error {
	ns, err := netns.GetFromPath(m.Namespaces()["net"])
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := netlink.SetNetNsIdByFd(int(ns), -1); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("failed to give the namespace of %q a number: %w", m.Name, err)
	}
	id, err := netlink.GetNetNsIdByFd(int(ns))
	if err != nil {
		return fmt.Errorf("failed to read the number of the namespace of %q: %w", m.Name, err)
	}
	wt.mu.Lock()
	defer wt.mu.Unlock()
	wt.hosts[id] = m
	return nil
}

// forget ends the watch of a host that is switched off.
func (wt *watch) forget(host string) {
	wt.mu.Lock()
	defer wt.mu.Unlock()
	for id, m := range wt.hosts {
		if m.Name == host {
			delete(wt.hosts, id)
		}
	}
}

func (wt *watch) close() {
	wt.file.Close()
	<-wt.done
}

func (wt *watch) read() {
	defer close(wt.done)
	raw, err := wt.file.SyscallConn()
	if err != nil {
		wt.fn(AddressChange{}, err)
		return
	}
	buf, oob := make([]byte, 64<<10), make([]byte, 256)
	for {
		var n, oobn int
		var rerr error
		err := raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, rerr = unix.Recvmsg(int(fd), buf, oob, 0)
			return !errors.Is(rerr, unix.EAGAIN)
		})
		switch {
		case err != nil: // closed
			return
		case errors.Is(rerr, unix.EINTR):
			continue
		case rerr != nil: // ENOBUFS: the socket overflowed, and goes on
			wt.fn(AddressChange{}, rerr)
			if !errors.Is(rerr, unix.ENOBUFS) {
				return
			}
			continue
		}
		wt.mu.Lock()
		m := wt.hosts[namespaceOf(oob[:oobn])]
		wt.mu.Unlock()
		if m == nil {
			continue // a namespace that is no host of this lab
		}
		changes, err := parseAddresses(buf[:n])
		if err != nil {
			wt.fn(AddressChange{}, err)
		}
		for _, c := range changes {
			if c.Link == loopback {
				continue
			}
			c.Host = m.Name
			if name, ok := m.links.Load(c.Link); ok {
				c.Interface = name.(string)
			}
			wt.fn(c, nil)
		}
	}
}

// namespaceOf returns the number of the namespace that a message comes from, -1 for our own.
func namespaceOf(oob []byte) int {
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_NETLINK && m.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(m.Data) >= 4 {
			return int(int32(binary.NativeEndian.Uint32(m.Data)))
		}
	}
	return -1
}

// parseAddresses reads RTM_NEWADDR and RTM_DELADDR (rtnetlink(7)): family, prefix length, flags and scope
// of one byte each, the interface's index of four bytes, and attributes.
func parseAddresses(b []byte) ([]AddressChange, error) {
	msgs, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return nil, fmt.Errorf("failed to read a netlink message: %w", err)
	}
	var out []AddressChange
	for _, m := range msgs {
		if m.Header.Type != unix.RTM_NEWADDR && m.Header.Type != unix.RTM_DELADDR {
			continue
		}
		if len(m.Data) < unix.SizeofIfAddrmsg {
			return out, fmt.Errorf("an address message of %d bytes is too short", len(m.Data))
		}
		c := AddressChange{Link: int(binary.NativeEndian.Uint32(m.Data[4:8])), Has: m.Header.Type == unix.RTM_NEWADDR}
		for b := m.Data[unix.SizeofIfAddrmsg:]; len(b) >= unix.SizeofRtAttr; {
			n, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
			if n < unix.SizeofRtAttr || n > len(b) {
				return out, fmt.Errorf("an attribute of an address says that it has %d of %d bytes", n, len(b))
			}
			// IFA_ADDRESS is the far end of a point-to-point link, where there is IFA_LOCAL.
			if kind == unix.IFA_LOCAL || kind == unix.IFA_ADDRESS && !c.Addr.IsValid() {
				if ip, ok := netip.AddrFromSlice(b[unix.SizeofRtAttr:n]); ok {
					c.Addr = ip
				}
			}
			b = b[min((n+3)&^3, len(b)):] // attributes begin at multiples of four
		}
		if c.Addr.IsValid() {
			out = append(out, c)
		}
	}
	return out, nil
}
