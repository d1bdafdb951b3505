package arp

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"

	"github.com/drover-lb/drover/arp/frame"
)

// watchRetry is how long a Watcher waits before it tries again to listen on an interface.
const watchRetry = time.Second

// maxFrame bounds what is read of a frame, in bytes.
const maxFrame = 2048

// maxConflicts bounds how many different claimants a Watcher tells apart.
const maxConflicts = 1024

// Conflict is a MAC that is not this host's and claims a watched address.
type Conflict struct {
	Interface string
	Addr      netip.Addr
	MAC       frame.MAC
	First     time.Time
	Last      time.Time
	Count     uint64 // frames
}

// Watcher listens for others who claim addresses (RFC 5227, section 2.4). Its methods may be called from any
// goroutine.
type Watcher struct {
	log    *slog.Logger
	notify func(Conflict)
	wake   chan struct{} // capacity 1

	mu     sync.Mutex // guards what follows
	claims map[Claim]struct{}
	found  map[conflictKey]*Conflict
}

type conflictKey struct {
	Claim
	mac frame.MAC
}

// NewWatcher returns a Watcher that calls notify for each frame in which somebody else claims a watched
// address. notify must return quickly and not call the Watcher. A nil logger is silent.
func NewWatcher(log *slog.Logger, notify func(Conflict)) *Watcher {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if notify == nil {
		notify = func(Conflict) {}
	}
	return &Watcher{log: log, notify: notify, wake: make(chan struct{}, 1), claims: make(map[Claim]struct{}), found: make(map[conflictKey]*Conflict)}
}

// Set makes claims all that is watched. What is known of others is forgotten.
func (w *Watcher) Set(claims []Claim) {
	w.mu.Lock()
	clear(w.claims)
	for _, c := range claims {
		w.claims[c] = struct{}{}
	}
	maps.DeleteFunc(w.found, func(k conflictKey, _ *Conflict) bool {
		_, still := w.claims[k.Claim]
		return !still
	})
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Conflicts lists who else has claimed watched addresses since they are watched, the latest first.
func (w *Watcher) Conflicts() []Conflict {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]Conflict, 0, len(w.found))
	for _, c := range w.found {
		out = append(out, *c)
	}
	slices.SortFunc(out, func(a, b Conflict) int { return b.Last.Compare(a.Last) })
	return out
}

// Run listens until ctx ends, and then returns nil. An interface that cannot be listened on is tried again.
// All sockets are opened by the calling goroutine, and so in its network namespace.
func (w *Watcher) Run(ctx context.Context) error {
	type ear struct {
		name  string
		proto frame.EtherType
	}
	type listening struct {
		*packet.Conn
		mac  frame.MAC
		for4 []netip.Addr // for which the filter is
	}
	conns := make(map[ear]*listening)
	said := make(map[ear]string)
	lost := make(chan ear)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		w.mu.Lock()
		wanted := make(map[ear][]netip.Addr)
		for c := range w.claims {
			proto := frame.TypeIPv6
			if c.Addr.Is4() {
				proto = frame.TypeARP
			}
			wanted[ear{c.Interface, proto}] = append(wanted[ear{c.Interface, proto}], c.Addr)
		}
		w.mu.Unlock()
		for e, conn := range conns {
			if wanted[e] == nil {
				conn.Close() // ends its reader, which reports that
			}
		}
		for e, addrs := range wanted {
			slices.SortFunc(addrs, netip.Addr.Compare)
			if conn := conns[e]; conn != nil {
				if e.proto == frame.TypeARP && !slices.Equal(conn.for4, addrs) {
					if err := conn.SetBPF(othersFilter(conn.mac, addrs)); err != nil {
						w.log.Debug("the kernel takes no other filter; the socket is opened again", "interface", e.name, "error", err)
						conn.Close()
						continue
					}
					conn.for4 = addrs
				}
				continue
			}
			conn, mac, err := openEar(e.name, e.proto, addrs)
			if err != nil {
				if said[e] != err.Error() {
					said[e] = err.Error()
					w.log.Warn("cannot listen for others who claim our addresses, trying again", "interface", e.name, "error", err)
				}
				retry.Reset(watchRetry)
				continue
			}
			delete(said, e)
			conns[e] = &listening{conn, mac, addrs}
			wg.Go(func() {
				w.hear(conn, e.name, mac)
				select {
				case lost <- e:
				case <-ctx.Done():
				}
			})
		}
		select {
		case <-ctx.Done():
			for _, conn := range conns {
				conn.Close()
			}
			return nil
		case <-w.wake:
		case <-retry.C:
		case e := <-lost: // the interface went down or away, or is not watched any more
			conns[e].Close()
			delete(conns, e)
			retry.Reset(watchRetry)
		}
	}
}

// openEar opens a socket for the frames of one protocol that can claim something, of ARP one of addrs.
func openEar(name string, proto frame.EtherType, addrs []netip.Addr) (*packet.Conn, frame.MAC, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, frame.MAC{}, err
	}
	mac, ok := frame.Ethernet(ifi)
	if !ok {
		return nil, mac, errNotEthernet
	}
	filter, _ := claimFilter(netip.IPv6Unspecified())
	if proto == frame.TypeARP {
		filter = othersFilter(mac, addrs)
	}
	conn, err := packet.Listen(ifi, packet.Raw, int(proto), &packet.Config{Filter: filter})
	if err != nil {
		return nil, mac, hint(fmt.Errorf("failed to open a packet socket on %s: %w", name, err))
	}
	return conn, mac, nil
}

// maxFiltered bounds the addresses that a filter knows; of more every frame is looked at here. Two filters have to fit the
// net.core.optmem_max of a socket, as the kernel takes the new one before it gives up the old one.
const maxFiltered = 256

// othersFilter lets the kernel drop the ARP frames in which nobody but own claims any of addrs: nearly all, the questions
// of a whole network among them, none of which is to wake this process.
func othersFilter(own frame.MAC, addrs []netip.Addr) []bpf.RawInstruction {
	const senderMAC, senderIP = frame.HeaderLen + 8, frame.HeaderLen + 14
	ret := func(n uint32) bpf.Instruction { return bpf.RetConstant{Val: n} }
	prog := []bpf.Instruction{
		bpf.LoadAbsolute{Off: senderMAC, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(own[:4]), SkipTrue: 3},
		bpf.LoadAbsolute{Off: senderMAC + 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(binary.BigEndian.Uint16(own[4:])), SkipTrue: 1},
		ret(0),
		bpf.LoadAbsolute{Off: senderIP, Size: 4},
	}
	if len(addrs) > maxFiltered {
		prog = append(prog, ret(maxFrame))
		addrs = nil
	}
	for _, a := range addrs {
		b := a.As4()
		prog = append(prog, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: 1}, ret(maxFrame))
	}
	raw, err := bpf.Assemble(append(prog, ret(0)))
	if err != nil {
		panic(fmt.Sprintf("arp: %v", err))
	}
	return raw
}

// hear takes in what it reads until the socket breaks or is closed.
func (w *Watcher) hear(conn *packet.Conn, name string, own frame.MAC) {
	buf := make([]byte, maxFrame)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if c, ok := frame.ParseClaim(buf[:n]); ok && c.MAC != own {
			w.claimed(Claim{Interface: name, Addr: c.Addr}, c.MAC)
		}
	}
}

// claimed takes in that mac claims c, if that is watched.
func (w *Watcher) claimed(c Claim, mac frame.MAC) {
	w.mu.Lock()
	if _, watched := w.claims[c]; !watched {
		w.mu.Unlock()
		return
	}
	k := conflictKey{c, mac}
	x := w.found[k]
	if x == nil {
		if len(w.found) == maxConflicts {
			w.mu.Unlock()
			return
		}
		x = &Conflict{Interface: c.Interface, Addr: c.Addr, MAC: mac, First: time.Now()}
		w.found[k] = x
	}
	x.Count++
	x.Last = time.Now()
	told := *x
	w.mu.Unlock()
	w.notify(told)
}
