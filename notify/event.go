package notify

import (
	"encoding/json"
	"log/slog"
	"strings"
	"time"
	"unicode"
)

// MaxText bounds the text of an event, bytes. What is longer is cut.
const MaxText = 4 << 10

// TimeFormat is RFC 3339 in UTC, with all nanoseconds.
const TimeFormat = "2006-01-02T15:04:05.000000000Z"

// Event is something that happened, as sinks are told of it.
type Event struct {
	ID       string    // the same at each try, and of no other event
	Time     time.Time // when it happened
	Director string    // who says this
	Cluster  string    // its label; "": the director is alone
	Kind     string    // one of the kinds of package sink
	Level    slog.Level
	Text     string
	// What it is about, where that is one of these; names.
	Group, Service, Server string
	State                  string // that what it is about has now, such as up, down, active
	Sink                   string // kind notify: the sink that it is about, which is not told
	// Mark is for [Options].Tell; no sink is told of it.
	Mark any
}

// LevelWord is the level of an event as files and sinks have it: info, warn or error.
func LevelWord(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "error"
	case l >= slog.LevelWarn:
		return "warn"
	}
	return "info"
}

// field is an element of an event with its name, which is that in JSON, and in capitals with the prefix DROVER_EVENT_ that of a variable.
type field struct{ name, value string }

// fields lists what an event has, in the order of the documentation; what it has not is left out.
func (e *Event) fields() []field {
	all := []field{
		{"id", e.ID}, {"time", e.Time.UTC().Format(TimeFormat)}, {"director", e.Director}, {"cluster", e.Cluster},
		{"kind", e.Kind}, {"level", LevelWord(e.Level)}, {"text", e.Text},
		{"group", e.Group}, {"service", e.Service}, {"server", e.Server}, {"state", e.State}, {"sink", e.Sink},
	}
	out := all[:0]
	for _, f := range all {
		if f.value != "" {
			out = append(out, f)
		}
	}
	return out
}

// MarshalJSON implements [json.Marshaler]: one object, whose values are all strings.
func (e *Event) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, f := range e.fields() {
		if i > 0 {
			b = append(b, ',')
		}
		v, err := json.Marshal(f.value)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, '"'), f.name...), '"', ':')
		b = append(b, v...)
	}
	return append(b, '}'), nil
}

// clean makes s one line of valid UTF-8 without control characters: parts of it may come from elsewhere, such as the answer to a
// health check.
func clean(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), unicode.IsControl), " ")
	if len(s) <= most {
		return s
	}
	for most > 0 && s[most]&0xc0 == 0x80 { // not within a character
		most--
	}
	return s[:most]
}
