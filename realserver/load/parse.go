package load

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// stat is what /proc/stat says of all processors since the host was started, in ticks.
type stat struct {
	idle, all uint64
	cpus      int
	running   int // runnable tasks
}

// parseStat reads /proc/stat (proc_stat(5)).
func parseStat(b []byte) (s stat, err error) {
	s.running = -1
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) < 2 {
			continue
		}
		switch {
		case f[0] == "cpu" && len(f) >= 5:
			// user nice system idle iowait irq softirq steal; guests are in user and nice already.
			for i, text := range f[1:min(len(f), 9)] {
				n, err := strconv.ParseUint(text, 10, 64)
				if err != nil {
					return s, fmt.Errorf("the processors' times: %w", err)
				}
				s.all += n
				if i == 3 || i == 4 {
					s.idle += n
				}
			}
		case strings.HasPrefix(f[0], "cpu"):
			s.cpus++
		case f[0] == "procs_running":
			if s.running, err = strconv.Atoi(f[1]); err != nil {
				return s, fmt.Errorf("procs_running: %w", err)
			}
		}
	}
	if s.all == 0 || s.cpus == 0 || s.running < 0 {
		return s, errors.New("it says nothing of processors")
	}
	return s, nil
}

// parsePressure reads for how many microseconds some task has waited, of /proc/pressure/cpu
// (Documentation/accounting/psi.rst).
func parsePressure(b []byte) (uint64, error) {
	for line := range bytes.Lines(b) {
		f := strings.Fields(string(line))
		if len(f) == 0 || f[0] != "some" {
			continue
		}
		for _, x := range f[1:] {
			if text, ok := strings.CutPrefix(x, "total="); ok {
				return strconv.ParseUint(text, 10, 64)
			}
		}
	}
	return 0, errors.New(`there is no line "some"`)
}

// parseNumber reads the number that somebody prints as their load: finite and not negative, alone in its line.
func parseNumber(text string) (float64, error) {
	text = strings.TrimSpace(text)
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(n) || math.IsInf(n, 0) || n < 0 {
		return 0, fmt.Errorf("%.40q is not a number from 0 on", text)
	}
	return n, nil
}

// parseField reads a number, or a text that is one, from a JSON object; dots in path lead into others within.
func parseField(b []byte, path string) (float64, error) {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return 0, fmt.Errorf("it is no JSON: %w", err)
	}
	for key := range strings.SplitSeq(path, ".") {
		m, _ := v.(map[string]any)
		x, ok := m[key]
		if !ok {
			return 0, fmt.Errorf("it has no field %q", path)
		}
		v = x
	}
	switch x := v.(type) {
	case float64:
		if x < 0 {
			return 0, fmt.Errorf("the field %q is %v, and not a number from 0 on", path, x)
		}
		return x, nil
	case string:
		return parseNumber(x)
	}
	return 0, fmt.Errorf("the field %q is not a number", path)
}
