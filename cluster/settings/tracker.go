package settings

import (
	"path/filepath"
	"time"

	"github.com/drover-lb/drover/conf"
)

// Bounds and defaults of trackers.
const (
	MaxTrackers       = 32
	minTrackerTime    = 10 * time.Millisecond
	maxTrackerTime    = time.Hour
	defaultTrackEvery = 2 * time.Second
	defaultTrackTime  = time.Second
	defaultTrackUser  = "nobody"
	maxTrackCount     = 100
)

// Tracker is a program whose exit status says whether this director can be active.
type Tracker struct {
	Name    string
	Command []string      // absolute path and arguments
	Every   time.Duration // from the end of a run to the next
	Timeout time.Duration // of a run; then its process group is killed, and it has failed
	User    string        // whom it runs as
	Fall    int           // so many failures in a row, and this director is not fit
	Rise    int           // so many successes in a row, and it is again
}

type rawTracker struct {
	Name    conf.Value   `yaml:"name"`
	Command []conf.Value `yaml:"command"`
	Every   conf.Value   `yaml:"every"`
	Timeout conf.Value   `yaml:"timeout"`
	User    conf.Value   `yaml:"user"`
	Fall    conf.Value   `yaml:"fall"`
	Rise    conf.Value   `yaml:"rise"`
}

func (o *Options) trackers(r *conf.Reader, list conf.At[[]conf.At[rawTracker]]) {
	if n := len(list.V); n > MaxTrackers {
		r.Errorf(list.Pos, "trackers", "%d: at most %d", n, MaxTrackers)
		return
	}
	lines := make(map[string]int)
	for i, v := range list.V {
		in, w := r.In("trackers[%d]", i), &v.V
		t := Tracker{
			Name:    name(in, w.Name, "name"),
			Every:   in.Duration(w.Every, "every", minTrackerTime, maxTrackerTime, defaultTrackEvery),
			Timeout: in.Duration(w.Timeout, "timeout", minTrackerTime, maxTrackerTime, defaultTrackTime),
			User:    in.String(w.User, defaultTrackUser),
			Fall:    int(in.Int(w.Fall, "fall", 1, maxTrackCount, 2)),
			Rise:    int(in.Int(w.Rise, "rise", 1, maxTrackCount, 2)),
		}
		for _, a := range w.Command {
			t.Command = append(t.Command, in.String(a, ""))
		}
		if !in.Required(w.Name, "name", v.Pos) {
			continue
		}
		switch first, twice := lines[t.Name]; {
		case t.Name == "":
		case twice:
			in.Errorf(w.Name.Pos, "name", "%q is a tracker already in line %d", t.Name, first)
		case len(t.Command) == 0:
			in.Errorf(v.Pos, "command", "is required: the program and its arguments, such as [/etc/drover/check-uplink, eth1]")
		case !filepath.IsAbs(t.Command[0]):
			in.Errorf(w.Command[0].Pos, "command", "%q must be an absolute path", t.Command[0])
		case t.User == "":
			in.Errorf(w.User.Pos, "user", "must name a user; the default is %s", defaultTrackUser)
		default:
			lines[t.Name] = w.Name.Pos.Line
			o.Trackers = append(o.Trackers, t)
		}
	}
}
