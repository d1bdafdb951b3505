package controller

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/controller/kernel/kerneltest"
	"github.com/drover-lb/drover/ipvs"
)

// drained is a file with two real servers, the first of which has these keys beside its address.
func drained(keys string) string {
	return fmt.Sprintf(`
director: {interface: eth0}
vips: [192.0.2.10]
services: [{name: web, address: 192.0.2.10, port: 80, scheduler: wlc, real_servers: [{address: 10.0.0.11, weight: 5%s}, 10.0.0.12]}]
`, keys)
}

const (
	addAll = "-A -t 192.0.2.10:80 -s wlc\n-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 5\n-a -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1\n"
	halfIn = "-A -t 192.0.2.10:80 -s wlc\n-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 0\n-a -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1\n"
	oneOut = "-A -t 192.0.2.10:80 -s wlc\n-a -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1\n"
)

// drainWorld is a director with a table of connections, and what it tells of drains.
type drainWorld struct {
	*world
	k    *kerneltest.Kernel
	mu   sync.Mutex
	told []string
}

func drainTest(t *testing.T, f func(w *drainWorld)) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		d := &drainWorld{world: w, k: k}
		w.more = append(w.more, func(o *Options) {
			o.Drained = func(e DrainEvent) {
				d.mu.Lock()
				defer d.mu.Unlock()
				text := e.Text
				if e.Service != "web" || !strings.HasPrefix(text, "web/"+e.Server+": ") || e.State == "" {
					d.t.Errorf("an event of nothing: %+v", e)
				}
				if e.Bad {
					text = "BAD " + text
				}
				d.told = append(d.told, text)
			}
		})
		f(d)
	})
}

func (w *drainWorld) counts(active, inactive uint32) {
	w.k.SetCounts(webKey, rip11, ipvs.Counts{Active: active, Inactive: inactive})
}

// expect waits for what the next look at the connections brings.
func (w *drainWorld) expect(when, table, state, text string) {
	w.t.Helper()
	time.Sleep(drainLook + time.Millisecond)
	synctest.Wait()
	if got := tableText(w.table()); got != table {
		w.t.Errorf("%s: table\n%swant\n%s", when, got, table)
	}
	got := ""
	for _, d := range w.status().Drains {
		got += d.ServerName + " " + d.State + ": " + d.Text
	}
	if state == "" {
		if got != "" {
			w.t.Errorf("%s: %s, want no drain", when, got)
		}
	} else if want := "10.0.0.11 " + state + ": " + text; got != want {
		w.t.Errorf("%s: %s, want %s", when, got, want)
	}
}

func (w *drainWorld) tells(want ...string) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.told, want) {
		w.t.Errorf("told\n%s\nwant\n%s", strings.Join(w.told, "\n"), strings.Join(want, "\n"))
	}
	w.told = nil
}

func TestDrainEndsWithTheLastConnection(t *testing.T) {
	drainTest(t, func(w *drainWorld) {
		w.counts(2, 1)
		w.start(drained(""))
		w.expect("no drain", addAll, "", "")
		w.tells()
		w.reload(drained(", drain: {deadline: 30s, then: remove}"))
		w.expect("drained", halfIn, "draining", "3 connections, 29 s left")
		w.counts(0, 1)
		w.expect("inactive ones count", halfIn, "draining", "1 connection, none of them active, over in 5 s")
		w.counts(0, 0)
		w.expect("none is left", oneOut, "drained", "no connection left")
		w.tells("web/10.0.0.11: draining: 3 connections, 30 s left", "web/10.0.0.11: drained after 2s: it is taken out")
		if st := w.status(); st.Reconcile.Heals != 0 || !st.Healthy {
			t.Errorf("healed %d times, healthy %t", st.Reconcile.Heals, st.Healthy)
		}
		time.Sleep(time.Hour)
		w.expect("it stays out", oneOut, "drained", "no connection left")
		w.reload(drained(""))
		w.expect("undrained", addAll, "", "")
		w.tells("web/10.0.0.11: not drained any more, after 1h0m2s")
	})
}

// Connections that clients have closed are in the kernel for two minutes more; they are not waited for.
func TestDrainSettles(t *testing.T) {
	drainTest(t, func(w *drainWorld) {
		w.counts(1, 40)
		w.start(drained(", drain: {settle: 3s, then: remove}"))
		w.expect("drained", halfIn, "draining", "41 connections, no deadline")
		w.tells("web/10.0.0.11: draining: 0 connections, no deadline")
		w.counts(0, 41)
		time.Sleep(4 * time.Second)
		w.expect("settled", oneOut, "drained", "no active connection left, and 41 that clients have closed")
		w.tells("web/10.0.0.11: drained after 4s: it is taken out")
	})
}

func TestDrainDeadline(t *testing.T) {
	drainTest(t, func(w *drainWorld) {
		w.counts(2, 0)
		w.start(drained(", drain: {deadline: 30s, then: remove}"))
		w.expect("drained", halfIn, "draining", "2 connections, 29 s left")
		w.tells("web/10.0.0.11: draining: 0 connections, 30 s left")
		time.Sleep(30*time.Second - 2*drainLook - time.Second)
		w.expect("soon", halfIn, "draining", "2 connections, 1 s left")
		time.Sleep(time.Second)
		w.expect("over", oneOut, "expired", "2 connections left at the deadline 1 s ago")
		w.tells("BAD web/10.0.0.11: 2 connections left at the deadline 0 s ago: it is taken out, and they are cut")
		w.reload(drained(", drain: {deadline: 30s}"))
		w.expect("kept instead", halfIn, "expired", "2 connections left at the deadline 1 s ago")
	})
}

// Weight 0 is a drain without an end.
func TestWeightZeroIsADrain(t *testing.T) {
	drainTest(t, func(w *drainWorld) {
		w.counts(1, 0)
		w.start(strings.Replace(drained(""), "weight: 5", "weight: 0", 1))
		w.expect("weight 0", halfIn, "draining", "1 connection, no deadline")
		w.counts(0, 0)
		w.expect("weight 0", halfIn, "drained", "no connection left")
		w.tells("web/10.0.0.11: draining: 0 connections, no deadline", "web/10.0.0.11: drained after 1s: it is kept with weight 0")
	})
}

// A director that is killed, or stopped, goes on where it was with its next start.
func TestDrainSurvivesRestart(t *testing.T) {
	for _, clean := range []bool{false, true} {
		drainTest(t, func(w *drainWorld) {
			text := drained(", drain: {deadline: 30s, then: remove}")
			restart := func() {
				if clean {
					w.stop()
				} else {
					w.kill()
				}
				time.Sleep(10 * time.Second)
				w.start(text)
			}
			w.counts(2, 0)
			w.start(text)
			w.expect("drained", halfIn, "draining", "2 connections, 29 s left")
			restart()
			w.expect("started again", halfIn, "draining", "2 connections, 19 s left")
			w.counts(0, 0)
			w.expect("none is left", oneOut, "drained", "no connection left")
			w.tells("web/10.0.0.11: draining: 0 connections, 30 s left", "web/10.0.0.11: drained after 12s: it is taken out")
			w.k.Journal()
			restart()
			w.expect("it stays out", oneOut, "drained", "no connection left")
			for _, line := range w.k.Journal() {
				if strings.Contains(line, "10.0.0.11") && strings.Contains(line, " -a ") {
					t.Errorf("a server that was taken out came back: %s", line)
				}
			}
			w.tells()
		})
	}
}

// A standby does not count: it knows of few connections. It ends a drain at the deadline, or when it takes over.
func TestDrainAndTakeover(t *testing.T) {
	drainTest(t, func(w *drainWorld) {
		began := time.Now().Add(-5 * time.Second).UTC().Format(time.RFC3339)
		w.counts(0, 0)
		w.start(drained(fmt.Sprintf(", drain: {since: %q, deadline: 30s, then: remove}", began)), member)
		w.expect("standby", halfIn, "draining", "0 connections, 24 s left")
		time.Sleep(10 * time.Second)
		w.expect("standby", halfIn, "draining", "0 connections, 14 s left")
		w.counts(3, 0) // as they were synchronised
		w.mustRole("default", Role{Active: true, Epoch: 1})
		w.expect("active", halfIn, "draining", "3 connections, 13 s left")
		w.counts(0, 0)
		w.expect("active", oneOut, "drained", "no connection left")
		w.tells("web/10.0.0.11: draining: 0 connections, 25 s left", "web/10.0.0.11: drained after 17s: it is taken out")
	})
	drainTest(t, func(w *drainWorld) {
		w.start(drained(", drain: {deadline: 30s, then: remove}"), member)
		time.Sleep(30 * time.Second)
		w.expect("standby at the deadline", oneOut, "expired", "0 connections left at the deadline 1 s ago")
		w.tells("web/10.0.0.11: draining: 0 connections, 30 s left") // how it ended is the active one's to tell
	})
	// What the former director has told is not told again.
	drainTest(t, func(w *drainWorld) {
		w.counts(0, 0)
		w.start(drained(fmt.Sprintf(", drain: {since: %q}", time.Now().Add(-5*time.Hour).UTC().Format(time.RFC3339))), member)
		w.expect("standby", halfIn, "draining", "0 connections, no deadline")
		w.tells("web/10.0.0.11: draining: 0 connections, no deadline")
		w.mustRole("default", Role{Active: true, Epoch: 1})
		w.expect("active", halfIn, "drained", "no connection left")
		w.tells()
	})
}

// Where the director does not set the kernel's settings, a persistence template may bring a client back.
func TestDrainAndTemplates(t *testing.T) {
	for _, tc := range []struct {
		director, state, text string
	}{
		{"", "drained", "no connection left"},
		{", sysctls: false", "draining", "7 connections, no deadline"},
	} {
		drainTest(t, func(w *drainWorld) {
			w.k.SetCounts(webKey, rip11, ipvs.Counts{Persistent: 7})
			text := strings.Replace(drained(", drain: true"), "scheduler: wlc", "scheduler: wlc, persistence: 60s", 1)
			w.start(strings.Replace(text, "interface: eth0", "interface: eth0"+tc.director, 1))
			w.expect("persistent", strings.Replace(halfIn, "-s wlc", "-s wlc -p 60", 1), tc.state, tc.text)
		})
	}
}
