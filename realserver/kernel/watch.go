package kernel

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// resubscribeDelay is the pause before a subscription that was lost is taken out again.
const resubscribeDelay = time.Second

// Changed has a value when an address, an interface or one of the watched settings may have changed
// since it was last received from.
func (k *Kernel) Changed() <-chan struct{} { return k.changed }

func (k *Kernel) wake() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Watch feeds Changed until ctx ends. settings are paths below /proc/sys; a change of them by way of
// another mount of /proc is not noticed. Watch has to be called in the network namespace of the Kernel.
func (k *Kernel) Watch(ctx context.Context, log *slog.Logger, settings ...string) {
	var events chan fsnotify.Event
	if w, err := fsnotify.NewWatcher(); err != nil {
		log.Debug("changes of settings are noticed at the next check only", "error", err)
	} else {
		defer w.Close()
		for _, s := range settings {
			if err := w.Add(filepath.Join("/proc/sys", s)); err != nil {
				log.Debug("changes of a setting are noticed at the next check only", "path", s, "error", err)
			}
		}
		events = w.Events
	}
	failing := false
	for ctx.Err() == nil {
		err := k.follow(ctx, events)
		if ctx.Err() != nil {
			return
		}
		// The kernel drops messages that are not read fast enough, and says so: then all has to be read anew.
		if err != nil && !failing {
			log.Warn("failed to watch the kernel; changes are noticed at the next check only", "error", err)
		}
		failing = err != nil
		k.wake()
		select {
		case <-time.After(resubscribeDelay):
		case <-ctx.Done():
		}
	}
}

// follow returns nil when a subscription was lost, and an error when none could be had.
func (k *Kernel) follow(ctx context.Context, settings <-chan fsnotify.Event) error {
	done := make(chan struct{})
	addrs, links := make(chan netlink.AddrUpdate, 64), make(chan netlink.LinkUpdate, 64)
	defer close(done) // closes the library's sockets, upon which it closes the channels
	const buffer = 1 << 20
	quiet := func(error) {} // the library would print it; it closes the channel as well
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{ErrorCallback: quiet, ReceiveBufferSize: buffer}); err != nil {
		return fmt.Errorf("failed to subscribe to address messages: %w", err)
	}
	defer drain(addrs)
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: quiet, ReceiveBufferSize: buffer}); err != nil {
		return fmt.Errorf("failed to subscribe to link messages: %w", err)
	}
	defer drain(links)

	k.wake() // for what happened before the subscription
	// Most link messages are about counters and ports of bridges.
	type state struct {
		name             string
		answers, running bool
		master           int
	}
	known := make(map[int]state)
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-addrs:
			if !ok {
				return nil
			}
			k.wake()
		case u, ok := <-links:
			if !ok {
				return nil
			}
			a := u.Attrs()
			if u.Family != unix.AF_UNSPEC {
				continue
			}
			if u.Header.Type == unix.RTM_DELLINK {
				delete(known, a.Index)
				k.wake()
				continue
			}
			l := linkOf(u.Link, "", nil)
			now := state{name: a.Name, answers: l.Answers, running: l.Running, master: a.MasterIndex}
			if before, ok := known[a.Index]; !ok || before != now {
				known[a.Index] = now
				k.wake()
			}
		case _, ok := <-settings:
			if !ok {
				settings = nil
				continue
			}
			k.wake()
		}
	}
}

// drain lets the library's goroutine end: it blocks while the channel is full.
func drain[T any](ch <-chan T) {
	go func() {
		for range ch {
		}
	}()
}
