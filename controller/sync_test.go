package controller

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/fence"
	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/kernel/kerneltest"
)

var (
	_ Kernel = (*kernel.Kernel)(nil)
	_ Fence  = (*fence.Fence)(nil)
)

const one = `
director: {interface: eth0}
vips: [192.0.2.10]
services: [{address: 192.0.2.10, port: 80, scheduler: wlc, real_servers: [10.0.0.11]}]
`

const (
	startMaster = "ipvsadm --start-daemon master --mcast-interface eth0 --syncid 5"
	startBackup = "ipvsadm --start-daemon backup --mcast-interface eth0 --syncid 5"
	stopMaster  = "ipvsadm --stop-daemon master"
	stopBackup  = "ipvsadm --stop-daemon backup"
)

func synced(o *Options) { o.Roles, o.Sync = map[string]Role{}, &Sync{ID: 5} }

func TestSyncFollowsTheRole(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.told = &announced{note: k.Note}
		w.start(one, synced)
		w.journal(k,
			"sysctl backup_only=true", startBackup,
			"ipvsadm -A -t 192.0.2.10:80 -s wlc", "ipvsadm -a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1",
		)
		st := w.status()
		if want := (DaemonStatus{Role: "backup", Interface: "eth0", ID: 5, Group: defaultSyncGroup, Port: 8848, TTL: 1, MaxLen: 1472}); !st.Healthy || st.Sync.Role != "backup" || st.Sync.Want != "backup" || st.Sync.Daemons[0] != want {
			t.Errorf("status: %+v", st.Sync)
		}
		// Forwarding before the address, the address before the daemons, and both daemons until the newest connection
		// is here.
		w.mustRole("default", Role{Active: true, Epoch: 1})
		w.status()
		w.journal(k, "sysctl backup_only=false", "ip address add 192.0.2.10/32 dev eth0 valid_lft 4", "announce 192.0.2.10", startMaster)
		time.Sleep(syncLinger - time.Millisecond)
		if st := w.status(); !st.Healthy || st.Sync.Role != "master and backup" || st.Sync.Want != "master and backup" {
			t.Errorf("status: %+v", st.Sync)
		}
		w.journal(k)
		time.Sleep(time.Millisecond)
		w.status()
		w.journal(k, stopBackup)
		if st := w.status(); !st.Healthy || st.Sync.Role != "master" || st.Sync.Daemons[0].MaxLen != DefaultSyncMaxLen {
			t.Errorf("status: %+v", st.Sync)
		}
		time.Sleep(3*w.interval + time.Millisecond)
		w.status()
		w.journal(k)
		k.HandStopDaemons()
		time.Sleep(w.interval + time.Millisecond)
		w.status()
		w.journal(k, startMaster)

		w.mustRole("default", Role{})
		w.status()
		w.journal(k, "announce", "ip address del 192.0.2.10/32 dev eth0", "sysctl backup_only=true", startBackup)
		time.Sleep(syncLinger + time.Millisecond) // not in the instant in which it ends
		w.status()
		w.journal(k, stopMaster)
		w.stop()
		w.journal(k, "announce", "ipvsadm -D -t 192.0.2.10:80", stopBackup, "sysctl backup_only=false")
	})
}

// A new holder sends no resets to connections of which it has yet to hear, and an old one none to those of which clients
// do not know yet where they go; the same one again has nothing to wait for.
func TestTakeoverHushes(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(one, synced, func(o *Options) { o.Fence = &fakeFence{note: k.Note} })
		if !slices.Contains(k.Journal(), "fence hush default 3.5s") { // the predecessor may have been killed while it was active
			t.Error("not hushed at the start")
		}
		w.mustRole("default", Role{Active: true, Epoch: 1})
		w.status()
		w.journal(k, "fence hush default 3.5s", "sysctl backup_only=false", "ip address add 192.0.2.10/32 dev eth0 valid_lft 4", startMaster)
		w.mustRole("default", Role{Active: true, Epoch: 1, Why: "in other words"})
		w.status()
		w.journal(k)
		w.mustRole("default", Role{})
		w.status()
		w.journal(k, "fence hush default 3.5s", "fence drop default", "ip address del 192.0.2.10/32 dev eth0", "fence lift default", "sysctl backup_only=true")
		w.mustRole("default", Role{Why: "in other words"})
		for _, line := range k.Journal() {
			if strings.Contains(line, "hush") {
				t.Error(line)
			}
		}
	})
}

// A director that is stopped lets its kernel tell of the newest connection first, if it was active until now.
func TestStopWaitsForTheNewestConnection(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(one, synced)
		w.mustRole("default", Role{Active: true, Epoch: 1})
		time.Sleep(time.Minute)
		w.mustRole("default", Role{})
		w.status()
		k.Journal()
		began := time.Now()
		time.AfterFunc(syncLinger-time.Millisecond, func() {
			w.journal(k)
		})
		w.stop()
		if took := time.Since(began); took != syncLinger {
			t.Errorf("stopped after %s, want %s", took, syncLinger)
		}
		w.journal(k, "ipvsadm -D -t 192.0.2.10:80", stopMaster, stopBackup, "sysctl backup_only=false")
	})
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(one, synced)
		time.Sleep(time.Minute)
		began := time.Now()
		w.stop()
		if took := time.Since(began); took != 0 {
			t.Errorf("one that was standby has stopped after %s", took)
		}
	})
}

// What a killed director of a cluster has left does not keep one without synchronisation from forwarding.
func TestForwardsAfterAClusteredPredecessor(t *testing.T) {
	for _, more := range [][]func(*Options){nil, {func(o *Options) { o.Roles = map[string]Role{"default": {Active: true, Epoch: 9}} }}} {
		fake(t, func(w *world, k *kerneltest.Kernel) {
			w.start(one, synced)
			w.kill()
			k.Journal()
			k.FailBackupOnly(errors.New("read-only"))
			w.launch(one, more...)
			<-w.c.Ready()
			time.Sleep(3 * w.interval)
			if st := w.status(); st.Healthy || !strings.Contains(st.Summary, "IPVS may forward nothing: read-only") {
				t.Errorf("status: %+v", st)
			}
			if n := w.logs.count("net.ipv4.vs.backup_only is 1"); n != 1 {
				t.Errorf("told %d times:\n%s", n, w.logs)
			}
			k.FailBackupOnly(nil)
			time.Sleep(w.interval + time.Millisecond)
			if st := w.status(); !st.Healthy || w.logs.count("net.ipv4.vs.backup_only was 1") != 1 {
				t.Errorf("status: %+v\n%s", st, w.logs)
			}
			// The daemons may be a stranger's.
			w.journal(k, "ip address add 192.0.2.10/32 dev eth0 valid_lft 4", "sysctl backup_only=false")
			if d, err := k.Daemons(t.Context()); err != nil || len(d) != 1 {
				t.Errorf("daemons %v, %v", d, err)
			}
			// Later it is the administrator's.
			if err := k.SetBackupOnly(true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * w.interval)
			if on, _ := k.BackupOnly(); !on {
				t.Error("set again")
			}
		})
	}
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(one, synced)
		w.kill()
		k.Journal()
		w.launch(one)
		<-w.c.Ready()
		w.journal(k, "sysctl backup_only=false", "ip address add 192.0.2.10/32 dev eth0 valid_lft 4") // in time
	})
}

// What on_stop: keep leaves forwards, unless the host is a real server: then it would come to what the active
// director has forwarded already.
func TestKeepAndSync(t *testing.T) {
	text := strings.Replace(one, "eth0}", "eth0, on_stop: keep}", 1)
	for _, on := range []string{"", "eth0", "lo"} { // somebody's address
		realServer := on == "lo"
		fake(t, func(w *world, k *kerneltest.Kernel) {
			if on != "" {
				k.HandSetAddress(on, vip4, kernel.Forever)
			}
			w.start(text, synced)
			w.stop()
			if on, _ := k.BackupOnly(); on != realServer {
				t.Errorf("real server %t: backup_only %t", realServer, on)
			}
			if d, err := k.Daemons(t.Context()); err != nil || len(d) != 1 {
				t.Errorf("daemons %v, %v", d, err)
			}
			w.wants(text)
		})
	}
}

func TestSyncWithTwoGroups(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(two, synced)
		for _, tc := range []struct {
			group  string
			active bool
			want   string
		}{
			{"default", true, "master and backup"}, {"mail", true, "master"}, {"default", false, "master and backup"}, {"mail", false, "backup"},
		} {
			w.mustRole(tc.group, Role{Active: tc.active})
			time.Sleep(syncLinger + time.Millisecond) // not in the instant in which it ends
			if st := w.status().Sync; st.Role != tc.want || st.Error != "" {
				t.Errorf("%s active %t: %+v", tc.group, tc.active, st)
			}
		}
	})
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(two, func(o *Options) {
			o.Roles, o.Sync = map[string]Role{}, &Sync{Mode: SyncBoth, MaxLen: 9000, Interface: "lo"}
		})
		if st := w.status().Sync; st.Role != "master and backup" || st.Daemons[1].MaxLen != 9000 || st.Daemons[0].Interface != "lo" {
			t.Errorf("%+v", st)
		}
	})
}

// A daemon that cannot be started is told, and keeps nobody from taking over.
func TestSyncFails(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		k.FailDaemons(errors.New("no thread"))
		w.start(one, synced)
		w.mustRole("default", Role{Active: true, Epoch: 1})
		time.Sleep(syncLinger + time.Millisecond) // not in the instant in which it ends
		if st := w.status(); st.Healthy || st.Sync.Error != "no thread" || st.VIPs[0].State != VIPHeld {
			t.Errorf("status: %+v %+v", st.Sync, st.VIPs)
		}
		time.Sleep(3 * w.interval)
		if n := w.logs.count("connections are not synchronised as they should be"); n != 3 { // the backup, both, the master
			t.Errorf("told %d times:\n%s", n, w.logs)
		}
		k.FailDaemons(nil)
		time.Sleep(w.interval + time.Millisecond)
		if st := w.status(); !st.Healthy || st.Sync.Role != "master" {
			t.Errorf("status: %+v", st.Sync)
		}
	})
}

// While the kernel is busy with the table, the daemons wait, and the address does not.
func TestSyncWaitsForTheTable(t *testing.T) {
	fake(t, func(w *world, k *kerneltest.Kernel) {
		w.start(one, synced)
		release := k.Block()
		time.Sleep(w.interval + time.Second)
		k.Journal()
		w.mustRole("default", Role{Active: true, Epoch: 1})
		w.journal(k, "sysctl backup_only=false", "ip address add 192.0.2.10/32 dev eth0 valid_lft 4")
		release()
		w.status()
		w.journal(k, startMaster)
	})
}

func TestClusterSettings(t *testing.T) {
	w := &world{t: t, interval: time.Second, lifetime: time.Second}
	keys := func(text string, synced bool) string {
		var out []string
		for _, s := range ClusterSettings(w.file(text), synced) {
			if s.Reason == "" || s.Source == "" {
				t.Errorf("%s has no reason or source", s.Key)
			}
			out = append(out, strings.TrimPrefix(s.Key, "net.ipv4.vs.")+"="+s.Value)
		}
		return strings.Join(out, ", ")
	}
	const sync = "sync_refresh_period=10, sync_threshold=0 0, sync_retries=3, sync_persist_mode=0, sync_ports=1, "
	for _, tc := range []struct {
		text   string
		synced bool
		want   string
	}{
		{one, true, sync + "sloppy_tcp=0"},
		{one, false, "sloppy_tcp=0"},
		{config(""), true, sync + "sloppy_tcp=1"},
		{config("sysctls: false"), true, ""},
		{strings.Replace(one, "port: 80, scheduler: wlc", "port: 53, protocol: udp, scheduler: sh", 1), false, "sloppy_tcp=0"},
	} {
		if got := keys(tc.text, tc.synced); got != tc.want {
			t.Errorf("%s\ngot  %s\nwant %s", tc.text, got, tc.want)
		}
	}
}
