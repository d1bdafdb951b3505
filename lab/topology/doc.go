// Package topology builds hosts and networks out of the kernel's namespaces and breaks them.
//
// A host is an operating system thread of this process that has its own network, mount and host name
// namespaces; what is started on it inherits them. Its cable is a pair of virtual interfaces, the far
// end plugged into a bridge in the switch, which is one more network namespace. Faults are made on the
// switch side, so that a host notices no more than a real one would. A host that is switched off loses its
// thread, and with it the namespaces; switched on again it is a new one. Everything is gone when the
// process ends; needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN).
package topology
