package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/lab/topology"
)

func (p Processes) describe() string { return p.Verb + " " + strings.Join(p.Refs, ", ") }

func (c Cable) describe() string {
	verb := "restore"
	if c.Cut {
		verb = "cut"
	}
	return verb + " the cable of " + c.Host + suffix("/", c.Interface)
}

func (s Separate) describe() string {
	verb, arrow := "separate", "and"
	if s.Join {
		verb = "join"
	}
	if s.OneWay {
		arrow = "->"
	}
	return fmt.Sprintf("%s %s %s %s", verb, s.From, arrow, s.To)
}

func (i Impair) describe() string {
	if i.Impairment == (topology.Impairment{}) {
		return "impair nothing any more on " + i.Host + suffix("/", i.Interface)
	}
	var parts []string
	if i.Loss > 0 {
		parts = append(parts, fmt.Sprintf("loss %g%%", i.Loss))
	}
	if i.Duplicate > 0 {
		parts = append(parts, fmt.Sprintf("duplicates %g%%", i.Duplicate))
	}
	if i.Delay > 0 {
		parts = append(parts, fmt.Sprintf("delay %s", i.Delay))
	}
	if i.Jitter > 0 {
		parts = append(parts, fmt.Sprintf("jitter %s", i.Jitter))
	}
	return "impair " + i.Host + suffix("/", i.Interface) + ": " + strings.Join(parts, ", ")
}

func (c Command) describe() string {
	text := c.Host + ": " + strings.Join(c.Argv, " ")
	if c.Output != nil {
		text += fmt.Sprintf(" prints %q", strings.TrimPrefix(c.Output.String(), "(?m)"))
	}
	if len(c.SameAs) > 0 {
		text += " prints the same as " + strings.Join(c.SameAs, " ")
	}
	if c.Exit != 0 {
		text += fmt.Sprintf(" with exit status %d", c.Exit)
	}
	return text
}

func (a Apply) describe() string { return fmt.Sprintf("apply %s as %s on %s", a.From, a.To, a.Host) }

func (w Wait) describe() string {
	if w.Max > w.Min {
		return fmt.Sprintf("wait %s to %s", w.Min, w.Max)
	}
	return "wait " + w.Min.String()
}

func (e Expect) describe() string {
	words := make([]string, len(e.Checks))
	for i, c := range e.Checks {
		words[i] = c.describe()
	}
	verb := "expect "
	if e.Until {
		verb = "until "
	}
	return verb + strings.Join(words, "; ")
}

func (r Repeat) describe() string { return fmt.Sprintf("repeat %d times", r.Times) }

func suffix(sep, s string) string {
	if s == "" {
		return ""
	}
	return sep + s
}

// builder turns raw steps into Steps and resolves their names.
type builder struct{ *Config }

func (b *builder) steps(r *conf.Reader, place string, raw []conf.At[rawStep]) []Step {
	var out []Step
	for i, s := range raw {
		in := r.In("%s[%d]", place, i)
		st := Step{Name: r.String(s.V.Name, ""), Within: in.Duration(s.V.Within, "within", 10*time.Millisecond, maxTime, defaultStep)}
		if st.Name != "" {
			b.marks[st.Name] = true // the step itself may count from its beginning
		}
		st.Action = b.action(in, s)
		if st.Action == nil {
			continue
		}
		st.Text = st.Action.describe()
		out = append(out, st)
	}
	return out
}

func (b *builder) action(r *conf.Reader, s conf.At[rawStep]) Action {
	var found []Action
	for _, p := range []struct {
		verb string
		list conf.List
	}{{"start", s.V.Start}, {"stop", s.V.Stop}, {"kill", s.V.Kill}, {"pause", s.V.Pause}, {"resume", s.V.Resume}, {"reload", s.V.Reload}, {"restart", s.V.Restart}} {
		if len(p.list) > 0 {
			found = append(found, b.processes(r, p.verb, p.list))
		}
	}
	if v := s.V.Cut; v.Set {
		found = append(found, b.cable(r, true, "cut", v))
	}
	if v := s.V.Restore; v.Set {
		found = append(found, b.cable(r, false, "restore", v))
	}
	if v := s.V.PowerOff; v.Set {
		found = append(found, Power{Host: b.knownHost(r, v, "power_off", s.Pos)})
	}
	if v := s.V.PowerOn; v.Set {
		found = append(found, Power{On: true, Host: b.knownHost(r, v, "power_on", s.Pos)})
	}
	if v := s.V.Separate; v.Set {
		found = append(found, b.separate(r.In("separate"), false, v))
	}
	if v := s.V.Join; v.Set {
		found = append(found, b.separate(r.In("join"), true, v))
	}
	if v := s.V.Impair; v.Set {
		found = append(found, b.impair(r.In("impair"), v))
	}
	if v := s.V.Run; v.Set {
		found = append(found, b.command(r.In("run"), v))
	}
	if v := s.V.Apply; v.Set {
		found = append(found, b.apply(r.In("apply"), v))
	}
	if v := s.V.Wait; v.Set {
		d := r.Duration(v, "wait", 0, maxTime, 0)
		found = append(found, Wait{Min: d, Max: max(d, r.Duration(s.V.WaitUpTo, "wait_up_to", d, maxTime, d))})
	}
	if len(s.V.Expect) > 0 {
		found = append(found, Expect{Checks: b.checks(r, "expect", s.V.Expect)})
	}
	if len(s.V.Until) > 0 {
		found = append(found, Expect{Until: true, Checks: b.checks(r, "until", s.V.Until)})
	}
	if v := s.V.Measure; v.Set {
		found = append(found, b.measure(r.In("measure"), v))
	}
	if v := s.V.Repeat; v.Set {
		found = append(found, Repeat{Times: int(r.Int(v.V.Times, "repeat: times", 1, 100000, 1)), Steps: b.steps(r, "repeat: steps", v.V.Steps)})
	}
	if len(found) != 1 {
		r.Errorf(s.Pos, "", "a step does exactly one thing out of: start, stop, kill, pause, resume, reload, restart, cut, restore, "+
			"power_off, power_on, separate, join, impair, run, apply, wait, expect, until, measure, repeat; found %d", len(found))
		return nil
	}
	return found[0]
}

func (b *builder) processes(r *conf.Reader, verb string, list conf.List) Action {
	p := Processes{Verb: verb}
	for _, v := range list {
		if b.process(v.Text) == nil {
			r.Errorf(v.Pos, verb, "%q is not a process of this lab: write HOST/PROCESS, one of: %s", v.Text, strings.Join(b.refs(), ", "))
			continue
		}
		p.Refs = append(p.Refs, v.Text)
	}
	return p
}

func (b *builder) refs() []string {
	var out []string
	for _, h := range b.Hosts {
		for _, p := range h.Run {
			out = append(out, p.Ref())
		}
	}
	return out
}

// knownHost reads the name of a host.
func (b *builder) knownHost(r *conf.Reader, v conf.Value, field string, pos conf.Pos) string {
	if !r.Required(v, field, pos) {
		return ""
	}
	if b.host(v.Text) == nil {
		var names []string
		for _, h := range b.Hosts {
			names = append(names, h.Name)
		}
		r.Errorf(v.Pos, field, "%q is not a host of this lab: one of: %s", v.Text, strings.Join(names, ", "))
		return ""
	}
	return v.Text
}

// knownInterface complains unless host has the interface, which may be empty.
func (b *builder) knownInterface(r *conf.Reader, v conf.Value, field, host, ifname string) string {
	h := b.host(host)
	if ifname == "" || h == nil {
		return ifname
	}
	for i := range h.Interfaces {
		if ifname == fmt.Sprintf("eth%d", i) {
			return ifname
		}
	}
	r.Errorf(v.Pos, field, "%s has no interface %q: it has eth0 to eth%d", host, ifname, len(h.Interfaces)-1)
	return ""
}

func (b *builder) cable(r *conf.Reader, cut bool, field string, v conf.Value) Action {
	host, ifname, _ := strings.Cut(v.Text, "/")
	hv := v
	hv.Text = host
	return Cable{Cut: cut, Host: b.knownHost(r, hv, field, v.Pos), Interface: b.knownInterface(r, v, field, host, ifname)}
}

func (b *builder) separate(r *conf.Reader, join bool, v conf.At[rawSeparate]) Action {
	s := Separate{Join: join, From: b.knownHost(r, v.V.From, "from", v.Pos), To: b.knownHost(r, v.V.To, "to", v.Pos),
		OneWay: r.Bool(v.V.OneWay, "one_way", false)}
	if s.From != "" && s.From == s.To {
		r.Errorf(v.V.To.Pos, "to", "%s cannot be separated from itself", s.To)
	}
	return s
}

func (b *builder) impair(r *conf.Reader, v conf.At[rawImpair]) Action {
	i := Impair{Host: b.knownHost(r, v.V.Host, "host", v.Pos)}
	i.Interface = b.knownInterface(r, v.V.Interface, "interface", i.Host, r.String(v.V.Interface, ""))
	i.Loss = readPercent(r, v.V.Loss, "loss", 0)
	i.Duplicate = readPercent(r, v.V.Duplicate, "duplicate", 0)
	i.Delay = r.Duration(v.V.Delay, "delay", 0, time.Minute, 0)
	i.Jitter = r.Duration(v.V.Jitter, "jitter", 0, time.Minute, 0)
	return i
}

func (b *builder) command(r *conf.Reader, v conf.At[rawCommand]) Action {
	c := Command{Host: b.knownHost(r, v.V.Host, "host", v.Pos), Argv: v.V.Command.Texts(),
		Exit: int(r.Int(v.V.Exit, "exit", 0, 255, 0)), Output: readRegexp(r, v.V.Output, "output")}
	if len(c.Argv) == 0 {
		r.Errorf(v.Pos, "command", "is required")
	}
	c.SameAs = v.V.SameAs.Texts()
	return c
}

func (b *builder) apply(r *conf.Reader, v conf.At[rawApply]) Action {
	a := Apply{Host: b.knownHost(r, v.V.Host, "host", v.Pos)}
	if r.Required(v.V.From, "from", v.Pos) {
		a.From = v.V.From.Text
		if st, err := os.Stat(filepath.Join(b.Folder, a.From)); err != nil || !st.Mode().IsRegular() {
			r.Errorf(v.V.From.Pos, "from", "%q is not a file in the folder of the lab", a.From)
		}
	}
	if r.Required(v.V.To, "to", v.Pos) {
		a.To = v.V.To.Text
		if !filepath.IsLocal(a.To) {
			r.Errorf(v.V.To.Pos, "to", "%q must be a relative path inside the host's folder", a.To)
		}
	}
	return a
}

// probeRef reads the reference of a probe of one of the kinds.
func (b *builder) probeRef(r *conf.Reader, v conf.Value, pos conf.Pos, kinds ...string) string {
	if !r.Required(v, "probe", pos) {
		return ""
	}
	var fitting []string
	for _, h := range b.Hosts {
		for _, p := range h.Run {
			if p.Probe != nil && slices.Contains(kinds, p.Probe.Kind) {
				fitting = append(fitting, p.Ref())
			}
		}
	}
	if !slices.Contains(fitting, v.Text) {
		r.Errorf(v.Pos, "probe", "%q is not a probe of kind %s: write HOST/PROCESS, one of: %s", v.Text, strings.Join(kinds, " or "), strings.Join(fitting, ", "))
		return ""
	}
	return v.Text
}

// since reads the name of an earlier step.
func (b *builder) since(r *conf.Reader, v conf.Value) string {
	if v.Set && !b.marks[v.Text] {
		r.Errorf(v.Pos, "since", "%q is not the name of this step or an earlier one", v.Text)
	}
	return v.Text
}
