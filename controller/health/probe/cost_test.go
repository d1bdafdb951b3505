package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/spec"
)

// cpu is the processor time of this process.
func cpu(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Fifty real servers with forty services each, all checked at one port, are fifty probes a second, not two thousand.
// What they cost is printed.
func TestCostOfSharedProbes(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const servers, services = 50, 40
	const run = 4 * time.Second
	l, err := net.Listen("tcp", "0.0.0.0:0") // all of 127.0.0.0/8 is this host
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	var b strings.Builder
	b.WriteString("director: {interface: eth0}\nvips: [192.0.2.10]\nservices:\n")
	for i := range services {
		fmt.Fprintf(&b, "  - {address: 192.0.2.10, port: %d, checks: [{type: tcp, path: rip, port: %d, interval: 1s}], real_servers: [", 1000+i, l.Addr().(*net.TCPAddr).Port)
		for j := range servers {
			fmt.Fprintf(&b, "10.0.0.%d, ", j+1)
		}
		b.WriteString("]}\n")
	}
	f, err := spec.Parse("test", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range f.Spec.Services {
		for j := range f.Spec.Services[i].RealServers {
			d := &f.Spec.Services[i].RealServers[j]
			a := d.Addr.As4()
			a[0] = 127 // which no file may name
			d.Addr = netip.AddrFrom4(a)
		}
	}
	e := health.New(health.Options{Prober: &Prober{}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	e.SetSpec(&f.Spec)
	time.Sleep(2 * time.Second) // the beginning is another thing
	before, probes := cpu(t), e.Probes()
	time.Sleep(run)
	used, n := cpu(t)-before, e.Probes()-probes
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	rate := float64(n) / run.Seconds()
	t.Logf("%d servers x %d services: %.1f probes/s, %.2f %% of a processor, %s a probe with both ends", servers, services, rate, 100*used.Seconds()/run.Seconds(), (used / time.Duration(max(n, 1))).Round(time.Microsecond))
	if rate > 1.25*servers {
		t.Errorf("%.1f probes a second for %d places", rate, servers)
	}
	for _, r := range health.Reports(&f.Spec, e.View()) {
		for _, s := range r.Servers {
			if s.State != "up" {
				t.Fatalf("%s %s is %s: %s", r.Name, s.Server, s.State, s.Reason)
			}
		}
	}
}
