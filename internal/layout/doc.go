// Package layout holds the shape of the source tree: which package may import which, and that every
// package says what it is for. It has tests only.
package layout
