// Package uml runs a command inside a user-mode Linux kernel that has IPVS: a complete network stack
// of its own, as an ordinary process of an ordinary user, gone when the command ends.
//
// The host side ([Run]) boots the kernel that Debian's package user-mode-linux ships. The guest side
// ([Init]) is the same program as PID 1: it lays a writable memory layer over the host's read-only
// files, mounts what a Linux system has, answers the kernel's module requests, runs the command,
// reaps orphans and powers off. Nothing of the host is written except the share folder.
//
//	host                              guest
//	Run: writes SHARE/job.json   -->  Init: reads it, starts the command
//	     boots linux.uml              console = standard input and output of the host process
//	     reads SHARE/exit.json   <--  writes the exit status there, powers off
package uml
