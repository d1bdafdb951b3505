package lab

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/drover-lb/drover/lab/probe"
)

// Spread is a distribution.
type Spread struct {
	Median time.Duration `json:"median"`
	P95    time.Duration `json:"p95"`
	Max    time.Duration `json:"max"`
}

// spread returns nearest-rank percentiles: each is a value that was measured.
func spread(values []time.Duration) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	v := slices.Clone(values)
	slices.Sort(v)
	rank := func(percent int) time.Duration { return v[(len(v)*percent+99)/100-1] }
	return Spread{Median: rank(50), P95: rank(95), Max: v[len(v)-1]}
}

// text is "" for what was not measured.
func (s *Spread) text() string {
	if s == nil {
		return ""
	}
	return s.String()
}

func (s Spread) String() string {
	return fmt.Sprintf("%s %s %s", round(s.Median), round(s.P95), round(s.Max))
}

// FaultSummary is what a fault has cost in all rounds.
type FaultSummary struct {
	System string `json:"system"`
	Fault  string `json:"fault"`
	Rounds int    `json:"rounds"`

	Gap    *Spread        `json:"gap,omitempty"` // nil: no connections were measured
	Failed int            `json:"failed"`        // connections, in all rounds
	Of     int            `json:"connections"`
	Errors map[string]int `json:"errors,omitempty"`

	Stall    *Spread `json:"stall,omitempty"` // nil: no streams were measured
	Survived int     `json:"survived"`        // streams, in all rounds
	Broken   int     `json:"broken"`

	Overlap        *Spread       `json:"overlap,omitempty"` // nil: nobody was asked
	AddressOverlap Spread        `json:"address_overlap"`
	Coarsest       time.Duration `json:"coarsest"` // longest time between two questions in any round

	Last        *Spread        `json:"last,omitempty"` // misdirected, of the rounds in which that ended; nil: not asked for
	Misdirected int            `json:"misdirected"`    // in all rounds
	Never       int            `json:"never"`          // rounds in which it did not end
	Over        time.Duration  `json:"over"`           // for so long at least that was looked at
	Reasons     map[string]int `json:"reasons,omitempty"`

	Missed []string `json:"missed,omitempty"` // bounds that the distribution does not keep
}

// last is when the last one was misdirected.
func (s *FaultSummary) last() string {
	switch {
	case s.Last == nil:
		return ""
	case s.Never == s.Rounds:
		return fmt.Sprintf("never ended (%s)", round(s.Over))
	case s.Never > 0:
		return fmt.Sprintf("%s, never ended (%s) in %d", s.Last, round(s.Over), s.Never)
	case s.Misdirected == 0:
		return "none"
	}
	return s.Last.String()
}

// Summarise gathers the faults of many rounds, in the order in which they were first seen.
func Summarise(reports []*Report) []FaultSummary {
	type key struct{ fault, system string }
	type values struct{ gap, stall, overlap, address, last []time.Duration }
	index := map[key]int{}
	var out []FaultSummary
	var all []values
	below := map[int]string{}
	for _, rep := range reports {
		for _, f := range rep.Faults {
			k := key{f.Fault, f.System}
			i, ok := index[k]
			if !ok {
				i = len(out)
				index[k] = i
				out = append(out, FaultSummary{System: f.System, Fault: f.Fault, Errors: map[string]int{}, Reasons: map[string]int{}})
				all = append(all, values{})
			}
			s, v := &out[i], &all[i]
			s.Rounds++
			s.Missed = nil // bounds are of the whole distribution
			if c := f.Connections; c != nil {
				v.gap = append(v.gap, c.Gap)
				sp := spread(v.gap)
				s.Gap = &sp
				s.Failed += c.Failed
				s.Of += c.OK + c.Failed
				for e, n := range c.Errors {
					s.Errors[e] += n
				}
				if f.GapBelow != "" {
					below[i] = f.GapBelow
				}
				if f.GapMedian > 0 && sp.Median > f.GapMedian {
					s.Missed = append(s.Missed, fmt.Sprintf("median gap %s instead of at most %s", round(sp.Median), f.GapMedian))
				}
				if f.GapP95 > 0 && sp.P95 > f.GapP95 {
					s.Missed = append(s.Missed, fmt.Sprintf("p95 gap %s instead of at most %s", round(sp.P95), f.GapP95))
				}
			}
			if st := f.Streams; st != nil {
				v.stall = append(v.stall, st.Stall)
				sp := spread(v.stall)
				s.Stall = &sp
				s.Survived += st.Survived
				s.Broken += st.Broken
			}
			if h := f.Holders; h != nil {
				v.overlap, v.address = append(v.overlap, h.Overlap), append(v.address, h.AddressOverlap)
				sp := spread(v.overlap)
				s.Overlap, s.AddressOverlap = &sp, spread(v.address)
				s.Coarsest = max(s.Coarsest, h.Coarsest)
			}
			if m := f.Misdirected; m != nil {
				if s.Last == nil || m.Over < s.Over {
					s.Over = m.Over
				}
				if s.Misdirected += m.Count; m.Never {
					s.Never++
				} else {
					v.last = append(v.last, m.Last)
				}
				sp := spread(v.last)
				s.Last = &sp
				bounded := f.LastMedian > 0 || f.LastMax > 0
				if bounded && s.Never > 0 {
					s.Missed = append(s.Missed, fmt.Sprintf("misdirected to the end in %d of %d rounds", s.Never, s.Rounds))
				}
				if f.LastMedian > 0 && sp.Median > f.LastMedian {
					s.Missed = append(s.Missed, fmt.Sprintf("median of the last misdirected %s instead of at most %s", round(sp.Median), f.LastMedian))
				}
				if f.LastMax > 0 && sp.Max > f.LastMax {
					s.Missed = append(s.Missed, fmt.Sprintf("the last misdirected after %s instead of at most %s", round(sp.Max), f.LastMax))
				}
			}
			if f.Reason != "" {
				s.Reasons[f.Reason]++
			}
		}
	}
	for i, system := range below {
		s := &out[i]
		if k, ok := index[key{s.Fault, system}]; ok && out[k].Gap != nil && s.Gap.Median >= out[k].Gap.Median {
			s.Missed = append(s.Missed, fmt.Sprintf("median gap %s is not below the %s of %s", round(s.Gap.Median), round(out[k].Gap.Median), system))
		}
	}
	return out
}

// WriteSummary writes a table, the systems side by side for each fault, with the columns of which there is anything.
// Spreads are median, p95 and maximum.
func WriteSummary(w io.Writer, sums []FaultSummary) error {
	var faults []string
	for _, s := range sums {
		if !slices.Contains(faults, s.Fault) {
			faults = append(faults, s.Fault)
		}
	}
	type column struct {
		head string
		cell func(*FaultSummary) string // "": not measured
	}
	columns := []column{
		{"FAULT", func(s *FaultSummary) string { return s.Fault }},
		{"SYSTEM", func(s *FaultSummary) string { return s.System }},
		{"ROUNDS", func(s *FaultSummary) string { return fmt.Sprint(s.Rounds) }},
		{"LAST MISDIRECTED median p95 max", (*FaultSummary).last},
		{"GAP median p95 max", func(s *FaultSummary) string { return s.Gap.text() }},
		{"FAILED", func(s *FaultSummary) string {
			if s.Gap == nil {
				return ""
			}
			return fmt.Sprintf("%d of %d%s", s.Failed, s.Of, inBrackets(errorsOf(s.Errors)))
		}},
		{"STREAMS SURVIVED", func(s *FaultSummary) string {
			if s.Stall == nil {
				return ""
			}
			return fmt.Sprintf("%d of %d", s.Survived, s.Survived+s.Broken)
		}},
		{"STALL median p95 max", func(s *FaultSummary) string { return s.Stall.text() }},
		{"TWO ANSWER median p95 max", func(s *FaultSummary) string { return s.Overlap.text() }},
		{"TWO HAVE IT max", func(s *FaultSummary) string {
			if s.Overlap == nil {
				return ""
			}
			return round(s.AddressOverlap.Max).String()
		}},
		{"SHOWN AS", func(s *FaultSummary) string {
			return probe.Most(s.Reasons, func(r string, n int) string {
				if n == s.Rounds {
					return r
				}
				return fmt.Sprintf("%s (%d times)", r, n)
			})
		}},
	}
	columns = slices.DeleteFunc(columns, func(c column) bool {
		return !slices.ContainsFunc(sums, func(s FaultSummary) bool { return c.cell(&s) != "" })
	})
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	var heads []string
	for _, c := range columns {
		heads = append(heads, c.head)
	}
	fmt.Fprintln(tw, strings.Join(heads, "\t"))
	for _, f := range faults {
		for i := range sums {
			if sums[i].Fault != f {
				continue
			}
			var cells []string
			for _, c := range columns {
				cells = append(cells, cmp.Or(c.cell(&sums[i]), "-"))
			}
			fmt.Fprintln(tw, strings.Join(cells, "\t"))
		}
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, s := range sums {
		for _, m := range s.Missed {
			if _, err := fmt.Fprintf(w, "FAIL  %s, %s: %s\n", s.System, s.Fault, m); err != nil {
				return err
			}
		}
	}
	return nil
}
