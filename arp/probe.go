package arp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"

	"github.com/drover-lb/drover/arp/frame"
)

// MaxAnswers bounds how many different MACs a probe tells apart.
const MaxAnswers = 1024

// DefaultInterval is the time between the questions of a probe.
const DefaultInterval = 200 * time.Millisecond

// Answer is a MAC that claimed the address.
type Answer struct {
	MAC     frame.MAC
	First   time.Duration // when it was first heard, after the first question
	Last    time.Duration // when it was last heard
	Count   int           // frames
	Unasked int           // of these, how many were announcements or questions sent from the address
}

// Result is what a probe heard.
type Result struct {
	Interface string
	Addr      netip.Addr
	Source    netip.Addr // of the questions; invalid when the interface has no fitting address
	Asked     int
	Answers   []Answer // in the order in which they were first heard
	More      bool     // there were more than MaxAnswers
}

// Prober asks who has an address. The zero value is ready for use.
type Prober struct {
	Interval time.Duration // between questions, at least 1 ms; default DefaultInterval
	Count    int           // questions; 0: as many as fit the window
	// Notify, when given, is called for every frame that claims the address. It must return quickly.
	Notify func(mac frame.MAC, kind frame.Kind, after time.Duration)
}

// Probe asks with the defaults: see [Prober.Probe].
func Probe(ctx context.Context, iface string, addr netip.Addr, window time.Duration) (Result, error) {
	return Prober{}.Probe(ctx, iface, addr, window)
}

// Probe asks on an interface who has addr, and listens for window. It returns every MAC that claims the
// address, in answers or otherwise, except for this host's own. It ends early, without an error, when ctx does.
//
// For IPv4 every other question is the probe form of RFC 5227, which names no asker: hosts that refuse to
// answer to an address of another subnet answer that. The others come from an address of the interface in
// the subnet of addr, if it has one, as the requests of an ordinary neighbour do. For IPv6 they come from
// a link-local address, so that answers go to this host alone; without one they take the form of duplicate
// address detection, and answers go to all.
func (p Prober) Probe(ctx context.Context, iface string, addr netip.Addr, window time.Duration) (Result, error) {
	res := Result{Interface: iface, Addr: addr}
	if p.Interval == 0 {
		p.Interval = DefaultInterval
	}
	switch {
	case !addr.IsValid() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || addr.Is4In6() || addr.Zone() != "":
		return res, fmt.Errorf("%s is not an address that a host on a link can have", addr)
	case window <= 0 || p.Interval < time.Millisecond || p.Count < 0:
		return res, fmt.Errorf("window %s, interval %s, count %d: must be above 0, at least 1ms, at least 0", window, p.Interval, p.Count)
	}
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return res, fmt.Errorf("interface %q: %w", iface, err)
	}
	mac, ok := frame.Ethernet(ifi)
	if !ok {
		return res, fmt.Errorf("interface %q: %w", iface, errNotEthernet)
	}
	if ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagRunning == 0 {
		return res, fmt.Errorf("interface %q: %w", iface, errDown)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return res, fmt.Errorf("failed to list the addresses of %q: %w", iface, err)
	}
	res.Source = source(addrs, addr)

	filter, proto := claimFilter(addr)
	conn, err := packet.Listen(ifi, packet.Raw, int(proto), &packet.Config{Filter: filter})
	if err != nil {
		return res, hint(fmt.Errorf("failed to open a packet socket on %s: %w", iface, err))
	}
	defer conn.Close()
	start := time.Now()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(start) })
	defer stop()

	end := start.Add(window)
	ask := start
	buf := make([]byte, 2048)
	for {
		now := time.Now()
		if ctx.Err() != nil || !now.Before(end) {
			return res, nil
		}
		if !now.Before(ask) && (p.Count == 0 || res.Asked < p.Count) {
			from := res.Source
			if addr.Is4() && res.Asked%2 == 1 {
				from = netip.Addr{}
			}
			if err := send(conn, frame.Question(mac, from, addr)); err != nil {
				return res, fmt.Errorf("failed to ask for %s on %s: %w", addr, iface, err)
			}
			res.Asked++
			// A question that is late is not made up for by two at once.
			ask = start.Add(p.Interval * (time.Since(start)/p.Interval + 1))
		}
		deadline := end
		if (p.Count == 0 || res.Asked < p.Count) && ask.Before(end) {
			deadline = ask
		}
		if err := conn.SetReadDeadline(deadline); err != nil {
			return res, err
		}
		if ctx.Err() != nil { // it may have set its deadline just before we set ours
			return res, nil
		}
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				continue
			}
			return res, fmt.Errorf("failed to listen on %s: %w", iface, err)
		}
		c, ok := frame.ParseClaim(buf[:n])
		if !ok || c.Addr != addr || c.MAC == mac {
			continue
		}
		after := time.Since(start)
		res.add(c, after)
		if p.Notify != nil {
			p.Notify(c.MAC, c.Kind, after)
		}
	}
}

func (r *Result) add(c frame.Claim, after time.Duration) {
	i := slices.IndexFunc(r.Answers, func(a Answer) bool { return a.MAC == c.MAC })
	if i < 0 {
		if len(r.Answers) == MaxAnswers {
			r.More = true
			return
		}
		i = len(r.Answers)
		r.Answers = append(r.Answers, Answer{MAC: c.MAC, First: after})
	}
	a := &r.Answers[i]
	a.Last = after
	a.Count++
	// The answer to duplicate address detection looks like an announcement.
	if c.Kind == frame.AskedAsOwner || c.Kind == frame.Announced && (r.Addr.Is4() || r.Source.IsValid()) {
		a.Unasked++
	}
}

// source picks the address that questions for target come from: of the interface's, never target itself,
// because that would claim it.
func source(addrs []net.Addr, target netip.Addr) netip.Addr {
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		own, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		own = own.Unmap()
		switch {
		case own == target || own.Is4() != target.Is4():
		case target.Is6() && own.IsLinkLocalUnicast():
			return own
		case target.Is4() && n.Contains(target.AsSlice()):
			return own
		}
	}
	return netip.Addr{}
}

// claimFilter lets the kernel drop what cannot be a claim of addr; on a busy host that is nearly everything.
func claimFilter(addr netip.Addr) ([]bpf.RawInstruction, frame.EtherType) {
	const all = 2048
	prog, proto := []bpf.Instruction{
		bpf.LoadAbsolute{Off: frame.HeaderLen + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 58, SkipTrue: 4},
		bpf.LoadAbsolute{Off: frame.HeaderLen + 40, Size: 1}, // ICMPv6 type: 135 solicitation, 136 advertisement
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 135, SkipTrue: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 136, SkipTrue: 1},
		bpf.RetConstant{Val: all},
		bpf.RetConstant{Val: 0},
	}, frame.TypeIPv6
	if addr.Is4() {
		b := addr.As4()
		prog, proto = []bpf.Instruction{
			bpf.LoadAbsolute{Off: frame.HeaderLen + 14, Size: 4}, // sender's address
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(b[:]), SkipTrue: 1},
			bpf.RetConstant{Val: all},
			bpf.RetConstant{Val: 0},
		}, frame.TypeARP
	}
	raw, err := bpf.Assemble(prog)
	if err != nil {
		panic(fmt.Sprintf("arp: %v", err))
	}
	return raw, proto
}
