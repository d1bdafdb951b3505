// Package spec is the desired state of a director as validated values: virtual IPs, services and
// their real servers. It reads them from YAML and refuses what the kernel would silently ignore or
// bend (another port in direct routing, a weight that does not fit). It touches nothing and is pure.
package spec
