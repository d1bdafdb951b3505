package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	ignore   = "net.ipv4.conf.all.arp_ignore"
	announce = "net.ipv4.conf.all.arp_announce"
)

// tree is a /proc/sys in a folder.
type tree struct {
	t    *testing.T
	root string
	opts Options
}

func newTree(t *testing.T, values map[string]string) *tree {
	t.Helper()
	dir := t.TempDir()
	tr := &tree{t: t, root: filepath.Join(dir, "sys"), opts: Options{State: filepath.Join(dir, "run/drover/sysctl.json"), Holder: "realserver", Root: filepath.Join(dir, "sys")}}
	tr.set("kernel.random.boot_id", "boot-1")
	for k, v := range values {
		tr.set(k, v)
	}
	return tr
}

func (tr *tree) path(key string) string {
	tr.t.Helper()
	p, err := Path(key)
	if err != nil {
		tr.t.Fatal(err)
	}
	return filepath.Join(tr.root, p)
}

func (tr *tree) set(key, value string) {
	tr.t.Helper()
	p := tr.path(key)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		tr.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(value+"\n"), 0o644); err != nil {
		tr.t.Fatal(err)
	}
}

func (tr *tree) want(key, value string) {
	tr.t.Helper()
	b, err := os.ReadFile(tr.path(key))
	if err != nil {
		tr.t.Fatal(err)
	}
	if got := strings.TrimSuffix(string(b), "\n"); got != value {
		tr.t.Errorf("%s is %q, want %q", key, got, value)
	}
}

func (tr *tree) keeper() *Keeper { return tr.keeperOf(tr.opts.Holder) }

func (tr *tree) keeperOf(holder string) *Keeper {
	tr.t.Helper()
	opts := tr.opts
	opts.Holder = holder
	k, err := New(opts)
	if err != nil {
		tr.t.Fatal(err)
	}
	return k
}

func (tr *tree) stateGone() {
	tr.t.Helper()
	if _, err := os.Stat(tr.opts.State); !errors.Is(err, fs.ErrNotExist) {
		tr.t.Errorf("the state file is still there (%v)", err)
	}
}

// text makes changes comparable.
func text(cs []Change) string {
	lines := make([]string, len(cs))
	for i, c := range cs {
		lines[i] = c.String()
	}
	return strings.Join(lines, "\n")
}

func must(t *testing.T, want string) func([]Change, error) {
	return func(cs []Change, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got := text(cs); got != want {
			t.Errorf("changes:\n%s\nwant:\n%s", got, want)
		}
	}
}

var rows = []Row{
	{Key: ignore, Value: "1", Compare: AtLeast, Reason: "answers for the VIP"},
	{Key: announce, Value: "2", Reason: "requests from the VIP"},
}

func TestPath(t *testing.T) {
	for _, tc := range []struct{ in, path, key string }{
		{"net.ipv4.ip_forward", "net/ipv4/ip_forward", "net.ipv4.ip_forward"},
		{"net/ipv4/ip_forward", "net/ipv4/ip_forward", "net.ipv4.ip_forward"},
		{"net.ipv4.conf.eth0.arp_ignore", "net/ipv4/conf/eth0/arp_ignore", "net.ipv4.conf.eth0.arp_ignore"},
		{"net.ipv4.conf.eth0.100.arp_ignore", "net/ipv4/conf/eth0.100/arp_ignore", "net.ipv4.conf.eth0/100.arp_ignore"},
		{"net.ipv4.conf.eth0/100.arp_ignore", "net/ipv4/conf/eth0.100/arp_ignore", "net.ipv4.conf.eth0/100.arp_ignore"},
		{"net/ipv4/conf/eth0.100/arp_ignore", "net/ipv4/conf/eth0.100/arp_ignore", "net.ipv4.conf.eth0/100.arp_ignore"},
		{"net.ipv6.neigh.a.b.c.gc_stale_time", "net/ipv6/neigh/a.b.c/gc_stale_time", "net.ipv6.neigh.a/b/c.gc_stale_time"},
		{"net.ipv4.conf.all.rp_filter", "net/ipv4/conf/all/rp_filter", "net.ipv4.conf.all.rp_filter"},
		{Interface("ipv4", "conf", "eth0.100", "arp_ignore"), "net/ipv4/conf/eth0.100/arp_ignore", "net.ipv4.conf.eth0/100.arp_ignore"},
	} {
		path, err := Path(tc.in)
		if err != nil || path != tc.path || Key(path) != tc.key {
			t.Errorf("%s: path %q (want %q), key %q (want %q), error %v", tc.in, path, tc.path, Key(path), tc.key, err)
		}
	}
	for _, bad := range []string{"", "net", ".", "net..ipv4", "/net/ipv4", "net/../../etc/passwd", "net/ipv4/", "net/./ipv4", "a/b\n"} {
		if p, err := Path(bad); err == nil {
			t.Errorf("%q gave %q", bad, p)
		}
	}
}

func FuzzPath(f *testing.F) {
	for _, s := range []string{ignore, "net.ipv4.conf.eth0/100.x", "net/ipv4/conf/../../../etc/x", "net.ipv4.conf.//.x", "net.ipv4.conf./.x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, key string) {
		p, err := Path(key)
		if err != nil {
			return
		}
		if full := filepath.Join("/proc/sys", p); full != "/proc/sys/"+p {
			t.Errorf("%q leaves the root or is not clean: %q", key, p)
		}
		if again, err := Path(Key(p)); err != nil || again != p {
			t.Errorf("%q: path %q, key %q, path again %q, %v", key, p, Key(p), again, err)
		}
	})
}

func TestApplyRepairRestore(t *testing.T) {
	tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
	k := tr.keeper()
	must(t, ignore+" written: 0 -> 1\n"+announce+" written: 0 -> 2")(k.Apply(rows))
	tr.want(ignore, "1")
	tr.want(announce, "2")
	if fi, err := os.Stat(tr.opts.State); err != nil || fi.Mode() != 0o600 {
		t.Errorf("state file: %v, %v", fi, err)
	}
	must(t, "")(k.Repair())

	tr.set(announce, "1")
	must(t, announce+" written: 1 -> 2")(k.Repair())
	tr.want(announce, "2")
	tr.set(ignore, "2") // stronger: none of our business
	must(t, "")(k.Repair())
	tr.set(ignore, "1")

	must(t, announce+" restored: 2 -> 0\n"+ignore+" restored: 1 -> 0")(k.Restore())
	tr.want(ignore, "0")
	tr.want(announce, "0")
	tr.stateGone()
	must(t, "")(k.Restore())
}

func TestStrongerValueIsKept(t *testing.T) {
	tr := newTree(t, map[string]string{ignore: "2", announce: "2"})
	k := tr.keeper()
	must(t, "")(k.Apply(rows))
	tr.set(ignore, "0") // now it is too weak: raised to what we need, not to what it was
	must(t, ignore+" written: 0 -> 1")(k.Repair())
	must(t, ignore+" restored: 1 -> 2")(k.Restore())
	tr.want(ignore, "2")
	tr.stateGone()
}

func TestThirdValueIsLeft(t *testing.T) {
	tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
	k := tr.keeper()
	if _, err := k.Apply(rows); err != nil {
		t.Fatal(err)
	}
	tr.set(announce, "1")
	must(t, announce+" is 1, left as somebody else set it (earlier value 0)\n"+ignore+" restored: 1 -> 0")(k.Restore())
	tr.want(announce, "1")
	tr.want(ignore, "0")
	tr.stateGone()
}

// A process may be killed at any moment: before its first write, between two, or after the last.
func TestSuccessorOfAKilledProcessRestoresTheOriginals(t *testing.T) {
	for _, tc := range []struct{ name, ignore, announce string }{
		{"killed before the first write", "0", "0"},
		{"killed between the writes", "1", "0"},
		{"killed after the last write", "1", "2"},
	} {
		for _, applies := range []bool{true, false} {
			t.Run(tc.name, func(t *testing.T) {
				tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
				if _, err := tr.keeper().Apply(rows); err != nil {
					t.Fatal(err)
				}
				tr.set(ignore, tc.ignore)
				tr.set(announce, tc.announce)
				k := tr.keeper()
				if applies {
					if _, err := k.Apply(rows); err != nil {
						t.Fatal(err)
					}
					tr.want(ignore, "1")
					tr.want(announce, "2")
				}
				if _, err := k.Restore(); err != nil {
					t.Fatal(err)
				}
				tr.want(ignore, "0")
				tr.want(announce, "0")
				tr.stateGone()
			})
		}
	}
}

// A newer version of a program may want other values, or none.
func TestSuccessorWithOtherRows(t *testing.T) {
	tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
	if _, err := tr.keeper().Apply(rows); err != nil {
		t.Fatal(err)
	}
	k := tr.keeper()
	must(t, announce+" written: 2 -> 1\n"+ignore+" restored: 1 -> 0")(k.Apply([]Row{{Key: announce, Value: "1"}}))
	tr.set(announce, "2") // as the predecessor left it: ours as well
	must(t, announce+" restored: 2 -> 0")(k.Restore())
	tr.stateGone()
}

func TestTwoHoldersShareAFile(t *testing.T) {
	tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
	a, b := tr.keeperOf("director"), tr.keeperOf("realserver")
	if _, err := a.Apply(rows[1:]); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Apply(rows); err != nil {
		t.Fatal(err)
	}
	must(t, announce+" is 2, left to another holder")(a.Restore())
	tr.want(announce, "2")
	must(t, ignore+" restored: 1 -> 0\n"+announce+" restored: 2 -> 0")(b.Restore())
	tr.stateGone()
}

func TestStateOfAnEarlierBootIsForgotten(t *testing.T) {
	tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
	if _, err := tr.keeper().Apply(rows); err != nil {
		t.Fatal(err)
	}
	tr.set("kernel.random.boot_id", "boot-2")
	tr.set(ignore, "1") // of the new boot's configuration
	tr.set(announce, "0")
	k := tr.keeper()
	if _, err := k.Apply(rows); err != nil {
		t.Fatal(err)
	}
	must(t, announce+" restored: 2 -> 0")(k.Restore())
	tr.want(ignore, "1")
	tr.stateGone()
}

func TestRemovedStateFileDoesNotLoseTheOriginals(t *testing.T) {
	for _, repair := range []bool{true, false} {
		tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
		k := tr.keeper()
		if _, err := k.Apply(rows); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Dir(tr.opts.State)); err != nil {
			t.Fatal(err)
		}
		if repair {
			must(t, "")(k.Repair())
			k = tr.keeper() // a successor finds it again
		}
		must(t, announce+" restored: 2 -> 0\n"+ignore+" restored: 1 -> 0")(k.Restore())
		tr.stateGone()
	}
}

func TestAbsence(t *testing.T) {
	tr := newTree(t, map[string]string{ignore: "0"})
	k := tr.keeper()
	v6 := Row{Key: "net.ipv6.conf.all.disable_ipv6", Value: "0", Reason: "none", Optional: true}
	must(t, ignore+" written: 0 -> 1")(k.Apply([]Row{v6, rows[0]}))
	must(t, "")(k.Repair())

	changes, err := k.Apply([]Row{rows[1], rows[0]})
	if err == nil || !errors.Is(err, fs.ErrNotExist) ||
		err.Error() != "failed to read sysctl "+announce+", value 2 (requests from the VIP): no such file or directory (no such interface, or a module or protocol that this kernel has not loaded)" {
		t.Errorf("got %v", err)
	}
	must(t, "")(changes, nil)

	// The interface, and its settings with it, may be gone when they are to be restored.
	if err := os.Remove(tr.path(ignore)); err != nil {
		t.Fatal(err)
	}
	must(t, ignore+" is gone (earlier value 0)")(k.Restore())
	tr.stateGone()
}

func TestWhiteSpaceAndMultipleNumbers(t *testing.T) {
	const rmem = "net.ipv4.tcp_rmem"
	tr := newTree(t, map[string]string{rmem: "4096\t131072\t6291456"})
	k := tr.keeper()
	must(t, "")(k.Apply([]Row{{Key: rmem, Value: "4096 131072 6291456"}}))
	must(t, rmem+" written: 4096\t131072\t6291456 -> 1 2 3")(k.Apply([]Row{{Key: rmem, Value: "1 2 3"}}))
	if _, err := k.Restore(); err != nil {
		t.Fatal(err)
	}
	tr.want(rmem, "4096\t131072\t6291456")
}

func TestInvalidRowsTouchNothing(t *testing.T) {
	for _, bad := range [][]Row{
		{rows[0], {Key: "net", Value: "1"}},
		{rows[0], {Key: announce}},
		{rows[0], {Key: announce, Value: "1\n2"}},
		{rows[0], {Key: announce, Value: "many", Compare: AtLeast}},
		{rows[0], {Key: "net/ipv4/conf/all/arp_ignore", Value: "1"}},
	} {
		tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
		if cs, err := tr.keeper().Apply(bad); err == nil || len(cs) > 0 {
			t.Errorf("%+v: changes %v, error %v", bad[1], cs, err)
		}
		tr.want(ignore, "0")
		tr.stateGone()
	}
}

func TestUnreadableStateStopsEverything(t *testing.T) {
	for _, content := range []string{"{", `{"version":2}`} {
		tr := newTree(t, map[string]string{ignore: "0", announce: "0"})
		if err := os.MkdirAll(filepath.Dir(tr.opts.State), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(tr.opts.State, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if cs, err := tr.keeper().Apply(rows); err == nil || len(cs) > 0 {
			t.Errorf("%q: changes %v, error %v", content, cs, err)
		}
		tr.want(ignore, "0")
	}
}

func TestRefusedWriteIsReportedAndTheRestGoesOn(t *testing.T) {
	tr := newTree(t, map[string]string{announce: "0"})
	// /dev/null accepts every write and shows another value, as a clamped setting does.
	if err := os.Symlink(os.DevNull, tr.path(ignore)); err != nil {
		t.Fatal(err)
	}
	cs, err := tr.keeper().Apply(rows)
	if err == nil || !strings.Contains(err.Error(), `failed to write sysctl `+ignore+`, value 1 (answers for the VIP): the kernel accepted it and shows ""`) {
		t.Errorf("got %v", err)
	}
	must(t, announce+" written: 0 -> 2")(cs, nil)
}

func TestActionsHaveNames(t *testing.T) {
	names := []string{}
	for a := Written; a <= Gone; a++ {
		names = append(names, a.String())
	}
	if slices.Contains(names, "") || Action(9).String() != "Action(9)" {
		t.Errorf("got %q", names)
	}
}
