package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/owned"
	"github.com/drover-lb/drover/controller/spec"
)

// Addresses is what the VIPs need of the kernel. Calls are bounded in time.
type Addresses interface {
	// Link looks an interface up by name; fs.ErrNotExist if there is none.
	Link(ctx context.Context, name string) (kernel.Link, error)
	Addresses(ctx context.Context) ([]kernel.Address, error)
	// SetAddress adds an address, or renews the lifetime of one that is there.
	SetAddress(ctx context.Context, index int, p netip.Prefix, lifetime time.Duration) error
	// Renew is SetAddress for many that are there, with an error for each.
	Renew(ctx context.Context, addresses []kernel.Held, lifetime time.Duration) []error
	// DeleteAddress removes an address; fs.ErrNotExist if it is not there.
	DeleteAddress(ctx context.Context, index int, p netip.Prefix) error
}

// Claim is an address that this host answers for on an interface.
type Claim struct {
	Addr      netip.Addr
	Interface string
	// Epoch rises whenever the neighbours have to be told again, as after somebody removed the address
	// and it was put back.
	Epoch uint64
}

// VIPState is what is the matter with a VIP.
type VIPState string

const (
	VIPWaiting     VIPState = "waiting"        // none of its services is in the kernel yet
	VIPHeld        VIPState = "held"           // on the interface, with a lifetime that is renewed
	VIPStatic      VIPState = "static"         // on the interface for good, put there by somebody else
	VIPNoInterface VIPState = "no interface"   // there is no interface of that name
	VIPDown        VIPState = "interface down" // switched off
	VIPFailed      VIPState = "failed"         // the kernel refuses it
	VIPLeaving     VIPState = "leaving"        // not wanted any more, and not off the interface yet
	VIPStandby     VIPState = "standby"        // not on the interface: another director is to hold it
)

// vipKey identifies a VIP.
type vipKey = owned.VIP

// vip is one VIP as the loop knows it.
type vip struct {
	key     vipKey
	index   int // of the interface on which it was last seen
	state   VIPState
	since   time.Time // of state
	err     error
	on      bool // ours and on the interface: to be renewed
	doubt   bool // it may be on the interface, whatever on says: a call has failed that the kernel may yet carry out
	carrier bool // of the interface
	epoch   uint64
	stand   bool // not to be held here: nobody is told of it, whatever its state
}

// announced says whether neighbours are to be told that the address is here.
func (v *vip) announced() bool { return !v.stand && (v.state == VIPHeld || v.state == VIPStatic) }

// off says whether a VIP that is not to be here is not here.
func (v *vip) off() bool {
	return v.stand && !v.on && !v.doubt && (v.state == VIPStandby || v.state == VIPNoInterface)
}

// errStatic is the error of a VIP that somebody else has put onto the interface of a standby for good.
var errStatic = errors.New("it is on the interface permanently, not put there by a director, while this director is standby: two hosts may answer for it")

// errLeaseEnded is the error of a VIP whose lease ended before anybody said so.
var errLeaseEnded = errors.New("the lease has ended")

// vips puts addresses onto interfaces and takes them off. It belongs to the loop's goroutine.
type vips struct {
	kernel  Addresses
	log     *slog.Logger
	life    time.Duration
	known   map[vipKey]*vip
	owned   map[vipKey]struct{} // what the state file says: put there by us or our predecessor
	save    func()              // writes owned to the state file
	renewed func(error)         // counts renewals

	groups map[vipKey]string       // of the file's VIPs
	active func(group string) bool // whether this director is to hold a group
	leased func(group string) bool // whether a group may be held at this moment, asked before each SetAddress
	// late: the state file is written after the kernel was told, not before. Without it taking a VIP would
	// wait for a disk. A VIP that is put there meanwhile has a lifetime, and goes without the file.
	late    bool
	unsaved bool

	// expected counts notifications still to come of what we removed ourselves.
	expected map[kernel.Removal]int
	// gone are addresses that somebody else removed, not looked at yet.
	gone map[kernel.Removal]struct{}
}

func newVIPs(k Addresses, log *slog.Logger) *vips {
	return &vips{
		kernel:   k,
		log:      log,
		known:    make(map[vipKey]*vip),
		owned:    make(map[vipKey]struct{}),
		save:     func() {},
		renewed:  func(error) {},
		active:   func(string) bool { return true },
		leased:   func(string) bool { return true },
		expected: make(map[kernel.Removal]int),
		gone:     make(map[kernel.Removal]struct{}),
	}
}

// keysOf lists the VIPs of a file.
func keysOf(f *spec.File) []vipKey {
	keys := unsortedKeys(f)
	slices.SortFunc(keys, vipKey.Compare)
	return keys
}

// unsortedKeys lists them in the order of the file.
func unsortedKeys(f *spec.File) []vipKey {
	keys := make([]vipKey, len(f.Spec.VIPs))
	for i, v := range f.Spec.VIPs {
		keys[i] = vipKey{Prefix: v.Prefix, Interface: cmp.Or(v.Interface, f.Director.Interface)}
	}
	return keys
}

// noticed takes in what the kernel reported, and tells whether it calls for a look.
func (s *vips) noticed(c kernel.Changes) bool {
	look := c.Lost || c.Links
	if c.Lost {
		// The listing that follows tells what is gone; that it was gone and is back cannot be told.
		clear(s.expected)
	}
	for _, r := range c.Removed {
		if s.expected[r] > 0 {
			if s.expected[r]--; s.expected[r] == 0 {
				delete(s.expected, r)
			}
			continue
		}
		for _, v := range s.known {
			if v.index == r.Index && v.key.Prefix.Addr() == r.Addr {
				s.gone[r] = struct{}{}
				look = true
				break
			}
		}
	}
	return look
}

// set moves v to a state and says so once.
func (s *vips) set(v *vip, state VIPState, err error) {
	same := v.state == state && fmt.Sprint(v.err) == fmt.Sprint(err)
	v.err = err
	if same {
		return
	}
	before := v.state
	if before != state {
		v.state, v.since = state, time.Now()
	}
	log := s.log.With("vip", v.key.Prefix, "interface", v.key.Interface)
	switch state {
	case VIPHeld:
		if err != nil {
			log.Error("VIP cannot be renewed", "error", err)
		} else if before != VIPHeld {
			log.Info("VIP is on the interface", "lifetime", s.life)
		} else {
			log.Info("VIP is renewed again")
		}
	case VIPStatic:
		if err != nil {
			log.Error("VIP is on the interface of a standby director; it is not announced", "error", err)
			break
		}
		log.Warn("VIP is on the interface permanently and not put there by a director: left as it is; the kernel will not take it away if this process dies")
	case VIPWaiting:
		log.Info("VIP waits for its services")
	case VIPNoInterface:
		log.Error("VIP has no interface", "error", err)
	case VIPDown:
		log.Error("VIP waits for its interface, which is down")
	case VIPFailed:
		log.Error("VIP cannot be put onto the interface", "error", err)
	case VIPStandby:
		if err != nil {
			log.Error("VIP is off the interface", "error", err)
		} else if before != "" {
			log.Info("VIP is off the interface")
		}
	case VIPLeaving:
		log.Error("VIP cannot be taken off the interface; it is not renewed any more", "error", err)
	}
}

// giveUp takes those VIPs off that are not in want, which is sorted.
func (s *vips) giveUp(ctx context.Context, want []vipKey) {
	wanted := func(k vipKey) bool {
		_, found := slices.BinarySearchFunc(want, k, vipKey.Compare)
		return found
	}
	keys := slices.Collect(maps.Keys(s.owned))
	for k, v := range s.known {
		if _, owned := s.owned[k]; !owned && !wanted(k) {
			if v.state == VIPStatic {
				s.log.Info("VIP is not wanted any more and stays, as it was not put there by a director", "vip", k.Prefix, "interface", k.Interface)
			}
			delete(s.known, k)
		}
	}
	slices.SortFunc(keys, vipKey.Compare)
	changed := false
	for _, k := range keys {
		if !wanted(k) {
			changed = s.release(ctx, k) || changed
		}
	}
	if changed {
		s.save()
	}
}

// release takes one VIP of ours off, and reports whether it is gone.
func (s *vips) release(ctx context.Context, k vipKey) bool {
	v := s.known[k]
	if v == nil {
		v = &vip{key: k}
		s.known[k] = v
	}
	v.on = false // not renewed any more, come what may
	index := v.index
	if index == 0 {
		link, err := s.kernel.Link(ctx, k.Interface)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.set(v, VIPLeaving, err)
			return false
		}
		index = link.Index
	}
	if index != 0 {
		if err := s.remove(ctx, index, k.Prefix); err != nil {
			s.set(v, VIPLeaving, err)
			return false
		}
	}
	s.log.Info("VIP is off the interface", "vip", k.Prefix, "interface", k.Interface)
	delete(s.owned, k)
	delete(s.known, k)
	return true
}

// remove deletes an address; that it is not there is fine.
func (s *vips) remove(ctx context.Context, index int, p netip.Prefix) error {
	err := s.kernel.DeleteAddress(ctx, index, p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		s.expected[kernel.Removal{Index: index, Addr: p.Addr()}]++
	}
	return err
}

// leaving reports whether an address has still to go.
func (s *vips) leaving(a netip.Addr) bool {
	for k, v := range s.known {
		if k.Prefix.Addr() == a && v.state == VIPLeaving {
			return true
		}
	}
	return false
}

// settle brings the VIPs of want onto their interfaces: puts back those that somebody removed, and
// takes those for whose address ready is true. It starts from what the kernel lists.
func (s *vips) settle(ctx context.Context, want []vipKey, ready func(netip.Addr) bool) {
	if len(want) == 0 {
		return
	}
	for _, k := range want {
		if s.known[k] == nil {
			s.known[k] = &vip{key: k, epoch: 1}
		}
		s.known[k].stand = !s.active(s.groups[k])
	}
	links := make(map[string]kernel.Link)
	missing := make(map[string]error)
	for _, k := range want {
		if _, done := links[k.Interface]; done || missing[k.Interface] != nil {
			continue
		}
		if l, err := s.kernel.Link(ctx, k.Interface); err != nil {
			missing[k.Interface] = err
		} else {
			links[k.Interface] = l
		}
	}
	addrs, err := s.kernel.Addresses(ctx)
	if err != nil {
		for _, k := range want {
			// What is on stays on and is renewed; its state is not known for now.
			if v := s.known[k]; !v.on && v.state != VIPLeaving {
				s.set(v, VIPFailed, err)
			}
		}
		s.log.Error("failed to look after the VIPs", "error", err)
		return
	}

	var take []*vip
	for _, k := range want {
		v := s.known[k]
		link, ok := links[k.Interface]
		if (v.on || v.doubt) && v.index != 0 && (!ok && errors.Is(missing[k.Interface], fs.ErrNotExist) || ok && link.Index != v.index) {
			// Renamed, removed, or removed and made anew: the address is where it should not be, or nowhere.
			if err := s.remove(ctx, v.index, k.Prefix); err != nil {
				s.log.Warn("VIP cannot be taken off the interface that had this name", "vip", k.Prefix, "interface", k.Interface, "error", err)
			}
			v.on, v.doubt, v.index = false, false, 0
		}
		switch {
		case ok:
		case errors.Is(missing[k.Interface], fs.ErrNotExist):
			s.set(v, VIPNoInterface, missing[k.Interface])
			continue
		case v.on, v.state == VIPLeaving: // not known for now
			continue
		default:
			s.set(v, VIPFailed, missing[k.Interface])
			continue
		}
		v.index = link.Index
		if v.stand || !s.leased(s.groups[k]) {
			s.stand(ctx, v, link, addrs)
			continue
		}
		if s.look(ctx, v, link, addrs, ready) {
			take = append(take, v)
		}
	}
	s.take(ctx, take)
}

// look compares a VIP with the listed addresses, and reports whether it is to be put onto the
// interface.
func (s *vips) look(ctx context.Context, v *vip, link kernel.Link, addrs []kernel.Address, ready func(netip.Addr) bool) bool {
	v.carrier = link.Carrier
	_, owned := s.owned[v.key]
	removal := kernel.Removal{Index: link.Index, Addr: v.key.Prefix.Addr()}
	_, gone := s.gone[removal]
	delete(s.gone, removal)
	there := find(addrs, link.Index, v.key.Prefix)
	v.doubt = false
	if v.on && (there == nil || gone) {
		s.log.Warn("VIP was removed from the interface by somebody else", "vip", v.key.Prefix, "interface", v.key.Interface)
		v.on = there != nil
		v.epoch++
	}
	switch {
	case there == nil && !link.Up:
		s.set(v, VIPDown, nil)
		return false
	case there == nil && !ready(v.key.Prefix.Addr()):
		s.set(v, VIPWaiting, nil)
		return false
	case there == nil:
		return true
	case there.Lifetime == kernel.Forever && !owned && !v.on:
		if there.Failed {
			s.set(v, VIPFailed, fmt.Errorf("duplicate address detection has found another holder of %s, or is not done", v.key.Prefix.Addr()))
			return false
		}
		s.set(v, VIPStatic, nil)
		return false
	case !v.on, there.Lifetime == kernel.Forever: // of a predecessor; or somebody took its lifetime away
		return true
	case !link.Up:
		s.set(v, VIPDown, nil)
	case v.state == VIPHeld: // and if it could not be renewed, that has not changed
	default:
		s.set(v, VIPHeld, nil)
	}
	return false
}

// stand sees to it that a VIP which this director may not hold is not on the interface.
func (s *vips) stand(ctx context.Context, v *vip, link kernel.Link, addrs []kernel.Address) {
	v.carrier, v.stand = link.Carrier, true
	delete(s.gone, kernel.Removal{Index: link.Index, Addr: v.key.Prefix.Addr()})
	_, owned := s.owned[v.key]
	there := find(addrs, link.Index, v.key.Prefix)
	if there == nil {
		v.doubt = false
	}
	if there != nil && there.Lifetime == kernel.Forever && (!owned && !v.on || there.Prefix != v.key.Prefix) {
		s.set(v, VIPStatic, errStatic)
		return
	}
	if there == nil {
		// It may have gone by itself.
		v.on = false
		s.disown(v.key)
		s.set(v, VIPStandby, s.whyOff(v))
		return
	}
	if !v.on && v.state != VIPLeaving {
		s.log.Warn("VIP was on the interface of a standby director: taken off", "vip", v.key.Prefix, "interface", v.key.Interface)
	}
	s.takeOff(ctx, v)
}

// takeOff takes a VIP off that this director may not hold, and reports whether it is off. What the kernel
// answers to the removal comes after all that was asked of it before, so it also settles a doubt.
func (s *vips) takeOff(ctx context.Context, v *vip) bool {
	v.on, v.stand = false, true // not renewed any more, come what may
	if v.index != 0 {
		if err := s.remove(ctx, v.index, v.key.Prefix); err != nil {
			v.doubt = true
			s.set(v, VIPLeaving, err)
			return false
		}
	}
	v.doubt = false
	s.disown(v.key)
	s.set(v, VIPStandby, s.whyOff(v))
	return true
}

// whyOff is an error if a VIP is off that this director is to hold.
func (s *vips) whyOff(v *vip) error {
	if s.active(s.groups[v.key]) {
		return errLeaseEnded
	}
	return nil
}

func (s *vips) disown(k vipKey) {
	if _, owned := s.owned[k]; owned {
		delete(s.owned, k)
		s.unsaved = true
	}
}

// standDown takes those of keys off that this director has on an interface and may not hold.
func (s *vips) standDown(ctx context.Context, keys []vipKey) {
	for _, k := range keys {
		if v := s.known[k]; v != nil && (v.on || v.doubt || v.state == VIPLeaving) && !s.leased(s.groups[k]) {
			s.takeOff(ctx, v)
		} else if v != nil && !s.active(s.groups[k]) {
			v.stand = true
			switch v.state {
			case VIPStatic:
				s.set(v, VIPStatic, errStatic)
			case VIPWaiting, VIPDown, VIPFailed: // whatever kept it off
				s.set(v, VIPStandby, nil)
			}
		}
	}
}

// mute ends the announcements of keys.
func (s *vips) mute(keys []vipKey) {
	for _, k := range keys {
		if v := s.known[k]; v != nil {
			v.stand = true
		}
	}
}

// anew makes keys be announced again as soon as they are held.
func (s *vips) anew(keys []vipKey) {
	for _, k := range keys {
		if v := s.known[k]; v != nil {
			v.epoch++
		}
	}
}

// waits reports whether any of keys waits for its services.
func (s *vips) waits(keys []vipKey) bool {
	return slices.ContainsFunc(keys, func(k vipKey) bool {
		v := s.known[k]
		return v == nil || v.state == VIPWaiting
	})
}

// find returns the entry of an address on an interface. IPv6 has one entry for an address, whatever
// its prefix length; of IPv4's the one with the wanted length is best, and another is as good as
// ours only if it stays.
func find(addrs []kernel.Address, index int, p netip.Prefix) *kernel.Address {
	var other *kernel.Address
	for i := range addrs {
		a := &addrs[i]
		if a.Index != index || a.Prefix.Addr() != p.Addr() {
			continue
		}
		if a.Prefix == p || p.Addr().Is6() {
			return a
		}
		if a.Lifetime == kernel.Forever {
			other = a
		}
	}
	return other
}

// take puts VIPs onto their interfaces, or adopts those that are there.
func (s *vips) take(ctx context.Context, list []*vip) {
	changed := false
	for _, v := range list {
		if _, owned := s.owned[v.key]; !owned {
			s.owned[v.key] = struct{}{}
			changed = true
		}
	}
	switch {
	case changed && s.late:
		s.unsaved = true
	case changed:
		s.save() // before the kernel knows, so that a successor does
	}
	for _, v := range list {
		if !s.leased(s.groups[v.key]) {
			s.takeOff(ctx, v)
			continue
		}
		if err := s.kernel.SetAddress(ctx, v.index, v.key.Prefix, s.life); err != nil {
			v.doubt = true
			s.set(v, VIPFailed, err)
			if !s.leased(s.groups[v.key]) {
				s.takeOff(ctx, v)
			}
			continue
		}
		v.on, v.doubt = true, false
		if !s.leased(s.groups[v.key]) { // the process may have been stopped since the first question
			s.takeOff(ctx, v)
			continue
		}
		v.epoch++
		s.set(v, VIPHeld, nil)
	}
}

// renew extends the lifetime of all VIPs that are on, and takes those off that may not be held any more.
func (s *vips) renew(ctx context.Context) {
	stuck := false // once is enough to know
	for _, v := range s.known {
		switch {
		case s.leased(s.groups[v.key]):
		case v.on:
			s.takeOff(ctx, v)
		case v.doubt && !stuck:
			stuck = !s.takeOff(ctx, v)
		}
	}
	var on []*vip
	var addresses []kernel.Held
	for _, v := range s.known {
		if v.on && s.leased(s.groups[v.key]) {
			on = append(on, v)
			addresses = append(addresses, kernel.Held{Index: v.index, Prefix: v.key.Prefix})
		}
	}
	if len(on) == 0 {
		return
	}
	for i, err := range s.kernel.Renew(ctx, addresses, s.life) {
		v := on[i]
		s.renewed(err)
		switch {
		case !s.leased(s.groups[v.key]): // the process may have been stopped since the first question
			s.takeOff(ctx, v)
		case err != nil:
			s.set(v, v.state, err)
		case v.state == VIPHeld || v.state == VIPFailed:
			s.set(v, VIPHeld, nil)
		}
	}
}

// keep makes all VIPs permanent that are on.
func (s *vips) keep(ctx context.Context) error {
	var errs []error
	for _, k := range slices.SortedFunc(maps.Keys(s.known), vipKey.Compare) {
		if v := s.known[k]; v.on {
			if err := s.kernel.SetAddress(ctx, v.index, k.Prefix, kernel.Forever); err != nil {
				errs = append(errs, err)
				continue
			}
			s.log.Info("VIP stays on the interface without lifetime", "vip", k.Prefix, "interface", k.Interface)
		}
	}
	return errors.Join(errs...)
}

// claims lists what is to be announced, in order.
func (s *vips) claims() []Claim {
	var out []Claim
	for _, k := range slices.SortedFunc(maps.Keys(s.known), vipKey.Compare) {
		if v := s.known[k]; v.announced() {
			out = append(out, Claim{Addr: k.Prefix.Addr(), Interface: k.Interface, Epoch: v.epoch})
		}
	}
	return out
}
