//go:build kernel

package controller

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/fence"
	"github.com/drover-lb/drover/controller/kernel"
)

// timed measures SetRole, for the log only.
func (w *world) timed(r Role) time.Duration {
	w.t.Helper()
	begin := time.Now()
	w.mustRole("default", r)
	return time.Since(begin)
}

// A director on the real kernel changes its role back and forth: addresses, sync daemons, the setting
// that keeps a standby from forwarding, and the fence.
func TestRolesOnRealKernel(t *testing.T) {
	w := realWorld(t)
	f, err := fence.Open(fence.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	// A leftover of a killed director.
	w.addAddr("eth0", vip4, 2*time.Second)
	w.start(config("reconcile_interval: 1h"), func(o *Options) {
		o.Roles, o.Sync, o.Fence = map[string]Role{}, &Sync{ID: 3}, f
	})
	if a := w.address(vip4.String()); a != nil {
		t.Errorf("the leftover is there when the standby is ready: %+v", a)
	}
	backupOnly := func() string {
		b, err := os.ReadFile(backupOnlyFile)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	check := func(role, only string) {
		t.Helper()
		w.eventually("sync daemon: "+role, 5*time.Second, func() bool { return w.status().Sync.Role == role })
		if st := w.status(); !st.Healthy || st.Sync.Error != "" || backupOnly() != only {
			t.Errorf("backup_only %s, status %+v\nlog:\n%s", backupOnly(), st.Sync, w.logs)
		}
		w.wants(config(""))
	}
	check("backup", "1")
	var up, down []time.Duration
	for i := range 5 {
		if err := f.Extend("default", fence.Now()+time.Hour); err != nil {
			t.Fatal(err)
		}
		up = append(up, w.timed(Role{Active: true, Epoch: uint64(i + 1)}))
		for _, p := range []netip.Prefix{vip4, vip6} {
			if a := w.address(p.String()); a == nil || a.Lifetime == kernel.Forever || w.told.of(p.Addr().String()) == 0 {
				t.Errorf("%s after SetRole: %+v", p, a)
			}
		}
		check("master", "0")
		down = append(down, w.timed(Role{}))
		if w.address(vip4.String()) != nil || w.address(vip6.String()) != nil || len(w.told.claims) != 0 {
			t.Errorf("after SetRole: %v, %v", w.addrs(), w.told.claims)
		}
		check("backup", "1")
	}
	t.Logf("active after %v, standby after %v", up, down)

	// The daemons alone, to see what a takeover would wait for.
	ctx := context.Background()
	other, err := New(Options{Kernel: w.kernel, Roles: map[string]Role{}, Sync: &Sync{ID: 3}}, w.file(config("")), "")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, active := range []bool{true, false} {
			other.roles["default"] = &role{Role: Role{Active: active}}
			want := other.wantDaemons()
			begin := time.Now()
			if _, err := syncDaemons(ctx, w.kernel, want); err != nil {
				t.Error(err)
			}
			t.Logf("daemons of a director that is active %t: %s", active, time.Since(begin))
		}
	}
	w.stop()
	if d, err := w.kernel.Daemons(ctx); err != nil || len(d) != 0 || backupOnly() != "0" {
		t.Errorf("after the stop: daemons %v, %v, backup_only %s", d, err, backupOnly())
	}
}

// backupOnlyFile is read by the thread of the test, which is in its namespace.
const backupOnlyFile = "/proc/sys/net/ipv4/vs/backup_only"
