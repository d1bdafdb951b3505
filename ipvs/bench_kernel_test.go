//go:build kernel

package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/drover-lb/drover/ipvs/ipvstest"
)

// shapes are numbers of services and of servers in each.
var shapes = [][2]int{{1000, 10}, {100, 100}}

// shape returns the commands that make a table.
func shape(services, servers int, scheduler string) []Command {
	var cmds []Command
	for i := range services {
		k := Key{Family: IPv4, Protocol: TCP, Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Port: 80}
		cmds = append(cmds, NewService(service(k, scheduler)))
		for j := range servers {
			d := Destination{DestKey: DestKey{netip.AddrFrom4([4]byte{10, 2, byte(j >> 8), byte(j)}), 80}, Forward: DirectRoute, Weight: 1}
			cmds = append(cmds, NewDest(k, d))
		}
	}
	return cmds
}

// program times f, each time in a network namespace of its own: deleted servers of an earlier run
// would slow it down (ip_vs_trash_get_dest in ip_vs_ctl.c).
func program(b *testing.B, f func(c *Client)) {
	for b.Loop() {
		b.StopTimer()
		done := make(chan struct{})
		go func() {
			defer close(done)
			ipvstest.NewNamespace(b)
			c := dial(b)
			b.StartTimer()
			f(c)
			b.StopTimer()
		}()
		<-done
		b.StartTimer()
	}
}

// BenchmarkKernelMaglev makes a table whose schedulers are expensive to change: mh builds its table
// anew with each server. One that is put on last builds it once. To put it on a service without
// scheduler ("none") spares the kernel the wait for the users of the old one (synchronize_rcu in
// ip_vs_edit_service), which takes milliseconds for each service on a machine with several processors.
func BenchmarkKernelMaglev(b *testing.B) {
	for _, s := range shapes {
		for _, first := range []string{"mh", "rr", "none"} {
			if err := LoadScheduler(context.Background(), first); err != nil {
				b.Fatal(err)
			}
			cmds := shape(s[0], s[1], first)
			if first != "mh" {
				for _, c := range cmds {
					if c.Op == OpNewService {
						c.Service.Scheduler = "mh"
						cmds = append(cmds, SetService(c.Service))
					}
				}
			}
			b.Run(fmt.Sprintf("%dx%d/%s", s[0], s[1], first), func(b *testing.B) {
				program(b, func(c *Client) {
					if errs := c.Apply(context.Background(), cmds); errs != nil {
						b.Error(errs[0])
					}
				})
			})
		}
	}
}

// BenchmarkKernelList reads a table in each of the ways there are. Beside ipvsadm is the table of make bench.
func BenchmarkKernelList(b *testing.B) {
	for _, s := range shapes {
		cmds := shape(s[0], s[1], "wlc")
		run := func(b *testing.B, f func(c *Client)) {
			ipvstest.NewNamespace(b)
			c := dial(b)
			apply(b, c, cmds...)
			b.ReportAllocs()
			for b.Loop() {
				f(c)
			}
		}
		b.Run(fmt.Sprintf("%dx%d/list", s[0], s[1]), func(b *testing.B) {
			run(b, func(c *Client) {
				if _, err := c.List(context.Background()); err != nil {
					b.Error(err)
				}
			})
		})
		b.Run(fmt.Sprintf("%dx%d/services", s[0], s[1]), func(b *testing.B) {
			run(b, func(c *Client) {
				if _, err := c.Services(context.Background()); err != nil {
					b.Error(err)
				}
			})
		})
		b.Run(fmt.Sprintf("%dx%d/fingerprint", s[0], s[1]), func(b *testing.B) {
			run(b, func(c *Client) {
				if _, err := c.Fingerprint(context.Background()); err != nil {
					b.Error(err)
				}
			})
		})
	}
}
