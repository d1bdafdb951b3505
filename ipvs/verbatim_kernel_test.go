//go:build kernel

package ipvs

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs/ipvstest"
)

// Verbatim commands are judged by the kernel alone, and one service is read back as all are.
func TestKernelVerbatim(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	s := service(key(TCP, "192.0.2.10:80"), "rr")
	s.Flags, s.Timeout, s.Netmask = Persistent, 5, 0
	heavy := dest("10.0.0.1:80", 1<<31-1)
	for i, err := range c.Apply(t.Context(), []Command{
		Verbatim(NewService(s), 0xff00ff00),
		Verbatim(NewDest(s.Key, heavy), 0),
		Verbatim(NewDest(s.Key, Destination{DestKey: dest("10.0.0.2:80", 1).DestKey, Forward: DirectRoute, Lower: 1}), 0),
		Verbatim(NewService(service(key(TCP, "192.0.2.10:81"), "No-Scheduler")), 0xffffffff),
		Verbatim(DelService(key(TCP, "192.0.2.10:82")), 0),
	}) {
		if want := []error{nil, nil, unix.ERANGE, unix.ENOENT, unix.ESRCH}[i]; !errors.Is(err, want) {
			t.Errorf("command %d: %v, want %v", i, err, want)
		}
	}
	all, err := c.Services(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	one, err := c.Service(t.Context(), s.Key)
	if err != nil || one.Service != all[0].Service || one.RawNetmask != 0xff00ff00 || one.Netmask != IrregularNetmask {
		t.Errorf("%+v, want %+v, %v", one, all[0], err)
	}
	if d := all[0].Destinations; len(d) != 1 || d[0].Destination != heavy {
		t.Errorf("%+v", d)
	}
	if _, err := c.Service(t.Context(), key(TCP, "192.0.2.10:81")); !errors.Is(err, unix.ESRCH) {
		t.Error(err)
	}
	if err := c.SetTimeouts(t.Context(), Timeouts{UDP: maxTimeout}); err != nil && !errors.Is(err, unix.EINVAL) {
		t.Error(err)
	}
}
