package cluster

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	logEvery   = 10 * time.Second // how often lines of one class are written
	logClasses = 64
)

// logAdapter takes the lines of memberlist, which has one for each packet that it refuses, counts them, and
// writes the first of each class in logEvery with the number of those left out.
type logAdapter struct {
	log     *slog.Logger
	metrics *metrics
	now     func() time.Time
	refused *refusals

	mu      sync.Mutex // guards everything below
	classes map[string]*logClass
}

type logClass struct {
	last    time.Time
	omitted int
}

func newLogAdapter(log *slog.Logger, m *metrics, now func() time.Time, refused *refusals) *logAdapter {
	return &logAdapter{log: log, metrics: m, now: now, refused: refused, classes: make(map[string]*logClass)}
}

// refusalLines are the beginnings of memberlist's lines about packets of strangers.
var refusalLines = []struct{ prefix, reason string }{
	{"Decrypt packet failed", refuseDecrypt},
	{"failed to receive: no installed keys could decrypt", refuseDecrypt},
	{"failed to receive: unsupported encryption version", refuseDecrypt},
	{"failed to receive: payload is too small to decrypt", refuseDecrypt},
	{"failed to receive: cannot decrypt", refuseDecrypt},
	{"failed to receive: encryption is configured but remote state is not encrypted", refusePlain},
	{"failed to receive: remote state is encrypted", refuseDecrypt},
	{"discarding packet with unacceptable label", refuseLabel},
	{"discarding stream with unacceptable label", refuseLabel},
	{"failed to receive and remove the stream label", refuseGarbled},
	{"cannot decode label", refuseGarbled},
	{"label header cannot be empty", refuseGarbled},
	{"failed to receive", refuseGarbled},
	{"missing message type byte", refuseGarbled},
	{"msg type", refuseGarbled},
	{"Received invalid msgType", refuseGarbled},
	{"Failed to decode", refuseGarbled},
	{"Failed to read remote state", refuseGarbled},
	{"Failed to receive user message", refuseGarbled},
	{"handler queue full", dropQueueFull},
}

// Write takes one line. It never fails.
func (a *logAdapter) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	level := slog.LevelDebug
	if strings.HasPrefix(text, "[") {
		tag, rest, _ := strings.Cut(text[1:], "]")
		text = strings.TrimSpace(rest)
		switch tag {
		case "ERR", "ERROR", "WARN":
			level = slog.LevelWarn // what memberlist calls an error is somebody else's packet
		case "INFO":
			level = slog.LevelInfo
		}
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	a.metrics.log.WithLabelValues(strings.ToLower(level.String())).Inc()
	for _, r := range refusalLines {
		if strings.HasPrefix(text, r.prefix) {
			a.metrics.refused.WithLabelValues(r.reason).Inc()
			a.refused.add(r.reason, text, a.now())
			break
		}
	}
	a.write(level, text)
	return len(line), nil
}

func (a *logAdapter) write(level slog.Level, text string) {
	if !a.log.Enabled(context.Background(), level) {
		return
	}
	now := a.now()
	key := classOf(text)
	a.mu.Lock()
	c := a.classes[key]
	if c == nil {
		if len(a.classes) >= logClasses {
			for k, old := range a.classes {
				if now.Sub(old.last) >= logEvery {
					delete(a.classes, k)
				}
			}
		}
		if len(a.classes) >= logClasses {
			key = "" // the class of all that have none
		}
		if c = a.classes[key]; c == nil {
			c = &logClass{}
			a.classes[key] = c
		}
	}
	if !c.last.IsZero() && now.Sub(c.last) < logEvery {
		c.omitted++
		a.mu.Unlock()
		return
	}
	omitted := c.omitted
	*c = logClass{last: now}
	a.mu.Unlock()
	attrs := []slog.Attr{slog.String("message", text)}
	if omitted > 0 {
		attrs = append(attrs, slog.Int("left_out", omitted))
	}
	a.log.LogAttrs(context.Background(), level, "gossip", attrs...)
}

// classOf is the beginning of a line, up to what differs from packet to packet.
func classOf(text string) string {
	const longest = 40
	for i := range len(text) {
		if c := text[i]; i == longest || c >= '0' && c <= '9' || c == '\'' || c == '"' || c == '=' {
			return text[:i]
		}
	}
	return text
}
