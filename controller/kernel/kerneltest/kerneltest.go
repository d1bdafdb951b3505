// Package kerneltest is a kernel made of values, for tests of the reconcile loop. It refuses what the
// real one refuses (net/netfilter/ipvs/ip_vs_ctl.c, net/ipv4/devinet.c, net/ipv6/addrconf.c of Linux
// 6.1), lets addresses expire, and prints itself as ipvsadm and ip do. The kernel tests of package
// controller run the same scenarios on this one and on the real one.
package kerneltest

import (
	"context"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/ipvs"
)

// Kernel is the fake. Make one with [New]. Its exported fields may be set before it is used.
type Kernel struct {
	// Schedulers and Engines are those that the kernel has.
	Schedulers []string
	Engines    []string

	mu       sync.Mutex // guards everything below
	services []plan.Service
	counts   map[target]ipvs.Counts
	links    []kernel.Link
	addrs    []*address
	changes  kernel.Changes
	wake     chan struct{}
	writes   uint64
	lists    int
	journal  []string

	listErr  error
	applyErr func(ipvs.Command) error
	setErr   error
	delErr   error
	block    chan struct{} // Services and Apply wait until it is closed

	daemons    []ipvs.Daemon
	daemonErr  error
	backupOnly bool

	backupOnlyErr error
}

type address struct {
	kernel.Address
	expires time.Time
	timer   *time.Timer
}

// New returns a kernel with all schedulers of Linux, an empty table, and the named interfaces, up.
func New(links ...string) *Kernel {
	k := &Kernel{
		Schedulers: []string{"none", "rr", "wrr", "lc", "wlc", "fo", "ovf", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq"},
		Engines:    []string{"sip"},
		wake:       make(chan struct{}, 1),
	}
	for i, name := range links {
		k.links = append(k.links, kernel.Link{Index: i + 2, Name: name, Up: true, Carrier: true})
	}
	return k
}

// Journal returns what the loop has changed since the last call, one change a line.
func (k *Kernel) Journal() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	j := k.journal
	k.journal = nil
	return j
}

// Note adds a line to the journal: for fakes of what is not the kernel.
func (k *Kernel) Note(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.journal = append(k.journal, fmt.Sprintf(format, args...))
}

// FailList makes Services fail with err; nil ends it.
func (k *Kernel) FailList(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listErr = err
}

// FailApply asks f about every command; nil ends it. A unix.Errno becomes what the real client makes of
// one; with any other error the command and those after it are not carried out.
func (k *Kernel) FailApply(f func(ipvs.Command) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.applyErr = f
}

// FailAddress makes setting and deleting addresses fail; nil ends it.
func (k *Kernel) FailAddress(set, del error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.setErr, k.delErr = set, del
}

// Block makes Services and Apply hang until the returned function is called.
func (k *Kernel) Block() (release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ch := make(chan struct{})
	k.block = ch
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.block == ch {
			k.block = nil
		}
		close(ch)
	}
}

func (k *Kernel) wait(ctx context.Context) error {
	k.mu.Lock()
	ch := k.block
	k.mu.Unlock()
	if ch == nil {
		return nil
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Lists counts the calls of Services.
func (k *Kernel) Lists() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lists
}

// Table prints the table as ipvsadm -Sn does, sorted.
func (k *Kernel) Table() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for i := range k.services {
		s := &k.services[i]
		fmt.Fprintln(&b, plan.Op{Kind: plan.AddService, Service: s.Service})
		for j := range s.Servers {
			fmt.Fprintln(&b, plan.Op{Kind: plan.AddServer, Service: s.Service, Server: s.Servers[j]})
		}
	}
	return b.String()
}

// IP prints the addresses, sorted: "eth0 192.0.2.10/32 4s".
func (k *Kernel) IP() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lines []string
	for _, a := range k.addrs {
		life := "forever"
		if a.Lifetime != kernel.Forever {
			life = a.Lifetime.String()
		}
		lines = append(lines, fmt.Sprintf("%s %s %s", k.nameOf(a.Index), a.Prefix, life))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (k *Kernel) nameOf(index int) string {
	for _, l := range k.links {
		if l.Index == index {
			return l.Name
		}
	}
	return fmt.Sprintf("if%d", index)
}

// Hand carries out commands of somebody else: they are neither counted nor in the journal.
func (k *Kernel) Hand(commands ...ipvs.Command) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range commands {
		if err := k.do(c); err != nil {
			panic(fmt.Sprintf("kerneltest: %s: %v", c, err))
		}
	}
}

// Services implements controller.Table.
func (k *Kernel) Services(ctx context.Context) ([]ipvs.ServiceEntry, error) {
	if err := k.wait(ctx); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lists++
	if k.listErr != nil {
		return nil, k.listErr
	}
	out := make([]ipvs.ServiceEntry, len(k.services))
	for i := range k.services {
		s := &k.services[i]
		out[i].Service = s.Service
		out[i].Flags |= ipvs.Hashed
		for _, d := range s.Servers {
			out[i].Destinations = append(out[i].Destinations, ipvs.DestinationEntry{Destination: d, Counts: k.counts[target{s.Key, d.DestKey}]})
		}
	}
	return out, nil
}

// target is a real server of a service.
type target struct {
	service ipvs.Key
	server  ipvs.DestKey
}

// SetCounts sets what the table says of the connections of a real server, whenever it is there.
func (k *Kernel) SetCounts(service ipvs.Key, server ipvs.DestKey, c ipvs.Counts) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.counts == nil {
		k.counts = make(map[target]ipvs.Counts)
	}
	k.counts[target{service, server}] = c
}

// Fingerprint implements controller.Table. It is blind to what the real one does not see.
func (k *Kernel) Fingerprint(ctx context.Context) (uint64, error) {
	if err := k.wait(ctx); err != nil {
		return 0, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.listErr != nil {
		return 0, k.listErr
	}
	h := fnv.New64a()
	for i := range k.services {
		s := &k.services[i]
		fmt.Fprintln(h, s.Key, s.Scheduler, s.Flags&(ipvs.Persistent|ipvs.OnePacket), s.Timeout, s.Netmask)
		for j := range s.Servers {
			fmt.Fprintln(h, s.Servers[j].DestKey, s.Servers[j].Forward, s.Servers[j].Weight)
		}
	}
	return h.Sum64(), nil
}

// Apply implements controller.Table.
func (k *Kernel) Apply(ctx context.Context, commands []ipvs.Command) []error {
	errs := make([]error, len(commands))
	if err := k.wait(ctx); err != nil {
		for i := range errs {
			errs[i] = &ipvs.CommandError{Command: commands[i], Err: err}
		}
		return errs
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	failed := false
	for i, c := range commands {
		var err error
		if k.applyErr != nil {
			err = k.applyErr(c)
		}
		if _, errno := err.(unix.Errno); err != nil && !errno {
			for ; i < len(commands); i++ {
				errs[i] = &ipvs.CommandError{Command: commands[i], Err: err}
				err = ipvs.ErrNotSent
			}
			return errs
		}
		k.writes++
		if err == nil {
			err = k.do(c)
		}
		if err != nil {
			errs[i] = &ipvs.CommandError{Command: c, Err: err}
			failed = true
			continue
		}
		k.journal = append(k.journal, "ipvsadm "+opOf(c).String())
	}
	if !failed {
		return nil
	}
	return errs
}

// opOf is the op of a command, for its words.
func opOf(c ipvs.Command) plan.Op {
	kinds := map[ipvs.Op]plan.Kind{
		ipvs.OpNewService: plan.AddService, ipvs.OpSetService: plan.EditService, ipvs.OpDelService: plan.DeleteService,
		ipvs.OpNewDest: plan.AddServer, ipvs.OpSetDest: plan.EditServer, ipvs.OpDelDest: plan.DeleteServer,
	}
	return plan.Op{Kind: kinds[c.Op], Service: c.Service, Server: c.Dest}
}

// do carries out one command (ip_vs_genl_set_cmd).
func (k *Kernel) do(c ipvs.Command) error {
	at, found := slices.BinarySearchFunc(k.services, c.Service.Key, func(s plan.Service, key ipvs.Key) int { return s.Key.Compare(key) })
	if c.Op == ipvs.OpFlush {
		k.services = nil
		return nil
	}
	switch c.Op {
	case ipvs.OpNewService:
		if found {
			return unix.EEXIST
		}
		if err := k.checkService(&c.Service); err != nil {
			return err
		}
		k.services = slices.Insert(k.services, at, plan.Service{Service: c.Service})
		return nil
	default:
		if !found {
			return unix.ESRCH
		}
	}
	s := &k.services[at]
	switch c.Op {
	case ipvs.OpSetService:
		if err := k.checkService(&c.Service); err != nil {
			return err
		}
		s.Service = c.Service
		return nil
	case ipvs.OpDelService:
		k.services = slices.Delete(k.services, at, at+1)
		return nil
	}
	i, there := slices.BinarySearchFunc(s.Servers, c.Dest.DestKey, func(d ipvs.Destination, key ipvs.DestKey) int { return d.DestKey.Compare(key) })
	switch c.Op {
	case ipvs.OpNewDest, ipvs.OpSetDest:
		d := c.Dest
		switch {
		case ipvs.FamilyOf(d.Addr) != s.Family && d.Forward != ipvs.Tunnel, d.Addr.IsMulticast(),
			d.Addr.Is6() && d.Addr.IsLinkLocalUnicast():
			return unix.EINVAL
		case int32(d.Weight) < 0 || d.Lower > d.Upper:
			return unix.ERANGE
		case c.Op == ipvs.OpNewDest && there:
			return unix.EEXIST
		case c.Op == ipvs.OpSetDest && !there:
			return unix.ENOENT
		}
		if there {
			s.Servers[i] = d
		} else {
			s.Servers = slices.Insert(s.Servers, i, d)
		}
	case ipvs.OpDelDest:
		if !there {
			return unix.ENOENT
		}
		s.Servers = slices.Delete(s.Servers, i, i+1)
	default:
		return unix.EOPNOTSUPP
	}
	return nil
}

func (k *Kernel) checkService(s *ipvs.Service) error {
	switch {
	case s.Family != ipvs.IPv4 && s.Family != ipvs.IPv6:
		return unix.EAFNOSUPPORT
	case !slices.Contains(k.Schedulers, s.Scheduler), s.PE != "" && !slices.Contains(k.Engines, s.PE):
		return unix.ENOENT
	case s.Family == ipvs.IPv6 && (s.Netmask < 1 || s.Netmask > 128):
		return unix.EINVAL
	}
	return nil
}

// Writes implements controller.Table.
func (k *Kernel) Writes() uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.writes
}

// LoadScheduler implements controller.Table.
func (k *Kernel) LoadScheduler(_ context.Context, name string) error {
	return k.load("scheduler", name, "ip_vs_"+name, k.Schedulers)
}

// LoadPE implements controller.Table.
func (k *Kernel) LoadPE(_ context.Context, name string) error {
	return k.load("persistence engine", name, "ip_vs_pe_"+name, k.Engines)
}

func (k *Kernel) load(what, name, module string, have []string) error {
	if slices.Contains(have, name) {
		return nil
	}
	return &ipvs.ErrModule{What: what, Name: name, Module: module, Err: fs.ErrNotExist}
}

// FailDaemons makes starting sync daemons fail; nil ends it.
func (k *Kernel) FailDaemons(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.daemonErr = err
}

// Daemons implements controller.Syncer.
func (k *Kernel) Daemons(ctx context.Context) ([]ipvs.Daemon, error) {
	if err := k.wait(ctx); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.daemons), nil
}

// StartDaemon implements controller.Syncer (start_sync_thread in net/netfilter/ipvs/ip_vs_sync.c).
func (k *Kernel) StartDaemon(ctx context.Context, d ipvs.Daemon) error {
	if err := k.wait(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.daemonErr != nil {
		return k.daemonErr
	}
	if k.indexOf(d.Interface) == 0 {
		return fmt.Errorf("failed to start %s sync daemon on %q: %w", d.Role, d.Interface, unix.ENODEV)
	}
	if slices.ContainsFunc(k.daemons, func(h ipvs.Daemon) bool { return h.Role == d.Role }) {
		return fmt.Errorf("failed to start %s sync daemon: %w", d.Role, unix.EEXIST)
	}
	if d.MaxLen == 0 {
		d.MaxLen = 1472
	}
	k.daemons = append(k.daemons, d)
	slices.SortFunc(k.daemons, func(a, b ipvs.Daemon) int { return int(a.Role) - int(b.Role) })
	k.journal = append(k.journal, fmt.Sprintf("ipvsadm --start-daemon %s --mcast-interface %s --syncid %d", d.Role, d.Interface, d.SyncID))
	return nil
}

// StopDaemon implements controller.Syncer.
func (k *Kernel) StopDaemon(ctx context.Context, r ipvs.DaemonRole) error {
	if err := k.wait(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n := len(k.daemons)
	k.daemons = slices.DeleteFunc(k.daemons, func(d ipvs.Daemon) bool { return d.Role == r })
	if len(k.daemons) == n {
		return fmt.Errorf("failed to stop %s sync daemon: %w", r, unix.ESRCH)
	}
	k.journal = append(k.journal, "ipvsadm --stop-daemon "+r.String())
	return nil
}

// HandStopDaemons stops all sync daemons, as somebody else may.
func (k *Kernel) HandStopDaemons() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.daemons = nil
}

// BackupOnly implements controller.Syncer.
func (k *Kernel) BackupOnly() (bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.backupOnly, nil
}

// FailBackupOnly makes setting backup_only fail; nil ends it.
func (k *Kernel) FailBackupOnly(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.backupOnlyErr = err
}

// SetBackupOnly implements controller.Syncer; only changes are in the journal.
func (k *Kernel) SetBackupOnly(on bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.backupOnlyErr != nil {
		return k.backupOnlyErr
	}
	if on != k.backupOnly {
		k.backupOnly = on
		k.journal = append(k.journal, fmt.Sprintf("sysctl backup_only=%t", on))
	}
	return nil
}

// Link implements controller.Addresses.
func (k *Kernel) Link(_ context.Context, name string) (kernel.Link, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.links {
		if l.Name == name {
			return l, nil
		}
	}
	return kernel.Link{}, fmt.Errorf("interface %q: %w", name, fs.ErrNotExist)
}

// SetLink changes the interface of that name, or adds it if there is none; an empty new name removes it,
// with its addresses.
func (k *Kernel) SetLink(name string, l kernel.Link) {
	k.mu.Lock()
	defer k.mu.Unlock()
	defer k.changed(kernel.Changes{Links: true})
	i := slices.IndexFunc(k.links, func(l kernel.Link) bool { return l.Name == name })
	switch {
	case i < 0:
		k.links = append(k.links, l)
		return
	case l.Name == "":
		k.drop(func(a *address) bool { return a.Index == k.links[i].Index })
		k.links = slices.Delete(k.links, i, i+1)
		return
	}
	l.Index = k.links[i].Index
	k.links[i] = l
	if !l.Up { // IPv6 addresses go with the interface, unless keep_addr_on_down
		k.drop(func(a *address) bool { return a.Index == l.Index && a.Prefix.Addr().Is6() })
	}
}

// drop removes addresses, with k.mu held.
func (k *Kernel) drop(which func(*address) bool) (n int) {
	k.addrs = slices.DeleteFunc(k.addrs, func(a *address) bool {
		if !which(a) {
			return false
		}
		n++
		a.timer.Stop()
		k.changed(kernel.Changes{Removed: []kernel.Removal{{Index: a.Index, Addr: a.Prefix.Addr()}}})
		return true
	})
	return n
}

// changed tells the watcher, with k.mu held.
func (k *Kernel) changed(c kernel.Changes) {
	k.changes.Links = k.changes.Links || c.Links
	k.changes.Lost = k.changes.Lost || c.Lost
	k.changes.Removed = append(k.changes.Removed, c.Removed...)
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Overflow loses what the loop has not yet been told.
func (k *Kernel) Overflow() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes = kernel.Changes{}
	k.changed(kernel.Changes{Lost: true})
}

// Changed implements controller.Kernel.
func (k *Kernel) Changed() <-chan struct{} { return k.wake }

// Changes implements controller.Kernel.
func (k *Kernel) Changes() kernel.Changes {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := k.changes
	k.changes = kernel.Changes{}
	return c
}

// Addresses implements controller.Addresses.
func (k *Kernel) Addresses(context.Context) ([]kernel.Address, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]kernel.Address, len(k.addrs))
	for i, a := range k.addrs {
		out[i] = a.Address
		if a.Lifetime != kernel.Forever {
			out[i].Lifetime = max(time.Until(a.expires).Truncate(time.Second), time.Nanosecond)
		}
	}
	return out, nil
}

// SetAddress implements controller.Addresses.
func (k *Kernel) SetAddress(_ context.Context, index int, p netip.Prefix, life time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.setErr != nil {
		return k.setErr
	}
	before := len(k.addrs)
	if err := k.setAddress(index, p, life); err != nil {
		return err
	}
	switch {
	case life == kernel.Forever:
		k.journal = append(k.journal, fmt.Sprintf("ip address replace %s dev %s", p, k.nameOf(index)))
	case len(k.addrs) != before: // renewals are not told
		k.journal = append(k.journal, fmt.Sprintf("ip address add %s dev %s valid_lft %d", p, k.nameOf(index), life/time.Second))
	}
	return nil
}

// Renew implements controller.Addresses.
func (k *Kernel) Renew(ctx context.Context, addresses []kernel.Held, life time.Duration) []error {
	errs := make([]error, len(addresses))
	for i, a := range addresses {
		errs[i] = k.SetAddress(ctx, a.Index, a.Prefix, life)
	}
	return errs
}

// HandSetAddress is SetAddress by somebody else.
func (k *Kernel) HandSetAddress(name string, p netip.Prefix, life time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.setAddress(k.indexOf(name), p, life); err != nil {
		panic(fmt.Sprintf("kerneltest: %s on %s: %v", p, name, err))
	}
}

func (k *Kernel) indexOf(name string) int {
	for _, l := range k.links {
		if l.Name == name {
			return l.Index
		}
	}
	return 0
}

func (k *Kernel) setAddress(index int, p netip.Prefix, life time.Duration) error {
	switch {
	case !slices.ContainsFunc(k.links, func(l kernel.Link) bool { return l.Index == index }):
		return fmt.Errorf("failed to put %s onto interface %d: %w", p, index, unix.ENODEV)
	case life != kernel.Forever && life < kernel.MinLifetime:
		return fmt.Errorf("failed to put %s onto interface %d: %w", p, index, unix.EINVAL)
	}
	var a *address
	for _, x := range k.addrs {
		if x.Index == index && (x.Prefix == p || p.Addr().Is6() && x.Prefix.Addr() == p.Addr()) {
			a = x
		}
	}
	if a == nil {
		a = &address{Address: kernel.Address{Index: index, Prefix: p}}
		a.timer = time.AfterFunc(time.Hour, func() {
			k.mu.Lock()
			defer k.mu.Unlock()
			k.drop(func(x *address) bool { return x == a && !time.Now().Before(a.expires) })
		})
		k.addrs = append(k.addrs, a)
	}
	a.Lifetime = life
	a.timer.Stop()
	if life != kernel.Forever {
		a.expires = time.Now().Add(life)
		a.timer.Reset(life)
	}
	return nil
}

// DeleteAddress implements controller.Addresses.
func (k *Kernel) DeleteAddress(_ context.Context, index int, p netip.Prefix) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.delErr != nil {
		return k.delErr
	}
	if k.drop(func(a *address) bool { return a.Index == index && a.Prefix == p }) == 0 {
		return fmt.Errorf("address %s on interface %d: %w", p, index, fs.ErrNotExist)
	}
	k.journal = append(k.journal, fmt.Sprintf("ip address del %s dev %s", p, k.nameOf(index)))
	return nil
}

// HandDeleteAddress is DeleteAddress by somebody else.
func (k *Kernel) HandDeleteAddress(name string, p netip.Prefix) {
	k.mu.Lock()
	defer k.mu.Unlock()
	index := k.indexOf(name)
	if k.drop(func(a *address) bool { return a.Index == index && a.Prefix == p }) == 0 {
		panic(fmt.Sprintf("kerneltest: no %s on %s", p, name))
	}
}
