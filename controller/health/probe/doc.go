// Package probe asks real servers whether they serve: one file for each kind of check.
//
// A probe takes as long as its context, closes what it opened, and reads a bounded part of what is answered.
// Errors are for people, short, and without what everybody knows who sees them: the address.
package probe
