//go:build bench

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/arp"
	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/health/probe"
	"github.com/drover-lb/drover/controller/kernel/kerneltest"
	"github.com/drover-lb/drover/ipvs"
)

// What a cluster costs that does nothing, and how long a change takes: three directors, each a process with all of
// a director but the kernel, which is the one of package kerneltest, and agents that are nodes of the gossip as those of
// drover-realserver are, all in one more process. They meet on the loopback interface, with encryption.
//
//	go test -tags bench -run TestScale -v ./cmd/drover-director
//
// DROVER_SCALE has the numbers of agents, DROVER_SCALE_OUT a file for the figures as JSON.

const (
	scaleRole    = "DROVER_SCALE_ROLE"
	scaleChanges = 20
	scaleIdle    = 10 * time.Second
	scalePort    = 17946
	// scalePatience bounds each wait. A thousand nodes that start in one process of two cores tell each other of each
	// other, a million times.
	scalePatience = 8 * time.Minute
)

func TestMain(m *testing.M) {
	role := os.Getenv(scaleRole)
	if role == "" {
		os.Exit(m.Run())
	}
	var err error
	if n, agents := strings.CutPrefix(role, "agents "); agents {
		err = scaleAgents(n)
	} else {
		err = scaleDirector(role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role, err)
		os.Exit(1)
	}
}

// said is what a child says, one on a line. Times are readings of CLOCK_MONOTONIC in nanoseconds, the same for all.
type said struct {
	Ready   bool     `json:"ready,omitempty"`
	Change  int      `json:"change,omitempty"` // acknowledged, in the kernel, or at an agent
	At      int64    `json:"at,omitempty"`
	Agent   int      `json:"agent,omitempty"`
	Acked   bool     `json:"acked,omitempty"`
	Members int      `json:"members,omitempty"` // the least that any node of the process sees
	Usage   *usage   `json:"usage,omitempty"`
	Error   string   `json:"error,omitempty"`
	_       struct{} // named fields only
}

type usage struct {
	CPU float64 `json:"cpu_seconds"`
	RSS float64 `json:"rss_bytes"`
	In  float64 `json:"in_bytes"`
	Out float64 `json:"out_bytes"`
}

func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

var tellMu sync.Mutex

func tell(s said) {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	tellMu.Lock()
	defer tellMu.Unlock()
	_, _ = os.Stdout.Write(append(b, '\n'))
}

// measure is the usage of this process since its start.
func measure(regs ...*prometheus.Registry) *usage {
	var ru syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &ru); err != nil {
		panic(err)
	}
	u := &usage{CPU: time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()}
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	pages, _ := strconv.ParseFloat(strings.Fields(string(b))[1], 64)
	u.RSS = pages * float64(os.Getpagesize())
	for _, reg := range regs {
		families, err := reg.Gather()
		if err != nil {
			panic(err)
		}
		for _, f := range families {
			if f.GetName() != "drover_cluster_bytes_total" {
				continue
			}
			for _, x := range f.Metric {
				for _, l := range x.Label {
					switch l.GetName() + l.GetValue() {
					case "directionin":
						u.In += x.Counter.GetValue()
					case "directionout":
						u.Out += x.Counter.GetValue()
					}
				}
			}
		}
	}
	return u
}

func scaleVoters() string {
	var out []string
	for i := range 3 {
		out = append(out, fmt.Sprintf("{name: d%d, address: \"127.0.1.%d:%d\"}", i+1, i+1, scalePort))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// scaleSite is the specification after the n-th change: the n-th VIP is new.
func scaleSite(n int) string {
	return fmt.Sprintf("vips: [10.9.0.1, 10.9.1.%[1]d]\nservices:\n"+
		"  - {name: web, address: 10.9.0.1, port: 80, scheduler: rr, pool: web}\n"+
		"  - {name: more, address: 10.9.1.%[1]d, port: 80, scheduler: rr, pool: web}\n", n)
}

// changeOf is the number of the change that has made a VIP.
func changeOf(a netip.Addr) int {
	if b := a.As4(); b[0] == 10 && b[1] == 9 && b[2] == 1 {
		return int(b[3])
	}
	return 0
}

// scaleKernel tells when a change has reached the table.
type scaleKernel struct{ *kerneltest.Kernel }

func (k scaleKernel) Apply(ctx context.Context, commands []ipvs.Command) []error {
	errs := k.Kernel.Apply(ctx, commands)
	at := monotonic()
	for _, c := range commands {
		if n := changeOf(c.Service.Addr); n > 0 && c.Op == ipvs.OpNewService {
			tell(said{Change: n, At: at})
		}
	}
	return errs
}

// scaleDirector is a director until its input ends.
func scaleDirector(name string) error {
	dir := os.Getenv("DROVER_SCALE_DIR")
	path := filepath.Join(dir, name+".yaml")
	text := fmt.Sprintf("director: {interface: lo, sysctls: false}\ncluster: {name: %s, key_file: %s, lease: 1s, voters: %s}\n", name, filepath.Join(dir, "key"), scaleVoters())
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	file, err := load(path)
	if err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	ann, err := arp.NewAnnouncer(arp.Options{Log: log})
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	ev := newEvents(log)
	var m *member // set before the engine runs
	engine := health.New(health.Options{Prober: &probe.Prober{}, Log: log, Event: ev.health, Viewed: func() { m.viewed() }})
	m, err = newMember(memberOptions{events: ev, health: engine, file: file, path: path, dataDir: filepath.Join(dir, name), log: log, reg: reg, ann: ann})
	if err != nil {
		return err
	}
	k := scaleKernel{kerneltest.New("lo")}
	c, err := controller.New(controller.Options{Kernel: k, Roles: m.roles(), Leased: m.keeper.Leased, Log: log, Registry: reg, Health: engine}, m.file(), path)
	if err != nil {
		return err
	}
	m.controller, m.kernel = c, k
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	failed := make(chan error, 2)
	go func() { failed <- c.Run(ctx) }()
	go func() { failed <- m.run(ctx, ctx.Done(), func() {}) }()
	select {
	case <-m.ready:
		tell(said{Ready: true})
	case err := <-failed:
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		word, arg, _ := strings.Cut(lines.Text(), " ")
		n, _ := strconv.Atoi(arg)
		switch word {
		case "change":
			_, err := m.change(ctx, forwarded{Change: api.Change{Content: scaleSite(n), Who: "bench"}, From: name})
			s := said{Change: n, Acked: true, At: monotonic()}
			if err != nil {
				s.Error = err.Error()
			}
			tell(s)
		case "members":
			tell(said{Members: alive(m.node)})
		case "usage":
			tell(said{Usage: measure(reg)})
		}
	}
	return nil
}

func alive(n *cluster.Node) (count int) {
	for _, x := range n.Members() {
		if x.State == cluster.Alive {
			count++
		}
	}
	return count
}

// scaleAgents is a number of agents until its input ends.
func scaleAgents(number string) error {
	total, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	var voters []settings.Voter
	for i := range 3 {
		voters = append(voters, settings.Voter{Name: fmt.Sprintf("d%d", i+1), Director: true,
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), scalePort)})
	}
	nodes := make([]*cluster.Node, total)
	regs := make([]*prometheus.Registry, total)
	for i := range nodes {
		addr := netip.AddrFrom4([4]byte{127, 0, byte(2 + i/250), byte(1 + i%250)})
		o := &settings.Options{Name: fmt.Sprintf("web%d", i), Address: netip.AddrPortFrom(addr, scalePort), Label: settings.DefaultLabel,
			KeyFile: filepath.Join(os.Getenv("DROVER_SCALE_DIR"), "key"), Voters: voters}
		regs[i] = prometheus.NewRegistry()
		if nodes[i], err = gossip.NewNode(o, cluster.RealServer, slog.New(slog.DiscardHandler), regs[i]); err != nil {
			return err
		}
		n := nodes[i]
		failed := make(chan error, 1)
		go func() { failed <- n.Run(context.Background()) }()
		select {
		case <-n.Ready():
		case err := <-failed:
			return err
		}
		go scaleAgent(n, i, addr)
		time.Sleep(5 * time.Millisecond) // a thousand hosts are not switched on at once, either
	}
	tell(said{Ready: true})
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		switch lines.Text() {
		case "members":
			least := total
			for i, n := range nodes {
				if c := alive(n); i == 0 || c < least {
					least = c
				}
			}
			tell(said{Members: least})
		case "usage":
			debug.FreeOSMemory()
			tell(said{Usage: measure(regs...)})
		}
	}
	return nil
}

// scaleAgent does with the records what drover-realserver does, but for the kernel: it is silent for each VIP at once.
func scaleAgent(n *cluster.Node, i int, addr netip.Addr) {
	records, stop := n.WatchRecords()
	defer stop()
	var known []netip.Addr
	for range records {
		var vips []netip.Addr
		for _, r := range n.Records() {
			var d api.Director
			if r.Key != gossip.DirectorRecord || json.Unmarshal(r.Value, &d) != nil {
				continue
			}
			for _, a := range d.Pools["web"] {
				if !slices.Contains(vips, a) {
					vips = append(vips, a)
				}
			}
		}
		at := monotonic()
		a := api.Agent{Pool: "web", Address: addr, Weight: 1}
		for _, v := range vips {
			if n := changeOf(v); n > 0 && !slices.Contains(known, v) {
				tell(said{Change: n, Agent: i + 1, At: at})
			}
			a.VIPs = append(a.VIPs, api.AgentVIP{Address: v, Phase: "silent", Ready: true})
		}
		known = vips
		b, err := json.Marshal(a)
		if err == nil {
			err = n.Publish(gossip.AgentRecord, b)
		}
		if err != nil {
			panic(err)
		}
	}
}

// child is one of the processes.
type child struct {
	t    *testing.T
	name string
	in   io.WriteCloser
	out  chan said
	kill func() // and wait
}

func startChild(t *testing.T, role, dir string) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), scaleRole+"="+role, "DROVER_SCALE_DIR="+dir, "GOMAXPROCS=2")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, name: role, in: in, out: make(chan said, 100_000)}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var s said
			if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
				s = said{Error: fmt.Sprintf("%s: %v", lines.Text(), err)}
			}
			c.out <- s
		}
		close(c.out)
	}()
	c.kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		in.Close()
	})
	t.Cleanup(c.kill)
	return c
}

// ask sends a line, and returns the first answer that is wanted.
func (c *child) ask(line string, want func(said) bool) said {
	c.t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		c.t.Fatalf("%s: %v", c.name, err)
	}
	return c.await(want)
}

func (c *child) await(want func(said) bool) said {
	c.t.Helper()
	timeout := time.After(scalePatience)
	for {
		select {
		case s, ok := <-c.out:
			if !ok {
				c.t.Fatalf("%s has ended", c.name)
			}
			if s.Error != "" {
				c.t.Fatalf("%s: %s", c.name, s.Error)
			}
			if want(s) {
				return s
			}
		case <-timeout:
			c.t.Fatalf("%s does not answer", c.name)
		}
	}
}

// scaleFigures are those of one size of cluster.
type scaleFigures struct {
	Agents                  int
	Settled                 time.Duration // from the start of the first agent until all know all
	DirectorCPU, AgentCPU   float64       // of a core, idle
	DirectorRSS, AgentRSS   float64       // bytes
	DirectorRate, AgentRate float64       // bytes per second, in and out, idle
	Acked                   []time.Duration
	Kernels, Reached        []time.Duration // from the acknowledgement
}

func TestScale(t *testing.T) {
	sizes := []int{10, 100, 1000}
	if s := os.Getenv("DROVER_SCALE"); s != "" {
		sizes = nil
		for _, f := range strings.Fields(s) {
			n, err := strconv.Atoi(f)
			if err != nil || n < 1 || n > 10_000 {
				t.Fatalf("DROVER_SCALE: %q must be a number from 1 to 10000", f)
			}
			sizes = append(sizes, n)
		}
	}
	var all []scaleFigures
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) { all = append(all, scale(t, n)) })
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "AGENTS\tSETTLED\tIDLE DIRECTOR\tIDLE AGENT\tACKNOWLEDGED p50, p99\tALL KERNELS p50, p99\tALL AGENTS p50, p99")
	for _, f := range all {
		fmt.Fprintf(w, "%d\t%s\t%.2f %%, %.1f MiB, %.1f kB/s\t%.3f %%, %.1f MiB, %.2f kB/s\t%s\t%s\t%s\n", f.Agents, f.Settled.Round(100*time.Millisecond),
			100*f.DirectorCPU, f.DirectorRSS/(1<<20), f.DirectorRate/1000, 100*f.AgentCPU, f.AgentRSS/(1<<20), f.AgentRate/1000,
			quantiles(f.Acked), quantiles(f.Kernels), quantiles(f.Reached))
	}
	w.Flush()
	fmt.Println("After the acknowledgement: below 0 is before it. Of the agents' process, memory and time are shared out evenly.")
	if path := os.Getenv("DROVER_SCALE_OUT"); path != "" {
		b, err := json.MarshalIndent(all, "", "  ")
		if err == nil {
			err = os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			t.Error(err)
		}
	}
}

func quantiles(list []time.Duration) string {
	if len(list) == 0 {
		return "none"
	}
	s := slices.Sorted(slices.Values(list))
	at := func(p int) time.Duration { return s[(len(s)-1)*p/100].Round(100 * time.Microsecond) }
	return fmt.Sprintf("%s, %s", at(50), at(99))
}

func scale(t *testing.T, n int) scaleFigures {
	dir := t.TempDir()
	writeKey(t, filepath.Join(dir, "key"))
	f := scaleFigures{Agents: n}
	isReady := func(s said) bool { return s.Ready }
	var directors []*child
	for i := range 3 {
		directors = append(directors, startChild(t, fmt.Sprintf("d%d", i+1), dir))
	}
	for _, d := range directors {
		d.await(isReady)
	}
	began := time.Now()
	agents := startChild(t, fmt.Sprintf("agents %d", n), dir)
	agents.await(isReady)
	everyone := append(slices.Clone(directors), agents)
	for _, c := range everyone {
		for c.ask("members", func(s said) bool { return s.Members > 0 }).Members < n+3 {
			if time.Since(began) > scalePatience {
				t.Fatalf("%s does not know all members after %s", c.name, time.Since(began))
			}
			time.Sleep(200 * time.Millisecond)
		}
	}
	f.Settled = time.Since(began)
	directors[0].ask("change 1", func(s said) bool { return s.Acked })
	time.Sleep(5 * time.Second)

	usageOf := func(c *child) usage { return *c.ask("usage", func(s said) bool { return s.Usage != nil }).Usage }
	before := make([]usage, len(everyone))
	for i, c := range everyone {
		before[i] = usageOf(c)
	}
	time.Sleep(scaleIdle)
	for i, c := range everyone {
		u, b := usageOf(c), before[i]
		cpu, rate := (u.CPU-b.CPU)/scaleIdle.Seconds(), (u.In-b.In+u.Out-b.Out)/scaleIdle.Seconds()
		if c == agents {
			f.AgentCPU, f.AgentRSS, f.AgentRate = cpu/float64(n), u.RSS/float64(n), rate/float64(n)
		} else { // the one that has most to do
			f.DirectorCPU, f.DirectorRSS, f.DirectorRate = max(f.DirectorCPU, cpu), max(f.DirectorRSS, u.RSS), max(f.DirectorRate, rate)
		}
	}

	for i := range scaleChanges {
		change := i + 2
		sent := monotonic()
		d := directors[i%len(directors)]
		if _, err := fmt.Fprintf(d.in, "change %d\n", change); err != nil {
			t.Fatal(err)
		}
		applied, acked := make(map[*child]int64), int64(0)
		for _, c := range directors {
			for applied[c] == 0 || c == d && acked == 0 {
				switch s := c.await(func(s said) bool { return s.Change == change }); {
				case s.Acked:
					acked = s.At
				case applied[c] == 0:
					applied[c] = s.At
				}
			}
		}
		f.Acked = append(f.Acked, time.Duration(acked-sent))
		last := int64(0)
		for _, at := range applied {
			last = max(last, at)
		}
		f.Kernels = append(f.Kernels, time.Duration(last-acked))
		last = 0
		for seen := make(map[int]bool); len(seen) < n; {
			s := agents.await(func(s said) bool { return s.Change == change && s.Agent > 0 && !seen[s.Agent] })
			seen[s.Agent] = true
			last = max(last, s.At)
		}
		f.Reached = append(f.Reached, time.Duration(last-acked))
	}
	return f
}
