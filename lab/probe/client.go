package probe

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Headers by which the HTTP back end names itself and the client that it saw.
const (
	serverHeader = "X-Lab-Server"
	clientHeader = "X-Lab-Client"
)

// kindOf names the kind of a network error in one word.
func kindOf(err error) string {
	var ne net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "unreachable"
	case errors.As(err, &ne) && ne.Timeout(), errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "closed"
	}
	return err.Error()
}

// every calls fn at each multiple of d until ctx ends. A late tick is not made up for.
func every(ctx context.Context, d time.Duration, fn func(n int)) {
	t := time.NewTicker(d)
	defer t.Stop()
	for n := 0; ; n++ {
		fn(n)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// attempts runs try every d, each in its own goroutine so that a slow one delays none, and reports.
func attempts(ctx context.Context, w *Writer, d time.Duration, try func(n int) (server, client string, err error)) {
	var wg sync.WaitGroup
	w.Write(Event{Kind: Ready, At: Now()})
	every(ctx, d, func(n int) {
		wg.Go(func() {
			start := Now()
			server, client, err := try(n)
			if err != nil {
				w.Write(Event{Kind: Fail, Start: start, At: Now(), Error: kindOf(err)})
				return
			}
			w.Write(Event{Kind: OK, Start: start, At: Now(), Server: server, Client: client})
		})
	})
	wg.Wait()
}

// Connect opens a new TCP connection to target every d, asks for one page over it, and closes it. It
// runs until ctx ends and then waits for the attempts under way, each bounded by timeout.
func Connect(ctx context.Context, w *Writer, target netip.AddrPort, d, timeout time.Duration) {
	request := []byte("GET / HTTP/1.1\r\nHost: " + target.String() + "\r\nConnection: close\r\n\r\n")
	attempts(ctx, w, d, func(int) (string, string, error) {
		dialer := net.Dialer{Timeout: timeout}
		deadline := time.Now().Add(timeout)
		c, err := dialer.Dial("tcp", target.String())
		if err != nil {
			return "", "", err
		}
		defer c.Close()
		if err := c.SetDeadline(deadline); err != nil {
			return "", "", err
		}
		if _, err := c.Write(request); err != nil {
			return "", "", err
		}
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return "", "", err
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)); err != nil {
			return "", "", err
		}
		if resp.StatusCode != http.StatusOK {
			return "", "", fmt.Errorf("status %d", resp.StatusCode)
		}
		return resp.Header.Get(serverHeader), resp.Header.Get(clientHeader), nil
	})
}

// Datagrams sends a numbered datagram from a new port every d and waits for its echo, which names the
// server behind the number.
func Datagrams(ctx context.Context, w *Writer, target netip.AddrPort, d, timeout time.Duration) {
	attempts(ctx, w, d, func(n int) (string, string, error) {
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(target))
		if err != nil {
			return "", "", err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
			return "", "", err
		}
		var msg [8]byte
		binary.BigEndian.PutUint64(msg[:], uint64(n))
		if _, err := c.Write(msg[:]); err != nil {
			return "", "", err
		}
		buf := make([]byte, 512)
		m, err := c.Read(buf)
		if err != nil {
			return "", "", err
		}
		if m < len(msg) || !bytes.Equal(buf[:len(msg)], msg[:]) {
			return "", "", errors.New("wrong echo")
		}
		server, client, _ := strings.Cut(string(buf[len(msg):m]), " ")
		return server, client, nil
	})
}

// stream is one long-lived connection.
type stream struct {
	mu     sync.Mutex
	last   time.Duration // of the last echo
	broken bool
}

// StreamOptions say what [Stream] keeps open.
type StreamOptions struct {
	Target   netip.AddrPort
	Count    int
	Every    time.Duration // between two sequence numbers over each
	Timeout  time.Duration // of opening, and of an echo
	Lifetime time.Duration // a stream is closed after so long and opened anew; 0: they are kept for ever
}

// Stream keeps TCP connections to an echo server and sends a sequence number over each of them again and again. A
// stream is broken when it cannot be opened, ends before its time, echoes anything else, or is silent for the timeout.
// Those with a lifetime begin in the midst of it, one after the other, so that they do not end together.
func Stream(ctx context.Context, w *Writer, o StreamOptions) {
	streams := make([]*stream, o.Count)
	conns := make([]net.Conn, o.Count)
	var wg, open sync.WaitGroup
	for i := range streams {
		streams[i] = &stream{last: Now()}
		open.Go(func() { conns[i] = streams[i].open(ctx, w, i, &o) })
	}
	open.Wait()
	for i, s := range streams {
		wg.Go(func() {
			left := o.Lifetime * time.Duration(i+1) / time.Duration(o.Count)
			for c := conns[i]; c != nil && s.run(ctx, w, i, c, &o, left); left = o.Lifetime {
				c = s.open(ctx, w, i, &o)
			}
		})
	}
	w.Write(Event{Kind: Ready, At: Now()})
	tick := func(int) {
		e := Event{Kind: Tick, At: Now()}
		for _, s := range streams {
			s.mu.Lock()
			if !s.broken {
				e.Alive++
				e.Silent = max(e.Silent, e.At-s.last)
			}
			s.mu.Unlock()
		}
		w.Write(e)
	}
	every(ctx, max(o.Every, 100*time.Millisecond), tick)
	wg.Wait()
	tick(0)
}

// open returns nil if the stream cannot be opened, and is broken.
func (s *stream) open(ctx context.Context, w *Writer, i int, o *StreamOptions) net.Conn {
	dialer := net.Dialer{Timeout: o.Timeout}
	c, err := dialer.DialContext(ctx, "tcp", o.Target.String())
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			s.broken = true
			w.Write(Event{Kind: Broken, At: Now(), Stream: i, Error: "not opened: " + kindOf(err)})
		}
		return nil
	}
	s.last = Now()
	return c
}

// run uses a connection until ctx or its lifetime ends, and reports whether it was the latter.
func (s *stream) run(ctx context.Context, w *Writer, i int, c net.Conn, o *StreamOptions, lifetime time.Duration) bool {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	life := ctx
	if lifetime > 0 {
		var cancel context.CancelFunc
		life, cancel = context.WithTimeout(ctx, lifetime)
		defer cancel()
	}
	var msg, echo [8]byte
	var failed error
	every(life, o.Every, func(n int) {
		if failed != nil {
			return
		}
		binary.BigEndian.PutUint64(msg[:], uint64(n)<<16|uint64(i))
		failed = func() error {
			if err := c.SetDeadline(time.Now().Add(o.Timeout)); err != nil {
				return err
			}
			if _, err := c.Write(msg[:]); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, echo[:]); err != nil {
				return err
			}
			if msg != echo {
				return errors.New("wrong echo")
			}
			return nil
		}()
		if ctx.Err() != nil {
			return
		}
		now := Now()
		s.mu.Lock()
		if failed != nil {
			s.broken = true
			w.Write(Event{Kind: Broken, At: now, Stream: i, Error: kindOf(failed)})
		} else {
			if now-s.last > 2*o.Every {
				w.Write(Event{Kind: Stall, Start: s.last, At: now, Stream: i})
			}
			s.last = now
		}
		s.mu.Unlock()
	})
	return failed == nil && ctx.Err() == nil
}
