package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/kernel/kerneltest"
	"github.com/drover-lb/drover/controller/owned"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/sysctl"
)

// fakeWorld is a world with a fake kernel; it belongs into a synctest bubble.
func fakeWorld(t *testing.T, k *kerneltest.Kernel, dir string) *world {
	return &world{
		t: t, kernel: k, iface: "eth0",
		hand:    k.Hand,
		addAddr: k.HandSetAddress,
		delAddr: k.HandDeleteAddress,
		setLink: func(name string, up bool) {
			l, err := k.Link(context.Background(), name)
			if err != nil {
				t.Fatal(err)
			}
			l.Up, l.Carrier = up, up
			k.SetLink(name, l)
		},
		table: func() plan.State {
			s, err := k.Services(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return plan.StateOf(s)
		},
		addrs:    func() []kernel.Address { a, _ := k.Addresses(context.Background()); return a },
		stateDir: dir,
		interval: 5 * time.Second,
		lifetime: 4 * time.Second,
	}
}

// fake runs f in a bubble with a fake kernel that has eth0.
func fake(t *testing.T, f func(w *world, k *kerneltest.Kernel)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		k := kerneltest.New("lo", "eth0")
		f(fakeWorld(t, k, dir), k)
	})
}

func TestScenariosOnFakeKernel(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			fake(t, func(w *world, _ *kerneltest.Kernel) { s.run(w) })
		})
	}
}

// The order of changes is what keeps clients served.
func TestOrder(t *testing.T) {
	const text = `
director: {interface: eth0}
vips: [192.0.2.10]
services: [{address: 192.0.2.10, port: 80, scheduler: wlc, real_servers: [10.0.0.11]}]
`
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.told = &announced{note: k.Note}
		journal := func(want ...string) {
			t.Helper()
			if got := k.Journal(); !slices.Equal(got, want) {
				t.Errorf("order:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		sys := &fakeSysctls{note: k.Note}
		w.start(text, func(o *Options) { o.Sysctls = sys })
		journal(
			"sysctls set",
			"ipvsadm -A -t 192.0.2.10:80 -s wlc",
			"ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1",
			"ip address add 192.0.2.10/32 dev eth0 valid_lft 4",
			"announce 192.0.2.10",
		)
		// Giving up one VIP and taking another.
		w.reload(strings.ReplaceAll(text, "192.0.2.10", "192.0.2.20"))
		journal(
			"sysctls set",
			"ip address del 192.0.2.10/32 dev eth0",
			"announce",
			"ipvsadm -A -t 192.0.2.20:80 -s wlc",
			"ipvsadm -a -t 192.0.2.20:80 -r 10.0.0.11:80 -g -w 1",
			"ipvsadm -D -t 192.0.2.10:80",
			"ip address add 192.0.2.20/32 dev eth0 valid_lft 4",
			"announce 192.0.2.20",
		)
		w.stop()
		journal(
			"announce",
			"ip address del 192.0.2.20/32 dev eth0",
			"ipvsadm -D -t 192.0.2.20:80",
			"sysctls restored",
		)
	})
}

type fakeSysctls struct {
	note    func(string, ...any)
	rows    []sysctl.Row
	changed []sysctl.Change // what the next Repair finds
	err     error
}

func (f *fakeSysctls) Apply(rows []sysctl.Row) ([]sysctl.Change, error) {
	f.rows = rows
	f.note("sysctls set")
	return nil, f.err
}

func (f *fakeSysctls) Repair() ([]sysctl.Change, error) {
	c := f.changed
	f.changed = nil
	return c, f.err
}

func (f *fakeSysctls) Restore() ([]sysctl.Change, error) {
	f.note("sysctls restored")
	return nil, f.err
}

// One command that fails keeps back only what needs it; it is retried with growing gaps, and logged
// when it begins and when it ends.
func TestPartialFailureAndBackoff(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		var tries []time.Duration
		begin := time.Now()
		k.FailApply(func(c ipvs.Command) error {
			if c.Op == ipvs.OpNewService && c.Service.Key == webKey {
				tries = append(tries, time.Since(begin))
				return unix.ENOMEM
			}
			return nil
		})
		w.start(config(""))
		st := w.status()
		if len(st.Errors) != 1 || st.Errors[0].Service != webKey.String() || st.Errors[0].Error != "failed to add service TCP 192.0.2.10:80: the kernel is out of memory (ENOMEM)" {
			t.Errorf("errors: %+v", st.Errors)
		}
		if got := w.differs(config("")); !strings.HasPrefix(got, "-A -t 192.0.2.10:80 ") || strings.Count(got, "\n") != 3 {
			t.Errorf("missing more than the one service:\n%s", got)
		}
		if s := w.vipState("192.0.2.10"); s != VIPHeld {
			t.Errorf("VIP is %s", s)
		}
		if len(st.Pending.Ops) != 3 {
			t.Errorf("pending:\n%s", st.Pending)
		}
		time.Sleep(2*time.Minute + time.Second)
		w.status()
		want := []time.Duration{0, 5 * time.Second, 15 * time.Second, 35 * time.Second, 75 * time.Second}
		for i := range tries {
			tries[i] = tries[i].Round(time.Second)
		}
		if len(tries) < 5 || !slices.Equal(tries[:5], want) {
			t.Errorf("tried at %v, want %v", tries, want)
		}
		if n := w.logs.count("the kernel refused a change"); n != 1 {
			t.Errorf("told %d times:\n%s", n, w.logs)
		}
		// A new file is reason enough to try at once, the same one too.
		k.FailApply(nil)
		w.reload(config(""))
		w.wants(config(""))
		if n := w.logs.count("a change that the kernel refused is done or not wanted any more"); n != 1 {
			t.Errorf("end told %d times:\n%s", n, w.logs)
		}
		if st := w.status(); !st.Healthy || len(st.Errors) != 0 {
			t.Errorf("not healthy: %+v", st)
		}
		if w.logs.count("healed") != 0 {
			t.Errorf("a retry was taken for somebody else's doing:\n%s", w.logs)
		}
	})
}

// While the table cannot be read or changed, VIPs that are held are held on, and none is taken.
func TestTableOutOfReach(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config(""))
		k.FailList(ipvs.ErrTimeout)
		time.Sleep(3*w.interval + time.Millisecond)
		st := w.status()
		if st.Healthy || !strings.Contains(st.Reconcile.Error, "no answer from the kernel in time") {
			t.Errorf("status: %+v", st.Reconcile)
		}
		if n := w.logs.count("out of reach"); n != 1 {
			t.Errorf("told %d times:\n%s", n, w.logs)
		}
		more := strings.Replace(config(""), "vips: [", "vips: [192.0.2.11, ", 1) + "- {address: 192.0.2.11, port: 80, real_servers: [10.0.0.11]}\n"
		w.reload(more)
		if w.address("192.0.2.11/32") != nil || w.address(vip4.String()) == nil {
			t.Errorf("addresses: %s", k.IP())
		}
		k.FailList(nil)
		time.Sleep(w.interval + time.Second)
		w.wants(more)
		if w.address("192.0.2.11/32") == nil {
			t.Errorf("addresses: %s", k.IP())
		}
		// A batch without an answer: the table is read again, and the rest is done at the next tick.
		k.FailApply(func(c ipvs.Command) error {
			if c.Op == ipvs.OpSetDest {
				return fmt.Errorf("%w: test", ipvs.ErrTimeout)
			}
			return nil
		})
		changed := strings.Replace(more, "weight: 5", "weight: 6", 2)
		w.reload(changed)
		if st := w.status(); st.Healthy || len(st.Pending.Ops) != 2 {
			t.Errorf("healthy %t, pending:\n%s", st.Healthy, st.Pending)
		}
		k.FailApply(nil)
		time.Sleep(w.interval + time.Second)
		w.wants(changed)
		if st := w.status(); !st.Healthy {
			t.Errorf("not healthy: %+v\n%s", st, w.logs)
		}
	})
}

// A kernel that does not answer for a while must not make the VIP lapse.
func TestVIPsAreRenewedWhileTheTableHangs(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config(""))
		release := k.Block()
		time.Sleep(10 * w.lifetime)
		if w.address(vip4.String()) == nil {
			t.Errorf("the VIP lapsed")
		}
		release()
		time.Sleep(w.interval + time.Millisecond)
		if w.logs.count("removed from the interface by somebody") != 0 {
			t.Errorf("log:\n%s", w.logs)
		}
	})
}

func TestInterfaceMissingRenamedReplaced(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		k := kerneltest.New("lo")
		w := fakeWorld(t, k, dir)
		w.start(config("reconcile_interval: 1h"))
		if s := w.vipState("192.0.2.10"); s != VIPNoInterface {
			t.Errorf("VIP is %s", s)
		}
		k.SetLink("eth0", kernel.Link{Index: 7, Name: "eth0", Up: true, Carrier: true})
		time.Sleep(time.Second)
		if s := w.vipState("192.0.2.10"); s != VIPHeld {
			t.Errorf("VIP is %s", s)
		}
		// Renamed: the address leaves the interface that has another name now.
		k.SetLink("eth0", kernel.Link{Name: "lan0", Up: true, Carrier: true})
		time.Sleep(time.Second)
		if s := w.vipState("192.0.2.10"); s != VIPNoInterface || k.IP() != "" || len(w.told.claims) != 0 {
			t.Errorf("VIP is %s; addresses %q; claims %v", s, k.IP(), w.told.claims)
		}
		k.SetLink("eth0", kernel.Link{Index: 9, Name: "eth0", Up: true, Carrier: true})
		time.Sleep(time.Second)
		if got, want := k.IP(), "eth0 192.0.2.10/32 4s\neth0 2001:db8::10/128 4s"; got != want {
			t.Errorf("addresses %q, want %q", got, want)
		}
		// Removed and made anew between two looks.
		epoch := w.told.of("192.0.2.10")
		k.SetLink("eth0", kernel.Link{})
		k.SetLink("eth0", kernel.Link{Index: 11, Name: "eth0", Up: true, Carrier: true})
		time.Sleep(time.Second)
		if got, want := k.IP(), "eth0 192.0.2.10/32 4s\neth0 2001:db8::10/128 4s"; got != want || w.told.of("192.0.2.10") <= epoch {
			t.Errorf("addresses %q, want %q; epoch %d after %d", got, want, w.told.of("192.0.2.10"), epoch)
		}
		w.stop()
		if got := k.IP(); got != "" {
			t.Errorf("addresses %q left", got)
		}
	})
}

// An address that cannot be set is tried again at each tick; one that cannot be removed is not renewed,
// and its services stay until it is gone.
func TestAddressFailures(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		k.FailAddress(errors.New("no way"), nil)
		w.start(config(""))
		st := w.status()
		if len(st.VIPs) != 2 || st.VIPs[0].State != VIPFailed || st.VIPs[0].Error != "no way" || st.Healthy {
			t.Errorf("VIPs: %+v", st.VIPs)
		}
		time.Sleep(3*w.interval + time.Millisecond)
		if n := w.logs.count("VIP cannot be put onto the interface"); n != 2 {
			t.Errorf("told %d times:\n%s", n, w.logs)
		}
		k.FailAddress(nil, nil)
		time.Sleep(w.interval + time.Millisecond)
		if s := w.vipState("192.0.2.10"); s != VIPHeld {
			t.Errorf("VIP is %s", s)
		}

		k.FailAddress(errors.New("renewal fails"), nil)
		time.Sleep(w.lifetime/2 + time.Millisecond)
		if st := w.status(); st.VIPs[0].Error != "renewal fails" {
			t.Errorf("VIPs: %+v", st.VIPs)
		}
		k.FailAddress(nil, nil)
		time.Sleep(w.lifetime/2 + time.Millisecond)
		if st := w.status(); st.VIPs[0].Error != "" || !st.Healthy {
			t.Errorf("VIPs: %+v\n%s", st.VIPs, w.logs)
		}

		k.FailAddress(nil, errors.New("stuck"))
		less := "director: {interface: eth0}\nvips: []\nservices: []\n"
		w.reload(less)
		if s := w.vipState("192.0.2.10"); s != VIPLeaving {
			t.Errorf("VIP is %s", s)
		}
		if got := k.Table(); strings.Count(got, "-A ") != 4 { // all but that by mark
			t.Errorf("services:\n%s", got)
		}
		if len(w.told.claims) != 0 {
			t.Errorf("still announced: %v", w.told.claims)
		}
		time.Sleep(w.lifetime + time.Millisecond)
		if got := k.IP(); got != "" {
			t.Errorf("renewed: %s", got)
		}
		k.FailAddress(nil, nil)
		time.Sleep(w.interval + time.Millisecond)
		if got := k.Table(); got != "" {
			t.Errorf("services:\n%s", got)
		}
		if st := w.status(); !st.Healthy || len(st.VIPs) != 0 {
			t.Errorf("status: %+v", st)
		}
	})
}

// Notifications may be lost; then everything is looked at.
func TestLostNotifications(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config("reconcile_interval: 1h, vip_lifetime: 1h"))
		k.HandDeleteAddress("eth0", vip4)
		k.Overflow()
		time.Sleep(time.Second)
		if w.address(vip4.String()) == nil {
			t.Error("the VIP was not put back")
		}
	})
}

// A program that keeps removing the VIP is answered, but does not keep the loop busy.
func TestFightForAnAddress(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config("reconcile_interval: 1h"))
		begin, n := time.Now(), 0
		for time.Since(begin) < time.Second {
			if w.address(vip4.String()) != nil {
				k.HandDeleteAddress("eth0", vip4)
				n++
			}
			time.Sleep(time.Millisecond)
		}
		if n < 20 || n > int(time.Second/settleGap)+5 {
			t.Errorf("put back %d times in a second", n)
		}
		time.Sleep(time.Second)
		if w.address(vip4.String()) == nil {
			t.Error("the VIP was not put back in the end")
		}
	})
}

func TestSuspendedProcessPutsTheVIPBack(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config(""))
		epoch := w.told.of("192.0.2.10")
		// The kernel took the address away, and a renewal put it back before anybody looked.
		k.HandDeleteAddress("eth0", vip4)
		k.HandSetAddress("eth0", vip4, 4*time.Second)
		time.Sleep(time.Second)
		if w.told.of("192.0.2.10") <= epoch || w.vipState("192.0.2.10") != VIPHeld {
			t.Errorf("not announced again:\n%s", w.logs)
		}
	})
}

func TestSysctls(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		sys := &fakeSysctls{note: k.Note, err: errors.New("read-only")}
		w.start(config(""), func(o *Options) { o.Sysctls = sys })
		if st := w.status(); st.Healthy || st.SysctlError != "read-only" || len(st.Sysctls) != 3 {
			t.Errorf("status: %+v", st)
		}
		time.Sleep(3*w.interval + time.Millisecond)
		if n := w.logs.count("failed to set a kernel setting"); n != 1 {
			t.Errorf("told %d times:\n%s", n, w.logs)
		}
		w.status()
		sys.err = nil
		w.status()
		time.Sleep(w.interval + time.Millisecond)
		if st := w.status(); !st.Healthy {
			t.Errorf("status: %+v", st)
		}
		sys.changed = []sysctl.Change{{Key: "net.ipv4.vs.conn_reuse_mode", From: "0", To: "1", Reason: "because"}}
		w.status()
		time.Sleep(w.interval + time.Millisecond)
		if n := w.logs.count("net.ipv4.vs.conn_reuse_mode written: 0 -> 1"); n != 1 {
			t.Errorf("told %d times:\n%s", n, w.logs)
		}
		w.reload(config("sysctls: false"))
		if len(sys.rows) != 0 {
			t.Errorf("rows: %+v", sys.rows)
		}
	})
}

func TestSettings(t *testing.T) {
	w := &world{t: t, interval: time.Second, lifetime: time.Second}
	keys := func(text string) string {
		var out []string
		for _, s := range Settings(w.file(text)) {
			if s.Reason == "" || s.Source == "" {
				t.Errorf("%s has no reason or source", s.Key)
			}
			out = append(out, s.Key+"="+s.Value)
		}
		return strings.Join(out, " ")
	}
	const vs = "net.ipv4.vs.expire_nodest_conn=1 net.ipv4.vs.expire_quiescent_template=1 net.ipv4.vs.conn_reuse_mode=1"
	for _, tc := range []struct{ text, want string }{
		{config(""), vs},
		{config("sysctls: false"), ""},
		{"director: {interface: eth0.100}\nvips: [192.0.2.10/24, {address: 192.0.2.11/24, interface: eth1}, 192.0.2.12/24, 192.0.2.13]\nservices: []\n",
			vs + " net.ipv4.conf.eth0/100.promote_secondaries=1 net.ipv4.conf.eth1.promote_secondaries=1"},
		{"vips: []\nservices: [{address: 192.0.2.10, port: 80, forwarding: masquerade, real_servers: [10.0.0.11]}]\n",
			"net.ipv4.ip_forward=1 " + vs},
		{"vips: []\nservices: [{address: \"2001:db8::10\", port: 80, forwarding: masquerade, real_servers: [\"fd00::11\"]}]\n",
			"net.ipv6.conf.all.forwarding=1 " + vs},
	} {
		if got := keys(tc.text); got != tc.want {
			t.Errorf("%s\ngot  %s\nwant %s", tc.text, got, tc.want)
		}
	}
}

// The state file of another boot or namespace, or one that cannot be read, must not make a director
// delete anything.
func TestStateFile(t *testing.T) {
	for _, tc := range []struct {
		name    string
		content func(string) string
		ours    bool
		log     string
	}{
		{"own", func(s string) string { return s }, true, ""},
		{"another boot", func(s string) string { return strings.Replace(s, `"boot":"`, `"boot":"x`, 1) }, false, ""},
		{"another namespace", func(s string) string { return strings.Replace(s, `"namespace":"`, `"namespace":"x`, 1) }, false, ""},
		{"torn", func(s string) string { return s[:len(s)/2] }, false, "failed to learn what an earlier director left"},
		{"another version", func(s string) string { return strings.Replace(s, `"version":1`, `"version":9`, 1) }, false, "has version 9"},
		{"gone", func(string) string { return "" }, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fake(t, func(w *world, k *kerneltest.Kernel) {
				w.start(config(""))
				w.kill()
				path := filepath.Join(w.stateDir, owned.File)
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if s := tc.content(string(b)); s == "" {
					err = os.Remove(path)
				} else {
					err = os.WriteFile(path, []byte(s), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				w.start("director: {interface: eth0}\nvips: []\nservices: []\n")
				if got := k.Table() == ""; got != tc.ours {
					t.Errorf("deleted %t, want %t", got, tc.ours)
				}
				if !strings.Contains(w.logs.String(), tc.log) {
					t.Errorf("log:\n%s", w.logs)
				}
				w.stop()
			})
		})
	}
}

// A director that does not know yet what the cluster wants, such as after the loss of its disk, leaves its table as it is,
// whatever its ownership. As soon as it knows, what is not wanted goes.
func TestUnknownSpecification(t *testing.T) {
	for _, ownership := range []string{"listed", "all"} {
		fake(t, func(w *world, k *kerneltest.Kernel) {
			w.start(config(""))
			w.kill()
			want := k.Table()
			w.start("director: {interface: eth0, ownership: " + ownership + "}\ncluster: {name: d1, key_file: k, voters: [{name: d1, address: 192.0.2.1}]}\n")
			time.Sleep(time.Minute)
			if got := k.Table(); got != want || want == "" {
				t.Errorf("ownership %s: the table is\n%s\nwant\n%s", ownership, got, want)
			}
			if got := w.status().Pending; len(got.Ops) != 0 {
				t.Errorf("ownership %s: pending: %v", ownership, got)
			}
			w.reload("director: {interface: eth0, ownership: " + ownership + "}\nvips: []\nservices: []\n")
			if got := k.Table(); got != "" {
				t.Errorf("ownership %s: the table is\n%s\nand nothing is wanted", ownership, got)
			}
			w.stop()
		})
	}
}

// The keys are in the state file before they are in the kernel: killed in between, nothing is orphaned.
func TestKilledWhileProgramming(t *testing.T) {
	for n := range 14 {
		fake(t, func(w *world, k *kerneltest.Kernel) {
			i := 0
			k.FailApply(func(ipvs.Command) error {
				if i++; i > n {
					w.gate.shut()
					return errDead
				}
				return nil
			})
			w.start(config(""))
			w.kill()
			k.FailApply(nil)
			k.Hand(addStranger...)
			w.start("director: {interface: eth0}\nvips: []\nservices: []\n")
			if got := k.Table(); strings.Count(got, "-A ") != 1 || !strings.Contains(got, "198.51.100.1:25") {
				t.Errorf("killed after %d commands, left:\n%s", n, got)
			}
			w.stop()
		})
	}
}

func TestUnwritableStateDir(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config(""))
		// A folder of the file's name cannot be replaced by a file, even by root.
		path := filepath.Join(w.stateDir, owned.File)
		if err := errors.Join(os.Remove(path), os.MkdirAll(filepath.Join(path, "x"), 0o755)); err != nil {
			t.Fatal(err)
		}
		more := config("") + "- {address: 192.0.2.10, port: 8080, real_servers: [10.0.0.11]}\n"
		w.reload(more)
		w.wants(more) // service goes before bookkeeping
		if st := w.status(); st.StateError == "" {
			t.Errorf("not told: %+v", st)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(w.interval + time.Millisecond)
		if st := w.status(); st.StateError != "" {
			t.Errorf("still told: %s", st.StateError)
		}
		w.stop()
	})
}

func TestRejectedFile(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config(""))
		before := w.kernel.Writes()
		if err := w.c.Reject(context.Background(), errors.New("line 3 is bad")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(w.interval + time.Millisecond)
		st := w.status()
		if st.File.Rejected != "line 3 is bad" || st.File.RejectedAt == nil || st.Healthy || !strings.Contains(st.Summary, "newest file not taken") {
			t.Errorf("status: %+v", st)
		}
		if w.kernel.Writes() != before {
			t.Error("something was written")
		}
		w.reload(config(""))
		if st := w.status(); !st.Healthy || st.File.Rejected != "" {
			t.Errorf("status: %+v", st.File)
		}
	})
}

// What a director was told to stop doing must have an end, even if the kernel does not answer.
func TestStopIsBounded(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config(""))
		release := k.Block()
		defer release()
		begin := time.Now()
		err := w.end()
		if took := time.Since(begin); took > stopTimeout+time.Second || err == nil {
			t.Errorf("took %s, error %v", took, err)
		}
		if got := k.IP(); got != "" {
			t.Errorf("addresses left: %s", got)
		}
	})
}

func TestTurns(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		turns := make(chan struct{}, 10000)
		w.start("director: {reconcile_interval: 1h}\nvips: []\nservices: []\n", func(o *Options) {
			o.Heartbeat = time.Second
			o.Turn = func() { turns <- struct{}{} }
		})
		time.Sleep(10*time.Second + time.Millisecond)
		if n := len(turns); n < 10 {
			t.Errorf("%d turns in 10 s", n)
		}
		w.stop()
	})
}

func TestClaims(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(config(""))
		want := []netip.Addr{vip4.Addr(), vip6.Addr()}
		var got []netip.Addr
		for _, c := range w.told.claims {
			got = append(got, c.Addr)
			if c.Interface != "eth0" {
				t.Errorf("on %s", c.Interface)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("claims %v", got)
		}
		w.stop()
		if _, err := w.c.Status(context.Background()); !errors.Is(err, errStopped) {
			t.Errorf("status after the end: %v", err)
		}
		if err := w.c.SetFile(context.Background(), w.file(config("")), ""); !errors.Is(err, errStopped) {
			t.Errorf("file after the end: %v", err)
		}
	})
}

// A large table is listed only when its fingerprint has changed, and now and then.
func TestLargeTableIsListedRarely(t *testing.T) {
	var text strings.Builder
	text.WriteString("director: {interface: eth0}\nvips: [192.0.2.10]\nservices:\n- address: 192.0.2.10\n  port: 80\n  real_servers:\n")
	for i := range largeTable {
		fmt.Fprintf(&text, "  - 10.0.%d.%d\n", i/250, i%250+1)
	}
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(text.String())
		time.Sleep(w.interval + time.Millisecond) // sees what it has written
		w.status()
		before := k.Lists()
		time.Sleep(8 * w.interval)
		if n := k.Lists() - before; n != 0 {
			t.Errorf("listed %d times in %s while nothing changed", n, 8*w.interval)
		}
		// Visible to the fingerprint: heals within the interval.
		k.Hand(ipvs.SetDest(webKey, dest(ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.1"), Port: 80}, 9)))
		time.Sleep(w.interval + time.Millisecond)
		w.wants(text.String())
		// Not visible: heals within listEvery.
		d := dest(ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.2"), Port: 80}, 1)
		d.Upper = 100
		time.Sleep(2 * w.interval)
		k.Hand(ipvs.SetDest(webKey, d))
		time.Sleep(listEvery + w.interval)
		w.wants(text.String())
		if st := w.status(); !st.Healthy || st.Reconcile.Heals != 2 {
			t.Errorf("status: %+v", st.Reconcile)
		}
		// A new file is always compared with a listing.
		d.Upper = 200
		k.Hand(ipvs.SetDest(webKey, d))
		w.reload(text.String())
		w.wants(text.String())
	})
}
