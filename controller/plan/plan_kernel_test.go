//go:build kernel

package plan

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// client is a connection to IPVS in a new network namespace, which the calling goroutine stays in.
func client(t testing.TB) *ipvs.Client {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the test, and its namespace
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	// A namespace without any address has no table of local routes yet, and then IPVS takes no address
	// for that of a host (inet_addr_type).
	if out, err := exec.CommandContext(t.Context(), "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := ipvs.Dial(t.Context(), ipvs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	for _, s := range spec.Schedulers {
		if err := ipvs.LoadScheduler(t.Context(), s); err != nil && s != "twos" { // not in this kernel
			t.Fatal(err)
		}
	}
	if err := ipvs.LoadPE(t.Context(), "sip"); err != nil {
		t.Fatal(err)
	}
	return c
}

func list(t testing.TB, c *ipvs.Client) State {
	t.Helper()
	entries, err := c.Services(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return StateOf(entries)
}

func apply(t testing.TB, c *ipvs.Client, p Plan) {
	t.Helper()
	for i, err := range p.Apply(context.WithoutCancel(t.Context()), c.Apply) {
		if err != nil {
			t.Fatalf("op %d (%s): %v\n%s", i, p.Ops[i], err, p)
		}
	}
}

func wanted(t *testing.T) State {
	t.Helper()
	f, err := spec.Load("testdata/want.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return Want(&f.Spec)
}

func TestKernelEveryWord(t *testing.T) {
	c, want := client(t), wanted(t)
	p := Diff(want, list(t, c), nil)
	apply(t, c, p)
	if got := Diff(want, list(t, c), nil); !got.Empty() {
		t.Errorf("the kernel says otherwise:\n%s", got)
	}
	writes := c.Writes()
	apply(t, c, Diff(want, list(t, c), nil))
	if c.Writes() != writes {
		t.Errorf("%d writes to a table that is right", c.Writes()-writes)
	}
}

// What a plan prints is what ipvsadm reads, and gives the same table.
func TestKernelIpvsadmReadsThePlan(t *testing.T) {
	c, want := client(t), wanted(t)
	for _, step := range []State{want, changed(want)} {
		p := Diff(step, list(t, c), Owner(spec.OwnAll, nil))
		var lines []string
		for _, op := range p.Ops {
			lines = append(lines, op.String())
		}
		cmd := exec.CommandContext(t.Context(), "/sbin/ipvsadm", "-R")
		cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
		if out, err := cmd.CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Fatalf("ipvsadm: %v: %s\n%s", err, out, strings.Join(lines, "\n"))
		}
		if got := Diff(step, list(t, c), Owner(spec.OwnAll, nil)); !got.Empty() {
			t.Fatalf("after ipvsadm there is left:\n%s", got)
		}
	}
}

// changed is s with everything in it that can be edited edited, a service gone and one more.
func changed(s State) State {
	var services []Service
	for i, svc := range s.Services {
		if i == 0 {
			continue
		}
		svc.Scheduler = map[string]string{"wlc": "sh", "mh": "wrr", "rr": "mh", "sh": "lc", "wrr": "dh"}[svc.Scheduler]
		svc.Flags ^= ipvs.Sched2
		if svc.Flags&ipvs.Persistent != 0 {
			svc.Timeout += 60
			svc.Netmask--
			svc.PE = ""
		}
		var servers []ipvs.Destination
		for j, d := range svc.Servers {
			if j == 1 {
				d.Addr = d.Addr.Next().Next().Next().Next()
			}
			d.Weight += 2
			d.Upper, d.Lower = d.Upper+10, d.Lower+5
			switch {
			case d.Forward == ipvs.DirectRoute:
				d.Forward, d.TunnelType, d.TunnelPort, d.TunnelFlags = ipvs.Tunnel, ipvs.TunnelGUE, 6080, ipvs.TunnelChecksum
			case d.Forward == ipvs.Masq && d.Port == svc.Port:
				d.Forward = ipvs.DirectRoute
			case d.Forward == ipvs.Masq: // ipvsadm sees to it that other methods keep the port
			case ipvs.FamilyOf(d.Addr) == svc.Family && d.TunnelType == ipvs.TunnelGRE:
				d = ipvs.Destination{DestKey: d.DestKey, Forward: ipvs.Masq, Weight: 1}
			default:
				d.TunnelType, d.TunnelPort, d.TunnelFlags = ipvs.TunnelGRE, 0, 0
			}
			servers = append(servers, d)
		}
		svc.Servers = servers
		services = append(services, svc)
	}
	services = append(services, Service{Service: service("203.0.113.1", 443, "nq"), Servers: []ipvs.Destination{server("10.0.0.1", 443)}})
	return NewState(services)
}

// Every field of a service and of a server can be edited in place.
func TestKernelEditsEverythingInPlace(t *testing.T) {
	c, want := client(t), wanted(t)
	apply(t, c, Diff(want, State{}, nil))
	next := changed(want)
	p := Diff(next, list(t, c), Owner(spec.OwnAll, nil))
	if n := p.Counts(); n.ServersChanged < 5 || n.ServicesChanged < 5 {
		t.Fatalf("too little to edit: %s", p.Summary())
	}
	apply(t, c, p)
	if got := Diff(next, list(t, c), Owner(spec.OwnAll, nil)); !got.Empty() {
		t.Errorf("the kernel says otherwise:\n%s", got)
	}
}

// The properties that hold on the model hold in the kernel: random tables into random tables.
func TestKernelRandomTables(t *testing.T) {
	c := client(t)
	owns := Owner(spec.OwnAll, nil)
	have := State{}
	for seed := range uint64(300) {
		want := randomState(rand.New(rand.NewPCG(seed, 7)))
		for i := range want.Services {
			want.Services[i].Flags &^= ipvs.Hashed
			for j := range want.Services[i].Servers {
				if d := &want.Services[i].Servers[j]; d.TunnelType == ipvs.TunnelGUE {
					d.TunnelPort++ // the client refuses port 0
				}
			}
		}
		p := Diff(want, have, owns)
		apply(t, c, p)
		have = list(t, c)
		if again := Diff(want, have, owns); !again.Empty() {
			t.Fatalf("seed %d: after\n%s there is left\n%s", seed, p, again)
		}
	}
}

// A server whose address is the director's own is still listed as it was written.
func TestKernelLocalServer(t *testing.T) {
	c := client(t)
	if out, err := exec.CommandContext(t.Context(), "ip", "addr", "add", "10.0.0.11/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := NewState([]Service{{Service: service("192.0.2.10", 80, "rr"), Servers: []ipvs.Destination{server("10.0.0.11", 80)}}})
	apply(t, c, Diff(want, State{}, nil))
	if got := Diff(want, list(t, c), nil); !got.Empty() {
		t.Errorf("the kernel says otherwise:\n%s", got)
	}
}

// The bound that package spec has for mh is that of the kernel, and beyond it a service is left without
// a scheduler.
func TestKernelRefusesTooManyServersForMH(t *testing.T) {
	c := client(t)
	for _, n := range []int{4093, 4094} {
		p := Diff(table(1, n, "mh"), State{}, nil)
		errs := p.Apply(t.Context(), c.Apply)
		got := list(t, c)
		if got.Servers() != n || len(got.Services) != 1 {
			t.Fatalf("%d services with %d servers: %v", len(got.Services), got.Servers(), errors.Join(errs...))
		}
		if refused := errs != nil && errs[len(errs)-1] != nil; refused != (n == 4094) || refused != (got.Services[0].Scheduler == idle) {
			t.Errorf("%d servers: scheduler %s, %v", n, got.Services[0].Scheduler, errors.Join(errs...))
		}
		if err := errors.Join(c.Apply(t.Context(), []ipvs.Command{ipvs.Flush()})...); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkKernelProgram compares a service that gets its scheduler at once, after its servers in
// place of none, and after its servers in place of rr.
func BenchmarkKernelProgram(b *testing.B) {
	for _, scheduler := range []string{"mh", "sh", "dh", "wrr"} {
		for _, n := range []int{2, 4, 8, 16, 64, 1000} {
			for _, first := range []string{scheduler, "none", "rr"} {
				b.Run(scheduler+"/"+string(netip.AddrFrom4([4]byte{byte(n >> 8), byte(n)}).String())+"/first-"+first, func(b *testing.B) {
					c := client(b)
					services := max(1, 1000/n)
					var cmds []ipvs.Command
					for _, s := range table(services, n, scheduler).Services {
						start := s.Service
						start.Scheduler = first
						cmds = append(cmds, ipvs.NewService(start))
						for _, d := range s.Servers {
							cmds = append(cmds, ipvs.NewDest(s.Key, d))
						}
						if first != scheduler {
							cmds = append(cmds, ipvs.SetService(s.Service))
						}
					}
					var total time.Duration
					for b.Loop() {
						t0 := time.Now()
						if err := errors.Join(c.Apply(b.Context(), cmds)...); err != nil {
							b.Fatal(err)
						}
						total += time.Since(t0)
						b.StopTimer()
						if err := errors.Join(c.Apply(b.Context(), []ipvs.Command{ipvs.Flush()})...); err != nil {
							b.Fatal(err)
						}
						b.StartTimer()
					}
					b.ReportMetric(float64(total.Microseconds())/float64(b.N*services), "us/service")
				})
			}
		}
	}
}
