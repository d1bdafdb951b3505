// Package load measures how loaded this host is, for weights that follow loads: 0 is idle, 1 fully used, and more than
// that is more than it can do at once. What measures is the kernel, or a program or a page of the operator.
package load
