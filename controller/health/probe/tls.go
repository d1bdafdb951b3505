package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
)

// tlsConfig is how the probe speaks TLS. Files are read each time: they are renewed by others.
func (w *wire) tlsConfig(protocols ...string) (*tls.Config, error) {
	t := &w.target.Check.TLS
	c := &tls.Config{ServerName: t.ServerName, InsecureSkipVerify: t.Insecure, NextProtos: protocols}
	if t.CA != "" {
		pem, err := os.ReadFile(t.CA)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%q has no certificate in PEM form", t.CA)
		}
	}
	if t.Cert != "" {
		pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// dialTLS connects and completes the handshake.
func (w *wire) dialTLS(ctx context.Context, protocols ...string) (net.Conn, error) {
	config, err := w.tlsConfig(protocols...)
	if err != nil {
		return nil, err
	}
	plain, err := w.dial(ctx, "tcp")
	if err != nil {
		return nil, err
	}
	c := tls.Client(plain, config)
	if err := c.HandshakeContext(ctx); err != nil {
		_ = plain.Close()
		return nil, err
	}
	return c, nil
}

// tls completes the handshake, and closes in order.
func (w *wire) tls(ctx context.Context) error {
	c, err := w.dialTLS(ctx)
	if err != nil {
		return err
	}
	return c.Close()
}
