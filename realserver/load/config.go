package load

import (
	"net/url"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/drover-lb/drover/conf"
)

// Source is where a load comes from.
type Source string

const (
	// CPU is the share of the processors' time that was used (/proc/stat), and on top of it the share of the time in which
	// some task waited for one (/proc/pressure/cpu, "some"), as far as the kernel tells it, or else the runnable tasks
	// for which there is no processor.
	CPU Source = "cpu"
	// Pressure is the second part alone, which needs a kernel with pressure stall information.
	Pressure Source = "pressure"
	// RunQueue is the number of runnable tasks for each processor (/proc/stat, procs_running).
	RunQueue Source = "run_queue"
	Script   Source = "script" // what a program prints
	HTTP     Source = "http"   // what a page says
)

// Bounds and defaults.
const (
	MinInterval, MaxInterval = 500 * time.Millisecond, 10 * time.Second
	DefaultInterval          = time.Second
	DefaultUser              = "nobody"
	maxFull                  = 1e9
)

// Config says how a load is measured.
type Config struct {
	Source   Source
	Command  []string      // Script: the program, an absolute path, and its arguments
	User     string        // Script: of whom it runs as
	URL      string        // HTTP: http or https
	Field    string        // HTTP: of the JSON object in the body, with dots for what is within; "": the body is the number
	Full     float64       // Script and HTTP: the number that means fully used, above 0; default 1
	Interval time.Duration // between two measurements, MinInterval .. MaxInterval
	Timeout  time.Duration // of a measurement, 10 ms .. Interval; default Interval
}

// Raw is the mapping `load` of a file. Its short form is a source of the kernel.
type Raw struct {
	Source   conf.Value `yaml:"source"`
	Script   conf.List  `yaml:"script"`
	User     conf.Value `yaml:"user"`
	HTTP     conf.Value `yaml:"http"`
	Field    conf.Value `yaml:"field"`
	Full     conf.Value `yaml:"full"`
	Interval conf.Value `yaml:"interval"`
	Timeout  conf.Value `yaml:"timeout"`
}

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (w *Raw) UnmarshalYAML(n ast.Node) error {
	type mapping Raw
	return conf.ScalarOr(n, &w.Source, (*mapping)(w))
}

// Read reads the mapping; nil if it is not there or something in it is wrong.
func Read(r *conf.Reader, raw conf.At[Raw]) *Config {
	if !raw.Set {
		return nil
	}
	w := &raw.V
	r = r.In("load")
	c := &Config{Source: CPU}
	script := len(w.Script) > 0
	switch {
	case script && w.HTTP.Set:
		r.Errorf(w.HTTP.Pos, "http", "cannot stand beside script: the load comes from one of them")
	case (script || w.HTTP.Set) && w.Source.Set:
		r.Errorf(w.Source.Pos, "source", "cannot stand beside script or http: the load comes from one of them")
	case script:
		c.Source = Script
	case w.HTTP.Set:
		c.Source = HTTP
	default:
		c.Source = conf.OneOf(r, w.Source, "source", CPU, CPU, Pressure, RunQueue)
	}
	c.Interval = r.Duration(w.Interval, "interval", MinInterval, MaxInterval, DefaultInterval)
	c.Timeout = r.Duration(w.Timeout, "timeout", 10*time.Millisecond, c.Interval, c.Interval)
	c.Full = r.Float(w.Full, "full", 0, maxFull, 1)
	if w.Full.Set && c.Full == 0 {
		r.Errorf(w.Full.Pos, "full", "0 cannot be what means fully used: must be above 0")
	}
	for _, f := range []struct {
		v     conf.Value
		name  string
		where bool
		what  string
	}{
		{w.User, "user", script, "script"}, {w.Field, "field", w.HTTP.Set, "http"},
		{w.Full, "full", script || w.HTTP.Set, "script and http"}, {w.Timeout, "timeout", script || w.HTTP.Set, "script and http"},
	} {
		if f.v.Set && !f.where {
			r.Errorf(f.v.Pos, f.name, "is for %s, not %s", f.what, c.Source)
		}
	}
	switch c.Source {
	case Script:
		if c.Command = w.Script.Texts(); !strings.HasPrefix(c.Command[0], "/") {
			r.Errorf(w.Script[0].Pos, "script", "%q is not an absolute path", c.Command[0])
		}
		c.User = r.String(w.User, DefaultUser)
	case HTTP:
		u, err := url.Parse(w.HTTP.Text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			r.Errorf(w.HTTP.Pos, "http", "%q is not an address such as http://127.0.0.1:8080/load", w.HTTP.Text)
		}
		c.URL, c.Field = strings.Clone(w.HTTP.Text), strings.Clone(r.String(w.Field, ""))
	case CPU, Pressure, RunQueue:
	}
	if r.Failed() {
		return nil
	}
	return c
}
