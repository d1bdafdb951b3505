package lab

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/lab/probe"
)

// Measure writes down what a fault has cost, for the report and for the distribution over many rounds.
type Measure struct {
	System, Fault string
	Since         string
	Connections   string // probe, or empty
	Streams       string // probe, or empty
	Address       netip.Addr
	claimants     []string
	Median, P95   time.Duration // bounds of the gap over many rounds; 0: none
	Below         string        // the system whose median gap is to be longer; empty: none

	// Misdirected asks for the last connection that failed; or, with Right, for the last time that another host than
	// those answered for Address.
	Misdirected         bool
	Right               []string
	timeout             time.Duration // of Connections
	LastMedian, LastMax time.Duration // bounds of that over many rounds; 0: none
	// Reason is the command that shows an operator what is wrong, and the group of its output is what it shows.
	Reason *Command
}

type rawMeasure struct {
	System      conf.Value `yaml:"system"`
	Fault       conf.Value `yaml:"fault"`
	Since       conf.Value `yaml:"since"`
	Connections conf.Value `yaml:"connections"`
	Streams     conf.Value `yaml:"streams"`
	Address     conf.Value `yaml:"address"`
	GapMedian   conf.Value `yaml:"gap_median"`
	GapP95      conf.Value `yaml:"gap_p95"`
	GapBelow    conf.Value `yaml:"gap_below"`

	Misdirected conf.Value          `yaml:"misdirected"`
	Hosts       conf.List           `yaml:"hosts"`
	LastMedian  conf.Value          `yaml:"last_median"`
	LastMax     conf.Value          `yaml:"last_max"`
	Reason      conf.At[rawCommand] `yaml:"reason"`
}

func (b *builder) measure(r *conf.Reader, v conf.At[rawMeasure]) Action {
	m := Measure{System: r.String(v.V.System, filepath.Base(b.Folder)), Since: b.since(r, v.V.Since)}
	if r.Required(v.V.Since, "since", v.Pos) {
		m.Fault = r.String(v.V.Fault, v.V.Since.Text)
	}
	if v.V.Connections.Set {
		m.Connections = b.probeRef(r, v.V.Connections, v.Pos, "connect", "udp")
	}
	if v.V.Streams.Set {
		m.Streams = b.probeRef(r, v.V.Streams, v.Pos, "stream")
	}
	if v.V.Address.Set {
		m.Address, m.claimants = b.watched(r, v.V.Address, v.Pos)
	}
	if !v.V.Connections.Set && !v.V.Streams.Set && !v.V.Address.Set {
		r.Errorf(v.Pos, "", "measures nothing: give at least one of connections, streams, address")
	}
	m.Median = r.Duration(v.V.GapMedian, "gap_median", time.Millisecond, maxTime, 0)
	m.P95 = r.Duration(v.V.GapP95, "gap_p95", time.Millisecond, maxTime, 0)
	m.Below = r.String(v.V.GapBelow, "")
	for _, g := range []struct {
		v    conf.Value
		name string
	}{{v.V.GapMedian, "gap_median"}, {v.V.GapP95, "gap_p95"}, {v.V.GapBelow, "gap_below"}} {
		if g.v.Set && !v.V.Connections.Set {
			r.Errorf(g.v.Pos, g.name, "bounds the gap of connections, and none are measured")
		}
	}
	b.misdirected(r, v, &m)
	return m
}

func (b *builder) misdirected(r *conf.Reader, v conf.At[rawMeasure], m *Measure) {
	m.Misdirected = r.Bool(v.V.Misdirected, "misdirected", false)
	for _, h := range v.V.Hosts {
		m.Right = append(m.Right, b.knownHost(r, h, "hosts", h.Pos))
	}
	m.LastMedian = r.Duration(v.V.LastMedian, "last_median", time.Millisecond, maxTime, 0)
	m.LastMax = r.Duration(v.V.LastMax, "last_max", time.Millisecond, maxTime, 0)
	switch {
	case !m.Misdirected && (len(m.Right) > 0 || v.V.LastMedian.Set || v.V.LastMax.Set):
		r.Errorf(v.Pos, "misdirected", "is required with hosts, last_median and last_max")
	case m.Misdirected && v.V.Since.Text == "":
		r.Errorf(v.Pos, "since", "is required with misdirected: the time is counted from the fault")
	case m.Misdirected && len(m.Right) > 0 == v.V.Connections.Set:
		r.Errorf(v.Pos, "misdirected", "is about either connections, or the address with the hosts that are to answer for it")
	case len(m.Right) > 0 && !v.V.Address.Set:
		r.Errorf(v.Pos, "hosts", "needs an address")
	}
	if p := b.process(m.Connections); p != nil && p.Probe != nil {
		m.timeout = p.Probe.Timeout
	}
	if v.V.Reason.Set {
		c := b.command(r.In("reason"), v.V.Reason).(Command)
		if c.Output == nil || c.Output.NumSubexp() < 1 {
			r.Errorf(v.V.Reason.Pos, "reason: output", "is required, with a group around what is the reason")
		}
		if len(c.SameAs) > 0 {
			r.Errorf(v.V.Reason.Pos, "reason: same_as", "cannot be compared: it is the output itself that counts")
		}
		m.Reason = &c
	}
}

func (m Measure) describe() string { return fmt.Sprintf("measure %q of %s", m.Fault, m.System) }

// FaultReport is what one fault has cost.
type FaultReport struct {
	System      string             `json:"system"`
	Fault       string             `json:"fault"`
	Connections *ConnectionsReport `json:"connections,omitempty"`
	Streams     *StreamsReport     `json:"streams,omitempty"`
	Holders     *HoldersReport     `json:"holders,omitempty"`
	GapMedian   time.Duration      `json:"gap_median_bound,omitempty"` // over many rounds
	GapP95      time.Duration      `json:"gap_p95_bound,omitempty"`
	GapBelow    string             `json:"gap_below,omitempty"` // whose median gap is to be longer, if it was measured, too
	Misdirected *MisdirectedReport `json:"misdirected,omitempty"`
	LastMedian  time.Duration      `json:"last_median_bound,omitempty"` // over many rounds
	LastMax     time.Duration      `json:"last_max_bound,omitempty"`
	Reason      string             `json:"reason,omitempty"` // as shown to an operator
}

// settled is for how long nothing may be misdirected any more before that counts as the end of it.
const settled = time.Second

// MisdirectedReport says how long after a fault connections still went where they fail, or questions for an address
// were still answered by the wrong host.
type MisdirectedReport struct {
	Count int           `json:"count"`
	Last  time.Duration `json:"last"` // when the last of them was begun, since the fault; 0 if there was none
	Over  time.Duration `json:"over"` // for so long after the fault it is known
	// Never: there were such until the end of Over, or less than a second before it.
	Never bool `json:"never,omitempty"`
}

func (m MisdirectedReport) String() string {
	switch {
	case m.Never:
		return fmt.Sprintf("misdirected to the end, %s, %d of them", round(m.Over), m.Count)
	case m.Count == 0:
		return "none misdirected"
	}
	return fmt.Sprintf("the last of %d misdirected after %s", m.Count, round(m.Last))
}

// misdirectedOf draws the conclusion: n of them in w, the last begun at last. What is begun less than unknown before the
// end of w may not have come to its end.
func misdirectedOf(n int, last time.Duration, w probe.Window, unknown time.Duration) (MisdirectedReport, error) {
	m := MisdirectedReport{Count: n, Over: w.To - w.From - unknown}
	if m.Over < settled {
		return m, fmt.Errorf("%s after the fault is too early: what was begun in the last %s is not known yet, and %s without anything misdirected are the end of it", round(w.To-w.From), unknown, settled)
	}
	if n > 0 {
		m.Last = last - w.From
		m.Never = m.Over-m.Last < settled
	}
	return m, nil
}

// ConnectionsReport sums up the new connections since the fault.
type ConnectionsReport struct {
	OK     int            `json:"ok"`
	Failed int            `json:"failed"`
	Errors map[string]int `json:"errors,omitempty"`
	Gap    time.Duration  `json:"gap"` // longest time without a new connection
}

// StreamsReport sums up the established streams since the fault.
type StreamsReport struct {
	Survived int           `json:"survived"`
	Broken   int           `json:"broken"`
	Stall    time.Duration `json:"stall"`
}

func (f FaultReport) String() string {
	var parts []string
	if c := f.Connections; c != nil {
		parts = append(parts, fmt.Sprintf("gap %s, %d connections failed%s of %d", round(c.Gap), c.Failed, inBrackets(errorsOf(c.Errors)), c.OK+c.Failed))
	}
	if s := f.Streams; s != nil {
		parts = append(parts, fmt.Sprintf("%d of %d streams survived, longest stall %s", s.Survived, s.Survived+s.Broken, round(s.Stall)))
	}
	if h := f.Holders; h != nil {
		parts = append(parts, fmt.Sprintf("%s: %s", h.Address, *h))
	}
	if f.Misdirected != nil {
		parts = append(parts, f.Misdirected.String())
	}
	if f.Reason != "" {
		parts = append(parts, fmt.Sprintf("shown as %q", f.Reason))
	}
	return strings.Join(parts, "; ")
}

func (r *run) measure(ctx context.Context, m Measure) (string, error) {
	w := r.window(m.Since)
	f := FaultReport{System: m.System, Fault: m.Fault, GapMedian: m.Median, GapP95: m.P95, GapBelow: m.Below, LastMedian: m.LastMedian, LastMax: m.LastMax}
	if m.Connections != "" {
		c := r.procs[m.Connections].series.Connections(w)
		f.Connections = &ConnectionsReport{OK: c.OK, Failed: c.Failed, Errors: c.Errors, Gap: c.Gap}
	}
	if m.Streams != "" {
		s := r.procs[m.Streams].series.Streams(w)
		f.Streams = &StreamsReport{Survived: s.Alive, Broken: s.Broken, Stall: s.Worst}
	}
	if m.Address.IsValid() {
		h, err := r.holders(m.Address, m.claimants, w)
		if err != nil {
			return "", err
		}
		f.Holders = &h
	}
	if m.Misdirected {
		x, err := r.misdirected(m, w)
		if err != nil {
			return "", err
		}
		f.Misdirected = &x
	}
	if m.Reason != nil {
		out, err := r.command(ctx, *m.Reason)
		if err != nil {
			return "", err
		}
		f.Reason = m.Reason.Output.FindStringSubmatch(out)[1]
	}
	r.report.Faults = append(r.report.Faults, f)
	return f.String(), nil
}

func (r *run) misdirected(m Measure, w probe.Window) (MisdirectedReport, error) {
	if m.Connections != "" {
		c := r.procs[m.Connections].series.Connections(w)
		return misdirectedOf(c.Failed, c.LastFailed, w, m.timeout)
	}
	n, last := 0, time.Duration(0)
	for _, ref := range m.claimants {
		k, at := r.procs[ref].series.Wrong(w, func(mac string) bool { return slices.Contains(m.Right, r.owner(mac)) })
		n, last = n+k, max(last, at)
	}
	return misdirectedOf(n, last, w, 0)
}
