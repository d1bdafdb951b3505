package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// watchBuffer is the receive buffer of the notification socket, in bytes. A host of containers may
// change a thousand interfaces at once; an overflow only costs a listing.
const watchBuffer = 1 << 20

// watchPause is how long a watcher waits after an error that is not an overflow.
const watchPause = time.Second

// watcher collects the kernel's notifications about addresses and interfaces until somebody asks.
//
// Its socket is read for as long as it is open, overflow or not: opening another one would need the
// right to enter network namespaces, which a daemon has no use for otherwise.
type watcher struct {
	f    *os.File
	wake chan struct{} // capacity 1
	done chan struct{} // closed when the goroutine has ended
	log  *slog.Logger

	links map[int32]linkState // of the goroutine only

	mu      sync.Mutex // guards what follows
	changes Changes
}

type linkState struct {
	name  string
	flags uint32 // IFF_UP and IFF_LOWER_UP
}

func openWatcher(log *slog.Logger) (*watcher, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("failed to open an rtnetlink socket for notifications: %w", err)
	}
	// SO_RCVBUFFORCE needs CAP_NET_ADMIN in the initial user namespace; a smaller buffer does too.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer)
	}
	// Without the filter each renewal of a VIP would wake the reader.
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, dropNewAddress()); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("failed to filter rtnetlink notifications: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("failed to subscribe to rtnetlink notifications: %w", err)
	}
	w := &watcher{
		f:     os.NewFile(uintptr(fd), "rtnetlink notifications"),
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
		log:   log,
		links: make(map[int32]linkState),
	}
	go w.run()
	return w, nil
}

// dropNewAddress is a filter that drops RTM_NEWADDR, which nobody here reads. A notification has one message, whose
// type is two bytes at offset 4 (struct nlmsghdr) in the machine's order, where a filter loads the network's.
func dropNewAddress() *unix.SockFprog {
	var typ [2]byte
	binary.NativeEndian.PutUint16(typ[:], unix.RTM_NEWADDR)
	const all = 0xffffffff
	code := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: uint32(binary.BigEndian.Uint16(typ[:]))},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: all},
	}
	return &unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
}

func (w *watcher) close() {
	w.f.Close()
	<-w.done
}

// take returns what has been collected and forgets it.
func (w *watcher) take() Changes {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.changes
	w.changes = Changes{}
	return c
}

func (w *watcher) run() {
	defer close(w.done)
	buf := make([]byte, 64<<10) // the kernel's notifications are far smaller
	conn, err := w.f.SyscallConn()
	if err != nil {
		return
	}
	for {
		var n int
		var from unix.Sockaddr
		var rerr error
		err := conn.Read(func(fd uintptr) bool {
			for {
				n, from, rerr = unix.Recvfrom(int(fd), buf, 0)
				if !errors.Is(rerr, unix.EINTR) {
					return !errors.Is(rerr, unix.EAGAIN)
				}
			}
		})
		var c Changes
		switch {
		case err != nil:
			return // closed
		case errors.Is(rerr, unix.ENOBUFS):
			w.log.Warn("notifications of the kernel were lost; reading everything again")
			c.Lost = true
		case rerr != nil:
			w.log.Error("failed to read the kernel's notifications", "error", rerr)
			c.Lost = true
			time.Sleep(watchPause)
		default:
			if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
				continue // not from the kernel
			}
			c = w.parse(buf[:n])
		}
		w.report(c)
	}
}

// report adds c and wakes the reader, if there is anything in it.
func (w *watcher) report(c Changes) {
	if !c.Links && !c.Lost && len(c.Removed) == 0 {
		return
	}
	w.mu.Lock()
	w.changes.add(c)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// parse reads the messages of one datagram (struct nlmsghdr, include/uapi/linux/netlink.h).
func (w *watcher) parse(b []byte) (c Changes) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			c.Lost = true
			return c
		}
		payload := b[unix.NLMSG_HDRLEN:size]
		switch typ := binary.NativeEndian.Uint16(b[4:]); typ {
		case unix.RTM_DELADDR:
			if r, ok := parseRemoval(payload); ok {
				c.Removed = append(c.Removed, r)
			}
		case unix.RTM_NEWLINK, unix.RTM_DELLINK:
			c.Links = w.parseLink(payload, typ == unix.RTM_DELLINK) || c.Links
		}
		b = b[min(align4(size), len(b)):]
	}
	return c
}

// parseRemoval reads an address message: struct ifaddrmsg, which is family, prefix length, flags and
// scope of one byte each and the interface's index, and then attributes.
func parseRemoval(b []byte) (Removal, bool) {
	if len(b) < unix.SizeofIfAddrmsg {
		return Removal{}, false
	}
	r := Removal{Index: int(binary.NativeEndian.Uint32(b[4:]))}
	for typ, value := range attributes(b[unix.SizeofIfAddrmsg:]) {
		// IPv4 sends IFA_LOCAL and, as the peer's, IFA_ADDRESS; IPv6 sends IFA_ADDRESS alone unless there is a peer.
		if typ == unix.IFA_LOCAL || typ == unix.IFA_ADDRESS && !r.Addr.IsValid() {
			if a, ok := netip.AddrFromSlice(value); ok {
				r.Addr = a
			}
		}
	}
	return r, r.Addr.IsValid()
}

// parseLink reads an interface message and tells whether something changed that matters here; traffic
// counters and the like make messages too.
func (w *watcher) parseLink(b []byte, gone bool) bool {
	if len(b) < unix.SizeofIfInfomsg || b[0] != unix.AF_UNSPEC { // a bridge has messages of its own family
		return false
	}
	index := int32(binary.NativeEndian.Uint32(b[4:]))
	if gone {
		delete(w.links, index)
		return true
	}
	now := linkState{flags: binary.NativeEndian.Uint32(b[8:]) & (unix.IFF_UP | unix.IFF_LOWER_UP)}
	for typ, value := range attributes(b[unix.SizeofIfInfomsg:]) {
		if typ == unix.IFLA_IFNAME {
			now.name = unix.ByteSliceToString(value)
		}
	}
	before, known := w.links[index]
	w.links[index] = now
	return !known || before != now
}

// attributes walks over the attributes in b (struct rtattr, include/uapi/linux/rtnetlink.h).
func attributes(b []byte) func(yield func(typ uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(binary.NativeEndian.Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&^uint16(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size]) {
				return
			}
			b = b[min(align4(size), len(b)):]
		}
	}
}

func align4(n int) int { return (n + 3) &^ 3 }
