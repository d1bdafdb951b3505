package spec

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/drover-lb/drover/conf"
)

// What becomes of a real server whose drain is over, in the words of `then`.
const (
	DrainKeep   = "keep"   // it stays in the table with weight 0, and connections that are left go on
	DrainRemove = "remove" // it is taken out of the table, and connections that are left are cut
)

// MaxDrain bounds the deadline of a drain.
const MaxDrain = 7 * 24 * time.Hour

// DefaultSettle is how long the inactive connections of a drained real server are waited for after its last active one:
// long enough for the rest of an answer to a client that has closed its side, and for packets that are lost twice and
// sent again after 1 and 2 s (RFC 6298).
const DefaultSettle = 5 * time.Second

// MaxSettle bounds it.
const MaxSettle = time.Hour

// DrainPolicy says how a drain ends.
type DrainPolicy struct {
	Deadline time.Duration // 0 .. MaxDrain; 0 (default): it waits for the last connection
	Remove   bool          // then: remove; default keep
	// Settle is how long inactive connections are waited for after the last active one, 1 s .. MaxSettle; 0 is
	// DefaultSettle.
	Settle time.Duration
}

// Then is [DrainRemove] or [DrainKeep].
func (p DrainPolicy) Then() string {
	if p.Remove {
		return DrainRemove
	}
	return DrainKeep
}

// Drain says whether a real server is to let go of its clients. Its weight stays what it was, for afterwards.
type Drain struct {
	On bool
	// Since is when it was asked for, whole seconds of UTC; zero: when a director first sees it. It is what makes a
	// drain go on where it was on a director that comes to know of it late.
	Since time.Time
	DrainPolicy
}

// rawDrain is a drain as it is written, of a service or of a real server. Its short form says whether a real
// server is to be drained.
type rawDrain struct {
	On       conf.Value `yaml:"-"`
	Since    conf.Value `yaml:"since"`
	Deadline conf.Value `yaml:"deadline"`
	Then     conf.Value `yaml:"then"`
	Settle   conf.Value `yaml:"settle"`
}

// readPolicy reads what is set of a policy; the rest is that of def.
func readPolicy(r *conf.Reader, raw *rawDrain, def DrainPolicy) DrainPolicy {
	p := DrainPolicy{
		Deadline: r.Duration(raw.Deadline, "deadline", 0, MaxDrain, def.Deadline),
		Remove:   conf.OneOf(r, raw.Then, "then", def.Then(), DrainKeep, DrainRemove) == DrainRemove,
		Settle:   r.Duration(raw.Settle, "settle", time.Second, MaxSettle, def.Settle),
	}
	if p.Settle == DefaultSettle {
		p.Settle = 0
	}
	return p
}

// drain reads how drains of the service end.
func (s *serviceReader) drain() {
	raw, r := &s.raw.Drain, s.r.In("drain")
	if raw.V.On.Set {
		r.Errorf(raw.V.On.Pos, "", "of a service it says how drains end, such as {deadline: 1m, then: remove}; which real server is drained is said with that one")
	}
	if raw.V.Since.Set {
		r.Errorf(raw.V.Since.Pos, "since", "belongs to a real server: a service as a whole is not drained")
	}
	s.svc.Drain = readPolicy(r, &raw.V, DrainPolicy{})
}

// readDrain reads whether a real server is drained; def is how drains of its service end.
func readDrain(r *conf.Reader, v conf.At[rawDrain], def DrainPolicy) (d Drain) {
	if !v.Set {
		return d
	}
	if v.V.On.Set {
		if !r.Bool(v.V.On, "drain", false) {
			return d
		}
	}
	r = r.In("drain")
	d.On, d.DrainPolicy = true, readPolicy(r, &v.V, def)
	if v.V.Since.Set {
		t, err := time.Parse(time.RFC3339, v.V.Since.Text)
		if err != nil {
			r.Errorf(v.V.Since.Pos, "since", "%q is not a time such as 2026-01-31T12:00:00Z (RFC 3339)", v.V.Since.Text)
		}
		d.Since = t.UTC().Truncate(time.Second)
	}
	return d
}

// fields lists what differs from def, as a mapping in one line has it.
func (p DrainPolicy) fields(def DrainPolicy) (out []string) {
	if p.Deadline != def.Deadline {
		out = append(out, "deadline: "+duration(p.Deadline))
	}
	if p.Remove != def.Remove {
		out = append(out, "then: "+p.Then())
	}
	if p.Settle != def.Settle {
		out = append(out, "settle: "+duration(cmp.Or(p.Settle, DefaultSettle)))
	}
	return out
}

// text writes a drain as readDrain reads it.
func (d *Drain) text(def DrainPolicy) string {
	var out []string
	if !d.Since.IsZero() {
		out = append(out, fmt.Sprintf("since: %q", d.Since.UTC().Format(time.RFC3339)))
	}
	if out = append(out, d.fields(def)...); out == nil {
		return "true"
	}
	return "{" + strings.Join(out, ", ") + "}"
}

// InForce is the weight that the real server is to have: 0 while it is drained.
func (d *RealServer) InForce() uint32 {
	if d.Drain.On {
		return 0
	}
	return d.Weight
}
