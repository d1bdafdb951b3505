// Package sysctl keeps a set of kernel settings as a program wants them, and puts the earlier values
// back when the program goes.
//
// Each setting is a [Row] of a table: key, wanted value, how to compare, and the reason. [Keeper.Apply]
// writes what is not as wanted, [Keeper.Repair] writes again what somebody changed since, and
// [Keeper.Restore] puts back, in the reverse order, what was there before. The earlier values are in a
// state file before the first of them is overwritten, so a process that was killed leaves them to its
// successor, which never mistakes its predecessor's values for the original ones.
//
// Several programs on a host (a director and a real-server agent, say) may share one state file under
// different holder names. A setting that two of them want goes back to its earlier value when the
// last of them lets go.
//
// The settings are those of the network namespace of the calling thread, as everywhere under
// /proc/sys/net. Order matters for a few of them: writing net.ipv4.ip_forward resets other
// net.ipv4.conf settings (net/ipv4/devinet.c, inet_forward_change), so it has to be the first row.
package sysctl
