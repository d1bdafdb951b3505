package topology

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/internal/dump"
)

// Network is one layer-2 network: a bridge.
type Network struct {
	Name    string // 1..11 characters
	Subnets []netip.Prefix
}

// Interface is a host's cable into a network. Interfaces are called eth0, eth1, ... in order.
type Interface struct {
	Network   string
	Addresses []netip.Prefix // address with the subnet's length
}

// Sysctl is a kernel setting of a host, in dotted form.
type Sysctl struct{ Key, Value string }

// Host is the description of one machine.
type Host struct {
	Name       string // 1..11 characters; also its host name
	Interfaces []Interface
	Gateways   []netip.Addr // default routes
	Sysctls    []Sysctl
}

// Impairment disturbs packets; the zero value disturbs nothing (tc-netem(8)).
type Impairment struct {
	Loss, Duplicate float64 // percent
	Delay, Jitter   time.Duration
}

// World is a set of running hosts.
type World struct {
	sw        *Machine
	machines  map[string]*Machine
	order     []*Machine
	networks  []Network
	names     map[string][]netip.Addr // addresses of the hosts, for /etc/hosts
	separated map[[2]string]bool      // pairs from, to
	watch     *watch                  // nil until WatchAddresses
}

// Machine is a running host.
type Machine struct {
	Name  string
	Dir   string // the host's own folder, on the file system of the lab
	MACs  []net.HardwareAddr
	Host  Host
	index int
	links sync.Map // int -> string: the interfaces at the ends of its cables

	mu  sync.RWMutex // guards everything below; held for reading during each call
	do  chan call    // nil while the host is switched off
	tid int
}

// ErrOff says that the host is switched off.
var ErrOff = errors.New("the host is switched off")

type call struct {
	fn   func() error
	done chan error
}

// opTimeout bounds each netlink operation of the lab.
const opTimeout = 10 * time.Second

// New builds the networks and hosts below dir, a folder that exists. The caller closes the World.
func New(networks []Network, hosts []Host, dir string) (*World, error) {
	w := &World{machines: map[string]*Machine{}, networks: networks, names: map[string][]netip.Addr{}, separated: map[[2]string]bool{}}
	var err error
	if w.sw, err = newMachine(Host{Name: "switch"}, 0, dir, nil); err != nil {
		return nil, fmt.Errorf("failed to make the switch: %w", err)
	}
	ok := false
	defer func() {
		if !ok {
			w.Close()
		}
	}()
	if err := w.sw.Do(func() error { return makeBridges(networks) }); err != nil {
		return nil, err
	}
	for _, h := range hosts {
		for _, i := range h.Interfaces {
			for _, a := range i.Addresses {
				w.names[h.Name] = append(w.names[h.Name], a.Addr())
			}
		}
	}
	for i, h := range hosts {
		m, err := newMachine(h, i+1, dir, w.names)
		if err != nil {
			return nil, fmt.Errorf("failed to make host %q: %w", h.Name, err)
		}
		w.machines[h.Name] = m
		w.order = append(w.order, m)
		for _, ifc := range h.Interfaces {
			netIndex := slices.IndexFunc(networks, func(n Network) bool { return n.Name == ifc.Network })
			m.MACs = append(m.MACs, net.HardwareAddr{0x02, 0x00, byte(netIndex), 0x00, byte(m.index >> 8), byte(m.index)})
		}
		if err := w.connect(m); err != nil {
			return nil, err
		}
	}
	ok = true
	return w, nil
}

// connect plugs in all cables of a host and configures it.
func (w *World) connect(m *Machine) error {
	for n, ifc := range m.Host.Interfaces {
		if err := w.plug(m, n, ifc); err != nil {
			return fmt.Errorf("failed to plug %s/eth%d into %s: %w", m.Name, n, ifc.Network, err)
		}
	}
	if err := m.Do(m.configure); err != nil {
		return fmt.Errorf("failed to configure host %q: %w", m.Name, err)
	}
	return nil
}

// PowerOff takes a host away as a power failure does: its cables first, then everything that its kernel
// held. What runs on it is to be killed by the caller right after, because a process keeps its namespaces.
func (w *World) PowerOff(host string) error {
	ports, err := w.ports(host, "")
	if err != nil {
		return err
	}
	m := w.machines[host]
	if !m.On() {
		return ErrOff
	}
	err = w.sw.Do(func() error {
		for _, p := range ports {
			l, err := netlink.LinkByName(p)
			if err != nil {
				return fmt.Errorf("failed to find the switch port %q: %w", p, err)
			}
			if err := netlink.LinkDel(l); err != nil {
				return fmt.Errorf("failed to remove the switch port %q: %w", p, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if w.watch != nil {
		w.watch.forget(host)
	}
	m.shut()
	return nil
}

// PowerOn boots a host that was switched off: a new kernel state with the addresses, routes and settings
// of its description and nothing else. Its folder is its disk and is kept. Its cables are whole and
// undisturbed; hosts that were kept apart still are.
func (w *World) PowerOn(host string) error {
	m := w.machines[host]
	if m == nil {
		return fmt.Errorf("no host %q", host)
	}
	if m.On() {
		return errors.New("the host is switched on already")
	}
	if err := m.boot(w.names); err != nil {
		return fmt.Errorf("failed to boot host %q: %w", host, err)
	}
	if w.watch != nil {
		if err := w.watch.add(m); err != nil {
			return err
		}
	}
	if err := w.connect(m); err != nil {
		return err
	}
	for pair := range w.separated {
		if pair[1] != host {
			continue
		}
		if err := w.Separate(pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

// Machine returns the host called name, or nil.
func (w *World) Machine(name string) *Machine { return w.machines[name] }

// Machines returns the hosts in the order of their description.
func (w *World) Machines() []*Machine { return w.order }

// Owner returns the host that has a hardware address, or "".
func (w *World) Owner(mac net.HardwareAddr) string {
	for _, m := range w.order {
		for _, a := range m.MACs {
			if a.String() == mac.String() {
				return m.Name
			}
		}
	}
	return ""
}

// Close ends the hosts. Processes that were started on them must have ended.
func (w *World) Close() {
	if w.watch != nil {
		w.watch.close()
	}
	for _, m := range append(w.order, w.sw) {
		if m != nil {
			m.shut()
		}
	}
}

func newMachine(h Host, index int, dir string, names map[string][]netip.Addr) (*Machine, error) {
	m := &Machine{Name: h.Name, Host: h, index: index, Dir: filepath.Join(dir, h.Name)}
	if err := os.MkdirAll(m.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := m.boot(names); err != nil {
		return nil, err
	}
	return m, nil
}

// boot starts the thread that is the host.
func (m *Machine) boot(names map[string][]netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	do, ready := make(chan call), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and with it the namespaces
		err := m.enter(names)
		ready <- err
		if err != nil {
			return
		}
		for c := range do {
			c.done <- c.fn()
		}
	}()
	if err := <-ready; err != nil {
		return err
	}
	m.do = do
	return nil
}

// shut ends the thread that is the host.
func (m *Machine) shut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.do != nil {
		close(m.do)
		m.do = nil
	}
}

// On reports whether the host is switched on.
func (m *Machine) On() bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.do != nil
}

// enter gives the calling thread namespaces of its own and a /run, /sys and /etc/hosts that fit them.
func (m *Machine) enter(names map[string][]netip.Addr) error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("failed to make namespaces: %w: needs root (CAP_SYS_ADMIN)", err)
		}
		return fmt.Errorf("failed to make namespaces: %w", err)
	}
	m.tid = unix.Gettid()
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("failed to make the mounts private: %w", err)
	}
	if err := unix.Sethostname([]byte(m.Name)); err != nil {
		return err
	}
	// The folder of the lab may itself be below /run: keep a way to it.
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("failed to mount /sys: %w", err)
	}
	hosts := filepath.Join(m.Dir, ".hosts")
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n::1 localhost\n")
	for name, addrs := range names {
		for _, a := range addrs {
			fmt.Fprintf(&b, "%s %s\n", a, name)
		}
	}
	if err := os.WriteFile(hosts, []byte(b.String()), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("failed to mount /etc/hosts: %w", err)
	}
	run := filepath.Join(m.Dir, ".run")
	if err := os.MkdirAll(run, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", run, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("failed to mount /run: %w", err)
	}
	// Programs of the lab itself stay reachable below /run.
	const own = "/run/drover-lab"
	if _, err := os.Stat(own); err == nil {
		if err := os.MkdirAll(run+"/drover-lab", 0o755); err != nil {
			return err
		}
		if err := unix.Mount(own, run+"/drover-lab", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("failed to mount %s: %w", own, err)
		}
	}
	if err := os.MkdirAll(run+"/lock", 0o755); err != nil {
		return err
	}
	if err := unix.Mount(run, "/run", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("failed to mount /run: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("failed to find lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// Do runs fn on the host's thread, one call at a time. Sockets that fn opens and processes that it
// starts belong to the host. fn must not block for long.
func (m *Machine) Do(fn func() error) error {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.do == nil {
		return fmt.Errorf("%s: %w", m.Name, ErrOff)
	}
	c := call{fn: fn, done: make(chan error, 1)}
	m.do <- c
	return <-c.done
}

// Start starts cmd on the host. Its working folder is the host's unless set.
func (m *Machine) Start(cmd *exec.Cmd) error {
	if cmd.Dir == "" {
		cmd.Dir = m.Dir
	}
	return m.Do(cmd.Start)
}

// Namespaces returns the files by which setns(2) reaches the host: network, mounts, host name.
func (m *Machine) Namespaces() map[string]string {
	out := map[string]string{}
	for _, n := range []string{"net", "mnt", "uts", "ipc"} {
		out[n] = fmt.Sprintf("/proc/%d/task/%d/ns/%s", os.Getpid(), m.tid, n)
	}
	return out
}

func makeBridges(networks []Network) error {
	for _, n := range networks {
		off := false
		br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName(n.Name)}, MulticastSnooping: &off}
		if err := netlink.LinkAdd(br); err != nil {
			return fmt.Errorf("failed to make the bridge of network %q: %w", n.Name, err)
		}
		// A switch has no addresses: it must not take part in the network's neighbour discovery.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+br.Name+"/disable_ipv6", []byte("1"), 0)
		if err := netlink.LinkSetUp(br); err != nil {
			return err
		}
	}
	return nil
}

func bridgeName(network string) string { return "br-" + network }

func portName(host string, n int) string { return fmt.Sprintf("%s-%d", host, n) }

// plug makes the cable of interface n: the switch's end first, then the host's end moves over.
func (w *World) plug(m *Machine, n int, ifc Interface) error {
	port := portName(m.Name, n)
	err := w.sw.Do(func() error {
		br, err := netlink.LinkByName(bridgeName(ifc.Network))
		if err != nil {
			return fmt.Errorf("failed to find network %q: %w", ifc.Network, err)
		}
		hostNS, err := netns.GetFromPath(m.Namespaces()["net"])
		if err != nil {
			return err
		}
		defer hostNS.Close()
		veth := &netlink.Veth{
			LinkAttrs:        netlink.LinkAttrs{Name: port},
			PeerName:         fmt.Sprintf("eth%d", n),
			PeerHardwareAddr: m.MACs[n],
			PeerNamespace:    netlink.NsFd(hostNS),
		}
		if err := netlink.LinkAdd(veth); err != nil {
			return err
		}
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+port+"/disable_ipv6", []byte("1"), 0)
		if err := netlink.LinkSetMaster(veth, br); err != nil {
			return err
		}
		return netlink.LinkSetUp(veth)
	})
	return err
}

// configure runs on the host: addresses, routes, sysctls.
func (m *Machine) configure() error {
	// Addresses are usable at once: no duplicate address detection, no router advertisements.
	for _, k := range []string{"net.ipv6.conf.default.accept_dad", "net.ipv6.conf.all.accept_dad", "net.ipv6.conf.default.accept_ra"} {
		_ = writeSysctl(k, "0")
	}
	for n, ifc := range m.Host.Interfaces {
		name := fmt.Sprintf("eth%d", n)
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		m.links.Store(link.Attrs().Index, name)
		_ = writeSysctl("net.ipv6.conf."+name+".accept_dad", "0")
		_ = writeSysctl("net.ipv6.conf."+name+".accept_ra", "0")
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		for _, p := range ifc.Addresses {
			a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
			if p.Addr().Is6() {
				a.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(link, a); err != nil {
				return fmt.Errorf("failed to add %s to %s: %w", p, name, err)
			}
		}
	}
	for _, s := range m.Host.Sysctls {
		if err := writeSysctl(s.Key, s.Value); err != nil {
			return err
		}
	}
	for _, g := range m.Host.Gateways {
		if err := netlink.RouteAdd(&netlink.Route{Gw: g.AsSlice()}); err != nil {
			return fmt.Errorf("failed to add the default route by %s: %w", g, err)
		}
	}
	return nil
}

func writeSysctl(key, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("failed to set %s to %q: %w", key, value, err)
	}
	return nil
}

// ports returns the switch ports of a host, all of them when ifname is empty.
func (w *World) ports(host, ifname string) ([]string, error) {
	m := w.machines[host]
	if m == nil {
		return nil, fmt.Errorf("no host %q", host)
	}
	var out []string
	for n := range m.Host.Interfaces {
		if ifname == "" || ifname == fmt.Sprintf("eth%d", n) {
			out = append(out, portName(host, n))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("host %q has no interface %q", host, ifname)
	}
	return out, nil
}

// each calls fn in the switch for every port of a host.
func (w *World) each(host, ifname string, fn func(netlink.Link) error) error {
	ports, err := w.ports(host, ifname)
	if err != nil {
		return err
	}
	return w.sw.Do(func() error {
		for _, p := range ports {
			l, err := netlink.LinkByName(p)
			if err != nil {
				return fmt.Errorf("failed to find the switch port %q: %w", p, err)
			}
			if err := fn(l); err != nil {
				return fmt.Errorf("failed at the switch port %q: %w", p, err)
			}
		}
		return nil
	})
}

// Cut takes the carrier from a host's cable, ifname empty: from all of them.
func (w *World) Cut(host, ifname string) error {
	return w.each(host, ifname, func(l netlink.Link) error { return netlink.LinkSetDown(l) })
}

// Restore gives the carrier back.
func (w *World) Restore(host, ifname string) error {
	return w.each(host, ifname, func(l netlink.Link) error { return netlink.LinkSetUp(l) })
}

// Impair disturbs the packets that leave the host and those that come to it, both by im.
func (w *World) Impair(host, ifname string, im Impairment) error {
	ports, err := w.ports(host, ifname)
	if err != nil {
		return err
	}
	set := func(l netlink.Link) error { return setNetem(l, im) }
	if err := w.each(host, ifname, set); err != nil {
		return err
	}
	m := w.machines[host]
	return m.Do(func() error {
		for n := range m.Host.Interfaces {
			name := fmt.Sprintf("eth%d", n)
			if ifname != "" && ifname != name || len(ports) == 0 {
				continue
			}
			l, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			if err := set(l); err != nil {
				return err
			}
		}
		return nil
	})
}

func setNetem(l netlink.Link, im Impairment) error {
	q := netlink.NewNetem(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		netlink.NetemQdiscAttrs{Loss: float32(im.Loss), Duplicate: float32(im.Duplicate), Limit: 10000,
			Latency: uint32(im.Delay.Microseconds()), Jitter: uint32(im.Jitter.Microseconds())})
	if im == (Impairment{}) {
		if err := netlink.QdiscDel(q); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			return err
		}
		return nil
	}
	return netlink.QdiscReplace(q)
}

// filterHandle tells the filters of pairs apart: the index of the far host.
func filterHandle(from *Machine) uint16 { return uint16(from.index) }

// Separate drops every frame from one host to another, broadcasts included.
func (w *World) Separate(from, to string) error {
	src := w.machines[from]
	if src == nil {
		return fmt.Errorf("no host %q", from)
	}
	w.separated[[2]string{from, to}] = true
	return w.each(to, "", func(l netlink.Link) error {
		cls := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
		if err := netlink.QdiscAdd(cls); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		for i, mac := range src.MACs {
			f := pairFilter(l, src, i)
			f.SrcMac = mac
			f.Actions = []netlink.Action{&netlink.GenericAction{ActionAttrs: netlink.ActionAttrs{Action: netlink.TC_ACT_SHOT}}}
			if err := netlink.FilterReplace(f); err != nil {
				return err
			}
		}
		return nil
	})
}

func pairFilter(l netlink.Link, from *Machine, i int) *netlink.Flower {
	return &netlink.Flower{FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_EGRESS,
		Priority: filterHandle(from)*8 + uint16(i), Protocol: unix.ETH_P_ALL, Handle: 1}}
}

// Join undoes Separate.
func (w *World) Join(from, to string) error {
	src := w.machines[from]
	if src == nil {
		return fmt.Errorf("no host %q", from)
	}
	delete(w.separated, [2]string{from, to})
	return w.each(to, "", func(l netlink.Link) error {
		for i := range src.MACs {
			if err := netlink.FilterDel(pairFilter(l, src, i)); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
				return err
			}
		}
		return nil
	})
}

// Addresses lists the addresses that a host has on its interfaces now, loopback included.
func (m *Machine) Addresses(ctx context.Context) (map[string][]netip.Prefix, error) {
	out := map[string][]netip.Prefix{}
	err := m.Do(func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		if err := h.SetSocketTimeout(opTimeout); err != nil {
			return err
		}
		links, err := dump.All(h.LinkList)
		if err != nil {
			return err
		}
		for _, l := range links {
			addrs, err := dump.All(func() ([]netlink.Addr, error) { return h.AddrList(l, netlink.FAMILY_ALL) })
			if err != nil {
				return err
			}
			for _, a := range addrs {
				ip, _ := netip.AddrFromSlice(a.IP)
				bits, _ := a.Mask.Size()
				out[l.Attrs().Name] = append(out[l.Attrs().Name], netip.PrefixFrom(ip.Unmap(), bits))
			}
		}
		return nil
	})
	return out, err
}
