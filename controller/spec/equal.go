package spec

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
)

// Equal reports whether s and o say the same in the same order; nil and empty lists are the same.
func (s *Spec) Equal(o *Spec) bool {
	return slices.Equal(s.VIPs, o.VIPs) &&
		slices.EqualFunc(s.Services, o.Services, func(a, b Service) bool {
			return a.Name == b.Name && a.Service == b.Service && a.Pool == b.Pool && a.Health == b.Health && a.Drain == b.Drain && a.Adaptive == b.Adaptive && slices.Equal(a.Checks, b.Checks) && slices.Equal(a.RealServers, b.RealServers)
		})
}

// Clone returns a copy that shares no memory with s that can be changed.
func (s *Spec) Clone() Spec {
	c := Spec{VIPs: slices.Clone(s.VIPs), Services: slices.Clone(s.Services)}
	for i := range c.Services {
		c.Services[i].Checks = slices.Clone(c.Services[i].Checks)
		c.Services[i].RealServers = slices.Clone(c.Services[i].RealServers)
	}
	return c
}

// Hash is the SHA-256 of what s says, without the settings of any one director: two directors with the same hash
// want the same.
func (s *Spec) Hash() string {
	sum := sha256.Sum256((&File{Spec: *s}).Format())
	return hex.EncodeToString(sum[:])
}
