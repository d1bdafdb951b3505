package proof

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/packet"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/arp/frame"
)

// Result of a proof.
type Result uint8

const (
	Unproven Result = iota
	Silent
	Answers
)

func (r Result) String() string {
	switch r {
	case Unproven:
		return "unproven"
	case Silent:
		return "silent"
	case Answers:
		return "answers"
	}
	return fmt.Sprintf("Result(%d)", uint8(r))
}

// MarshalText implements encoding.TextMarshaler.
func (r Result) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Interface is where a question is put in. It has to be up, with carrier, speak Ethernet and ARP, and not
// be a port of a bridge or bond, which the kernel's IP does not see.
type Interface struct {
	Index int
	Name  string
	MAC   frame.MAC
	Own   []netip.Addr // its addresses that are in full use; one of each family serves as control
}

// Verdict is what was found out about one address on one interface.
type Verdict struct {
	Addr      netip.Addr `json:"address"`
	Interface string     `json:"interface"`
	Result    Result     `json:"result"`
	Reason    string     `json:"reason,omitempty"` // why unproven, or what the proof of silence lacks
}

const (
	// chunk is how many addresses are asked for before the control: so many answers, and blindChunk
	// questions and answers, fit a socket's buffer many times (212,992 bytes by default; an answer counts
	// for some 800, a question, which has a page of its own, for 5,000).
	chunk      = 32
	blindChunk = 8
	// controlTries and controlWait bound the wait for the control's answer, which an idle kernel gives
	// before the injection returns.
	controlTries = 3
	controlWait  = 250 * time.Millisecond
	// grace is how much longer to listen: with packet steering (RPS) another processor may still be
	// dealing with an earlier question.
	grace = 20 * time.Millisecond
	// blindWait takes the place of the control where there is none.
	blindWait = 100 * time.Millisecond
)

// Prover proves. It is not safe for concurrent use.
type Prover struct {
	log  *slog.Logger
	ways []way // in the order of preference
}

// way is one of the ways to put frames into the kernel.
type way interface {
	String() string
	// open prepares for an interface; the error says why it cannot be done this way.
	open(ifi Interface) (injector, error)
	close()
}

// injector makes one interface receive frames.
type injector interface {
	inject(frame []byte) error
	close()
}

// New returns a Prover. It needs CAP_NET_RAW, CAP_NET_ADMIN and, for BPF, CAP_BPF.
func New(log *slog.Logger) *Prover {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Prover{log: log, ways: []way{&xdp{}, &redirect{}}}
}

// Close frees what the Prover holds in the kernel.
func (p *Prover) Close() {
	for _, w := range p.ways {
		w.close()
	}
}

// Prove returns a verdict for each of addrs, in their order. It takes some 20 ms for each family and less
// than a millisecond for each address; a second at most when the control is not answered.
func (p *Prover) Prove(ctx context.Context, ifi Interface, addrs []netip.Addr) []Verdict {
	verdicts := make([]Verdict, len(addrs))
	var families [2]map[netip.Addr]*Verdict
	for i, a := range addrs {
		verdicts[i] = Verdict{Addr: a, Interface: ifi.Name}
		f := 0
		if a.Is6() {
			f = 1
		}
		if families[f] == nil {
			families[f] = make(map[netip.Addr]*Verdict)
		}
		families[f][a] = &verdicts[i]
	}
	for f, list := range families {
		if len(list) == 0 {
			continue
		}
		reason, err := p.proveFamily(ctx, ifi, f == 0, list)
		for _, v := range list {
			switch {
			case v.Result == Answers:
			case err != nil:
				v.Reason = err.Error()
			default:
				v.Result, v.Reason = Silent, reason
			}
		}
	}
	return verdicts
}

// proveFamily asks for addresses of one family, and notes those that were answered for. If it returns no
// error the others were not; reason is what that lacks as a proof.
func (p *Prover) proveFamily(ctx context.Context, ifi Interface, ipv4 bool, list map[netip.Addr]*Verdict) (reason string, err error) {
	asker := newAsker(ipv4)
	var control netip.Addr
	for _, own := range ifi.Own {
		if own.Is4() == ipv4 && list[own] == nil {
			control = own
			break
		}
	}
	size := chunk
	if !control.IsValid() {
		size = blindChunk
	}
	conn, err := listen(ifi, asker.mac, !control.IsValid())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	inj, err := p.open(ifi)
	if err != nil {
		return "", err
	}
	defer inj.close()
	defer asker.forget(ifi.Index)

	w := &watch{conn: conn, asker: asker.mac, list: list}
	for part := range slices.Chunk(slices.SortedFunc(maps.Keys(list), netip.Addr.Compare), size) {
		for _, a := range part {
			for _, f := range [][]byte{frame.Question(asker.mac, asker.source, a), frame.DirectQuestion(ifi.MAC, asker.mac, asker.source, a)} {
				if err := inj.inject(f); err != nil {
					return "", err
				}
			}
		}
		if control.IsValid() {
			err = p.control(ctx, w, inj, asker, ifi, control)
		} else {
			err = w.arrival(ctx, 2*len(part))
		}
		if err != nil {
			return "", err
		}
	}
	wait := grace
	if !control.IsValid() {
		wait = blindWait
		reason = fmt.Sprintf("without control: %s has no address of this family that must be answered for", ifi.Name)
	}
	if _, err := w.until(ctx, wait, nil); err != nil {
		return "", err
	}
	// An answer that was dropped must not pass for silence.
	if st, err := conn.Stats(); err != nil {
		return "", fmt.Errorf("failed to ask whether all answers were seen: %w", err)
	} else if st.Drops > 0 {
		return "", fmt.Errorf("%d frames were not seen, because this host sends too many answers at once", st.Drops)
	}
	return reason, nil
}

// control asks for an address that must be answered for, and waits for the answer.
func (p *Prover) control(ctx context.Context, w *watch, inj injector, asker asker, ifi Interface, own netip.Addr) error {
	for range controlTries {
		if err := inj.inject(frame.Question(asker.mac, asker.source, own)); err != nil {
			return err
		}
		answered, err := w.until(ctx, controlWait, func(c frame.Claim, _ bool) bool { return c.Addr == own && c.To == asker.mac })
		if err != nil || answered {
			return err
		}
	}
	return fmt.Errorf("the control failed: the kernel did not answer for %s, which %s has, either", own, ifi.Name)
}

// open finds a way in, and forgets ways that do not work on this kernel.
func (p *Prover) open(ifi Interface) (injector, error) {
	var errs []error
	for _, w := range p.ways {
		inj, err := w.open(ifi)
		if err == nil {
			return inj, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", w, err))
	}
	return nil, fmt.Errorf("no way to put a question into the kernel: %w", joined(errs))
}

// joined prints errors in one line.
type joined []error

func (j joined) Error() string {
	s := ""
	for i, err := range j {
		if i > 0 {
			s += "; "
		}
		s += err.Error()
	}
	return s
}

func (j joined) Unwrap() []error { return j }

// asker is the neighbour that does not exist.
type asker struct {
	mac    frame.MAC
	source netip.Addr // IPv6 only
}

func newAsker(ipv4 bool) asker {
	// Locally administered, unicast.
	mac := frame.MAC{0x02}
	_, _ = rand.Read(mac[1:]) // never fails
	if ipv4 {
		return asker{mac: mac}
	}
	// Modified EUI-64 (RFC 4291 appendix A).
	return asker{mac: mac, source: netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]})}
}

// forget removes what the kernel has learnt of an IPv6 asker; it would look for it later.
func (a asker) forget(index int) {
	if a.source.IsValid() {
		_ = netlink.NeighDel(&netlink.Neigh{LinkIndex: index, Family: unix.AF_INET6, IP: a.source.AsSlice()})
	}
}

// watch reads what a packet socket on the interface sees.
type watch struct {
	conn  *packet.Conn
	asker frame.MAC
	list  map[netip.Addr]*Verdict
	buf   [512]byte
}

// arrival waits until n questions have been seen to arrive.
func (w *watch) arrival(ctx context.Context, n int) error {
	all, err := w.until(ctx, controlWait, func(_ frame.Claim, injected bool) bool {
		if injected {
			n--
		}
		return n == 0
	})
	if err == nil && !all {
		err = errors.New("the questions put into the kernel did not all show up on the interface")
	}
	return err
}

// until notes answers until done is true of a frame or d has passed. A frame is a claim, which left the
// host, or injected, a question that arrived.
func (w *watch) until(ctx context.Context, d time.Duration, done func(c frame.Claim, injected bool) bool) (bool, error) {
	deadline := time.Now().Add(d)
	for ctx.Err() == nil {
		if err := w.conn.SetReadDeadline(deadline); err != nil {
			return false, err
		}
		n, _, err := w.conn.ReadFrom(w.buf[:])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("failed to watch the interface: %w", err)
		}
		injected := n >= frame.HeaderLen && frame.MAC(w.buf[6:12]) == w.asker
		c, ok := frame.ParseClaim(w.buf[:n])
		if ok && !injected {
			// To whomever the answer went: the host answers.
			if v := w.list[c.Addr]; v != nil {
				v.Result = Answers
			}
		}
		if done != nil && (ok || injected) && done(c, injected) {
			return true, nil
		}
	}
	return false, ctx.Err()
}

// listen opens a packet socket for the answers that leave by ifi and, if questions is set, the questions
// of the asker that arrive there.
func listen(ifi Interface, asker frame.MAC, questions bool) (*packet.Conn, error) {
	incoming := bpf.Instruction(bpf.LoadAbsolute{Off: 6, Size: 4})
	if !questions {
		incoming = bpf.RetConstant{Val: 0}
	}
	hi, lo := binary.BigEndian.Uint32(asker[:4]), uint32(binary.BigEndian.Uint16(asker[4:]))
	filter, err := bpf.Assemble([]bpf.Instruction{
		/* 0 */ bpf.LoadExtension{Num: bpf.ExtType},
		/* 1 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 5},
		// Incoming: from the asker.
		/* 2 */ incoming,
		/* 3 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: hi, SkipTrue: 12},
		/* 4 */ bpf.LoadAbsolute{Off: 10, Size: 2},
		/* 5 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: lo, SkipTrue: 9},
		/* 6 */ bpf.RetConstant{Val: 0},
		// Outgoing: ARP replies and neighbour advertisements.
		/* 7 */ bpf.LoadAbsolute{Off: 12, Size: 2},
		/* 8 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(frame.TypeARP), SkipTrue: 2},
		/* 9 */ bpf.LoadAbsolute{Off: frame.HeaderLen + 6, Size: 2},
		/* 10 */ bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(frame.OpReply), SkipTrue: 4, SkipFalse: 5},
		/* 11 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(frame.TypeIPv6), SkipTrue: 4},
		/* 12 */ bpf.LoadAbsolute{Off: frame.HeaderLen + 6, Size: 1},
		/* 13 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 2},
		/* 14 */ bpf.Jump{Skip: 2},
		/* 15 */ bpf.RetConstant{Val: 512},
		/* 16 */ bpf.RetConstant{Val: 0},
		/* 17 */ bpf.LoadAbsolute{Off: frame.HeaderLen + 40, Size: 1},
		/* 18 */ bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 136, SkipTrue: 1},
		/* 19 */ bpf.RetConstant{Val: 512},
		/* 20 */ bpf.RetConstant{Val: 0},
	})
	if err != nil {
		panic(fmt.Sprintf("proof: %v", err))
	}
	conn, err := packet.Listen(&net.Interface{Index: ifi.Index}, packet.Raw, unix.ETH_P_ALL, &packet.Config{Filter: filter})
	if err != nil {
		hint := ""
		if errors.Is(err, unix.EPERM) {
			hint = " (needs root or CAP_NET_RAW)"
		}
		return nil, fmt.Errorf("failed to open a packet socket on %s: %w%s", ifi.Name, err, hint)
	}
	return conn, nil
}
