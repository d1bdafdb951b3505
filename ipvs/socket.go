package ipvs

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// receiveSize holds any datagram: the kernel makes chunks of up to 32 KiB, less some overhead, when
	// it has seen a reader with a buffer so large (netlink_recvmsg, netlink_dump in af_netlink.c).
	receiveSize = 36 << 10
	// receiveCount is how many datagrams are taken in one system call: the destinations of most
	// services are one datagram and the end of the dump another.
	receiveCount = 4
)

// socket is a netlink socket that is read and written without copies and allocations, and with few
// system calls. The rest is done by the libraries that made it.
type socket struct {
	raw    syscall.RawConn
	closer io.Closer
	family func() (uint16, error) // asks for the family's number
	// patient waits for answers. The kernel has queued them when write returns, other peers have not.
	patient bool

	// Of the last system call; the functions are made once, as they would be allocated each time.
	out     []byte
	n       int
	err     error
	readFn  func(fd uintptr) bool
	writeFn func(fd uintptr) bool

	in   [receiveCount][]byte
	iov  [receiveCount]unix.Iovec
	msgs [receiveCount]mmsghdr
	next int // in msgs[:n], the next to be returned by read
}

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
}

// openSocket opens a socket in the network namespace of the calling thread.
func openSocket() (*socket, error) {
	nl, err := netlink.Dial(genetlink.Protocol, nil)
	if err != nil {
		return nil, fmt.Errorf("failed to open netlink socket: %w", err)
	}
	// Both are of Linux 4.3 and 4.12 and only make errors smaller and clearer.
	_ = nl.SetOption(netlink.CapAcknowledge, true)
	_ = nl.SetOption(netlink.ExtendedAcknowledge, true)
	raw, err := nl.SyscallConn()
	if err != nil {
		nl.Close()
		return nil, err
	}
	return newSocket(raw, nl, func() (uint16, error) {
		f, err := genetlink.NewConn(nl).GetFamily(familyName)
		return f.ID, err
	}), nil
}

func newSocket(raw syscall.RawConn, closer io.Closer, family func() (uint16, error)) *socket {
	s := &socket{raw: raw, closer: closer, family: family}
	for i := range s.in {
		s.in[i] = make([]byte, receiveSize)
		s.iov[i].Base = &s.in[i][0]
		s.iov[i].SetLen(receiveSize)
		s.msgs[i].hdr.Iov = &s.iov[i]
		s.msgs[i].hdr.SetIovlen(1)
	}
	s.readFn = func(fd uintptr) bool {
		s.n, s.err = retry(func() (int, error) {
			n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&s.msgs[0])), receiveCount, unix.MSG_DONTWAIT, 0, 0)
			if errno != 0 {
				return 0, errno
			}
			return int(n), nil
		})
		return s.err != unix.EAGAIN || !s.patient
	}
	s.writeFn = func(fd uintptr) bool {
		s.n, s.err = retry(func() (int, error) { return unix.Write(int(fd), s.out) })
		return s.err != unix.EAGAIN
	}
	return s
}

func retry(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != unix.EINTR {
			return n, err
		}
	}
}

func (s *socket) close() { s.closer.Close() }

// write sends one datagram to the kernel (the peer of a netlink socket that is not connected). The
// kernel has executed all of it when write returns (netlink_unicast_kernel), and has queued the
// answers. What is left of earlier answers is dropped.
func (s *socket) write(b []byte) error {
	s.out = b
	err := s.raw.Write(s.writeFn)
	s.n, s.next = 0, 0
	if err != nil {
		return err
	}
	if s.err != nil {
		return os.NewSyscallError("write", s.err)
	}
	return nil
}

// read returns the next datagram, which is valid until the next read. As answers are queued before
// write returns, and the rest of a dump when the part before it is read (netlink_dump), nothing to
// read means that an answer was lost.
func (s *socket) read() ([]byte, error) {
	if s.next == s.n {
		err := s.raw.Read(s.readFn)
		s.next = 0
		if err == nil && s.err != nil {
			if s.err == unix.EAGAIN {
				return nil, errReplyLost
			}
			return nil, os.NewSyscallError("recvmmsg", s.err)
		}
		if err != nil {
			s.n = 0
			return nil, err
		}
	}
	m := &s.msgs[s.next]
	b := s.in[s.next][:m.len]
	s.next++
	if m.hdr.Flags&unix.MSG_TRUNC != 0 {
		return nil, fmt.Errorf("%w: longer than %d bytes", errMalformed, receiveSize)
	}
	return b, nil
}
