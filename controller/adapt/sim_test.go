//go:build !race

// One goroutine: the race detector only makes it slow. `make unit` runs it without.

package adapt

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The simulation: Poisson arrivals, a scheduler of the kernel, and servers that are queues. Everything comes from a
// seed. Times are seconds.

// simServer is a server with several workers and one queue.
type simServer struct {
	speed   float64 // requests a second of one worker
	workers int
	silent  func(t float64) bool // its reports are lost; nil: never

	busy   int
	queue  []float64 // arrivals
	active int       // what the director counts
	closed []float64 // when the connections that have ended are forgotten
	work   float64   // busy seconds of its workers since the last report
	since  float64
}

type sim struct {
	seed      uint64
	scheduler string
	rate      func(t float64) float64 // arrivals a second
	servers   []*simServer
	adaptive  bool
	options   Options
	scale     float64         // weights are this at factor 1
	linger    float64         // for how long the scheduler remembers a connection that has ended
	delay     time.Duration   // of a report, and as much again at random
	noise     float64         // of a report, standard deviation in proportion
	queueLoad bool            // the load is the length of the queue, not the use of the processors
	change    func(t float64) // called each second; nil: nothing changes
	until     float64
	from      float64 // latencies count from here on
}

type outcome struct {
	latencies []float64   // seconds, sorted
	weights   [][]float64 // by second and server
}

func (o *outcome) quantile(q float64) time.Duration {
	return time.Duration(o.latencies[min(int(q*float64(len(o.latencies))), len(o.latencies)-1)] * float64(time.Second))
}

type simEvent struct {
	at   float64
	n    int // for a stable order
	what func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].n < q[j].n
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

func (s *sim) run() outcome {
	// Arrivals and work have streams of their own, so that they are the same whatever the weights.
	arrivals, work, reports := rand.New(rand.NewPCG(s.seed, 1)), rand.New(rand.NewPCG(s.seed, 2)), rand.New(rand.NewPCG(s.seed, 3))
	var (
		q   simQueue
		n   int
		now float64
		out outcome
	)
	at := func(t float64, what func()) {
		n++
		heap.Push(&q, simEvent{t, n, what})
	}
	weights := make([]int, len(s.servers))
	for i := range weights {
		weights[i] = int(s.scale)
	}
	wrr := &simWRR{}
	pick := func() int {
		if s.scheduler == "wrr" {
			return wrr.pick(weights)
		}
		best := 0
		over := func(i int) float64 {
			d := s.servers[i]
			for len(d.closed) > 0 && d.closed[0] <= now {
				d.closed = d.closed[1:]
			}
			return float64(d.active*256+len(d.closed)) / float64(weights[i]) // ip_vs_wlc_schedule
		}
		for i := range s.servers {
			if over(i) < over(best) {
				best = i
			}
		}
		return best
	}
	account := func(d *simServer) {
		d.work += float64(d.busy) * (now - d.since)
		d.since = now
	}
	var begin func(d *simServer, arrived float64)
	begin = func(d *simServer, arrived float64) {
		account(d)
		d.busy++
		at(now+work.ExpFloat64()/d.speed, func() {
			account(d)
			d.busy--
			d.active--
			d.closed = append(d.closed, now+s.linger)
			if arrived >= s.from {
				out.latencies = append(out.latencies, now-arrived)
			}
			if len(d.queue) > 0 {
				next := d.queue[0]
				d.queue = d.queue[1:]
				begin(d, next)
			}
		})
	}
	var arrive func()
	arrive = func() {
		d := s.servers[pick()]
		d.active++
		if d.busy < d.workers {
			begin(d, now)
		} else {
			d.queue = append(d.queue, now)
		}
		at(now+arrivals.ExpFloat64()/s.rate(now), arrive)
	}
	at(0, arrive)
	type heard struct{ load, at float64 }
	said := make([]heard, len(s.servers))
	for i, d := range s.servers {
		said[i].at = math.Inf(-1)
		var report func()
		report = func() {
			account(d)
			load := d.work / float64(d.workers)
			if s.queueLoad {
				load = float64(d.active) / float64(d.workers) / 8
			}
			d.work = 0
			load = max(load*(1+s.noise*reports.NormFloat64()), 0)
			late := s.delay.Seconds() * (1 + reports.Float64())
			if d.silent == nil || !d.silent(now) {
				at(now+late, func() { said[i] = heard{load, now} })
			}
			at(now+1, report)
		}
		at(float64(i)/float64(len(s.servers)), report)
	}
	var pool Pool[int]
	var step func()
	step = func() {
		if s.change != nil {
			s.change(now)
		}
		if s.adaptive {
			inputs := make([]Input[int], len(s.servers))
			for i := range inputs {
				inputs[i] = Input[int]{Key: i, Weight: 1, Load: said[i].load, Age: -1}
				if age := now - said[i].at; !math.IsInf(age, 0) {
					inputs[i].Age = time.Duration(age * float64(time.Second))
				}
			}
			if pool.Step(&s.options, inputs, Every) {
				for i := range weights {
					weights[i] = max(int(math.Round(pool.Factor(i)*s.scale)), 1)
				}
			}
		}
		row := make([]float64, len(weights))
		for i, w := range weights {
			row[i] = float64(w) / s.scale
		}
		out.weights = append(out.weights, row)
		at(now+1, step)
	}
	at(0.5, step)
	for now < s.until {
		e := heap.Pop(&q).(simEvent)
		now = e.at
		e.what()
	}
	slices.Sort(out.latencies)
	return out
}

// simWRR is ip_vs_wrr_schedule of the kernel.
type simWRR struct{ i, cw int }

func (w *simWRR) pick(weights []int) int {
	gcd, most := 0, 0
	for _, x := range weights {
		for a, b := gcd, x; ; a, b = b, a%b {
			if b == 0 {
				gcd = a
				break
			}
		}
		most = max(most, x)
	}
	if w.cw == 0 {
		w.i, w.cw = len(weights)-1, 0
	}
	for {
		w.i++
		if w.i >= len(weights) {
			w.i = 0
			if w.cw -= gcd; w.cw <= 0 {
				w.cw = most
			}
		}
		if w.cw > most {
			w.cw = most
		}
		if weights[w.i] >= w.cw {
			return w.i
		}
	}
}

// simDefaults are those of a service, with what the scheduler remembers.
func simDefaults(scheduler string) Options {
	o := Options{Min: 0.1, Max: 2, DeadBand: 0.1, Smoothing: 5 * time.Second, Up: 0.05, Down: 0.1, Stale: 10 * time.Second}
	if scheduler == "wlc" {
		o.Memory = 2 * time.Minute
	}
	return o
}

// halfOfOne is a pool of four servers of which the last has half the processor.
func halfOfOne(seed uint64, scheduler string, queueLoad bool, rate func(float64) float64) *sim {
	s := &sim{seed: seed, scheduler: scheduler, rate: rate, options: simDefaults(scheduler), scale: 100, linger: 120, delay: time.Second, noise: 0.1,
		queueLoad: queueLoad, until: 900, from: 300,
		servers: []*simServer{{speed: 10, workers: 4}, {speed: 10, workers: 4}, {speed: 10, workers: 4}, {speed: 5, workers: 4}}}
	if scheduler == "wrr" {
		s.scale = 20 // its bursts are as long as weights are large
	}
	return s
}

func constant(rate float64) func(float64) float64 { return func(float64) float64 { return rate } }

// turns counts how often the weights of a server from a second on turn round after they have moved by more than by.
func (o *outcome) turns(server, from int, by float64) int {
	n, direction := 0, 0.0
	edge := o.weights[from][server] // the last extreme
	for _, row := range o.weights[from:] {
		w := row[server]
		switch {
		case direction*(w-edge) > 0:
			edge = w
		case math.Abs(w-edge) > by:
			if direction != 0 {
				n++
			}
			direction, edge = w-edge, w
		}
	}
	return n
}

// band is the least and the largest weight of a server between two seconds.
func (o *outcome) band(server, from, to int) (lo, hi float64) {
	lo, hi = math.Inf(1), math.Inf(-1)
	for _, row := range o.weights[from:to] {
		lo, hi = min(lo, row[server]), max(hi, row[server])
	}
	return lo, hi
}

// The pool can serve 140 requests a second. Fixed equal weights give the slow server a quarter of them, and it can serve
// a seventh.
func TestSlowServerGetsLess(t *testing.T) {
	runs := make(map[[3]any]outcome)
	for _, c := range []struct {
		scheduler string
		queueLoad bool
		rate      float64
		better    float64 // p99 against that of fixed weights, at most
		settled   int     // seconds
		lo, hi    float64 // weight of the slow server from then on
		turns     int     // by more than a tenth of its configured weight
	}{
		{"wrr", false, 60, 0.9, 60, 0.4, 0.7, 4},
		{"wrr", true, 60, 0.9, 120, 0.4, 0.7, 4},
		{"wrr", false, 100, 0.05, 60, 0.4, 0.7, 4},
		{"wrr", true, 100, 0.05, 200, 0.4, 0.7, 4},
		{"wrr", true, 130, 0.05, 500, 0.4, 0.8, 4}, // so near its limit that queues come and go
		{"wlc", false, 60, 0.97, 200, 0.55, 0.8, 4},
		{"wlc", true, 60, 0.97, 300, 0.55, 0.85, 4},
		{"wlc", false, 100, 0.95, 200, 0.55, 0.8, 4},
		{"wlc", true, 100, 0.95, 300, 0.55, 0.85, 4},
	} {
		seeds := uint64(2)
		if c.queueLoad {
			seeds = 1
		}
		for seed := range seeds {
			key := [3]any{c.scheduler, c.rate, seed}
			if _, ok := runs[key]; !ok { // it is the same whatever the load is
				runs[key] = halfOfOne(seed, c.scheduler, c.queueLoad, constant(c.rate)).run()
			}
			fixed := runs[key]
			s := halfOfOne(seed, c.scheduler, c.queueLoad, constant(c.rate))
			s.adaptive = true
			out := s.run()
			lo, hi := out.band(3, c.settled, 900)
			turns := out.turns(3, c.settled, 0.1)
			before, after := fixed.quantile(0.99), out.quantile(0.99)
			t.Logf("%s, load is queue %-5v %3v/s, seed %d: p99 fixed %9v, adaptive %6v; p50 %v, %v; weight of the slow server from %d s on %.2f to %.2f, turns %d",
				c.scheduler, c.queueLoad, c.rate, seed, before.Round(time.Millisecond), after.Round(time.Millisecond),
				fixed.quantile(0.5).Round(time.Millisecond), out.quantile(0.5).Round(time.Millisecond), c.settled, lo, hi, turns)
			if after.Seconds() > c.better*before.Seconds() {
				t.Errorf("p99 %v with adaptive weights, %v with fixed ones", after, before)
			}
			if lo < c.lo || hi > c.hi {
				t.Errorf("the weight of the slow server is not within %v to %v", c.lo, c.hi)
			}
			if turns > c.turns {
				t.Errorf("the weight of the slow server turns round %d times", turns)
			}
		}
	}
}

// The number of clients doubles, and then another server is the slow one.
func TestFollowsAStep(t *testing.T) {
	for _, scheduler := range []string{"wrr", "wlc"} {
		for _, queueLoad := range []bool{false, true} {
			s := halfOfOne(1, scheduler, queueLoad, func(at float64) float64 {
				if at < 300 {
					return 40
				}
				return 90
			})
			s.adaptive, s.until = true, 1200
			s.change = func(at float64) {
				if at >= 600 {
					s.servers[0].speed, s.servers[3].speed = 5, 10
				}
			}
			out := s.run()
			for _, row := range []struct {
				what             string
				slow, from, till int
			}{{"after the number of clients", 3, 400, 600}, {"after the servers", 0, 900, 1200}} {
				lo, hi := out.band(row.slow, row.from, row.till)
				turns := out.turns(row.slow, row.from, 0.1)
				t.Logf("%s, load is queue %-5v, %s: weight %.2f to %.2f, turns %d", scheduler, queueLoad, row.what, lo, hi, turns)
				if lo < 0.35 || hi > 0.85 || turns > 3 {
					t.Errorf("%s does not follow %s", scheduler, row.what)
				}
			}
			if lo, _ := out.band(3, 1000, 1200); lo < 0.9 {
				t.Errorf("%s: the server that is not slow any more has weight %.2f", scheduler, lo)
			}
		}
	}
}

// The reports of one server are lost: it goes back to the configured weight, and the others stay fair among each other.
func TestReportsStop(t *testing.T) {
	for _, scheduler := range []string{"wrr", "wlc"} {
		s := halfOfOne(1, scheduler, false, constant(60))
		s.adaptive = true
		s.servers[3].silent = func(at float64) bool { return at > 300 }
		out := s.run()
		before := out.weights[299][3]
		lo, hi := out.band(3, 500, 900)
		t.Logf("%s: weight %.2f, and %.2f to %.2f without reports", scheduler, before, lo, hi)
		if before > 0.8 || lo != 1 || hi != 1 {
			t.Errorf("%s: a server that does not report any more should go back to its weight", scheduler)
		}
		for i := range 3 {
			if lo, hi := out.band(i, 500, 900); lo < 0.8 || hi > 1.2 {
				t.Errorf("%s: server %d, which is like two others, has weight %.2f to %.2f", scheduler, i, lo, hi)
			}
		}
	}
}

// Equal servers stay equal, and the kernel is left alone most of the time.
func TestEqualServersRest(t *testing.T) {
	for _, scheduler := range []string{"wrr", "wlc"} {
		for _, rate := range []float64{5, 80, 150} {
			s := halfOfOne(1, scheduler, false, constant(rate))
			s.adaptive = true
			s.servers[3].speed = 10
			out := s.run()
			changes := 0
			for k := 1; k < len(out.weights); k++ {
				if !slices.Equal(out.weights[k], out.weights[k-1]) {
					changes++
				}
			}
			worst := 0.0
			for i := range 4 {
				lo, hi := out.band(i, 0, 900)
				worst = max(worst, hi-1, 1-lo)
			}
			t.Logf("%s, %v/s: %d changes in 900 s, at most %.0f %% off", scheduler, rate, changes, worst*100)
			if worst > 0.25 || changes > 90 {
				t.Errorf("%s at %v/s: equal servers get weights that differ, or that change all the time", scheduler, rate)
			}
		}
	}
}

func TestSameSeedSameOutcome(t *testing.T) {
	run := func() outcome {
		s := halfOfOne(7, "wrr", false, constant(60))
		s.adaptive = true
		return s.run()
	}
	a, b := run(), run()
	if !slices.Equal(a.latencies, b.latencies) {
		t.Error("two runs differ")
	}
}

// Twelve servers whose speeds differ by up to three times, of which a third of the reports is lost.
func TestManyServers(t *testing.T) {
	for _, scheduler := range []string{"wrr", "wlc"} {
		r := rand.New(rand.NewPCG(5, 5))
		run := func(adaptive bool) (out outcome) {
			s := halfOfOne(3, scheduler, false, nil)
			s.adaptive, s.servers, s.from = adaptive, nil, 500
			all := 0.0
			for i := range 12 {
				d := &simServer{speed: 5 + float64(i*7%11), workers: 2}
				d.silent = func(float64) bool { return r.IntN(3) == 0 }
				s.servers = append(s.servers, d)
				all += d.speed * float64(d.workers)
			}
			s.rate = constant(0.65 * all)
			return s.run()
		}
		fixed, out := run(false), run(true)
		turns := 0
		for i := range 12 {
			turns = max(turns, out.turns(i, 500, 0.1))
		}
		before, after := fixed.quantile(0.99), out.quantile(0.99)
		t.Logf("%s: p99 fixed %v, adaptive %v; p50 %v, %v; weights %.2f; turns at most %d", scheduler, before.Round(time.Millisecond), after.Round(time.Millisecond),
			fixed.quantile(0.5).Round(time.Millisecond), out.quantile(0.5).Round(time.Millisecond), out.weights[899], turns)
		if after.Seconds() > 0.95*before.Seconds() || turns > 4 {
			t.Errorf("%s: p99 %v with adaptive weights, %v with fixed ones; %d turns", scheduler, after, before, turns)
		}
	}
}
