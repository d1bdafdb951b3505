// Package plan compares the IPVS table that a director wants with the one that the kernel has, and
// says in which order to change it. It is pure: it touches no kernel, no clock and no file, and the
// same input gives the same plan.
//
//	want := plan.Want(&file.Spec)
//	have := plan.StateOf(entries) // as read from the kernel
//	p := plan.Diff(want, have, plan.Owner(file.Director.Ownership, owned))
//
// The kernel is compared, not remembered: hand edits, leftovers of a crash and lost entries are all
// differences, and a table that is already right gives an empty plan.
package plan
