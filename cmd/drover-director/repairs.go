package main

import (
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/notify/sink"
)

// repairShown is for how long it is shown with a real server that its agent has put something right.
const repairShown = 10 * time.Minute

// repairs knows which repairs of agents are events already: the newest of each node. Times are those of the node.
type repairs map[string]time.Time

// news returns the repairs of a node that are newer than those before. Of a node that is seen first, none is: they may be
// from before this director started.
func (r repairs) news(node string, list []api.Repair) (out []api.Repair) {
	known, seen := r[node]
	newest := known
	for _, x := range list {
		if x.When.After(known) && seen {
			out = append(out, x)
		}
		if x.When.After(newest) {
			newest = x.When
		}
	}
	r[node] = newest
	return out
}

// keep forgets the nodes that are not known any more.
func (r repairs) keep(known func(node string) bool) {
	maps.DeleteFunc(r, func(node string, _ time.Time) bool { return !known(node) })
}

// repaired keeps that the agent of a node has put something right.
func (e *events) repaired(node string, x api.Repair) {
	e.put(slog.LevelWarn, api.Event{Kind: sink.Health, Server: node, Text: fmt.Sprintf("%s: %s", node, x.What)}, true)
}
