//go:build bench

package main

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/cluster/keyring"
)

// trio is three directors that are processes of their own.
type trio struct {
	t         *testing.T
	dir       string
	directors [3]*child
	n         int // of the newest change
}

func newTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{t: t, dir: t.TempDir()}
	key, err := keyring.Generate()
	if err == nil {
		err = os.WriteFile(filepath.Join(c.dir, "key"), []byte(key+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// start starts directors, one after the other.
func (c *trio) start(order ...int) {
	c.t.Helper()
	for _, i := range order {
		c.directors[i] = startChild(c.t, fmt.Sprintf("d%d", i+1), c.dir)
		c.directors[i].await(func(s said) bool { return s.Ready })
	}
}

func (c *trio) killAll() {
	for _, d := range c.directors {
		d.kill()
	}
}

// data is the folder in which a director keeps the specification.
func (c *trio) data(i int) string { return filepath.Join(c.dir, fmt.Sprintf("d%d", i+1)) }

func (c *trio) state(i int) said {
	c.t.Helper()
	return c.directors[i].ask("state", func(s said) bool { return s.State != "" })
}

// write changes the weight by way of a director, and returns why that is refused.
func (c *trio) write(i int) string {
	c.t.Helper()
	c.n++
	if _, err := io.WriteString(c.directors[i].in, fmt.Sprintf("weight %d\n", c.n)); err != nil {
		c.t.Fatal(err)
	}
	return c.directors[i].await(func(s said) bool { return s.Change == c.n && (s.Acked || s.Refused != "") }).Refused
}

// written repeats write until it is acknowledged.
func (c *trio) written(i int) {
	c.t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		why := c.write(i)
		if why == "" {
			return
		}
		if time.Now().After(end) {
			c.t.Fatalf("no change is acknowledged: %s", why)
		}
	}
}

// same waits until all have the n-th change, in the specification and in the table, and none anything less than the
// one that it had before its start meanwhile.
func (c *trio) same(what string, least [3]int) {
	c.t.Helper()
	want := fmt.Sprintf("%s\n-A -t 10.9.0.1:80 -s wrr\n-a -t 10.9.0.1:80 -r 10.0.0.11:80 -g -w %d\n", weightSite(c.n), c.n)
	for i := range c.directors {
		for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
			got := c.state(i).State
			if got == want {
				break
			}
			if w := weightOf(got); w < least[i] {
				c.t.Fatalf("%s: d%d has weight %d, and had %d before", what, i+1, w, least[i])
			}
			if time.Now().After(end) {
				c.t.Fatalf("%s: d%d has\n%s\nwant\n%s", what, i+1, got, want)
			}
		}
	}
}

// The power of all three comes back in any order, with what they had on disk or with an empty disk of one of them:
// the last acknowledged specification is in force everywhere, and never less than what was on a director's own disk.
func TestColdStart(t *testing.T) {
	c := newTrio(t)
	c.start(2, 0, 1)
	if got := c.state(0).State; got != "none\n" {
		t.Errorf("an empty cluster has %q", got)
	}
	c.written(0)
	c.same("first", [3]int{})
	for n, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		kept := c.n
		c.killAll()
		least, what := [3]int{kept, kept, kept}, "all kept theirs"
		if n%2 == 1 { // the first that starts has lost its disk
			if err := os.RemoveAll(c.data(order[0])); err != nil {
				t.Fatal(err)
			}
			least[order[0]], what = 0, fmt.Sprintf("d%d has lost its disk", order[0]+1)
		}
		what = fmt.Sprintf("started in the order %v, %s", order, what)
		c.start(order...)
		c.same(what, least)
		c.written(order[2])
		c.same(what+", and changed", least)
	}
}

// Files that are torn in the middle are set aside; the director catches up with the others.
func TestTornState(t *testing.T) {
	c := newTrio(t)
	c.start(0, 1, 2)
	c.written(0)
	c.written(1)
	c.same("at first", [3]int{})
	c.killAll()
	torn := 0
	err := filepath.WalkDir(c.data(1), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			torn++
			err = os.Truncate(path, info.Size()/2)
		}
		return err
	})
	if err != nil || torn == 0 {
		t.Fatalf("%d files torn: %v", torn, err)
	}
	c.start(1, 0, 2)
	c.same("torn", [3]int{c.n, 0, c.n})
	c.written(1)
	c.same("changed", [3]int{})
}

// A change needs the disk of every live director. If one is full the refusal says so, and which; all keep what they
// have, and go on when there is room again.
func TestFullDisk(t *testing.T) {
	if unix.Geteuid() != 0 {
		t.Skip("needs root to mount a small file system")
	}
	c := newTrio(t)
	if err := os.MkdirAll(c.data(1), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", c.data(1), "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("no small file system: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(c.data(1), unix.MNT_DETACH) })
	c.start(0, 1, 2)
	c.written(0)
	c.same("at first", [3]int{})
	ballast := filepath.Join(c.data(1), "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	if !strings.Contains(err.Error(), "no space left") {
		t.Fatal(err)
	}
	had := c.n
	why := ""
	for end := time.Now().Add(time.Minute); !strings.Contains(why, "d2") || !strings.Contains(why, "no space left on device"); {
		if why = c.write(0); why == "" {
			t.Fatal("a change is acknowledged that a live director has not stored")
		}
		if time.Now().After(end) {
			t.Fatalf("the refusal does not say which disk is full: %s", why)
		}
	}
	for i := range c.directors {
		if got := c.state(i).State; weightOf(got) < had || !strings.Contains(got, "-a -t 10.9.0.1:80 -r 10.0.0.11:80") {
			t.Errorf("d%d has\n%s\nand had weight %d", i+1, got, had)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	c.written(2)
	c.same("there is room again", [3]int{})
}
