package lab

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/lab/probe"
	"github.com/drover-lb/drover/lab/topology"
)

// maxChanges bounds what a ledger remembers.
const maxChanges = 1 << 18

// change is one entry of a ledger: of an address when addr is valid, otherwise of a cable.
type change struct {
	at     time.Duration
	host   string
	link   int    // index of the interface that the address is on
	ifname string // of the cable; empty for an address on an interface without one, and for all cables
	addr   netip.Addr
	on     bool // the host has the address, the cable is whole
	power  bool // the host is switched off or on: with its cables go its addresses
}

// ledger remembers who had which address on an interface other than loopback, and whose cable was whole.
type ledger struct {
	cables map[string]int // how many cables a host has

	mu      sync.Mutex // guards everything below
	changes []change
	err     error // some changes may have been missed
}

func (l *ledger) add(c change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.changes) == maxChanges {
		l.err = fmt.Errorf("more than %d changes", maxChanges)
		return
	}
	c.at = probe.Now()
	l.changes = append(l.changes, c)
}

// address takes what the kernel says.
func (l *ledger) address(c topology.AddressChange, err error) {
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.err = err
		return
	}
	l.add(change{host: c.Host, link: c.Link, ifname: c.Interface, addr: c.Addr, on: c.Has})
}

// holding is who had an address and could be reached.
type holding struct {
	overlap     time.Duration // for which more than one had it
	overlapFrom time.Duration // when that began first
	gap         time.Duration // the longest time in which nobody had it
	hosts       []string      // who had it at any time
	last        []string      // who had it at the end
}

// holding answers for a window.
func (l *ledger) holding(addr netip.Addr, w probe.Window) (holding, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return holding{}, fmt.Errorf("who had %s is not known for sure: %w", addr, l.err)
	}
	return holders(l.changes, l.cables, addr, w), nil
}

// holders plays the changes, which are in the order of their time.
func holders(changes []change, cables map[string]int, addr netip.Addr, w probe.Window) holding {
	type state struct {
		on  map[int]string  // interfaces with the address, and their cables
		cut map[string]bool // by interface
	}
	states := map[string]*state{}
	has := func(host string, s *state) bool {
		for _, ifname := range s.on {
			cut := s.cut[ifname]
			if ifname == "" { // on no cable of its own: any leads to it
				cut = true
				for i := range cables[host] {
					cut = cut && s.cut[fmt.Sprintf("eth%d", i)]
				}
			}
			if !cut {
				return true
			}
		}
		return false
	}
	var out holding
	now := func() []string {
		var hosts []string
		for h, s := range states {
			if has(h, s) {
				hosts = append(hosts, h)
			}
		}
		slices.Sort(hosts)
		return hosts
	}
	last, from, empty := []string(nil), w.From, time.Duration(0)
	segment := func(to time.Duration) { // what last says was so from from to to
		to = min(to, w.To)
		if to <= from {
			return
		}
		for _, h := range last {
			if !slices.Contains(out.hosts, h) {
				out.hosts = append(out.hosts, h)
			}
		}
		if len(last) > 1 {
			if out.overlap == 0 {
				out.overlapFrom = from
			}
			out.overlap += to - from
		}
		if empty += to - from; len(last) > 0 {
			empty = 0
		}
		out.gap = max(out.gap, empty)
		from = to
	}
	for _, c := range changes {
		if c.at > w.To {
			break
		}
		if c.addr.IsValid() && c.addr != addr {
			continue
		}
		segment(c.at)
		s := states[c.host]
		if s == nil {
			s = &state{map[int]string{}, map[string]bool{}}
			states[c.host] = s
		}
		switch {
		case c.addr.IsValid() && c.on:
			s.on[c.link] = c.ifname
		case c.addr.IsValid():
			delete(s.on, c.link)
		default:
			if c.power {
				clear(s.on)
			}
			for i := range cables[c.host] {
				if name := fmt.Sprintf("eth%d", i); c.ifname == "" || c.ifname == name {
					s.cut[name] = !c.on
				}
			}
		}
		last = now()
	}
	segment(w.To)
	slices.Sort(out.hosts)
	out.last = last
	return out
}

type rawHolders struct {
	Address           conf.Value `yaml:"address"`
	Since             conf.Value `yaml:"since"`
	Hosts             conf.List  `yaml:"hosts"`
	MaxOverlap        conf.Value `yaml:"max_overlap"`
	MaxGap            conf.Value `yaml:"max_gap"`
	MaxAddressOverlap conf.Value `yaml:"max_address_overlap"`
}

// checkHolders bounds how long several hosts, or none, are asked for an address and answer. What is on
// their interfaces is told, and bounded only on request: an address that nobody can reach harms nobody.
type checkHolders struct {
	addr                  netip.Addr
	since                 string
	hosts                 []string // who may have it; empty: anyone
	probes                []string
	overlap, gap, address time.Duration // upper bounds
	words                 []string
}

// claimants returns the probes that ask for an address.
func (b *builder) claimants(addr netip.Addr) []string {
	var out []string
	for _, h := range b.Hosts {
		for _, p := range h.Run {
			if p.Probe != nil && p.Probe.Kind == "arp" && p.Probe.Address == addr {
				out = append(out, p.Ref())
			}
		}
	}
	return out
}

// watched reads an address that at least one probe asks for.
func (b *builder) watched(r *conf.Reader, v conf.Value, pos conf.Pos) (netip.Addr, []string) {
	r.Required(v, "address", pos)
	addr := r.Addr(v, "address")
	probes := b.claimants(addr)
	if addr.IsValid() && len(probes) == 0 {
		r.Errorf(v.Pos, "address", "no probe of kind arp asks for %s: whether two hosts answer can only be heard by one", addr)
	}
	return addr, probes
}

func (b *builder) holders(r *conf.Reader, c conf.At[rawHolders]) Check {
	out := checkHolders{since: b.since(r, c.V.Since)}
	out.addr, out.probes = b.watched(r, c.V.Address, c.Pos)
	for _, v := range c.V.Hosts {
		out.hosts = append(out.hosts, b.knownHost(r, v, "hosts", v.Pos))
	}
	bound := func(v conf.Value, field, words string) time.Duration {
		if v.Set {
			out.words = append(out.words, words+v.Text)
		}
		return r.Duration(v, field, 0, maxTime, math.MaxInt64)
	}
	out.overlap = bound(c.V.MaxOverlap, "max_overlap", "answered by several for at most ")
	out.gap = bound(c.V.MaxGap, "max_gap", "by nobody for at most ")
	out.address = bound(c.V.MaxAddressOverlap, "max_address_overlap", "on several hosts for at most ")
	if len(out.hosts) > 0 {
		out.words = append(out.words, "only by "+strings.Join(out.hosts, ", "))
	}
	if len(out.words) == 0 {
		r.Errorf(c.Pos, "", "expects nothing: give at least one of max_overlap, max_gap, max_address_overlap, hosts")
	}
	return out
}

func (c checkHolders) describe() string {
	return c.addr.String() + ": " + strings.Join(c.words, ", ") + suffix(" since ", c.since)
}

func (c checkHolders) check(_ context.Context, r *run) (string, bool) {
	got, err := r.holders(c.addr, c.probes, r.window(c.since))
	if err != nil {
		return err.Error(), false
	}
	ok := got.Overlap <= c.overlap && got.Silence <= c.gap && got.AddressOverlap <= c.address
	for _, h := range got.Hosts {
		ok = ok && (len(c.hosts) == 0 || slices.Contains(c.hosts, h))
	}
	return got.String(), ok
}

// HoldersReport is who held an address.
type HoldersReport struct {
	Address netip.Addr `json:"address"`
	Hosts   []string   `json:"hosts"` // who answered or had it, and could be reached
	// Overlap is the time for which more than one host answered. It is known as finely as Coarsest, the
	// longest time between two questions.
	Overlap  time.Duration `json:"overlap"`
	Several  int           `json:"several"`
	Requests int           `json:"requests"`
	Silence  time.Duration `json:"silence"` // the longest time in which nobody answered
	Coarsest time.Duration `json:"coarsest"`
	// AddressOverlap is the time for which more than one host had the address on an interface whose cable
	// was whole. Such a host need not answer.
	AddressOverlap time.Duration `json:"address_overlap"`
}

func (h HoldersReport) String() string {
	who := "nobody"
	if len(h.Hosts) > 0 {
		who = strings.Join(h.Hosts, ", ")
	}
	return fmt.Sprintf("%s; several answered for %s (%d of %d questions, at most %s apart), nobody for %s; on the interfaces of several for %s",
		who, round(h.Overlap), h.Several, h.Requests, round(h.Coarsest), round(h.Silence), round(h.AddressOverlap))
}

var errNotAsked = errors.New("nobody asked: the probe does not run")

// holders sums up what the probes that ask for an address and the ledger know; of several probes, the
// worst that any of them heard.
func (r *run) holders(addr netip.Addr, probes []string, w probe.Window) (HoldersReport, error) {
	out := HoldersReport{Address: addr}
	hosts := map[string]bool{}
	for _, ref := range probes {
		c := r.procs[ref].series.Claims(w)
		if c.Requests == 0 {
			continue
		}
		for mac := range c.ByMAC {
			hosts[r.owner(mac)] = true
		}
		if c.Several > out.Several || out.Requests == 0 {
			out.Overlap, out.Several = c.Overlap, c.Several
		}
		out.Requests += c.Requests
		out.Silence, out.Coarsest = max(out.Silence, c.Silence), max(out.Coarsest, c.Coarsest)
	}
	if out.Requests == 0 {
		return out, errNotAsked
	}
	had, err := r.ledger.holding(addr, w)
	if err != nil {
		return out, err
	}
	out.AddressOverlap = had.overlap
	for _, h := range had.hosts {
		hosts[h] = true
	}
	for h := range hosts {
		out.Hosts = append(out.Hosts, h)
	}
	slices.Sort(out.Hosts)
	return out, nil
}
