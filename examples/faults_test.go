//go:build lab

package examples

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Two hosts that hold the VIP at the same time are found out, and for how long they did; a host that
// nobody can reach, or that has the VIP and is silent, is not taken for a second one.
func TestTwoHoldersFail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out, status := labRun(t, nil, "--out", dir, "testdata/two-holders")
	if status != 1 {
		t.Errorf("exit status %d, want 1\n%s", status, out)
	}
	for _, want := range []string{
		"ok    10.0.0.100: answered by several for at most 0ms, on several hosts for at most 0ms, only by d1 since apart: ",
		"FAIL  10.0.0.100: answered by several for at most 0ms since both: ",
		"FAIL  10.0.0.100: on several hosts for at most 100ms since both: ",
		"FAIL  10.0.0.100: only by d1 since both: ",
		"FAIL  client/arp: answered by anyone, by several at most 0 times since both: ",
		"ok    10.0.0.100: answered by several for at most 0ms since quiet: ",
		"FAIL  10.0.0.100: on several hosts for at most 0ms since quiet: ",
		"ok    10.0.0.100: answered by several for at most 0ms, on several hosts for at most 0ms, only by d1, d2 since handover: ",
		"FAIL  10.0.0.100: by nobody for at most 200ms since handover: ",
		"FAILED: 4 of 10 expectations held",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the account lacks %q:\n%s", want, out)
		}
	}
	var rep struct {
		Faults []struct {
			Fault   string
			Holders struct {
				Overlap        time.Duration
				AddressOverlap time.Duration `json:"address_overlap"`
			}
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "two-holders", "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &rep); err != nil {
		t.Fatal(err)
	}
	// They hold it together for 500 ms and a little; what a question is late is less than half of that.
	if len(rep.Faults) != 1 || rep.Faults[0].Holders.Overlap < 250*time.Millisecond || rep.Faults[0].Holders.AddressOverlap < 500*time.Millisecond {
		t.Errorf("measured %+v, want an overlap of about 500 ms", rep.Faults)
	}
}
