package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// trackRetry is how long the tracker waits after it has lost the kernel's notifications.
const trackRetry = time.Second

// track watches the interfaces that the VIPs go onto, until ctx ends, and calls judge with why a director
// cannot serve on one of them, "" if it can, whenever that changes. names is asked each time.
func track(ctx context.Context, log *slog.Logger, names func() []string, again <-chan struct{}, judge func(iface, why string)) {
	known := make(map[string]string)
	state := make(map[string]string)
	settled := false // the first listing, which comes in parts, has been seen
	look := func() {
		if !settled {
			return
		}
		for _, name := range names() {
			why, there := state[name]
			if !there {
				why = "there is no interface " + name
			}
			if old, was := known[name]; !was || old != why {
				known[name] = why
				judge(name, why)
			}
		}
	}
	index := make(map[int32]string)
	for ctx.Err() == nil {
		updates := make(chan netlink.LinkUpdate, 64)
		stop := make(chan struct{})
		clear(state)
		clear(index)
		err := netlink.LinkSubscribeWithOptions(updates, stop, netlink.LinkSubscribeOptions{
			ListExisting:  true,
			ErrorCallback: func(err error) { log.Debug("notifications of interfaces broke off", "error", err) },
		})
		if err != nil {
			log.Warn("failed to watch the interfaces, trying again", "error", err)
			updates = nil
		}
		settled = false
		settle := time.NewTimer(50 * time.Millisecond)
		for open := updates != nil; open; {
			select {
			case <-ctx.Done():
				open = false
			case <-again:
				look()
			case <-settle.C:
				settled = true
				look()
			case u, ok := <-updates:
				if !ok {
					open = false
					break
				}
				if old := index[u.Index]; old != "" && old != u.Attrs().Name || u.Header.Type == unix.RTM_DELLINK {
					delete(state, old)
				}
				name := u.Attrs().Name
				if u.Header.Type == unix.RTM_DELLINK {
					delete(index, u.Index)
					delete(state, name)
				} else {
					index[u.Index] = name
					state[name] = linkTrouble(name, u.Attrs().RawFlags)
				}
				look()
			}
		}
		settle.Stop()
		close(stop)
		if updates != nil {
			go func() { // the library blocks while it hands over, and ends by closing the channel
				for range updates {
				}
			}()
		}
		select {
		case <-ctx.Done():
		case <-time.After(trackRetry):
		}
	}
}

// linkTrouble says why nobody can be served on an interface with these flags.
func linkTrouble(name string, flags uint32) string {
	switch {
	case flags&unix.IFF_UP == 0:
		return fmt.Sprintf("interface %s is switched off", name)
	case flags&unix.IFF_LOWER_UP == 0:
		return fmt.Sprintf("interface %s has no carrier", name)
	}
	return ""
}

// lookAt says why nobody can be served on an interface, as it is now; "" if somebody can.
func lookAt(name string) string {
	ifi, err := net.InterfaceByName(name)
	switch {
	case err != nil:
		return "there is no interface " + name
	case ifi.Flags&net.FlagUp == 0:
		return linkTrouble(name, 0)
	case ifi.Flags&net.FlagRunning == 0:
		return linkTrouble(name, unix.IFF_UP)
	}
	return ""
}
