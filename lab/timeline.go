package lab

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/drover-lb/drover/lab/probe"
)

// timeline is a picture: the answered connections a bucket, stacked by real server, the failed ones
// above them, and the faults as marked lines. It is an SVG so that text stays text.
type timeline struct {
	Title, Probe  string
	Width, Height int
	Bars          []bar
	Marks         []mark
	Legend        []legend
	XTicks        []tick
	YTicks        []tick
	Left, Bottom  int
	Top, Right    int
	Bucket        time.Duration
}

type bar struct {
	X, Y, W, H float64
	Colour     string
	Tip        string
}

type mark struct {
	X      float64
	LabelY int
	Text   string
}

type legend struct {
	X            int
	Colour, Text string
}

type tick struct {
	At   float64
	Text string
}

// palette: colours that people with any colour vision tell apart (Okabe and Ito); failures are red.
var palette = []string{"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#f0e442", "#999999"}

const failColour = "#d62728"

//go:embed timeline.svg.tmpl
var timelineSource string

// timelineTemplate is parsed when it is used: this package is in a program that mostly does something else.
var timelineTemplate = sync.OnceValue(func() *template.Template {
	return template.Must(template.New("timeline").Parse(timelineSource))
})

func (t *timeline) write(w io.Writer) error { return timelineTemplate().Execute(w, t) }

// makeTimeline draws the connect probe that the lab names, or else the first one that ran.
func (r *run) makeTimeline(w probe.Window) *timeline {
	var chosen *process
	for _, p := range r.order {
		if p.Probe != nil && p.Probe.Kind == "connect" && len(p.series.Events()) > 0 && (p.Ref() == r.timelineFor || r.timelineFor == "" && chosen == nil) {
			chosen = p
		}
	}
	if chosen == nil {
		return nil
	}
	var faults []StepReport
	for _, s := range r.report.Steps {
		if s.Fault != "" {
			faults = append(faults, s)
		}
	}
	return draw(r.Title, chosen.Ref(), chosen.series.Events(), faults, r.start, w.To)
}

// draw lays out the picture; from and to are readings of the events' clock, faults count from from.
func draw(title, name string, events []probe.Event, faults []StepReport, from, to time.Duration) *timeline {
	t := &timeline{Title: title, Probe: name, Width: 1100, Height: 420, Left: 60, Bottom: 40, Right: 20, Top: 120}
	span := max(to-from, time.Second)
	t.Bucket = 100 * time.Millisecond
	for span/t.Bucket > 250 {
		t.Bucket *= 2
	}
	n := int(span/t.Bucket) + 1
	servers := []string{}
	ok := map[string][]int{}
	failed := make([]int, n)
	for _, e := range events {
		i := int((e.At - from) / t.Bucket)
		if i < 0 || i >= n {
			continue
		}
		switch e.Kind {
		case probe.OK:
			if ok[e.Server] == nil {
				ok[e.Server] = make([]int, n)
				servers = append(servers, e.Server)
			}
			ok[e.Server][i]++
		case probe.Fail:
			failed[i]++
		}
	}
	slices.Sort(servers)
	top := 1
	for i := range n {
		sum := failed[i]
		for _, s := range servers {
			sum += ok[s][i]
		}
		top = max(top, sum)
	}
	plotW, plotH := float64(t.Width-t.Left-t.Right), float64(t.Height-t.Top-t.Bottom)
	x := func(d time.Duration) float64 { return float64(t.Left) + plotW*float64(d)/float64(span) }
	y := func(v int) float64 { return float64(t.Height-t.Bottom) - plotH*float64(v)/float64(top) }
	layer := func(i, base, v int, colour, name string) int {
		if v == 0 {
			return base
		}
		at := time.Duration(i) * t.Bucket
		t.Bars = append(t.Bars, bar{X: x(at), Y: y(base + v), W: plotW*float64(t.Bucket)/float64(span) - 0.4, H: y(base) - y(base+v), Colour: colour,
			Tip: fmt.Sprintf("%s: %d from %.1f s", name, v, at.Seconds())})
		return base + v
	}
	for i := range n {
		base := 0
		for k, s := range servers {
			base = layer(i, base, ok[s][i], palette[k%len(palette)], s)
		}
		layer(i, base, failed[i], failColour, "failed")
	}
	lx := t.Left
	for k, s := range append(slices.Clone(servers), "failed") {
		colour := failColour
		if k < len(servers) {
			colour = palette[k%len(palette)]
		}
		t.Legend = append(t.Legend, legend{X: lx, Colour: colour, Text: s})
		lx += 34 + 8*len(s)
	}
	for k, f := range faults {
		t.Marks = append(t.Marks, mark{X: x(f.At), LabelY: 58 + 13*(k%4), Text: f.Fault})
	}
	step := time.Second
	for span/step > 15 {
		step *= 2
	}
	for at := time.Duration(0); at <= span; at += step {
		t.XTicks = append(t.XTicks, tick{At: x(at), Text: fmt.Sprintf("%g s", at.Seconds())})
	}
	for _, v := range []int{0, top / 2, top} {
		perSecond := float64(v) / t.Bucket.Seconds()
		t.YTicks = append(t.YTicks, tick{At: y(v), Text: fmt.Sprintf("%.0f/s", perSecond)})
	}
	return t
}

// The template needs the edges of the plot as numbers.

// PlotBottom is the y of the time axis.
func (t *timeline) PlotBottom() int { return t.Height - t.Bottom }

// PlotRight is the x where the plot ends.
func (t *timeline) PlotRight() int { return t.Width - t.Right }
