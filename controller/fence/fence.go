package fence

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/internal/dump"
)

// Bounds of what one fence guards.
const (
	MaxAddresses = 65536
	MaxGroups    = 1024
)

const (
	name = "drover_fence" // of the filter
	// priority and handle say which filter is ours, also to a successor. The first priority is taken so
	// that no other filter lets a packet through before.
	priority = 1
	handle   = 0xd0fe

	// callTimeout bounds the wait for one answer of rtnetlink.
	callTimeout = time.Second
)

// forever is a deadline that does not come.
const forever = math.MaxUint64

// groupState is what the program compares the clock with, in nanoseconds. Zero is silent for ever.
type groupState struct {
	Deadline uint64 // until it everything passes
	Lapse    uint64 // from it on everything passes again; 0 for never
	Hush     uint64 // until it the host's own resets are kept back
}

// Options of a Fence; the zero value is useful.
type Options struct {
	// Hold is how long after its deadline a group stays silent, unless something else is said: at least
	// for as long as its addresses may be on the interfaces without being renewed. After that, packets for
	// them can only be meant for a real server on this host, which has them on its loopback. 0 is for ever.
	// [Fence.SetHold] makes it longer.
	Hold time.Duration
	Log  *slog.Logger // nil is silent
}

// Fence guards addresses in the network namespace in which it was opened. Its methods may be called from
// any goroutine; Extend, Drop and Lift do not wait for the others.
type Fence struct {
	log   *slog.Logger
	clock Clock

	addrMap, groupMap, countMap *ebpf.Map
	sides                       []side

	mu         sync.Mutex // guards what follows, and attaching
	h          *netlink.Handle
	interfaces []string
	addrs      map[netip.Addr]uint32 // index of its group
	made       map[int]bool          // interfaces whose clsact we made
	closed     bool

	groupMu sync.Mutex // guards what follows, and what is written to groupMap; held for a moment only
	groups  map[string]uint32
	hushed  map[string]uint64 // groupState.Hush
	free    []uint32          // indices that were in use once
	hold    time.Duration     // 0 is for ever
}

// side is a direction of the packets, and what looks at them there.
type side struct {
	parent uint32 // the hook of the discipline clsact
	prog   *ebpf.Program
	id     int // of the program
}

// Clock is what the deadlines are compared with.
type Clock int

const (
	Boottime  Clock = iota // CLOCK_BOOTTIME
	Monotonic              // CLOCK_MONOTONIC: stands still while the machine is suspended
)

// String returns the name of the clock in clock_gettime(2).
func (c Clock) String() string {
	if c == Monotonic {
		return "CLOCK_MONOTONIC"
	}
	return "CLOCK_BOOTTIME"
}

func (c Clock) id() int32 {
	if c == Monotonic {
		return unix.CLOCK_MONOTONIC
	}
	return unix.CLOCK_BOOTTIME
}

func (c Clock) now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(c.id(), &ts); err != nil {
		panic("fence: no clock: " + err.Error()) // both are there since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// Now reads the clock in which [Fence.Extend] counts.
func Now() time.Duration { return Boottime.now() }

// Open loads the program and tries on the loopback interface, for a moment, whether the kernel can attach
// it. The error names the part that is missing. It needs root, or CAP_BPF and CAP_NET_ADMIN.
func Open(opts Options) (*Fence, error) {
	if opts.Hold < 0 {
		return nil, fmt.Errorf("hold (%s) must not be negative", opts.Hold)
	}
	f := &Fence{
		log: opts.Log, hold: opts.Hold,
		addrs: make(map[netip.Addr]uint32), made: make(map[int]bool), groups: make(map[string]uint32), hushed: make(map[string]uint64),
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if err := f.open(); err != nil {
		f.release()
		return nil, err
	}
	return f, nil
}

func (f *Fence) open() (err error) {
	_ = rlimit.RemoveMemlock() // Linux before 5.11 counts maps as locked memory
	for _, m := range []struct {
		to   **ebpf.Map
		spec ebpf.MapSpec
	}{
		{&f.addrMap, ebpf.MapSpec{Name: "fence_addrs", Type: ebpf.Hash, KeySize: 16, ValueSize: 4, MaxEntries: MaxAddresses, Flags: unix.BPF_F_NO_PREALLOC}},
		{&f.groupMap, ebpf.MapSpec{Name: "fence_groups", Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: MaxGroups}},
		{&f.countMap, ebpf.MapSpec{Name: "fence_counts", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: MaxGroups}},
	} {
		if *m.to, err = ebpf.NewMap(&m.spec); err != nil {
			return missing("BPF maps (CONFIG_BPF_SYSCALL)", err)
		}
	}
	err = f.load(asm.FnKtimeGetBootNs)
	if err != nil && !errors.Is(err, unix.EPERM) {
		if older := f.load(asm.FnKtimeGetNs); older == nil {
			f.clock, err = Monotonic, nil
			f.log.Warn("this kernel has no BPF helper for CLOCK_BOOTTIME (Linux 5.8): a lease does not end while the machine is suspended")
		}
	}
	if err != nil {
		return missing("BPF programs of the traffic classifier (CONFIG_NET_CLS_BPF)", err)
	}
	if f.h, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("failed to open an rtnetlink socket: %w", err)
	}
	if err := f.h.SetSocketTimeout(callTimeout); err != nil {
		return fmt.Errorf("failed to set the timeout of the rtnetlink socket: %w", err)
	}
	if err := f.attach("lo"); err != nil {
		return err
	}
	return f.detach("lo")
}

// load makes the programs of both sides, with the helper that reads the clock.
func (f *Fence) load(clock asm.BuiltinFunc) error {
	f.unload()
	for _, s := range []struct {
		parent uint32
		ins    asm.Instructions
	}{
		{netlink.HANDLE_MIN_INGRESS, arriving(f.addrMap, f.groupMap, f.countMap, clock)},
		{netlink.HANDLE_MIN_EGRESS, leaving(f.addrMap, f.groupMap, clock)},
	} {
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: s.ins})
		if err != nil {
			return err
		}
		f.sides = append(f.sides, side{parent: s.parent, prog: prog})
		info, err := prog.Info()
		if err != nil {
			return fmt.Errorf("failed to read about the program: %w", err)
		}
		id, ok := info.ID()
		if !ok {
			return errors.New("the kernel does not tell the program's number (Linux 4.13)")
		}
		f.sides[len(f.sides)-1].id = int(id)
	}
	return nil
}

func (f *Fence) unload() {
	for _, s := range f.sides {
		s.prog.Close()
	}
	f.sides = nil
}

// missing explains an error of the kernel for a part that it may lack.
func missing(part string, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("no permission for %s (needs root, or CAP_BPF and CAP_NET_ADMIN): %w", part, err)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("the kernel lacks %s: %w", part, err)
	}
	return fmt.Errorf("the kernel refuses %s: %w", part, err)
}

// Clock says which clock the kernel compares deadlines with.
func (f *Fence) Clock() Clock { return f.clock }

// Set names the interfaces and the guarded addresses with their groups, in place of all earlier ones. A
// group that is new is silent. An interface that is not there is attached by a later Repair; the error
// says so and wraps fs.ErrNotExist. What could be done is done in spite of an error.
func (f *Fence) Set(interfaces []string, groups map[netip.Addr]string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	if len(groups) > MaxAddresses {
		return fmt.Errorf("%d addresses are too many to guard: at most %d", len(groups), MaxAddresses)
	}
	var errs []error
	for a := range f.addrs {
		if _, wanted := groups[a]; wanted {
			continue
		}
		if err := f.addrMap.Delete(a.As16()); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("failed to let go of %s: %w", a, err))
			continue
		}
		delete(f.addrs, a)
	}
	f.forget(slices.Collect(maps.Values(groups)))
	for _, a := range slices.SortedFunc(maps.Keys(groups), netip.Addr.Compare) {
		index, err := f.index(groups[a])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if old, ok := f.addrs[a]; ok && old == index {
			continue
		}
		if err := f.addrMap.Put(a.As16(), index); err != nil {
			errs = append(errs, fmt.Errorf("failed to guard %s: %w", a, err))
			continue
		}
		f.addrs[a] = index
	}

	old := f.interfaces
	f.interfaces = slices.Compact(slices.Sorted(slices.Values(interfaces)))
	errs = append(errs, f.repair())
	for _, n := range old {
		if _, wanted := slices.BinarySearch(f.interfaces, n); !wanted {
			if err := f.detach(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// index returns the index of a group, a new one if it has none.
func (f *Fence) index(group string) (uint32, error) {
	f.groupMu.Lock()
	defer f.groupMu.Unlock()
	return f.indexLocked(group)
}

func (f *Fence) indexLocked(group string) (uint32, error) {
	if i, ok := f.groups[group]; ok {
		return i, nil
	}
	i := uint32(len(f.groups) + len(f.free))
	if n := len(f.free); n > 0 {
		i = f.free[n-1]
	}
	if i >= MaxGroups {
		return 0, fmt.Errorf("no room to guard group %q: at most %d groups", group, MaxGroups)
	}
	if err := f.groupMap.Put(i, groupState{}); err != nil {
		return 0, fmt.Errorf("failed to guard group %q: %w", group, err)
	}
	if err := f.countMap.Put(i, uint64(0)); err != nil {
		return 0, fmt.Errorf("failed to guard group %q: %w", group, err)
	}
	if n := len(f.free); n > 0 {
		f.free = f.free[:n-1]
	}
	f.groups[group] = i
	return i, nil
}

// forget gives up the indices of all groups but these.
func (f *Fence) forget(but []string) {
	used := make(map[string]bool, len(but))
	for _, g := range but {
		used[g] = true
	}
	f.groupMu.Lock()
	defer f.groupMu.Unlock()
	for g, i := range f.groups {
		if !used[g] {
			delete(f.groups, g)
			delete(f.hushed, g)
			f.free = append(f.free, i)
		}
	}
}

// put writes the state of a group.
func (f *Fence) put(group string, st groupState) error {
	f.groupMu.Lock()
	defer f.groupMu.Unlock()
	st.Hush = f.hushed[group]
	return f.putLocked(group, st)
}

func (f *Fence) putLocked(group string, st groupState) error {
	i, err := f.indexLocked(group)
	if err != nil {
		return err
	}
	if err := f.groupMap.Put(i, st); err != nil {
		return fmt.Errorf("failed to set the deadline of group %q: %w", group, err)
	}
	return nil
}

// Extend lets everything for a group through until a reading of CLOCK_BOOTTIME; [Now] reads it. It is one
// update of a map.
func (f *Fence) Extend(group string, until time.Duration) error {
	if f.clock != Boottime {
		until += f.clock.now() - Boottime.now()
	}
	f.groupMu.Lock()
	defer f.groupMu.Unlock()
	st := groupState{Deadline: uint64(max(until, 0)), Hush: f.hushed[group]}
	if f.hold > 0 {
		st.Lapse = uint64(max(until+f.hold, 1))
	}
	return f.putLocked(group, st)
}

// SetHold makes [Options.Hold] longer, also for the deadlines that are set already; 0 is for ever. A shorter
// one changes nothing for as long as the fence is open, as addresses may still be on the interfaces with the
// lifetime that was promised before. So the longest of all is what holds. Call it before the addresses get
// their new lifetime.
func (f *Fence) SetHold(d time.Duration) error {
	if d < 0 {
		return fmt.Errorf("hold (%s) must not be negative", d)
	}
	f.groupMu.Lock()
	defer f.groupMu.Unlock()
	if f.hold == 0 || d != 0 && d <= f.hold {
		return nil
	}
	more := uint64(d - f.hold)
	f.hold = d
	var errs []error
	for g, i := range f.groups {
		var st groupState
		err := f.groupMap.Lookup(i, &st)
		if err == nil && st.Lapse != 0 {
			if st.Lapse += more; d == 0 {
				st.Lapse = 0
			}
			err = f.groupMap.Put(i, st)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("failed to keep group %q silent for %s after its deadline: %w", g, d, err))
		}
	}
	return errors.Join(errs...)
}

// Drop silences a group until it is extended or lifted.
func (f *Fence) Drop(group string) error { return f.put(group, groupState{}) }

// Lift lets everything for a group through until it is extended or dropped.
func (f *Fence) Lift(group string) error { return f.put(group, groupState{Deadline: forever}) }

// Hush keeps back, for d from now, whatever becomes of the group meanwhile, the resets that this host's own TCP
// sends from the addresses of a group to connections that it does not know (RFC 9293, section 3.5.2: they have
// no ACK). A port that nobody listens on still refuses a new connection at once.
func (f *Fence) Hush(group string, d time.Duration) error {
	f.groupMu.Lock()
	defer f.groupMu.Unlock()
	i, err := f.indexLocked(group)
	if err != nil {
		return err
	}
	var st groupState
	if err := f.groupMap.Lookup(i, &st); err != nil {
		return fmt.Errorf("failed to read the state of group %q: %w", group, err)
	}
	st.Hush = uint64(f.clock.now() + max(d, 0))
	f.hushed[group] = st.Hush
	return f.putLocked(group, st)
}

// Silenced counts what was dropped for a group since it is guarded.
func (f *Fence) Silenced(group string) (uint64, error) {
	f.groupMu.Lock()
	defer f.groupMu.Unlock()
	i, ok := f.groups[group]
	if !ok {
		return 0, nil
	}
	var n uint64
	if err := f.countMap.Lookup(i, &n); err != nil {
		return 0, fmt.Errorf("failed to read what was dropped for group %q: %w", group, err)
	}
	return n, nil
}

// Repair attaches the program where it is not attached any more: somebody removed it, or the interface was
// made anew. Interfaces that are not there are in the error, which wraps fs.ErrNotExist.
func (f *Fence) Repair() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return fs.ErrClosed
	}
	return f.repair()
}

func (f *Fence) repair() error {
	var errs []error
	for _, n := range f.interfaces {
		errs = append(errs, f.attach(n))
	}
	return errors.Join(errs...)
}

// link looks an interface up.
func (f *Fence) link(n string) (netlink.Link, error) {
	l, err := f.h.LinkByName(n)
	var none netlink.LinkNotFoundError
	switch {
	case errors.As(err, &none), errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("interface %q: %w", n, fs.ErrNotExist)
	case err != nil:
		return nil, fmt.Errorf("failed to look up interface %q: %w", n, err)
	}
	return l, nil
}

// hooks are those of the discipline clsact.
var hooks = []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS}

// filters lists our filters at a hook of an interface: the program of a fence that is open, and those of
// predecessors.
func filters(h *netlink.Handle, l netlink.Link, hook uint32) (out []*netlink.BpfFilter, err error) {
	list, err := h.FilterList(l, hook)
	if err != nil {
		return nil, fmt.Errorf("failed to list the filters of interface %q: %w", l.Attrs().Name, err)
	}
	for _, x := range list {
		if b, ok := x.(*netlink.BpfFilter); ok && b.Priority == priority && b.Handle == handle {
			out = append(out, b)
		}
	}
	return out, nil
}

// attach puts the programs onto an interface, in place of those of a predecessor.
func (f *Fence) attach(n string) error {
	l, err := f.link(n)
	if err != nil {
		return err
	}
	index := l.Attrs().Index
	missed := slices.DeleteFunc(slices.Clone(f.sides), func(s side) bool {
		have, err := filters(f.h, l, s.parent)
		return err == nil && len(have) == 1 && have[0].Id == s.id
	})
	if len(missed) == 0 {
		return nil
	}
	err = f.h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	switch {
	case err == nil:
		f.made[index] = true
	case errors.Is(err, unix.EEXIST): // of somebody else, or of a predecessor
	default:
		return fmt.Errorf("failed to guard interface %q: %w", n, missing("the queueing discipline clsact (module sch_ingress)", err))
	}
	for _, s := range missed {
		err = f.h.FilterReplace(&netlink.BpfFilter{
			FilterAttrs:  netlink.FilterAttrs{LinkIndex: index, Parent: s.parent, Handle: handle, Priority: priority, Protocol: unix.ETH_P_ALL},
			Fd:           s.prog.FD(),
			Name:         name,
			DirectAction: true,
		})
		if err != nil {
			return fmt.Errorf("failed to guard interface %q: %w", n, missing("the classifier bpf (module cls_bpf)", err))
		}
	}
	f.log.Debug("interface is guarded", "interface", n)
	return nil
}

// detach takes the programs off an interface, and the discipline with it if it is ours and empty.
func (f *Fence) detach(n string) error {
	l, err := f.link(n)
	if err != nil {
		return err
	}
	for _, hook := range hooks {
		have, err := filters(f.h, l, hook)
		if err != nil {
			return err
		}
		for _, b := range have {
			if err := f.h.FilterDel(b); err != nil && !errors.Is(err, unix.ENOENT) {
				return fmt.Errorf("failed to stop guarding interface %q: %w", n, err)
			}
		}
	}
	index := l.Attrs().Index
	if !f.made[index] {
		return nil
	}
	delete(f.made, index)
	for _, hook := range hooks {
		if list, err := f.h.FilterList(l, hook); err != nil || len(list) > 0 {
			return nil // somebody uses it
		}
	}
	err = f.h.QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("failed to remove the queueing discipline clsact of interface %q: %w", n, err)
	}
	return nil
}

// Close takes the program off all interfaces: nothing is guarded any more. A process that dies without
// calling it leaves the guard in place.
func (f *Fence) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	var errs []error
	for _, n := range f.interfaces {
		if err := f.detach(n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	f.release()
	return errors.Join(errs...)
}

// Remove takes the filters that a fence of an earlier process has left off all interfaces of the network
// namespace of the calling thread, so that they do not go on to silence what nobody extends any more. It
// needs no BPF, only CAP_NET_ADMIN, and changes nothing where there is nothing. A discipline clsact that
// is empty then stays, as it may be somebody else's. Do not call it while a fence is open in the namespace. A
// nil logger is silent.
func Remove(log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("failed to open an rtnetlink socket: %w", err)
	}
	defer h.Close()
	if err := h.SetSocketTimeout(callTimeout); err != nil {
		return fmt.Errorf("failed to set the timeout of the rtnetlink socket: %w", err)
	}
	links, err := dump.All(h.LinkList)
	if err != nil {
		return fmt.Errorf("failed to list the interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		n := l.Attrs().Name
		var have []*netlink.BpfFilter
		for _, hook := range hooks {
			list, err := filters(h, l, hook)
			if err != nil && !errors.Is(err, unix.ENODEV) {
				errs = append(errs, err)
			}
			have = append(have, list...)
		}
		told := false
		for _, b := range have {
			if b.Name != name {
				continue
			}
			switch err := h.FilterDel(b); {
			case err == nil && told:
			case err == nil:
				told = true
				log.Warn("the fence of an earlier process is removed: nobody keeps its leases any more", "interface", n)
			case !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV):
				errs = append(errs, fmt.Errorf("failed to remove the fence of an earlier process from interface %q: %w", n, err))
			}
		}
	}
	return errors.Join(errs...)
}

// release closes what is open, as the end of the process does.
func (f *Fence) release() {
	f.closed = true
	if f.h != nil {
		f.h.Close()
	}
	for _, m := range []*ebpf.Map{f.addrMap, f.groupMap, f.countMap} {
		if m != nil {
			m.Close()
		}
	}
	f.unload()
}
