package controller

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/kernel/kerneltest"
	"github.com/drover-lb/drover/ipvs"
)

// two is a spec with two groups of one VIP each.
const two = `
director: {interface: eth0}
vips: [192.0.2.10, {address: 192.0.2.20, group: mail}]
services:
- {address: 192.0.2.10, port: 80, scheduler: wlc, real_servers: [10.0.0.11]}
- {address: 192.0.2.20, port: 25, scheduler: wlc, real_servers: [10.0.0.11]}
`

// member makes a director one of several, which begins as standby.
func member(o *Options) { o.Roles = map[string]Role{} }

// setRole waits for a role at most as long as the fake clock allows.
func (w *world) setRole(group string, r Role) error {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return w.c.SetRole(ctx, group, r)
}

func (w *world) mustRole(group string, r Role) {
	w.t.Helper()
	if err := w.setRole(group, r); err != nil {
		w.t.Errorf("%s %+v: %v\nlog:\n%s", group, r, err, w.logs)
	}
}

func (w *world) journal(k *kerneltest.Kernel, want ...string) {
	w.t.Helper()
	if got := k.Journal(); !slices.Equal(got, want) {
		w.t.Errorf("order:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestRolesOrder(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.told = &announced{note: k.Note}
		fence := &fakeFence{note: k.Note}
		w.start(two, member, func(o *Options) { o.Fence = fence })
		// The table is ready, and nothing else.
		w.journal(k,
			"fence eth0: 192.0.2.10 default, 192.0.2.20 mail",
			"fence lift default", "fence lift mail",
			"ipvsadm -A -t 192.0.2.10:80 -s wlc", "ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1",
			"ipvsadm -A -t 192.0.2.20:25 -s wlc", "ipvsadm -a -t 192.0.2.20:25 -r 10.0.0.11:25 -g -w 1",
		)
		if st := w.status(); !st.Healthy || st.VIPs[0].State != VIPStandby || !strings.HasPrefix(st.Summary, "standby; 0 of 2 VIPs held") {
			t.Errorf("status: %+v", st)
		}
		time.Sleep(3 * w.lifetime)
		w.journal(k)

		w.mustRole("default", Role{Active: true, Epoch: 7, Why: "elected"})
		w.journal(k, "ip address add 192.0.2.10/32 dev eth0 valid_lft 4", "announce 192.0.2.10")
		st := w.status()
		if want := (GroupStatus{Group: "default", Role: "active", Epoch: 7, Since: st.Groups[0].Since, Why: "elected"}); st.Groups[0] != want || st.Groups[1].Role != "standby" {
			t.Errorf("groups: %+v", st.Groups)
		}
		if st.VIPs[0].State != VIPHeld || st.VIPs[1].State != VIPStandby || !st.Healthy || !strings.HasPrefix(st.Summary, "active for default; 1 of 2 VIPs held") {
			t.Errorf("status: %+v", st)
		}
		time.Sleep(3 * w.lifetime)
		w.journal(k) // renewed
		w.mustRole("mail", Role{Active: true, Epoch: 8})
		w.journal(k, "ip address add 192.0.2.20/32 dev eth0 valid_lft 4", "announce 192.0.2.10 192.0.2.20")

		epoch := w.told.of("192.0.2.10")
		w.mustRole("default", Role{Active: true, Epoch: 9})
		if w.told.of("192.0.2.10") <= epoch {
			t.Error("a new activation is not announced again")
		}
		k.Journal()

		w.mustRole("default", Role{Why: "stepdown"})
		w.journal(k, "fence drop default", "announce 192.0.2.20", "ip address del 192.0.2.10/32 dev eth0", "fence lift default")
		w.wants(two)
		if got := k.IP(); got != "eth0 192.0.2.20/32 4s" {
			t.Errorf("addresses %q", got)
		}
		w.stop()
		w.journal(k, "announce", "ip address del 192.0.2.20/32 dev eth0", "ipvsadm -D -t 192.0.2.10:80", "ipvsadm -D -t 192.0.2.20:25")
		if err := w.setRole("mail", Role{Active: true}); !errors.Is(err, errStopped) {
			t.Errorf("role after the end: %v", err)
		}
	})
}

type fakeFence struct {
	note   func(string, ...any)
	err    error // of Set and Repair
	drop   error
	mended atomic.Bool // no errors any more
}

func (f *fakeFence) unlessMended(err error) error {
	if f.mended.Load() {
		return nil
	}
	return err
}

func (f *fakeFence) Set(interfaces []string, groups map[netip.Addr]string) error {
	var words []string
	for a, g := range groups {
		words = append(words, a.String()+" "+g)
	}
	slices.Sort(words)
	f.note("fence %s: %s", strings.Join(interfaces, " "), strings.Join(words, ", "))
	return f.unlessMended(f.err)
}

func (f *fakeFence) Repair() error { return f.unlessMended(f.err) }
func (f *fakeFence) Drop(group string) error {
	f.note("fence drop %s", group)
	return f.unlessMended(f.drop)
}
func (f *fakeFence) Hush(group string, d time.Duration) error {
	f.note("fence hush %s %s", group, d)
	return nil
}
func (f *fakeFence) Lift(group string) error { f.note("fence lift %s", group); return nil }

// A table that hangs does not delay a takeover, nor giving up.
func TestRolesWhileTheTableHangs(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(two, member)
		release := k.Block()
		defer release()
		time.Sleep(w.interval + time.Second) // the pass hangs in its listing
		begin := time.Now()
		w.mustRole("default", Role{Active: true, Epoch: 1})
		if got := k.IP(); got != "eth0 192.0.2.10/32 4s" || w.told.of("192.0.2.10") == 0 {
			t.Errorf("addresses %q, claims %v", got, w.told.claims)
		}
		w.mustRole("default", Role{})
		if got := k.IP(); got != "" || len(w.told.claims) != 0 {
			t.Errorf("addresses %q, claims %v", got, w.told.claims)
		}
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %s of the fake clock", took)
		}
	})
}

// Where services are missing, the call waits for the pass that puts them there.
func TestRoleWaitsForServices(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.told = &announced{note: k.Note}
		w.start("director: {interface: eth0, reconcile_interval: 1h}\nvips: []\nservices: []\n", member)
		refuse := true
		k.FailApply(func(c ipvs.Command) error {
			if refuse {
				return ipvs.ErrTimeout
			}
			return nil
		})
		w.reload(strings.Replace(two, "eth0}", "eth0, reconcile_interval: 1h}", 1))
		if err := w.setRole("default", Role{Active: true, Epoch: 1}); err == nil || err.Error() != "VIP 192.0.2.10/32 on eth0: waiting" {
			t.Errorf("error %v", err)
		}
		refuse = false
		k.Journal()
		w.mustRole("default", Role{Active: true, Epoch: 2})
		if j := k.Journal(); len(j) != 6 || j[5] != "announce 192.0.2.10" || j[4] != "ip address add 192.0.2.10/32 dev eth0 valid_lft 4" {
			t.Errorf("order: %q", j)
		}
	})
}

// A process that was stopped and wakes up after its lease takes the VIP off, whatever wakes it.
func TestLeaseEndsUnseen(t *testing.T) {
	for _, tc := range []struct {
		name string
		wake func(w *world, k *kerneltest.Kernel)
	}{
		{"a renewal", func(w *world, _ *kerneltest.Kernel) { time.Sleep(w.lifetime / renewals) }},
		{"a pass", func(w *world, k *kerneltest.Kernel) { w.reload(two) }},
		{"a removal", func(w *world, k *kerneltest.Kernel) {
			k.HandDeleteAddress("eth0", vip4)
			time.Sleep(time.Second)
		}},
		{"a lapse", func(w *world, k *kerneltest.Kernel) {
			k.HandSetAddress("eth0", vip4, 2*time.Second)
			k.FailAddress(errors.New("stopped"), errors.New("stopped"))
			time.Sleep(3 * time.Second)
			k.FailAddress(nil, nil)
			time.Sleep(time.Second)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fake(t, func(w *world, k *kerneltest.Kernel) {
				var ended atomic.Bool
				w.start(two, member, func(o *Options) { o.Leased = func(string) bool { return !ended.Load() } })
				w.mustRole("default", Role{Active: true, Epoch: 1})
				time.Sleep(time.Millisecond) // the pass that follows is over
				ended.Store(true)
				k.Journal()
				tc.wake(w, k)
				for _, line := range k.Journal() {
					if strings.HasPrefix(line, "ip address add") {
						t.Errorf("put back: %s", line)
					}
				}
				st := w.status()
				if got := k.IP(); got != "" || len(w.told.claims) != 0 || st.VIPs[0].State != VIPStandby || st.VIPs[0].Error != errLeaseEnded.Error() || st.Healthy {
					t.Errorf("addresses %q, claims %v, status %+v", got, w.told.claims, st.VIPs)
				}
				time.Sleep(10 * w.interval)
				if got := k.IP(); got != "" {
					t.Errorf("put back later: %q", got)
				}
				if err := w.setRole("default", Role{Active: true, Epoch: 2}); err == nil || !strings.Contains(err.Error(), "the lease has ended") {
					t.Errorf("active without lease: %v", err)
				}
				ended.Store(false)
				w.mustRole("default", Role{Active: true, Epoch: 3})
				if got := k.IP(); got != "eth0 192.0.2.10/32 4s" {
					t.Errorf("addresses %q", got)
				}
			})
		})
	}
}

// A lease may end between any two steps of a takeover, and of a renewal: after the n-th question the answer
// is no. Then the address is off in the end, and was not announced.
func TestLeaseEndsInTheMiddle(t *testing.T) {
	asked := 0
	for n := range 10 {
		fake(t, func(w *world, k *kerneltest.Kernel) {
			w.told = &announced{note: k.Note}
			var left atomic.Int64
			left.Store(1 << 30)
			w.start(one, member, func(o *Options) { o.Leased = func(string) bool { return left.Add(-1) >= 0 } })
			k.Journal()
			left.Store(int64(n))
			err := w.setRole("default", Role{Active: true, Epoch: 1})
			if err == nil {
				if asked == 0 {
					asked = n // as many questions as that were enough
				}
				return
			}
			if !strings.Contains(err.Error(), "the lease has ended") {
				t.Errorf("%d: %v", n, err)
			}
			time.Sleep(time.Millisecond)
			j := k.Journal()
			if k.IP() != "" || slices.Contains(j, "announce 192.0.2.10") {
				t.Errorf("%d: addresses %q, journal %q", n, k.IP(), j)
			}
			// The first question is that of the look, the second that right before the address is put there.
			if added := slices.ContainsFunc(j, func(s string) bool { return strings.HasPrefix(s, "ip address add") }); added != (n >= 2) {
				t.Errorf("%d: put there %t, journal %q", n, added, j)
			}
		})
	}
	if asked != 3 {
		t.Errorf("asked %d times, want 3: at the look, right before the address is put there, and right after", asked)
	}
	for n := range 3 {
		fake(t, func(w *world, k *kerneltest.Kernel) {
			var left atomic.Int64
			left.Store(1 << 30)
			w.start(one, member, func(o *Options) { o.Leased = func(string) bool { return left.Add(-1) >= 0 } })
			w.mustRole("default", Role{Active: true, Epoch: 1})
			time.Sleep(time.Millisecond)
			left.Store(int64(n))
			time.Sleep(w.lifetime/renewals + w.lifetime/renewals*time.Duration(n/2))
			if got := k.IP(); got != "" || len(w.told.claims) != 0 {
				t.Errorf("renewal, %d: addresses %q, claims %v", n, got, w.told.claims)
			}
		})
	}
}

// A VIP whose group is not ours any more leaves before the table is looked at.
func TestGroupLeavesWhileTheTableHangs(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(two, member)
		w.mustRole("mail", Role{Active: true, Epoch: 1})
		time.Sleep(time.Millisecond)
		release := k.Block()
		defer release()
		f := w.file(strings.Replace(two, "group: mail", "group: default", 1))
		if err := w.c.SetFile(context.Background(), f, ""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		if got := k.IP(); got != "" || len(w.told.claims) != 0 {
			t.Errorf("addresses %q, claims %v", got, w.told.claims)
		}
	})
}

// What a killed predecessor left on the interface is off before the standby says that it is ready, with a
// state file and without, and even while the table hangs.
func TestStandbyRemovesALeftover(t *testing.T) {
	for _, keep := range []bool{false, true} {
		fake(t, func(w *world, k *kerneltest.Kernel) {
			w.start(two)
			w.kill()
			if got := k.IP(); !strings.Contains(got, "192.0.2.10/32") {
				t.Fatalf("addresses %q", got)
			}
			if !keep {
				w.stateDir = t.TempDir()
			}
			release := k.Block()
			w.launch(two, member)
			time.Sleep(time.Second)
			if got := k.IP(); got != "" {
				t.Errorf("state file %t: addresses %q", keep, got)
			}
			release()
			<-w.c.Ready()
			if n := w.logs.count("VIP was on the interface of a standby director"); n != 2 {
				t.Errorf("told %d times:\n%s", n, w.logs)
			}
		})
	}
}

// While a leftover cannot be removed, the director is not ready: its host answers for what others hold.
func TestNotReadyBeforeSilent(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start("director: {interface: eth0, on_stop: keep}\n" + two[strings.Index(two, "vips"):])
		w.stop()
		k.FailAddress(nil, errors.New("stuck"))
		w.launch(two, member)
		time.Sleep(3 * w.interval)
		select {
		case <-w.c.Ready():
			t.Error("ready")
		default:
		}
		if st := w.vipState("192.0.2.10"); st != VIPLeaving {
			t.Errorf("VIP is %s", st)
		}
		k.FailAddress(nil, nil)
		<-w.c.Ready()
		if got := k.IP(); got != "" {
			t.Errorf("addresses %q", got)
		}
	})
}

// A VIP that somebody put onto a standby's interface for good stays there, loudly; the role decides
// whether it is announced.
func TestStaticVIPAndRoles(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		k.HandSetAddress("eth0", vip4, kernel.Forever)
		fence := &fakeFence{note: k.Note}
		w.start(two, member, func(o *Options) { o.Fence = fence })
		st := w.status()
		if st.VIPs[0].State != VIPStatic || st.VIPs[0].Error != errStatic.Error() || st.Healthy || len(w.told.claims) != 0 {
			t.Errorf("status %+v, claims %v", st.VIPs, w.told.claims)
		}
		if n := w.logs.count("VIP is on the interface of a standby director"); n != 1 {
			t.Errorf("told %d times:\n%s", n, w.logs)
		}
		if j := strings.Join(k.Journal(), "\n"); !strings.Contains(j, "fence drop default") || strings.Contains(j, "fence lift default") {
			t.Errorf("it is not silenced:\n%s", j)
		}
		w.mustRole("default", Role{Active: true, Epoch: 1})
		if st := w.status(); !st.Healthy || w.told.of("192.0.2.10") == 0 {
			t.Errorf("status %+v, claims %v", st.VIPs, w.told.claims)
		}
		if err := w.setRole("default", Role{}); err == nil || !strings.Contains(err.Error(), "not put there by a director") || len(w.told.claims) != 0 {
			t.Errorf("error %v, claims %v", err, w.told.claims)
		}
		if got := k.IP(); got != "eth0 192.0.2.10/32 forever" {
			t.Errorf("addresses %q", got)
		}
	})
}

// An address that cannot be set or removed is in the answer, and tried again.
func TestRoleErrors(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(two)
		if err := w.setRole("default", Role{}); !errors.Is(err, ErrAlone) {
			t.Errorf("a director that is alone: %v", err)
		}
		w.stop()
		w.start(two, member)
		k.FailAddress(errors.New("no way"), nil)
		if err := w.setRole("default", Role{Active: true}); err == nil || err.Error() != "VIP 192.0.2.10/32 on eth0: failed: no way" {
			t.Errorf("error %v", err)
		}
		k.FailAddress(nil, nil)
		time.Sleep(w.interval + time.Millisecond)
		if s := w.vipState("192.0.2.10"); s != VIPHeld {
			t.Errorf("VIP is %s", s)
		}
		k.FailAddress(nil, errors.New("stuck"))
		if err := w.setRole("default", Role{}); err == nil || err.Error() != "VIP 192.0.2.10/32 on eth0: leaving: stuck" {
			t.Errorf("error %v", err)
		}
		if len(w.told.claims) != 0 {
			t.Errorf("claims %v", w.told.claims)
		}
		time.Sleep(w.lifetime + w.interval)
		if s := w.vipState("192.0.2.10"); s != VIPStandby || k.IP() != "" {
			t.Errorf("VIP is %s, addresses %q: it was renewed", s, k.IP())
		}
	})
}

// busyKernel is one that works on one call for addresses at a time, for which nobody waits longer than a
// second, as package kernel has it: what was begun is carried out later.
type busyKernel struct {
	*kerneltest.Kernel
	busy chan struct{} // capacity 1
	slow atomic.Int64  // how long setting an address takes
}

func (k *busyKernel) do(takes time.Duration, f func() error) error {
	timeout := time.After(time.Second)
	select {
	case k.busy <- struct{}{}:
	case <-timeout:
		return context.DeadlineExceeded
	}
	done := make(chan error, 1)
	go func() {
		time.Sleep(takes)
		done <- f()
		<-k.busy
	}()
	select {
	case err := <-done:
		return err
	case <-timeout:
		return context.DeadlineExceeded
	}
}

func (k *busyKernel) SetAddress(ctx context.Context, index int, p netip.Prefix, life time.Duration) error {
	return k.do(time.Duration(k.slow.Load()), func() error { return k.Kernel.SetAddress(ctx, index, p, life) })
}

func (k *busyKernel) Renew(ctx context.Context, addresses []kernel.Held, life time.Duration) []error {
	errs := make([]error, len(addresses))
	for i, a := range addresses {
		errs[i] = k.SetAddress(ctx, a.Index, a.Prefix, life)
	}
	return errs
}

func (k *busyKernel) DeleteAddress(ctx context.Context, index int, p netip.Prefix) error {
	return k.do(0, func() error { return k.Kernel.DeleteAddress(ctx, index, p) })
}

func (k *busyKernel) Addresses(ctx context.Context) (out []kernel.Address, err error) {
	err = k.do(0, func() (err error) { out, err = k.Kernel.Addresses(ctx); return err })
	return out, err
}

func (k *busyKernel) Link(ctx context.Context, name string) (l kernel.Link, err error) {
	err = k.do(0, func() (err error) { l, err = k.Kernel.Link(ctx, name); return err })
	return l, err
}

// An address that comes after nobody waited for it any more is taken off, and the fence is there until then.
func TestStandbyWhileAnAddressIsOnItsWay(t *testing.T) {
	for _, tc := range []struct {
		takes time.Duration
		done  bool // by the end of SetRole
	}{{1500 * time.Millisecond, true}, {20 * time.Second, false}} {
		fake(t, func(w *world, k *kerneltest.Kernel) {
			busy := &busyKernel{Kernel: k, busy: make(chan struct{}, 1)}
			w.start(one, member, func(o *Options) { o.Kernel, o.Fence = busy, &fakeFence{note: k.Note} })
			defer time.Sleep(tc.takes) // until all is carried out
			k.Journal()
			busy.slow.Store(int64(tc.takes))
			if err := w.setRole("default", Role{Active: true, Epoch: 1}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: active: %v", tc.takes, err)
			}
			busy.slow.Store(0)
			if err := w.setRole("default", Role{Epoch: 1}); (err == nil) != tc.done {
				t.Errorf("%s: standby: %v", tc.takes, err)
			}
			if !tc.done {
				w.journal(k, "fence drop default", "fence drop default")
				time.Sleep(tc.takes)
				w.journal(k, "ip address add 192.0.2.10/32 dev eth0 valid_lft 4", "ip address del 192.0.2.10/32 dev eth0", "fence lift default")
			} else {
				// The pass that follows a takeover may come before the second role, and wait until the address is there.
				got := k.Journal()
				if len(got) > 1 && got[1] == "fence drop default" {
					got[0], got[1] = got[1], got[0]
				}
				want := []string{"fence drop default", "ip address add 192.0.2.10/32 dev eth0 valid_lft 4", "ip address del 192.0.2.10/32 dev eth0", "fence lift default"}
				if !slices.Equal(got, want) {
					t.Errorf("order:\n%s\nwant, or with the first two the other way round:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
				}
			}
			if st := w.status(); st.VIPs[0].State != VIPStandby || k.IP() != "" || !st.Healthy {
				t.Errorf("%s: addresses %q, status %+v", tc.takes, k.IP(), st)
			}
		})
	}
}

// Where an address could not be taken off, whoever asked has to know whether the kernel silences it.
func TestRoleErrorsNameTheFence(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fence *fakeFence
	}{
		{"drop", &fakeFence{drop: errors.New("no map")}},
		{"interface", &fakeFence{err: errors.New("no filter")}},
		{"both", &fakeFence{drop: errors.New("no map"), err: errors.New("no filter")}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			fake(t, func(w *world, k *kerneltest.Kernel) {
				fence := tc.fence
				fence.note = k.Note
				w.start(one, member, func(o *Options) { o.Fence = fence })
				w.mustRole("default", Role{Active: true, Epoch: 1})
				w.mustRole("default", Role{Epoch: 1}) // it is off, and so the fence does not matter
				w.mustRole("default", Role{Active: true, Epoch: 2})
				k.FailAddress(nil, errors.New("stuck"))
				err := w.setRole("default", Role{Epoch: 2})
				st := w.status()
				for _, want := range []error{fence.drop, fence.err} {
					if want != nil && (!errors.Is(err, want) || !strings.Contains(st.FenceError, want.Error())) {
						t.Errorf("error %v, status %q, want %v", err, st.FenceError, want)
					}
				}
				fence.mended.Store(true)
				k.FailAddress(nil, nil)
				time.Sleep(w.interval + time.Millisecond)
				if st := w.status(); st.FenceError != "" || !st.Healthy || st.VIPs[0].State != VIPStandby {
					t.Errorf("status %+v", st)
				}
			})
		})
	}
}

// A VIP that moves to a group of another director leaves, and on_stop: keep keeps the table alone.
func TestGroupChangesAndKeep(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		text := strings.Replace(two, "eth0}", "eth0, on_stop: keep}", 1)
		w.start(text, member, func(o *Options) { o.Roles = map[string]Role{"mail": {Active: true, Epoch: 3}} })
		if got := k.IP(); got != "eth0 192.0.2.20/32 4s" {
			t.Errorf("addresses %q", got)
		}
		w.reload(strings.Replace(text, "[192.0.2.10, {address: 192.0.2.20, group: mail}]", "[{address: 192.0.2.10, group: mail}, 192.0.2.20]", 1))
		if got := k.IP(); got != "eth0 192.0.2.10/32 4s" {
			t.Errorf("addresses %q", got)
		}
		w.stop()
		if got := k.IP(); got != "" || len(w.told.claims) != 0 {
			t.Errorf("addresses %q, claims %v", got, w.told.claims)
		}
		w.wants(text)
	})
}

// What holds for a director that is alone holds for one that is active for its group from the start.
func TestScenariosOfAnActiveDirector(t *testing.T) {
	for _, s := range scenarios {
		if strings.HasPrefix(s.name, "keep ") {
			continue // no VIP outlives its lease
		}
		t.Run(s.name, func(t *testing.T) {
			fake(t, func(w *world, _ *kerneltest.Kernel) {
				w.more = []func(*Options){func(o *Options) { o.Roles = map[string]Role{"default": {Active: true, Epoch: 1}} }}
				s.run(w)
			})
		})
	}
}
