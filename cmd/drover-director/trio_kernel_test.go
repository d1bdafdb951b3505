//go:build kernel

package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/drover-lb/drover/cluster/keyring"
	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
)

var activeKills = flag.Int("active-kills", 1, "how often the active one of three directors is killed while changes are written")

const (
	changePause  = 100 * time.Millisecond // between two changes
	killsChanges = 10                     // acknowledged between two kills
)

// trio is three directors on a switch: each is drover-director in a network namespace of its own, with the kernel's
// IPVS, and has its state on disk. What goes wrong with a director is done to its files and its process; the table
// in its kernel stays, as it does on a host.
type trio struct {
	t       *testing.T
	hosts   [3]*host
	clients [3]*api.Client
	running [3]*process
	n       int // of the newest change
}

// newTrio leaves the calling thread in a namespace of no director.
func newTrio(t *testing.T) *trio {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := keyring.Generate()
	check(err)
	sw, err := netns.New()
	check(err)
	t.Cleanup(func() { sw.Close() })
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	check(netlink.LinkAdd(bridge))
	check(netlink.LinkSetUp(bridge))
	up := func(name string) netlink.Link {
		t.Helper()
		l, err := netlink.LinkByName(name)
		check(err)
		check(netlink.LinkSetUp(l))
		return l
	}
	c := &trio{t: t}
	for i := range c.hosts {
		h := &host{t: t, client: sw, dir: t.TempDir()}
		h.config, h.socket = filepath.Join(h.dir, "d.yaml"), filepath.Join(h.dir, "d.sock")
		check(os.WriteFile(filepath.Join(h.dir, "key"), []byte(key+"\n"), 0o600))
		h.write(fmt.Sprintf("director: {interface: eth0}\ncluster:\n  name: d%d\n  key_file: key\n  lease: 1s\n  voters: "+
			"[{name: d1, address: 192.0.2.1}, {name: d2, address: 192.0.2.2}, {name: d3, address: 192.0.2.3}]\n", i+1))
		h.ns, err = netns.New()
		check(err)
		t.Cleanup(func() { h.ns.Close() })
		port := fmt.Sprintf("port%d", i)
		check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: port, PeerNamespace: netlink.NsFd(sw)}))
		up("lo")
		addr, err := netlink.ParseAddr(fmt.Sprintf("192.0.2.%d/24", i+1))
		check(err)
		check(netlink.AddrAdd(up("eth0"), addr))
		h.k, err = kernel.Open(context.Background(), nil)
		check(err)
		t.Cleanup(func() { h.k.Close() })
		h.tap = newTap(t)
		check(netns.Set(sw))
		check(netlink.LinkSetMaster(up(port), bridge))
		c.hosts[i] = h
		c.clients[i], err = api.NewClient(h.socket)
		check(err)
	}
	return c
}

// data is the folder in which a director keeps the specification.
func (c *trio) data(i int) string { return filepath.Join(c.hosts[i].dir, "data") }

// start starts directors, and waits until they are ready.
func (c *trio) start(order ...int) {
	c.t.Helper()
	for _, i := range order {
		if err := netns.Set(c.hosts[i].ns); err != nil {
			c.t.Fatal(err)
		}
		c.running[i] = c.hosts[i].start("--data-dir", c.data(i))
		if err := netns.Set(c.hosts[i].client); err != nil {
			c.t.Fatal(err)
		}
	}
	for _, i := range order {
		c.running[i].ready()
	}
}

func (c *trio) do(i int, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.clients[i].Do(ctx, method, path, in, out)
}

// active is a director that has the VIP.
func (c *trio) active() int {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		for i := range c.hosts {
			var x api.Cluster
			if c.do(i, http.MethodGet, "/v1/cluster", nil, &x) == nil && x.Groups[0].Role == "active" {
				return i
			}
		}
	}
	c.t.Fatal("no director is active")
	return 0
}

// weightSite is a specification with one real server of a weight.
func weightSite(n int) string {
	return fmt.Sprintf("vips: [192.0.2.10]\nservices:\n  - {name: web, address: 192.0.2.10, port: 80, scheduler: wrr, real_servers: [{address: 192.0.2.11, weight: %d}]}\n", n)
}

// weightOf reads the weight from a specification; 0 if there is none.
func weightOf(content string) int {
	_, rest, _ := strings.Cut(content, "weight: ")
	digits, _, _ := strings.Cut(rest, "}")
	n, _ := strconv.Atoi(digits)
	return n
}

// has is the specification that a director has, "" for none.
func (c *trio) has(i int) string {
	c.t.Helper()
	var d api.Document
	if err := c.do(i, http.MethodGet, "/v1/spec", nil, &d); err != nil {
		c.t.Fatalf("d%d: %v\n%s", i+1, err, c.running[i].text())
	}
	return d.Content
}

// table is what a director's kernel has, beyond the specification with weight n, and what it lacks; "" if it has just that.
func (c *trio) table(i, n int) string {
	c.t.Helper()
	f, err := spec.ParseSpec("the specification", []byte(weightSite(n)))
	if err != nil {
		c.t.Fatal(err)
	}
	return plan.Diff(plan.Want(&f.Spec), plan.StateOf(c.hosts[i].services()), plan.Owner(spec.OwnAll, nil)).String()
}

// put makes the n-th change by way of a director.
func (c *trio) put(i, n int) error {
	return c.do(i, http.MethodPut, "/v1/spec", api.Change{Content: weightSite(n), Who: "writer"}, nil)
}

// write makes a new change by way of a director.
func (c *trio) write(i int) error {
	c.n++
	return c.put(i, c.n)
}

// written repeats write until it is acknowledged.
func (c *trio) written(i int) {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		err := c.write(i)
		if err == nil {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("no change is acknowledged: %v", err)
		}
	}
}

// same waits until all have the newest change, in the specification and in the kernel. Meanwhile none may have
// anything less than what it had before.
func (c *trio) same(what string, least [3]int) {
	c.t.Helper()
	for i, h := range c.hosts {
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			content, wrong := c.has(i), c.table(i, c.n)
			if content == weightSite(c.n) && wrong == "" {
				break
			}
			if w := weightOf(content); w < least[i] {
				c.t.Fatalf("%s: d%d has weight %d, and had %d before", what, i+1, w, least[i])
			}
			if time.Now().After(end) {
				c.t.Fatalf("%s: d%d has\n%s\nits kernel differs by\n%s\nand it said\n%s", what, i+1, content, wrong, c.running[i].text())
			}
		}
		h.tap.count()
	}
	c.kept(what)
}

// kept complains if anything was removed from a kernel's table, by whomever: the specifications differ in a weight only.
func (c *trio) kept(what string) {
	c.t.Helper()
	for i, h := range c.hosts {
		h.tap.count()
		if h.tap.removals != 0 {
			c.t.Fatalf("%s: %d times something was removed from the table of d%d, which said\n%s", what, h.tap.removals, i+1, c.running[i].text())
		}
	}
}

// A writer changes a weight ten times a second through the three directors by turns, while the active one is killed
// with -9. No acknowledged change is lost, and in the end the specification and the kernel's table of all three are the
// same.
func TestActiveKilledAmongChanges(t *testing.T) {
	c := newTrio(t)
	c.start(0, 1, 2)
	acked, refused, last := 0, 0, 0
	count := func(n int, err error) {
		if err != nil {
			refused++
			return
		}
		acked, last = acked+1, n
	}
	for kill := range *activeKills {
		for enough, end := acked+killsChanges, time.Now().Add(time.Minute); acked < enough; {
			next := time.Now().Add(changePause)
			err := c.write(c.n % len(c.hosts))
			if count(c.n, err); time.Now().After(end) {
				t.Fatalf("kill %d: too few changes are acknowledged within a minute, the last: %v", kill+1, err)
			}
			time.Sleep(time.Until(next))
		}
		victim := c.active()
		// In the middle of a change.
		c.n++
		answer := make(chan error, 1)
		go func() { answer <- c.put(victim, c.n) }()
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		c.running[victim].kill()
		count(c.n, <-answer)
		for i := range c.hosts {
			if i == victim {
				continue
			}
			// An acknowledged change is on the disk of those that go on.
			if got := weightOf(c.has(i)); got < last {
				t.Fatalf("kill %d: %d of %d changes are acknowledged, the last %d; d%d has %d", kill+1, acked, c.n, last, i+1, got)
			}
		}
		c.kept(fmt.Sprintf("kill %d", kill+1))
		c.start(victim)
	}
	c.written(0)
	c.same("in the end", [3]int{last, last, last})
	t.Logf("%d kills, %d changes, %d acknowledged, %d refused, none lost", *activeKills, c.n, acked, refused)
}
