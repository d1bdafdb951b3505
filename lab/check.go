package lab

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/lab/probe"
)

// Check is one expectation. It returns what was measured, and whether that is as expected.
type Check interface {
	describe() string
	check(ctx context.Context, r *run) (measured string, ok bool)
}

type rawCheck struct {
	Connections conf.At[rawConnections] `yaml:"connections"`
	Latency     conf.At[rawLatency]     `yaml:"latency"`
	Share       conf.At[rawShare]       `yaml:"share"`
	Streams     conf.At[rawStreams]     `yaml:"streams"`
	Answers     conf.At[rawAnswers]     `yaml:"answers"`
	Holders     conf.At[rawHolders]     `yaml:"holders"`
	Table       conf.At[rawTable]       `yaml:"table"`
	Address     conf.At[rawAddress]     `yaml:"address"`
	Run         conf.At[rawCommand]     `yaml:"run"`
	Alive       conf.At[rawAlive]       `yaml:"alive"`
	Log         conf.At[rawLog]         `yaml:"log"`
}

type rawConnections struct {
	Probe     conf.Value `yaml:"probe"`
	Since     conf.Value `yaml:"since"`
	MaxGap    conf.Value `yaml:"max_gap"`
	MinGap    conf.Value `yaml:"min_gap"`
	MaxFailed conf.Value `yaml:"max_failed"`
	MinFailed conf.Value `yaml:"min_failed"`
	MinOK     conf.Value `yaml:"min_ok"`
	MaxOK     conf.Value `yaml:"max_ok"`
	Client    conf.Value `yaml:"client"`
}

type rawShare struct {
	Probe  conf.Value `yaml:"probe"`
	Server conf.Value `yaml:"server"`
	Since  conf.Value `yaml:"since"`
	Min    conf.Value `yaml:"min"`
	Max    conf.Value `yaml:"max"`
}

type rawStreams struct {
	Probe       conf.Value `yaml:"probe"`
	Since       conf.Value `yaml:"since"`
	MinSurvived conf.Value `yaml:"min_survived"`
	MaxBroken   conf.Value `yaml:"max_broken"`
	MaxStall    conf.Value `yaml:"max_stall"`
}

type rawAnswers struct {
	Probe conf.Value `yaml:"probe"`
	By    conf.List  `yaml:"by"`
	Since conf.Value `yaml:"since"`
	Max   conf.Value `yaml:"max_several"`
}

type rawTable struct {
	Host   conf.Value `yaml:"host"`
	Equals conf.Value `yaml:"equals"`
}

type rawAddress struct {
	Host      conf.Value `yaml:"host"`
	Interface conf.Value `yaml:"interface"`
	Address   conf.Value `yaml:"address"`
	Present   conf.Value `yaml:"present"`
}

type rawAlive struct {
	Process conf.Value `yaml:"process"`
	Running conf.Value `yaml:"running"`
	Exit    conf.Value `yaml:"exit"`
}

type rawLog struct {
	Process conf.Value `yaml:"process"`
	Since   conf.Value `yaml:"since"`
	Matches conf.Value `yaml:"matches"`
	Lacks   conf.Value `yaml:"lacks"`
}

func (b *builder) checks(r *conf.Reader, field string, raw []conf.At[rawCheck]) []Check {
	var out []Check
	for i, c := range raw {
		in := r.In("%s[%d]", field, i)
		var found []Check
		if c.V.Connections.Set {
			found = append(found, b.connections(in.In("connections"), c.V.Connections))
		}
		if c.V.Latency.Set {
			found = append(found, b.latency(in.In("latency"), c.V.Latency))
		}
		if c.V.Share.Set {
			found = append(found, b.share(in.In("share"), c.V.Share))
		}
		if c.V.Streams.Set {
			found = append(found, b.streams(in.In("streams"), c.V.Streams))
		}
		if c.V.Answers.Set {
			found = append(found, b.answers(in.In("answers"), c.V.Answers))
		}
		if c.V.Holders.Set {
			found = append(found, b.holders(in.In("holders"), c.V.Holders))
		}
		if c.V.Table.Set {
			t := c.V.Table
			tr := in.In("table")
			tr.Required(t.V.Equals, "equals", t.Pos)
			found = append(found, checkTable{b.knownHost(tr, t.V.Host, "host", t.Pos), strings.TrimSpace(t.V.Equals.Text)})
		}
		if c.V.Address.Set {
			found = append(found, b.address(in.In("address"), c.V.Address))
		}
		if c.V.Run.Set {
			found = append(found, checkRun{b.command(in.In("run"), c.V.Run).(Command)})
		}
		if c.V.Alive.Set {
			found = append(found, b.alive(in.In("alive"), c.V.Alive))
		}
		if c.V.Log.Set {
			found = append(found, b.log(in.In("log"), c.V.Log))
		}
		if len(found) != 1 {
			in.Errorf(c.Pos, "", "an expectation is exactly one of: connections, latency, share, streams, answers, holders, table, address, run, alive, log; found %d", len(found))
			continue
		}
		out = append(out, found[0])
	}
	return out
}

// bounds is an optional lower and upper bound.
type bounds[T int | time.Duration | float64] struct{ min, max T }

func (b bounds[T]) holds(v T) bool { return v >= b.min && v <= b.max }

type checkConnections struct {
	probe, since string
	gap          bounds[time.Duration]
	failed, ok   bounds[int]
	client       netip.Prefix
	words        []string
}

func (b *builder) connections(r *conf.Reader, c conf.At[rawConnections]) Check {
	out := checkConnections{probe: b.probeRef(r, c.V.Probe, c.Pos, "connect", "udp"), since: b.since(r, c.V.Since)}
	out.gap = bounds[time.Duration]{r.Duration(c.V.MinGap, "min_gap", 0, maxTime, 0), r.Duration(c.V.MaxGap, "max_gap", 0, maxTime, maxTime)}
	count := func(v conf.Value, field string, def int64) int { return int(r.Int(v, field, 0, math.MaxInt32, def)) }
	out.failed = bounds[int]{count(c.V.MinFailed, "min_failed", 0), count(c.V.MaxFailed, "max_failed", math.MaxInt32)}
	out.ok = bounds[int]{count(c.V.MinOK, "min_ok", 0), count(c.V.MaxOK, "max_ok", math.MaxInt32)}
	out.client = r.Prefix(c.V.Client, "client")
	for _, w := range []struct {
		v    conf.Value
		text string
	}{{c.V.MaxGap, "longest gap at most "}, {c.V.MinGap, "longest gap at least "}, {c.V.MaxFailed, "failed at most "},
		{c.V.MinFailed, "failed at least "}, {c.V.MinOK, "answered at least "}, {c.V.MaxOK, "answered at most "}, {c.V.Client, "client seen as "}} {
		if w.v.Set {
			out.words = append(out.words, w.text+w.v.Text)
		}
	}
	if len(out.words) == 0 {
		r.Errorf(c.Pos, "", "expects nothing: give at least one of max_gap, min_gap, max_failed, min_failed, min_ok, max_ok, client")
	}
	return out
}

func (c checkConnections) describe() string {
	return c.probe + ": " + strings.Join(c.words, ", ") + suffix(" since ", c.since)
}

func (c checkConnections) check(_ context.Context, r *run) (string, bool) {
	w := r.window(c.since)
	series := r.procs[c.probe].series
	got := series.Connections(w)
	text := fmt.Sprintf("%d answered, %d failed%s, longest gap %s", got.OK, got.Failed, inBrackets(errorsOf(got.Errors)), round(got.Gap))
	ok := c.gap.holds(got.Gap) && c.failed.holds(got.Failed) && c.ok.holds(got.OK)
	if c.client.IsValid() {
		for _, e := range series.Events() {
			if e.Kind != probe.OK || e.At < w.From || e.At > w.To {
				continue
			}
			ap, err := netip.ParseAddrPort(e.Client)
			if err != nil || !c.client.Contains(ap.Addr().Unmap()) {
				return fmt.Sprintf("%s, and %s saw the client as %q", text, e.Server, e.Client), false
			}
		}
	}
	return text, ok
}

type checkShare struct {
	probe, since, server string
	share                bounds[float64]
}

func (b *builder) share(r *conf.Reader, c conf.At[rawShare]) Check {
	if !c.V.Min.Set && !c.V.Max.Set {
		r.Errorf(c.Pos, "", "expects nothing: give min, max or both")
	}
	return checkShare{b.probeRef(r, c.V.Probe, c.Pos, "connect", "udp"), b.since(r, c.V.Since), b.knownHost(r, c.V.Server, "server", c.Pos),
		bounds[float64]{readPercent(r, c.V.Min, "min", 0) / 100, readPercent(r, c.V.Max, "max", 100) / 100}}
}

func (c checkShare) describe() string {
	return fmt.Sprintf("%s: share of %s between %.4g%% and %.4g%%%s", c.probe, c.server, c.share.min*100, c.share.max*100, suffix(" since ", c.since))
}

func (c checkShare) check(_ context.Context, r *run) (string, bool) {
	got := r.procs[c.probe].series.Connections(r.window(c.since))
	s := got.Share(c.server)
	return fmt.Sprintf("%.1f%% (%d of %d)", s*100, got.ByServer[c.server], got.OK), got.OK > 0 && c.share.holds(s)
}

type checkStreams struct {
	probe, since     string
	survived, broken bounds[int]
	stall            bounds[time.Duration]
	words            []string
}

func (b *builder) streams(r *conf.Reader, c conf.At[rawStreams]) Check {
	out := checkStreams{probe: b.probeRef(r, c.V.Probe, c.Pos, "stream"), since: b.since(r, c.V.Since)}
	out.survived = bounds[int]{int(r.Int(c.V.MinSurvived, "min_survived", 0, 10000, 0)), math.MaxInt32}
	out.broken = bounds[int]{0, int(r.Int(c.V.MaxBroken, "max_broken", 0, 10000, math.MaxInt32))}
	out.stall = bounds[time.Duration]{0, r.Duration(c.V.MaxStall, "max_stall", 0, maxTime, maxTime)}
	for _, w := range []struct {
		v    conf.Value
		text string
	}{{c.V.MinSurvived, "streams survived at least "}, {c.V.MaxBroken, "broken at most "}, {c.V.MaxStall, "longest stall at most "}} {
		if w.v.Set {
			out.words = append(out.words, w.text+w.v.Text)
		}
	}
	if len(out.words) == 0 {
		r.Errorf(c.Pos, "", "expects nothing: give at least one of min_survived, max_broken, max_stall")
	}
	return out
}

func (c checkStreams) describe() string {
	return c.probe + ": " + strings.Join(c.words, ", ") + suffix(" since ", c.since)
}

func (c checkStreams) check(_ context.Context, r *run) (string, bool) {
	got := r.procs[c.probe].series.Streams(r.window(c.since))
	return fmt.Sprintf("%d streams alive, %d broken%s, longest stall %s", got.Alive, got.Broken, inBrackets(errorsOf(got.Errors)), round(got.Worst)),
		c.survived.holds(got.Alive) && c.broken.holds(got.Broken) && c.stall.holds(got.Worst)
}

type checkAnswers struct {
	probe, since string
	by           []string
	anyone       bool // by says nothing
	several      int
}

func (b *builder) answers(r *conf.Reader, c conf.At[rawAnswers]) Check {
	out := checkAnswers{probe: b.probeRef(r, c.V.Probe, c.Pos, "arp"), since: b.since(r, c.V.Since)}
	for _, v := range c.V.By {
		out.by = append(out.by, b.knownHost(r, v, "by", v.Pos))
	}
	slices.Sort(out.by)
	out.several = int(r.Int(c.V.Max, "max_several", 0, math.MaxInt32, math.MaxInt32))
	out.anyone = len(out.by) == 0 && c.V.Max.Set
	return out
}

func (c checkAnswers) describe() string {
	who := "nobody"
	if len(c.by) > 0 {
		who = strings.Join(c.by, " and ")
	}
	if c.anyone {
		who = "anyone"
	}
	if c.several < math.MaxInt32 {
		who += fmt.Sprintf(", by several at most %d times", c.several)
	}
	return c.probe + ": answered by " + who + suffix(" since ", c.since)
}

func (c checkAnswers) check(_ context.Context, r *run) (string, bool) {
	w := r.window(c.since)
	got := r.procs[c.probe].series.Claims(w)
	by := map[string]int{}
	for mac, n := range got.ByMAC {
		by[r.owner(mac)] += n
	}
	var hosts []string
	for h := range by {
		hosts = append(hosts, h)
	}
	slices.Sort(hosts)
	text := fmt.Sprintf("%d requests: %s", got.Requests, probe.Most(by, func(h string, n int) string { return fmt.Sprintf("%d answered by %s", n, h) }))
	if len(by) == 0 {
		text = fmt.Sprintf("%d requests, no answer", got.Requests)
	}
	if got.Several > 0 {
		text += fmt.Sprintf("; %d by several, for %s", got.Several, round(got.Overlap))
	}
	return text, got.Requests > 0 && (c.anyone || slices.Equal(hosts, c.by)) && got.Several <= c.several
}

// owner names the host of a hardware address, or returns the address.
func (r *run) owner(mac string) string {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return mac
	}
	if h := r.world.Owner(hw); h != "" {
		return h
	}
	return mac
}

type checkTable struct{ host, equals string }

func (c checkTable) describe() string {
	return fmt.Sprintf("table of %s: %d lines as written", c.host, strings.Count(c.equals, "\n")+1)
}

func (c checkTable) check(ctx context.Context, r *run) (string, bool) {
	got, err := r.table(ctx, c.host)
	if err != nil {
		return err.Error(), false
	}
	want := sortedLines(c.equals)
	if slices.Equal(sortedLines(got), want) {
		return "equal", true
	}
	return "it is\n" + got, false
}

func sortedLines(s string) []string {
	var out []string
	for l := range strings.SplitSeq(s, "\n") {
		if l = strings.Join(strings.Fields(l), " "); l != "" {
			out = append(out, l)
		}
	}
	slices.Sort(out)
	return out
}

type checkAddress struct {
	host, ifname string
	addr         netip.Addr
	present      bool
}

func (b *builder) address(r *conf.Reader, c conf.At[rawAddress]) Check {
	r.Required(c.V.Address, "address", c.Pos)
	return checkAddress{b.knownHost(r, c.V.Host, "host", c.Pos), r.String(c.V.Interface, ""), r.Addr(c.V.Address, "address"), r.Bool(c.V.Present, "present", true)}
}

func (c checkAddress) describe() string {
	verb := "has"
	if !c.present {
		verb = "does not have"
	}
	return fmt.Sprintf("%s %s %s%s", c.host, verb, c.addr, suffix(" on ", c.ifname))
}

func (c checkAddress) check(ctx context.Context, r *run) (string, bool) {
	all, err := r.world.Machine(c.host).Addresses(ctx)
	if err != nil {
		return err.Error(), false
	}
	var on []string
	for name, addrs := range all {
		if c.ifname != "" && name != c.ifname {
			continue
		}
		if slices.ContainsFunc(addrs, func(p netip.Prefix) bool { return p.Addr() == c.addr }) {
			on = append(on, name)
		}
	}
	slices.Sort(on)
	if len(on) == 0 {
		return "it is on no interface", !c.present
	}
	return "it is on " + strings.Join(on, ", "), c.present
}

type checkRun struct{ Command }

func (c checkRun) check(ctx context.Context, r *run) (string, bool) {
	out, err := r.command(ctx, c.Command)
	if err != nil {
		return err.Error(), false
	}
	return firstLines(out, 3), true
}

type checkAlive struct {
	ref     string
	running bool
	exit    int // -1: any
}

func (b *builder) alive(r *conf.Reader, c conf.At[rawAlive]) Check {
	out := checkAlive{running: r.Bool(c.V.Running, "running", true), exit: int(r.Int(c.V.Exit, "exit", 0, 255, -1))}
	if r.Required(c.V.Process, "process", c.Pos) {
		out.ref = c.V.Process.Text
		if b.process(out.ref) == nil {
			r.Errorf(c.V.Process.Pos, "process", "%q is not a process of this lab: one of: %s", out.ref, strings.Join(b.refs(), ", "))
		}
	}
	if out.exit >= 0 && out.running {
		if c.V.Running.Set {
			r.Errorf(c.V.Exit.Pos, "exit", "a running process has no exit status")
		}
		out.running = false
	}
	return out
}

func (c checkAlive) describe() string {
	switch {
	case c.running:
		return c.ref + " runs"
	case c.exit >= 0:
		return fmt.Sprintf("%s has ended with exit status %d", c.ref, c.exit)
	}
	return c.ref + " does not run"
}

func (c checkAlive) check(_ context.Context, r *run) (string, bool) {
	running, exit := r.procs[c.ref].state()
	if running {
		return "it runs", c.running
	}
	return fmt.Sprintf("it has ended: %s", exit), !c.running && (c.exit < 0 || exit.status == c.exit && exit.signal == 0)
}

type checkLog struct {
	ref, since     string
	matches, lacks *regexp.Regexp
}

func (b *builder) log(r *conf.Reader, c conf.At[rawLog]) Check {
	out := checkLog{since: b.since(r, c.V.Since), matches: readRegexp(r, c.V.Matches, "matches"), lacks: readRegexp(r, c.V.Lacks, "lacks")}
	if r.Required(c.V.Process, "process", c.Pos) {
		out.ref = c.V.Process.Text
		if p := b.process(out.ref); p == nil || p.Probe != nil {
			r.Errorf(c.V.Process.Pos, "process", "%q is not a program of this lab", out.ref)
		}
	}
	if !c.V.Matches.Set && !c.V.Lacks.Set {
		r.Errorf(c.Pos, "", "expects nothing: give matches, lacks or both")
	}
	return out
}

func (c checkLog) describe() string {
	var parts []string
	if c.matches != nil {
		parts = append(parts, fmt.Sprintf("says %q", strings.TrimPrefix(c.matches.String(), "(?m)")))
	}
	if c.lacks != nil {
		parts = append(parts, fmt.Sprintf("does not say %q", strings.TrimPrefix(c.lacks.String(), "(?m)")))
	}
	return c.ref + " " + strings.Join(parts, " and ") + suffix(" since ", c.since)
}

func (c checkLog) check(_ context.Context, r *run) (string, bool) {
	text := r.procs[c.ref].logSince(r.window(c.since).From)
	if c.matches != nil && !c.matches.MatchString(text) {
		return "its output since then:\n" + lastLines(text, 8), false
	}
	if c.lacks != nil {
		if m := c.lacks.FindString(text); m != "" {
			return fmt.Sprintf("it said %q", m), false
		}
	}
	return "so it is", true
}

func errorsOf(m map[string]int) string {
	return probe.Most(m, func(k string, n int) string { return fmt.Sprintf("%d %s", n, k) })
}

func inBrackets(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}

// round drops digits that mean nothing to a reader.
func round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Microsecond)
}

func firstLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > n {
		lines = append(lines[:n], "...")
	}
	return strings.Join(lines, "\n")
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(lines) > n {
		lines = append([]string{"..."}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "\n")
}
