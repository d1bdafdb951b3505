package notify

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/drover-lb/drover/notify/sink"
)

const (
	maxAnswer    = 4 << 10          // bytes that are read of what a webhook answers
	maxWords     = 200              // bytes of it that are shown
	maxRedirects = 3                // on the same host
	idleFor      = 30 * time.Second // then a connection is closed
)

// webhook posts events, one at a time.
type webhook struct {
	set     *sink.Webhook
	version string

	// Only one goroutine sends, beside tests, which have a client of their own each.
	client *http.Client
	ca     []byte // with which client was made
	words  string
}

func newWebhook(s *sink.Webhook, version string) *webhook {
	return &webhook{set: s, version: version}
}

func (*webhook) most() int { return 1 }

func (w *webhook) said() string { return w.words }

// dialer bounds the parts of a connection; the whole of it is bounded by the context.
var dialer = net.Dialer{Timeout: 5 * time.Second}

// httpClient makes a client, anew if the file of the authorities has changed.
func (w *webhook) httpClient() (*http.Client, error) {
	var content []byte
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if w.set.CA != "" {
		var err error
		if conf.RootCAs, content, err = readCA(w.set.CA); err != nil {
			return nil, err
		}
	}
	if w.client != nil && bytes.Equal(content, w.ca) {
		return w.client, nil
	}
	w.close()
	w.ca = content
	w.client = &http.Client{
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if first := via[0]; req.Method != http.MethodPost || req.URL.Host != first.URL.Host || first.URL.Scheme == "https" && req.URL.Scheme != "https" || len(via) > maxRedirects {
				return http.ErrUseLastResponse
			}
			return nil
		},
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: conf, ForceAttemptHTTP2: true,
			MaxIdleConns: 1, IdleConnTimeout: idleFor, MaxResponseHeaderBytes: 64 << 10,
		},
	}
	return w.client, nil
}

// close lets go of connections.
func (w *webhook) close() {
	if w.client != nil {
		w.client.CloseIdleConnections()
	}
}

// Signature is what a webhook finds in the header X-Drover-Signature: the HMAC-SHA256 of the body under a key, in hexadecimal.
func Signature(key, body []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write(body)
	return "sha256=" + hex.EncodeToString(m.Sum(nil))
}

func (w *webhook) send(ctx context.Context, list []*Event) error {
	client, err := w.httpClient()
	if err != nil {
		return err
	}
	body, err := json.Marshal(list[0])
	if err != nil {
		return &refused{err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.set.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "drover/"+cmp.Or(w.version, "devel"))
	for _, line := range w.set.Headers {
		name, value, _ := strings.Cut(line, ": ")
		if req.Header.Get(name) != "" && name == "User-Agent" {
			req.Header.Del(name)
		}
		req.Header.Add(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	if w.set.SecretFile != "" {
		key, err := readSecret(w.set.SecretFile)
		if err != nil {
			return err
		}
		req.Header.Set(sink.SignatureHeader, Signature(key, body))
	}
	resp, err := client.Do(req)
	if err != nil {
		w.close() // a connection that is gone without a word is not tried again
		w.client = nil
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // the URL may have a secret in it
		}
		return err
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	w.words = words(resp, answer)
	return answered(resp, w.words)
}

// words are the status and the first line of what a webhook answers.
func words(resp *http.Response, body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	text := clean(resp.Status, maxWords)
	if line = clean(line, maxWords); line != "" {
		text += ": " + line
	}
	return text
}

// answered is nil if a webhook has taken an event.
func answered(resp *http.Response, words string) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err := errors.New("answers " + words)
	switch code := resp.StatusCode; {
	case code/100 == 3:
		return fmt.Errorf("%w: not followed, as it leads to another host, or is no 307 or 308", err)
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests, code/100 != 4:
		if d := retryAfter(resp.Header.Get("Retry-After"), time.Now()); d > 0 {
			return &later{err, d}
		}
		return err
	}
	return &refused{err}
}

// retryAfter reads how long a webhook asks to be left alone (RFC 9110, section 10.2.3); 0 if it does not.
func retryAfter(s string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(s, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}
