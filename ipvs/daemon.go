package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// DaemonRole is the side of the connection synchronisation that a daemon does (IP_VS_STATE_*).
type DaemonRole uint32

const (
	Master DaemonRole = 1 // sends its connections
	Backup DaemonRole = 2 // receives connections
)

// String returns master or backup.
func (r DaemonRole) String() string {
	switch r {
	case Master:
		return "master"
	case Backup:
		return "backup"
	}
	return fmt.Sprintf("role(%d)", uint32(r))
}

// Daemon is a connection sync daemon of the kernel. A namespace may have one of each role. Where
// zero, MaxLen, Group, Port and TTL are the kernel's defaults when a daemon is started; a listed
// daemon has their values.
type Daemon struct {
	Role      DaemonRole
	Interface string     // 1..15 bytes
	SyncID    uint8      // messages of another id are ignored; 0 for a backup accepts all
	MaxLen    uint16     // payload of a sync message, bytes; default from the interface's MTU, 1472 for 1500
	Group     netip.Addr // multicast group, default 224.0.0.81
	Port      uint16     // UDP port, default 8848
	TTL       uint8      // default 1
}

// Daemons lists the sync daemons that run, at most one of each role.
func (c *Client) Daemons(ctx context.Context) ([]Daemon, error) {
	type result struct{ daemons []Daemon }
	out := new(result)
	err := c.request(ctx, func(op *operation) error {
		out.daemons = nil
		c.reads.Add(1)
		c.begin(cmdGetDaemon, unix.NLM_F_DUMP)
		_, err := c.exchange(op, func(_ uint8, data []byte) error {
			for it := attrs(data); it.next(); {
				if it.typ != attrDaemon {
					continue
				}
				d, err := decodeDaemon(it.value)
				if err != nil {
					return err
				}
				out.daemons = append(out.daemons, d)
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("failed to list sync daemons: %w", err)
	}
	return out.daemons, nil
}

// StartDaemon starts a sync daemon. The error is unix.EEXIST if one of the role runs, unix.ENODEV if
// there is no such interface.
func (c *Client) StartDaemon(ctx context.Context, d Daemon) error {
	if d.Role != Master && d.Role != Backup {
		return fmt.Errorf("failed to start sync daemon: %s must be master or backup", d.Role)
	}
	if len(d.Interface) < 1 || len(d.Interface) > 15 {
		return fmt.Errorf("failed to start %s sync daemon: interface (%q) must have 1 to 15 bytes", d.Role, d.Interface)
	}
	if d.Group.IsValid() && !d.Group.IsMulticast() {
		return fmt.Errorf("failed to start %s sync daemon: group (%s) must be a multicast address", d.Role, d.Group)
	}
	err := c.set(ctx, cmdNewDaemon, func(b []byte) []byte { return appendDaemon(b, d, true) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EEXIST):
		err = fmt.Errorf("one runs already: %w", err)
	case errors.Is(err, unix.ENODEV):
		err = fmt.Errorf("no such interface: %w", err)
	case errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("a service has servers of the other address family, or a value is invalid: %w", err)
	}
	return fmt.Errorf("failed to start %s sync daemon on %q: %w", d.Role, d.Interface, err)
}

// StopDaemon stops the sync daemon of a role. The error is unix.ESRCH if none runs.
func (c *Client) StopDaemon(ctx context.Context, r DaemonRole) error {
	if r != Master && r != Backup {
		return fmt.Errorf("failed to stop sync daemon: %s must be master or backup", r)
	}
	err := c.set(ctx, cmdDelDaemon, func(b []byte) []byte { return appendDaemon(b, Daemon{Role: r}, false) })
	if errors.Is(err, errReplyLost) {
		// A daemon that had no time to run yet ends with EINTR (kthread_stop), and of a command
		// that ends with EINTR the kernel says nothing (netlink_rcv_skb). It is stopped all the same.
		daemons, listErr := c.Daemons(ctx)
		if listErr == nil && !slices.ContainsFunc(daemons, func(d Daemon) bool { return d.Role == r }) {
			return nil
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ESRCH):
		err = fmt.Errorf("none runs: %w", err)
	}
	return fmt.Errorf("failed to stop %s sync daemon: %w", r, err)
}

// Timeouts are the kernel's timeouts of connections without packets, in whole seconds. They hold for
// the network namespace.
type Timeouts struct {
	TCP    time.Duration // established, default 15 min
	TCPFin time.Duration // after a FIN, default 2 min
	UDP    time.Duration // default 5 min
}

// Timeouts reads the timeouts; parts of seconds, which another way of setting them allows, are lost.
func (c *Client) Timeouts(ctx context.Context) (Timeouts, error) {
	out := new(Timeouts)
	err := c.request(ctx, func(op *operation) error {
		c.reads.Add(1)
		c.begin(cmdGetConfig, unix.NLM_F_ACK)
		_, err := c.exchange(op, func(_ uint8, data []byte) error {
			for it := attrs(data); it.next(); {
				d := time.Duration(it.uint32()) * time.Second
				switch it.typ {
				case attrTimeoutTCP:
					out.TCP = d
				case attrTimeoutTCPFin:
					out.TCPFin = d
				case attrTimeoutUDP:
					out.UDP = d
				}
			}
			return nil
		})
		return err
	})
	if err != nil {
		return Timeouts{}, fmt.Errorf("failed to read timeouts: %w", err)
	}
	return *out, nil
}

// maxTimeout is the largest timeout in the kernel, INT_MAX jiffies, at 100 jiffies to the second, the
// fewest that a kernel has.
const maxTimeout = (1<<31 - 1) / 100 * time.Second

// SetTimeouts sets the timeouts that are not 0. They must be whole seconds up to 248 days; a kernel with
// 1,000 jiffies to the second takes 24 days at most, and refuses more with unix.EINVAL.
func (c *Client) SetTimeouts(ctx context.Context, t Timeouts) error {
	for name, d := range map[string]time.Duration{"tcp": t.TCP, "tcp-fin": t.TCPFin, "udp": t.UDP} {
		if d < 0 || d > maxTimeout || d%time.Second != 0 {
			return fmt.Errorf("failed to set timeouts: %s (%v) must be whole seconds between 1s and %v", name, d, maxTimeout)
		}
	}
	err := c.set(ctx, cmdSetConfig, func(b []byte) []byte {
		b = appendUint32(b, attrTimeoutTCP, uint32(t.TCP/time.Second)) // 0 leaves it alone (ip_vs_set_timeout)
		b = appendUint32(b, attrTimeoutTCPFin, uint32(t.TCPFin/time.Second))
		return appendUint32(b, attrTimeoutUDP, uint32(t.UDP/time.Second))
	})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EINVAL):
		err = fmt.Errorf("this kernel may count no further than %v: %w", (1<<31-1)/1000*time.Second, err)
	}
	return fmt.Errorf("failed to set timeouts: %w", err)
}

// set sends one message that changes a setting.
func (c *Client) set(ctx context.Context, cmd uint8, body func([]byte) []byte) error {
	return c.request(ctx, func(op *operation) error {
		c.settings.Add(1)
		c.begin(cmd, unix.NLM_F_ACK)
		c.out = body(c.out)
		_, err := c.exchange(op, func(uint8, []byte) error { return nil })
		return err
	})
}
