package app

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// Notifier tells systemd how a daemon is. Without systemd it does nothing. Its methods do not block and
// may be called from any goroutine.
type Notifier struct {
	log      *slog.Logger
	messages chan string   // for Run
	alive    chan struct{} // capacity 1
	every    time.Duration // between two signs of life; 0 without watchdog
}

// NewNotifier reads the environment that systemd sets (sd_notify(3), sd_watchdog_enabled(3)).
func NewNotifier(log *slog.Logger) *Notifier {
	n := &Notifier{log: log, messages: make(chan string, 16), alive: make(chan struct{}, 1)}
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("systemd's watchdog settings make no sense; it is not fed", "error", err)
	}
	n.every = interval / 4
	return n
}

// Heartbeat is how often Alive has to be called at least; 0 if nobody watches.
func (n *Notifier) Heartbeat() time.Duration { return n.every }

// Ready says that the daemon does its work, also after Reloading.
func (n *Notifier) Ready() { n.send(daemon.SdNotifyReady) }

// Reloading says that a new configuration is being read; Ready ends it.
func (n *Notifier) Reloading() {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return
	}
	n.send(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, ts.Nano()/1000))
}

// Stopping says that the daemon is about to end.
func (n *Notifier) Stopping() { n.send(daemon.SdNotifyStopping) }

// Status shows one line for people in systemctl status.
func (n *Notifier) Status(s string) { n.send("STATUS=" + s) }

// Alive feeds the watchdog.
func (n *Notifier) Alive() {
	if n.every == 0 {
		return
	}
	select {
	case n.alive <- struct{}{}:
	default:
	}
}

func (n *Notifier) send(s string) {
	select {
	case n.messages <- s:
	default: // systemd does not read: nothing to be done about it here
	}
}

// Run passes on to systemd what the other methods were told, until stop is closed and everything told
// before has been passed on.
func (n *Notifier) Run(stop <-chan struct{}) {
	var fed time.Time
	failed := false
	pass := func(s string) {
		if _, err := daemon.SdNotify(false, s); err != nil && !failed {
			n.log.Warn("failed to notify systemd", "error", err)
			failed = true
		}
	}
	for {
		select {
		case s := <-n.messages:
			pass(s)
		case <-n.alive:
			if time.Since(fed) >= n.every/2 {
				pass(daemon.SdNotifyWatchdog)
				fed = time.Now()
			}
		case <-stop:
			for {
				select {
				case s := <-n.messages:
					pass(s)
				default:
					return
				}
			}
		}
	}
}
