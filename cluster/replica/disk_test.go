package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func put(t *testing.T, s *Store, epoch uint64, text string) error {
	t.Helper()
	return s.Update(func(l Log) (Log, error) {
		next, _, err := l.Propose(epoch, Version{}, []byte(text), meta("me"))
		return next, err
	})
}

func text(s *Store) string {
	e, _ := s.Log().Head()
	return string(e.Content)
}

func mustOpen(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func headFile(t *testing.T, s *Store) string {
	t.Helper()
	return s.disk.path(changeName(s.Log().items[0].ref))
}

func TestStoreKeepsTheLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spec")
	s := mustOpen(t, dir)
	for i := range MaxHistory + 5 {
		if err := put(t, s, 1, fmt.Sprint("text ", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Update(func(l Log) (Log, error) { return l.Acknowledge(Version{1, 54}), nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(func(l Log) (Log, error) { l, _, _, err := l.Restate(2); return l, err }); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != MaxHistory+2 {
		t.Errorf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	want := s.Log()
	s.Close()
	if err := os.WriteFile(filepath.Join(dir, ".change-9.9-123"), []byte("cut short"), 0o600); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, dir)
	if got := s.Log(); got.Digest().Hash != want.Digest().Hash || got.Acked() != (Version{1, 54}) || got.Version() != (Version{2, 55}) || len(s.Damaged()) > 0 {
		t.Errorf("%v, acknowledged %v, %v", got.Version(), got.Acked(), s.Damaged())
	}
	if _, err := os.Stat(filepath.Join(dir, ".change-9.9-123")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a write that was cut short: %v", err)
	}
}

func TestDamagedFiles(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(b []byte) []byte
	}{
		{"torn", func(b []byte) []byte { return b[:len(b)/2] }},
		{"empty", func([]byte) []byte { return nil }},
		{"foreign", func([]byte) []byte { return []byte("services: []\n" + strings.Repeat("#", 200)) }},
		{"a bit", func(b []byte) []byte { b[len(b)-7] ^= 4; return b }},
		{"too long", func(b []byte) []byte { return append(b, 0) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, dir)
			for _, text := range []string{"one", "two"} {
				if err := put(t, s, 1, text); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Update(func(l Log) (Log, error) { return l.Acknowledge(l.Version()), nil }); err != nil {
				t.Fatal(err)
			}
			damage := func() string {
				name := headFile(t, s)
				b, err := os.ReadFile(name)
				if err == nil {
					err = os.WriteFile(name, tt.damage(b), 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				s.Close()
				s = mustOpen(t, dir)
				return name
			}
			name := damage()
			if text(s) != "one" || s.Lost() != nil {
				t.Errorf("%q is in force, %v", text(s), s.Lost())
			}
			if d := s.Damaged(); len(d) != 1 || !strings.Contains(d[0].Error(), name) || !strings.Contains(d[0].Error(), ".bad-1") {
				t.Errorf("%v", d)
			}
			if err := put(t, s, 2, "three"); !errors.Is(err, ErrBehind) {
				t.Errorf("an acknowledged change was lost: %v", err)
			}
			damage()
			if err := s.Lost(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), dir) {
				t.Errorf("nothing is left: %v", err)
			}
			s.Close()
			s = mustOpen(t, dir)
			if err := s.Lost(); !errors.Is(err, ErrDamaged) {
				t.Errorf("nothing is left after another start: %v", err)
			}
			rep, err := New(Options{Node: "a", Store: s, Peers: seat{&room{}, "a"}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := rep.Change(t.Context(), 5, Version{}, []byte("x"), Meta{}); !errors.Is(err, ErrDamaged) {
				t.Errorf("a change over damage: %v", err)
			}
			// Another director brings it.
			l, _ := mustPropose(t, Log{}, 1, "one")
			l, e := mustPropose(t, l, 1, "two")
			if err := rep.Receive(e, l.Version()); err != nil || s.Lost() != nil {
				t.Errorf("%v, %v", err, s.Lost())
			}
			if _, err := rep.Change(t.Context(), 5, Version{}, []byte("x"), Meta{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDamagedFilesAreBounded(t *testing.T) {
	d := newMemDisk()
	for i := range 3 * maxBad {
		d.files[fmt.Sprintf("%s1.%d-00", changePrefix, i)] = []byte("rubbish")
		if _, err := open(d); err != nil {
			t.Fatal(err)
		}
	}
	if len(d.files) != maxBad {
		t.Errorf("%d files", len(d.files))
	}
}

func TestLaterFormatIsLeftAlone(t *testing.T) {
	d := newMemDisk()
	b := append(append([]byte(magic), format+1), make([]byte, 200)...)
	d.files[changePrefix+"1.1-00"] = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := open(d); !errors.Is(err, errFormat) || !strings.Contains(err.Error(), "/mem/change-1.1-00") {
		t.Errorf("%v", err)
	}
	if len(d.files) != 1 {
		t.Error("the file is gone")
	}
}

// A write can fail when the file is there already: another change with the same version must not appear
// beside it after a restart.
func TestFailedWriteLeavesNothing(t *testing.T) {
	d := newMemDisk()
	s, err := open(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := put(t, s, 1, "one"); err != nil {
		t.Fatal(err)
	}
	d.err, d.after, d.stuck = syscall.EIO, true, syscall.EIO
	if err := put(t, s, 1, "two"); !errors.Is(err, ErrStorage) || !errors.Is(err, syscall.EIO) {
		t.Errorf("%v", err)
	}
	d.err = nil
	if err := put(t, s, 1, "other"); !errors.Is(err, ErrStorage) || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("%v", err)
	}
	d.stuck = nil
	if err := put(t, s, 1, "other"); err != nil {
		t.Error(err)
	}
	again, err := open(d)
	if err != nil || again.Log().Len() != 2 || text(again) != "other" {
		t.Errorf("%q in force, %v", text(again), err)
	}
}

// A disk that takes no change says so until it takes one again, which is found out without another change.
func TestRecheck(t *testing.T) {
	d := newMemDisk()
	s, err := open(d)
	if err != nil {
		t.Fatal(err)
	}
	if err := put(t, s, 1, "one"); err != nil || s.Recheck() != nil {
		t.Fatalf("%v, %v", err, s.Recheck())
	}
	d.err = syscall.ENOSPC
	if err := s.Recheck(); err != nil {
		t.Errorf("nothing was to be written: %v", err)
	}
	if err := put(t, s, 1, "two"); err == nil {
		t.Fatal("stored")
	}
	if err := s.Recheck(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	d.err, d.stuck = nil, syscall.EROFS
	d.files[roomName] = nil
	s.leftovers = []string{roomName}
	if err := s.Recheck(); !errors.Is(err, syscall.EROFS) {
		t.Errorf("%v", err)
	}
	d.stuck = nil
	if err := s.Recheck(); err != nil {
		t.Errorf("%v", err)
	}
	// An acknowledgement that is not on disk is one to be told of, too, and is written as soon as it can be.
	d.err = syscall.ENOSPC
	if err := s.Update(func(l Log) (Log, error) { return l.Acknowledge(l.Version()), nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Recheck(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	d.err = nil
	if err := s.Recheck(); err != nil {
		t.Errorf("%v", err)
	}
	again, err := open(d)
	if err != nil || again.Log().Acked() != s.Log().Version() {
		t.Errorf("acknowledged %v, %v", again.Log().Acked(), err)
	}
	if _, there := d.files[roomName]; there {
		t.Error("what was written to try is still there")
	}
}

func TestFullFileSystem(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("needs CAP_SYS_ADMIN to mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := mustOpen(t, dir)
	if err := put(t, s, 1, "small"); err != nil {
		t.Fatal(err)
	}
	err := put(t, s, 1, strings.Repeat("x", 2<<20))
	if !errors.Is(err, ErrStorage) || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if text(s) != "small" {
		t.Errorf("%.20q is in force", text(s))
	}
	// It is told of until what did not fit would fit, in the same words each time.
	if first, second := s.Recheck(), s.Recheck(); !errors.Is(first, syscall.ENOSPC) || fmt.Sprint(first) != fmt.Sprint(second) {
		t.Errorf("first %v, then %v", first, second)
	}
	if err := put(t, s, 1, "small again"); err != nil || s.Recheck() != nil {
		t.Errorf("%v, %v", err, s.Recheck())
	}
	if err := put(t, s, 1, "small"); err != nil {
		t.Error(err)
	}
	s.Close()
	s = mustOpen(t, dir)
	if text(s) != "small" || s.Log().Len() != 3 || len(s.Damaged()) > 0 {
		t.Errorf("%.20q is in force after a restart, %v", text(s), s.Damaged())
	}
	if err := put(t, s, 1, "next"); err != nil {
		t.Errorf("a change that fits: %v", err)
	}
}
