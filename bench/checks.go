package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/lab/topology"
)

const (
	checkedServices = 40
	checkedServers  = 50
	// checkPort is where all real servers are asked for their health, whichever the service.
	checkPort = 80
	// checksTime is for how long probes are counted, each of which comes once a second.
	checksTime = 10 * time.Second
	// checksRuns bounds the repetitions, each of which takes a quarter of a minute.
	checksRuns = 3
	// checksPatience bounds the wait until each real server has been probed and is in the table.
	checksPatience = time.Minute
	// checksSettle is for how long what came before still costs something: collecting garbage, for example.
	checksSettle = 3 * time.Second
)

var checkedVIP = netip.AddrFrom4([4]byte{10, 0, 100, 1})

// checks measures what it costs to check real servers that many services share. One host has the addresses of all
// real servers, and counts the probes that it answers.
func checks(ctx context.Context, g *guest) (Section, error) {
	s := Section{
		Title: fmt.Sprintf("Checks: %d services with the same %d real servers at one VIP, a TCP check at port %d every second", checkedServices, checkedServers, checkPort),
		Notes: []string{
			fmt.Sprintf("services times servers are %d; services that ask the same share the probe, so there are %d endpoints", checkedServices*checkedServers, checkedServers),
			fmt.Sprintf("probes are counted where they are answered, over %s; the endpoints are the addresses at which they arrived or, at the VIP, the servers through which the kernel sent them", checksTime),
			fmt.Sprintf("medians of %d at most", checksRuns),
			"CPU of drover-director is user and system time, in percent of one core, an upper bound as above; without checks it is that of the table and the VIP alone",
		},
	}
	for _, path := range []string{"", "rip", "vip"} {
		rows, err := checked(ctx, g, path)
		s.Rows = append(s.Rows, rows...)
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// checksYAML is the file of a director whose checks take a path; "": it has none.
func checksYAML(path, dir string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "director: {interface: eth0, socket: %s/director.sock}\nvips: [%s]\nservices:\n", dir, checkedVIP)
	for i := range checkedServices {
		fmt.Fprintf(&b, "  - name: service%d\n    address: %s\n    port: %d\n    scheduler: rr\n", i, checkedVIP, 1000+i)
		if path != "" {
			fmt.Fprintf(&b, "    checks: [{type: tcp, path: %s, port: %d, interval: 1s, timeout: 1s}]\n", path, checkPort)
		}
		b.WriteString("    real_servers:\n")
		for j := range checkedServers {
			fmt.Fprintf(&b, "      - %s\n", checkedServer(j))
		}
	}
	return b.Bytes()
}

func checkedServer(j int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(1 + j)}) }

func checked(ctx context.Context, g *guest, path string) ([]Row, error) {
	name := map[string]string{"": "without checks", "rip": "at the real IPs", "vip": "at the VIP, through each server"}[path]
	probes, endpoints, cpu := Row{What: name + ", probes a second"}, Row{What: name + ", endpoints"}, Row{What: name + ", CPU"}
	probes.Target = atMost(checkedServers * 1.1) // an interval may be a tenth shorter
	for range min(g.runs, checksRuns) {
		if err := checkedOnce(ctx, g, path, &probes.Drover, &endpoints.Drover, &cpu.Drover); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if path == "" {
		return []Row{cpu}, nil
	}
	return []Row{probes, endpoints, cpu}, nil
}

func checkedOnce(ctx context.Context, g *guest, path string, probes, endpoints, cpu *Figure) (err error) {
	dir, err := g.folder()
	if err != nil {
		return err
	}
	prefix := func(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, 8) }
	servers := topology.Interface{Network: "lan"}
	for j := range checkedServers {
		servers.Addresses = append(servers.Addresses, prefix(checkedServer(j)))
	}
	w, err := topology.New([]topology.Network{{Name: "lan"}}, []topology.Host{
		{Name: "director", Interfaces: []topology.Interface{{Network: "lan", Addresses: []netip.Prefix{prefix(netip.AddrFrom4([4]byte{10, 0, 0, 5}))}}}},
		{Name: "servers", Interfaces: []topology.Interface{servers}, Sysctls: []topology.Sysctl{
			{Key: "net.ipv4.conf.all.arp_ignore", Value: "1"}, {Key: "net.ipv4.conf.all.arp_announce", Value: "2"}}},
	}, dir)
	if err != nil {
		return err
	}
	defer w.Close()
	seen, stop, err := answer(w.Machine("servers"))
	if err != nil {
		return err
	}
	defer stop()
	host := w.Machine("director")
	d, err := g.director(host.Start, func(dir string) []byte { return checksYAML(path, dir) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.kill()) }()
	if err := d.await(); err != nil {
		return err
	}
	through := func() (n map[uint32]uint64, err error) { // connections of the checks, by the mark of the server
		err = host.Do(func() error {
			n, err = privateConnections(ctx)
			return err
		})
		return n, err
	}
	asked := func(since map[netip.Addr]int, before map[uint32]uint64) (probes, endpoints int, err error) {
		now := seen.counts()
		for a, n := range now {
			if n -= since[a]; n > 0 {
				probes, endpoints = probes+n, endpoints+1
			}
		}
		if path != "vip" {
			return probes, endpoints, nil
		}
		marks, err := through()
		endpoints = 0
		for m, n := range marks {
			if n > before[m] {
				endpoints++
			}
		}
		return probes, endpoints, err
	}
	// All real servers are in the table when each of them has been found well.
	want := shape{checkedServices, checkedServers}
	for began := time.Now(); ; {
		err := host.Do(func() error { return checkPublic(ctx, want) })
		if err == nil {
			break
		}
		if time.Since(began) > checksPatience {
			return d.failed(fmt.Errorf("after %s: %w", checksPatience, err))
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil { // the table gives no events
			return err
		}
	}
	if err := sleep(ctx, checksSettle); err != nil {
		return err
	}
	before, err := through()
	if err != nil {
		return d.failed(err)
	}
	since, pid := seen.counts(), d.cmd.Process.Pid
	began := time.Now()
	used, err := cpuTime(pid)
	if err != nil {
		return d.failed(err)
	}
	if err := sleep(ctx, checksTime); err != nil {
		return err
	}
	now, err := cpuTime(pid)
	if err != nil {
		return d.failed(err)
	}
	took := time.Since(began).Seconds()
	n, at, err := asked(since, before)
	if err != nil {
		return d.failed(err)
	}
	cpu.counted(Percent, 100*(now-used).Seconds()/took)
	probes.counted(Count, math.Round(10*float64(n)/took)/10)
	endpoints.counted(Count, float64(at))
	return nil
}

// checkPublic fails unless the table of this namespace, without what the director's checks have there, has the shape.
func checkPublic(ctx context.Context, s shape) error {
	table, err := tableHere(ctx)
	if err != nil {
		return err
	}
	return s.of(slices.DeleteFunc(table, func(e ipvs.ServiceEntry) bool { return plan.Private(e.Key, plan.DefaultMark) }))
}

// privateConnections are the connections that the kernel has counted for each service of a director's own checks.
func privateConnections(ctx context.Context) (map[uint32]uint64, error) {
	table, err := tableHere(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[uint32]uint64)
	for i := range table {
		if plan.Private(table[i].Key, plan.DefaultMark) {
			out[table[i].Key.FWMark] = table[i].Stats.Connections
		}
	}
	return out, nil
}

// answers counts connections by the address at which they arrived.
type answers struct {
	mu sync.Mutex
	by map[netip.Addr]int
}

func (a *answers) counts() map[netip.Addr]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.by)
}

// run takes connections until l is closed.
func (a *answers) run(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		at := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		c.Close()
		a.mu.Lock()
		a.by[at]++
		a.mu.Unlock()
	}
}

// answer has a host answer at all of its addresses, and at the VIP, which it puts on.
func answer(m *topology.Machine) (*answers, func(), error) {
	var l net.Listener
	err := m.Do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		vip := &netlink.Addr{IPNet: &net.IPNet{IP: checkedVIP.AsSlice(), Mask: net.CIDRMask(32, 32)}}
		if err := netlink.AddrAdd(lo, vip); err != nil {
			return fmt.Errorf("failed to put %s on lo: %w", checkedVIP, err)
		}
		l, err = net.Listen("tcp4", fmt.Sprintf(":%d", checkPort))
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	a := &answers{by: make(map[netip.Addr]int)}
	go a.run(l)
	return a, func() { l.Close() }, nil
}
