// Package kernel is the network configuration of a real server's kernel as the agent needs it: which
// interfaces and addresses there are, putting a VIP on and taking it off, and being told of changes.
package kernel
