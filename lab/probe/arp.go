package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/arp/frame"
)

// Claimants asks on the link who has addr, every d, and reports for each question who has answered it
// and who has claimed the address meanwhile in any other way: whoever claims it is heard by every host
// on the link. It runs until ctx ends.
//
// Answers carry no number. One that the kernel received within d after a question is an answer to it, as long as
// the network delays less than d. One that came later, as the next question was late on a busy host, may be what the
// host's own neighbour discovery has asked for: it is a claim like any other, and the address may have moved meanwhile.
func Claimants(ctx context.Context, w *Writer, addr netip.Addr, d time.Duration) error {
	link, source, err := linkOf(addr)
	if err != nil {
		return err
	}
	mac, ok := frame.Ethernet(link)
	if !ok {
		return fmt.Errorf("interface %q is not an Ethernet interface", link.Name)
	}
	fd, err := listen(link, addr)
	if err != nil {
		return fmt.Errorf("failed to listen on %q: %w", link.Name, err)
	}
	defer unix.Close(fd)
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return fmt.Errorf("failed to make an event: %w", err)
	}
	defer unix.Close(wake)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_, _ = unix.Write(wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // an event counter does not fail below 2^64
	})
	defer func() {
		if !stop() {
			<-stopped // it must not write to a descriptor that is somebody else's by then
		}
	}()

	to := &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: htons(etherType(addr))}
	buf, oob := make([]byte, 2048), make([]byte, 64)
	e := Event{Kind: Answers}
	var asked time.Time
	hear := func() error {
		for {
			n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EAGAIN):
				return nil
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.ENETDOWN): // the interface went down: silence, like any other
				continue
			case err != nil:
				return fmt.Errorf("failed to listen on %q: %w", link.Name, err)
			}
			c, ok := frame.ParseClaim(buf[:n])
			if !ok || c.Addr != addr || c.MAC == mac {
				continue
			}
			if m := c.MAC.String(); !slices.Contains(e.MACs, m) {
				e.MACs = append(e.MACs, m)
			}
			late := received(oob[:oobn]).Sub(asked)
			if m := c.MAC.String(); c.Kind == frame.Answer && late >= 0 && late <= d && !slices.Contains(e.Answered, m) {
				e.Answered = append(e.Answered, m)
			}
		}
	}
	// Where many hosts share one processor, a late question is a moment that nobody has seen.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, -20) // for others than root it is as it is

	w.Write(Event{Kind: Ready, At: Now()})
	due := Now()
	for n := 0; ; n++ {
		if err := hear(); err != nil {
			return err
		}
		now := Now()
		if n > 0 {
			e.At = now
			slices.Sort(e.MACs)
			slices.Sort(e.Answered)
			w.Write(e)
		}
		if ctx.Err() != nil {
			return nil
		}
		e = Event{Kind: Answers, Start: now}
		from := source
		if addr.Is4() && n%2 == 1 {
			from = netip.Addr{} // RFC 5227's form, which hosts answer that are choosy about who asks
		}
		asked = time.Now()
		// Nobody hears a question that cannot be sent, for example because the cable is cut.
		if err := unix.Sendto(fd, frame.Question(mac, from, addr), 0, to); err != nil &&
			!errors.Is(err, unix.ENETDOWN) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("failed to ask for %s on %q: %w", addr, link.Name, err)
		}
		due += d * ((Now()-due)/d + 1) // a late question is not made up for
		for wait := due - Now(); wait > 0 && ctx.Err() == nil; wait = due - Now() {
			ts := unix.NsecToTimespec(int64(wait))
			if _, err := unix.Ppoll([]unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}}, &ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("failed to wait: %w", err)
			}
		}
	}
}

// received is when the kernel received a packet, by the wall clock; now if it does not say.
func received(oob []byte) time.Time {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range list {
		// struct timespec, time(7); of another size where integers are short
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) == 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

func etherType(addr netip.Addr) uint16 {
	if addr.Is4() {
		return unix.ETH_P_ARP
	}
	return unix.ETH_P_IPV6
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// listen opens a packet socket for ARP or for neighbour discovery.
func listen(link *net.Interface, addr netip.Addr) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // hears nothing before it is bound
	if err != nil {
		return -1, err
	}
	err = func() error {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
		if addr.Is6() {
			prog, err := bpf.Assemble([]bpf.Instruction{
				bpf.LoadAbsolute{Off: frame.HeaderLen + 6, Size: 1}, // next header
				bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipFalse: 1},
				bpf.RetConstant{Val: 2048},
				bpf.RetConstant{Val: 0},
			})
			if err != nil {
				return err
			}
			raw := make([]unix.SockFilter, len(prog))
			for i, p := range prog {
				raw[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
			}
			if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
				&unix.SockFprog{Len: uint16(len(raw)), Filter: &raw[0]}); err != nil {
				return err
			}
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: link.Index, Protocol: htons(etherType(addr))})
	}()
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// linkOf returns the interface in whose subnet addr lies, and the address of it that questions come from.
func linkOf(addr netip.Addr) (*net.Interface, netip.Addr, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, netip.Addr{}, err
	}
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			return nil, netip.Addr{}, err
		}
		var found, linkLocal netip.Addr
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			switch {
			case err != nil:
			case p.Addr().Is6() && p.Addr().IsLinkLocalUnicast():
				linkLocal = p.Addr()
			case p.Contains(addr) && !p.IsSingleIP() && i.Flags&net.FlagLoopback == 0:
				found = p.Addr()
			}
		}
		if !found.IsValid() {
			continue
		}
		if addr.Is6() && linkLocal.IsValid() {
			found = linkLocal // so that it also asks for an address that is its own subnet's
		}
		return &i, found, nil
	}
	return nil, netip.Addr{}, fmt.Errorf("%s lies in no subnet of this host", addr)
}
