// Package examples runs every folder here as a test: each is a story of an operator's life, played in
// the lab on a real IPVS kernel, and each runs by itself with `drover lab run examples/NAME`.
package examples
