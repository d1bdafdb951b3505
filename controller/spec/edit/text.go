package edit

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// patch cuts text, which says old, where want says something else. What it cannot do it leaves: the caller looks
// at what comes out.
func patch(text []byte, old, want *spec.Spec) (out []byte) {
	defer func() {
		if recover() != nil { // the library, or a place of it that is not in the text
			out = text
		}
	}()
	f, err := parser.ParseBytes(text, 0)
	if err != nil || len(f.Docs) == 0 {
		return text
	}
	p := newPatcher(text)
	body := pairs(f.Docs[0].Body)
	p.vips(body, old, want)
	p.services(body, old, want)
	return p.apply()
}

// patcher collects cuts of a text.
type patcher struct {
	src   []byte
	lines []int // where each begins, bytes
	cuts  []cut
}

func newPatcher(src []byte) *patcher {
	p := &patcher{src: src, lines: []int{0}}
	for i, c := range src {
		if c == '\n' {
			p.lines = append(p.lines, i+1)
		}
	}
	return p
}

// cut puts text in the place of src[from:to].
type cut struct {
	from, to int
	text     string
}

func (p *patcher) cut(from, to int, text string) { p.cuts = append(p.cuts, cut{from, to, text}) }

func (p *patcher) apply() []byte {
	slices.SortStableFunc(p.cuts, func(a, b cut) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	var out []byte
	at := 0
	for _, c := range p.cuts {
		if c.from < at {
			return p.src // they overlap
		}
		out = append(append(out, p.src[at:c.from]...), c.text...)
		at = c.to
	}
	return append(out, p.src[at:]...)
}

// pairs are the keys of a mapping with their values.
func pairs(n ast.Node) []*ast.MappingValueNode {
	switch x := n.(type) {
	case *ast.MappingNode:
		return x.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{x}
	case *ast.AnchorNode:
		return pairs(x.Value)
	}
	return nil
}

func pair(list []*ast.MappingValueNode, key string) *ast.MappingValueNode {
	for _, v := range list {
		if v.Key.GetToken().Value == key {
			return v
		}
	}
	return nil
}

func elements(v *ast.MappingValueNode) *ast.SequenceNode {
	if v == nil {
		return nil
	}
	n := v.Value
	if a, ok := n.(*ast.AnchorNode); ok {
		n = a.Value
	}
	seq, _ := n.(*ast.SequenceNode)
	return seq
}

// vips brings the list of VIPs up to date.
func (p *patcher) vips(body []*ast.MappingValueNode, old, want *spec.Spec) {
	key := pair(body, "vips")
	has := func(list []spec.VIP, v spec.VIP) bool { return slices.Contains(list, v) }
	var gone []int
	for i, v := range old.VIPs {
		if !has(want.VIPs, v) {
			gone = append(gone, i)
		}
	}
	var more []string
	for _, v := range want.VIPs {
		if !has(old.VIPs, v) {
			more = append(more, v.Format())
		}
	}
	p.list(key, gone, more)
}

// services brings the list of services up to date.
func (p *patcher) services(body []*ast.MappingValueNode, old, want *spec.Spec) {
	key := pair(body, "services")
	find := func(s *spec.Spec, k ipvs.Key) *spec.Service {
		for i := range s.Services {
			if s.Services[i].Key == k {
				return &s.Services[i]
			}
		}
		return nil
	}
	seq := elements(key)
	var gone []int
	for i := range old.Services {
		o := &old.Services[i]
		w := find(want, o.Key)
		if w == nil {
			gone = append(gone, i)
		} else if seq != nil && i < len(seq.Values) {
			p.service(seq.Values[i], o, w)
		}
	}
	var more []string
	for i := range want.Services {
		if w := &want.Services[i]; find(old, w.Key) == nil {
			more = append(more, p.format(seq, w))
		}
	}
	p.list(key, gone, more)
}

// format writes a service as an element of seq, lines without the first dash, or in one line in flow style.
func (p *patcher) format(seq *ast.SequenceNode, s *spec.Service) string {
	text := strings.TrimSuffix(strings.TrimPrefix(string(s.Format()), "  - "), "\n")
	if seq == nil || !seq.IsFlowStyle || len(seq.Values) == 0 {
		return text
	}
	var keys []string
	for _, f := range fields(text) {
		keys = append(keys, f.key+": "+f.value)
	}
	servers := make([]string, len(s.RealServers))
	for i := range s.RealServers {
		servers[i] = s.RealServers[i].Format(s.Port, forwarding(text), s.Drain)
	}
	return "{" + strings.Join(append(keys, "real_servers: ["+strings.Join(servers, ", ")+"]"), ", ") + "}"
}

// field is a key of a service or real server with its value, as it is written on one line.
type field struct{ key, value string }

// fields reads the keys of a service or real server as package spec formats it, its real servers left out.
func fields(text string) []field {
	if !strings.Contains(text, ": ") { // the short form of a server
		return []field{{"address", text}}
	}
	text = strings.ReplaceAll(text, "\n    ", "\n")
	f, err := parser.ParseBytes([]byte(text), 0)
	if err != nil || len(f.Docs) == 0 {
		return nil
	}
	p := newPatcher([]byte(text))
	var out []field
	for _, v := range pairs(f.Docs[0].Body) {
		if key := v.Key.GetToken().Value; key != "real_servers" {
			out = append(out, field{key, string(p.src[p.start(v.Value):p.end(v.Value)])})
		}
	}
	return out
}

func value(list []field, key string) (string, bool) {
	for _, f := range list {
		if f.key == key {
			return f.value, true
		}
	}
	return "", false
}

// forwarding is that of a service's text, for the servers that say nothing.
func forwarding(text string) ipvs.Forward {
	v, _ := value(fields(text), "forwarding")
	switch v {
	case "tunnel":
		return ipvs.Tunnel
	case "masquerade":
		return ipvs.Masq
	}
	return ipvs.DirectRoute
}

// service brings one service up to date.
func (p *patcher) service(n ast.Node, old, want *spec.Service) {
	before, after := strip(old), strip(want)
	p.mapping(n, fields(before), fields(after))

	key := pair(pairs(n), "real_servers")
	forward := ipvs.DirectRoute
	if v := pair(pairs(n), "forwarding"); v != nil {
		forward = forwarding("forwarding: " + v.Value.GetToken().Value)
	}
	seq := elements(key)
	find := func(s *spec.Service, k ipvs.DestKey) *spec.RealServer {
		for i := range s.RealServers {
			if s.RealServers[i].DestKey == k {
				return &s.RealServers[i]
			}
		}
		return nil
	}
	var gone []int
	for i := range old.RealServers {
		o := &old.RealServers[i]
		w := find(want, o.DestKey)
		switch {
		case w == nil:
			gone = append(gone, i)
		case *w == *o || seq == nil || i >= len(seq.Values):
		default:
			p.server(seq.Values[i], old, o, w, forward, want.Drain)
		}
	}
	var more []string
	for i := range want.RealServers {
		if w := &want.RealServers[i]; find(old, w.DestKey) == nil {
			more = append(more, w.Format(want.Port, forward, want.Drain))
		}
	}
	if key == nil && (len(more) > 0 || want.Pool == "") { // it may be left out with a pool only
		p.insert(n, field{"real_servers", "[" + strings.Join(more, ", ") + "]"})
		return
	}
	p.list(key, gone, more)
}

// strip formats a service without its servers.
func strip(s *spec.Service) string {
	alone := *s
	alone.RealServers = nil
	return strings.TrimPrefix(string(alone.Format()), "  - ")
}

// server brings one real server up to date.
func (p *patcher) server(n ast.Node, svc *spec.Service, old, want *spec.RealServer, forward ipvs.Forward, drain spec.DrainPolicy) {
	text := want.Format(svc.Port, forward, drain)
	if pairs(n) == nil { // the short form
		p.cut(p.start(n), p.end(n), text)
		return
	}
	after := fields(text)
	if _, ok := value(after, "weight"); !ok {
		after = append(after, field{"weight", fmt.Sprint(want.Weight)}) // rather than silently the default
	}
	before := fields(old.Format(svc.Port, forward, svc.Drain))
	if _, ok := value(before, "weight"); !ok {
		before = append(before, field{"weight", fmt.Sprint(old.Weight)})
	}
	p.mapping(n, before, after)
}

// mapping changes the keys of a mapping by which before and after differ.
func (p *patcher) mapping(n ast.Node, before, after []field) {
	for _, f := range after {
		if v, ok := value(before, f.key); ok && v == f.value {
			continue
		}
		if at := pair(pairs(n), f.key); at != nil {
			p.replace(at, f.value)
		} else {
			p.insert(n, f)
		}
	}
	for _, f := range before {
		if _, ok := value(after, f.key); ok {
			continue
		}
		if at := pair(pairs(n), f.key); at != nil {
			p.remove(n, at)
		}
	}
}

// replace gives a key another value.
func (p *patcher) replace(at *ast.MappingValueNode, value string) {
	colon := p.offset(at.GetToken()) + 1
	from := p.start(at.Value)
	if p.line(from) != p.line(colon) || !flow(at.Value) { // the value has lines of its own
		p.cut(colon, p.end(at.Value), " "+value)
		return
	}
	p.cut(from, p.end(at.Value), value)
}

// insert adds a key: in block style on a line of its own behind the keys that stand before the real servers.
func (p *patcher) insert(n ast.Node, f field) {
	list := pairs(n)
	if a, ok := n.(*ast.AnchorNode); ok {
		n = a.Value
	}
	if m, ok := n.(*ast.MappingNode); ok && m.IsFlowStyle {
		last := list[len(list)-1]
		p.cut(p.end(last.Value), p.end(last.Value), ", "+f.key+": "+f.value)
		return
	}
	after := list[len(list)-1]
	for i, v := range list {
		if v.Key.GetToken().Value == "real_servers" && i > 0 {
			after = list[i-1]
		}
	}
	if first := list[0]; len(list) == 1 || after == first && first.Key.GetToken().Value == "real_servers" {
		after = first
	}
	indent := strings.Repeat(" ", list[0].Key.GetToken().Position.Column-1)
	p.addLine(p.end(after.Value), indent+f.key+": "+f.value)
}

// addLine puts a line behind the one that has at.
func (p *patcher) addLine(at int, text string) {
	end := p.lineEnd(at)
	if end == len(p.src) && (end == 0 || p.src[end-1] != '\n') {
		p.cut(end, end, "\n"+text)
		return
	}
	p.cut(end, end, text+"\n")
}

// remove takes a key out of a mapping.
func (p *patcher) remove(n ast.Node, at *ast.MappingValueNode) {
	list := pairs(n)
	i := slices.Index(list, at)
	if m, ok := n.(*ast.MappingNode); ok && m.IsFlowStyle {
		switch {
		case i > 0:
			p.cut(p.end(list[i-1].Value), p.end(at.Value), "")
		case len(list) > 1:
			p.cut(p.start(at.Key), p.start(list[1].Key), "")
		}
		return
	}
	from := p.start(at.Key)
	if strings.TrimSpace(string(p.src[p.lines[p.line(from)]:from])) != "" && len(list) > i+1 { // behind the dash
		p.cut(from, p.start(list[i+1].Key), "")
		return
	}
	p.cut(p.lines[p.line(from)], p.lineEnd(p.end(at.Value)), "")
}

// list takes elements out of a list and adds others at its end. An element of more than one line is indented by
// four where it is not the first.
func (p *patcher) list(key *ast.MappingValueNode, gone []int, more []string) {
	seq := elements(key)
	if key == nil || len(gone) == 0 && len(more) == 0 {
		return
	}
	if seq == nil { // null, or not written
		if len(more) > 0 {
			colon := p.offset(key.GetToken()) + 1
			p.cut(colon, colon, p.block(key, more))
		}
		return
	}
	n := len(seq.Values)
	switch {
	case seq.IsFlowStyle && n == 0 && (p.inFlow(key) || short(more) && p.column(key) > 0):
		p.cut(p.offset(seq.Start)+1, p.offset(seq.End), strings.Join(more, ", "))
	case seq.IsFlowStyle && n == 0:
		from := p.offset(key.GetToken()) + 1
		p.cut(from, p.offset(seq.End)+1, p.block(key, more))
	case seq.IsFlowStyle:
		for _, i := range gone {
			switch last := i; {
			case i+1 < n && !slices.Contains(gone, i+1) && allBefore(gone, i):
				p.cut(p.start(seq.Values[0]), p.start(seq.Values[i+1]), "")
			case allBefore(gone, i) && i+1 < n: // done with the last of them
			case len(gone) == n && i == n-1:
				p.cut(p.start(seq.Values[0]), p.end(seq.Values[last]), "")
			case len(gone) == n:
			default:
				p.cut(p.end(seq.Values[i-1]), p.end(seq.Values[i]), "")
			}
		}
		at := p.end(seq.Values[n-1])
		for k, text := range more {
			if len(gone) < n || k > 0 {
				text = ", " + text
			}
			p.cut(at, at, text)
		}
	case len(gone) == n && len(more) == 0:
		end := p.lineEnd(p.end(seq.Values[n-1]))
		p.cut(p.offset(key.GetToken())+1, end, " []\n")
	default:
		for _, i := range gone {
			from := p.line(p.dash(seq, i))
			for from > 0 && p.comment(from-1, seq.Start.Position.Column-1) {
				from--
			}
			end := p.lineEnd(p.end(seq.Values[i]))
			if from == p.line(p.offset(key.GetToken()))+1 && p.blank(end) {
				end = p.lineEnd(end) // no empty line at the start
			}
			p.cut(p.lines[from], end, "")
		}
		indent := strings.Repeat(" ", seq.Start.Position.Column-1)
		for _, text := range more {
			p.addLine(p.end(seq.Values[n-1]), indent+"- "+strings.ReplaceAll(text, "\n    ", "\n"+indent+"  "))
		}
	}
}

func short(list []string) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, "\n") })
}

// allBefore reports whether all elements up to i go.
func allBefore(gone []int, i int) bool {
	for k := range i {
		if !slices.Contains(gone, k) {
			return false
		}
	}
	return true
}

// block writes a list in block style behind the colon of its key.
func (p *patcher) block(key *ast.MappingValueNode, more []string) string {
	indent := strings.Repeat(" ", p.column(key)+2)
	var b strings.Builder
	for _, text := range more {
		b.WriteString("\n" + indent + "- " + strings.ReplaceAll(text, "\n    ", "\n"+indent+"  "))
	}
	return b.String()
}

func (p *patcher) column(key *ast.MappingValueNode) int {
	return key.Key.GetToken().Position.Column - 1
}

// inFlow reports whether a key is one of a mapping in flow style: something else than indentation and a dash
// stands before it on its line.
func (p *patcher) inFlow(key *ast.MappingValueNode) bool {
	at := p.start(key.Key)
	return strings.ContainsAny(string(p.src[p.lines[p.line(at)]:at]), "{[,") || at > 0 && p.flowLine(at)
}

// flowLine reports whether what stands before a key at the start of its line is a comma or an opening bracket.
func (p *patcher) flowLine(at int) bool {
	before := bytes.TrimRight(p.src[:at], " \n\t")
	return len(before) > 0 && bytes.IndexByte([]byte(",{["), before[len(before)-1]) >= 0
}

// comment reports whether a line is nothing but a comment, indented by column.
func (p *patcher) comment(line, column int) bool {
	text := p.src[p.lines[line]:p.lineEnd(p.lines[line])]
	return len(text) > column && text[column] == '#' && len(bytes.TrimLeft(text[:column], " ")) == 0
}

// blank reports whether an empty line begins at at.
func (p *patcher) blank(at int) bool {
	return at < len(p.src) && len(bytes.TrimSpace(p.src[at:p.lineEnd(at)])) == 0
}

// dash is where element i of a list in block style has its dash.
func (p *patcher) dash(seq *ast.SequenceNode, i int) int { return p.offset(seq.Entries[i].Start) }

// flow reports whether a node is written on from where it starts: a single value, or in flow style.
func flow(n ast.Node) bool {
	switch x := n.(type) {
	case *ast.MappingNode:
		return x.IsFlowStyle
	case *ast.SequenceNode:
		return x.IsFlowStyle
	case *ast.MappingValueNode:
		return false
	case *ast.AnchorNode:
		return flow(x.Value)
	}
	return true
}

// offset is where a token begins, bytes. The library counts characters in a line, from 1.
func (p *patcher) offset(t *token.Token) int {
	at := p.lines[t.Position.Line-1]
	for range t.Position.Column - 1 {
		_, size := utf8.DecodeRune(p.src[at:])
		at += size
	}
	return at
}

// line is the number, from 0, of the line that has at.
func (p *patcher) line(at int) int {
	i, found := slices.BinarySearch(p.lines, at)
	if !found {
		i--
	}
	return i
}

// lineEnd is where the line behind the one that has at begins.
func (p *patcher) lineEnd(at int) int {
	if i := p.line(at) + 1; i < len(p.lines) {
		return p.lines[i]
	}
	return len(p.src)
}

// start is where a node begins.
func (p *patcher) start(n ast.Node) int {
	switch x := n.(type) {
	case *ast.MappingNode:
		if !x.IsFlowStyle && len(x.Values) > 0 {
			return p.start(x.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return p.start(x.Key)
	}
	return p.offset(n.GetToken())
}

// end is where a node ends, without the space and the comment behind it.
func (p *patcher) end(n ast.Node) int {
	switch x := n.(type) {
	case *ast.MappingNode:
		if x.IsFlowStyle {
			return p.offset(x.End) + 1
		}
		return p.end(x.Values[len(x.Values)-1].Value)
	case *ast.MappingValueNode:
		return p.end(x.Value)
	case *ast.SequenceNode:
		if x.IsFlowStyle {
			return p.offset(x.End) + 1
		}
		return p.end(x.Values[len(x.Values)-1])
	case *ast.AnchorNode:
		return p.end(x.Value)
	case *ast.TagNode:
		return p.end(x.Value)
	}
	return p.scalarEnd(p.offset(n.GetToken()))
}

// scalarEnd is where a single value ends that begins at at.
func (p *patcher) scalarEnd(at int) int {
	s := p.src[at:]
	if len(s) > 0 && (s[0] == '"' || s[0] == '\'') {
		for i := 1; i < len(s); i++ {
			switch {
			case s[i] == '\\' && s[0] == '"':
				i++
			case s[i] == s[0] && s[0] == '\'' && i+1 < len(s) && s[i+1] == '\'':
				i++
			case s[i] == s[0]:
				return at + i + 1
			}
		}
		return at + len(s)
	}
	end := bytes.IndexByte(s, '\n')
	if end < 0 {
		end = len(s)
	}
	for i := range end {
		if s[i] == '#' && i > 0 && (s[i-1] == ' ' || s[i-1] == '\t') || bytes.IndexByte([]byte(",]}"), s[i]) >= 0 {
			end = i
			break
		}
	}
	return at + len(bytes.TrimRight(s[:end], " \t\r"))
}
