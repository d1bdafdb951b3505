// Package election decides which director of a cluster is active for a group of virtual addresses.
//
// It is a state machine without clocks, goroutines and I/O: messages, ticks and calls go in, an [Output] of
// messages, role changes and events comes out. The same calls give the same output. One [Core] serves all
// groups of a node; it is not safe for concurrent use.
//
// # Lease mode
//
// Voters grant a group to one candidate at a time for [Config.Lease], counted on the voter's clock from the
// receipt of the request. The candidate counts a grant from the moment it sent that request, less
// [Config.Drift], and is active while the grants of a majority of the voters are unexpired:
//
//	candidate holds until  sent + Lease - Drift   on its clock
//	voter    holds until  received + Lease       on its clock,  received >= sent
//
// With clock rates between 0.9 and 1.1 of real time and Drift = 0.2 Lease the candidate ends first:
// 0.8/0.9 < 1/1.1. At Until - [Config.GiveUp] the role becomes [Yielding], and the address has to be gone at
// Until; whoever puts it on an interface should let the kernel take it away then.
//
// A voter keeps nothing on disk. After a start it grants nothing for one Lease, in which all that it may have
// granted before ends. There is one exception: a candidate that holds an unexpired grant of the voter's former life
// says so and gets it again, because while that grant runs the voter cannot have granted anything to anybody else.
// So a restarted witness costs an active director nothing.
//
// Late, duplicate and replayed packets change nothing. A request names the incarnations of both sides,
// a session number that the voter gave to this incarnation of the candidate and that rises with every new one,
// and a sequence number. Packets from before a restart of the voter name another incarnation, packets from before
// a restart of the candidate a smaller session, older packets of the same session a smaller sequence number.
// A new incarnation of a candidate does not inherit, extend or cancel a grant of the former one: the former one's
// address may still be there.
//
// An activation has an epoch above all that its voters have granted before. A voter that has lost its memory takes
// [Config.Epoch] as the newest; with a wall clock there, epochs rise even when all voters restart.
//
// A voter refuses a candidate which has stored less than the newest acknowledged [Version] that it has heard of.
// [Core.Confirmed] tells what a majority of voters knew of while they granted: a change that is stored where it has to be and
// confirmed is not lost to an election of that group, unless a majority of voters loses its memory. Another
// group may at that moment go to a candidate that lacks the change, so the active one of one and the same group has to
// order all changes.
//
// Before it campaigns, a candidate asks without taking anything (a probe). A voter remembers whom it refused and
// tells them when the group becomes free; the probe is repeated every half Lease in case that message gets lost.
//
// # Priority mode
//
// For two hosts without a third voter: see [PriorityMode]. Two directors that do not hear each other are
// both active.
package election
