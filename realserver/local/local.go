package local

import (
	"fmt"
	"net/netip"
	"slices"
)

// Protocol is a transport protocol, by its number in IP.
type Protocol uint8

const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String returns TCP or UDP.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "TCP"
	case UDP:
		return "UDP"
	}
	return fmt.Sprintf("Protocol(%d)", uint8(p))
}

// Service is a service of this host as clients see it.
type Service struct {
	Protocol Protocol
	At       netip.AddrPort // a VIP with its port
}

// String prints "TCP 192.0.2.10:80", as the directors call a service.
func (s Service) String() string { return s.Protocol.String() + " " + s.At.String() }

// Listener is a socket that takes what comes for an address, or for all.
type Listener struct {
	Protocol Protocol
	At       netip.AddrPort // unspecified: all addresses of its family
	Only     bool           // of an IPv6 socket: it takes no IPv4
}

// takes reports whether a listener takes what comes for a service.
func (l Listener) takes(s Service) bool {
	a := l.At.Addr()
	switch {
	case l.Protocol != s.Protocol || l.At.Port() != s.At.Port():
		return false
	case a.IsUnspecified():
		return a.Is4() == s.At.Addr().Is4() || a.Is6() && !l.Only
	}
	return a.Unmap() == s.At.Addr()
}

// Tracker remembers which services have had a listener. Its zero value has seen none.
type Tracker struct {
	seen map[Service]bool
	down map[Service]string
}

// Step takes in who listens now. It returns the services that had a listener and have none any more, with what is to
// be said about them, and whether that has changed. The map is not changed afterwards.
func (t *Tracker) Step(services []Service, listeners []Listener) (down map[Service]string, changed bool) {
	seen := make(map[Service]bool, len(services))
	down = make(map[Service]string)
	for _, s := range services {
		if slices.ContainsFunc(listeners, func(l Listener) bool { return l.takes(s) }) {
			seen[s] = true
			continue
		}
		if !t.seen[s] {
			continue
		}
		seen[s] = true
		down[s] = fmt.Sprintf("nobody listens at %s any more", s)
		i := slices.IndexFunc(listeners, func(l Listener) bool { return l.Protocol == s.Protocol && l.At.Port() == s.At.Port() })
		if i >= 0 {
			down[s] += ", only at " + listeners[i].At.String()
		}
	}
	changed = len(down) != len(t.down)
	for s, why := range down {
		changed = changed || t.down[s] != why
	}
	t.seen, t.down = seen, down
	return down, changed
}
