package probe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/drover-lb/drover/controller/spec"
)

// The health protocol of gRPC (grpc/doc/health-checking.md, health.proto) is one message of one field each way,
// which net/http and protowire are enough for; the whole of grpc-go is 40 times as much code.

// maxGRPC bounds the answer, in bytes; it has a handful.
const maxGRPC = 4 << 10

// servingStatus are the words for HealthCheckResponse.ServingStatus.
var servingStatus = []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}

// grpc asks grpc.health.v1.Health/Check.
func (w *wire) grpc(ctx context.Context) error {
	scheme := "http"
	protocols := new(http.Protocols)
	if w.target.Check.Kind == spec.CheckGRPCS {
		scheme = "https"
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	u := &url.URL{Scheme: scheme, Host: w.target.Place.To.String(), Path: "/grpc.health.v1.Health/Check"}
	req := (&http.Request{Method: "POST", URL: u, Host: w.target.Check.TLS.ServerName, Header: http.Header{
		"Content-Type": {"application/grpc+proto"}, "Te": {"trailers"}, "User-Agent": {"drover-check"},
	}}).WithContext(ctx)
	message := grpcFrame(healthRequest(w.target.Check.Service))
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(message)), int64(len(message))
	transport := http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return w.dial(ctx, "tcp") },
		DialTLSContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return w.dialTLS(ctx, "h2") },
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		Protocols:              protocols,
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %d, which is no answer of gRPC", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxGRPC))
	if err != nil {
		return err
	}
	status, message1 := resp.Trailer.Get("Grpc-Status"), resp.Trailer.Get("Grpc-Message")
	if status == "" { // an answer of trailers alone
		status, message1 = resp.Header.Get("Grpc-Status"), resp.Header.Get("Grpc-Message")
	}
	if status != "0" {
		return fmt.Errorf("gRPC status %q %.200s", status, message1)
	}
	got, err := healthResponse(body)
	if err != nil {
		return err
	}
	if got != 1 {
		word := fmt.Sprintf("status %d", got)
		if got < uint64(len(servingStatus)) {
			word = servingStatus[got]
		}
		return errors.New("it says " + word)
	}
	return nil
}

// healthRequest encodes HealthCheckRequest{service}.
func healthRequest(service string) []byte {
	if service == "" {
		return nil
	}
	return protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), service)
}

// grpcFrame puts the prefix of a message in front: not compressed, and its length (grpc/doc/PROTOCOL-HTTP2.md).
func grpcFrame(m []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

// healthResponse decodes the status of a HealthCheckResponse in its frame.
func healthResponse(b []byte) (status uint64, err error) {
	errBad := errors.New("the answer is no message of grpc.health.v1")
	if len(b) < 5 || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5) {
		return 0, errBad
	}
	b = b[5:]
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, errBad
		}
		b = b[n:]
		if num == 1 && typ == protowire.VarintType {
			v, n := protowire.ConsumeVarint(b)
			if n < 0 {
				return 0, errBad
			}
			status, b = v, b[n:]
			continue
		}
		if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
			return 0, errBad
		}
		b = b[n:]
	}
	return status, nil
}
