// Package controller is the heart of a director: a loop that compares what the spec asks for with
// what the kernel holds, and changes the difference.
//
// One goroutine, [Controller.Run], owns all state. It is woken by a new spec, by the clock, and by the
// kernel's notifications about addresses and interfaces; IPVS has none, so its table is read every
// reconcile interval. Everything else (files, signals, sockets, metrics) talks to that goroutine.
//
// # Order
//
// The order of changes is what keeps clients served, so it is fixed here and held by tests.
//
//   - Taking a VIP: the IPVS table first, then the address, then the announcement. So the first packet
//     that arrives finds its service.
//   - Giving a VIP up: the reverse. The announcement ends, the address goes, the services go last. An
//     address without its service would answer established connections with a reset.
//
// # VIPs
//
// A VIP is on its interface with a limited lifetime, which the loop renews each quarter of it. If the
// process is killed, hangs or is stopped for longer, the kernel takes the address away by itself. A
// process that comes back in time finds the VIP, adopts it and goes on.
//
// A VIP that is on the interface permanently and was not put there by a director is somebody else's
// (an entry of the distribution's network configuration, mostly). It is served and announced, but
// neither given a lifetime nor removed: a program that is asked to hold an address must not make one
// vanish that the host relies on. The status calls it "static", and the log says that the kernel will
// not take it away.
//
// # Ownership
//
// Under "listed" only those services are touched that the spec lists, or that it listed at an earlier
// time: their keys are in a state file before they are in the kernel, so that a process that was
// killed leaves them to its successor. Under "all" every other service is deleted.
//
// # Failures
//
// A change that fails does not keep back those that do not depend on it. It is tried again at the
// next tick, then after twice the interval, and so on up to a minute; it is logged when it begins to
// fail, when the reason changes, and when it has gone.
package controller
