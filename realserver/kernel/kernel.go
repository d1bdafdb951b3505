package kernel

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/arp/frame"
	"github.com/drover-lb/drover/internal/dump"
	"github.com/drover-lb/drover/realserver/proof"
)

// callTimeout bounds each exchange with the kernel.
const callTimeout = 5 * time.Second

// Address is an address of an interface.
type Address struct {
	Prefix netip.Prefix
	Device string
	Index  int
}

// Snapshot is the network configuration at one moment.
type Snapshot struct {
	// Links are the names of all interfaces.
	Links map[string]Link
	// Addresses are those of all interfaces.
	Addresses []Address
}

// Link is an interface.
type Link struct {
	Index int
	Type  string // as the kernel calls it: dummy, veth, bridge, ...; device for hardware
	MAC   frame.MAC
	// Answers says that hosts on the link can ask the kernel's IP for addresses here: it speaks Ethernet
	// and ARP, and is not a port of a bridge or bond.
	Answers bool
	Running bool // up and with carrier
	Own     []netip.Addr
}

// Proof returns the link as package proof takes it.
func (l Link) Proof(name string) proof.Interface {
	return proof.Interface{Index: l.Index, Name: name, MAC: l.MAC, Own: l.Own}
}

// Kernel is the network namespace in which it was opened. Its methods may be called from any goroutine.
type Kernel struct {
	h       *netlink.Handle
	changed chan struct{}
}

// Open opens the network namespace of the calling thread.
func Open() (*Kernel, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("failed to open a netlink socket: %w", err)
	}
	if err := h.SetSocketTimeout(callTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("failed to bound netlink calls: %w", err)
	}
	return &Kernel{h: h, changed: make(chan struct{}, 1)}, nil
}

// Close frees the sockets.
func (k *Kernel) Close() { k.h.Close() }

// Snapshot reads the network configuration.
func (k *Kernel) Snapshot() (*Snapshot, error) {
	links, err := dump.All(k.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("failed to list the interfaces: %w", err)
	}
	addrs, err := dump.All(func() ([]netlink.Addr, error) { return k.h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("failed to list the addresses: %w", err)
	}
	s := &Snapshot{Links: make(map[string]Link, len(links))}
	names := make(map[int]string, len(links))
	types := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
		types[l.Attrs().Index] = l.Type()
	}
	own := make(map[int][]netip.Addr)
	for _, a := range addrs {
		p, ok := prefixOf(a.IPNet)
		if !ok {
			continue
		}
		s.Addresses = append(s.Addresses, Address{Prefix: p, Device: names[a.LinkIndex], Index: a.LinkIndex})
		// The control of a proof has to be answered for: not so a tentative address, nor, under
		// arp_ignore 3, one of less than link scope.
		if a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_OPTIMISTIC|unix.IFA_F_DADFAILED) == 0 && a.Scope <= int(netlink.SCOPE_LINK) {
			own[a.LinkIndex] = append(own[a.LinkIndex], p.Addr())
		}
	}
	for _, l := range links {
		s.Links[l.Attrs().Name] = linkOf(l, types[l.Attrs().MasterIndex], own[l.Attrs().Index])
	}
	return s, nil
}

func linkOf(l netlink.Link, masterType string, own []netip.Addr) Link {
	a := l.Attrs()
	mac, ethernet := frame.Ethernet(&net.Interface{HardwareAddr: a.HardwareAddr, Flags: a.Flags})
	return Link{
		Index: a.Index, Type: l.Type(), MAC: mac, Own: own,
		// A member of a VRF has a master too, but the kernel's IP sees what it receives.
		Answers: ethernet && a.RawFlags&unix.IFF_NOARP == 0 && (a.MasterIndex == 0 || masterType == "vrf"),
		Running: a.RawFlags&(unix.IFF_UP|unix.IFF_RUNNING) == unix.IFF_UP|unix.IFF_RUNNING,
	}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}

// AddAddress puts a VIP on a device: as /32 or /128, without a route, and so that the kernel does not take
// it as the source of connections of its own. For IPv4 that is scope host; for IPv6, which has no such
// thing, the address is deprecated from the start (RFC 6724 rule 3), and there is no duplicate address
// detection: the director has it too. That it is there already is no error.
func (k *Kernel) AddAddress(device string, a netip.Addr) error {
	l, err := k.h.LinkByName(device)
	if err != nil {
		return fmt.Errorf("failed to find interface %q: %w", device, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen())), Flags: unix.IFA_F_NOPREFIXROUTE}
	if a.Is4() {
		addr.Scope = int(netlink.SCOPE_HOST)
	} else {
		addr.Flags |= unix.IFA_F_NODAD
		addr.ValidLft, addr.PreferedLft = math.MaxUint32, 0
	}
	if err := k.h.AddrAdd(l, addr); err != nil && !errors.Is(err, unix.EEXIST) {
		hint := ""
		switch {
		case errors.Is(err, unix.EPERM):
			hint = " (needs root or CAP_NET_ADMIN)"
		case a.Is6() && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EOPNOTSUPP)):
			hint = fmt.Sprintf(" (IPv6 is switched off: see net.ipv6.conf.%s.disable_ipv6, or the module ipv6)", device)
		}
		return fmt.Errorf("failed to add %s to %s: %w%s", a, device, err, hint)
	}
	return nil
}

// RemoveAddress takes an address off a device. That it, or the device, is not there is no error.
func (k *Kernel) RemoveAddress(device string, p netip.Prefix) error {
	l, err := k.h.LinkByName(device)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("failed to find interface %q: %w", device, err)
	}
	if err := k.h.AddrDel(l, &netlink.Addr{IPNet: ipNet(p)}); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("failed to remove %s from %s: %w", p, device, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// AddDummy makes a dummy interface and sets it up. It has no addresses but those that are put there.
func (k *Kernel) AddDummy(name string) error {
	if err := k.h.LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: name}}); err != nil {
		hint := ""
		switch {
		case errors.Is(err, unix.EPERM):
			hint = " (needs root or CAP_NET_ADMIN)"
		case errors.Is(err, unix.EOPNOTSUPP):
			hint = " (the kernel lacks the module dummy; \"device: lo\" needs none)"
		}
		return fmt.Errorf("failed to add the interface %q: %w%s", name, err, hint)
	}
	l, err := k.h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("failed to find interface %q: %w", name, err)
	}
	// No link-local address, which would be announced by multicast. A kernel without IPv6 refuses, rightly.
	_ = k.h.LinkSetIP6AddrGenMode(l, addrGenModeNone)
	if err := k.h.LinkSetUp(l); err != nil {
		return fmt.Errorf("failed to set %q up: %w", name, err)
	}
	return nil
}

const addrGenModeNone = 1 // IN6_ADDR_GEN_MODE_NONE, include/uapi/linux/if_link.h

// RemoveDummy removes a dummy interface. That there is none is no error.
func (k *Kernel) RemoveDummy(name string) error {
	l, err := k.h.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("failed to find interface %q: %w", name, err)
	}
	if l.Type() != "dummy" {
		return fmt.Errorf("interface %q is left alone: it is of type %s now, not dummy", name, l.Type())
	}
	if err := k.h.LinkDel(l); err != nil {
		return fmt.Errorf("failed to remove the interface %q: %w", name, err)
	}
	return nil
}

// ARPIgnore returns the value of arp_ignore that counts for ARP requests received on a link: the larger
// of net.ipv4.conf.all's and its own (include/linux/inetdevice.h, IN_DEV_ARP_IGNORE).
func (k *Kernel) ARPIgnore(link string) (int, error) {
	value := 0
	for _, name := range []string{"all", link} {
		b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", name, "arp_ignore"))
		if err != nil {
			return 0, err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(b)))
		if err != nil {
			return 0, fmt.Errorf("net.ipv4.conf.%s.arp_ignore: %w", name, err)
		}
		value = max(value, n)
	}
	return value, nil
}
