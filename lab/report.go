package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/google/renameio/v2"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/lab/probe"
)

// Report is what a lab found. Its JSON form is written as report.json; durations are nanoseconds.
type Report struct {
	Lab          string        `json:"lab"`
	Observe      string        `json:"observe,omitempty"`
	Kernel       string        `json:"kernel"`
	Seed         int64         `json:"seed"`
	Passed       bool          `json:"passed"`
	Took         time.Duration `json:"took"`
	Steps        []StepReport  `json:"steps"`
	Expectations []Expectation `json:"expectations"`
	Probes       []ProbeReport `json:"probes"`
	Tables       []TableReport `json:"tables"`
	Faults       []FaultReport `json:"faults,omitempty"`
	timeline     *timeline     // nil without a connect probe
}

// StepReport is one step that was played.
type StepReport struct {
	At     time.Duration `json:"at"` // since the start of the lab
	Took   time.Duration `json:"took"`
	Text   string        `json:"text"`
	Mark   string        `json:"mark,omitempty"`
	Fault  string        `json:"fault,omitempty"` // set for what the timeline marks
	Result string        `json:"result,omitempty"`
	Error  string        `json:"error,omitempty"`
}

// Expectation is one check and what it measured.
type Expectation struct {
	At       time.Duration `json:"at"`
	Text     string        `json:"text"`
	Measured string        `json:"measured"`
	Held     bool          `json:"held"`
}

// ProbeReport sums up one measuring client over the whole run.
type ProbeReport struct {
	Probe      string         `json:"probe"`
	Kind       string         `json:"kind"`
	OK         int            `json:"ok,omitempty"`
	Failed     int            `json:"failed,omitempty"`
	Errors     map[string]int `json:"errors,omitempty"`
	LongestGap time.Duration  `json:"longest_gap,omitempty"`
	ByServer   map[string]int `json:"by_server,omitempty"`
	Alive      int            `json:"streams_alive,omitempty"`
	Broken     int            `json:"streams_broken,omitempty"`
	Stall      time.Duration  `json:"longest_stall,omitempty"`
	Requests   int            `json:"arp_requests,omitempty"`
	Several    int            `json:"answered_by_several,omitempty"`
	Overlap    time.Duration  `json:"overlap,omitempty"`
	ByHost     map[string]int `json:"answered_by,omitempty"`
}

// TableReport is the IPVS table of a director at the end.
type TableReport struct {
	Host  string   `json:"host"`
	Lines []string `json:"lines"` // in the words of ipvsadm -S
}

func newReport(c *Config) *Report {
	return &Report{Lab: c.Title, Observe: c.Observe, Kernel: kernelRelease(), Seed: c.Seed, Passed: true}
}

// planLines writes a table in ipvsadm's words.
// public is a table without what a director has for its own health checks.
func public(entries []ipvs.ServiceEntry) plan.State {
	st, _ := plan.Split(plan.StateOf(entries), plan.DefaultMark)
	return st
}

func planLines(st plan.State) []string {
	var lines []string
	for _, s := range st.Services {
		lines = append(lines, plan.Op{Kind: plan.AddService, Service: s.Service}.String())
		for _, d := range s.Servers {
			lines = append(lines, plan.Op{Kind: plan.AddServer, Service: s.Service, Server: d}.String())
		}
	}
	return lines
}

// summarise gathers what the probes saw and the directors hold, while the lab still stands.
func (r *run) summarise(ctx context.Context) {
	w := r.window("")
	for _, p := range r.order {
		if p.Probe == nil {
			continue
		}
		rep := ProbeReport{Probe: p.Ref(), Kind: p.Probe.Kind}
		switch p.Probe.Kind {
		case "connect", "udp":
			c := p.series.Connections(w)
			rep.OK, rep.Failed, rep.Errors, rep.LongestGap, rep.ByServer = c.OK, c.Failed, c.Errors, c.Gap, c.ByServer
		case "stream":
			s := p.series.Streams(w)
			rep.Alive, rep.Broken, rep.Stall, rep.Errors = s.Alive, s.Broken, s.Worst, s.Errors
		case "arp":
			c := p.series.Claims(w)
			rep.Requests, rep.Several, rep.Overlap, rep.ByHost = c.Requests, c.Several, c.Overlap, map[string]int{}
			for mac, n := range c.ByMAC {
				rep.ByHost[r.owner(mac)] += n
			}
		default:
			continue
		}
		r.report.Probes = append(r.report.Probes, rep)
	}
	for _, h := range r.Hosts {
		if h.Role != Director {
			continue
		}
		if entries, err := r.services(ctx, h.Name); err == nil && len(entries) > 0 {
			r.report.Tables = append(r.report.Tables, TableReport{h.Name, planLines(public(entries))})
		}
	}
	r.report.timeline = r.makeTimeline(w)
}

// Write writes report.json and, where connections were measured, timeline.svg into dir.
func (rep *Report) Write(dir string) error {
	b, err := json.MarshalIndent(rep, "", "  ")
	if err != nil {
		return err
	}
	if err := renameio.WriteFile(filepath.Join(dir, "report.json"), append(b, '\n'), 0o644); err != nil {
		return err
	}
	if rep.timeline == nil {
		return nil
	}
	var svg bytes.Buffer
	if err := rep.timeline.write(&svg); err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(dir, "timeline.svg"), svg.Bytes(), 0o644)
}

// account writes what happens while it happens.
type account struct {
	mu     sync.Mutex
	w      io.Writer
	colour bool
	start  time.Duration
}

const (
	bold  = "\x1b[1m"
	red   = "\x1b[31m"
	green = "\x1b[32m"
	dim   = "\x1b[2m"
	reset = "\x1b[0m"
)

func (a *account) paint(code, s string) string {
	if !a.colour {
		return s
	}
	return code + s + reset
}

// line writes one entry; further lines of text are indented below it.
func (a *account) line(at time.Duration, verdict, text string) {
	if a.w == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	stamp := a.paint(dim, fmt.Sprintf("%8.3f s", (at).Seconds()))
	text = strings.ReplaceAll(text, "\n", "\n                  ")
	fmt.Fprintf(a.w, "%s  %s  %s\n", stamp, verdict, text)
}

func (a *account) title(c *Config) {
	if a.w == nil {
		return
	}
	fmt.Fprintf(a.w, "%s\n", a.paint(bold, c.Title))
	var parts []string
	for _, role := range []Role{Client, Router, Director, RealServer} {
		var names []string
		for _, h := range c.Hosts {
			if h.Role == role {
				names = append(names, h.Name)
			}
		}
		if len(names) > 0 {
			parts = append(parts, fmt.Sprintf("%s %s", role, strings.Join(names, ", ")))
		}
	}
	fmt.Fprintf(a.w, "%s; kernel %s\n", strings.Join(parts, "; "), kernelRelease())
	if c.Observe != "" {
		fmt.Fprintf(a.w, "\n%s\n", c.Observe)
	}
	fmt.Fprintln(a.w)
}

func (a *account) step(s StepReport) {
	text := s.Text
	if s.Error != "" {
		a.line(s.At, a.paint(red, "FAIL"), text+": "+s.Error)
		return
	}
	if s.Result != "" {
		sep := " "
		if strings.Contains(s.Result, "\n") {
			sep = "\n"
		}
		text += ":" + sep + s.Result
	}
	a.line(s.At, "    ", text)
}

func (a *account) round(n, of int) {
	if of > 1 {
		a.line(probe.Now()-a.start, "    ", a.paint(dim, fmt.Sprintf("round %d of %d", n, of)))
	}
}

func (a *account) note(text string) {
	a.line(probe.Now()-a.start, "note", text)
}

func (a *account) expectation(e Expectation) {
	verdict := a.paint(green, "ok  ")
	if !e.Held {
		verdict = a.paint(red, "FAIL")
	}
	a.line(e.At, verdict, e.Text+": "+e.Measured)
}

// summary closes the account.
func (a *account) summary(rep *Report) {
	if a.w == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	fmt.Fprintln(a.w)
	tw := tabwriter.NewWriter(a.w, 0, 8, 2, ' ', 0)
	header := func(words string) { fmt.Fprintln(tw, words) }
	if has(rep, "connect", "udp") {
		header("CLIENT\tANSWERED\tFAILED\tLONGEST GAP\tBY SERVER")
		for _, p := range rep.Probes {
			if p.Kind == "connect" || p.Kind == "udp" {
				fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%s\n", p.Probe, p.OK, p.Failed, round(p.LongestGap), counts(p.ByServer, p.OK))
			}
		}
	}
	if has(rep, "stream") {
		header("STREAMS\tALIVE\tBROKEN\tLONGEST STALL")
		for _, p := range rep.Probes {
			if p.Kind == "stream" {
				fmt.Fprintf(tw, "%s\t%d\t%d\t%s\n", p.Probe, p.Alive, p.Broken, round(p.Stall))
			}
		}
	}
	if has(rep, "arp") {
		header("WHO HAS THE VIP\tREQUESTS\tSEVERAL ANSWERED\tFOR\tCLAIMED BY")
		for _, p := range rep.Probes {
			if p.Kind == "arp" {
				fmt.Fprintf(tw, "%s\t%d\t%d\t%s\t%s\n", p.Probe, p.Requests, p.Several, round(p.Overlap), counts(p.ByHost, 0))
			}
		}
	}
	tw.Flush()
	for _, t := range rep.Tables {
		fmt.Fprintf(a.w, "\nTABLE OF %s\n%s\n", t.Host, strings.Join(t.Lines, "\n"))
	}
	held := 0
	for _, e := range rep.Expectations {
		if e.Held {
			held++
		}
	}
	verdict := a.paint(green, "passed")
	if !rep.Passed {
		verdict = a.paint(red, "FAILED")
	}
	fmt.Fprintf(a.w, "\n%s: %d of %d expectations held, %s\n", verdict, held, len(rep.Expectations), round(rep.Took))
}

func has(rep *Report, kinds ...string) bool {
	for _, p := range rep.Probes {
		for _, k := range kinds {
			if p.Kind == k {
				return true
			}
		}
	}
	return false
}

// counts formats "web1 350 (33.3%), web2 ...".
func counts(m map[string]int, total int) string {
	return probe.Most(m, func(k string, n int) string {
		if total == 0 {
			return fmt.Sprintf("%s %d", k, n)
		}
		return fmt.Sprintf("%s %d (%.1f%%)", k, n, 100*float64(n)/float64(total))
	})
}
