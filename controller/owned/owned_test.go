package owned

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/drover-lb/drover/ipvs"
)

func TestServices(t *testing.T) {
	dir := t.TempDir()
	if got, err := Services(filepath.Join(dir, "absent")); err != nil || len(got) != 0 {
		t.Errorf("no director yet: %v, %v", got, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "absent")); err == nil {
		t.Error("asking makes the directory")
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[ipvs.Key]struct{}{
		{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80}: {},
		{Family: ipvs.IPv6, FWMark: 7}: {},
	}
	if err := s.Save(State{Services: want}); err != nil {
		t.Fatal(err)
	}
	if got, err := Services(dir); err != nil || !maps.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if err := os.WriteFile(s.path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := Services(dir); err == nil {
		t.Errorf("a torn file gives %v", got)
	}
}
