package probe

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/drover-lb/drover/arp"
	"github.com/drover-lb/drover/arp/frame"
)

// Claimants asks on the link who has addr, every d, and reports after each d who has answered in it.
// Announcements count too: whoever claims the address is heard by every host on the link.
func Claimants(ctx context.Context, w *Writer, addr netip.Addr, d time.Duration) error {
	ifname, err := linkOf(addr)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	heard := map[string]bool{}
	p := arp.Prober{Interval: d, Notify: func(mac frame.MAC, _ frame.Kind, _ time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		heard[mac.String()] = true
	}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		_, err := p.Probe(ctx, ifname, addr, 24*time.Hour)
		cancel(err)
	}()
	w.Write(Event{Kind: Ready, At: Now()})
	start := Now()
	every(ctx, d, func(n int) {
		if n == 0 {
			return
		}
		mu.Lock()
		e := Event{Kind: Answers, Start: start, At: Now()}
		for m := range heard {
			e.MACs = append(e.MACs, m)
		}
		clear(heard)
		mu.Unlock()
		slices.Sort(e.MACs)
		start = e.At
		w.Write(e)
	})
	if err := context.Cause(ctx); err != context.Canceled {
		return err
	}
	return nil
}

// linkOf returns the interface in whose subnet addr lies.
func linkOf(addr netip.Addr) (string, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, i := range ifs {
		addrs, err := i.Addrs()
		if err != nil {
			return "", err
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && p.Contains(addr) && !p.IsSingleIP() && i.Flags&net.FlagLoopback == 0 {
				return i.Name, nil
			}
		}
	}
	return "", fmt.Errorf("%s lies in no subnet of this host", addr)
}
