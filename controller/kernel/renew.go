package kernel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// renewer renews the lifetimes of many addresses with one system call and one answer: a director with a hundred VIPs
// does so each second for as long as it lives.
type renewer struct{ conn *netlink.Conn }

func (r *renewer) close() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}

// renew sends a message for each address, of which the kernel acknowledges the last, and tells whether it has
// carried out all.
func (r *renewer) renew(addresses []Held, life time.Duration) (err error) {
	if r.conn == nil {
		if r.conn, err = netlink.Dial(unix.NETLINK_ROUTE, nil); err != nil {
			return fmt.Errorf("failed to open an rtnetlink socket: %w", err)
		}
		_ = r.conn.SetOption(netlink.CapAcknowledge, true) // smaller answers
	}
	defer func() {
		if err != nil {
			r.close() // answers to the rest may be left in it
		}
	}()
	messages := make([]netlink.Message, len(addresses))
	for i, a := range addresses {
		data, err := addressMessage(a, life)
		if err != nil {
			return err
		}
		messages[i] = netlink.Message{
			Header: netlink.Header{Type: unix.RTM_NEWADDR, Flags: netlink.Request | netlink.Create | netlink.Replace},
			Data:   data,
		}
	}
	messages[len(messages)-1].Header.Flags |= netlink.Acknowledge
	if err := r.conn.SetDeadline(time.Now().Add(callTimeout)); err != nil {
		return err
	}
	if _, err := r.conn.SendMessages(messages); err != nil {
		return err
	}
	_, err = r.conn.Receive() // an error of any, which comes first, or the acknowledgement
	return err
}

// addressMessage is struct ifaddrmsg (include/uapi/linux/if_addr.h) and the attributes of an address.
func addressMessage(a Held, life time.Duration) ([]byte, error) {
	family, addr := byte(unix.AF_INET), a.Prefix.Addr().AsSlice()
	if a.Prefix.Addr().Is6() {
		family = unix.AF_INET6
	}
	b := binary.NativeEndian.AppendUint32([]byte{family, byte(a.Prefix.Bits()), 0, unix.RT_SCOPE_UNIVERSE}, uint32(a.Index))
	attrs := netlink.NewAttributeEncoder()
	attrs.Bytes(unix.IFA_LOCAL, addr)
	attrs.Bytes(unix.IFA_ADDRESS, addr)
	if flags := addressFlags(a.Prefix); flags != 0 {
		attrs.Uint32(unix.IFA_FLAGS, flags)
	}
	// struct ifa_cacheinfo: preferred and valid lifetime, and two times that the kernel sets.
	info := binary.NativeEndian.AppendUint32(make([]byte, 4, 16), validLifetime(life))
	attrs.Bytes(unix.IFA_CACHEINFO, info[:16])
	rest, err := attrs.Encode()
	return append(b, rest...), err
}

// renewAll renews addresses at once, or where that fails one by one, to learn which.
func (r *rtnetlink) renewAll(ctx context.Context, addresses []Held, life time.Duration) []error {
	errs := make([]error, len(addresses))
	err := r.do(ctx, func() error { return r.renew.renew(addresses, life) })
	if err == nil {
		return errs
	}
	for i, a := range addresses {
		if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil { // the others would wait as long
			errs[i] = fmt.Errorf("failed to renew %s on interface %d: %w", a.Prefix, a.Index, err)
			continue
		}
		errs[i] = r.setAddress(ctx, a.Index, a.Prefix, life)
	}
	return errs
}
