// Package kernel is a director's way to the kernel: the IPVS table through [ipvs.Client], the virtual
// IPs and the interfaces that carry them through rtnetlink. It decides nothing; the reconcile loop of
// package controller does.
//
// A [Kernel] belongs to the network namespace in which it was opened, and every call of it is bounded
// in time. Commands need CAP_NET_ADMIN.
package kernel
