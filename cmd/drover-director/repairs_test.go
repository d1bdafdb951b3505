package main

import (
	"slices"
	"testing"
	"time"

	"github.com/drover-lb/drover/cmd/internal/api"
)

// Each repair is news once, and none of those that were made before a node was seen first.
func TestRepairNews(t *testing.T) {
	at := func(s int64, what string) api.Repair { return api.Repair{When: time.Unix(s, 0), What: what} }
	r := repairs{}
	for i, step := range []struct {
		list []api.Repair
		want []string
	}{
		{[]api.Repair{at(1, "a")}, nil},
		{[]api.Repair{at(1, "a"), at(2, "b"), at(3, "c")}, []string{"b", "c"}},
		{[]api.Repair{at(1, "a"), at(2, "b"), at(3, "c")}, nil},
		{[]api.Repair{at(3, "c"), at(9000, "d")}, []string{"d"}}, // the clock of the host was ahead,
		{[]api.Repair{at(9000, "d"), at(4, "e")}, []string{"e"}}, // and is right again
		{nil, nil}, // the agent was started again
		{[]api.Repair{at(4, "a")}, []string{"a"}},
	} {
		var got []string
		for _, x := range r.news("web1", step.list) {
			got = append(got, x.What)
		}
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: %v, want %v", i, got, step.want)
		}
	}
	if got := r.news("web2", nil); got != nil {
		t.Errorf("of another one: %v", got)
	}
	if got := r.news("web2", []api.Repair{at(1, "a")}); len(got) != 1 {
		t.Errorf("of one that is known to have had none: %v", got)
	}
	r.keep(func(node string) bool { return node == "web2" })
	if len(r) != 1 {
		t.Errorf("kept %v", r)
	}
}
