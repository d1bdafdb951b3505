package realserver

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/drover-lb/drover/realserver/kernel"
)

const three = "vips: [10.0.0.100, 10.0.0.101, '2001:db8::100']\n"

func TestOrderOfStartAndStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three)
		r.ready(true)
		r.did("set arp_ignore 1", "set arp_announce 2", "add lo 10.0.0.100", "add lo 10.0.0.101", "add lo 2001:db8::100")
		r.said("setting made", "setting made", "VIP bound", "VIP bound", "VIP bound", "VIP silent", "VIP silent", "VIP silent", "ready")
		r.phase(vipA, Silent, "")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		r.did("del lo 2001:db8::100/128", "del lo 10.0.0.101/32", "del lo 10.0.0.100/32", "set arp_announce 0", "set arp_ignore 0")
		r.said("VIP released", "VIP released", "VIP released", "setting put back", "setting put back")
		h.asBefore()
	})
}

func TestIdleAgentDoesAndSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three)
		r.did("set arp_ignore 1", "set arp_announce 2", "add lo 10.0.0.100", "add lo 10.0.0.101", "add lo 2001:db8::100")
		sleep(time.Second)
		r.log.Reset()
		proofs := h.proofs
		sleep(24 * time.Hour)
		r.did()
		r.said()
		if h.proofs != proofs {
			t.Errorf("%d proofs while nothing changed", h.proofs-proofs)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}

func TestRepairsWhatSomebodyUndoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three)
		sleep(time.Second)
		r.h.trace = nil
		r.log.Reset()

		proofs := h.proofs
		h.set("all/arp_ignore", "0")
		sleep(settleGap)
		r.did("set arp_ignore 1")
		r.said("setting was changed by somebody, set again")
		repaired := func(want ...string) {
			t.Helper()
			var got []string
			for _, x := range r.a.Status().Repairs {
				got = append(got, x.What)
			}
			if !slices.Equal(got, want) {
				t.Errorf("repairs %q, want %q", got, want)
			}
		}
		const setting = "net.ipv4.conf.all.arp_ignore was set to 0 by somebody, and back to 1"
		repaired(setting)
		if h.proofs == proofs {
			t.Error("silence was not proven again after the settings had been wrong")
		}
		h.set("all/arp_ignore", "2") // stronger
		sleep(time.Minute)
		r.did()
		h.set("all/arp_ignore", "1")

		h.del("lo", "10.0.0.101/32")
		sleep(settleGap)
		r.did("add lo 10.0.0.101")
		r.said("VIP was removed by somebody, put back")
		r.phase(vipB, Silent, "")
		repaired(setting, "10.0.0.101 was taken off lo by somebody, and put back")

		// Without a notification it is found at the next check.
		h.mu.Lock()
		h.addrs = h.addrs[1:]
		h.mu.Unlock()
		sleep(5 * time.Second)
		r.did("add lo 10.0.0.100")
		r.said("VIP was removed by somebody, put back")

		// Somebody who fights for an address does not keep the agent busy.
		before := h.proofs
		for range 1000 {
			h.del("lo", "10.0.0.100/32")
			sleep(time.Millisecond)
		}
		if n := h.proofs - before; n > 60 {
			t.Errorf("%d proofs in a second", n)
		}
		sleep(settleGap)
		h.trace = nil
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestVIPOnAnotherInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three)
		sleep(time.Second)
		r.h.trace = nil
		r.log.Reset()

		for _, vip := range []netip.Addr{vipA, vip6} {
			prefix := netip.PrefixFrom(vip, vip.BitLen()).String()
			h.add("eth0", prefix)
			sleep(settleGap)
			r.did("del lo " + prefix)
			r.said("level=WARN msg=\"VIP is also on an interface where this host answers for it; it cannot be silent there\" address="+vip.String()+" interface=eth0",
				"level=ERROR", "level=WARN msg=\"VIP taken off\"")
			r.phase(vip, Answered, "is on eth0 as well, where this host answers for it: remove it there (ip address del "+vip.String()+" dev eth0)")
			r.phase(vipB, Silent, "")
			sleep(time.Hour)
			r.did()
			r.said()
			h.del("eth0", prefix)
			sleep(settleGap)
			r.did("add lo " + vip.String())
			r.said("VIP is no longer on the other interface", "VIP bound", "VIP silent")
		}

		// Where nobody can ask, it is harmless.
		h.link("dummy0", kernel.Link{Index: 9, Type: "dummy", Running: true})
		h.add("dummy0", "10.0.0.100/32")
		sleep(settleGap)
		r.did()
		r.said("level=INFO msg=\"VIP is also on another interface, where nobody asks for it\" address=10.0.0.100 interface=dummy0")
		h.link("dummy0", kernel.Link{})
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

// On a host that is a director, too, a VIP on another interface is the director's, and stays on lo as well.
func TestVIPOfTheHostsDirector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three)
		r.a.SetDirector(true)
		sleep(time.Second)
		r.h.trace = nil
		r.log.Reset()
		for range 2 {
			h.add("eth0", "10.0.0.100/32")
			sleep(settleGap)
			r.did()
			r.said(`level=INFO msg="the director of this host has the VIP" address=10.0.0.100 interface=eth0`)
			r.phase(vipA, Held, "")
			r.phase(vipB, Silent, "")
			sleep(time.Hour)
			r.did()
			r.said()
			h.del("eth0", "10.0.0.100/32")
			sleep(settleGap)
			r.did()
			r.said("VIP is no longer on the other interface", "VIP silent")
			r.phase(vipA, Silent, "")
		}
		// The director has gone for good.
		h.add("eth0", "10.0.0.100/32")
		sleep(settleGap)
		r.log.Reset()
		r.a.SetDirector(false)
		sleep(settleGap)
		r.did("del lo 10.0.0.100/32")
		r.phase(vipA, Answered, "is on eth0 as well")
		r.log.Reset()
		r.a.SetDirector(true)
		sleep(settleGap)
		r.did("add lo 10.0.0.100")
		r.said("the director of this host has the VIP", "VIP bound")
		r.phase(vipA, Held, "")
		h.del("eth0", "10.0.0.100/32")
		sleep(settleGap)
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestFailsClosedWhenTheHostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.stubborn = true
		r := h.start(t, "vips: [10.0.0.100]\n")
		r.ready(false)
		r.did("set arp_ignore 1", "set arp_announce 2", "add lo 10.0.0.100", "del lo 10.0.0.100/32")
		r.said("setting made", "setting made", "VIP bound", "level=ERROR msg=\"VIP is not kept: this host would answer for it\"", "VIP taken off")
		r.phase(vipA, Answered, "a question put into the kernel on eth0 was answered")

		// Each try is a moment in which the host answers, so they get rarer: 5, 10, 20, 40, 60, 60 s ...
		start := time.Now()
		var tries []string
		for time.Since(start) < 5*time.Minute {
			sleep(time.Second)
			h.mu.Lock()
			if len(h.trace) > 0 {
				tries = append(tries, time.Since(start).Round(time.Second).String())
				h.trace = nil
			}
			h.mu.Unlock()
		}
		if got := strings.Join(tries, " "); got != "5s 15s 35s 1m15s 2m15s 3m15s 4m15s" {
			t.Errorf("tried after %s", got)
		}
		r.log.Reset()

		h.mu.Lock()
		h.stubborn = false
		h.mu.Unlock()
		sleep(2 * time.Minute)
		r.ready(true)
		r.did("add lo 10.0.0.100")
		r.phase(vipA, Silent, "")
		r.said("VIP bound", "VIP silent", "ready")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

// A value that the kernel takes for "answer" is seen before the VIP is put on.
func TestLoudInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.set("eth0/arp_ignore", "5")
		r := h.start(t, three)
		r.ready(false)
		r.did("set arp_ignore 1", "set arp_announce 2", "add lo 2001:db8::100")
		r.phase(vipA, Answered, "arp_ignore that counts on eth0 is 5, which the kernel takes for 0: set net.ipv4.conf.eth0.arp_ignore to 0 or 1")
		r.phase(vip6, Silent, "")
		h.set("eth0/arp_ignore", "0")
		sleep(5 * time.Second)
		r.ready(true)
		r.did("add lo 10.0.0.100", "add lo 10.0.0.101")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestNewInterfacesAreProvenToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.link("eth0", kernel.Link{Index: 2, Type: "device", Answers: true})
		r := h.start(t, three)
		r.ready(true) // so that a network which waits for the agent can come up
		r.phase(vipA, Unproven, "no interface that speaks ARP is up")
		h.link("eth0", kernel.Link{Index: 2, Type: "device", Answers: true, Running: true})
		sleep(settleGap)
		r.phase(vipA, Silent, "")
		proofs := h.proofs
		h.link("eth1", kernel.Link{Index: 3, Type: "device", Answers: true, Running: true})
		sleep(settleGap)
		if h.proofs != proofs+1 {
			t.Errorf("%d proofs for a new interface", h.proofs-proofs)
		}
		if st := r.a.Status(); len(st.VIPs[0].Verdicts) != 2 {
			t.Errorf("got %+v", st)
		}
		h.link("eth1", kernel.Link{})
		sleep(settleGap)
		if st := r.a.Status(); len(st.VIPs[0].Verdicts) != 1 {
			t.Errorf("got %+v", st)
		}
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestUnproven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.cannot = "this kernel cannot"
		r := h.start(t, "vips: [10.0.0.100]\n")
		r.ready(true)
		r.phase(vipA, Unproven, "eth0: this kernel cannot")
		r.said("setting made", "setting made", "VIP bound", "level=WARN msg=\"VIP is bound and its settings are in place, but silence is not proven\" address=10.0.0.100 why=\"eth0: this kernel cannot\"", "ready")
		sleep(24 * time.Hour)
		if h.proofs > 200 {
			t.Errorf("%d proofs in a day", h.proofs)
		}
		r.said()
		h.mu.Lock()
		h.cannot = ""
		h.mu.Unlock()
		sleep(maxReprove)
		r.phase(vipA, Silent, "")
		r.said("VIP silent")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestVIPThatWasThereBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.add("lo", "10.0.0.100/32")
		r := h.start(t, three)
		r.ready(true)
		r.did("set arp_ignore 1", "set arp_announce 2", "add lo 10.0.0.101", "add lo 2001:db8::100")
		h.del("lo", "10.0.0.100/32") // it belongs there all the same
		sleep(settleGap)
		r.did("add lo 10.0.0.100")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		r.did("del lo 2001:db8::100/128", "del lo 10.0.0.101/32", "set arp_announce 0", "set arp_ignore 0")
		if len(h.addrs) != 1 || h.addrs[0].Prefix.Addr() != vipA {
			t.Errorf("left: %v", h.addrs)
		}
	})
}

// Killed at any moment, the agent leaves to its successor what it needs to put everything back.
func TestKilledAtEveryMoment(t *testing.T) {
	for _, device := range []string{"", "device: dummy\n"} {
		moments := 0
		for n := 0; ; n++ {
			killed := false
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t)
				h.left = n
				r := h.start(t, three+device)
				sleep(time.Second)
				h.mu.Lock()
				killed = h.left == 0
				h.mu.Unlock()
				if !killed {
					// It lived: kill it on its way out.
					h.left = n - moments
					go func() { _ = r.stop() }()
					synctest.Wait()
					killed = h.left == 0
				} else {
					moments = n + 1
				}
				_ = r.stop()
				h.left = -1
				h.trace = nil

				if n%2 == 0 { // half of the successors get to work, half are stopped at once
					r = h.start(t, three+device)
					sleep(time.Second)
					r.ready(true)
				} else {
					r = h.start(t, "vips: [10.0.0.102]\n")
				}
				if err := r.stop(); err != nil {
					t.Error(err)
				}
				h.asBefore()
				if t.Failed() {
					t.Logf("killed before operation %d", n)
				}
			})
			if t.Failed() || !killed {
				t.Logf("%q: killed at %d moments", device, n)
				break
			}
		}
		if moments < 3 {
			t.Errorf("only %d moments were tried", moments)
		}
	}
}

func TestRemovedStateIsWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three)
		if err := os.RemoveAll(filepath.Join(h.dir, "run")); err != nil {
			t.Fatal(err)
		}
		h.set("all/arp_ignore", "0") // repairing writes the settings' state again
		sleep(5 * time.Second)
		h.mu.Lock()
		h.left = 0 // and killed
		h.mu.Unlock()
		_ = r.stop()
		h.left = -1
		r = h.start(t, "vips: [10.0.0.102]\n")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.alarm = nil // somebody undid the settings
		h.asBefore()
	})
}

func TestStoppedInTheMiddleOfARepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three)
		h.set("all/arp_announce", "1") // a third value, and no time to repair it
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		if h.get("all/arp_announce") == 2 || h.get("all/arp_ignore") != 0 {
			t.Errorf("left arp_announce %d, arp_ignore %d", h.get("all/arp_announce"), h.get("all/arp_ignore"))
		}
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three)
		sleep(time.Second)
		h.trace = nil
		r.log.Reset()

		r.a.Set(config(t, "vips: [10.0.0.101, 10.0.0.102, '2001:db8::100']\n"))
		r.did("add lo 10.0.0.102", "del lo 10.0.0.100/32")
		r.said("VIP bound", "VIP silent", "VIP released")

		// To a dummy interface: first there, then here no more.
		r.a.Set(config(t, "vips: [10.0.0.101, '2001:db8::100']\ndevice: dummy\n"))
		r.did("add interface drover", "add drover 10.0.0.101", "add drover 2001:db8::100", "del lo 10.0.0.102/32", "del lo 2001:db8::100/128", "del lo 10.0.0.101/32")
		r.a.Set(config(t, "vips: [10.0.0.101, '2001:db8::100']\ndevice: dummy\ndummy: other\n"))
		sleep(time.Second)
		if _, old := h.links["drover"]; old || len(h.addrs) != 2 || h.addrs[0].Device != "other" {
			t.Errorf("links %v, addresses %v", h.links, h.addrs)
		}
		h.trace = nil

		// Without IPv4 VIPs the settings are not needed, and go after the last of them.
		r.a.Set(config(t, "vips: ['2001:db8::100']\n"))
		r.did("add lo 2001:db8::100", "del other 2001:db8::100/128", "del other 10.0.0.101/32", "del interface other", "set arp_announce 0", "set arp_ignore 0")
		r.a.Set(config(t, three))
		r.did("set arp_ignore 1", "set arp_announce 2", "add lo 10.0.0.100", "add lo 10.0.0.101")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestDummy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three+"device: dummy\n")
		r.ready(true)
		r.did("set arp_ignore 1", "set arp_announce 2", "add interface drover", "add drover 10.0.0.100", "add drover 10.0.0.101", "add drover 2001:db8::100")
		sleep(time.Second)
		r.log.Reset()
		h.link("drover", kernel.Link{}) // somebody removes it
		sleep(settleGap)
		r.did("add interface drover", "add drover 10.0.0.100", "add drover 10.0.0.101", "add drover 2001:db8::100")
		r.said("interface was removed by somebody, made again", "put back", "put back", "put back")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		r.did("del drover 2001:db8::100/128", "del drover 10.0.0.101/32", "del drover 10.0.0.100/32", "del interface drover", "set arp_announce 0", "set arp_ignore 0")
		h.asBefore()

		// One that was there before stays.
		h.link("drover", kernel.Link{Index: 7, Type: "dummy", Running: true})
		r = h.start(t, "vips: [10.0.0.100]\ndevice: dummy\n")
		r.did("set arp_ignore 1", "set arp_announce 2", "add drover 10.0.0.100")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		r.did("del drover 10.0.0.100/32", "set arp_announce 0", "set arp_ignore 0")

		// One of another kind is refused.
		h.link("drover", kernel.Link{Index: 7, Type: "bridge", Running: true})
		r = h.start(t, "vips: [10.0.0.100]\ndevice: dummy\n")
		r.ready(false)
		r.phase(vipA, Failed, `interface "drover" exists and is of type bridge: choose another name for the dummy interface`)
		sleep(time.Minute)
		r.said("setting made", "setting made", "failed to make the device of the VIPs")
		h.link("drover", kernel.Link{})
		sleep(settleGap)
		r.ready(true)
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestWithoutSettingsNoVIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.fail["settings"] = errNo
		r := h.start(t, three)
		r.ready(false)
		r.did("add lo 2001:db8::100")
		r.phase(vipA, Failed, "the kernel's settings are not as they have to be: no: operation not permitted")
		r.phase(vip6, Silent, "")
		sleep(time.Hour)
		r.said("failed to make the kernel's settings as they have to be", "VIP bound", "VIP silent")
		h.mu.Lock()
		delete(h.fail, "settings")
		h.mu.Unlock()
		sleep(5 * time.Second)
		r.ready(true)
		r.did("set arp_ignore 1", "set arp_announce 2", "add lo 10.0.0.100", "add lo 10.0.0.101")

		// And when the setting cannot be repaired, the VIP goes.
		if err := os.Rename(h.file("all/arp_ignore"), h.file("all/gone")); err != nil {
			t.Fatal(err)
		}
		sleep(5 * time.Second)
		r.did("del lo 10.0.0.100/32", "del lo 10.0.0.101/32")
		if err := os.Rename(h.file("all/gone"), h.file("all/arp_ignore")); err != nil {
			t.Fatal(err)
		}
		h.alarm = nil // somebody took the setting away while the VIPs were there
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestErrorsOfTheKernelAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		h.fail["add lo 10.0.0.101"] = errNo
		h.fail["snapshot"] = errNo
		r := h.start(t, three)
		r.did("set arp_ignore 1", "set arp_announce 2")
		sleep(time.Minute)
		r.said("setting made", "setting made", "failed to read the network configuration")
		h.mu.Lock()
		delete(h.fail, "snapshot")
		h.mu.Unlock()
		sleep(5 * time.Second)
		r.ready(false)
		r.phase(vipA, Silent, "")
		r.phase(vipB, Failed, "no: operation not permitted")
		sleep(time.Minute)
		r.said("trouble is over", "VIP bound", "failed to bind VIP", "VIP bound", "VIP silent", "VIP silent")
		h.mu.Lock()
		delete(h.fail, "add lo 10.0.0.101")
		h.mu.Unlock()
		sleep(5 * time.Second)
		r.ready(true)
		r.said("trouble is over", "VIP bound", "VIP silent", "ready")

		// On the way out an error is returned, and what is left is remembered.
		h.fail["del lo 10.0.0.100/32"] = errNo
		if err := r.stop(); err == nil || err.Error() != errNo.Error() {
			t.Errorf("stop: %v", err)
		}
		if h.get("all/arp_ignore") != 1 {
			t.Error("the VIP is still there, and the setting that keeps the host silent is gone")
		}
		delete(h.fail, "del lo 10.0.0.100/32")
		r = h.start(t, "vips: [10.0.0.101]\n")
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestKeep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		r := h.start(t, three+"on_stop: keep\n")
		h.trace = nil
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		r.did()
		r = h.start(t, three)
		r.ready(true)
		r.did() // taken over without a write
		if err := r.stop(); err != nil {
			t.Error(err)
		}
		h.asBefore()
	})
}

func TestUnreadableStateFile(t *testing.T) {
	for _, content := range []string{"{", `{"version": 2}`} {
		synctest.Test(t, func(t *testing.T) {
			h := newHost(t)
			if err := os.MkdirAll(filepath.Join(h.dir, "run"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(h.dir, "run/realserver.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			r := h.start(t, three)
			if err := r.stop(); err == nil {
				t.Error("no error")
			}
			r.did()
		})
	}
}

func TestManyVIPs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t)
		var b strings.Builder
		b.WriteString("vips:\n")
		for i := range MaxVIPs {
			fmt.Fprintf(&b, "- 10.1.%d.%d\n", i>>8, i&0xff)
		}
		r := h.start(t, b.String())
		r.ready(true)
		if n := len(h.addrs); n != MaxVIPs {
			t.Errorf("%d VIPs are bound", n)
		}
		h.addrs = nil // the fake host's own search is slow
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	})
}
