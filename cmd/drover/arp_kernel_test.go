//go:build kernel

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/lab/topology"
)

// arpWorld is a network with a client, a director and two real servers.
type arpWorld struct {
	t *testing.T
	*topology.World
}

func newArpWorld(t *testing.T) arpWorld {
	t.Helper()
	for _, module := range []string{"veth", "bridge", "ipv6"} {
		_ = exec.Command("modprobe", module).Run() // built in, or the test says what is missing
	}
	host := func(name, last string) topology.Host {
		return topology.Host{Name: name, Interfaces: []topology.Interface{{Network: "lan", Addresses: []netip.Prefix{
			netip.MustParsePrefix("10.0.0." + last + "/24"), netip.MustParsePrefix("fd00::" + last + "/64")}}}}
	}
	w, err := topology.New([]topology.Network{{Name: "lan"}}, []topology.Host{host("client", "2"), host("director", "5"), host("web1", "11"), host("web2", "12")}, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return arpWorld{t, w}
}

func (w arpWorld) address(host, dev, addr string, add bool) {
	w.t.Helper()
	a := netip.MustParseAddr(addr)
	if err := w.Machine(host).Do(func() error {
		l, err := netlink.LinkByName(dev)
		if err != nil {
			return err
		}
		na := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Flags: unix.IFA_F_NODAD}
		if add {
			return netlink.AddrAdd(l, na)
		}
		return netlink.AddrDel(l, na)
	}); err != nil {
		w.t.Fatal(err)
	}
}

// arp runs drover arp on a host.
func (w arpWorld) arp(host string, wantStatus int, args ...string) string {
	w.t.Helper()
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "DROVER_TEST_ARP=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := w.Machine(host).Start(cmd); err != nil {
		w.t.Fatal(err)
	}
	kill := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	status := 0
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else if err != nil {
		w.t.Fatal(err)
	}
	if status != wantStatus {
		w.t.Errorf("drover arp %s on %s: exit status %d, want %d\n%s", strings.Join(args, " "), host, status, wantStatus, &out)
	}
	return out.String()
}

func (w arpWorld) match(out, pattern string) {
	w.t.Helper()
	if !regexp.MustCompile(`(?s)\A` + pattern + `\z`).MatchString(out) {
		w.t.Errorf("got:\n%s\nwant: %s", out, pattern)
	}
}

func TestArpOnTheRealKernel(t *testing.T) {
	w := newArpWorld(t)
	for _, vip := range []string{"10.0.0.100", "fd00::100"} {
		ip := regexp.QuoteMeta(vip)
		w.match(w.arp("client", 1, vip), "nobody answers for "+ip+" on eth0: clients there cannot reach it\n")
		w.address("director", "eth0", vip, true)
		w.match(w.arp("client", 0, vip, "-i", "eth0", "--count", "3"), `MAC .*\n02:00:00:00:00:02  [0-9.]+ms +[23] .*\n1 host answers for `+ip+" on eth0\n")

		// The classic ARP problem: by hand, without the settings. (With IPv6 it takes the VIP on eth0.)
		dev := "lo"
		if strings.Contains(vip, ":") {
			dev = "eth0"
		}
		w.address("web2", dev, vip, true)
		hosts := "10.0.0.5,10.0.0.11,10.0.0.12"
		if dev == "eth0" {
			hosts = "fd00::5,fd00::11,fd00::12"
		}
		out := w.arp("client", 1, "--hosts", hosts, vip)
		w.match(out, `MAC .*\n02:00:00:00:00:0[24] .*\n2 hosts answer for `+ip+` on eth0: clients will reach either\n`)
		if !regexp.MustCompile(`02:00:00:00:00:04 .* also .*(10\.0\.0\.12|fd00::12)`).MatchString(out) {
			t.Errorf("the culprit has no name:\n%s", out)
		}
		var r arpReport
		if err := json.Unmarshal([]byte(w.arp("client", 1, vip, "-o", "json")), &r); err != nil {
			t.Fatal(err)
		}
		if len(r.Claimants) != 2 || r.Questions < 3 || r.Source == nil || r.Claimants[0].Count < 2 {
			t.Errorf("got %+v", r)
		}

		// On the director itself: its own address counts, and the other one is found.
		w.match(w.arp("director", 1, vip), `.*02:00:00:00:00:02  - .*this host, also .*\n02:00:00:00:00:04 .*2 hosts answer for .*`)
		w.address("web2", dev, vip, false)
		w.match(w.arp("director", 0, vip), `.*this host, .*1 host answers for `+ip+" on eth0\n")
		w.address("director", "eth0", vip, false)
	}

	// On a real server that has it on loopback, the link is the one in whose subnet it lies.
	w.address("web1", "lo", "10.0.0.100", true)
	w.match(w.arp("web1", 1, "10.0.0.100"), "this host has it on lo\nnobody answers for 10.0.0.100 on eth0: clients there cannot reach it\n")

	w.match(w.arp("client", 1, "192.0.2.1"), "drover: arp: this host has no route to 192.0.2.1: say with -i on which link to ask for it\n")
	w.match(w.arp("client", 1, "-i", "eth7", "10.0.0.100"), `drover: arp: interface "eth7": .*no such network interface\n`)
}
