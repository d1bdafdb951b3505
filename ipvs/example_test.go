package ipvs_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs"
)

// The examples without an output need a kernel with IPVS and CAP_NET_ADMIN; TestKernelExamples runs them.

var web = ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80}

// A service with two servers in direct routing, made in one system call.
func ExampleClient_Apply() {
	ctx := context.Background()
	c, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	commands := []ipvs.Command{ipvs.NewService(ipvs.Service{Key: web, Scheduler: "wlc", Netmask: 32})}
	for _, addr := range []string{"10.0.0.11", "10.0.0.12"} {
		commands = append(commands, ipvs.NewDest(web, ipvs.Destination{
			DestKey: ipvs.DestKey{Addr: netip.MustParseAddr(addr), Port: 80},
			Forward: ipvs.DirectRoute,
			Weight:  1,
		}))
	}
	for _, err := range c.Apply(ctx, commands) {
		switch {
		case errors.Is(err, unix.EEXIST): // somebody made it before
		case err != nil:
			log.Fatal(err)
		}
	}
}

// What an administrator sets, and what the kernel counts.
func ExampleClient_Services() {
	ctx := context.Background()
	c, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	services, err := c.Services(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range services {
		fmt.Println(s.Key, s.Scheduler, s.Stats.InBytes)
		for _, d := range s.Destinations {
			fmt.Println(" ", d.DestKey, d.Forward, d.Weight, d.Counts.Active)
		}
	}
}

// The counters of a service and its servers begin again.
func ExampleZero() {
	ctx := context.Background()
	c, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := errors.Join(c.Apply(ctx, []ipvs.Command{ipvs.Zero(web)})...); err != nil {
		log.Fatal(err)
	}
}

// A service by mark with flags of its scheduler, and a server behind a GUE tunnel with checksums.
func ExampleNewDest_tunnel() {
	ctx := context.Background()
	c, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	k := ipvs.Key{Family: ipvs.IPv4, FWMark: 7}
	err = errors.Join(c.Apply(ctx, []ipvs.Command{
		ipvs.NewService(ipvs.Service{Key: k, Scheduler: "mh", Flags: ipvs.Sched1 | ipvs.Sched2, Netmask: 32}), // mh-fallback, mh-port
		ipvs.NewDest(k, ipvs.Destination{
			DestKey:    ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.11"), Port: 80},
			Forward:    ipvs.Tunnel,
			Weight:     1,
			TunnelType: ipvs.TunnelGUE, TunnelPort: 6080, TunnelFlags: ipvs.TunnelChecksum,
		}),
	})...)
	if err != nil {
		log.Fatal(err)
	}
}

// Connections without packets are forgotten sooner; the timeout of UDP stays.
func ExampleClient_SetTimeouts() {
	ctx := context.Background()
	c, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if err := c.SetTimeouts(ctx, ipvs.Timeouts{TCP: 10 * time.Minute, TCPFin: 30 * time.Second}); err != nil {
		log.Fatal(err)
	}
}

// The kernel sends its connections to others, unless it does already.
func ExampleClient_StartDaemon() {
	ctx := context.Background()
	c, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	err = c.StartDaemon(ctx, ipvs.Daemon{Role: ipvs.Master, Interface: "eth0", SyncID: 1})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		log.Fatal(err)
	}
}

// How many connections are in which state.
func ExampleClient_Connections() {
	ctx := context.Background()
	c, err := ipvs.Dial(ctx, ipvs.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	states := map[string]int{}
	err = c.Connections(ctx, func(conn ipvs.Connection) error {
		states[conn.State]++
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(states["ESTABLISHED"])
}

// The list of connections, from a file.
func ExampleConnections() {
	const list = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C6336407 B878 C000020A 0050 0A00000B 0050 ESTABLISHED     897
`
	for c, err := range ipvs.Connections(strings.NewReader(list)) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		fmt.Println(c.Client, c.Virtual, c.Destination, c.State, c.Expires)
	}
	// Output: 198.51.100.7:47224 192.0.2.10:80 10.0.0.11:80 ESTABLISHED 14m57s
}

// Services and servers as people name them.
func ExampleKey() {
	fmt.Println(web)
	fmt.Println(ipvs.Key{Family: ipvs.IPv6, FWMark: 7})
	fmt.Println(ipvs.DelDest(web, ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.11"), Port: 80}))
	// Output:
	// TCP 192.0.2.10:80
	// FWM 7 IPv6
	// delete server 10.0.0.11:80 from TCP 192.0.2.10:80
}
