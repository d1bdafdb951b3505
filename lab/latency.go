package lab

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/lab/probe"
)

// rawLatency expects how long new connections, or datagrams, take at most for some percent of them, and may compare that
// with an earlier time.
type rawLatency struct {
	Probe    conf.Value        `yaml:"probe"`
	Since    conf.Value        `yaml:"since"`
	Quantile conf.Value        `yaml:"quantile"`
	Min      conf.Value        `yaml:"min"`
	Max      conf.Value        `yaml:"max"`
	Below    conf.At[rawBelow] `yaml:"below"`
}

// rawBelow is the time from one step to the beginning of another.
type rawBelow struct {
	Since conf.Value `yaml:"since"`
	To    conf.Value `yaml:"to"`
}

type checkLatency struct {
	probe, since string
	quantile     float64 // 0 .. 1
	bounds       bounds[time.Duration]
	from, to     string // the time whose latency has to be longer; empty: none
	below        bool
	words        []string
}

func (b *builder) latency(r *conf.Reader, c conf.At[rawLatency]) Check {
	out := checkLatency{probe: b.probeRef(r, c.V.Probe, c.Pos, "connect", "udp"), since: b.since(r, c.V.Since),
		quantile: readPercent(r, c.V.Quantile, "quantile", 99) / 100}
	out.bounds = bounds[time.Duration]{r.Duration(c.V.Min, "min", 0, maxTime, 0), r.Duration(c.V.Max, "max", 0, maxTime, maxTime)}
	if c.V.Min.Set {
		out.words = append(out.words, "at least "+c.V.Min.Text)
	}
	if c.V.Max.Set {
		out.words = append(out.words, "at most "+c.V.Max.Text)
	}
	if v := c.V.Below; v.Set {
		in := r.In("below")
		in.Required(v.V.Since, "since", v.Pos)
		in.Required(v.V.To, "to", v.Pos)
		out.below, out.from, out.to = true, b.since(in, v.V.Since), b.since(in, v.V.To)
		out.words = append(out.words, fmt.Sprintf("below that from %s to %s", out.from, out.to))
	}
	if len(out.words) == 0 {
		r.Errorf(c.Pos, "", "expects nothing: give at least one of min, max, below")
	}
	return out
}

func (c checkLatency) name() string { return fmt.Sprintf("p%.4g", c.quantile*100) }

func (c checkLatency) describe() string {
	return fmt.Sprintf("%s: %s %s%s", c.probe, c.name(), strings.Join(c.words, ", "), suffix(" since ", c.since))
}

func (c checkLatency) check(_ context.Context, r *run) (string, bool) {
	series := r.procs[c.probe].series
	now := series.Latencies(r.window(c.since))
	got, ok := quantile(now, c.quantile)
	text := fmt.Sprintf("%s %s, p50 %s of %d", c.name(), round(got), round(half(now)), len(now))
	ok = ok && c.bounds.holds(got)
	if c.below {
		before := series.Latencies(probe.Window{From: r.marks[c.from], To: r.marks[c.to]})
		was, known := quantile(before, c.quantile)
		text += fmt.Sprintf("; from %s to %s %s %s, p50 %s of %d", c.from, c.to, c.name(), round(was), round(half(before)), len(before))
		ok = ok && known && got < was
	}
	return text, ok
}

// quantile is the least of sorted times that a part q of them does not exceed; ok is false if there is none.
func quantile(sorted []time.Duration, q float64) (d time.Duration, ok bool) {
	if len(sorted) == 0 {
		return 0, false
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)], true
}

func half(sorted []time.Duration) time.Duration {
	d, _ := quantile(sorted, 0.5)
	return d
}
