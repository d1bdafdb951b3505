package ipvs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultTimeout bounds the time without an answer of the kernel where the context has no deadline.
const DefaultTimeout = 5 * time.Second

// ErrTimeout is returned when the kernel did not answer in time, which happens when another program
// holds the table, or when the kernel waits for modprobe with the table locked. A command may have
// been executed all the same. The client stays usable: later calls wait for the one that hangs, and
// fail with ErrTimeout again while it does.
var ErrTimeout = errors.New("no answer from the kernel in time")

// ErrClosed is returned by calls on a closed client.
var ErrClosed = errors.New("ipvs client is closed")

// errReplyLost: netlink dropped replies, its receive buffer was full, or an answer did not come.
var errReplyLost = errors.New("the kernel's reply was lost")

// Config of a [Client]; the zero value is useful.
type Config struct {
	// NetNS is a file descriptor of the network namespace, needed during Dial only. 0 is the
	// namespace of the calling thread.
	NetNS int
	// Timeout bounds the time without an answer in calls whose context has no deadline; 0 means
	// DefaultTimeout.
	Timeout time.Duration
}

// Counters count messages to the kernel since Dial.
type Counters struct {
	Writes   uint64 // commands of Apply that were sent: each asks the kernel to change the table or its counters
	Settings uint64 // timeouts set, sync daemons started and stopped
	Reads    uint64 // requests that change nothing
	Sends    uint64 // system calls that sent any of them
}

// Info is what the kernel says about itself.
type Info struct {
	Version       string // such as "1.2.1"
	ConnTableSize uint32 // buckets of the table of connections
}

// Client is a connection to the kernel's IPVS in one network namespace. It is safe for concurrent
// use; calls run one after the other, so that no listing of this client sees half of a change made by it.
type Client struct {
	timeout time.Duration
	info    Info

	closed chan struct{}
	mu     sync.Mutex // guards netns, and the closing of closed
	netns  *os.File   // the namespace, nil if it is not to be had

	writes, settings, reads, sends atomic.Uint64
	copies                         sync.Pool // *[]Command, of Apply

	// token holds one value while somebody owns the fields below. A channel, not a mutex, because
	// waiting for it is bounded, and because it passes to the goroutine that hangs in the kernel.
	token chan struct{}

	sock   *socket
	family uint16
	seq    uint32
	out    []byte
	names  names
	dests  []DestinationEntry // of one service, while it is read
}

// Dial connects to the kernel's IPVS, loading the module ip_vs if needed. It fails with an
// [*ErrModule] if the kernel has no IPVS, and with os.ErrPermission if CAP_NET_ADMIN is missing.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	c := &Client{
		timeout: cfg.Timeout,
		token:   make(chan struct{}, 1),
		closed:  make(chan struct{}),
		names:   names{},
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	var err error
	if c.netns, err = openNetNS(cfg.NetNS); err != nil {
		return nil, fmt.Errorf("failed to connect to IPVS: %w", err)
	}
	if err := c.run(ctx, func(op *operation) error { return c.connect(op.ctx) }); err != nil {
		c.Close()
		return nil, fmt.Errorf("failed to connect to IPVS: %w", err)
	}
	info, err := c.readInfo(ctx)
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("failed to connect to IPVS: %w", err)
	}
	c.info = info
	return c, nil
}

// Close ends calls that wait for their turn, and frees the socket when the call that has it is through.
func (c *Client) Close() error {
	c.mu.Lock()
	select {
	case <-c.closed:
		c.mu.Unlock()
		return nil
	default:
	}
	close(c.closed)
	c.mu.Unlock()
	free := func() { // and never give the token back
		c.disconnect()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.netns != nil {
			c.netns.Close()
		}
	}
	select {
	case c.token <- struct{}{}:
		free()
	default:
		go func() {
			c.token <- struct{}{}
			free()
		}()
	}
	return nil
}

// Counters returns how many messages were sent.
func (c *Client) Counters() Counters {
	return Counters{
		Writes:   c.writes.Load(),
		Settings: c.settings.Load(),
		Reads:    c.reads.Load(),
		Sends:    c.sends.Load(),
	}
}

// Writes returns how many commands that change the table were sent to the kernel.
func (c *Client) Writes() uint64 { return c.writes.Load() }

// Info returns what the kernel said when the client was made.
func (c *Client) Info() Info { return c.info }

// operation is one call of the client, seen from the goroutine that runs it.
type operation struct {
	ctx       context.Context
	abandoned atomic.Bool  // the caller is gone: do not begin anything new
	progress  atomic.Int64 // exchanges with the kernel so far
	stopped   bool         // by step, between two exchanges
}

// step is called before each exchange with the kernel.
func (op *operation) step() error {
	op.progress.Add(1)
	err := context.Cause(op.ctx)
	if err == nil && op.abandoned.Load() {
		err = ErrTimeout
	}
	op.stopped = err != nil
	return err
}

// run calls f in a goroutine of its own that owns the client's socket, and waits for it until ctx
// ends; without a deadline in ctx, until c.timeout has passed since f's last progress. No system
// call on a netlink socket can be interrupted while the kernel works on it, so f is then left alone:
// it owns the socket until it returns. Hence f must not write to memory that the caller reads after
// ErrTimeout.
func (c *Client) run(ctx context.Context, f func(*operation) error) error {
	limit := time.NewTimer(c.timeout)
	defer limit.Stop()
	_, deadline := ctx.Deadline()
	if deadline {
		limit.Stop()
	}
	select {
	case <-c.closed:
		return ErrClosed
	default:
	}
	if err := context.Cause(ctx); err != nil {
		return timeoutError(err)
	}
	select {
	case c.token <- struct{}{}:
	case <-c.closed:
		return ErrClosed
	case <-ctx.Done():
		return timeoutError(context.Cause(ctx))
	case <-limit.C:
		return fmt.Errorf("%w: an earlier call still waits", ErrTimeout)
	}
	if !deadline {
		limit.Reset(c.timeout)
	}
	op := &operation{ctx: ctx}
	done := make(chan error, 1)
	go func() {
		err := f(op)
		<-c.token
		done <- err
	}()
	var seen int64
	for {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			op.abandoned.Store(true)
			return timeoutError(context.Cause(ctx))
		case <-limit.C:
			if p := op.progress.Load(); p != seen {
				seen = p
				limit.Reset(c.timeout)
				continue
			}
			op.abandoned.Store(true)
			return fmt.Errorf("%w: waited %v", ErrTimeout, c.timeout)
		}
	}
}

// timeoutError makes a deadline an ErrTimeout too; a cancelled context stays what it is.
func timeoutError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	}
	return err
}

// connect opens the socket if there is none and asks for the number of the family.
func (c *Client) connect(ctx context.Context) error {
	if c.sock != nil {
		return nil
	}
	var s *socket
	err := c.inNetNS(func() (err error) {
		s, err = openSocket()
		return err
	})
	if err != nil {
		return err
	}
	family, err := findFamily(ctx, s)
	if err != nil {
		s.close()
		return err
	}
	c.sock, c.family = s, family
	return nil
}

func (c *Client) disconnect() {
	if c.sock != nil {
		c.sock.close()
		c.sock = nil
	}
}

// findFamily asks for the family's number, which is a new one each time that ip_vs is loaded. The
// kernel loads the module itself where its modprobe finds it; where it does not, ours may.
func findFamily(ctx context.Context, s *socket) (uint16, error) {
	family, err := s.family()
	if errors.Is(err, os.ErrNotExist) {
		if err := modprobe(ctx, Module); err != nil {
			return 0, &ErrModule{What: "IPVS", Module: Module, Err: err}
		}
		if family, err = s.family(); errors.Is(err, os.ErrNotExist) {
			return 0, &ErrModule{What: "IPVS", Module: Module, Err: errors.New("it is loaded but does not answer")}
		}
	}
	if err != nil {
		return 0, fmt.Errorf("failed to find netlink family %q: %w", familyName, err)
	}
	return family, nil
}

// answer is what the kernel says to a message: an error number, 0 for done, and perhaps a text.
type answer struct {
	errno unix.Errno
	text  string
}

func (a *answer) Error() string {
	text := a.errno.Error()
	if a.errno == unix.EPERM {
		text = "CAP_NET_ADMIN is missing: " + text
	}
	if a.text != "" {
		text += ": " + a.text
	}
	return text
}

func (a *answer) Unwrap() error { return a.errno }

// decodeAnswer reads the payload of an NLMSG_ERROR or NLMSG_DONE message.
func decodeAnswer(m message) (answer, error) {
	if m.typ == unix.NLMSG_DONE && len(m.data) == 0 {
		return answer{}, nil
	}
	if len(m.data) < 4 {
		return answer{}, fmt.Errorf("error message: %w", errMalformed)
	}
	code := int32(binary.NativeEndian.Uint32(m.data))
	if code > 0 { // a dump may end with a length
		code = 0
	}
	a := answer{errno: unix.Errno(-int64(code))}
	if m.flags&unix.NLM_F_ACK_TLVS == 0 {
		return a, nil
	}
	tlvs := m.data[4:]
	if m.typ == unix.NLMSG_ERROR {
		// The header of the request follows, and the request too unless the answer is capped.
		if len(tlvs) < nlHeaderLen {
			return a, nil
		}
		n := nlHeaderLen
		if m.flags&unix.NLM_F_CAPPED == 0 {
			n = int(binary.NativeEndian.Uint32(tlvs))
		}
		if n < nlHeaderLen || n > len(tlvs) || align(n) > len(tlvs) {
			return a, nil
		}
		tlvs = tlvs[align(n):]
	}
	for it := attrs(tlvs); it.next(); {
		if it.typ == unix.NLMSGERR_ATTR_MSG {
			a.text = string(it.text())
		}
	}
	return a, nil
}

// begin starts a message in c.out; exchange finishes it.
func (c *Client) begin(cmd uint8, flags uint16) {
	c.seq++
	c.out = appendMessage(c.out[:0], c.family, unix.NLM_F_REQUEST|flags, c.seq, cmd, familyVersion)
}

// exchange sends the message in c.out, and hands each answer to it to f (the generic netlink
// command and its attributes), until its acknowledgement, error or end of dump. It returns the
// number of datagrams with data in them.
func (c *Client) exchange(op *operation, f func(cmd uint8, data []byte) error) (datagrams int, err error) {
	if err := op.step(); err != nil {
		return 0, err
	}
	endMessage(c.out, 0)
	if err := c.sock.write(c.out); err != nil {
		return 0, err
	}
	c.sends.Add(1)
	var failed error // of f; the rest of a dump is read all the same, or the next one gets EBUSY
	for {
		b, err := c.sock.read()
		if err != nil {
			return datagrams, err
		}
		data := false
		for m, err := range messages(b) {
			switch {
			case err != nil:
				return datagrams, err
			case m.seq != c.seq:
				continue // of an exchange that failed
			case m.typ == unix.NLMSG_ERROR || m.typ == unix.NLMSG_DONE:
				a, err := decodeAnswer(m)
				switch {
				case err != nil:
					return datagrams, err
				case a.errno != 0:
					return datagrams, &a
				}
				return datagrams, failed
			case m.typ != c.family:
				continue
			case len(m.data) < genlHeaderLen:
				return datagrams, errMalformed
			}
			data = true
			if failed == nil {
				failed = f(m.data[0], m.data[genlHeaderLen:])
			}
		}
		if data {
			datagrams++
		}
	}
}

// request runs f with a socket: after a failure of the socket itself the next request gets a new
// one. A request that fails because ip_vs was loaded anew is made once more.
func (c *Client) request(ctx context.Context, f func(*operation) error) error {
	return c.run(ctx, func(op *operation) error {
		if err := c.connect(ctx); err != nil {
			return err
		}
		err := f(op)
		var a *answer
		if errors.As(err, &a) && a.errno == unix.ENOENT {
			changed, refreshErr := c.refresh(ctx)
			switch {
			case refreshErr != nil:
				return refreshErr
			case changed:
				a = nil
				err = f(op)
				errors.As(err, &a)
			}
		}
		if err != nil && a == nil && !op.stopped {
			c.disconnect() // a failure of the socket, or answers are left in it
		}
		return err
	})
}

// refresh asks for the family's number again: a message to a number that is no more gets ENOENT
// (genl_rcv_msg in net/netlink/genetlink.c).
func (c *Client) refresh(ctx context.Context) (changed bool, err error) {
	family, err := findFamily(ctx, c.sock)
	if err != nil {
		return false, err
	}
	changed = family != c.family
	c.family = family
	return changed, nil
}

func (c *Client) readInfo(ctx context.Context) (Info, error) {
	out := new(Info) // not the caller's: see run
	err := c.request(ctx, func(op *operation) error {
		c.reads.Add(1)
		c.begin(cmdGetInfo, unix.NLM_F_ACK)
		_, err := c.exchange(op, func(_ uint8, data []byte) error {
			for it := attrs(data); it.next(); {
				switch it.typ {
				case infoVersion:
					v := it.uint32()
					out.Version = fmt.Sprintf("%d.%d.%d", v>>16&0xff, v>>8&0xff, v&0xff)
				case infoConnTableSize:
					out.ConnTableSize = it.uint32()
				}
			}
			return nil
		})
		return err
	})
	if err != nil {
		return Info{}, err
	}
	return *out, nil
}
