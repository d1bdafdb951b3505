//go:build kernel

package dropin

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvstest"
)

// balanced is a table with services of every kind that traffic is sent to.
const balanced = `
-A -t 192.0.2.10:80 -s rr
-a -t 192.0.2.10:80 -r 10.0.0.1:80 -x 100 -y 50
-a -t 192.0.2.10:80 -r 10.0.0.9:80 -w 0
-A -t 192.0.2.10:443 -s rr -p 30000 -M 255.255.255.0
-a -t 192.0.2.10:443 -r 10.0.0.1:443
-A -u 192.0.2.10:53 -s rr
-a -u 192.0.2.10:53 -r 10.0.0.1:53
-A -u 192.0.2.10:5060 -s rr -p 60 --pe sip
-a -u 192.0.2.10:5060 -r 10.0.0.1:5060
-A -t [2001:db8::10]:80 -s rr
-a -t [2001:db8::10]:80 -r [fd00::1]:80
-A -f 7 -s rr
-a -f 7 -r 10.0.0.1:0
-A -f 8 -6 -s rr -p 7000 -M 64
-a -f 8 -6 -r [fd00::1]:0
`

func sendTraffic(t *testing.T) {
	t.Helper()
	ipvstest.OpenTCP(t, "192.0.2.10:40001", "192.0.2.10:80", 0)
	ipvstest.OpenTCP(t, "192.0.2.10:40002", "192.0.2.10:80", 0)
	ipvstest.OpenTCP(t, "192.0.2.10:40003", "192.0.2.10:443", 0)
	ipvstest.OpenTCP(t, "192.0.2.10:40004", "192.0.2.10:8080", 7)
	ipvstest.OpenTCP(t, "[2001:db8::10]:40005", "[2001:db8::10]:80", 0)
	ipvstest.OpenTCP(t, "[2001:db8::10]:40006", "[2001:db8::10]:8081", 8)
	ipvstest.SendUDP(t, "192.0.2.10:40007", "192.0.2.10:53")
	ipvstest.SendUDP(t, "192.0.2.10:40008", "192.0.2.10:5060")
}

// counted are the counters of a table, without the rates, which depend on the time.
func counted(t *testing.T, c *ipvs.Client) (stats []ipvs.Stats, total uint64) {
	t.Helper()
	services, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	add := func(s ipvs.Stats) {
		stats = append(stats, ipvs.Stats{Connections: s.Connections, InPackets: s.InPackets, OutPackets: s.OutPackets, InBytes: s.InBytes, OutBytes: s.OutBytes})
		total += s.InBytes
	}
	for _, s := range services {
		add(s.Stats)
		for _, d := range s.Destinations {
			add(d.Stats)
		}
	}
	return stats, total
}

// The same traffic to two tables is listed the same in all formats. What depends on the time, both list of each
// of the tables.
func TestKernelListsAfterTraffic(t *testing.T) {
	var tables [2]struct { // the original's, ours
		ns     *os.File
		client *ipvs.Client
	}
	for i := range tables {
		tables[i].client = newTable(t)
		var err error
		if tables[i].ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			t.Fatal(err)
		}
		defer tables[i].ns.Close()
		if i == 0 {
			ipvstest.IpvsadmInput(t, balanced, "-R")
		} else if r := dropIn(balanced, "-R"); r != (result{}) {
			t.Fatalf("%+v", r)
		}
		sendTraffic(t)
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) { // the kernel adds up every two seconds
		theirs, total := counted(t, tables[0].client)
		ours, _ := counted(t, tables[1].client)
		if total > 5000 && slices.Equal(theirs, ours) {
			break
		}
		if time.Since(began) > 15*time.Second {
			t.Fatalf("the counters differ:\n%+v\n%+v", ours, theirs)
		}
	}
	for _, line := range []string{
		"-L", "-Ln", "-Ln --stats", "-L --stats --exact", "-Ln --thresholds", "-L --persistent-conn", "-Ln --tun-info",
		"-S", "-Sn", "-Ln --stats --exact -t 192.0.2.10:80", "-L --stats -f 8 -6",
		"-Z -t 192.0.2.10:80", "-Ln --stats", "-Z", "-Ln --stats",
	} {
		enter(t, tables[0].ns)
		want := original(t, "", strings.Fields(line)...)
		enter(t, tables[1].ns)
		if have := dropIn("", strings.Fields(line)...); have != want || want.status != 0 {
			t.Errorf("ipvsadm %s: have\n%+v\nwant\n%+v", line, have, want)
		}
	}
	for _, table := range tables {
		enter(t, table.ns)
		for _, line := range []string{
			"-Lc", "-Lcn", "-Lc --persistent-conn", "-Lcn --persistent-conn", "-Ln --rate", "-L --rate --exact", "-Ln --rate -t 192.0.2.10:80", "-Ln --nosort",
		} {
			sameInOneNamespace(t, strings.Fields(line))
		}
	}
}

func enter(t *testing.T, ns *os.File) {
	t.Helper()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

// sameInOneNamespace compares the lists of one table. As clocks go on, it tries until two of ours with one of the
// original between them are the same.
func sameInOneNamespace(t *testing.T, args []string) {
	t.Helper()
	for began := time.Now(); ; {
		before := dropIn("", args...)
		want := original(t, "", args...)
		have := dropIn("", args...)
		if before != have && time.Since(began) < 20*time.Second {
			continue
		}
		if have != want || strings.Count(have.stdout, "\n") < 4 {
			t.Errorf("ipvsadm %s: have\n%s%s\nwant\n%s%s", args, have.stdout, have.stderr, want.stdout, want.stderr)
		}
		return
	}
}
