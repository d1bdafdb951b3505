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

// HTTP serves pages that name this host and the client's address, until ctx ends.
func HTTP(ctx context.Context, w *Writer, listen netip.AddrPort) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen.String())
	if err != nil {
		return err
	}
	srv := &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
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
