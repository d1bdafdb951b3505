// Package cluster is one node of a gossip cluster: who is there, messages between nodes, records that every
// node has a copy of, and the keys that all of it is encrypted with.
//
// A Node does nothing until Run. From then on it listens, joins the seeds and joins them again for ever, so
// that the sides of a partition find each other however long it lasted. Gossip only informs: finding out
// that a member failed takes seconds, and nothing that must be safe may hang on it.
//
// In a cluster of more than 32 members a change of a record that is not a director's is known to the directors at
// once, and to the others with the exchange of everything, which takes up to minutes. A director's is known to
// all within a second.
//
// # Trust
//
// Whoever has the key is a member, and can speak in the name of any node: there are no identities of
// single nodes. Packets of others are counted and dropped. A packet that was recorded and is sent again is
// dropped while the receiver remembers its sender: each message carries the epoch of its sender's start and
// a number, and goes through a window. A node that has just started remembers nobody; protocols above that
// must not be fooled bring their own numbers.
//
// # Bytes
//
// A message is the user message of memberlist, which is labelled and encrypted (AES-GCM), and holds
//
//	type 1 | epoch 8 | number 8 | kind 1 | length 1, name of the sender | length 1, name of the receiver | payload
//
// with integers in big endian. Types are in envelope.go, the form of records in records.go.
package cluster
