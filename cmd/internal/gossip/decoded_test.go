package gossip

import (
	"testing"

	"github.com/drover-lb/drover/cluster"
)

func TestDecoded(t *testing.T) {
	var d Decoded[map[string]int]
	r := func(node, value string, counter uint64) *cluster.Record {
		return &cluster.Record{Node: node, Value: []byte(value), Version: cluster.Version{Epoch: 1, Counter: counter}}
	}
	for _, step := range []struct {
		r    *cluster.Record
		want int
		ok   bool
	}{
		{r("a", `{"x":1}`, 1), 1, true},
		{r("b", `{"x":2}`, 1), 2, true},
		{r("a", `{"x":9}`, 1), 1, true}, // of the same version: not looked at
		{r("a", `{"x":3}`, 2), 3, true},
		{r("b", `[]`, 2), 0, false},
		{r("b", `{"x":4}`, 2), 0, false},
		{r("b", `{"x":4}`, 3), 4, true},
	} {
		if got, ok := d.Get(step.r); got["x"] != step.want || ok != step.ok {
			t.Errorf("%s %s: %v %t", step.r.Node, step.r.Value, got, ok)
		}
	}
	d.Keep(func(node string) bool { return node == "b" })
	if len(d.by) != 1 {
		t.Errorf("kept %v", d.by)
	}
	if got, _ := d.Get(r("a", `{"x":5}`, 2)); got["x"] != 5 {
		t.Errorf("forgotten, and still %v", got)
	}
}
