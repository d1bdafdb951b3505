package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

var (
	// ErrNotRunning: Run was not called, or is over.
	ErrNotRunning = errors.New("the cluster's node is not running")
	// ErrNameTaken: another node had this node's name first.
	ErrNameTaken = errors.New("the name of this node is taken")
	// ErrUnknownMember: nobody of that name is known.
	ErrUnknownMember = errors.New("no such member")
	// ErrRestarted: a node that was asked has been started again since. Its answer, if there is one, does not arrive.
	ErrRestarted = errors.New("it was started again meanwhile")
)

const (
	stopBound    = 3 * time.Second // of waiting for handlers when Run ends
	forgottenFor = time.Hour
	joinAtOnce   = 8 // addresses that are tried at the same time
)

type forgotten struct {
	epoch uint64 // records up to it are not taken
	until time.Time
}

// Node is one node. All methods may be called from any goroutine.
type Node struct {
	opt     Options
	log     *slog.Logger
	metrics *metrics
	ready   chan struct{}

	refusals refusals

	keys  *ring
	alive atomic.Int64 // members, at least 1

	ml      atomic.Pointer[memberlist.Memberlist]
	running context.Context // of Run; set before ml

	started  atomic.Bool
	handlers map[byte]*handler    // not changed after Run
	serve    map[byte]RequestFunc // not changed after Run
	requests *queue[request]      // to this node
	streams  chan struct{}        // a place for each SendReliable under way
	large    chan struct{}        // capacity 1: wakes the sender of large records
	news     chan struct{}        // capacity 1: wakes who tells others of own records
	gossiped *memberlist.TransmitLimitedQueue
	pending  *pending

	onMembers, onRecords watchers
	count                atomic.Uint64 // number of the last message

	mu         sync.Mutex // guards everything below; nothing is called with it that waits
	start      uint64     // of this Run, in the metadata
	epoch      uint64     // in messages and records; start, or more if others remember a later one
	counter    uint64     // of the last record
	address    netip.AddrPort
	members    map[string]*Member
	gone       map[string]time.Time // since when a node that is not alive, member or not, is away
	forgotten  map[string]forgotten
	senders    map[string]*sender
	records    *recordSet
	dirty      map[string]bool     // keys of own records that are too large for gossip and not sent yet
	telling    map[string]*telling // own records of which others are told, by key
	directors  int                 // alive, this node not counted
	conflicts  map[netip.AddrPort]*Conflict
	mutedUntil time.Time
}

type handler struct {
	fn    func(from string, payload []byte)
	queue *queue[message]
}

// New checks the options and prepares a node. It does nothing on the network and starts nothing.
func New(opt Options) (*Node, error) {
	if err := opt.check(); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	m, err := newMetrics(opt.Registry)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	keys, err := newKeyring(opt.Keys, opt.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	n := &Node{
		opt: opt, log: opt.Log.With("component", "cluster"), metrics: m, keys: keys, ready: make(chan struct{}),
		handlers: make(map[byte]*handler), serve: make(map[byte]RequestFunc),
		requests: newQueue(func(r request) int { return len(r.payload) }),
		streams:  make(chan struct{}, maxSends), large: make(chan struct{}, 1), news: make(chan struct{}, 1), pending: newPending(),
		members: make(map[string]*Member), gone: make(map[string]time.Time), forgotten: make(map[string]forgotten),
		senders: make(map[string]*sender), records: newRecordSet(), dirty: make(map[string]bool), telling: make(map[string]*telling),
		conflicts: make(map[netip.AddrPort]*Conflict),
	}
	n.alive.Store(1)
	n.start = uint64(opt.now().UnixNano())
	n.epoch = n.start
	n.gossiped = &memberlist.TransmitLimitedQueue{RetransmitMult: retransmitMult, NumNodes: func() int { return int(n.alive.Load()) }}
	n.serve[kindKeys] = n.serveKeys
	return n, nil
}

// String names the node.
func (n *Node) String() string { return "cluster node " + n.opt.Name }

// Name is the node's own name.
func (n *Node) Name() string { return n.opt.Name }

// Ready is closed when the node listens.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Address is where others reach this node; valid when Ready is closed.
func (n *Node) Address() netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.address
}

// Handle has fn called with the messages of a kind, those of Send and of SendReliable alike, one after another
// in a goroutine of its own. Messages wait in a queue of 1,024 and 32 MiB; the oldest are dropped and counted if it is
// full. fn may keep the payload, and must return soon after Run's context ends. Handle panics for a kind that is
// reserved or has a handler, and after Run.
func (n *Node) Handle(kind byte, fn func(from string, payload []byte)) {
	if kind >= ReservedKind || n.handlers[kind] != nil || n.started.Load() {
		panic(fmt.Sprintf("cluster: Handle of kind %d: reserved, handled already, or after Run", kind))
	}
	n.handlers[kind] = &handler{fn: fn, queue: newQueue(func(m message) int { return len(m.payload) })}
}

// retransmitMult times log10 of the number of nodes is how often each node passes on what it is told. With memberlist's
// usual 4, one in a hundred of such messages misses somebody in a cluster of six.
const retransmitMult = 6

func (n *Node) config(t memberlist.NodeAwareTransport) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	tm := &n.opt.Timing
	c.Name, c.Label, c.Transport = n.opt.Name, n.opt.Label, t
	c.BindAddr, c.BindPort = n.opt.Bind.Addr().String(), int(n.opt.Bind.Port())
	c.AdvertiseAddr, c.AdvertisePort = "", 0 // the transport knows
	if n.opt.Advertise.IsValid() {
		c.AdvertiseAddr, c.AdvertisePort = n.opt.Advertise.Addr().String(), int(n.opt.Advertise.Port())
	}
	c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = tm.ProbeInterval, tm.ProbeTimeout, tm.SuspicionMult
	// Six times, as is usual, has been seen to keep a dead member for 20 s if one survivor misses a broadcast.
	c.SuspicionMaxTimeoutMult = 2
	c.RetransmitMult = retransmitMult
	c.GossipInterval, c.PushPullInterval = tm.GossipInterval, tm.PushPullInterval
	c.GossipToTheDeadTime, c.DeadNodeReclaimTime = tm.GossipToTheDeadTime, tm.DeadNodeReclaimTime
	c.TCPTimeout = tm.StreamTimeout
	c.EnableCompression = false // LZW of what is small or encrypted costs time and saves little
	c.RequireNodeNames = false
	c.Keyring = n.keys.ring
	c.Delegate, c.Events, c.Alive, c.Conflict = gossip{n}, gossip{n}, gossip{n}, gossip{n}
	c.Logger = log.New(newLogAdapter(n.log, n.metrics, n.opt.now, &n.refusals), "", 0)
	return c
}

// Run listens, joins the seeds for ever, and serves until ctx ends; then it says goodbye, within LeaveTimeout,
// and returns nil. It may be called once.
func (n *Node) Run(ctx context.Context) error {
	if n.started.Swap(true) {
		return errors.New("cluster: Run was called before")
	}
	inner := n.opt.Transport
	if inner == nil {
		t, err := listen(n.opt.Bind, n.opt.Advertise)
		if err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
		inner = t
	}
	t := newMeter(inner, n.metrics, n.opt.Timing.StreamTimeout)
	cfg := n.config(t)
	ip, port, err := t.FinalAdvertiseAddr(cfg.AdvertiseAddr, cfg.AdvertisePort)
	if err != nil {
		_ = t.Shutdown()
		return fmt.Errorf("cluster: %w", err)
	}
	cfg.BindPort = port
	a, _ := netip.AddrFromSlice(ip)
	n.mu.Lock()
	n.address = netip.AddrPortFrom(a.Unmap(), uint16(port))
	n.mu.Unlock()

	// What goes on after ctx ends, so that the goodbye is still sent and answered.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	n.running = serving
	ml, err := memberlist.Create(cfg)
	if err != nil {
		_ = t.Shutdown()
		return fmt.Errorf("cluster: failed to start: %w", err)
	}
	n.ml.Store(ml)
	close(n.ready)

	var wg sync.WaitGroup
	for kind, h := range n.handlers {
		wg.Go(func() { n.handle(serving, kind, h) })
	}
	for range maxServing {
		wg.Go(func() { n.serveRequests(serving) })
	}
	wg.Go(func() { n.sendLarge(serving) })
	wg.Go(func() { n.tellAgain(serving) })
	n.join(ctx, ml, &wg)

	n.leave(ml)
	stop()
	n.ml.Store(nil)
	err = ml.Shutdown()
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(stopBound):
		err = errors.Join(err, fmt.Errorf("cluster: a handler did not return within %s", stopBound))
	}
	return err
}

func (n *Node) handle(ctx context.Context, _ byte, h *handler) {
	for {
		m, ok := h.queue.pop(ctx)
		if !ok {
			return
		}
		h.fn(m.from, m.payload)
	}
}

// leave says goodbye: by a record first, as the others cannot tell a member that left from one that failed.
func (n *Node) leave(ml *memberlist.Memberlist) {
	n.mu.Lock()
	if n.mutedLocked() != nil {
		n.mu.Unlock()
		return // the name is another's, and so would be the goodbye
	}
	n.setLocked(leavingKey, entry{value: binary.BigEndian.AppendUint64(nil, n.start)})
	msg := n.encodeRecordsLocked([]recordID{{n.opt.Name, leavingKey}})
	var to []memberlist.Address
	for _, m := range n.members {
		if m.State == Alive && m.Name != n.opt.Name {
			to = append(to, memberlist.Address{Addr: m.Address.String(), Name: m.Name})
		}
	}
	n.mu.Unlock()
	for _, a := range to {
		_ = ml.SendToAddress(a, msg)
	}
	// Leave of memberlist 0.7.0 looks at its own entry before it asks whether there is one.
	if !slices.ContainsFunc(ml.Members(), func(m *memberlist.Node) bool { return m.Name == n.opt.Name }) {
		n.log.Warn("memberlist does not tell that this node leaves: it is no member in its own list")
		return
	}
	if err := ml.Leave(n.opt.Timing.LeaveTimeout); err != nil {
		n.log.Warn("failed to tell that this node leaves", "err", err)
	}
}

// join tries seeds that are no live members, and one of the members that failed, again and again until ctx ends.
func (n *Node) join(ctx context.Context, ml *memberlist.Memberlist, wg *sync.WaitGroup) {
	gate := make(chan struct{}, joinAtOnce)
	var busy sync.Map // addresses that are being tried
	failing := false
	interval := n.opt.Timing.ReconnectInterval
	wait := min(interval, 200*time.Millisecond)
	for {
		targets, unresolved := n.targets(ctx)
		if failing != (unresolved != nil) {
			failing = !failing
			if failing {
				n.log.Warn("failed to resolve a seed; it is tried again for ever", "err", unresolved)
			}
		}
		for _, at := range targets {
			if _, loaded := busy.LoadOrStore(at, true); loaded {
				continue
			}
			select {
			case gate <- struct{}{}:
			default:
				busy.Delete(at)
				continue
			}
			wg.Go(func() {
				defer func() { busy.Delete(at); <-gate }()
				if _, err := ml.Join([]string{at.String()}); err != nil && ctx.Err() == nil {
					n.log.Debug("failed to join", "address", at, "err", err)
				}
			})
		}
		n.forget()
		// A little irregular, so that nodes that started together do not stay in step.
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait - wait/8 + rand.N(wait/4)):
		}
		wait = min(2*wait, interval)
	}
}

// targets are the addresses to join.
func (n *Node) targets(ctx context.Context) (out []netip.AddrPort, err error) {
	n.mu.Lock()
	known := map[netip.AddrPort]bool{n.address: true}
	var gone, live []netip.AddrPort
	muted := n.mutedLocked() != nil
	for _, m := range n.members {
		if m.State == Alive {
			known[m.Address] = true
			if m.Name != n.opt.Name {
				live = append(live, m.Address)
			}
		} else {
			gone = append(gone, m.Address)
		}
	}
	n.mu.Unlock()
	add := func(a netip.AddrPort) {
		if !known[a] && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	for _, s := range n.opt.Seeds {
		host, port, _ := splitSeed(s)
		if a, err := netip.ParseAddr(host); err == nil {
			add(netip.AddrPortFrom(a.Unmap(), port))
			continue
		}
		// Not by memberlist, which asks the first name server by TCP for everything.
		rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		addrs, rerr := net.DefaultResolver.LookupNetIP(rctx, "ip", host)
		cancel()
		if rerr != nil {
			err = errors.Join(err, rerr)
		}
		for _, a := range addrs {
			add(netip.AddrPortFrom(a.Unmap(), port))
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	if muted && len(live) > 0 {
		// An exchange with any member shows whether the first node of this name is still there.
		out = append(out, live[rand.IntN(len(live))])
	}
	if len(gone) > 0 {
		add(gone[rand.IntN(len(gone))])
	}
	return out, err
}
