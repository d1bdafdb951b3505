package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/drover-lb/drover/controller/spec"
)

// MaxBody bounds a request and an answer, bytes.
const MaxBody = 16 << 20

// DefaultSocket is where a director listens unless its file says otherwise.
const DefaultSocket = spec.DefaultSocket

// Error is what a director answers instead.
type Error struct {
	Status int    `json:"-"` // of HTTP
	Text   string `json:"error"`
}

func (e *Error) Error() string { return e.Text }

// Conflict reports whether somebody else has changed it meanwhile.
func (e *Error) Conflict() bool { return e.Status == http.StatusConflict }

// ErrNoDirector says that no director answered.
type ErrNoDirector struct{ Err error }

func (e *ErrNoDirector) Error() string { return e.Err.Error() }
func (e *ErrNoDirector) Unwrap() error { return e.Err }

// Client speaks with one director.
type Client struct {
	where string
	base  string
	http  *http.Client
}

// NewClient returns a client for a socket's path, also as unix:///PATH, or for an http URL of this host: who may
// ask is decided by the rights of the socket, so that is how far a director listens. Another host's socket can be
// had by a tunnel, such as ssh -L 8080:/run/drover/director.sock.
func NewClient(where string) (*Client, error) {
	if where == "" {
		where = DefaultSocket
	}
	if path, ok := strings.CutPrefix(where, "unix://"); ok && strings.HasPrefix(path, "/") {
		where = path
	}
	if strings.HasPrefix(where, "/") {
		d := &net.Dialer{Timeout: 2 * time.Second}
		return &Client{where: where, base: "http://director", http: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return d.DialContext(ctx, "unix", where) },
		}}}, nil
	}
	u, err := url.Parse(where)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		return nil, fmt.Errorf("director %q is neither the path of a socket nor http://127.0.0.1:PORT", where)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); u.Hostname() != "localhost" && (err != nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("director %q is on another host: directors listen at their sockets only; ssh -L 8080:%s HOST makes a tunnel, and --director http://127.0.0.1:8080 uses it", where, DefaultSocket)
	}
	return &Client{where: where, base: strings.TrimSuffix(where, "/"), http: &http.Client{}}, nil
}

// Do sends in, unless nil, and reads the answer into out, unless nil. The wait is bounded by ctx. An error
// is an [*Error] if the director refused, and an [*ErrNoDirector] if none answered.
func (c *Client) Do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "dial" {
			err = op.Err
		}
		return &ErrNoDirector{fmt.Errorf("no director answers at %s: %w", c.where, err)}
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxBody+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return &ErrNoDirector{fmt.Errorf("the director at %s broke off: %w", c.where, context.Cause(ctx))}
	case err != nil:
		return &ErrNoDirector{fmt.Errorf("the director at %s broke off: %w", c.where, err)}
	case len(b) > MaxBody:
		return fmt.Errorf("the answer of %s is longer than %d bytes", c.where, MaxBody)
	}
	if resp.StatusCode/100 != 2 {
		e := &Error{Status: resp.StatusCode}
		if json.Unmarshal(b, e) != nil || e.Text == "" {
			e.Text = fmt.Sprintf("the director at %s answers %s", c.where, resp.Status)
		}
		return e
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the answer of %s makes no sense: %w", c.where, err)
	}
	return nil
}
