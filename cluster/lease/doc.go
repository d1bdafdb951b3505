// Package lease runs the election of package election on a clock and a network.
//
// One goroutine, [Keeper.Run], owns the state machine. It is woken by messages, by the machine's own
// deadlines and by calls, and hands out what the machine wants: messages to be sent, leases that were won,
// extended or lost.
//
// Times are those of CLOCK_BOOTTIME, which goes on while the machine is suspended: a director that wakes up
// must find its lease ended. A hypervisor that stops a guest together with all its clocks cannot be noticed
// from inside.
package lease
