package probe

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/drover-lb/drover/controller/spec"
)

// maxHeader bounds the header of an answer, in bytes.
const maxHeader = 64 << 10

// http asks as a browser would that does not follow redirections.
func (w *wire) http(ctx context.Context) error {
	h := &w.target.Check.HTTP
	u, err := url.ParseRequestURI("http://" + w.target.Place.To.String() + h.URI)
	if err != nil {
		return err
	}
	req := (&http.Request{Method: h.Method, URL: u, Host: h.Host, Header: make(http.Header), Close: true}).WithContext(ctx)
	req.Header.Set("User-Agent", "drover-check")
	for line := range strings.SplitSeq(h.Headers, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			req.Header.Add(name, value)
		}
	}
	if w.target.Check.Kind == spec.CheckHTTPS {
		u.Scheme = "https"
	}
	transport := http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return w.dial(ctx, "tcp") },
		DialTLSContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return w.dialTLS(ctx, "http/1.1") },
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if !expected(h, resp.StatusCode) {
		return fmt.Errorf("status %d, expected %s", resp.StatusCode, h.Status)
	}
	if h.Body == "" {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, spec.MaxBody))
	if err != nil {
		return err
	}
	re, err := regexp.Compile(h.Body)
	if err != nil {
		return err
	}
	if !re.Match(body) {
		return fmt.Errorf("status %d, but the first %d bytes of the body do not match %q", resp.StatusCode, len(body), h.Body)
	}
	return nil
}

func expected(h *spec.HTTPCheck, status int) bool {
	for _, r := range h.Statuses() {
		if r[0] <= status && status <= r[1] {
			return true
		}
	}
	return false
}
