package ipvsadm

import (
	"bytes"
	"iter"
	"slices"

	"github.com/drover-lb/drover/ipvs"
)

// rows are the lines of the destinations of some services, kept as text with what they are sorted by: a
// third of the memory of the entries.
type rows struct {
	rows   []row
	starts [batchSize + 1]int // of the rows of each service, and the end of the last
	last   int                // service that has rows
	order  []int32
	tmp    []int32  // for sorting
	blocks [][]byte // of text, each of blockSize; they are not moved when there are more
	used   int      // of the blocks
}

type row struct {
	key  destKey
	text uint32 // block * blockSize + offset in it
}

const (
	blockSize = 64 << 10
	// lineSize bounds a line: an endpoint of at most 59 bytes and five numbers of at most 20 digits, or
	// a rule with two endpoints.
	lineSize = 256
)

func (t *rows) reset() {
	t.rows, t.used, t.last = t.rows[:0], 0, 0
	clear(t.starts[:])
	for i := range t.blocks {
		t.blocks[i] = t.blocks[i][:0]
	}
}

// add adds a line for a destination of a service, which does not fall.
func (t *rows) add(service int, d *ipvs.DestinationEntry, line func([]byte) []byte) {
	if t.used == 0 || len(t.blocks[t.used-1])+lineSize > blockSize {
		if t.used == len(t.blocks) {
			t.blocks = append(t.blocks, make([]byte, 0, blockSize))
		}
		t.used++
	}
	block := &t.blocks[t.used-1]
	text := (t.used-1)*blockSize + len(*block)
	*block = line(*block)
	if len(t.rows) == cap(t.rows) { // append alone would move a long list some twenty times
		t.rows = slices.Grow(t.rows, max(128, 3*len(t.rows)))
	}
	t.finish(service)
	t.rows = append(t.rows, row{keyOf(d), uint32(text)})
}

// finish ends the rows of the services before one.
func (t *rows) finish(service int) {
	for ; t.last < service; t.last++ {
		t.starts[t.last+1] = len(t.rows)
	}
}

// of yields the lines of a service, when all are there.
func (t *rows) of(service int, sorted bool) iter.Seq[[]byte] {
	t.finish(batchSize)
	mine := t.rows[t.starts[service]:t.starts[service+1]]
	t.order = slices.Grow(t.order[:0], len(mine))
	for i := range mine {
		t.order = append(t.order, int32(i))
	}
	if sorted {
		t.tmp = mergeSort(t.order, t.tmp, func(a, b *int32) int { return mine[*a].key.compare(&mine[*b].key) })
	}
	return func(yield func([]byte) bool) {
		for _, i := range t.order {
			text := t.blocks[mine[i].text/blockSize][mine[i].text%blockSize:]
			if !yield(text[:bytes.IndexByte(text, '\n')+1]) {
				return
			}
		}
	}
}
