package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/ipvs"
)

// Table is what the reconcile loop needs of IPVS. [ipvs.Client] has it.
type Table interface {
	// Services lists the table, in the order of the keys.
	Services(ctx context.Context) ([]ipvs.ServiceEntry, error)
	// Fingerprint changes when the table does, as far as it can see; see [ipvs.Client.Fingerprint].
	Fingerprint(ctx context.Context) (uint64, error)
	// Apply executes commands in their order and returns nil, or one entry for each: nil or an error,
	// which wraps a unix.Errno if the kernel refused that command.
	Apply(ctx context.Context, commands []ipvs.Command) []error
	// Writes counts the commands that were sent to the kernel.
	Writes() uint64
	LoadScheduler(ctx context.Context, name string) error
	LoadPE(ctx context.Context, name string) error
}

const (
	// largeTable is from how many real servers on a table is only listed at every tick if its
	// fingerprint has changed. Listing so many takes the kernel and us some 2 ms.
	largeTable = 1000
	// listEvery is how often a large table is listed all the same, for what the fingerprint does not
	// see: thresholds, scheduler flags, persistence engines, kinds of tunnel.
	listEvery = time.Minute
)

// maxBackoff bounds the time between two tries of something that fails.
const maxBackoff = time.Minute

// opKey identifies a change whatever it changes to.
type opKey struct {
	kind    plan.Kind
	service ipvs.Key
	server  ipvs.DestKey
}

func keyOf(o *plan.Op) opKey {
	return opKey{kind: o.Kind, service: o.Service.Key, server: o.Server.DestKey}
}

// failure is a change that the kernel refused.
type failure struct {
	err   error
	since time.Time
	tries int
	next  time.Time // not tried again before
}

// failures remembers what the kernel refused, for retries, the log and the status.
type failures map[opKey]*failure

// add notes that an op failed at now, and reports whether that is news.
func (f failures) add(k opKey, err error, now time.Time, interval time.Duration) bool {
	old := f[k]
	if old == nil {
		old = &failure{since: now}
		f[k] = old
	}
	news := old.err == nil || old.err.Error() != err.Error()
	old.err = err
	old.tries++
	// At the next tick, then after 2, 4, ... intervals.
	wait := maxBackoff
	if shift := old.tries - 1; shift < 16 && interval<<shift < maxBackoff {
		wait = interval << shift
	}
	if interval > wait {
		wait = interval
	}
	// A tick may come a moment early.
	old.next = now.Add(wait - interval/2)
	return news
}

// outcome is the result of one op.
type outcome uint8

const (
	done    outcome = iota
	refused         // by the kernel, for a reason of its own
	needs           // something that was refused before it
	unknown         // not sent, or sent without an answer
)

// classify sorts the results of ops; errs is what Apply returned for them.
func classify(ops []plan.Op, errs []error) []outcome {
	out := make([]outcome, len(ops))
	if errs == nil {
		return out
	}
	added := make(map[ipvs.Key]bool) // services that were to be added and could not be
	for i := range ops {
		err := errs[i]
		var errno unix.Errno
		switch {
		case err == nil:
		case errors.Is(err, ipvs.ErrTimeout), errors.Is(err, ipvs.ErrUnknown), errors.Is(err, ipvs.ErrNotSent),
			errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
			out[i] = unknown
		case ops[i].Kind != plan.AddService && added[ops[i].Service.Key] && errors.As(err, &errno) && errno == unix.ESRCH:
			out[i] = needs
		default:
			out[i] = refused
		}
		if err != nil && ops[i].Kind == plan.AddService {
			added[ops[i].Service.Key] = true
		}
	}
	return out
}

// describe lists ops for the log, at most maxDescribed of them.
func describe(ops []plan.Op) slog.Attr {
	const maxDescribed = 10
	var lines []string
	for i := range ops {
		if i == maxDescribed {
			lines = append(lines, fmt.Sprintf("and %d more", len(ops)-i))
			break
		}
		line := ops[i].String()
		if old := ops[i].Old(); old != "" {
			line += " (was " + old + ")"
		}
		lines = append(lines, line)
	}
	return slog.Any("changes", lines)
}
