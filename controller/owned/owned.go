// Package owned keeps on disk which services of the kernel's table and which VIPs are a director's own, so that
// its successor in the same boot and network namespace takes over what it left, and others may ask.
package owned

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/sysctl"
)

// File is the name of the state file in the state directory.
const File = "director.json"

// stateVersion is the version of the state file's format.
const stateVersion = 1

// State is what a director has to know about its predecessor: what of the kernel's table and addresses
// is its own.
type State struct {
	Services map[ipvs.Key]struct{}
	VIPs     map[VIP]struct{}
	// CheckMark is the first of the firewall marks of its health checks; 0 if not known.
	CheckMark uint32
	// Drains are how far its real servers are that are drained.
	Drains map[Server]Drain
}

// Server identifies a real server of a service.
type Server struct {
	Service ipvs.Key
	Server  ipvs.DestKey
}

// Drain is how far the drain of a real server is; package drain says what that means.
type Drain struct {
	Asked time.Time
	Since time.Time
	Done  bool
}

// Compare orders by service and server.
func (s Server) Compare(o Server) int {
	return cmp.Or(s.Service.Compare(o.Service), s.Server.Compare(o.Server))
}

// VIP identifies a VIP. The same address with another prefix length is another entry of the kernel.
type VIP struct {
	Prefix    netip.Prefix
	Interface string
}

func (k VIP) String() string { return k.Prefix.String() + " on " + k.Interface }

// Compare orders by address, prefix length and interface.
func (k VIP) Compare(o VIP) int {
	return cmp.Or(k.Prefix.Addr().Compare(o.Prefix.Addr()), cmp.Compare(k.Prefix.Bits(), o.Prefix.Bits()), cmp.Compare(k.Interface, o.Interface))
}

// CheckMark reads from a director's state directory the first of the firewall marks that its health checks use in
// the network namespace of the calling thread; 0 if it does not say.
func CheckMark(stateDir string) uint32 {
	s := Store{path: filepath.Join(stateDir, File)}
	s.boot, s.netns = sysctl.Scope()
	if st, err := s.Load(); err == nil {
		return st.CheckMark
	}
	return 0
}

// Services reads from a director's state directory which services of the IPVS table are the director's in
// the network namespace of the calling thread. It writes nothing. Where no director has been since the
// boot, there are none.
func Services(stateDir string) (map[ipvs.Key]struct{}, error) {
	s := Store{path: filepath.Join(stateDir, File)}
	s.boot, s.netns = sysctl.Scope()
	st, err := s.Load()
	if err != nil {
		return nil, err
	}
	return st.Services, nil
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
	Drains    []savedDrain   `json:"drains,omitempty"`
}

type savedDrain struct {
	Service savedService   `json:"service"`
	Server  netip.AddrPort `json:"server"`
	Asked   time.Time      `json:"asked,omitzero"`
	Since   time.Time      `json:"since"`
	Done    bool           `json:"done,omitempty"`
}

type savedService struct {
	Family   ipvs.Family   `json:"family"`
	Protocol ipvs.Protocol `json:"protocol,omitempty"`
	Address  netip.Addr    `json:"address,omitzero"`
	Port     uint16        `json:"port,omitempty"`
	FWMark   uint32        `json:"fwmark,omitempty"`
}

func saveService(k ipvs.Key) savedService {
	return savedService{Family: k.Family, Protocol: k.Protocol, Address: k.Addr, Port: k.Port, FWMark: k.FWMark}
}

func (v savedService) key() ipvs.Key {
	return ipvs.Key{Family: v.Family, Protocol: v.Protocol, Addr: v.Address, Port: v.Port, FWMark: v.FWMark}
}

type savedVIP struct {
	Address   netip.Prefix `json:"address"`
	Interface string       `json:"interface"`
}

// Store is the state file. Its zero value keeps nothing.
type Store struct {
	path  string
	boot  string
	netns string
	last  []byte // content on disk
}

// Open names the state file in dir; dir is made when absent.
func Open(dir string) (*Store, error) {
	if dir == "" {
		return &Store{}, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("failed to make the state directory: %w", err)
	}
	st := &Store{path: filepath.Join(dir, File)}
	st.boot, st.netns = sysctl.Scope()
	return st, nil
}

// Load reads what the predecessor left: nothing if there was none. A file that cannot be read is an
// error, and nothing is known then.
func (s *Store) Load() (State, error) {
	out := State{Services: make(map[ipvs.Key]struct{}), VIPs: make(map[VIP]struct{}), Drains: make(map[Server]Drain)}
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
	out.CheckMark = saved.CheckMark
	for _, v := range saved.Services {
		out.Services[v.key()] = struct{}{}
	}
	for _, d := range saved.Drains {
		out.Drains[Server{d.Service.key(), ipvs.DestKey{Addr: d.Server.Addr(), Port: d.Server.Port()}}] = Drain{Asked: d.Asked, Since: d.Since, Done: d.Done}
	}
	for _, v := range saved.VIPs {
		out.VIPs[VIP{Prefix: v.Address, Interface: v.Interface}] = struct{}{}
	}
	return out, nil
}

// Save writes the file if its content changed, and removes it when nothing is ours.
func (s *Store) Save(st State) error {
	if s.path == "" {
		return nil
	}
	if len(st.Services) == 0 && len(st.VIPs) == 0 && len(st.Drains) == 0 {
		s.last = nil
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("failed to remove the state file: %w", err)
		}
		return nil
	}
	saved := savedState{Version: stateVersion, Boot: s.boot, Namespace: s.netns, Services: []savedService{}, VIPs: []savedVIP{}, CheckMark: st.CheckMark}
	for _, k := range slices.SortedFunc(maps.Keys(st.Services), ipvs.Key.Compare) {
		saved.Services = append(saved.Services, saveService(k))
	}
	for _, k := range slices.SortedFunc(maps.Keys(st.VIPs), VIP.Compare) {
		saved.VIPs = append(saved.VIPs, savedVIP{Address: k.Prefix, Interface: k.Interface})
	}
	for _, k := range slices.SortedFunc(maps.Keys(st.Drains), Server.Compare) {
		r := st.Drains[k]
		saved.Drains = append(saved.Drains, savedDrain{Service: saveService(k.Service), Server: netip.AddrPortFrom(k.Server.Addr, k.Server.Port),
			Asked: r.Asked.UTC(), Since: r.Since.UTC(), Done: r.Done})
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
