package sysctl

import (
	"fmt"
	"strings"
)

// perInterface are the directories of /proc/sys that have one subdirectory an interface. The name of
// an interface may contain dots, so what is between such a directory and the last part is the name.
var perInterface = []string{"net/ipv4/conf/", "net/ipv4/neigh/", "net/ipv6/conf/", "net/ipv6/neigh/", "net/mpls/conf/"}

// Path returns the file of a key below /proc/sys. It takes the forms that sysctl(8) takes: dots as
// separators with a dot inside a name written as "/" (net.ipv4.conf.eth0/100.arp_ignore), or slashes
// throughout (net/ipv4/conf/eth0.100/arp_ignore). Beyond that, net.ipv4.conf.eth0.100.arp_ignore means
// what it looks like.
func Path(key string) (string, error) {
	path := key
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '.' {
		path = swapDots(key)
	}
	for _, dir := range perInterface {
		rest, ok := strings.CutPrefix(path, dir)
		if !ok {
			continue
		}
		if i := strings.LastIndexByte(rest, '/'); i > 0 {
			path = dir + strings.ReplaceAll(rest[:i], "/", ".") + rest[i:]
		}
	}
	parts := strings.Split(path, "/")
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "\x00\n") {
			return "", fmt.Errorf("%q is not a sysctl key such as net.ipv4.conf.all.arp_ignore", key)
		}
	}
	if len(parts) < 2 || strings.Contains(parts[0], ".") {
		return "", fmt.Errorf("%q is not a sysctl key such as net.ipv4.conf.all.arp_ignore", key)
	}
	return path, nil
}

// Key is the inverse of [Path]: the form that sysctl(8) prints and accepts.
func Key(path string) string { return swapDots(path) }

// Interface returns the key of a setting of one interface: Interface("ipv4", "conf", "eth0.100",
// "arp_ignore") is net.ipv4.conf.eth0/100.arp_ignore.
func Interface(family, dir, name, setting string) string {
	return "net." + family + "." + dir + "." + swapDots(name) + "." + setting
}

// swapDots works on bytes: the name of an interface need not be UTF-8.
func swapDots(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch c {
		case '.':
			b[i] = '/'
		case '/':
			b[i] = '.'
		}
	}
	return string(b)
}
