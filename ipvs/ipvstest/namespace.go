// Package ipvstest prepares network namespaces for tests that need a kernel with IPVS and root, as in
// `drover lab exec`.
package ipvstest

import (
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the interface d0 in a new namespace: two networks of real servers and two VIPs.
var Addresses = []string{"10.0.0.1/8", "fd00::1/16", "192.0.2.10/32", "2001:db8::10/128"}

// NewNamespace moves the test into a network namespace of its own with an interface d0 that has
// [Addresses]. The thread is never given back, so the namespace ends with the test.
func NewNamespace(t testing.TB) {
	t.Helper()
	if out, err := exec.Command("modprobe", "ipv6").CombinedOutput(); err != nil {
		t.Fatalf("failed to load module ipv6: %v: %s", err, out)
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("failed to make a network namespace (root is needed): %v", err)
	}
	if err := setUp(); err != nil {
		t.Fatalf("failed to set up a network namespace: %v", err)
	}
}

func setUp() error {
	d0 := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "d0"}}
	if err := netlink.LinkAdd(d0); err != nil {
		return fmt.Errorf("failed to add d0: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	for _, l := range []netlink.Link{lo, d0} {
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	for _, a := range Addresses {
		if err := AddAddress(a); err != nil {
			return err
		}
	}
	return nil
}

// AddAddress adds an address with its prefix length to d0.
func AddAddress(a string) error {
	d0, err := netlink.LinkByName("d0")
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(a)
	if err != nil {
		return err
	}
	if addr.IP.To4() == nil {
		addr.Flags = unix.IFA_F_NODAD
	}
	if err := netlink.AddrAdd(d0, addr); err != nil {
		return fmt.Errorf("failed to add %s to d0: %w", a, err)
	}
	return nil
}

// Ipvsadm runs ipvsadm in the namespace of the calling thread, and fails the test if it fails.
func Ipvsadm(t testing.TB, args ...string) string {
	t.Helper()
	return IpvsadmInput(t, "", args...)
}

// IpvsadmInput runs ipvsadm with input.
func IpvsadmInput(t testing.TB, input string, args ...string) string {
	t.Helper()
	cmd := exec.Command("/sbin/ipvsadm", args...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("ipvsadm %s (Debian package ipvsadm): %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}
