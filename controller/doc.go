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
// # Several directors
//
// With [Options.Roles] a director is one of several, and somebody else, an election mostly, tells it by
// [Controller.SetRole] for which groups of VIPs it is active. A group is standby until then.
//
//   - Services are programmed whatever the role, so that a standby has its table ready.
//   - Taking a group is the address and its announcement, nothing else; a pass over everything follows.
//     It does not wait for the table: while the kernel lists or changes that, or loads a module, or a disk
//     is written to, the loop serves roles and renewals. Where no service of a VIP is in the kernel, the
//     VIP waits for the next pass, and the call of SetRole with it.
//   - Giving a group up is the reverse: the announcements end, the addresses go, the services stay.
//   - A standby neither puts nor renews a VIP. What a killed predecessor left is taken off before anything
//     that may take long, and [Controller.Ready] is not closed before it is gone.
//   - Before each time that an address is put or renewed, [Options.Leased] is asked whether the lease still
//     holds. A process that was stopped may wake up in the middle of anything; what it does first to the
//     addresses is to take off what is not its own any more.
//   - A VIP that somebody else has put there for good stays on a standby, as it does everywhere. It is not
//     announced, the fence silences it where there is one, and the status and the log say that two hosts
//     may answer.
//   - on_stop: keep keeps the table, but no VIP: without its director it has no lease. The sync daemons stay
//     too, and backup_only is put back to 0, so that the table forwards what arrives; but not on a host that
//     is also a real server for a VIP.
//   - An address whose setting has failed may come later all the same. It counts as being on the interface, and
//     the fence stays, until the kernel has said otherwise.
//
// Between the question to Leased and its effect the process may be stopped too, and a stopped process
// takes nothing off. That is what the [Fence] is for, which is the kernel's own and knows the end of the
// lease; without it the lifetime of the address is all there is.
//
// # Connection synchronisation
//
// With [Options.Sync] the kernel's daemons follow the role: the master runs where a group is active, the
// backup where one is standby. They are compared and put right with each pass like everything else, and
// what fails there keeps nobody from taking over.
//
// Without it they are left alone; but backup_only is set to 0 once at the start, loudly if it was not, as with
// the backup daemon of a clustered predecessor nothing would be forwarded.
//
// At a takeover the daemons change after the address and its announcement. Starting and stopping them
// makes and ends threads and joins a multicast group, under locks of the kernel that others may hold, and
// behind a listing of the table that is under way on the same socket; no client should wait for that.
// The price is that what happens to connections in between is sent with their next change, or with the
// refresh. The new daemon is started before the old one ends, so a director hears or speaks at any time.
// What does come before the address is net.ipv4.vs.backup_only=0, one write: while that is 1 and the backup
// runs, IPVS forwards nothing.
//
// A standby has backup_only=1, so that on a host which is director and real server at once the packets
// that the active director sends to the real server are not forwarded by the table that is kept ready.
// With two groups on two such hosts, each active for one, both have to forward, and packets that both
// tables know can go back and forth: run the real servers on hosts of their own then.
//
// # Health
//
// With [Options.Health] the table has those servers only that are fit for traffic: what is wanted is a function of
// the file, of what the checks say, and, for servers of which they do not know yet, of the table itself. A change
// of health is applied at once, without the rest of a pass. The checks need services of their own in the table,
// by firewall mark; they are kept apart from all others from the listing on, and shown to nobody.
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
