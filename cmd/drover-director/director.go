package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/drover-lb/drover/arp"
	"github.com/drover-lb/drover/cluster/keyring"
	"github.com/drover-lb/drover/cmd/internal/app"
	"github.com/drover-lb/drover/cmd/internal/gossip"
	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/controller"
	"github.com/drover-lb/drover/controller/fence"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/health/probe"
	"github.com/drover-lb/drover/controller/kernel"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/notify"
	"github.com/drover-lb/drover/notify/sink"
	"github.com/drover-lb/drover/sysctl"
)

// openTimeout bounds the first contact with the kernel, the loading of its modules included.
const openTimeout = 15 * time.Second

// statusTimeout bounds how long an asker waits for the loop.
const statusTimeout = 10 * time.Second

// options are the command line of a director.
type options struct {
	config   string
	stateDir string
	dataDir  string
	log      *slog.Logger
	notifier *app.Notifier
	reload   <-chan struct{} // a value for each request to read the file again
}

// load reads a director's file. The error is an [*app.ConfigError].
func load(path string) (*spec.File, error) {
	f, err := spec.Load(path)
	if err != nil {
		return nil, &app.ConfigError{Err: err}
	}
	return f, nil
}

// director runs until ctx ends, in the network namespace of the process. A file that is bad to begin with
// gives an [*app.ConfigError], with the kernel untouched.
func director(ctx context.Context, opts options) error {
	log := opts.log
	read := app.SignatureOf(opts.config)
	file, err := load(opts.config)
	if err != nil {
		return err
	}
	warn(log, file)
	unlock, err := app.Lock(opts.stateDir, "director")
	if err != nil {
		return err
	}
	defer unlock()

	openCtx, cancel := context.WithTimeout(ctx, openTimeout)
	k, err := kernel.Open(openCtx, log)
	cancel()
	if err != nil {
		return err
	}
	defer k.Close()
	keeper, err := sysctl.New(sysctl.Options{State: filepath.Join(opts.stateDir, "sysctl.json"), Holder: "director"})
	if err != nil {
		return err
	}
	ann, err := arp.NewAnnouncer(arp.Options{Log: log})
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	co := controller.Options{
		Kernel:    k,
		Announcer: &announcer{Announcer: ann, log: log, epochs: make(map[arp.Claim]uint64)},
		Sysctls:   keeper,
		StateDir:  opts.stateDir,
		Log:       log,
		Registry:  registry,
		Version:   app.Version(),
		Turn:      opts.notifier.Alive,
		Heartbeat: opts.notifier.Heartbeat(),
		Summary:   opts.notifier.Status,
	}
	ev := newEvents(log)
	told := newTeller(file)
	if told.notifier, err = notify.New(notify.Options{Log: log.With("component", "notify"), Registry: registry, Version: app.Version(), Tell: told.tell, Trouble: ev.trouble}); err != nil {
		return err
	}
	told.notifier.Set(file.Notify)
	ev.told = told.event
	var m *member // set before the engine runs
	viewed := func() {
		if m != nil {
			m.viewed()
		}
	}
	engine := health.New(health.Options{Prober: &probe.Prober{}, Marks: file.Director.CheckMark, Log: log.With("component", "health"), Event: ev.health, Viewed: viewed})
	co.Health, co.Drained = engine, ev.drained
	if file.Cluster != nil {
		if err := app.RaisePriority(); err != nil {
			log.Warn("a busy processor may cost this director its lease", "error", err)
		}
		mo := memberOptions{events: ev, health: engine, file: file, path: opts.config, dataDir: opts.dataDir, log: log, reg: registry, ann: ann}
		guard, words := openFence(file, log)
		if guard != nil {
			defer guard.Close()
			mo.fence, co.Fence = guard, guard
		}
		mo.words = words
		if guard == nil {
			unfence(log)
		}
		if m, err = newMember(mo); err != nil {
			return err
		}
		told.cluster.Store(m)
		file = m.file()
		co.Roles, co.Leased, co.Sync = m.roles(), m.keeper.Leased, syncOptions(file.Cluster)
	}
	if file.Cluster == nil {
		unfence(log)
	}
	table := shown{kernelTable: k, mark: file.Director.CheckMark}
	c, err := controller.New(co, file, opts.config)
	if err != nil {
		return err
	}
	ready := c.Ready()
	if m != nil {
		m.controller, m.kernel = c, table
		ready = m.ready
	}

	d := &desk{controller: c, member: m, kernel: table, events: ev, health: engine, path: opts.config, told: told}
	d.alone.Store(file)
	if m != nil {
		m.node.HandleRequest(gossip.KindTable, d.serveTable)
	}

	// What the controller needs on its way out outlives it.
	group, groupCtx := errgroup.WithContext(ctx)
	rest, stopRest := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRest()
	var helpers errgroup.Group
	if path := file.Director.Socket; path != "" {
		l, err := app.Listen(path)
		if err != nil {
			return err
		}
		helpers.Go(func() error {
			err := app.Serve(rest, l, handler(c, m, registry, d))
			if err != nil {
				log.Error("the status socket is closed", "error", err)
			}
			return nil
		})
	}
	helpers.Go(func() error {
		err := ann.Run(rest)
		if err != nil {
			log.Error("the announcer has ended; neighbours are not told of the VIPs any more", "error", err)
		}
		return err
	})
	controllerCtx := groupCtx
	if m != nil {
		// The controller goes last: giving up the VIPs in an orderly way is its work.
		var stopController context.CancelFunc
		controllerCtx, stopController = context.WithCancel(context.WithoutCancel(ctx))
		defer stopController()
		after := make(chan struct{})
		group.Go(func() error {
			select {
			case <-c.Ready():
			case <-groupCtx.Done():
			}
			return m.run(groupCtx, after, stopController)
		})
		group.Go(func() error {
			defer close(after)
			return c.Run(controllerCtx)
		})
	} else {
		group.Go(func() error { return c.Run(controllerCtx) })
	}
	helpers.Go(func() error { return engine.Run(rest) })
	helpers.Go(func() error { return told.notifier.Run(rest) })
	r := &reloader{path: opts.config, log: log, controller: c, member: m, desk: d, notifier: opts.notifier, socket: file.Director.Socket}
	changed := make(chan struct{}, 1)
	group.Go(func() error {
		app.Watch(groupCtx, opts.config, log, func() {
			select {
			case changed <- struct{}{}:
			default:
			}
		}, read)
		return nil
	})
	group.Go(func() error {
		for {
			select {
			case <-groupCtx.Done():
				return nil
			case <-ready:
				ready, r.ready = nil, true
				opts.notifier.Ready()
				debug.FreeOSMemory() // reading the file took more than what comes after it
			case <-opts.reload:
				r.reload(groupCtx, "asked to")
			case <-changed:
				r.reload(groupCtx, "the file changed")
			}
		}
	})

	<-groupCtx.Done()
	opts.notifier.Stopping()
	err = group.Wait()
	stopRest()
	return errors.Join(err, helpers.Wait())
}

func warn(log *slog.Logger, f *spec.File) {
	for _, w := range f.Warnings {
		log.Warn("the file says something odd", "warning", w.Error())
	}
}

// reloader reads the file again.
type reloader struct {
	path       string
	log        *slog.Logger
	controller *controller.Controller
	member     *member // nil: alone
	desk       *desk
	notifier   *app.Notifier
	socket     string // in use
	ready      bool
}

func (r *reloader) reload(ctx context.Context, why string) {
	if r.ready {
		r.notifier.Reloading()
		defer r.notifier.Ready()
	}
	f, err := load(r.path)
	if err != nil {
		r.refuse(why, err)
		if err := r.controller.Reject(ctx, err); err != nil && ctx.Err() == nil {
			r.log.Error("failed to tell the controller", "error", err)
		}
		return
	}
	warn(r.log, f)
	if f.Director.Socket != r.socket {
		r.log.Warn("the status socket moves at the next start only", "now", r.socket, "file", f.Director.Socket)
	}
	r.log.Info("file read", "why", why, "path", r.path, "vips", len(f.Spec.VIPs), "services", len(f.Spec.Services))
	switch {
	case r.member != nil:
		if err = r.member.setFile(ctx, f); err != nil {
			if err := r.controller.Reject(ctx, err); err != nil && ctx.Err() == nil {
				r.log.Error("failed to tell the controller", "error", err)
			}
		}
	case f.Cluster != nil:
		err = errors.New("a director that is alone joins a cluster at its next start only")
	default:
		if err = r.controller.SetFile(ctx, f, r.path); err == nil {
			r.desk.alone.Store(f)
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			r.refuse(why, err)
		}
		return
	}
	r.desk.told.notifier.Set(f.Notify)
	debug.FreeOSMemory()
}

// refuse tells that a file is not taken.
func (r *reloader) refuse(why string, err error) {
	r.desk.events.add(slog.LevelError, sink.Reload, "the new file is not taken (%s); the old one stays in force: %s", why, strings.ReplaceAll(err.Error(), "\n", "; "))
}

// announcer speaks the controller's words to package arp.
type announcer struct {
	*arp.Announcer
	log    *slog.Logger
	epochs map[arp.Claim]uint64
}

// Set implements [controller.Announcer].
func (a *announcer) Set(claims []controller.Claim) {
	list := make([]arp.Claim, len(claims))
	epochs := make(map[arp.Claim]uint64, len(claims))
	var again []netip.Addr
	for i, c := range claims {
		k := arp.Claim{Interface: c.Interface, Addr: c.Addr}
		list[i] = k
		epochs[k] = c.Epoch
		if before, known := a.epochs[k]; known && before != c.Epoch {
			again = append(again, c.Addr)
		}
	}
	a.epochs = epochs
	if err := a.Announcer.Set(list); err != nil {
		a.log.Error("failed to announce the VIPs", "error", err)
		return
	}
	if len(again) > 0 {
		a.AnnounceNow(again...)
	}
}

// unfence takes away what a predecessor has left that was killed: nobody extends its leases any more.
func unfence(log *slog.Logger) {
	if err := fence.Remove(log); err != nil {
		log.Warn("failed to remove the guard of leases that a predecessor may have left; it would silence the VIPs", "error", err)
	}
}

// describe validates a file and says in one line what it asks for; it touches nothing. The error is an
// [*app.ConfigError].
func describe(path string) (summary string, warnings conf.Errors, err error) {
	f, err := load(path)
	if err != nil {
		return "", nil, err
	}
	n := 0
	for i := range f.Spec.Services {
		n += len(f.Spec.Services[i].RealServers)
	}
	if f.Cluster != nil {
		// A file may be checked where the key is not.
		switch _, err := keyring.ReadFile(f.Cluster.KeyFile); {
		case errors.Is(err, fs.ErrNotExist):
			f.Warnings = append(f.Warnings, &conf.Error{File: path, Pos: conf.Pos{Line: 1, Column: 1}, Place: "cluster: key_file", Message: err.Error()})
		case err != nil:
			return "", nil, &app.ConfigError{Err: err}
		}
	}
	for i := range f.Notify {
		missing, err := notify.CheckFiles(&f.Notify[i])
		place := "director: notify: " + f.Notify[i].Name
		if missing != nil { // likewise
			f.Warnings = append(f.Warnings, &conf.Error{File: path, Pos: conf.Pos{Line: 1, Column: 1}, Place: place, Message: missing.Error()})
		}
		if err != nil {
			return "", nil, &app.ConfigError{Err: fmt.Errorf("%s: %s: %w", path, place, err)}
		}
	}
	if f.Replicated {
		return fmt.Sprintf("%s: good: a director of a cluster; VIPs and services are replicated", path), f.Warnings, nil
	}
	return fmt.Sprintf("%s: good: %d VIPs, %d services, %d real servers", path, len(f.Spec.VIPs), len(f.Spec.Services), n), f.Warnings, nil
}
