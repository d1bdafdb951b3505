package proof

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// redirectName is the interface that exists during a proof.
const redirectName = "drover-proof"

// redirect sends frames by a dummy interface whose only rule is to make another interface receive them
// (tc-mirred(8), "ingress redirect").
type redirect struct{}

func (redirect) String() string { return "redirection" }

func (redirect) close() {}

func (redirect) open(ifi Interface) (injector, error) {
	removeRedirect() // a predecessor may have been killed
	dummy := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: redirectName}}
	if err := netlink.LinkAdd(dummy); err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) {
			err = fmt.Errorf("%w (needs the module dummy)", err)
		}
		return nil, fmt.Errorf("failed to add the interface %s: %w", redirectName, err)
	}
	inj := &redirectInjector{}
	ok := false
	defer func() {
		if !ok {
			inj.close()
		}
	}()
	// It must not say anything of its own: that would seem to have been received on ifi.
	if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+redirectName+"/disable_ipv6", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("failed to switch IPv6 off on %s: %w", redirectName, err)
	}
	link, err := netlink.LinkByName(redirectName)
	if err != nil {
		return nil, fmt.Errorf("failed to find the interface %s: %w", redirectName, err)
	}
	index := link.Attrs().Index
	if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}); err != nil {
		return nil, fmt.Errorf("failed to add a clsact queueing discipline (needs the module sch_ingress): %w", err)
	}
	rule := &netlink.MatchAll{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions: []netlink.Action{&netlink.MirredAction{
			ActionAttrs:  netlink.ActionAttrs{Action: netlink.TC_ACT_STOLEN},
			MirredAction: netlink.TCA_INGRESS_REDIR,
			Ifindex:      ifi.Index,
		}},
	}
	if err := netlink.FilterAdd(rule); err != nil {
		return nil, fmt.Errorf("failed to add the redirection (needs the modules cls_matchall and act_mirred): %w", err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("failed to set %s up: %w", redirectName, err)
	}
	if inj.conn, err = packet.Listen(&net.Interface{Index: index}, packet.Raw, 0, nil); err != nil {
		return nil, fmt.Errorf("failed to open a packet socket on %s: %w", redirectName, err)
	}
	ok = true
	return inj, nil
}

func removeRedirect() {
	if l, err := netlink.LinkByName(redirectName); err == nil && l.Type() == "dummy" {
		_ = netlink.LinkDel(l)
	}
}

type redirectInjector struct{ conn *packet.Conn }

func (r *redirectInjector) inject(frame []byte) error {
	if err := r.conn.SetWriteDeadline(time.Now().Add(controlWait)); err != nil {
		return err
	}
	if _, err := r.conn.WriteTo(frame, &packet.Addr{HardwareAddr: frame[:6]}); err != nil {
		return fmt.Errorf("failed to send by %s: %w", redirectName, err)
	}
	return nil
}

func (r *redirectInjector) close() {
	if r.conn != nil {
		r.conn.Close()
	}
	removeRedirect()
}
