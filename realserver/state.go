package realserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/google/renameio/v2"

	"github.com/drover-lb/drover/sysctl"
)

// stateVersion is the version of the state file's format.
const stateVersion = 1

// savedVIP is a VIP that was, or was about to be, put on a device.
type savedVIP struct {
	Address netip.Addr `json:"address"`
	Device  string     `json:"device"`
	Ours    bool       `json:"ours"` // false: it was there before us, and stays when we go
}

// savedState is the state file: what of this host's network configuration is the agent's own. It is
// worth nothing after a reboot and in another network namespace.
type savedState struct {
	Version   int        `json:"version"`
	Boot      string     `json:"boot"`
	Namespace string     `json:"namespace"`
	Dummy     string     `json:"dummy,omitempty"` // the interface that the agent made
	VIPs      []savedVIP `json:"vips"`            // in the order in which they were put on
}

// store is the state file. What is to be done to the kernel is saved first.
type store struct {
	path string
	savedState
	index map[vipKey]int // into VIPs; nil: to be made
	dirty bool           // not as on disk
}

type vipKey struct {
	addr   netip.Addr
	device string
}

// openStore reads the state file at path. A file of an earlier boot or of another namespace is taken as
// empty.
func openStore(path string) (*store, error) {
	s := &store{path: path, dirty: true}
	s.Version = stateVersion
	s.Boot, s.Namespace = sysctl.Scope()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("failed to make the directory of the state file: %w", err)
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("failed to read the state file: %w", err)
	}
	var f savedState
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("failed to read the state file %q (remove it to forget which VIPs are the agent's own): %w", path, err)
	}
	if f.Version != stateVersion {
		return nil, fmt.Errorf("state file %q has version %d, this program knows version %d", path, f.Version, stateVersion)
	}
	if f.Boot == s.Boot && f.Namespace == s.Namespace {
		s.savedState, s.dirty = f, false
	}
	return s, nil
}

// save writes the file when what is recorded has changed, or somebody has removed it.
func (s *store) save() error {
	if _, err := os.Stat(s.path); err == nil && !s.dirty {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(s.path), 0o755); err != nil {
		return fmt.Errorf("failed to make the directory of the state file: %w", err)
	}
	b, err := json.MarshalIndent(s.savedState, "", "  ")
	if err != nil {
		return fmt.Errorf("failed to encode the state: %w", err)
	}
	if err := renameio.WriteFile(s.path, append(b, '\n'), 0o600, renameio.IgnoreUmask()); err != nil {
		return fmt.Errorf("failed to write the state file: %w", err)
	}
	s.dirty = false
	return nil
}

// remove removes the file when nothing is recorded any more, and saves it otherwise.
func (s *store) remove() error {
	if len(s.VIPs) > 0 || s.Dummy != "" {
		return s.save()
	}
	if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("failed to remove the state file: %w", err)
	}
	s.dirty = true
	return nil
}

// find returns whether a VIP is recorded on a device, and whether it is ours.
func (s *store) find(a netip.Addr, device string) (known, ours bool) {
	if s.index == nil {
		s.index = make(map[vipKey]int, len(s.VIPs))
		for i, v := range s.VIPs {
			s.index[vipKey{v.Address, v.Device}] = i
		}
	}
	i, known := s.index[vipKey{a, device}]
	return known, known && s.VIPs[i].Ours
}

// record adds a VIP that is not known yet.
func (s *store) record(v savedVIP) {
	s.VIPs, s.dirty = append(s.VIPs, v), true
	if s.index != nil {
		s.index[vipKey{v.Address, v.Device}] = len(s.VIPs) - 1
	}
}

// forget drops the VIPs that gone selects.
func (s *store) forget(gone func(savedVIP) bool) {
	s.VIPs = slices.DeleteFunc(s.VIPs, gone)
	s.index, s.dirty = nil, true
}

// ours reports whether a VIP of ours that pick selects is recorded.
func (s *store) ours(pick func(savedVIP) bool) bool {
	return slices.ContainsFunc(s.VIPs, func(v savedVIP) bool { return v.Ours && pick(v) })
}

// setDummy records the interface that the agent makes; empty: none.
func (s *store) setDummy(name string) {
	if s.Dummy != name {
		s.Dummy, s.dirty = name, true
	}
}

func isIPv4(v savedVIP) bool { return v.Address.Is4() }
