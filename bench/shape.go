package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
)

// shape is a table: numbers of services, and of real servers in each.
type shape struct{ services, servers int }

var (
	wide   = shape{1000, 10}
	square = shape{100, 100}
	deep   = shape{1, 10000}
)

func (s shape) String() string { return fmt.Sprintf("%d x %d", s.services, s.servers) }

// vips is over how many addresses the services of a table are spread.
const vips = 10

func (s shape) vip(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, 100, byte(1 + i%vips)})
}

func port(i int) int { return 1000 + i/vips }

func server(j int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(j >> 8), byte(j)}) }

// yaml is the table as a director's file. The first server of the first service has the given weight,
// all others have 1. dir is where the director has its socket.
func (s shape) yaml(scheduler, dir string, weight int) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "director: {interface: eth0, socket: %s/director.sock}\nvips:\n", dir)
	for i := range min(vips, s.services) {
		fmt.Fprintf(&b, "  - %s\n", s.vip(i))
	}
	b.WriteString("services:\n")
	for i := range s.services {
		fmt.Fprintf(&b, "  - name: service%d\n    address: %s\n    port: %d\n    scheduler: %s\n    real_servers:\n", i, s.vip(i), port(i), scheduler)
		for j := range s.servers {
			if i == 0 && j == 0 && weight != 1 {
				fmt.Fprintf(&b, "      - {address: %s, weight: %d}\n", server(j), weight)
			} else {
				fmt.Fprintf(&b, "      - %s\n", server(j))
			}
		}
	}
	return b.Bytes()
}

// rules is the table as input of ipvsadm -R, as ipvsadm -S -n prints it.
func (s shape) rules(scheduler string) string {
	var b strings.Builder
	for i := range s.services {
		fmt.Fprintf(&b, "-A -t %s:%d -s %s\n", s.vip(i), port(i), scheduler)
		for j := range s.servers {
			fmt.Fprintf(&b, "-a -t %s:%d -r %s:%d -g -w 1\n", s.vip(i), port(i), server(j), port(i))
		}
	}
	return b.String()
}
