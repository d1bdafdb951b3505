// Package version knows which build of Drover this is.
package version

// Version is set by the linker (see the Makefile): the tag or commit that was built.
var Version = "unknown"
