// Package settings reads the `cluster:` mapping that the files of all daemons of a cluster share: who
// this node is, who votes, how long a lease is, where the key is.
//
// It is a leaf: values in, complaints with line and column out.
package settings
