package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/internal/dump"
)

// callTimeout bounds one rtnetlink call. The kernel answers within microseconds unless somebody else
// holds its RTNL lock, as while thousands of interfaces are being removed.
const callTimeout = time.Second

// rtnetlink sends commands to the kernel, one at a time. The kernel works on a command inside of the
// system call that sends it and may sleep there without regard to socket timeouts, hence a goroutine
// of its own, for which nobody waits longer than callTimeout.
type rtnetlink struct {
	h     *netlink.Handle
	calls chan func()
	quit  chan struct{}
	once  sync.Once
	renew renewer // of the goroutine that carries out calls
}

func openRTNetlink() (*rtnetlink, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("failed to open an rtnetlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(callTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("failed to set the timeout of the rtnetlink socket: %w", err)
	}
	r := &rtnetlink{h: h, calls: make(chan func()), quit: make(chan struct{})}
	go func() {
		for {
			select {
			case f := <-r.calls:
				f()
			case <-r.quit:
				h.Close()
				r.renew.close()
				return
			}
		}
	}()
	return r, nil
}

func (r *rtnetlink) close() { r.once.Do(func() { close(r.quit) }) }

// do runs f with the handle to itself, and does not wait for it beyond ctx or callTimeout. Then f may
// still be carried out later.
func (r *rtnetlink) do(ctx context.Context, f func() error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("rtnetlink has not answered for %s: %w", callTimeout, context.DeadlineExceeded))
	defer cancel()
	done := make(chan error, 1)
	select {
	case r.calls <- func() { done <- f() }:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// link returns the interface of that name; the error is fs.ErrNotExist when there is none.
func (r *rtnetlink) link(ctx context.Context, name string) (link Link, err error) {
	err = r.do(ctx, func() error {
		l, err := r.h.LinkByName(name)
		var none netlink.LinkNotFoundError
		switch {
		case errors.As(err, &none), errors.Is(err, unix.ENODEV):
			return fmt.Errorf("interface %q: %w", name, fs.ErrNotExist)
		case err != nil:
			return fmt.Errorf("failed to look up interface %q: %w", name, err)
		}
		a := l.Attrs()
		link = Link{Index: a.Index, Name: a.Name, Up: a.RawFlags&unix.IFF_UP != 0, Carrier: a.RawFlags&unix.IFF_LOWER_UP != 0}
		return nil
	})
	return link, err
}

// addresses lists all addresses of the network namespace.
func (r *rtnetlink) addresses(ctx context.Context) (out []Address, err error) {
	err = r.do(ctx, func() error {
		list, err := dump.All(func() ([]netlink.Addr, error) { return r.h.AddrList(nil, netlink.FAMILY_ALL) })
		if err != nil {
			return fmt.Errorf("failed to list the addresses: %w", err)
		}
		all := make([]Address, 0, len(list))
		for _, a := range list {
			addr, ok := netip.AddrFromSlice(a.IP)
			if !ok {
				continue
			}
			bits, _ := a.Mask.Size()
			if a.Peer != nil {
				bits = addr.Unmap().BitLen() // the prefix length belongs to the peer
			}
			all = append(all, Address{
				Index:    a.LinkIndex,
				Prefix:   netip.PrefixFrom(addr.Unmap(), bits),
				Lifetime: lifetime(a.ValidLft),
				Failed:   a.Flags&(unix.IFA_F_DADFAILED|unix.IFA_F_TENTATIVE) != 0,
			})
		}
		out = all
		return nil
	})
	return out, err
}

// lifetime converts a valid lifetime of the kernel. One that ends within the current second is not Forever.
func lifetime(seconds int) time.Duration {
	if uint32(seconds) == math.MaxUint32 {
		return Forever
	}
	return max(time.Duration(seconds)*time.Second, time.Nanosecond)
}

// validLifetime is the lifetime as the kernel has it, in seconds.
func validLifetime(life time.Duration) uint32 {
	if life == Forever {
		return math.MaxUint32
	}
	return uint32(life / time.Second)
}

func addressFlags(p netip.Prefix) (flags uint32) {
	if p.Addr().Is6() {
		flags = unix.IFA_F_NODAD
		if p.IsSingleIP() {
			flags |= unix.IFA_F_NOPREFIXROUTE
		}
	}
	return flags
}

func (r *rtnetlink) setAddress(ctx context.Context, index int, p netip.Prefix, life time.Duration) error {
	a := rtAddr(index, p)
	a.ValidLft, a.PreferedLft, a.Flags = int(validLifetime(life)), 0, int(addressFlags(p))
	if err := r.do(ctx, func() error { return r.h.AddrReplace(nil, a) }); err != nil {
		return fmt.Errorf("failed to put %s onto interface %d: %w", p, index, err)
	}
	return nil
}

func (r *rtnetlink) deleteAddress(ctx context.Context, index int, p netip.Prefix) error {
	err := r.do(ctx, func() error { return r.h.AddrDel(nil, rtAddr(index, p)) })
	switch {
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.ENODEV):
		return fmt.Errorf("address %s on interface %d: %w", p, index, fs.ErrNotExist)
	case err != nil:
		return fmt.Errorf("failed to take %s off interface %d: %w", p, index, err)
	}
	return nil
}

func rtAddr(index int, p netip.Prefix) *netlink.Addr {
	return &netlink.Addr{
		LinkIndex: index,
		IPNet:     &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
	}
}
