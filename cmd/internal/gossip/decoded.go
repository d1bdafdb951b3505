package gossip

import (
	"encoding/json"
	"sync"

	"github.com/drover-lb/drover/cluster"
)

// Decoded remembers what the records of a key mean, so that each is decoded once, and not each time that any
// of them changes. The zero value is ready. What it returns is shared, and must not be changed.
type Decoded[T any] struct {
	mu sync.Mutex // guards by
	by map[string]decoded[T]
}

type decoded[T any] struct {
	version cluster.Version
	value   T
	ok      bool
}

// Get decodes the JSON of a record; ok is false if it makes no sense.
func (d *Decoded[T]) Get(r *cluster.Record) (value T, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	x, known := d.by[r.Node]
	if known && x.version == r.Version {
		return x.value, x.ok
	}
	x = decoded[T]{version: r.Version}
	x.ok = json.Unmarshal(r.Value, &x.value) == nil
	if d.by == nil {
		d.by = make(map[string]decoded[T])
	}
	d.by[r.Node] = x
	return x.value, x.ok
}

// Keep forgets the records of nodes for which in is false.
func (d *Decoded[T]) Keep(in func(node string) bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for node := range d.by {
		if !in(node) {
			delete(d.by, node)
		}
	}
}
