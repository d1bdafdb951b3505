package plan

import (
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// DefaultMark is the first of the marks of private services unless a director's file says otherwise.
const DefaultMark = spec.DefaultCheckMark

// Private reports whether k is that of a private service of a director whose marks begin with first: one that
// is there for its health checks, and that people are not shown. There are none with first 0.
func Private(k ipvs.Key, first uint32) bool {
	return first != 0 && k.FWMark >= first && k.FWMark-first < spec.CheckMarks
}

// Split parts a table into what is public and what is private.
func Split(st State, first uint32) (public, private State) {
	// Services by mark come last in the order of keys.
	i := len(st.Services)
	for i > 0 && st.Services[i-1].FWMark >= first && first != 0 {
		i--
	}
	j := i
	for j < len(st.Services) && Private(st.Services[j].Key, first) {
		j++
	}
	if i == j {
		return st, State{}
	}
	public.Services = append(append(public.Services, st.Services[:i]...), st.Services[j:]...)
	return public, State{Services: st.Services[i:j]}
}
