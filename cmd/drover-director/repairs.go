package main

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/notify/sink"
)

// repairShown is for how long it is shown with a real server that its agent has put something right.
const repairShown = 10 * time.Minute

// repairs knows which repairs of agents are events already: those that each node told of last.
type repairs map[string][]api.Repair

// news returns the repairs of a node that it did not tell of before; by what they are and not by their times alone, which are
// those of the node's clock. Of a node that is seen first, none is: they may be from before this director started.
func (r repairs) news(node string, list []api.Repair) (out []api.Repair) {
	before, seen := r[node]
	for _, x := range list {
		if seen && !slices.ContainsFunc(before, func(y api.Repair) bool { return y.What == x.What && y.When.Equal(x.When) }) {
			out = append(out, x)
		}
	}
	r[node] = list
	return out
}

// keep forgets the nodes that are not known any more.
func (r repairs) keep(known func(node string) bool) {
	maps.DeleteFunc(r, func(node string, _ []api.Repair) bool { return !known(node) })
}

// repaired keeps that the agent of a node has put something right.
func (e *events) repaired(node string, x api.Repair) {
	e.put(slog.LevelWarn, api.Event{Kind: sink.Health, Server: node, Text: fmt.Sprintf("%s: %s", node, x.What)}, true)
}
