package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/lab/topology"
)

// idleTime is for how long the daemons are watched while nothing changes. It has several reconcile
// intervals and many renewals of VIPs.
const idleTime = 20 * time.Second

// resident measures daemons that have nothing to do. All of them run side by side, each on a host of its own.
func resident(ctx context.Context, g *guest) (Section, error) {
	const mib = 1 << 20
	s := Section{
		Title: "Resident: a director with 10,000 real servers (" + square.String() + " wlc, 10 VIPs), an agent with 10 VIPs",
		Notes: []string{
			fmt.Sprintf("memory and CPU over %s in which nothing changes; CPU is user and system time, in percent of one core", idleTime),
			"a system call in this kernel costs some twenty times what it costs on a machine, so the CPU figures are upper bounds",
			"most of the director's CPU time goes into the VIPs, each of which is renewed once a second",
		},
	}
	var director, agent usage
	director.rss.Target, director.cpu.Target = atMost(40*mib), below(1)
	agent.rss.Target = atMost(20 * mib)
	err := watch(ctx, g, &director, &agent)
	s.Rows = append(director.rows("drover-director"), agent.rows("drover-realserver")...)
	return s, err
}

// usage is what the processes of one program take.
type usage struct{ rss, pss, peak, cpu Row }

func (u *usage) rows(name string) []Row {
	u.rss.What, u.pss.What = name+", resident (RSS)", name+", proportional (PSS)"
	u.peak.What, u.cpu.What = name+", resident at most", name+", CPU"
	return []Row{u.rss, u.pss, u.peak, u.cpu}
}

func watch(ctx context.Context, g *guest, director, agent *usage) (err error) {
	dir, err := g.folder()
	if err != nil {
		return err
	}
	var hosts []topology.Host
	for i := range 2 * g.runs {
		a := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)}), 8)
		hosts = append(hosts, topology.Host{Name: fmt.Sprintf("host%d", i), Interfaces: []topology.Interface{
			{Network: fmt.Sprintf("lan%d", i), Addresses: []netip.Prefix{a}}}})
	}
	var networks []topology.Network
	for _, h := range hosts { // one each: the VIPs are the same everywhere
		networks = append(networks, topology.Network{Name: h.Interfaces[0].Network})
	}
	w, err := topology.New(networks, hosts, dir)
	if err != nil {
		return err
	}
	defer w.Close()

	type process struct {
		*daemon
		use *usage
		cpu time.Duration
	}
	var all []*process
	defer func() {
		for _, p := range all {
			err = errors.Join(err, p.kill())
		}
	}()
	for i, m := range w.Machines() {
		p := &process{use: director}
		if i%2 == 0 {
			p.daemon, err = g.director(m.Start, func(dir string) []byte { return square.yaml("wlc", dir, 1) })
		} else {
			p.use = agent
			p.daemon, err = g.agent(m.Start)
		}
		if err != nil {
			return err
		}
		all = append(all, p)
		if err := p.await(); err != nil {
			return err
		}
	}
	began := time.Now()
	for _, p := range all {
		if p.cpu, err = cpuTime(p.cmd.Process.Pid); err != nil {
			return err
		}
	}
	if err := sleep(ctx, idleTime); err != nil {
		return err
	}
	for _, p := range all {
		pid := p.cmd.Process.Pid
		used, err := cpuTime(pid)
		if err != nil {
			return p.failed(err)
		}
		p.use.cpu.Drover.counted(Percent, 100*(used-p.cpu).Seconds()/time.Since(began).Seconds())
		for _, x := range []struct {
			row         *Row
			file, field string
		}{{&p.use.rss, "status", "VmRSS:"}, {&p.use.pss, "smaps_rollup", "Pss:"}, {&p.use.peak, "status", "VmHWM:"}} {
			n, err := memory(pid, x.file, x.field)
			if err != nil {
				return p.failed(err)
			}
			x.row.Drover.counted(Bytes, n)
		}
	}
	return nil
}

// agent starts drover-realserver with the VIPs of the director's table.
func (g *guest) agent(enter func(*exec.Cmd) error) (*daemon, error) {
	dir, err := g.folder()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("vips:\n")
	for i := range vips {
		fmt.Fprintf(&b, "  - %s\n", square.vip(i))
	}
	file := filepath.Join(dir, "realserver.yaml")
	if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
		return nil, err
	}
	return g.start(dir, enter, g.program("drover-realserver"), "--config", file, "--state", filepath.Join(dir, "realserver.json"))
}

// cpuTime is the user and system time of a process, what /proc/PID/stat has in hundredths of a second: its
// clock as clock_getcpuclockid(3) makes it.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED in include/linux/posix-timers.h
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|sched, &t); err != nil {
		return 0, fmt.Errorf("failed to read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// memory is a field of a file of /proc/PID, in bytes.
func memory(pid int, file, field string) (float64, error) {
	path := fmt.Sprintf("/proc/%d/%s", pid, file)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == field && string(f[2]) == "kB" {
			n, err := strconv.ParseFloat(string(f[1]), 64)
			return n * 1024, err
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}
