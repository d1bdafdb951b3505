// Package local finds out at a real server itself whether its services are there: whether somebody listens where
// the clients' packets arrive, at the VIPs. That is cheap enough to be asked ten times a second, and so the end of
// a service is known before a probe over the network would have been due.
//
// Only the loss of a listener counts. Where nobody has been seen listening nothing is said: the service may be behind
// a rule that changes addresses, or be none of the kernel's sockets, and the directors' probes know better.
package local
