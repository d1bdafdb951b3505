package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
)

// sample is what a director said at a time. cluster is nil for a director that is alone.
type sample struct {
	services *api.Services
	cluster  *api.Cluster
}

// rates are per second.
type rates struct{ conns, packets, bytes, outPackets, outBytes float64 }

// topRow is a service or a real server.
type topRow struct {
	name, address, state, remark string
	counts                       api.Counts
	rates                        rates
	server                       bool
}

// topOrder is what rows are sorted by.
type topOrder byte

const (
	byName    topOrder = 'n' // as the specification has them
	byConns   topOrder = 'c'
	byPackets topOrder = 'p'
	byBytes   topOrder = 'b'
	byActive  topOrder = 'a'
)

// topRows compares two samples, of which the first may be nil: then nothing is known of rates. Services come in
// order, each with its servers in order behind it if they are asked for.
func topRows(before, after *sample, order topOrder, servers bool) []topRow {
	old := make(map[string]api.Traffic)
	seconds := 0.0
	if before != nil {
		seconds = after.services.When.Sub(before.services.When).Seconds()
		for i := range before.services.Services {
			s := &before.services.Services[i]
			old[s.Service] = s.Traffic
			for _, d := range s.Servers {
				old[s.Service+" "+d.Server] = d.Traffic
			}
		}
	}
	rate := func(key string, now api.Traffic) rates {
		was, known := old[key]
		// Counters that were set back, or that lack a director, say nothing.
		if !known || seconds <= 0 || now.Connections < was.Connections || now.InPackets < was.InPackets || now.InBytes < was.InBytes {
			return rates{}
		}
		per := func(now, was uint64) float64 { return float64(max(now, was)-was) / seconds }
		return rates{per(now.Connections, was.Connections), per(now.InPackets, was.InPackets), per(now.InBytes, was.InBytes),
			per(now.OutPackets, was.OutPackets), per(now.OutBytes, was.OutBytes)}
	}
	type group struct {
		service topRow
		servers []topRow
	}
	groups := make([]group, len(after.services.Services))
	for i := range after.services.Services {
		s := &after.services.Services[i]
		g := &groups[i]
		g.service = topRow{name: s.Name, address: s.Service, state: s.State, remark: s.Active, counts: s.Counts, rates: rate(s.Service, s.Traffic)}
		if len(s.Reasons) > 0 {
			g.service.remark = s.Reasons[0].Text
		}
		for j := range s.Servers {
			d := &s.Servers[j]
			r := topRow{name: d.Name, address: d.Server, state: d.State, counts: d.Counts, rates: rate(s.Service+" "+d.Server, d.Traffic), server: true}
			if len(d.Reasons) > 0 {
				r.remark = d.Reasons[0].Text
			}
			g.servers = append(g.servers, r)
		}
		slices.SortStableFunc(g.servers, order.compare)
	}
	slices.SortStableFunc(groups, func(a, b group) int { return order.compare(a.service, b.service) })
	var out []topRow
	for _, g := range groups {
		out = append(out, g.service)
		if servers {
			out = append(out, g.servers...)
		}
	}
	return out
}

// compare puts what there is most of first.
func (o topOrder) compare(a, b topRow) int {
	switch o {
	case byConns:
		return cmp.Compare(b.rates.conns, a.rates.conns)
	case byPackets:
		return cmp.Compare(b.rates.packets, a.rates.packets)
	case byBytes:
		return cmp.Compare(b.rates.bytes, a.rates.bytes)
	case byActive:
		return cmp.Compare(b.counts.Active, a.counts.Active)
	}
	return 0
}

// topScreen is what the user sees, and how.
type topScreen struct {
	before, after *sample
	trouble       string // why there is nothing newer
	order         topOrder
	servers       bool
	scroll        int // rows above the first that is shown
	width, height int
	paint         paint
}

// topColumns are the columns; those with the largest rank go first where the terminal is narrow.
var topColumns = []struct {
	head  string
	order topOrder
	rank  int
	right bool
	cell  func(*topRow) string
}{
	{"NAME", byName, 0, false, func(r *topRow) string {
		if r.server {
			return "  " + r.name
		}
		return r.name
	}},
	{"ADDRESS", 0, 6, false, func(r *topRow) string { return r.address }},
	{"STATE", 0, 2, false, func(r *topRow) string { return r.state }},
	{"CONN/S", byConns, 0, true, func(r *topRow) string { return decimal(r.rates.conns) }},
	{"PKT/S", byPackets, 1, true, func(r *topRow) string { return decimal(r.rates.packets) }},
	{"BYTE/S", byBytes, 1, true, func(r *topRow) string { return decimal(r.rates.bytes) }},
	{"OUTPKT/S", 0, 8, true, func(r *topRow) string { return decimal(r.rates.outPackets) }},
	{"OUTBYTE/S", 0, 8, true, func(r *topRow) string { return decimal(r.rates.outBytes) }},
	{"ACTIVE", byActive, 3, true, func(r *topRow) string { return short(r.counts.Active) }},
	{"INACTIVE", 0, 5, true, func(r *topRow) string { return short(r.counts.Inactive) }},
	{"REMARK", 0, 7, false, func(r *topRow) string { return r.remark }},
}

// decimal is a rate with one digit behind the point if it is small.
func decimal(f float64) string {
	if f > 0 && f < 10 {
		return fmt.Sprintf("%.1f", f)
	}
	return short(uint64(f + 0.5))
}

// minRemark is how much room of the last column there has to be for it to be shown.
const minRemark = 12

// lines draws the screen: height lines of width columns at most.
func (s *topScreen) lines() []string {
	head := s.head()
	var rows []topRow
	if s.after != nil {
		rows = topRows(s.before, s.after, s.order, s.servers)
	}
	room := max(s.height-len(head)-2, 0) // less the names of the columns, and the keys
	s.scroll = max(min(s.scroll, len(rows)-room), 0)
	cells := make([][]string, 1, len(rows)+1)
	widths := make([]int, len(topColumns))
	for i, c := range topColumns {
		name := c.head
		if c.order == s.order && c.order != 0 {
			name = "*" + name
		}
		cells[0] = append(cells[0], name)
		widths[i] = width(name)
	}
	for i := range rows {
		var line []string
		for k, c := range topColumns {
			line = append(line, c.cell(&rows[i]))
			widths[k] = max(widths[k], width(line[k]))
		}
		cells = append(cells, line)
	}
	show := s.columns(widths)
	out := head
	for i, line := range cells {
		if i > 0 && (i <= s.scroll || i > s.scroll+room) {
			continue
		}
		text := ""
		for n, k := range show {
			cell := line[k]
			if n > 0 {
				text += "  "
			}
			if n == len(show)-1 && !topColumns[k].right {
				cell = cut(cell, s.width-width(text))
			}
			if pad := widths[k] - width(cell); pad > 0 && topColumns[k].right {
				text += strings.Repeat(" ", pad)
			} else if pad > 0 && n < len(show)-1 {
				cell += strings.Repeat(" ", pad)
			}
			if topColumns[k].head == "STATE" && i > 0 {
				cell = strings.Replace(cell, line[k], s.paint.state(line[k]), 1)
			}
			text += cell
		}
		if i == 0 {
			text = s.paint.with("7", text+strings.Repeat(" ", max(s.width-width(text), 0)))
		} else if !rows[i-1].server {
			text = s.paint.with("1", text)
		}
		out = append(out, cutPainted(text, s.width))
	}
	for len(out) < s.height-1 {
		out = append(out, "")
	}
	keys := "q quit  sort: n name  c connections  p packets  b bytes  a active  s servers  arrows scroll"
	if len(rows) > room {
		keys = fmt.Sprintf("%d-%d of %d  ", s.scroll+1, min(s.scroll+room, len(rows)), len(rows)) + keys
	}
	out = append(out, cut(keys, s.width))
	return out[:min(len(out), max(s.height, 0))]
}

// columns chooses those that fit.
func (s *topScreen) columns(widths []int) []int {
	for most := 8; ; most-- {
		var show []int
		total := 0
		for k, c := range topColumns {
			if c.rank <= most {
				show = append(show, k)
				w := widths[k]
				if c.head == "REMARK" {
					w = min(w, minRemark)
				}
				total += w + 2
			}
		}
		if total-2 <= s.width || most == 0 {
			return show
		}
	}
}

// head says who is active, and how long the lease lasts.
func (s *topScreen) head() []string {
	var out []string
	if s.after == nil {
		out = append(out, "drover top: waiting for the director")
	} else {
		v := s.after.services
		first := "drover top  " + v.When.Local().Format(time.TimeOnly)
		if v.Node != "" {
			first += "  seen from " + v.Node
		}
		if v.Version != "" {
			first += "  spec " + v.Version
		}
		if len(v.Counted) > 0 {
			first += "  counters of " + strings.Join(v.Counted, ", ")
		}
		for _, n := range sortedKeys(v.Missing) {
			first += "  without " + n
		}
		out = append(out, first)
		if c := s.after.cluster; c != nil {
			var groups []string
			for _, g := range c.Groups {
				text := fmt.Sprintf("group %s: %s active", g.Name, cmp.Or(g.Active, "nobody"))
				if g.Margin > 0 {
					text += fmt.Sprintf(", lease %s", seconds(g.Margin))
				}
				if g.Active != c.Node {
					text += fmt.Sprintf(", %s is %s", c.Node, g.Role)
				}
				groups = append(groups, text)
			}
			out = append(out, strings.Join(groups, "; "))
			if n := len(c.Warnings); n > 0 {
				out = append(out, fmt.Sprintf("WARNING: %s", c.Warnings[0]))
			}
		}
	}
	if s.trouble != "" {
		out = append(out, s.trouble)
	}
	for i := range out {
		out[i] = cut(out[i], s.width)
		if s.trouble != "" && i == len(out)-1 || strings.HasPrefix(out[i], "WARNING: ") {
			out[i] = s.paint.with("31", out[i])
		}
	}
	return out
}

// cut shortens text, which has no colours, to so many columns.
func cut(text string, most int) string {
	if width(text) <= most {
		return text
	}
	if most < 1 {
		return ""
	}
	return string([]rune(text)[:most-1]) + "…"
}

// cutPainted leaves out what does not fit of text that may have colours.
func cutPainted(text string, most int) string {
	if width(text) <= most {
		return text
	}
	var b strings.Builder
	n := 0
	for i := 0; i < len(text); {
		if strings.HasPrefix(text[i:], "\x1b[") {
			end := i + strings.IndexByte(text[i:], 'm') + 1
			b.WriteString(text[i:end])
			i = end
			continue
		}
		r := []rune(text[i:])[0]
		if n < most {
			b.WriteRune(r)
		}
		n++
		i += len(string(r))
	}
	return b.String()
}

// key changes what is shown; quit is true for the keys that end it.
func (s *topScreen) key(k string) (quit bool) {
	page := max(s.height-4, 1)
	switch k {
	case "q", "Q", "\x03", "\x1b": // ^C, escape
		return true
	case "n", "c", "p", "b", "a":
		s.order, s.scroll = topOrder(k[0]), 0
	case "s":
		s.servers, s.scroll = !s.servers, 0
	case "\x1b[A", "k":
		s.scroll--
	case "\x1b[B", "j":
		s.scroll++
	case "\x1b[5~":
		s.scroll -= page
	case "\x1b[6~", " ":
		s.scroll += page
	case "\x1b[H", "g":
		s.scroll = 0
	case "\x1b[F", "G":
		s.scroll = 1 << 30
	}
	s.scroll = max(s.scroll, 0)
	return false
}

// take takes in a new sample.
func (s *topScreen) take(x *sample) { s.before, s.after, s.trouble = s.after, x, "" }
