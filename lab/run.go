package lab

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/lab/probe"
	"github.com/drover-lb/drover/lab/topology"
)

// Options of [Run].
type Options struct {
	Out    io.Writer // the account of each step, while it runs
	Colour bool
	// After is called when the scenario has ended, failed or not, while the lab still stands.
	After func(context.Context, *topology.World) error
}

// ErrExpectation says that the lab ran, and that something was not as expected.
var ErrExpectation = errors.New("not every expectation held")

// run is a lab while it runs.
type run struct {
	*Config
	world  *topology.World
	procs  map[string]*process
	order  []*process
	bin    string
	rng    *rand.Rand
	start  time.Duration
	marks  map[string]time.Duration
	report *Report
	out    *account
	ledger *ledger

	mu    sync.Mutex // guards ended
	ended []string   // processes that ended by themselves
}

// Run plays a lab in this kernel, which needs IPVS and root. The report is complete even when an
// expectation failed, which is [ErrExpectation]; other errors mean that the lab could not be built.
func Run(ctx context.Context, c *Config, o Options) (rep *Report, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.Timeout, fmt.Errorf("the lab was not done after %s (timeout)", c.Timeout))
	defer cancel()
	dir, err := os.MkdirTemp("", "drover-lab-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r := &run{Config: c, procs: map[string]*process{}, bin: filepath.Dir(self), marks: map[string]time.Duration{},
		rng: rand.New(rand.NewPCG(uint64(c.Seed), 0)), start: probe.Now(), report: newReport(c)}
	r.out = &account{w: o.Out, colour: o.Colour, start: r.start}
	r.out.title(c)
	var hosts []topology.Host
	r.ledger = &ledger{cables: map[string]int{}}
	for _, h := range c.Hosts {
		r.ledger.cables[h.Name] = len(h.Interfaces)
		hosts = append(hosts, h.Host)
	}
	if r.world, err = topology.New(c.Networks, hosts, dir); err != nil {
		return nil, fmt.Errorf("failed to build the lab: %w", err)
	}
	defer r.world.Close()
	if err := r.world.WatchAddresses(r.ledger.address); err != nil {
		return nil, err
	}
	key := newKey()
	for _, h := range c.Hosts {
		m := r.world.Machine(h.Name)
		if err := copyFolder(c.Folder, m.Dir); err != nil {
			return nil, fmt.Errorf("failed to copy the folder of the lab for %q: %w", h.Name, err)
		}
		if err := os.WriteFile(filepath.Join(m.Dir, keyFile), key, 0o600); err != nil {
			return nil, fmt.Errorf("failed to write the key for %q: %w", h.Name, err)
		}
		for _, p := range h.Run {
			pr := newProcess(p, m, r.bin)
			pr.onEnd = r.onEnd
			r.procs[p.Ref()] = pr
			r.order = append(r.order, pr)
		}
	}
	defer r.endAll()

	failed := r.play(ctx)
	r.summarise(ctx)
	r.report.Took = probe.Now() - r.start
	r.out.summary(r.report)
	if o.After != nil {
		if err := o.After(ctx, r.world); err != nil {
			return r.report, err
		}
	}
	if err := context.Cause(ctx); err != nil {
		return r.report, err
	}
	if failed != nil || !r.report.Passed {
		return r.report, ErrExpectation
	}
	return r.report, nil
}

// play starts what starts by itself and plays the scenario. An action that fails ends the scenario,
// an expectation that fails does not.
func (r *run) play(ctx context.Context) error {
	// Whoever serves starts before whoever asks.
	for _, role := range []Role{Router, RealServer, Director, Client} {
		for _, h := range r.Hosts {
			for _, p := range h.Run {
				if p.Manual || h.Role != role {
					continue
				}
				s := Step{Within: defaultStep * time.Duration(max(r.patience, 1)), Text: "start " + p.Ref(), Action: Processes{Verb: "start", Refs: []string{p.Ref()}}}
				if err := r.step(ctx, s); err != nil {
					return err
				}
			}
		}
	}
	if err := r.steps(ctx, r.Scenario); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.ended {
		r.expectation("no process ends by itself", e, false)
	}
	return nil
}

func (r *run) steps(ctx context.Context, steps []Step) error {
	for _, s := range steps {
		if err := r.step(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// step plays one step within its bound and writes the account of it.
func (r *run) step(ctx context.Context, s Step) error {
	if s.Name != "" {
		r.marks[s.Name] = probe.Now()
	}
	if rep, ok := s.Action.(Repeat); ok {
		for i := range rep.Times {
			r.out.round(i+1, rep.Times)
			if err := r.steps(ctx, rep.Steps); err != nil {
				return err
			}
		}
		return nil
	}
	limit := s.Within
	if w, ok := s.Action.(Wait); ok {
		limit += w.Max
	}
	sctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not done within %s", limit))
	defer cancel()
	began := probe.Now()
	if e, ok := s.Action.(Expect); ok {
		r.expect(sctx, s, e)
		return nil
	}
	result, err := r.act(sctx, s.Action)
	ev := StepReport{At: began - r.start, Took: probe.Now() - began, Text: s.Text, Mark: s.Name, Result: result}
	if f, ok := s.Action.(interface{ fault() string }); ok {
		ev.Fault = f.fault()
	}
	if err != nil {
		ev.Error = err.Error()
		r.report.Passed = false
	}
	r.report.Steps = append(r.report.Steps, ev)
	r.out.step(ev)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Text, err)
	}
	return nil
}

// fault: the actions that the timeline marks.
func (p Processes) fault() string {
	if p.Verb == "start" {
		return ""
	}
	return p.describe()
}
func (c Cable) fault() string    { return c.describe() }
func (s Separate) fault() string { return s.describe() }
func (i Impair) fault() string   { return i.describe() }
func (a Apply) fault() string    { return a.describe() }
func (c Command) fault() string  { return strings.Join(c.Argv, " ") + " on " + c.Host }

func (r *run) act(ctx context.Context, a Action) (string, error) {
	switch a := a.(type) {
	case Processes:
		return r.processes(ctx, a)
	case Cable:
		// A host counts as reachable a little too long rather than too short.
		c := change{host: a.Host, ifname: a.Interface, on: !a.Cut}
		if a.Cut {
			err := r.world.Cut(a.Host, a.Interface)
			r.ledger.add(c)
			return "", err
		}
		r.ledger.add(c)
		return "", r.world.Restore(a.Host, a.Interface)
	case Power:
		return r.power(ctx, a)
	case Measure:
		return r.measure(ctx, a)
	case Separate:
		op := r.world.Separate
		if a.Join {
			op = r.world.Join
		}
		err := op(a.From, a.To)
		if err == nil && !a.OneWay {
			err = op(a.To, a.From)
		}
		return "", err
	case Impair:
		return "", r.world.Impair(a.Host, a.Interface, a.Impairment)
	case Command:
		out, err := r.command(ctx, a)
		return firstLines(out, 40), err
	case Apply:
		return "", r.apply(a)
	case Wait:
		d := a.Min
		if a.Max > a.Min {
			d += time.Duration(r.rng.Int64N(int64(a.Max - a.Min)))
		}
		select {
		case <-time.After(d):
			return "", nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
	panic(fmt.Sprintf("lab: no such action: %T", a))
}

func (r *run) processes(ctx context.Context, a Processes) (string, error) {
	var results []string
	for _, ref := range a.Refs {
		p := r.procs[ref]
		began := probe.Now()
		var err error
		switch a.Verb {
		case "start":
			err = p.start(ctx)
		case "stop":
			err = p.finish(ctx, syscall.SIGTERM)
		case "kill":
			err = p.finish(ctx, syscall.SIGKILL)
		case "pause":
			err = p.signal(syscall.SIGSTOP)
		case "resume":
			err = p.signal(syscall.SIGCONT)
		case "reload":
			err = p.signal(syscall.SIGHUP)
		case "restart":
			if err = p.finish(ctx, syscall.SIGTERM); err == nil {
				err = p.start(ctx)
			}
		default:
			panic("lab: no such verb: " + a.Verb)
		}
		if err != nil {
			return strings.Join(results, ", "), fmt.Errorf("%s: %w", ref, err)
		}
		if a.Verb == "start" || a.Verb == "restart" || a.Verb == "stop" {
			results = append(results, fmt.Sprintf("after %s", round(probe.Now()-began)))
		}
	}
	return strings.Join(results, ", "), nil
}

// command runs a program on a host to its end and compares exit status and output.
func (r *run) command(ctx context.Context, c Command) (string, error) {
	text, err := r.output(ctx, c)
	if err != nil || len(c.SameAs) == 0 {
		return text, err
	}
	other, err := r.output(ctx, Command{Host: c.Host, Argv: c.SameAs})
	if err != nil {
		return text, err
	}
	if text != other {
		return text, fmt.Errorf("the output of %s differs:\n%s", strings.Join(c.SameAs, " "), difference(text, other))
	}
	return fmt.Sprintf("%d lines, equal", strings.Count(text, "\n")+1), nil
}

// difference shows the first lines in which two texts differ.
func difference(a, b string) string {
	al, bl := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range max(len(al), len(bl)) {
		x, y := "(nothing)", "(nothing)"
		if i < len(al) {
			x = al[i]
		}
		if i < len(bl) {
			y = bl[i]
		}
		if x != y {
			return fmt.Sprintf("line %d: %q\n   and: %q", i+1, x, y)
		}
	}
	return ""
}

// output runs a program on a host to its end.
func (r *run) output(ctx context.Context, c Command) (string, error) {
	m := r.world.Machine(c.Host)
	env := environ(r.bin)
	path, err := lookPath(c.Argv[0], env)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, path, c.Argv[1:]...)
	cmd.Args[0] = c.Argv[0]
	// Output may be on its way for a while after the end, where daemons of a higher priority share one processor.
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = env, &out, &out, 5*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := m.Start(cmd); err != nil {
		return "", fmt.Errorf("failed to start %q: %w", c.Argv[0], err)
	}
	err = cmd.Wait()
	text := strings.TrimRight(out.String(), "\n")
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		return text, err
	}
	if ctx.Err() != nil {
		return text, context.Cause(ctx)
	}
	if got := cmd.ProcessState.ExitCode(); got != c.Exit {
		return text, fmt.Errorf("exit status %d instead of %d: %s", got, c.Exit, lastLines(text, 8))
	}
	if c.Output != nil && !c.Output.MatchString(text) {
		return text, fmt.Errorf("its output does not match %q: %s", strings.TrimPrefix(c.Output.String(), "(?m)"), lastLines(text, 12))
	}
	return text, nil
}

func (r *run) apply(a Apply) error {
	b, err := os.ReadFile(filepath.Join(r.Folder, a.From))
	if err != nil {
		return err
	}
	return renameio.WriteFile(filepath.Join(r.world.Machine(a.Host).Dir, a.To), b, 0o644)
}

// expect checks once, or until everything holds at once.
func (r *run) expect(ctx context.Context, s Step, e Expect) {
	type outcome struct {
		measured string
		ok       bool
	}
	began := probe.Now()
	var got []outcome
	for {
		all := true
		var now []outcome
		for _, c := range e.Checks {
			m, ok := c.check(ctx, r)
			now = append(now, outcome{m, ok})
			all = all && ok
		}
		if !all && ctx.Err() != nil && got != nil {
			break // what was cut short says nothing: the look before it counts
		}
		got = now
		if all || !e.Until {
			break
		}
		select { // what the outside shows gives no events: look again
		case <-time.After(20 * time.Millisecond):
			continue
		case <-ctx.Done():
		}
		break
	}
	for i, c := range e.Checks {
		measured := got[i].measured
		if e.Until && got[i].ok {
			measured = fmt.Sprintf("after %s: %s", round(probe.Now()-began), measured)
		} else if e.Until {
			measured = fmt.Sprintf("not within %s: %s", s.Within, measured)
		}
		r.expectation(c.describe(), measured, got[i].ok)
	}
}

func (r *run) expectation(text, measured string, ok bool) {
	ex := Expectation{At: probe.Now() - r.start, Text: text, Measured: measured, Held: ok}
	r.report.Expectations = append(r.report.Expectations, ex)
	if !ok {
		r.report.Passed = false
	}
	r.out.expectation(ex)
}

// window is the time since a named step, or since the beginning.
func (r *run) window(since string) probe.Window {
	return probe.Window{From: r.marks[since], To: probe.Now()}
}

// onEnd hears of processes that end by themselves. It is only wrong when no expectation asks for it.
func (r *run) onEnd(p *process, end exitState) {
	text := fmt.Sprintf("%s ended: %s", p.Ref(), end)
	r.out.note(text + "\n" + lastLines(p.logSince(0), 6))
	if r.asked(r.Scenario, p.Ref()) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = append(r.ended, text)
}

// asked: whether the scenario looks at how a process ends.
func (r *run) asked(steps []Step, ref string) bool {
	for _, s := range steps {
		switch a := s.Action.(type) {
		case Repeat:
			if r.asked(a.Steps, ref) {
				return true
			}
		case Expect:
			for _, c := range a.Checks {
				if ca, ok := c.(checkAlive); ok && ca.ref == ref && !ca.running {
					return true
				}
			}
		}
	}
	return false
}

// endBound is how long the processes have to end with the lab. A director takes 3.5 s, as it waits until the kernel has
// told the other one of the newest connection.
const endBound = 10 * time.Second

// endAll ends every process, the clients and then all others at once: first by SIGTERM, so that the end of a lab is
// also a clean stop, and by SIGKILL what does not end by that, or has left its process group.
func (r *run) endAll() {
	ctx, cancel := context.WithTimeoutCause(context.Background(), endBound, errors.New("killed"))
	defer cancel()
	// Clients go first: what they have under way would wait for those who have gone.
	for _, clients := range []bool{true, false} {
		var wg sync.WaitGroup
		for _, p := range r.order {
			if running, _ := p.state(); !running || (r.host(p.Host).Role == Client) != clients {
				continue
			}
			wg.Go(func() {
				_ = p.signal(syscall.SIGCONT)
				if err := p.finish(ctx, syscall.SIGTERM); err != nil {
					r.out.note(fmt.Sprintf("%s %v", p.Ref(), err))
				}
			})
		}
		wg.Wait()
	}
	for _, m := range r.world.Machines() {
		if !m.On() {
			continue
		}
		inode, err := os.Readlink(m.Namespaces()["net"])
		if err == nil {
			_, err = signalNamespace(inode, syscall.SIGKILL)
		}
		if err != nil {
			r.out.note(fmt.Sprintf("failed to clear host %q: %v", m.Name, err))
		}
	}
}

// table is the IPVS table of a host in ipvsadm's words.
func (r *run) table(ctx context.Context, host string) (string, error) {
	entries, err := r.services(ctx, host)
	if err != nil {
		return "", err
	}
	want := public(entries)
	return strings.Join(planLines(want), "\n"), nil
}

func (r *run) services(ctx context.Context, host string) (entries []ipvs.ServiceEntry, err error) {
	derr := r.world.Machine(host).Do(func() error {
		c, err := ipvs.Dial(ctx, ipvs.Config{})
		if err != nil {
			return err
		}
		defer c.Close()
		entries, err = c.Services(ctx)
		return err
	})
	return entries, derr
}

// keyFile is a file with a key for the cluster of the lab, a new one in each run and the same on each host.
const keyFile = "cluster.key"

// newKey makes a key as `drover keys generate` does.
func newKey() []byte {
	var key [32]byte
	if _, err := crand.Read(key[:]); err != nil {
		panic("lab: no random numbers: " + err.Error()) // crypto/rand does not fail on Linux
	}
	return []byte(base64.StdEncoding.EncodeToString(key[:]) + "\n")
}

// copyFolder copies the plain files of a lab's folder; larger ones than 16 MiB are refused.
func copyFolder(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Size() > 16<<20 {
			return fmt.Errorf("%s is larger than 16 MiB", e.Name())
		}
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), b, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

// kernelRelease is what uname -r prints.
func kernelRelease() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
