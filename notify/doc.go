// Package notify tells operators what happens: over webhooks, by programs and by mail.
//
// A [Notifier] never makes the one wait who has something to tell: [Notifier.Add] puts an event into a queue and returns. Each sink
// has a queue and a goroutine of its own, gets its events one after the other in their order, and is tried again with growing pauses
// until an event is too old; so a sink that is slow or gone delays no other. What is dropped is counted, and said.
package notify
