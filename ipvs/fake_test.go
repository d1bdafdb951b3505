package ipvs

import (
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// fakeKernel answers a client over a socket pair, for what needs no real kernel: the matching of
// answers, the race detector (which does not run in user-mode Linux), and answers that no kernel gives.
type fakeKernel struct {
	t    *testing.T
	file *os.File

	mu       sync.Mutex
	family   uint16
	services []ServiceEntry // with destinations
	chunk    int            // entries in a datagram
	silent   bool           // does not answer
	hook     func()         // called before each dump
	sends    int
}

const fakeFamily = 0x1f

// newFake returns a client of a fake kernel.
func newFake(t *testing.T) (*fakeKernel, *Client) {
	t.Helper()
	ours, theirs := socketPair(t)
	k := &fakeKernel{t: t, file: theirs, family: fakeFamily, chunk: 3}
	c := newClient(t, ours, true)
	c.sock.family = func() (uint16, error) {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.family, nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		k.serve()
	}()
	t.Cleanup(func() {
		c.Close()
		theirs.Close()
		ours.Close()
		<-done
	})
	return k, c
}

// newClient returns a client with a socket that is not the kernel's.
func newClient(t testing.TB, f *os.File, patient bool) *Client {
	t.Helper()
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{
		timeout: DefaultTimeout,
		token:   make(chan struct{}, 1),
		closed:  make(chan struct{}),
		names:   names{},
		family:  fakeFamily,
		sock:    newSocket(raw, f, func() (uint16, error) { return fakeFamily, nil }),
	}
	c.sock.patient = patient
	return c
}

func socketPair(t testing.TB) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	return os.NewFile(uintptr(fds[0]), "client"), os.NewFile(uintptr(fds[1]), "kernel")
}

func (k *fakeKernel) serve() {
	buf := make([]byte, 1<<20)
	for {
		n, err := k.file.Read(buf)
		if err != nil || n == 0 {
			return
		}
		k.mu.Lock()
		k.sends++
		for m, err := range messages(buf[:n]) {
			if err != nil {
				k.t.Errorf("the client sent nonsense: %v", err)
				break
			}
			k.answer(m)
		}
		k.mu.Unlock()
	}
}

func (k *fakeKernel) send(b []byte) {
	if k.silent {
		return
	}
	if _, err := k.file.Write(b); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EPIPE) {
		k.t.Errorf("failed to answer: %v", err)
	}
}

func (k *fakeKernel) answer(m message) {
	switch {
	case m.typ != k.family:
		k.send(errorMessage(m.seq, unix.ENOENT, ""))
	case m.flags&unix.NLM_F_DUMP != 0:
		k.dump(m)
	default:
		errno := k.change(m)
		if errno != 0 || m.flags&unix.NLM_F_ACK != 0 {
			k.send(errorMessage(m.seq, errno, ""))
		}
	}
}

// errorMessage is an NLMSG_ERROR as with NETLINK_CAP_ACK, with a text as with NETLINK_EXT_ACK.
func errorMessage(seq uint32, errno unix.Errno, text string) []byte {
	flags := uint16(unix.NLM_F_CAPPED)
	if text != "" {
		flags |= unix.NLM_F_ACK_TLVS
	}
	b := appendMessage(nil, unix.NLMSG_ERROR, flags, seq, 0, 0)[:nlHeaderLen]
	b = binary.NativeEndian.AppendUint32(b, uint32(-int32(errno)))
	b = append(b, make([]byte, nlHeaderLen)...) // the request's header
	if text != "" {
		b = appendString(b, unix.NLMSGERR_ATTR_MSG, text)
	}
	endMessage(b, 0)
	return b
}

func doneMessage(seq uint32) []byte {
	b := appendMessage(nil, unix.NLMSG_DONE, unix.NLM_F_MULTI, seq, 0, 0)
	endMessage(b, 0)
	return b
}

func (k *fakeKernel) find(m message) (int, ServiceEntry, DestinationEntry) {
	var s ServiceEntry
	var d DestinationEntry
	for it := attrs(m.data[genlHeaderLen:]); it.next(); {
		var err error
		switch it.typ {
		case attrService:
			s, err = names{}.decodeService(it.value)
		case attrDest:
			d, err = decodeDest(it.value, s.Family)
		}
		if err != nil {
			k.t.Errorf("the client sent nonsense: %v", err)
		}
	}
	return slices.IndexFunc(k.services, func(o ServiceEntry) bool { return o.Key == s.Key }), s, d
}

func (k *fakeKernel) change(m message) unix.Errno {
	i, s, d := k.find(m)
	cmd := m.data[0]
	switch {
	case cmd == cmdFlush:
		k.services = nil
		return 0
	case cmd == cmdNewService && i >= 0:
		return unix.EEXIST
	case cmd == cmdNewService:
		k.services = append(k.services, s)
		return 0
	case i < 0:
		return unix.ESRCH
	case cmd == cmdSetService:
		s.Destinations = k.services[i].Destinations
		k.services[i] = s
		return 0
	case cmd == cmdDelService:
		k.services = slices.Delete(k.services, i, i+1)
		return 0
	}
	dests := &k.services[i].Destinations
	j := slices.IndexFunc(*dests, func(o DestinationEntry) bool { return o.DestKey == d.DestKey })
	switch {
	case cmd == cmdNewDest && j >= 0:
		return unix.EEXIST
	case cmd == cmdNewDest:
		*dests = slices.Insert(*dests, 0, d)
	case j < 0:
		return unix.ENOENT
	case cmd == cmdSetDest:
		(*dests)[j] = d
	case cmd == cmdDelDest:
		*dests = slices.Delete(*dests, j, j+1)
	}
	return 0
}

// dump sends chunks, each continuing by counting, as the kernel does.
func (k *fakeKernel) dump(m message) {
	for sent := 0; ; sent += k.chunk {
		if k.hook != nil {
			k.hook()
		}
		i, _, _ := k.find(m)
		var b []byte
		n := len(k.services)
		if m.data[0] == cmdGetDest {
			if n = 0; i >= 0 {
				n = len(k.services[i].Destinations)
			}
		}
		for j := sent; j < min(sent+k.chunk, n); j++ {
			start := len(b)
			b = appendMessage(b, k.family, unix.NLM_F_MULTI, m.seq, m.data[0], familyVersion)
			nest := len(b)
			if m.data[0] == cmdGetService {
				b = appendNest(b, attrService)
				b = appendService(b, k.services[j].Service)
			} else {
				b = appendNest(b, attrDest)
				b = appendDest(b, k.services[i].Destinations[j].Destination)
			}
			endNest(b, nest)
			endMessage(b, start)
		}
		if len(b) == 0 {
			break
		}
		k.send(b)
	}
	k.send(doneMessage(m.seq))
}
