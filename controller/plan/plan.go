package plan

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/drover-lb/drover/ipvs"
)

// Kind is what an [Op] does.
type Kind uint8

const (
	AddService Kind = iota + 1
	EditService
	DeleteService // with the servers that it still has
	AddServer
	EditServer
	DeleteServer
)

var kinds = [...]struct{ word, option string }{
	AddService:    {"add-service", "-A"},
	EditService:   {"edit-service", "-E"},
	DeleteService: {"delete-service", "-D"},
	AddServer:     {"add-server", "-a"},
	EditServer:    {"edit-server", "-e"},
	DeleteServer:  {"delete-server", "-d"},
}

// String returns a word such as "add-server".
func (k Kind) String() string {
	if k == 0 || int(k) >= len(kinds) {
		return "Kind(" + strconv.Itoa(int(k)) + ")"
	}
	return kinds[k].word
}

// Op is one change of the kernel's table, and one command of the kernel.
type Op struct {
	Kind    Kind
	Service ipvs.Service     // whole in AddService and EditService, otherwise only its Key
	Server  ipvs.Destination // whole in AddServer and EditServer, only its DestKey in DeleteServer

	// What an edit replaces, for people to read; nil in every other op. They point into the table
	// that Diff was given.
	OldService *ipvs.Service
	OldServer  *ipvs.Destination
}

// String prints the op as the options of ipvsadm, such as
// "-e -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 2".
func (o Op) String() string { return string(o.append(nil)) }

func (o Op) append(b []byte) []byte {
	if o.Kind == 0 || int(o.Kind) >= len(kinds) {
		return append(b, o.Kind.String()...)
	}
	b = append(b, kinds[o.Kind].option...)
	b = append(b, ' ')
	b = appendKey(b, o.Service.Key)
	switch o.Kind {
	case AddService, EditService:
		b = append(b, ' ')
		b = appendService(b, &o.Service)
	case AddServer, EditServer:
		b = append(append(b, " -r "...), o.Server.DestKey.String()...)
		b = append(b, ' ')
		b = appendServer(b, &o.Server)
	case DeleteServer:
		b = append(append(b, " -r "...), o.Server.DestKey.String()...)
	}
	return b
}

// Old prints what an edit replaces in the words of String, without the keys, such as "-g -w 1". It is
// empty for every other op.
func (o Op) Old() string {
	switch {
	case o.OldService != nil:
		return string(appendService(nil, o.OldService))
	case o.OldServer != nil:
		return string(appendServer(nil, o.OldServer))
	}
	return ""
}

// Command is the kernel's command that does the op.
func (o Op) Command() ipvs.Command {
	switch o.Kind {
	case AddService:
		return ipvs.NewService(o.Service)
	case EditService:
		return ipvs.SetService(o.Service)
	case DeleteService:
		return ipvs.DelService(o.Service.Key)
	case AddServer:
		return ipvs.NewDest(o.Service.Key, o.Server)
	case EditServer:
		return ipvs.SetDest(o.Service.Key, o.Server)
	case DeleteServer:
		return ipvs.DelDest(o.Service.Key, o.Server.DestKey)
	}
	return ipvs.Command{} // refused by the client
}

// MarshalJSON prints the kind, the keys, and the op in ipvsadm's words.
func (o Op) MarshalJSON() ([]byte, error) {
	j := struct {
		Op      string `json:"op"`
		Service string `json:"service"`
		Server  string `json:"server,omitempty"`
		Command string `json:"command"`
		Old     string `json:"old,omitempty"`
	}{Op: o.Kind.String(), Service: o.Service.Key.String(), Command: o.String(), Old: o.Old()}
	if o.Kind >= AddServer {
		j.Server = o.Server.DestKey.String()
	}
	return json.Marshal(j)
}

// Plan is what Diff found: the ops in the order in which they are to be done.
type Plan struct {
	Ops []Op
	// Strangers are services of the kernel's table that nobody asked for, and that are left alone
	// because they are not ours.
	Strangers []ipvs.Key
	// Beside says what changes beside the table, see [spec.Beside]; of what Diff returns it is empty.
	Beside []string
}

// Empty reports that there is nothing to do.
func (p Plan) Empty() bool { return len(p.Ops) == 0 }

// atOnce is how many ops Apply hands over in one call: more would only need more memory.
const atOnce = 1024

// Apply has the ops executed by apply, which is [ipvs.Client.Apply] or does what it says, and returns what that would
// for all of them: nil, or one entry for each.
func (p Plan) Apply(ctx context.Context, apply func(context.Context, []ipvs.Command) []error) (errs []error) {
	commands := make([]ipvs.Command, 0, min(len(p.Ops), atOnce))
	for first := 0; first < len(p.Ops); first += len(commands) {
		commands = commands[:0]
		for i := first; i < len(p.Ops) && len(commands) < atOnce; i++ {
			commands = append(commands, p.Ops[i].Command())
		}
		some := apply(ctx, commands)
		if some == nil {
			continue
		}
		if errs == nil {
			errs = make([]error, len(p.Ops))
		}
		copy(errs[first:], some)
		last := some[len(some)-1]
		if !errors.Is(last, ipvs.ErrNotSent) {
			continue
		}
		var why *ipvs.CommandError
		for i := first + len(commands); i < len(p.Ops); i++ {
			if errs[i] = last; errors.As(last, &why) {
				errs[i] = &ipvs.CommandError{Command: p.Ops[i].Command(), Err: why.Err}
			}
		}
		return errs
	}
	return errs
}

// Modules lists the schedulers and persistence engines that the plan brings into use, each once and in
// order, for whoever loads their modules first. The kernel's "none" needs no module and is not among them.
func (p Plan) Modules() (schedulers, engines []string) {
	for i := range p.Ops {
		o := &p.Ops[i]
		if o.Kind != AddService && o.Kind != EditService {
			continue
		}
		if s := o.Service.Scheduler; s != idle && !slices.Contains(schedulers, s) {
			schedulers = append(schedulers, s)
		}
		if e := o.Service.PE; e != "" && !slices.Contains(engines, e) {
			engines = append(engines, e)
		}
	}
	slices.Sort(schedulers)
	slices.Sort(engines)
	return schedulers, engines
}

// String prints one op to a line, as ipvsadm's options; edits end in a comment that says what was
// there before.
func (p Plan) String() string {
	var b []byte
	for i := range p.Ops {
		b = p.Ops[i].append(b)
		if old := p.Ops[i].Old(); old != "" {
			b = append(append(b, "  # was "...), old...)
		}
		b = append(b, '\n')
	}
	return string(b)
}

// Counts says how many services and real servers a plan adds, changes and deletes. The servers that
// vanish with a deleted service are not counted.
type Counts struct {
	ServicesAdded   int `json:"services_added"`
	ServicesChanged int `json:"services_changed"`
	ServicesDeleted int `json:"services_deleted"`
	ServersAdded    int `json:"servers_added"`
	ServersChanged  int `json:"servers_changed"`
	ServersDeleted  int `json:"servers_deleted"`
}

// Counts counts. A service that is added and switched to its scheduler afterwards is one added service.
func (p Plan) Counts() Counts {
	var (
		c     Counts
		added ipvs.Key
	)
	for i := range p.Ops {
		switch o := &p.Ops[i]; o.Kind {
		case AddService:
			c.ServicesAdded++
			added = o.Service.Key
		case EditService:
			if o.Service.Key != added {
				c.ServicesChanged++
			}
		case DeleteService:
			c.ServicesDeleted++
		case AddServer:
			c.ServersAdded++
		case EditServer:
			c.ServersChanged++
		case DeleteServer:
			c.ServersDeleted++
		}
	}
	return c
}

// Summary is the plan in one line for people, such as
// "services: 1 added, 1 deleted; real servers: 2 added, 1 changed", or "nothing to do".
func (p Plan) Summary() string {
	c := p.Counts()
	group := func(what string, added, changed, deleted int) string {
		var parts []string
		for _, x := range []struct {
			n    int
			verb string
		}{{added, "added"}, {changed, "changed"}, {deleted, "deleted"}} {
			if x.n > 0 {
				parts = append(parts, fmt.Sprintf("%d %s", x.n, x.verb))
			}
		}
		if parts == nil {
			return ""
		}
		return what + ": " + strings.Join(parts, ", ")
	}
	services := group("services", c.ServicesAdded, c.ServicesChanged, c.ServicesDeleted)
	servers := group("real servers", c.ServersAdded, c.ServersChanged, c.ServersDeleted)
	switch {
	case services != "" && servers != "":
		return services + "; " + servers
	case services+servers != "":
		return services + servers
	}
	return "nothing to do"
}

// Text is the plan as a command shows it: the ops, and comments with the summary, the strangers, and what changes
// beside the table.
func (p Plan) Text() string {
	var b strings.Builder
	b.WriteString(p.String())
	b.WriteString("# " + p.Summary())
	if p.Empty() && len(p.Beside) > 0 {
		b.WriteString(" in the table")
	}
	b.WriteString("\n")
	for _, k := range p.Strangers {
		b.WriteString("# left alone: " + k.String() + "\n")
	}
	for _, l := range p.Beside {
		b.WriteString("# " + l + "\n")
	}
	return b.String()
}

// MarshalJSON prints summary, counts, ops, strangers, and what changes beside the table.
func (p Plan) MarshalJSON() ([]byte, error) {
	j := struct {
		Summary   string   `json:"summary"`
		Counts    Counts   `json:"counts"`
		Ops       []Op     `json:"ops"`
		Strangers []string `json:"strangers"`
		Beside    []string `json:"beside,omitempty"`
	}{Summary: p.Summary(), Counts: p.Counts(), Ops: p.Ops, Strangers: []string{}, Beside: p.Beside}
	if j.Ops == nil {
		j.Ops = []Op{}
	}
	for _, k := range p.Strangers {
		j.Strangers = append(j.Strangers, k.String())
	}
	return json.Marshal(j)
}
