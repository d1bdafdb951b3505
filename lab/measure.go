package lab

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
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
	return m
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
	return strings.Join(parts, "; ")
}

func (r *run) measure(m Measure) (string, error) {
	w := r.window(m.Since)
	f := FaultReport{System: m.System, Fault: m.Fault, GapMedian: m.Median, GapP95: m.P95, GapBelow: m.Below}
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
	r.report.Faults = append(r.report.Faults, f)
	return f.String(), nil
}
