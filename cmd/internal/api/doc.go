// Package api is what a director's socket speaks: the values that travel over it as JSON, and a client.
// The server's side is in the director.
package api
