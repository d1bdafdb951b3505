//go:build soak && kernel

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/cmd/internal/api"
)

func (c *trio) killAll() {
	for _, p := range c.running {
		p.kill()
	}
}

// warnings are what a director tells an operator of.
func (c *trio) warnings(i int) string {
	c.t.Helper()
	var x api.Cluster
	if err := c.do(i, http.MethodGet, "/v1/cluster", nil, &x); err != nil {
		c.t.Fatalf("d%d: %v", i+1, err)
	}
	return strings.Join(x.Warnings, "\n")
}

// All three are started in any order, with what they had on disk or with an empty disk of one of them: the last
// acknowledged specification is in force everywhere, never less than what was on a director's own disk, and no table is
// emptied meanwhile, that of a director without a specification included.
func TestColdStart(t *testing.T) {
	c := newTrio(t)
	c.start(2, 0, 1)
	if got := c.has(0); got != "" {
		t.Errorf("an empty cluster has %q", got)
	}
	c.written(0)
	c.same("first", [3]int{})
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	for n, order := range orders {
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
		for _, i := range order { // each has had time for mischief before the next one comes
			c.start(i)
		}
		c.same(what, least)
		c.written(order[2])
		c.same(what+", and changed", least)
	}
}

// Files that are torn in the middle are set aside, and the director says so. It leaves the table as it is, and catches
// up with the others.
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
	c.start(1)
	if got, wrong := c.has(1), c.table(1, c.n); got != "" || wrong != "" {
		t.Errorf("alone, d2 has %q, and its kernel differs by\n%s", got, wrong)
	}
	if said := c.running[1].text(); !strings.Contains(said, "is damaged, it is kept as") {
		t.Errorf("d2 does not say what is damaged:\n%s", said)
	}
	if got := c.warnings(1); !strings.Contains(got, "every stored specification is damaged: wait for another director to bring it") {
		t.Errorf("d2 warns of %q", got)
	}
	c.kept("torn, and alone")
	c.start(0, 2)
	c.same("torn", [3]int{c.n, 0, c.n})
	c.written(1)
	c.same("changed", [3]int{})
}

// A change needs the disk of every live director. If one is full the refusal says so, and which; all keep what they
// have, and go on when there is room again.
func TestFullDisk(t *testing.T) {
	c := newTrio(t)
	if err := os.MkdirAll(c.data(1), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", c.data(1), "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
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
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	had := c.n
	why := ""
	const trouble = "d2 cannot store changes of the specification, and while it is alive none is acknowledged: make room on its disk, or stop it: "
	for end := time.Now().Add(time.Minute); !strings.Contains(why, "d2") || !strings.Contains(why, "no space left on device"); {
		err := c.write(0)
		if err == nil {
			t.Fatal("a change is acknowledged that a live director has not stored")
		}
		if why = err.Error(); time.Now().After(end) {
			t.Fatalf("the refusal does not say which disk is full: %s", why)
		}
	}
	for i := range c.hosts {
		if got := weightOf(c.has(i)); got < had {
			t.Errorf("d%d has weight %d, and had %d", i+1, got, had)
		}
	}
	for i := range c.hosts { // every director tells of it
		c.hosts[i].eventually(fmt.Sprintf("d%d tells that the disk of d2 is full", i+1), 30*time.Second, func() bool { return strings.Contains(c.warnings(i), trouble) })
	}
	c.kept("the disk is full")
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	for i := range c.hosts {
		c.hosts[i].eventually(fmt.Sprintf("d%d tells no more that the disk of d2 is full", i+1), 30*time.Second, func() bool { return !strings.Contains(c.warnings(i), "cannot store") })
	}
	c.written(2)
	c.same("there is room again", [3]int{})
}
