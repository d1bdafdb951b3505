package lab

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/lab/probe"
)

func TestTimelineIsAPicture(t *testing.T) {
	const ms = time.Millisecond
	var events []probe.Event
	for i := range 200 {
		e := probe.Event{Kind: probe.OK, At: time.Duration(i) * 10 * ms, Server: []string{"web1", "web2"}[i%2]}
		if i > 100 && i < 120 {
			e = probe.Event{Kind: probe.Fail, At: e.At, Start: e.At, Error: "timeout"}
		}
		events = append(events, e)
	}
	faults := []StepReport{{At: 1010 * ms, Fault: "cut <web2> & wait"}}
	tl := draw("a & b", "client/web", events, faults, 0, 2*time.Second)
	var b bytes.Buffer
	if err := tl.write(&b); err != nil {
		t.Fatal(err)
	}
	for d := xml.NewDecoder(strings.NewReader(b.String())); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("not well-formed: %v\n%s", err, b.String())
		}
	}
	colours := map[string]int{}
	for _, bar := range tl.Bars {
		colours[bar.Colour]++
		if bar.H <= 0 || bar.Y < float64(tl.Top)-1 || bar.Y+bar.H > float64(tl.PlotBottom())+1 {
			t.Errorf("bar outside the plot: %+v", bar)
		}
	}
	// 20 buckets of 100 ms: both servers in those with answers, failures in two.
	if colours[failColour] != 2 || colours[palette[0]] < 18 || colours[palette[1]] < 18 {
		t.Errorf("bars by colour: %v", colours)
	}
	if !strings.Contains(b.String(), "cut &lt;web2&gt; &amp; wait") {
		t.Error("the fault is not marked")
	}
	if len(tl.Legend) != 3 {
		t.Errorf("legend: %+v", tl.Legend)
	}
}
