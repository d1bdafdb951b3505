package controller

import (
	"path/filepath"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// CheckMark reads from a director's state directory the first of the firewall marks that its health checks use in
// the network namespace of the calling thread; the default if it does not say.
func CheckMark(stateDir string) uint32 {
	s := stateStore{path: filepath.Join(stateDir, stateFile)}
	s.boot, s.netns = scope()
	if st, err := s.load(); err == nil && st.mark != 0 {
		return st.mark
	}
	return spec.DefaultCheckMark
}

// Owned reads from a director's state directory which services of the IPVS table are the director's in
// the network namespace of the calling thread. It writes nothing. Where no director has been since the
// boot, there are none.
func Owned(stateDir string) (map[ipvs.Key]struct{}, error) {
	s := stateStore{path: filepath.Join(stateDir, stateFile)}
	s.boot, s.netns = scope()
	st, err := s.load()
	if err != nil {
		return nil, err
	}
	return st.services, nil
}
