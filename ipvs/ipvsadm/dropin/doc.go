// Package dropin is the program ipvsadm 1.31, with ipvsadm-save and ipvsadm-restore: the same command
// lines, the same output and exit statuses, on the kernel's IPVS through package ipvs. docs/ipvsadm.md
// lists where it differs, and a test runs both on two tables of one kernel.
//
// [Parse] turns a command line into a [Command] and touches nothing; the names of hosts and ports that it
// needs come from a [Resolver]. [Rules] splits what -R reads into command lines. [Run] does the rest.
//
// The grammar of the command line is that of the library popt, which the original uses and no Go library
// has: an option may have an optional argument (-p 600, -p600, -p=600, and -p alone), short options are
// combined with and without an argument (-Ln, -At VIP:80), long options are never abbreviated, options and
// arguments may be mixed, and the first option is the command. Hence the parser of its own.
package dropin
