//go:build kernel

package arp

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// A host that claims an address which another one watches is told by its MAC, in both families, once its
// frames are seen; the watcher's own host and addresses that are not watched are no conflict.
func TestWatcherNamesOthersWhoClaimAnAddress(t *testing.T) {
	w := newWorld(t, "watcher", "thief")
	watching, thief := w.Machines()[0], w.Machines()[1]
	told := make(chan Conflict, 64)
	watcher := NewWatcher(nil, func(c Conflict) { told <- c })
	claims := make([]Claim, len(bothFamilies))
	for i, a := range bothFamilies {
		claims[i] = Claim{Interface: "eth0", Addr: a}
	}
	other := Claim{Interface: "eth0", Addr: netip.MustParseAddr("10.0.0.77")}
	watcher.Set([]Claim{other})
	ctx, cancel := context.WithCancel(t.Context())
	done := on(t, watching, func() { _ = watcher.Run(ctx) })
	defer func() { cancel(); <-done }()

	a := announcer(t, thief, Options{Burst: []time.Duration{0, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond, 1600 * time.Millisecond}})
	set(t, a, other)
	select {
	case c := <-told:
		if c.Addr != other.Addr {
			t.Fatalf("got %+v", c)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("not told")
	}
	watcher.Set(claims) // while it listens
	for len(told) > 0 {
		<-told
	}
	set(t, a, claims...)
	for seen := map[string]bool{}; len(seen) < len(bothFamilies); {
		select {
		case c := <-told:
			if c.MAC != macOf(thief) || c.Interface != "eth0" || c.Count == 0 {
				t.Fatalf("got %+v", c)
			}
			if c.Addr != other.Addr { // on its way
				seen[c.Addr.String()] = true
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("told of %v only", seen)
		}
	}
	list := watcher.Conflicts()
	if len(list) != 2 || list[0].MAC != macOf(thief) {
		t.Errorf("got %+v", list)
	}
	watcher.Set(nil)
	if list := watcher.Conflicts(); len(list) != 0 {
		t.Errorf("still %+v", list)
	}
}
