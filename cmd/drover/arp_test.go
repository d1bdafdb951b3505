package main

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/arp/frame"
)

// runArp runs drover arp and returns what it printed and its exit status.
func runArp(args ...string) (out string, status int, err error) {
	var b bytes.Buffer
	app := &cli.App{
		Name:           "drover",
		Writer:         &b,
		ErrWriter:      &b,
		Commands:       []*cli.Command{arpCommand()},
		ExitErrHandler: func(*cli.Context, error) {},
	}
	err = app.RunContext(context.Background(), append([]string{"drover", "arp"}, args...))
	var ec cli.ExitCoder
	switch {
	case errors.As(err, &ec):
		status = ec.ExitCode()
	case err != nil:
		status = 1
	}
	return b.String(), status, err
}

// The test binary is drover arp when a test in a network namespace starts it as such.
func init() {
	if os.Getenv("DROVER_TEST_ARP") == "" {
		return
	}
	out, status, err := runArp(os.Args[1:]...)
	os.Stdout.WriteString(out)
	if err != nil && err.Error() != "" {
		os.Stdout.WriteString("drover: " + err.Error() + "\n")
	}
	os.Exit(status)
}

func TestArpUsage(t *testing.T) {
	const help = " (drover arp --help explains the options)"
	for args, want := range map[string]string{
		"":                                   "arp: expected one VIP, found 0 arguments" + help,
		"10.0.0.1 10.0.0.2":                  "arp: expected one VIP, found 2 arguments" + help,
		"10.0.0.256":                         `arp: "10.0.0.256" is not an IPv4 or IPv6 address` + help,
		"fe80::1%eth0":                       `arp: "fe80::1%eth0" is not an IPv4 or IPv6 address` + help,
		"--frobnicate 10.0.0.1":              "arp: flag provided but not defined: -frobnicate" + help,
		"--count -1 10.0.0.1":                "arp: --count -1 is out of range: 0 to 10000" + help,
		"--wait 1ms 10.0.0.1":                "arp: --wait 1ms is out of range: 10ms to 1h0m0s" + help,
		"-o yaml 10.0.0.1":                   `arp: --output "yaml" is not one of: table, json` + help,
		"10.0.0.1 --frobnicate":              "arp: flag provided but not defined: -frobnicate" + help,
		"10.0.0.1 -c 3 10.0.0.2":             "arp: expected one VIP, found 2 arguments" + help,
		"10.0.0.1 --hosts web1 -i eth0":      `arp: --hosts: "web1" is neither an address nor a prefix` + help,
		"-w 1s 10.0.0.1 -w 2h":               "arp: --wait 2h0m0s is out of range: 10ms to 1h0m0s" + help,
		"10.0.0.1 -o yaml":                   `arp: --output "yaml" is not one of: table, json` + help,
		"--hosts web1 10.0.0.1":              `arp: --hosts: "web1" is neither an address nor a prefix` + help,
		"--hosts 10.0.0.9,10.0.0.0 x":        `arp: "x" is not an IPv4 or IPv6 address` + help,
		"--hosts 10.0.0.0/16 10.0.0.1":       "arp: --hosts names more than 1024 addresses" + help,
		"--hosts fd00::/64 10.0.0.1 -i eth0": "arp: --hosts names more than 1024 addresses" + help,
	} {
		out, status, err := runArp(strings.Fields(args)...)
		if status != 2 || err == nil || err.Error() != want {
			t.Errorf("%s: status %d\ngot  %v\nwant %s", args, status, err, want)
		}
		if out != "" {
			t.Errorf("%s: printed %q", args, out)
		}
	}
}

func TestArpTable(t *testing.T) {
	addrs := func(list ...string) (out []netip.Addr) {
		for _, s := range list {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	r := arpReport{VIP: netip.MustParseAddr("10.0.0.100"), Interface: "eth0", Claimants: []claimant{}}
	for _, tc := range []struct {
		add  claimant
		want string
	}{
		{claimant{}, "nobody answers for 10.0.0.100 on eth0: clients there cannot reach it\n"},
		{claimant{MAC: frame.MAC{2, 0, 0, 0, 0, 5}, ThisHost: true, Addresses: addrs("10.0.0.5")}, `MAC                FIRST  COUNT  HOST
02:00:00:00:00:05  -      -      this host, also 10.0.0.5
1 host answers for 10.0.0.100 on eth0
`},
		{claimant{MAC: frame.MAC{2, 0, 0, 0, 0, 0x11}, FirstMS: 0.25, Count: 5, Unasked: 1, Addresses: addrs("10.0.0.11", "fe80::11")}, `MAC                FIRST  COUNT  HOST
02:00:00:00:00:05  -      -      this host, also 10.0.0.5
02:00:00:00:00:11  0.2ms  5      also 10.0.0.11, fe80::11; 1 of 5 unasked
2 hosts answer for 10.0.0.100 on eth0: clients will reach either
`},
		{claimant{MAC: frame.MAC{2, 0, 0, 0, 0, 0x12}, FirstMS: 1200, Count: 1}, `MAC                FIRST     COUNT  HOST
02:00:00:00:00:05  -         -      this host, also 10.0.0.5
02:00:00:00:00:11  0.2ms     5      also 10.0.0.11, fe80::11; 1 of 5 unasked
02:00:00:00:00:12  1200.0ms  1      unknown (name candidates with --hosts)
3 hosts answer for 10.0.0.100 on eth0: clients will reach either
`},
	} {
		if tc.add.MAC != (frame.MAC{}) {
			r.Claimants = append(r.Claimants, tc.add)
		}
		var b bytes.Buffer
		if err := r.table(&b); err != nil {
			t.Fatal(err)
		}
		if b.String() != tc.want {
			t.Errorf("got:\n%s\nwant:\n%s", &b, tc.want)
		}
	}
}
