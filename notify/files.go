package notify

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/drover-lb/drover/notify/sink"
)

const (
	maxSecret = 4 << 10 // bytes
	maxCA     = 1 << 20 // bytes
)

// readSecret reads the first line of a file that only its owner may read.
func readSecret(path string) ([]byte, error) {
	b, err := readFile(path, maxSecret, true)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
		return nil, fmt.Errorf("%s: the first line is empty", path)
	}
	return line, nil
}

// readCA reads the authorities of a PEM file, and the file as it is.
func readCA(path string) (*x509.CertPool, []byte, error) {
	b, err := readFile(path, maxCA, false)
	if err != nil {
		return nil, nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, nil, fmt.Errorf("%s: has no certificate in PEM", path)
	}
	return pool, b, nil
}

func readFile(path string, most int64, secret bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: is not a regular file", path)
	}
	if m := st.Mode().Perm(); secret && m&0o077 != 0 {
		return nil, fmt.Errorf("%s: mode %04o lets others read or write it, must be 0600 or 0400", path, m)
	}
	b, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s: is longer than %d bytes", path, most)
	}
	return b, err
}

// CheckFiles reads the files of a sink as telling it would. Those that are not there are missing; what else is wrong is an error.
func CheckFiles(s *sink.Sink) (missing, err error) {
	secret, public := s.Files()
	for _, path := range secret {
		b, e := readSecret(path)
		if e == nil && s.Mail != nil {
			_, _, e = splitAuth(path, b)
		}
		missing, err = sortOut(missing, err, e)
	}
	for _, path := range public {
		_, _, e := readCA(path)
		missing, err = sortOut(missing, err, e)
	}
	return missing, err
}

func sortOut(missing, err, e error) (error, error) {
	switch {
	case errors.Is(e, fs.ErrNotExist):
		return errors.Join(missing, e), err
	case e != nil:
		return missing, errors.Join(err, e)
	}
	return missing, err
}

// splitAuth splits USER:PASSWORD. An error does not repeat what was given.
func splitAuth(path string, line []byte) (user, password string, err error) {
	u, p, found := bytes.Cut(line, []byte(":"))
	if !found || len(u) == 0 || len(p) == 0 {
		return "", "", fmt.Errorf("%s: the first line is not USER:PASSWORD", path)
	}
	return string(u), string(p), nil
}
