package dropin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvsadm"
)

// kernelTimeout bounds the wait for an answer of the kernel, which may have to build large tables of a
// scheduler first, or wait for modprobe.
const kernelTimeout = 30 * time.Second

// maxPending is how many changes of a restore are gathered before they are made.
const maxPending = 4096

// Run is the program: args are its name and its arguments. It returns the exit status. It acts on the
// network namespace of the calling thread.
func Run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx := context.Background()
	t := &tool{args: args, out: stdout, errs: stderr, names: &System{}}
	client, err := dial(ctx)
	if err != nil {
		if c, wrong := Parse(args, t.names); wrong == nil && (c.Action == Help || c.Action == Version) {
			return t.run(ctx, c)
		}
		return t.refused(err)
	}
	defer client.Close()
	t.client = client
	if len(args) <= 1 { // the list, by names
		return t.run(ctx, Command{Action: List})
	}
	c, err := Parse(args, t.names)
	if err != nil {
		return t.refused(err)
	}
	if c.Action == Restore {
		status, _ := t.restore(ctx, stdin)
		return status
	}
	return t.run(ctx, c)
}

// tool is the program while it runs.
type tool struct {
	args      []string
	out, errs io.Writer
	client    *ipvs.Client
	names     *System

	pending []Command // changes of a restore that are still to be made
}

// refused tells why a command line is refused, and returns the exit status.
func (t *tool) refused(err error) int {
	fmt.Fprintln(t.errs, err)
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return statusFailed
}

// run executes one command that is no restore.
func (t *tool) run(ctx context.Context, c Command) int {
	var err error
	switch c.Action {
	case Help:
		_, err = io.WriteString(t.out, usage(t.args[0]))
		return t.printed(err)
	case Version:
		_, err = io.WriteString(t.out, version)
		return t.printed(err)
	case List, Save:
		return t.printed(t.list(ctx, c))
	case SetTimeouts:
		err = t.client.SetTimeouts(ctx, c.Timeouts)
	case StartDaemon:
		err = t.client.StartDaemon(ctx, c.Daemon)
	case StopDaemon:
		err = t.client.StopDaemon(ctx, c.Daemon.Role)
	default:
		if errs := t.client.Apply(ctx, []ipvs.Command{c.Change}); errs != nil {
			err = errs[0]
		}
	}
	return t.changed(c.Action, err)
}

// changed tells why a change failed.
func (t *tool) changed(a Action, err error) int {
	if err == nil {
		return statusOK
	}
	fmt.Fprintln(t.errs, message(a, err))
	return statusFailed
}

// printed tells why there is no list, or no whole one. A reader that went away is not told: it knows.
func (t *tool) printed(err error) int {
	if err == nil {
		return statusOK
	}
	if !errors.Is(err, unix.EPIPE) {
		fmt.Fprintln(t.errs, message(List, err))
	}
	return statusList
}

func (t *tool) list(ctx context.Context, c Command) error {
	if !c.Numeric {
		c.Options.Names = t.names
	}
	destinations := func(services []ipvs.ServiceEntry, each func(int, *ipvs.DestinationEntry)) error {
		return t.client.EachDestination(ctx, services, each)
	}
	switch c.List {
	case OneService:
		s, err := t.client.Service(ctx, c.Service)
		if err != nil {
			return err
		}
		return ipvsadm.Service(t.out, s, destinations, c.Options)
	case Connections:
		p := ipvsadm.NewNamedConnections(t.out, c.Options.View == ipvsadm.PersistentConn, c.Options.Names)
		if err := t.client.Connections(ctx, p.Print); err != nil {
			return errors.Join(p.Close(), err)
		}
		return p.Close()
	case Timeouts:
		timeouts, err := t.client.Timeouts(ctx)
		if err != nil {
			return err
		}
		return ipvsadm.Timeouts(t.out, timeouts)
	case Daemons:
		daemons, err := t.client.Daemons(ctx)
		if err != nil {
			return err
		}
		return ipvsadm.Daemons(t.out, daemons)
	}
	services, err := t.client.ListServices(ctx)
	if err != nil {
		return err
	}
	if c.Action == Save {
		return ipvsadm.Rules(t.out, services, destinations, c.Options.Names)
	}
	return ipvsadm.Table(t.out, t.client.Info(), services, destinations, c.Options)
}

// restore executes the command lines that it reads. The kernel gets many at once, but not later than it
// would one by one: before restore waits for input. Its status is that of the last line; ends says that a
// line ended it.
func (t *tool) restore(ctx context.Context, stdin io.Reader) (status int, ends bool) {
	rules := NewRules(stdin)
	for {
		if !rules.ready() || len(t.pending) >= maxPending {
			status = t.flush(ctx, status)
		}
		words, err := rules.Next()
		if err == io.EOF {
			return t.flush(ctx, status), false
		}
		if err == nil && len(words) == 0 {
			continue
		}
		var c Command
		if err == nil {
			c, err = Parse(append([]string{t.args[0]}, words...), t.names)
		}
		if err == nil && c.Action == Restore { // it would read itself
			err = help(t.args[0])
		}
		if err != nil {
			t.flush(ctx, status)
			status = t.refused(err)
			var e *Error
			if !errors.As(err, &e) || e.Ends {
				return status, true
			}
			continue
		}
		if c.Change.Op != 0 {
			t.pending = append(t.pending, c)
			continue
		}
		t.flush(ctx, status)
		status = t.run(ctx, c)
		if c.Action == Help || c.Action == Version || (c.Action == List || c.Action == Save) && status != statusOK {
			return status, true
		}
	}
}

// flush makes the pending changes and returns the status of the last one, or else the given one.
func (t *tool) flush(ctx context.Context, status int) int {
	if len(t.pending) == 0 {
		return status
	}
	commands := make([]ipvs.Command, len(t.pending))
	for i := range t.pending {
		commands[i] = t.pending[i].Change
	}
	status = statusOK
	for i, err := range t.client.Apply(ctx, commands) {
		status = t.changed(t.pending[i].Action, err)
	}
	t.pending = t.pending[:0]
	return status
}

// version is what -v prints. Programs look for the version of ipvsadm in it; that of IPVS is the one that the
// original was made for.
const version = "ipvsadm v1.31 2019/12/24 (compiled with drover and IPVS v1.2.1)\n"

// usage is what -h prints.
func usage(program string) string {
	return version + strings.ReplaceAll(usageText, "PROGRAM", program)
}
