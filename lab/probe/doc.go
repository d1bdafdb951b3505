// Package probe is what a lab measures with: clients that see a cluster as its users do, and back ends
// that tell who they are.
//
// A probe is a process that writes one [Event] a line to its output. [Series] collects the events of
// one probe and answers the questions of an operator: how long could nobody connect, how many
// connections failed, which server got which share, how many streams survived. All times are readings
// of CLOCK_MONOTONIC, which every process of a lab shares.
package probe
