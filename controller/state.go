package controller

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs"
)

// stateFile is the name of the state file in the state directory.
const stateFile = "director.json"

// stateVersion is the version of the state file's format.
const stateVersion = 1

// state is what a director has to know about its predecessor: what of the kernel's table and addresses
// is its own. It is nil-safe in the sense that a store without directory keeps nothing.
type state struct {
	services map[ipvs.Key]struct{}
	vips     map[vipKey]struct{}
	mark     uint32 // the first of the checks' firewall marks; 0 if not known
}

// savedState is the state file. What it says is worth nothing after a reboot or in another network
// namespace, so both are named.
type savedState struct {
	Version   int            `json:"version"`
	Boot      string         `json:"boot"`
	Namespace string         `json:"namespace"`
	Services  []savedService `json:"services"`
	VIPs      []savedVIP     `json:"vips"`
	CheckMark uint32         `json:"check_mark,omitempty"`
}

type savedService struct {
	Family   ipvs.Family   `json:"family"`
	Protocol ipvs.Protocol `json:"protocol,omitempty"`
	Address  netip.Addr    `json:"address,omitzero"`
	Port     uint16        `json:"port,omitempty"`
	FWMark   uint32        `json:"fwmark,omitempty"`
}

type savedVIP struct {
	Address   netip.Prefix `json:"address"`
	Interface string       `json:"interface"`
}

// stateStore is the state file. Its zero value keeps nothing.
type stateStore struct {
	path  string
	boot  string
	netns string
	last  []byte // content on disk
}

// openState names the state file in dir; dir is made when absent.
func openState(dir string) (*stateStore, error) {
	if dir == "" {
		return &stateStore{}, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("failed to make the state directory: %w", err)
	}
	st := &stateStore{path: filepath.Join(dir, stateFile)}
	st.boot, st.netns = scope()
	return st, nil
}

// scope names the boot and the network namespace of the calling thread. The namespace's cookie
// (SO_NETNS_COOKIE, Linux 5.14) is not used twice before a reboot; its inode number, taken on older
// kernels, may be.
func scope() (boot, ns string) {
	if b, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
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

// load reads what the predecessor left: nothing if there was none. A file that cannot be read is an
// error, and nothing is known then.
func (s *stateStore) load() (state, error) {
	out := state{services: make(map[ipvs.Key]struct{}), vips: make(map[vipKey]struct{})}
	if s.path == "" {
		return out, nil
	}
	b, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, fmt.Errorf("failed to read the state file: %w", err)
	}
	var saved savedState
	if err := json.Unmarshal(b, &saved); err != nil {
		return out, fmt.Errorf("failed to read the state file %q: %w", s.path, err)
	}
	if saved.Version != stateVersion {
		return out, fmt.Errorf("state file %q has version %d, this program knows version %d", s.path, saved.Version, stateVersion)
	}
	s.last = b
	if saved.Boot != s.boot || saved.Namespace != s.netns {
		return out, nil
	}
	out.mark = saved.CheckMark
	for _, v := range saved.Services {
		out.services[ipvs.Key{Family: v.Family, Protocol: v.Protocol, Addr: v.Address, Port: v.Port, FWMark: v.FWMark}] = struct{}{}
	}
	for _, v := range saved.VIPs {
		out.vips[vipKey{Prefix: v.Address, Interface: v.Interface}] = struct{}{}
	}
	return out, nil
}

// save writes the file if its content changed, and removes it when nothing is ours.
func (s *stateStore) save(st state) error {
	if s.path == "" {
		return nil
	}
	if len(st.services) == 0 && len(st.vips) == 0 {
		s.last = nil
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("failed to remove the state file: %w", err)
		}
		return nil
	}
	saved := savedState{Version: stateVersion, Boot: s.boot, Namespace: s.netns, Services: []savedService{}, VIPs: []savedVIP{}, CheckMark: st.mark}
	for _, k := range slices.SortedFunc(maps.Keys(st.services), ipvs.Key.Compare) {
		saved.Services = append(saved.Services, savedService{Family: k.Family, Protocol: k.Protocol, Address: k.Addr, Port: k.Port, FWMark: k.FWMark})
	}
	for _, k := range slices.SortedFunc(maps.Keys(st.vips), vipKey.compare) {
		saved.VIPs = append(saved.VIPs, savedVIP{Address: k.Prefix, Interface: k.Interface})
	}
	b, err := json.Marshal(saved)
	if err != nil {
		return fmt.Errorf("failed to encode the state: %w", err)
	}
	b = append(b, '\n')
	if string(b) == string(s.last) {
		return nil
	}
	if err := renameio.WriteFile(s.path, b, 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("failed to write the state file: %w", err)
	}
	s.last = b
	return nil
}
