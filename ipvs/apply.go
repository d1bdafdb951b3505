package ipvs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// batchSize is how many commands go to the kernel in one system call. If all fail, their answers
// still fit into the default receive buffer (net.core.rmem_default, 212,992 bytes, holds some 256).
const batchSize = 128

// maxCopy is how long a list of commands is kept for the next one.
const maxCopy = 4096

// ErrNotSent is why a command of Apply was not tried: an earlier one had a failure that is not the
// command's own, such as ErrTimeout.
var ErrNotSent = errors.New("not sent")

// ErrUnknown is returned for a command that was sent but whose result is not known, as the kernel's
// answer was lost. List the table to find out.
var ErrUnknown = errors.New("the result is not known")

// Apply executes the commands in their order, many to a system call. It is no transaction: after a
// failure the commands that follow are executed all the same, and one that needs a failed one fails
// too. It returns nil if all succeeded, and otherwise one entry for each command, nil or a
// [*CommandError] which wraps
//   - a unix.Errno: the kernel refused the command. ESRCH no such service; EEXIST the service or
//     server is there; ENOENT no such server or, on a service, a scheduler or persistence engine that
//     cannot be loaded; ERANGE and EINVAL; EPERM CAP_NET_ADMIN is missing;
//   - the reason why the command makes no sense, and was not sent;
//   - ErrTimeout, the error of ctx, or ErrUnknown: it may have been executed or not;
//   - ErrNotSent: it was not.
func (c *Client) Apply(ctx context.Context, commands []Command) []error {
	r := &results{}
	// The goroutine may need them longer than this call.
	own, _ := c.copies.Get().(*[]Command)
	if own == nil {
		own = new([]Command)
	}
	*own = append((*own)[:0], commands...)
	err := c.request(ctx, func(op *operation) error { return c.apply(op, *own, r) })
	errs := r.take(*own, err)
	if err == nil && cap(*own) <= maxCopy {
		c.copies.Put(own)
	}
	return errs
}

// results are what is known of the commands so far. The goroutine that applies them may outlive the
// call of Apply, so they are guarded.
type results struct {
	mu   sync.Mutex
	errs []error // nil while nothing failed, or one for each command
	done int     // commands whose result is known
	sent int     // commands that were handed to the kernel, or are about to be
}

// apply runs in the goroutine that owns the socket.
func (c *Client) apply(op *operation, commands []Command, r *results) error {
	var index [batchSize]int // in commands, of each message
	reloaded := false
	for next := 0; next < len(commands); {
		first := next
		base := c.seq + 1
		c.out = c.out[:0]
		n, last := 0, 0
		for ; next < len(commands) && n < batchSize; next++ {
			if err := commands[next].check(); err != nil {
				r.fail(commands, next, err, "")
				continue
			}
			c.seq++
			last = len(c.out)
			c.out = appendCommand(c.out, commands[next], c.family, 0, c.seq)
			index[n] = next
			n++
		}
		if n == 0 {
			break
		}
		setFlags(c.out[last:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
		if err := op.step(); err != nil {
			return err
		}
		r.mu.Lock()
		r.sent = next
		r.mu.Unlock()
		if err := c.sock.write(c.out); err != nil {
			return err
		}
		c.sends.Add(1)
		c.writes.Add(uint64(n))
		gone, err := c.answers(commands, index[:n], base, r)
		if err != nil {
			return err
		}
		if gone && !reloaded {
			// Every answer was ENOENT: perhaps ip_vs was loaded anew, and has another number.
			reloaded = true
			changed, err := c.refresh(op.ctx)
			if err != nil {
				return err
			}
			if changed {
				r.forget(index[:n])
				next = first
				continue
			}
		}
		r.mu.Lock()
		r.done = next
		r.mu.Unlock()
	}
	return nil
}

// answers reads the answers to one batch, whose messages have the sequence numbers from base on:
// an error for each that failed, and one for the last in any case. It reports whether all of
// them failed with ENOENT.
func (c *Client) answers(commands []Command, index []int, base uint32, r *results) (gone bool, err error) {
	var failed [batchSize]bool
	lost := false
	noent := 0
	for ended := false; !ended; {
		b, err := c.sock.read()
		switch {
		case errors.Is(err, unix.ENOBUFS): // some answers did not fit; those that did follow
			lost = true
			continue
		case errors.Is(err, errReplyLost):
			lost, ended = true, true
			continue
		case err != nil:
			return false, err
		}
		for m, err := range messages(b) {
			if err != nil {
				return false, err
			}
			i := int(m.seq - base)
			if m.typ != unix.NLMSG_ERROR || i >= len(index) {
				continue
			}
			a, err := decodeAnswer(m)
			if err != nil {
				return false, err
			}
			if a.errno != 0 {
				failed[i] = true
				r.fail(commands, index[i], a.errno, a.text)
			}
			if a.errno == unix.ENOENT {
				noent++
			}
			ended = ended || i == len(index)-1
		}
	}
	if lost {
		for i := range index {
			if !failed[i] {
				r.fail(commands, index[i], ErrUnknown, "")
			}
		}
	}
	return noent == len(index), nil
}

func (r *results) fail(commands []Command, i int, err error, kernel string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failLocked(commands, i, err, kernel)
}

func (r *results) failLocked(commands []Command, i int, err error, kernel string) {
	if r.errs == nil {
		r.errs = make([]error, len(commands))
	}
	r.errs[i] = &CommandError{Command: commands[i], Err: err, Kernel: kernel}
}

// forget takes the failures of commands back that are tried again.
func (r *results) forget(index []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range index {
		r.errs[i] = nil
	}
}

// take returns the results; err is why the commands from r.done on have none.
func (r *results) take(commands []Command, err error) []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := r.done; err != nil && i < len(commands); i++ {
		switch {
		case r.errs != nil && r.errs[i] != nil:
		case i < r.sent:
			r.failLocked(commands, i, err, "")
		default:
			r.failLocked(commands, i, fmt.Errorf("%w: %w", ErrNotSent, err), "")
		}
	}
	errs := r.errs
	r.errs = make([]error, len(commands)) // the goroutine may go on writing
	for _, err := range errs {
		if err != nil {
			return errs
		}
	}
	return nil
}

// setFlags sets the flags of the message at the start of b.
func setFlags(b []byte, flags uint16) { binary.NativeEndian.PutUint16(b[6:], flags) }
