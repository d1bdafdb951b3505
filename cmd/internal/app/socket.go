package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// SocketMode lets the socket's owner and group ask.
const SocketMode = 0o660

// Listen opens a unix socket for HTTP at path; its directory is made when absent. A socket that a dead
// process left is replaced, one at which somebody answers is not.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("failed to make the directory of the status socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, fmt.Errorf("status socket %q: another process answers at it", path)
	}
	if fi, err := os.Lstat(path); err == nil && fi.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("status socket %q: there is something else of that name", path)
	}
	// Under another name first, so that the socket never has more rights than it should.
	tmp := path + "." + strconv.Itoa(os.Getpid())
	if len(tmp) > 107 { // sun_path
		tmp = path
	}
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("failed to remove an old status socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("failed to open the status socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, SocketMode)
	if err == nil && tmp != path {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("failed to put the status socket in place: %w", err)
	}
	return &listener{Listener: l, path: path}, nil
}

// listener removes its socket when it is closed.
type listener struct {
	net.Listener
	path string
}

func (l *listener) Close() error {
	os.Remove(l.path)
	return l.Listener.Close()
}

// Serve answers HTTP requests at l until ctx ends. Every step of a request is bounded in time.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if s.Shutdown(ctx) != nil {
			s.Close()
		}
	}()
	err := s.Serve(l)
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("failed to serve the status socket: %w", err)
	}
	<-done
	return nil
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the asker may be gone
}
