package gossip

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/keyring"
	"github.com/drover-lb/drover/cluster/lease"
	"github.com/drover-lb/drover/cluster/settings"
)

var quiet = slog.New(slog.DiscardHandler)

// options are those of a director that is the only voter.
func options(t *testing.T) *settings.Options {
	t.Helper()
	key, err := keyring.Generate()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	self := netip.MustParseAddrPort("127.0.0.1:0")
	return &settings.Options{Name: "d1", Address: self, Label: "test", KeyFile: path, Voters: []settings.Voter{{Name: "d1", Address: self, Director: true}},
		Groups: []string{"default"}, Mode: settings.Lease, Lease: settings.MinLease, Priority: settings.DefaultPriority, PreemptDelay: -1}
}

func TestNewNodeComplains(t *testing.T) {
	for name, spoil := range map[string]func(*settings.Options){
		"no such file": func(o *settings.Options) { o.KeyFile += ".absent" },
		"others":       func(o *settings.Options) { os.Chmod(o.KeyFile, 0o644) },
		"name":         func(o *settings.Options) { o.Name = "" },
	} {
		o := options(t)
		spoil(o)
		if n, err := NewNode(o, cluster.Director, quiet, prometheus.NewRegistry()); n != nil || err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v", name, n, err)
		}
	}
}

// A keeper that is the only voter elects itself, in an epoch above what is known, and in the mode of the file.
func TestNewKeeper(t *testing.T) {
	for _, tc := range []struct {
		mode  settings.Mode
		want  election.Mode
		known uint64
	}{
		{settings.Lease, election.LeaseMode, 0},
		{settings.Lease, election.LeaseMode, 1 << 60},
		{settings.Priority, election.PriorityMode, 0},
	} {
		o := options(t)
		o.Mode = tc.mode
		n, err := NewNode(o, cluster.Director, quiet, prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		roles := make(chan election.RoleChange, 10)
		k, err := NewKeeper(o, n, true, tc.known, quiet, lease.Options{Role: func(r election.RoleChange) { roles <- r }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- k.Run(ctx) }()
		if err := k.SetEligible(ctx, "default", true, ""); err != nil {
			t.Fatal(err)
		}
		least := max(tc.known, uint64(time.Since(firstEpoch)/time.Second)-10)
		select {
		case r := <-roles:
			if r.Role != election.Active || r.Epoch <= least || !k.Leased("default") {
				t.Errorf("%s: %+v, want an epoch above %d", tc.mode, r, least)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: not active", tc.mode)
		}
		if st, err := k.Status(ctx, "default"); err != nil || st.Mode != tc.want {
			t.Errorf("%s: %+v, %v", tc.mode, st, err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// A witness has a keeper too, and the bounds are those of the election.
func TestNewKeeperComplains(t *testing.T) {
	o := options(t)
	n, err := NewNode(o, cluster.Witness, quiet, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewKeeper(o, n, false, 0, quiet, lease.Options{}); err != nil {
		t.Error(err)
	}
	o.Lease = time.Millisecond
	if _, err := NewKeeper(o, n, false, 0, quiet, lease.Options{}); err == nil || !strings.Contains(err.Error(), "100ms") {
		t.Errorf("a lease that is too short: %v", err)
	}
}
