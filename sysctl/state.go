package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// stateVersion is the version of the state file's format.
const stateVersion = 1

// lockTimeout bounds the wait for another process that is using the state file. Nobody holds the lock
// for longer than a few writes below /proc/sys.
const lockTimeout = 5 * time.Second

// entry is one recorded setting.
type entry struct {
	Key      string   `json:"key"` // path below /proc/sys
	Original string   `json:"original"`
	Ours     []string `json:"ours"` // every value that a holder has written or was about to write
	Holders  []string `json:"holders"`
}

// file is the state file. Recorded values are worth nothing after a reboot, and belong to one network
// namespace, so both are named.
type file struct {
	Version    int                 `json:"version"`
	Boot       string              `json:"boot"`
	Namespaces map[string][]*entry `json:"namespaces"`
}

// state is the state file while it is locked.
type state struct {
	path string
	ns   string
	file file
	read []byte // content on disk
}

// openState locks and reads the state file. The lock is on its directory, because the file itself is
// replaced on every save.
func openState(opts Options) (*state, func(), error) {
	dir := filepath.Dir(opts.State)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, nil, fmt.Errorf("failed to make the directory of the sysctl state file: %w", err)
	}
	unlock, err := lockDir(dir)
	if err != nil {
		return nil, nil, err
	}
	boot, ns := scope(opts.Root)
	st := &state{path: opts.State, ns: ns, file: file{Version: stateVersion, Boot: boot}}
	b, err := os.ReadFile(opts.State)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		unlock()
		return nil, nil, fmt.Errorf("failed to read the sysctl state file: %w", err)
	default:
		var f file
		if err := json.Unmarshal(b, &f); err != nil {
			unlock()
			return nil, nil, fmt.Errorf("failed to read the sysctl state file %q (remove it to forget the earlier values): %w", opts.State, err)
		}
		if f.Version != stateVersion {
			unlock()
			return nil, nil, fmt.Errorf("sysctl state file %q has version %d, this program knows version %d", opts.State, f.Version, stateVersion)
		}
		st.read = b
		if f.Boot == boot {
			st.file = f
		}
	}
	if st.file.Namespaces == nil {
		st.file.Namespaces = make(map[string][]*entry)
	}
	return st, unlock, nil
}

func (st *state) entries() []*entry { return st.file.Namespaces[st.ns] }

// hold records that holder is about to write ours over value.
func (st *state) hold(key, value, ours, holder string) {
	for _, e := range st.entries() {
		if e.Key != key {
			continue
		}
		if !slices.Contains(e.Ours, ours) {
			e.Ours = append(e.Ours, ours)
		}
		if !slices.Contains(e.Holders, holder) {
			e.Holders = append(e.Holders, holder)
		}
		return
	}
	st.file.Namespaces[st.ns] = append(st.entries(), &entry{Key: key, Original: value, Ours: []string{ours}, Holders: []string{holder}})
}

// drop takes holder off a setting and forgets the setting when nobody holds it.
func (st *state) drop(key, holder string) {
	left := slices.DeleteFunc(st.entries(), func(e *entry) bool {
		if e.Key != key {
			return false
		}
		e.Holders = slices.DeleteFunc(e.Holders, func(h string) bool { return h == holder })
		return len(e.Holders) == 0
	})
	st.file.Namespaces[st.ns] = left
	if len(left) == 0 {
		delete(st.file.Namespaces, st.ns)
	}
}

// save writes the file when its content changed, and removes it when nothing is recorded.
func (st *state) save() error {
	if len(st.file.Namespaces) == 0 {
		if err := os.Remove(st.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("failed to remove the sysctl state file: %w", err)
		}
		return nil
	}
	b, err := json.MarshalIndent(st.file, "", "  ")
	if err != nil {
		return fmt.Errorf("failed to encode the sysctl state: %w", err)
	}
	b = append(b, '\n')
	if string(b) == string(st.read) {
		return nil
	}
	if err := renameio.WriteFile(st.path, b, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("failed to write the sysctl state file: %w", err)
	}
	st.read = b
	return nil
}

func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("failed to open the directory of the sysctl state file: %w", err)
	}
	// flock(2) has no timeout, and a blocked one cannot be taken back.
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { d.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(deadline) {
			d.Close()
			return nil, fmt.Errorf("failed to lock %q, directory of the sysctl state file: %w", dir, err)
		}
	}
}

// Scope names the boot and the network namespace of the calling thread, for state files of what was
// changed in the kernel. Neither name is used twice: the namespace's cookie (SO_NETNS_COOKIE, Linux
// 5.14) is not reused before a reboot; its inode number, taken on older kernels, may be.
func Scope() (boot, namespace string) { return scope(DefaultRoot) }

func scope(root string) (boot, ns string) {
	if b, err := os.ReadFile(filepath.Join(root, "kernel/random/boot_id")); err == nil {
		boot = strings.TrimSpace(string(b))
	}
	if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err == nil {
		defer unix.Close(fd)
		if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
			return boot, "cookie " + strconv.FormatUint(cookie, 10)
		}
	}
	if link, err := os.Readlink("/proc/thread-self/ns/net"); err == nil {
		return boot, link
	}
	return boot, "unknown"
}
