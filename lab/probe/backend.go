package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// freeBind lets a socket bind an address that the host does not have yet (ip(7), IP_FREEBIND).
func freeBind(network, _ string, raw syscall.RawConn) error {
	level, opt := unix.SOL_IP, unix.IP_FREEBIND
	if network == "udp6" || network == "tcp6" {
		level, opt = unix.SOL_IPV6, unix.IPV6_FREEBIND
	}
	var serr error
	err := raw.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), level, opt, 1) })
	return errors.Join(err, serr)
}

// HTTPOptions say how an HTTP back end serves.
type HTTPOptions struct {
	Listen netip.AddrPort
	// ServiceTime is how long a worker is busy with a page; the requests for which there is no worker wait in a queue.
	// 0: pages take no time.
	ServiceTime time.Duration
	Workers     int // with ServiceTime; 0 is 1
}

// LoadPage is the page of an HTTP back end with a service time that says how many requests it has had for each worker,
// on average since the page was last asked for. It takes no worker.
const LoadPage = "/load"

// desk hands requests to workers, and counts them.
type desk struct {
	workers chan struct{}
	takes   time.Duration

	mu    sync.Mutex // guards what follows
	here  int        // requests, those that wait among them
	sum   float64    // request seconds since begun
	last  time.Time  // up to which sum counts
	begun time.Time
}

func newDesk(o *HTTPOptions, now time.Time) *desk {
	return &desk{workers: make(chan struct{}, max(o.Workers, 1)), takes: o.ServiceTime, last: now, begun: now}
}

// count changes the number of requests.
func (d *desk) count(by int, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sum += float64(d.here) * now.Sub(d.last).Seconds()
	d.last = now
	d.here += by
}

// load is what LoadPage says; it begins anew.
func (d *desk) load(now time.Time) float64 {
	d.count(0, now)
	d.mu.Lock()
	defer d.mu.Unlock()
	past := now.Sub(d.begun).Seconds()
	if past <= 0 {
		return 0
	}
	load := d.sum / past / float64(cap(d.workers))
	d.sum, d.begun = 0, now
	return load
}

// serve waits until a worker has been busy with a request.
func (d *desk) serve(ctx context.Context) {
	d.count(1, time.Now())
	defer func() { d.count(-1, time.Now()) }()
	select {
	case d.workers <- struct{}{}:
		time.Sleep(d.takes) // also for a client that has gone: a worker does not know
		<-d.workers
	case <-ctx.Done():
	}
}

// HTTP serves pages that name this host and the client's address, until ctx ends.
func HTTP(ctx context.Context, w *Writer, o HTTPOptions) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.Listen.String())
	if err != nil {
		return err
	}
	d := newDesk(&o, time.Now())
	srv := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if o.ServiceTime > 0 {
				if r.URL.Path == LoadPage {
					fmt.Fprintf(rw, "%.3f\n", d.load(time.Now()))
					return
				}
				d.serve(r.Context())
			}
			rw.Header().Set(serverHeader, name)
			rw.Header().Set(clientHeader, r.RemoteAddr)
			fmt.Fprintf(rw, "server=%s client=%s\n", name, r.RemoteAddr)
		}),
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	w.Write(Event{Kind: Ready, At: Now()})
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Echo answers every TCP connection with the bytes that it sends, until ctx ends.
func Echo(ctx context.Context, w *Writer, listen netip.AddrPort) error {
	l, err := net.Listen("tcp", listen.String())
	if err != nil {
		return err
	}
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	stop := context.AfterFunc(ctx, func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range conns {
			c.Close()
		}
	})
	defer stop()
	w.Write(Event{Kind: Ready, At: Now()})
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		mu.Lock()
		conns[c] = true
		mu.Unlock()
		wg.Go(func() {
			_, _ = io.Copy(c, c) // an error ends this connection only, and its client sees it
			c.Close()
			mu.Lock()
			delete(conns, c)
			mu.Unlock()
		})
	}
}

// UDPEcho answers every datagram with its first 8 bytes, the name of this host, a space and the
// client's address, until ctx ends.
func UDPEcho(ctx context.Context, w *Writer, listen netip.AddrPort) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	// In direct routing a datagram is for the VIP, and the answer has to come from the VIP. An unbound
	// socket would answer from the real IP, so the back end is to listen on the VIP itself.
	// The agent may put the VIP there later, hence free binding.
	lc := net.ListenConfig{Control: freeBind}
	pc, err := lc.ListenPacket(ctx, "udp", listen.String())
	if err != nil {
		return err
	}
	c := pc.(*net.UDPConn)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	w.Write(Event{Kind: Ready, At: Now()})
	buf := make([]byte, 64<<10)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return nil
		} else if err != nil {
			return err
		}
		if n < 8 {
			continue
		}
		answer := append(append([]byte{}, buf[:8]...), name+" "+from.String()...)
		_, _ = c.WriteToUDPAddrPort(answer, from) // lost like any datagram
	}
}
