//go:build bench

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/cluster/keyring"
)

const killsPause = 1500 * time.Millisecond // of writing between two kills

// weightSite is a specification with one real server of a weight.
func weightSite(n int) string {
	return fmt.Sprintf("vips: [10.9.0.1]\nservices:\n  - {name: web, address: 10.9.0.1, port: 80, scheduler: wrr, real_servers: [{address: 10.0.0.11, weight: %d}]}\n", n)
}

// weightOf reads the weight from what a director says of its specification; 0 if it has none.
func weightOf(state string) int {
	_, rest, _ := strings.Cut(state, "weight: ")
	digits, _, _ := strings.Cut(rest, "}")
	n, _ := strconv.Atoi(digits)
	return n
}

// A writer changes a weight ten times a second through the three directors by turns, while the active one is killed
// with -9, DROVER_KILLS times or 50. No acknowledged change is lost, and in the end the specification and the table of
// all three are the same. The directors are processes that keep their state on disk and speak over the loopback
// interface; their table is that of package kerneltest.
func TestKills(t *testing.T) {
	kills := 50
	if s := os.Getenv("DROVER_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("DROVER_KILLS: %q must be a number from 1", s)
		}
		kills = n
	}
	dir := t.TempDir()
	key, err := keyring.Generate()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "key"), []byte(key+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	var directors [3]*child
	launch := func(i int) {
		t.Helper()
		directors[i] = startChild(t, fmt.Sprintf("d%d", i+1), dir)
		directors[i].await(func(s said) bool { return s.Ready })
	}
	for i := range directors {
		launch(i)
	}
	state := func(i int) said {
		t.Helper()
		return directors[i].ask("state", func(s said) bool { return s.State != "" })
	}
	active := func() int {
		t.Helper()
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			for i := range directors {
				if state(i).Active {
					return i
				}
			}
		}
		t.Fatal("no director is active")
		return 0
	}

	change, acked, refused, last := 0, 0, 0, 0
	write := func() {
		t.Helper()
		change++
		d := directors[change%len(directors)]
		if _, err := io.WriteString(d.in, fmt.Sprintf("weight %d\n", change)); err != nil {
			t.Fatal(err)
		}
		if s := d.await(func(s said) bool { return s.Change == change && (s.Acked || s.Refused != "") }); s.Acked {
			acked++
			last = change
		} else {
			refused++
		}
	}
	for kill := range kills {
		for end := time.Now().Add(killsPause); time.Now().Before(end); {
			next := time.Now().Add(100 * time.Millisecond)
			write()
			time.Sleep(time.Until(next))
		}
		victim := active()
		// In the middle of a change.
		change++
		if _, err := io.WriteString(directors[victim].in, fmt.Sprintf("weight %d\n", change)); err != nil {
			t.Fatal(err)
		}
		directors[victim].kill()
		for s := range directors[victim].out {
			if s.Change == change && s.Acked {
				acked, last = acked+1, change
			}
		}
		for i := range directors {
			if i == victim {
				continue
			}
			// An acknowledged change is on the disk of those that go on.
			if got := weightOf(state(i).State); got < last {
				t.Fatalf("kill %d: %d of %d changes are acknowledged, the last %d; d%d has %d", kill+1, acked, change, last, i+1, got)
			}
		}
		launch(victim)
	}
	for tries := 0; ; tries++ { // until one is acknowledged that comes after all others
		if write(); last == change {
			break
		}
		if tries == 100 {
			t.Fatal("no change is acknowledged any more")
		}
	}
	want := fmt.Sprintf("%s\n-A -t 10.9.0.1:80 -s wrr\n-a -t 10.9.0.1:80 -r 10.0.0.11:80 -g -w %d\n", weightSite(last), last)
	for i := range directors {
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			got := state(i).State
			if got == want {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("d%d has\n%s\nwant\n%s", i+1, got, want)
			}
		}
	}
	t.Logf("%d kills, %d changes, %d acknowledged, %d refused, none lost", kills, change, acked, refused)
	if acked < kills {
		t.Errorf("only %d of %d changes were acknowledged", acked, change)
	}
}
