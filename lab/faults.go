package lab

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
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

	Missed []string `json:"missed,omitempty"` // bounds that the distribution does not keep
}

// Summarise gathers the faults of many rounds, in the order in which they were first seen.
func Summarise(reports []*Report) []FaultSummary {
	type key struct{ fault, system string }
	type values struct{ gap, stall, overlap, address []time.Duration }
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
				out = append(out, FaultSummary{System: f.System, Fault: f.Fault, Errors: map[string]int{}})
				all = append(all, values{})
			}
			s, v := &out[i], &all[i]
			s.Rounds++
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
				s.Missed = nil // bounds are of the whole distribution
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

// WriteSummary writes a table, the systems side by side for each fault. Spreads are median, p95 and maximum.
func WriteSummary(w io.Writer, sums []FaultSummary) error {
	var faults []string
	for _, s := range sums {
		if !slices.Contains(faults, s.Fault) {
			faults = append(faults, s.Fault)
		}
	}
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tSYSTEM\tROUNDS\tGAP median p95 max\tFAILED\tSTREAMS SURVIVED\tSTALL median p95 max\tTWO ANSWER median p95 max\tTWO HAVE IT max")
	for _, f := range faults {
		for _, s := range sums {
			if s.Fault != f {
				continue
			}
			cols := []string{s.Fault, s.System, fmt.Sprint(s.Rounds), "-", "-", "-", "-", "-", "-"}
			if s.Gap != nil {
				cols[3], cols[4] = s.Gap.String(), fmt.Sprintf("%d of %d%s", s.Failed, s.Of, inBrackets(errorsOf(s.Errors)))
			}
			if s.Stall != nil {
				cols[5], cols[6] = fmt.Sprintf("%d of %d", s.Survived, s.Survived+s.Broken), s.Stall.String()
			}
			if s.Overlap != nil {
				cols[7], cols[8] = s.Overlap.String(), round(s.AddressOverlap.Max).String()
			}
			fmt.Fprintln(tw, strings.Join(cols, "\t"))
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
