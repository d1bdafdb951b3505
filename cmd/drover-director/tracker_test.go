package main

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLinkTrouble(t *testing.T) {
	for flags, want := range map[uint32]string{
		0:                                   "interface eth0 is switched off",
		unix.IFF_LOWER_UP:                   "interface eth0 is switched off",
		unix.IFF_UP:                         "interface eth0 has no carrier",
		unix.IFF_UP | unix.IFF_RUNNING:      "interface eth0 has no carrier",
		unix.IFF_UP | unix.IFF_LOWER_UP:     "",
		^uint32(0):                          "",
		^uint32(unix.IFF_UP):                "interface eth0 is switched off",
		^uint32(0) ^ unix.IFF_LOWER_UP:      "interface eth0 has no carrier",
		unix.IFF_BROADCAST | unix.IFF_NOARP: "interface eth0 is switched off",
	} {
		if got := linkTrouble("eth0", flags); got != want {
			t.Errorf("flags %#x: %q, want %q", flags, got, want)
		}
	}
}

// The kernel of the machine is asked, which needs no rights.
func TestTrack(t *testing.T) {
	lo, err := net.InterfaceByName("lo")
	if err != nil {
		t.Skipf("no loopback interface: %v", err)
	}
	loopback := ""
	if lo.Flags&net.FlagUp == 0 {
		loopback = "interface lo is switched off"
	}
	type verdict struct{ iface, why string }
	var mu sync.Mutex
	names := []string{"lo", "drover-no1"}
	verdicts := make(chan verdict, 100)
	again := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		track(ctx, slog.New(slog.DiscardHandler), func() []string {
			mu.Lock()
			defer mu.Unlock()
			return names
		}, again, func(iface, why string) { verdicts <- verdict{iface, why} })
	}()
	expect := func(want verdict) {
		t.Helper()
		select {
		case got := <-verdicts:
			if got != want {
				t.Fatalf("got %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("nothing about %q", want)
		}
	}
	expect(verdict{"lo", loopback})
	expect(verdict{"drover-no1", "there is no interface drover-no1"})
	mu.Lock()
	names = []string{"lo", "drover-no1", "drover-no2"}
	mu.Unlock()
	nudge(again)
	expect(verdict{"drover-no2", "there is no interface drover-no2"}) // and nothing about the others again
	cancel()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("does not end")
	}
	if len(verdicts) != 0 {
		t.Errorf("told again: %q", <-verdicts)
	}
}
