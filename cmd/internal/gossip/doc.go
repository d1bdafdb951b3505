// Package gossip makes a node of package cluster, and the election's keeper on top of it, out of the
// cluster mapping of a daemon's file. Directors and real servers share it.
package gossip
