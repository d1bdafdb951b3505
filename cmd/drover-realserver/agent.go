package main

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/drover-lb/drover/cmd/internal/app"
	"github.com/drover-lb/drover/realserver"
	"github.com/drover-lb/drover/realserver/kernel"
	"github.com/drover-lb/drover/realserver/proof"
	"github.com/drover-lb/drover/sysctl"
)

// options are the command line of an agent.
type options struct {
	config   string
	state    string
	log      *slog.Logger
	notifier *app.Notifier
	reload   <-chan struct{} // a value for each request to read the file again
}

// loadFile reads a real server's file. The error is an [*app.ConfigError].
func loadFile(path string) (*realserver.Config, error) {
	cfg, err := realserver.Load(path)
	if err != nil {
		return nil, &app.ConfigError{Err: err}
	}
	return cfg, nil
}

// agent runs until ctx ends, in the network namespace of the process. A file that is bad to begin with
// gives an [*app.ConfigError], with the kernel untouched.
func agent(ctx context.Context, o options) error {
	cfg, err := loadFile(o.config)
	if err != nil {
		return err
	}
	dir := filepath.Dir(o.state)
	unlock, err := app.Lock(dir, "realserver")
	if err != nil {
		return err
	}
	defer unlock()
	k, err := kernel.Open()
	if err != nil {
		return err
	}
	defer k.Close()
	keeper, err := sysctl.New(sysctl.Options{State: filepath.Join(dir, "sysctl.json"), Holder: "realserver"})
	if err != nil {
		return err
	}
	var m *member
	told := func() {}
	if cfg.Cluster != nil {
		if err := app.RaisePriority(); err != nil {
			o.log.Warn("a busy processor may keep this host from voting in time", "error", err)
		}
		if m, err = newMember(cfg.Cluster, cfg, o.log); err != nil {
			return err
		}
		told = func() {
			select {
			case m.tell <- struct{}{}:
			default:
			}
		}
	}
	prover := proof.New(o.log)
	defer prover.Close()
	a, err := realserver.New(realserver.Options{
		Kernel:    k,
		Sysctls:   keeper,
		Prover:    prover,
		State:     o.state,
		Log:       o.log,
		Turn:      o.notifier.Alive,
		Heartbeat: o.notifier.Heartbeat(),
		Summary:   o.notifier.Status,
		Changed:   told,
	}, cfg)
	if err != nil {
		return err
	}

	var settings []string
	for _, row := range realserver.Settings {
		path, err := sysctl.Path(row.Key)
		if err != nil {
			return err
		}
		settings = append(settings, path)
	}
	var helpers sync.WaitGroup
	defer helpers.Wait()
	// The host stays what it is until it is drained.
	helpersCtx, stopHelpers := context.WithCancel(context.WithoutCancel(ctx))
	defer stopHelpers()
	helpers.Go(func() { k.Watch(helpersCtx, o.log, settings...) })
	current := atomic.Pointer[realserver.Config]{}
	current.Store(cfg)
	if m != nil {
		// Before anything is changed on this host: who cannot listen tries again with the next start.
		failed := make(chan error, 1)
		helpers.Go(func() {
			if err := m.run(helpersCtx, a, current.Load); err != nil {
				o.log.Error("this host is not part of its cluster any more", "error", err)
				failed <- err
			}
		})
		select {
		case <-m.node.Ready():
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
	changed := make(chan struct{}, 1)
	helpers.Go(func() {
		app.Watch(helpersCtx, o.config, o.log, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	})
	helpers.Go(func() {
		ready := a.Ready()
		for {
			select {
			case <-helpersCtx.Done():
				return
			case <-ready:
				ready = nil
				o.notifier.Ready()
				debug.FreeOSMemory() // the start takes more than what comes after it
			case <-o.reload:
				reload(a, &current, told, o, "asked to", ready == nil)
			case <-changed:
				reload(a, &current, told, o, "the file changed", ready == nil)
			}
		}
	})
	helpers.Go(func() {
		select {
		case <-ctx.Done():
		case <-helpersCtx.Done():
			return
		}
		o.notifier.Stopping()
		if m != nil {
			var vips []netip.Addr
			for _, v := range a.Status().VIPs {
				vips = append(vips, v.Address)
			}
			m.drain(helpersCtx, current.Load(), vips)
		}
		stopHelpers()
	})
	return a.Run(helpersCtx)
}

// reload reads the file again. A bad one leaves the old configuration in force.
func reload(a *realserver.Agent, current *atomic.Pointer[realserver.Config], told func(), o options, why string, ready bool) {
	if ready {
		o.notifier.Reloading()
		defer o.notifier.Ready()
	}
	cfg, err := loadFile(o.config)
	if err != nil {
		o.log.Error("the new file is not taken; the old one stays in force", "why", why, "error", err)
		return
	}
	before := current.Load()
	if !sameCluster(before, cfg) {
		o.log.Error("the new file is not taken; the old one stays in force", "why", why, "error", "cluster and pool change at a restart only")
		return
	}
	o.log.Info("file read", "why", why, "path", o.config, "vips", len(cfg.VIPs))
	current.Store(cfg)
	if cfg.Learn {
		told()
	} else {
		a.Set(cfg)
	}
}

// sameCluster reports whether two files are for the same place in the same cluster.
func sameCluster(a, b *realserver.Config) bool {
	if a.Cluster == nil || b.Cluster == nil {
		return a.Cluster == b.Cluster
	}
	return a.Pool == b.Pool && a.Cluster.Name == b.Cluster.Name && a.Cluster.Label == b.Cluster.Label && a.Cluster.Fingerprint() == b.Cluster.Fingerprint()
}
