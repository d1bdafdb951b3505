package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/notify/sink"
)

// fake is a sender that answers as a test wants.
type fake struct {
	batch  int
	answer func(ctx context.Context, list []*Event) error // nil: takes everything

	mu   sync.Mutex
	got  []string // texts of the events that it took
	when []time.Time
}

func (f *fake) most() int { return max(f.batch, 1) }

func (f *fake) said() string { return "fine" }

func (f *fake) send(ctx context.Context, list []*Event) error {
	f.mu.Lock()
	f.when = append(f.when, time.Now())
	f.mu.Unlock()
	if f.answer != nil {
		if err := f.answer(ctx, list); err != nil {
			return err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	texts := make([]string, len(list))
	for i, e := range list {
		texts[i] = e.Text
	}
	f.got = append(f.got, strings.Join(texts, "+"))
	return nil
}

func (f *fake) taken() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.got, " ")
}

func (f *fake) tries() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.when)
}

// world is a notifier with fakes for sinks.
type world struct {
	*Notifier
	t       *testing.T
	log     bytes.Buffer
	mu      sync.Mutex
	trouble []string
	stop    context.CancelFunc
	ended   chan struct{}
}

func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) troubles() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.trouble, "\n")
}

func plainSink(name string, change func(*sink.Sink)) sink.Sink {
	s := sink.Sink{Name: name, Events: sink.DefaultKinds(), Timeout: sink.DefaultTimeout, RetryFor: sink.DefaultRetryFor, Webhook: &sink.Webhook{URL: "http://127.0.0.1:1/"}}
	if change != nil {
		change(&s)
	}
	return s
}

// start runs a notifier in the bubble of a test.
func start(t *testing.T, o Options, fakes map[string]*fake, list ...sink.Sink) *world {
	w := &world{t: t, ended: make(chan struct{})}
	o.Log = slog.New(slog.NewTextHandler(w, nil))
	o.Trouble = func(_ slog.Level, name, text string) {
		w.mu.Lock()
		w.trouble = append(w.trouble, text)
		w.mu.Unlock()
		w.Add(Event{Kind: sink.Notify, Level: slog.LevelError, Sink: name, Text: text, Time: time.Now()})
	}
	var err error
	if w.Notifier, err = New(o); err != nil {
		t.Fatal(err)
	}
	w.sender = func(s *sink.Sink) sender { return fakes[s.Name] }
	w.Set(list)
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = cancel
	go func() {
		defer close(w.ended)
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-w.ended
	})
	return w
}

func (w *world) tell(texts ...string) {
	for _, s := range texts {
		w.Add(Event{ID: s, Time: time.Now(), Kind: sink.Health, Text: s})
	}
}

func (w *world) one(name string) Status {
	for _, s := range w.Status() {
		if s.Name == name {
			return s
		}
	}
	w.t.Fatalf("there is no sink %s", name)
	return Status{}
}

// count is what a sink's status says in short.
func (w *world) count(name string) string {
	s := w.one(name)
	return fmt.Sprintf("queued %d, sent %d, dropped %d", s.Queued, s.Sent, s.Dropped)
}

var errDown = errors.New("connection refused")

func down(context.Context, []*Event) error { return errDown }

// hang is a sink that never answers.
func hang(ctx context.Context, _ []*Event) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestOneSlowSinkDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow, quick := &fake{answer: hang}, &fake{}
		w := start(t, Options{}, map[string]*fake{"slow": slow, "quick": quick}, plainSink("slow", nil), plainSink("quick", nil))
		begin := time.Now()
		w.tell("a", "b", "c")
		synctest.Wait()
		if got := quick.taken(); got != "a b c" || time.Since(begin) != 0 {
			t.Errorf("after %s the quick one has %q", time.Since(begin), got)
		}
		if got := w.count("slow"); got != "queued 3, sent 0, dropped 0" {
			t.Errorf("slow: %s", got)
		}
		time.Sleep(sink.DefaultTimeout)
		synctest.Wait()
		if s := w.one("slow"); s.Error != "no answer after 10s" || !s.Failing.Equal(begin.Add(sink.DefaultTimeout)) || s.Failed != 1 {
			t.Errorf("slow: %+v", s)
		}
	})
}

func TestRetriesInOrderWithGrowingPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(5 * time.Minute)
		f := &fake{answer: func(context.Context, []*Event) error {
			if time.Now().Before(up) {
				return errDown
			}
			return nil
		}}
		w := start(t, Options{}, map[string]*fake{"ops": f}, plainSink("ops", nil))
		w.tell("a", "b")
		time.Sleep(10 * time.Second)
		w.tell("c") // is no reason to try sooner
		synctest.Wait()
		if s := w.one("ops"); s.Error != "connection refused" || s.Queued != 3 || s.Failing.IsZero() {
			t.Errorf("%+v", s)
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if got := f.taken(); got != "a b c" {
			t.Errorf("told %q", got)
		}
		if s := w.one("ops"); s.Sent != 3 || s.Dropped != 0 || !s.Failing.IsZero() || s.Error != "connection refused" {
			t.Errorf("%+v", s)
		}
		var pauses []time.Duration
		for i := 1; i < len(f.when)-3; i++ {
			pauses = append(pauses, f.when[i].Sub(f.when[i-1]))
		}
		for i, d := range pauses {
			want := min(firstPause<<i, maxPause)
			if d < want*4/5 || d > want*6/5 {
				t.Errorf("pause %d is %s: want %s, a fifth more or less: %v", i, d, want, pauses)
			}
		}
		if len(pauses) < 8 {
			t.Errorf("pauses %v", pauses)
		}
		if w.troubles() != "" || strings.Count(w.log.String(), "\n") != 2 { // it cannot be told; it works again
			t.Errorf("trouble %q, log %s", w.troubles(), w.log.String())
		}
	})
}

func TestTooOldIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: down}
		other := &fake{}
		list := []sink.Sink{
			plainSink("ops", func(s *sink.Sink) { s.RetryFor = time.Minute; s.Events = sink.Kinds }),
			plainSink("other", func(s *sink.Sink) { s.Events = []string{sink.Notify} }),
		}
		w := start(t, Options{}, map[string]*fake{"ops": f, "other": other}, list...)
		begin := time.Now()
		w.tell("a")
		time.Sleep(50 * time.Second)
		w.tell("b")
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.count("ops"); got != "queued 0, sent 0, dropped 2" {
			t.Errorf("%s", got)
		}
		if got, want := w.troubles(), "sink ops is not told of an event, and maybe of more: connection refused"; got != want {
			t.Errorf("trouble %q, want %q", got, want)
		}
		if last := f.when[len(f.when)-1].Sub(begin); last < time.Minute || last > 5*time.Minute {
			t.Errorf("last tried after %s", last)
		}
		if got := other.taken(); got != w.troubles() {
			t.Errorf("the other one was told %q", got)
		}
		// The sink itself is not told of its own trouble.
		f.answer = nil
		w.tell("c")
		synctest.Wait()
		if got := f.taken(); got != "c" {
			t.Errorf("told %q", got)
		}
		if got := w.troubles(); !strings.HasSuffix(got, "\nsink ops works again; it was not told of 2 events") {
			t.Errorf("trouble %q", got)
		}
		if got := strings.Count(w.log.String(), "an event is dropped"); got != 2 {
			t.Errorf("log\n%s", w.log.String())
		}
	})
}

// Sinks that fail and are told of each other's trouble do not keep each other busy.
func TestTroubleEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := func(s *sink.Sink) { s.RetryFor = time.Minute; s.Events = sink.Kinds }
		w := start(t, Options{}, map[string]*fake{"a": {answer: down}, "b": {answer: down}}, plainSink("a", all), plainSink("b", all))
		w.tell("x")
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		if a, b := w.count("a"), w.count("b"); a != "queued 0, sent 0, dropped 2" || b != a {
			t.Errorf("a: %s; b: %s; %s", a, b, w.troubles())
		}
	})
}

func TestOnceAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: down}
		w := start(t, Options{}, map[string]*fake{"ops": f}, plainSink("ops", func(s *sink.Sink) { s.RetryFor = 0 }))
		w.tell("a", "b", "c")
		time.Sleep(time.Hour)
		synctest.Wait()
		if got := w.count("ops"); got != "queued 0, sent 0, dropped 3" || f.tries() != 3 {
			t.Errorf("%s, %d tries", got, f.tries())
		}
	})
}

func TestRefusedIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: func(_ context.Context, list []*Event) error {
			if list[0].Text == "b" {
				return &refused{errors.New("answers 400")}
			}
			return nil
		}}
		w := start(t, Options{}, map[string]*fake{"ops": f}, plainSink("ops", nil))
		begin := time.Now()
		w.tell("a", "b", "c")
		synctest.Wait()
		if got := f.taken(); got != "a c" || time.Since(begin) != 0 || f.tries() != 3 {
			t.Errorf("after %s, %d tries: %s", time.Since(begin), f.tries(), got)
		}
		if s := w.one("ops"); s.Dropped != 1 || s.Sent != 2 || s.Error != "answers 400" || !s.Failing.IsZero() {
			t.Errorf("%+v", s)
		}
	})
}

func TestRetryAfterIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for asked, want := range map[time.Duration]time.Duration{30 * time.Second: 30 * time.Second, time.Hour: maxRetryAfter, time.Millisecond: firstPause} {
			first := true
			f := &fake{}
			f.answer = func(context.Context, []*Event) error {
				if first {
					first = false
					return &later{errDown, asked}
				}
				return nil
			}
			w := start(t, Options{}, map[string]*fake{"ops": f}, plainSink("ops", nil))
			w.tell("a")
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			if f.tries() != 2 {
				t.Fatalf("%s: %d tries", asked, f.tries())
			}
			if d := f.when[1].Sub(f.when[0]); d < want*4/5 || d > want*6/5 {
				t.Errorf("%s: tried again after %s", asked, d)
			}
		}
	})
}

func TestTheOldestIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		f := &fake{batch: 2, answer: func(context.Context, []*Event) error { <-release; return nil }}
		w := start(t, Options{}, map[string]*fake{"ops": f}, plainSink("ops", func(s *sink.Sink) { s.Timeout = time.Hour }))
		w.tell("x", "y")
		synctest.Wait() // x is under way, with y or without
		for i := range MaxQueue + 5 {
			w.tell(fmt.Sprint(i))
			synctest.Wait()
		}
		s := w.one("ops")
		if s.Queued != MaxQueue || s.Dropped != 7 {
			t.Errorf("%+v", s)
		}
		if log := w.log.String(); strings.Contains(log, " id=x ") || !strings.Contains(log, " id=1 ") { // x is being told
			t.Errorf("log\n%s", log)
		}
		close(release)
		synctest.Wait()
		got := strings.FieldsFunc(f.taken(), func(r rune) bool { return r == ' ' || r == '+' })
		if len(got) != MaxQueue || got[0] != "x" || got[len(got)-1] != fmt.Sprint(MaxQueue+4) || slices.Contains(got, "3") {
			t.Errorf("%d told: %.40q ... %q", len(got), got, got[len(got)-1])
		}
		if s := w.one("ops"); s.Sent != MaxQueue || s.Queued != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestSeveralAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := time.Now().Add(time.Millisecond)
		f := &fake{batch: 3, answer: func(context.Context, []*Event) error {
			if time.Now().Before(up) {
				return errDown
			}
			return nil
		}}
		w := start(t, Options{}, map[string]*fake{"ops": f}, plainSink("ops", nil))
		w.tell("a", "b", "c", "d")
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := f.taken(); got != "a+b+c d" {
			t.Errorf("told %q", got)
		}
		if got := w.count("ops"); got != "queued 0, sent 4, dropped 0" {
			t.Error(got)
		}
	})
}

func TestTakesWhatItIsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		w := start(t, Options{Tell: func(_ context.Context, e *Event) bool { return e.Mark == nil }}, map[string]*fake{"ops": f},
			plainSink("ops", func(s *sink.Sink) { s.Events = []string{sink.Role, sink.Drain}; s.Level = slog.LevelWarn }))
		for _, e := range []Event{
			{Text: "1", Kind: sink.Role, Level: slog.LevelWarn}, {Text: "2", Kind: sink.Role, Level: slog.LevelInfo},
			{Text: "3", Kind: sink.Health, Level: slog.LevelError}, {Text: "4", Kind: sink.Drain, Level: slog.LevelError},
			{Text: "5", Kind: sink.Role, Level: slog.LevelError, Mark: "another one's"}, {Text: "6", Kind: sink.Role, Level: slog.LevelError},
		} {
			w.Add(e)
		}
		synctest.Wait()
		if got := f.taken(); got != "1 4 6" {
			t.Errorf("told %q", got)
		}
	})
}

// Deciding may take its time: who adds does not wait, and what comes too fast is counted.
func TestAddNeverBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		decide, last := make(chan struct{}), fmt.Sprint(maxInbox+9)
		f := &fake{}
		w := start(t, Options{Tell: func(_ context.Context, e *Event) bool {
			<-decide
			return slices.Contains([]string{"first", "9", "10", last}, e.Text)
		}}, map[string]*fake{"ops": f}, plainSink("ops", nil))
		w.tell("first")
		synctest.Wait()
		begin := time.Now()
		for i := range maxInbox + 10 {
			w.tell(fmt.Sprint(i))
		}
		if time.Since(begin) != 0 {
			t.Errorf("took %s", time.Since(begin))
		}
		close(decide)
		synctest.Wait()
		if got, want := f.taken(), "first 10 "+last; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		// What tells of the loss comes into the same inbox.
		if st := w.one("ops"); st.Sent != 3 || st.Dropped < 10 || st.Dropped > 11 || !strings.Contains(w.log.String(), "events=10 ") {
			t.Errorf("%+v\n%s", st, w.log.String())
		}
	})
}

func TestStopTellsWhatIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &fake{answer: func(context.Context, []*Event) error { time.Sleep(time.Second); return nil }}
		failing, hanging := &fake{answer: down}, &fake{answer: hang}
		w := start(t, Options{Tell: func(ctx context.Context, e *Event) bool {
			if e.Text == "late" {
				<-ctx.Done() // decides when it has to
			}
			return true
		}}, map[string]*fake{"slow": slow, "failing": failing, "hanging": hanging}, plainSink("slow", nil), plainSink("failing", nil), plainSink("hanging", nil))
		w.tell("a", "late")
		synctest.Wait()
		begin := time.Now()
		w.stop()
		<-w.ended
		if d := time.Since(begin); d != DrainTimeout {
			t.Errorf("it took %s", d)
		}
		if got := slow.taken(); got != "a late" {
			t.Errorf("slow: %q", got)
		}
		if a, b := w.count("failing"), w.count("hanging"); a != "queued 0, sent 0, dropped 2" || a != b {
			t.Errorf("failing: %s; hanging: %s", a, b)
		}
		w.tell("z")
		synctest.Wait()
		if a := w.count("slow"); a != "queued 0, sent 2, dropped 0" {
			t.Errorf("after the end: %s", a)
		}
	})
}

// Nobody waits at a stop for a sink that has hung before.
func TestStopIsQuickWhenASinkHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, Options{}, map[string]*fake{"ops": {answer: hang}}, plainSink("ops", nil))
		w.tell("a")
		time.Sleep(sink.DefaultTimeout + firstPause*6/5 + time.Second) // the second try is under way
		begin := time.Now()
		w.stop()
		<-w.ended
		if d := time.Since(begin); d != 0 || w.count("ops") != "queued 0, sent 0, dropped 1" {
			t.Errorf("it took %s; %s", d, w.count("ops"))
		}
	})
}

func TestStopIsQuickWhenNothingWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := start(t, Options{}, map[string]*fake{"ops": {}, "failing": {answer: down}}, plainSink("ops", nil), plainSink("failing", nil))
		w.tell("a")
		synctest.Wait()
		begin := time.Now()
		w.stop()
		<-w.ended
		if d := time.Since(begin); d != 0 { // who fails is not tried again
			t.Errorf("it took %s", d)
		}
	})
}

func TestSetKeepsWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, better := &fake{answer: down}, &fake{}
		fakes := map[string]*fake{"ops": old, "gone": {answer: down}}
		w := start(t, Options{}, fakes, plainSink("ops", nil), plainSink("gone", nil))
		w.tell("a", "b")
		time.Sleep(5 * time.Minute)
		fakes["ops"], fakes["new"] = better, &fake{}
		w.Set([]sink.Sink{plainSink("new", nil), plainSink("ops", func(s *sink.Sink) { s.Level = slog.LevelWarn })})
		synctest.Wait()
		if got := better.taken(); got != "a b" {
			t.Errorf("told %q", got)
		}
		if got, want := w.count("ops"), "queued 0, sent 2, dropped 0"; got != want || len(w.Status()) != 2 || w.Status()[0].Name != "new" {
			t.Errorf("%s, %+v", got, w.Status())
		}
		if got := w.troubles(); got != "sink gone is not told of an event, and maybe of more: the sink is not in the file any more" {
			t.Errorf("trouble %q", got)
		}
		w.tell("c") // of a level that is too low now
		w.Add(Event{Text: "d", Kind: sink.Role, Level: slog.LevelWarn})
		synctest.Wait()
		if got := better.taken(); got != "a b d" {
			t.Errorf("told %q", got)
		}
		w.Set(nil)
		w.tell("e")
		synctest.Wait()
		if len(w.Status()) != 0 || len(w.inbox) != 0 {
			t.Errorf("%+v", w.Status())
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		w := start(t, Options{Registry: reg}, map[string]*fake{"bad": {answer: down}, "good": {}},
			plainSink("bad", func(s *sink.Sink) { s.RetryFor = 0 }), plainSink("good", nil))
		time.Sleep(time.Until(time.Unix(946684805, 0)))
		w.tell("a", "b")
		synctest.Wait()
		var got []string
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				line := f.GetName()
				for _, l := range m.GetLabel() {
					line += " " + l.GetValue()
				}
				got = append(got, fmt.Sprint(line, " ", m.GetCounter().GetValue()+m.GetGauge().GetValue()))
			}
		}
		want := `drover_notify_events_total dropped bad 1
drover_notify_events_total dropped good 0
drover_notify_events_total sent bad 0
drover_notify_events_total sent good 2
drover_notify_failed_tries_total bad 1
drover_notify_failed_tries_total good 0
drover_notify_failing bad 1
drover_notify_failing good 0
drover_notify_last_success_timestamp_seconds bad 0
drover_notify_last_success_timestamp_seconds good 9.46684805e+08
drover_notify_queued_events bad 1
drover_notify_queued_events good 0`
		if text := strings.Join(got, "\n"); text != want {
			t.Errorf("got\n%s\nwant\n%s", text, want)
		}
	})
}

func TestEventsAsJSON(t *testing.T) {
	when := time.Date(2026, 1, 31, 13, 0, 0, 120, time.FixedZone("CET", 3600))
	for want, e := range map[string]Event{
		`{"id":"d1-7-1","time":"2026-01-31T12:00:00.000000120Z","director":"d1","cluster":"lab","kind":"health","level":"warn","text":"web: \"web1\" is down","group":"g","service":"web","server":"web1","state":"down"}`: {
			ID: "d1-7-1", Time: when, Director: "d1", Cluster: "lab", Kind: "health", Level: slog.LevelWarn, Text: `web: "web1" is down`, Group: "g", Service: "web", Server: "web1", State: "down", Mark: 7},
		`{"id":"d1-7-2","time":"2026-01-31T12:00:00.000000120Z","director":"d1","kind":"notify","level":"info","text":"x","sink":"ops"}`: {
			ID: "d1-7-2", Time: when, Director: "d1", Kind: "notify", Text: "x", Sink: "ops"},
	} {
		if got, err := e.MarshalJSON(); err != nil || string(got) != want {
			t.Errorf("%v\n got %s\nwant %s", err, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"a\r\nBcc: x\x00y\tz": "a Bcc: x y z", "\xff": "?", "": "", "éé": "éé", "\n": "", "123456789": "12345678", "1234567é": "1234567",
	} {
		if got := clean(in, 8+len(in)*min(strings.Count(in, "B"), 1)); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
