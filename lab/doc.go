// Package lab runs whole clusters on a real IPVS kernel and breaks them on purpose.
//
// A folder with a lab.yaml describes hosts, networks, what runs on each host, and a scenario of steps
// and expectations ([Load]). [Run] builds the cluster out of network namespaces ([topology]), starts
// the processes, plays the scenario while probes ([probe]) measure what a client sees, and reports.
//
// The same folder runs in user-mode Linux as an ordinary user and, where the host's kernel has IPVS
// and one is root, in namespaces of the host.
package lab
