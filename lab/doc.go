// Package lab runs whole clusters on a real IPVS kernel and breaks them on purpose.
//
// A folder with a lab.yaml describes hosts, networks, what runs on each host, and a scenario of steps
// and expectations ([Load]). [Run] builds the cluster out of network namespaces ([topology]), starts
// the processes, plays the scenario while probes ([probe]) measure what a client sees, and reports.
//
// Faults are cables cut, hosts kept apart, packets lost, processes killed or frozen, and power failures.
// That two hosts hold an address at once is found out in two ways: by asking for it on the link every few
// milliseconds, and by the kernel's own events about addresses. The first counts, because a host that has
// the address and is silent, or that nobody can reach, harms nobody. A measure step writes down what a
// fault has cost, and [Summarise] gathers that over many rounds. Of the faults of a real server that is the time to the
// last connection that was still sent there, or to the last question for the address that the wrong host answered.
//
// A back end may be given workers and a service time, so that a server that is slow, and its queue, can be had on a kernel
// with one processor; a latency expectation compares what clients wait with an earlier time of the same run.
//
// The same folder runs in user-mode Linux as an ordinary user and, where the host's kernel has IPVS
// and one is root, in namespaces of the host.
package lab
