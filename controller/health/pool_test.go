package health

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

var rules = spec.Health{OnFail: spec.Remove, Quorum: 1, Panic: 100}

// play steps a pool: times are seconds, states are u, d and ? of each server. The result is, for each server, its
// weight if it gets traffic, or - if it does not.
func play(p *pool, h spec.Health, at float64, states string, weights ...uint32) (got string, next time.Duration, news []string) {
	inputs := make([]Input, len(states))
	for i, s := range states {
		inputs[i] = Input{Key: ipvs.DestKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)}), Port: 80}, Weight: 10, State: map[rune]State{'?': Unknown, 'u': Up, 'd': Down}[s]}
		if i < len(weights) {
			inputs[i].Weight = weights[i]
		}
	}
	now := time.Unix(1000, 0).Add(time.Duration(at * float64(time.Second)))
	out, when, news := p.step(&h, inputs, now, 10*time.Second)
	var words []string
	for i := range inputs {
		switch v := out.Servers[inputs[i].Key]; {
		case v.State == Up, v.Kept:
			words = append(words, fmt.Sprint(v.Weight))
		case v.State == Unknown:
			words = append(words, "?")
		default:
			words = append(words, "-")
		}
	}
	if out.Panics {
		words = append(words, "panic")
	}
	if out.Sorry {
		words = append(words, "sorry")
	}
	if !when.IsZero() {
		next = when.Sub(now)
	}
	return strings.Join(words, " "), next, news
}

// A line is a time in seconds, the states that the checks give, and what comes of it.
func TestPool(t *testing.T) {
	with := func(change func(*spec.Health)) spec.Health {
		h := rules
		change(&h)
		return h
	}
	sorry := ipvs.Destination{DestKey: ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.99"), Port: 80}, Weight: 1}
	for _, tc := range []struct {
		name  string
		rules spec.Health
		lines string
	}{
		{"as the checks say", rules, `
			0 ??? ? ? ?
			1 u?d 10 ? -
			2 uud 10 10 -
			3 ddd - - -`},
		{"slow start", with(func(h *spec.Health) { h.SlowStart = 10 * time.Second }), `
			0 uu 10 10
			1 ud 10 -
			2 uu 100 10
			3.5 uu 100 20
			11.5 uu 100 100
			12 uu 10 10
			13 uuu 100 100 10`},
		{"no slow start for servers that a new service has from the beginning", with(func(h *spec.Health) { h.SlowStart = 10 * time.Second }), `
			0 ? ?
			1 u 10`},
		{"flaps", with(func(h *spec.Health) { h.FlapHold = 10 * time.Second }), `
			0 u 10
			1 d -
			2 u 10
			3 d -
			4 u -
			13.9 u -
			14 u 10
			15 d -
			16 u -
			35.9 u -
			36 u 10
			1000 d -
			1001 u 10`},
		{"down again while it is held", with(func(h *spec.Health) { h.FlapHold = 10 * time.Second }), `
			0 u 10
			1 d -
			2 u 10
			3 d -
			4 u -
			5 d -
			6 u -
			25 u -
			26 u 10`},
		{"quorum", with(func(h *spec.Health) { h.Quorum, h.Sorry = 20, sorry }), `
			0 ??? ? ? ?
			1 uuu 10 10 10
			2 uud 10 10 -
			3 udd 10 - - sorry
			4 uud 10 10 -`},
		{"quorum with hysteresis", with(func(h *spec.Health) { h.Quorum, h.Hysteresis, h.Sorry = 20, 5, sorry }), `
			0 uuu 10 10 10
			1 uud 10 10 -
			2 udd 10 - - sorry
			3 uud 10 10 - sorry
			4 uuu 10 10 10
			5 uud 10 10 -`},
		{"panic: all at once", with(func(h *spec.Health) { h.Panic = 99 }), `
			0 uuu 10 10 10
			1 udd 10 - -
			2 ddd 10 10 10 panic
			9000 ddd 10 10 10 panic
			9001 udd 10 - -`},
		{"panic: not for those that have been down for long", with(func(h *spec.Health) { h.Panic = 50 }), `
			0 uuuu 10 10 10 10
			1 duuu - 10 10 10
			60 dduu - - 10 10
			120 dddu - - - 10
			180 dddd - - - 10 panic`},
		{"panic: more than the threshold", with(func(h *spec.Health) { h.Panic = 50 }), `
			0 uuuu 10 10 10 10
			1 dduu - - 10 10
			2 dddu 10 10 10 10 panic
			3 uduu 10 - 10 10`},
		{"panic before the sorry server", with(func(h *spec.Health) { h.Panic, h.Sorry = 50, sorry }), `
			0 uu 10 10
			1 dd 10 10 panic`},
		{"the sorry server without panic", with(func(h *spec.Health) { h.Sorry = sorry }), `
			0 uu 10 10
			1 dd - - sorry`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var p pool
			for line := range strings.SplitSeq(strings.TrimSpace(tc.lines), "\n") {
				var at float64
				var states string
				if _, err := fmt.Sscan(line, &at, &states); err != nil {
					t.Fatal(err)
				}
				want := strings.Join(strings.Fields(line)[2:], " ")
				if got, _, _ := play(&p, tc.rules, at, states); got != want {
					t.Errorf("%s: got %s", strings.TrimSpace(line), got)
				}
			}
		})
	}
}

func TestHeld(t *testing.T) {
	const first = 10 * time.Second
	for flaps, want := range []time.Duration{0, 0, first, 2 * first, 4 * first, 8 * first, 16 * first, 32 * first, 32 * first} {
		if got := held(first, flaps); got != want {
			t.Errorf("after %d falls: %s, want %s", flaps, got, want)
		}
	}
	if got := held(first, 1<<40); got != 32*first {
		t.Errorf("after very many falls: %s", got)
	}
}

// What a pool promises, whatever happens to it.
func TestPoolProperties(t *testing.T) {
	n := uint64(3000)
	if testing.Short() {
		n = 300
	}
	for seed := range n {
		r := rand.New(rand.NewPCG(seed, 2))
		h := rules
		h.SlowStart = time.Duration(r.IntN(3)) * 10 * time.Second
		h.FlapHold = time.Duration(r.IntN(3)) * time.Second
		h.Quorum, h.Panic = 1+r.Uint32N(40), 1+r.IntN(100)
		h.Hysteresis = r.Uint32N(h.Quorum)
		if r.IntN(2) == 0 {
			h.Sorry.Addr = netip.MustParseAddr("10.0.0.99")
		}
		inputs := make([]Input, 1+r.IntN(5))
		for i := range inputs {
			inputs[i] = Input{Key: ipvs.DestKey{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + i)})}, Weight: r.Uint32N(30)}
		}
		var p pool
		now := time.Unix(1000, 0)
		changed := now
		within := time.Duration(1+r.IntN(10)) * time.Second
		for range 100 {
			// Either time passes until the pool wants to be called, or something happens.
			x := &inputs[r.IntN(len(inputs))]
			if before := x.State; r.IntN(3) > 0 {
				x.State = []State{Up, Down, Down, Up, Unknown}[r.IntN(5)]
				if before != Unknown && x.State == Unknown {
					x.State = before
				}
				changed = now
			}
			out, next, _ := p.step(&h, inputs, now, within)
			if again, then, news := p.step(&h, inputs, now, within); !reflect.DeepEqual(out, again) || then != next || len(news) > 0 {
				t.Fatalf("seed %d: the same once more gives %+v, %v, %q; was %+v, %v", seed, again, then, news, out, next)
			}
			if !next.IsZero() && !next.After(now) {
				t.Fatalf("seed %d: wants to be called at %v, and it is %v", seed, next, now)
			}
			sum, unknown, all, dead := uint64(0), false, 0, 0
			for i := range inputs {
				in, v := &inputs[i], out.Servers[inputs[i].Key]
				switch {
				case in.State == Down && v.State != Down, in.State == Unknown && v.State == Up, in.State == Up && v.State == Unknown:
					t.Fatalf("seed %d: the checks say %s, the verdict is %+v", seed, in.State, v)
				case v.Kept && (!out.Panics || in.State != Down):
					t.Fatalf("seed %d: kept without reason: %+v", seed, v)
				case in.State == Up && v.State == Down && h.FlapHold == 0:
					t.Fatalf("seed %d: held without a hold: %+v", seed, v)
				case v.State == Up && v.Weight != in.Weight && v.Weight < in.Weight/10 || v.Weight > in.Weight*10:
					t.Fatalf("seed %d: weight %d of %d", seed, v.Weight, in.Weight)
				}
				if v.State == Up || v.Kept {
					sum += uint64(in.Weight)
				}
				unknown = unknown || v.State == Unknown
				if in.Weight > 0 {
					all++
					if v.State == Down {
						dead++
					}
				}
			}
			if out.Panics && (dead == 0 || h.Panic == 100) {
				t.Fatalf("seed %d: panic with %d of %d down, threshold %d", seed, dead, all, h.Panic)
			}
			if !unknown && h.Sorry.Addr.IsValid() && (sum+uint64(h.Hysteresis) < uint64(h.Quorum) && !out.Sorry || sum >= uint64(h.Quorum+h.Hysteresis) && out.Sorry) {
				t.Fatalf("seed %d: weight %d, quorum %d, hysteresis %d, sorry %v", seed, sum, h.Quorum, h.Hysteresis, out.Sorry)
			}
			// When nothing has happened for long enough, every server that is up has its whole weight.
			if quiet := now.Sub(changed); quiet > h.SlowStart+maxHold*h.FlapHold {
				for i := range inputs {
					if v := out.Servers[inputs[i].Key]; inputs[i].State == Up && (v.State != Up || v.Weight != inputs[i].Weight) {
						t.Fatalf("seed %d: %s after everything: %+v of %d", seed, quiet, v, inputs[i].Weight)
					}
				}
			}
			if next.IsZero() || r.IntN(2) == 0 {
				next = now.Add(time.Duration(r.IntN(20000)) * time.Millisecond)
			}
			now = next
		}
	}
}
