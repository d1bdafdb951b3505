package replica

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// round follows one change until every live director has stored it. It decides; asking is its user's.
type round struct {
	version Version
	stored  map[string]bool
	refused map[string]error // answered that they will not have it
	failed  map[string]error // did not answer, to be asked again after the next retry
	asked   map[string]bool  // have not answered yet
	last    map[string]error // why they did not answer last time
}

func newRound(v Version, self string) *round {
	return &round{
		version: v,
		stored:  map[string]bool{self: true},
		refused: make(map[string]error),
		failed:  make(map[string]error),
		asked:   make(map[string]bool),
		last:    make(map[string]error),
	}
}

// next returns whom to ask now, given who is live, and whether answers are still waited for.
func (r *round) next(live []string) (ask []string, open bool) {
	for _, err := range r.refused {
		if errors.Is(err, ErrDeposed) {
			return nil, false
		}
	}
	for _, peer := range live {
		if r.stored[peer] || r.refused[peer] != nil {
			continue
		}
		open = true
		if !r.asked[peer] && r.failed[peer] == nil {
			r.asked[peer] = true
			ask = append(ask, peer)
		}
	}
	return ask, open
}

// answer takes the answer of one that was asked. An error that is a *remoteError is the peer's own.
func (r *round) answer(peer string, err error) {
	delete(r.asked, peer)
	var remote *remoteError
	switch {
	case err == nil:
		r.stored[peer] = true
	case errors.As(err, &remote):
		r.refused[peer] = err
	default:
		r.failed[peer] = err
		r.last[peer] = err
	}
}

// retry lets next ask again those that did not answer.
func (r *round) retry() { clear(r.failed) }

// verdict returns nil if every live director has stored the change.
func (r *round) verdict(live []string) error {
	for _, err := range r.refused {
		if errors.Is(err, ErrDeposed) {
			return fmt.Errorf("version %v is %w: %w", r.version, ErrNotAcknowledged, err)
		}
	}
	var missing []error
	for _, peer := range slices.Sorted(slices.Values(live)) {
		if !r.stored[peer] {
			missing = append(missing, fmt.Errorf("director %q: %w", peer, r.why(peer, live)))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("version %v is %w: %w", r.version, ErrNotAcknowledged, errors.Join(missing...))
}

var (
	errNotLive  = errors.New("not live")
	errNoAnswer = errors.New("no answer in time")
)

func (r *round) why(peer string, live []string) error {
	switch {
	case r.refused[peer] != nil:
		return r.refused[peer]
	case r.last[peer] != nil:
		return r.last[peer]
	case slices.Contains(live, peer):
		return errNoAnswer
	}
	return errNotLive
}

// result says where the change is; all names every other director.
func (r *round) result(all, live []string) Result {
	res := Result{Version: r.version, Stored: slices.Sorted(maps.Keys(r.stored)), Missing: make(map[string]error)}
	for _, peer := range slices.Concat(all, live) {
		if !r.stored[peer] {
			res.Missing[peer] = r.why(peer, live)
		}
	}
	return res
}
