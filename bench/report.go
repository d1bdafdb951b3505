package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Unit is what a figure counts.
type Unit string

const (
	Seconds Unit = "s"
	Bytes   Unit = "bytes"
	Percent Unit = "%"
	Count   Unit = "count"
)

// Figure is what was measured, once or several times. Without samples it was not measured, because
// there is no such thing to measure.
type Figure struct {
	Unit    Unit      `json:"unit"`
	Samples []float64 `json:"samples"`
}

// Measured reports whether there is anything.
func (f Figure) Measured() bool { return len(f.Samples) > 0 }

// Median is the middle sample, or the mean of the two in the middle; NaN if there is none.
func (f Figure) Median() float64 {
	n := len(f.Samples)
	if n == 0 {
		return math.NaN()
	}
	s := slices.Sorted(slices.Values(f.Samples))
	return (s[(n-1)/2] + s[n/2]) / 2
}

// String is the median for people.
func (f Figure) String() string {
	m := f.Median()
	switch {
	case !f.Measured():
		return "-"
	case f.Unit == Seconds && m < 1:
		return fmt.Sprintf("%.1f ms", m*1e3)
	case f.Unit == Seconds:
		return fmt.Sprintf("%.2f s", m)
	case f.Unit == Bytes:
		return fmt.Sprintf("%.1f MiB", m/(1<<20))
	case f.Unit == Percent:
		return fmt.Sprintf("%.2f %%", m)
	}
	return fmt.Sprintf("%g", m)
}

func (f *Figure) took(d time.Duration) {
	f.Unit = Seconds
	f.Samples = append(f.Samples, d.Seconds())
}

func (f *Figure) counted(u Unit, n float64) {
	f.Unit = u
	f.Samples = append(f.Samples, n)
}

// Target is what a row is to reach; the zero value is none. A bound holds for the median.
type Target struct {
	Ratio  float64  // at least: the peer's figure by Drover's
	AtMost *float64 // Drover's figure
	Below  *float64 // Drover's figure
}

func (t Target) string(u Unit) string {
	bound := func(v float64) string { return Figure{Unit: u, Samples: []float64{v}}.String() }
	switch {
	case t.Ratio > 0:
		return fmt.Sprintf("ratio >= %g", t.Ratio)
	case t.AtMost != nil:
		return "<= " + bound(*t.AtMost)
	case t.Below != nil:
		return "< " + bound(*t.Below)
	}
	return ""
}

func atMost(v float64) Target { return Target{AtMost: &v} }
func below(v float64) Target  { return Target{Below: &v} }

// Row is one thing that was measured.
type Row struct {
	What   string
	Drover Figure
	Peer   Figure // the same done by the peer of the section, if it can
	Target Target
}

// Ratio is how many times Drover's figure the peer's is; NaN where one of them is missing.
func (r *Row) Ratio() float64 { return r.Peer.Median() / r.Drover.Median() }

// Met reports whether the target is met; ok is false if there is none.
func (r *Row) Met() (met, ok bool) {
	switch t := r.Target; {
	case t.Ratio > 0:
		return r.Ratio() >= t.Ratio, true
	case t.AtMost != nil:
		return r.Drover.Median() <= *t.AtMost, true
	case t.Below != nil:
		return r.Drover.Median() < *t.Below, true
	}
	return false, false
}

type jsonFigure struct {
	Unit    Unit      `json:"unit"`
	Median  float64   `json:"median"`
	Samples []float64 `json:"samples"`
}

type jsonRow struct {
	What   string      `json:"what"`
	Drover *jsonFigure `json:"drover"`
	Peer   *jsonFigure `json:"peer,omitempty"`
	Ratio  *float64    `json:"ratio,omitempty"`
	Target string      `json:"target,omitempty"`
	Met    *bool       `json:"met,omitempty"`

	// The target again, for programs.
	MinRatio float64  `json:"min_ratio,omitempty"`
	AtMost   *float64 `json:"at_most,omitempty"`
	Below    *float64 `json:"below,omitempty"`
}

// MarshalJSON adds what follows from the samples.
func (r Row) MarshalJSON() ([]byte, error) {
	figure := func(f Figure) *jsonFigure {
		if !f.Measured() {
			return nil
		}
		return &jsonFigure{f.Unit, f.Median(), f.Samples}
	}
	j := jsonRow{What: r.What, Drover: figure(r.Drover), Peer: figure(r.Peer), Target: r.Target.string(r.Drover.Unit),
		MinRatio: r.Target.Ratio, AtMost: r.Target.AtMost, Below: r.Target.Below}
	if v := r.Ratio(); !math.IsNaN(v) && !math.IsInf(v, 0) {
		j.Ratio = &v
	}
	if met, ok := r.Met(); ok {
		j.Met = &met
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (r *Row) UnmarshalJSON(b []byte) error {
	var j jsonRow
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	*r = Row{What: j.What, Target: Target{Ratio: j.MinRatio, AtMost: j.AtMost, Below: j.Below}}
	if j.Drover != nil {
		r.Drover = Figure{j.Drover.Unit, j.Drover.Samples}
	}
	if j.Peer != nil {
		r.Peer = Figure{j.Peer.Unit, j.Peer.Samples}
	}
	return nil
}

// Section is one table.
type Section struct {
	Name  string   `json:"name"` // one word, for --only
	Title string   `json:"title"`
	Peer  string   `json:"peer,omitempty"` // whom Drover is compared with
	Notes []string `json:"notes,omitempty"`
	Rows  []Row    `json:"rows"`
	Error string   `json:"error,omitempty"` // why something of it could not be measured
}

// Report is all tables of one boot.
type Report struct {
	Started  time.Time `json:"started"`
	Kernel   string    `json:"kernel"`
	Runs     int       `json:"runs"` // of which a figure is the median
	Load     string    `json:"load"` // of the machine when it began, as /proc/loadavg
	Sections []Section `json:"sections"`
}

func (r *Report) add(s Section, err error) {
	if err != nil {
		s.Error = err.Error()
	}
	r.Sections = append(r.Sections, s)
}

// err says which sections could not be measured.
func (r *Report) err() error {
	var errs []error
	for i := range r.Sections {
		if s := &r.Sections[i]; s.Error != "" {
			errs = append(errs, fmt.Errorf("%s: not measured: %s", s.Name, s.Error))
		}
	}
	return errors.Join(errs...)
}

// Print writes the tables.
func (r *Report) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Drover on Linux %s; medians of %d. Ratio: how many times Drover's figure the other's is.\n", r.Kernel, r.Runs)
	fmt.Fprintf(&b, "Load of the machine when it began: %s. Figures are noisy on one that has something else to do.\n", r.Load)
	met, of := 0, 0
	for i := range r.Sections {
		s := &r.Sections[i]
		fmt.Fprintf(&b, "\n%s\n\n", s.Title)
		tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		head := []string{"", "drover", s.Peer, "ratio", "target", "met"}
		lines := [][]string{head}
		for i := range s.Rows {
			row := &s.Rows[i]
			ratio, yes := "-", ""
			if v := row.Ratio(); !math.IsNaN(v) && !math.IsInf(v, 0) {
				ratio = fmt.Sprintf("%.1f", v)
			}
			if ok, has := row.Met(); has {
				of++
				if yes = "no"; ok {
					yes = "yes"
					met++
				}
			}
			lines = append(lines, []string{row.What, row.Drover.String(), row.Peer.String(), ratio, row.Target.string(row.Drover.Unit), yes})
		}
		for _, l := range lines {
			if s.Peer == "" { // nobody to compare with
				l = slices.Delete(l, 2, 4)
			}
			fmt.Fprintln(tw, "  "+strings.Join(l, "\t"))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		for _, n := range s.Notes {
			fmt.Fprintf(&b, "  * %s\n", n)
		}
		if s.Error != "" {
			fmt.Fprintf(&b, "  NOT MEASURED: %s\n", s.Error)
		}
	}
	fmt.Fprintf(&b, "\n%d of %d targets met.\n", met, of)
	_, err := io.WriteString(w, b.String())
	return err
}
