//go:build !race

// The race detector learns nothing here that it does not learn of other tests, and it has been seen to crash in its own
// code under the many timers of these clusters. `make unit` runs them without it.

package cluster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/drover-lb/drover/cluster/clustertest"
)

// Within 15 seconds of the end of a trouble every node knows every other one for alive, and has what was published
// meanwhile, with the timing that is used in earnest. The clock is the bubble's, so the minutes cost nothing.
func TestHeal(t *testing.T) {
	const within = 15 * time.Second
	names := []string{"d1", "d2", "d3", "w1", "w2", "w3"}
	among := func(list ...string) func(string) bool {
		return func(name string) bool { return slices.Contains(list, name) }
	}
	split := func(side ...string) func(*rand.Rand) func(from, to string) bool {
		in := among(side...)
		return func(*rand.Rand) func(from, to string) bool {
			return func(from, to string) bool { return in(from) != in(to) }
		}
	}
	lossy := func(percent int) func(*rand.Rand) func(from, to string) bool {
		return func(r *rand.Rand) func(from, to string) bool {
			var mu sync.Mutex // guards r
			return func(string, string) bool {
				mu.Lock()
				defer mu.Unlock()
				return r.IntN(100) < percent
			}
		}
	}
	for _, tc := range []struct {
		name  string
		cut   func(*rand.Rand) func(from, to string) bool
		lasts time.Duration
	}{
		{"one director alone", split("d1"), time.Second},
		{"one director alone", split("d1"), 30 * time.Second},
		{"one director alone", split("d1"), 10 * time.Minute},
		{"two halves", split("d1", "w1", "w2"), time.Second},
		{"two halves", split("d1", "w1", "w2"), 30 * time.Second},
		{"two halves", split("d1", "w1", "w2"), 10 * time.Minute},
		{"everybody alone", func(*rand.Rand) func(string, string) bool { return func(from, to string) bool { return from != to } }, 10 * time.Minute},
		{"one hears nobody", func(*rand.Rand) func(string, string) bool { return func(_, to string) bool { return to == "d1" } }, time.Minute},
		{"one is not heard", func(*rand.Rand) func(string, string) bool { return func(from, _ string) bool { return from == "d1" } }, time.Minute},
		{"30 % of the packets are lost", lossy(30), time.Minute},
	} {
		t.Run(fmt.Sprintf("%s for %s", tc.name, tc.lasts), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var net clustertest.Network
				nodes := make(map[string]*node)
				var seeds []string
				for i, name := range names {
					opt := options(name)
					if i >= 3 {
						opt.Role = RealServer
					}
					opt.Timing = DefaultTiming()
					h := net.Host(name)
					opt.Transport, opt.Seeds = h, slices.Clone(seeds)
					if i < 3 { // the voters, which everybody knows
						seeds = append(seeds, h.Address().String())
					}
					nodes[name] = start(t, opt)
				}
				whole := func() string {
					for _, name := range names {
						n := nodes[name]
						for _, other := range names {
							if m, ok := n.Member(other); !ok || m.State != Alive {
								return fmt.Sprintf("%s does not know %s: %s", name, other, members(n))
							}
						}
						if got, want := records(n), records(nodes["d1"]); got != want {
							return fmt.Sprintf("%s has %s, and d1 %s", name, got, want)
						}
					}
					return ""
				}
				await := func(what string) {
					t.Helper()
					problem := ""
					for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
						if problem = whole(); problem == "" {
							return
						}
					}
					t.Fatalf("%s: not whole after %s: %s", what, within, problem)
				}
				publish := func(value string) {
					t.Helper()
					for _, name := range names {
						if err := nodes[name].Publish("k", []byte(value)); err != nil {
							t.Fatal(err)
						}
					}
				}
				publish("before")
				await("at first")
				net.Cut(tc.cut(rand.New(rand.NewPCG(1, 2))))
				time.Sleep(tc.lasts / 2)
				publish("during")
				time.Sleep(tc.lasts / 2)
				net.Cut(nil)
				await("healed")
				if got := records(nodes["w3"]); strings.Count(got, "during") != len(names) {
					t.Errorf("w3 has %s", got)
				}
			})
		})
	}
}
