package adapt

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func options() Options {
	return Options{Min: 0.1, Max: 2, DeadBand: 0.1, Smoothing: 5 * time.Second, Up: 0.05, Down: 0.1, Stale: 10 * time.Second}
}

// in are inputs of weight 1 with loads that have just been told; a negative one is none.
func in(loads ...float64) []Input[int] {
	out := make([]Input[int], len(loads))
	for i, l := range loads {
		out[i] = Input[int]{Key: i, Weight: 1, Load: l}
		if l < 0 {
			out[i].Age = -1
		}
	}
	return out
}

func (p *Pool[K]) words(inputs []Input[K]) string {
	text := ""
	for i := range inputs {
		x := p.State(inputs[i].Key)
		text += fmt.Sprintf("%.2f %s ", x.Factor, [...]string{"unknown", "even", "lowering", "raising", "min", "max", "stale", "alone", "held"}[x.Why])
	}
	return text
}

func TestLaw(t *testing.T) {
	held := in(0.1, 0.5, 0.5)
	held[0].Hold = true
	drained := in(0.9, 0.5, 0.5)
	drained[0].Weight = 0
	old := in(0.9, 0.5, 0.5)
	old[0].Age = 11 * time.Second
	for _, c := range []struct {
		name  string
		first float64 // factor of the first server before
		in    []Input[int]
		steps int
		want  string
	}{
		{"nobody tells anything", 1, in(-1, -1), 10, "1.00 unknown 1.00 unknown "},
		{"equal", 1, in(0.5, 0.5), 100, "1.00 even 1.00 even "},
		{"within the dead band", 1, in(0.54, 0.46), 100, "1.00 even 1.00 even "},
		{"nobody has much to do", 1, in(0.015, 0.001), 100, "1.00 even 1.00 even "},
		{"one has more to do, for ever", 1, in(0.9, 0.5, 0.5), 1000, "0.10 min 1.40 even 1.40 even "},
		{"one has less to do, for ever", 1, in(0.1, 0.5, 0.5), 1000, "2.00 max 0.50 lowering 0.50 lowering "},
		{"not a number", 1, in(math.NaN(), 0.5, 0.5), 10, "1.00 unknown 1.00 even 1.00 even "},
		{"without bounds", 1, in(math.Inf(1), 0.5, 0.5), 1000, "0.10 min 1.43 raising 1.43 raising "},
		{"one alone", 0.5, in(0.9, -1), 100, "1.00 alone 1.00 unknown "},
		{"none any more", 0.5, in(-1, 0.5, 0.5), 100, "1.00 unknown 1.00 even 1.00 even "},
		{"too old", 0.5, old, 100, "1.00 unknown 1.00 even 1.00 even "},
		{"slow start", 0.5, held, 100, "0.50 held 1.25 even 1.25 even "},
		{"gets nothing", 0.5, drained, 100, "1.00 held 1.00 even 1.00 even "},
	} {
		var p Pool[int]
		o := options()
		p.Adopt(0, c.first)
		for range c.steps {
			p.Step(&o, c.in, Every)
		}
		if got := p.words(c.in); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// A server whose reports stop is said to be stale, and is fresh again with the next one.
func TestStaleAndBack(t *testing.T) {
	var p Pool[int]
	o := options()
	for range 60 {
		p.Step(&o, in(0.9, 0.5, 0.5), Every)
	}
	low := p.Factor(0)
	gone := in(0.9, 0.5, 0.5)
	gone[0].Age = o.Stale + 1
	p.Step(&o, gone, Every)
	if x := p.State(0); x.Why != Stale || x.Factor < low {
		t.Errorf("just stale: %+v, before %v", x, low)
	}
	for range 100 {
		p.Step(&o, gone, Every)
	}
	if x := p.State(0); x.Why != Stale || x.Factor != 1 {
		t.Errorf("stale for long: %+v", x)
	}
	p.Step(&o, in(0.9, 0.5, 0.5), Every)
	if x := p.State(0); x.Why != Lowering || x.Load != 0.9 {
		t.Errorf("fresh again: %+v", x)
	}
}

func TestAdoptAndForget(t *testing.T) {
	var p Pool[int]
	o := options()
	for _, c := range []struct {
		factor, want float64
		changed      bool
	}{{1, 1, false}, {0.5, 0.5, true}, {0.5, 0.5, false}, {0, 1, true}, {math.NaN(), 1, false}, {-3, 1, false}, {1e9, 1, false}, {0.3, 0.3, true}} {
		if changed := p.Adopt(7, c.factor); changed != c.changed || p.Factor(7) != c.want {
			t.Errorf("adopt %v: %v, changed %t", c.factor, p.Factor(7), changed)
		}
	}
	// A director that watches averages loads, and keeps the factors.
	three := in(0.9, 0.5, 0.5)
	three[0].Key = 7
	for range 50 {
		p.Watch(&o, three, Every)
	}
	if x := p.State(7); x.Factor != 0.3 || x.Why != Lowering || math.Abs(x.Load-0.9) > 0.01 {
		t.Errorf("watched: %+v", x)
	}
	p.Watch(&o, in(0.5, 0.5)[:1], Every)
	if p.Factor(7) != 1 {
		t.Error("a server that is not there any more is remembered")
	}
}

// Whatever is told, factors are within their bounds, and the weights of those that are judged keep their sum unless the
// bounds forbid it.
func TestAnything(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		var p Pool[int]
		o := options()
		if seed%2 == 0 {
			o.Memory = time.Minute
		}
		n := 1 + r.IntN(6)
		inputs := make([]Input[int], n)
		for range 200 {
			for i := range inputs {
				inputs[i] = Input[int]{Key: i, Weight: float64(r.IntN(5)), Load: r.ExpFloat64(), Age: time.Duration(r.IntN(12)-1) * time.Second, Hold: r.IntN(8) == 0}
			}
			p.Step(&o, inputs, time.Duration(r.IntN(5000))*time.Millisecond)
			want, sum := 0.0, 0.0
			bound := false
			for i := range inputs {
				f := p.Factor(i)
				if !(f >= o.Min-1e-9 && f <= o.Max+1e-9) {
					t.Fatalf("seed %d: factor %v", seed, f)
				}
				want += inputs[i].Weight
				sum += inputs[i].Weight * p.of(i).factor
				if p.judged(&inputs[i]) != nil {
					bound = bound || p.of(i).factor == o.Min || p.of(i).factor == o.Max
				}
			}
			if math.Abs(sum-want) > want*1e-3 && !bound && p.judgedCount(inputs) >= 2 {
				t.Fatalf("seed %d: the sum of weights is %v, and not %v", seed, sum, want)
			}
		}
	}
}

func (p *Pool[K]) judgedCount(inputs []Input[K]) (n int) {
	for i := range inputs {
		if p.judged(&inputs[i]) != nil {
			n++
		}
	}
	return n
}

// A load that is told rarely is as good until the next is due, and one may be lost.
func TestRareLoads(t *testing.T) {
	o := Options{Min: .1, Max: 2, DeadBand: .1, Smoothing: 5 * time.Second, Up: .05, Down: .1, Stale: 2 * time.Second}
	for age, want := range map[time.Duration]bool{4 * time.Second: true, 12 * time.Second: true, 13 * time.Second: false} {
		var p Pool[int]
		p.Step(&o, []Input[int]{{Key: 0, Weight: 1, Load: .9, Every: 5 * time.Second}, {Key: 1, Weight: 1, Load: .1, Every: 5 * time.Second}}, Every)
		p.Step(&o, []Input[int]{{Key: 0, Weight: 1, Load: .9, Age: age, Every: 5 * time.Second}, {Key: 1, Weight: 1, Load: .1, Every: 5 * time.Second}}, Every)
		if got := p.State(0).Why != Stale; got != want {
			t.Errorf("after %s: fresh %t, want %t", age, got, want)
		}
	}
}
