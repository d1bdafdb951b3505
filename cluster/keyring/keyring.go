// Package keyring knows the keys of a cluster and the file that keeps them. It does not know gossip, so
// that a program which only makes a key need not carry it.
package keyring

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
)

const (
	// MaxKeys bounds the ring. memberlist removes a key safely only if it is the last: it edits the list that
	// it has given to readers. With two keys, the one that is not the primary is the last.
	MaxKeys = 2

	maxFile = 4096 // bytes
)

// Generate makes a key of 32 bytes, in base64.
func Generate() (string, error) {
	b := make([]byte, 32)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("failed to make a key: %w", err)
	}
	return base64.StdEncoding.EncodeToString(b), nil
}

// Parse reads a key in base64. An error does not repeat what was given.
func Parse(s string) ([]byte, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(strings.TrimSpace(s))
	if err != nil {
		return nil, errors.New("key is not base64")
	}
	return b, Check(b)
}

// Fingerprint names a key without giving it away: 16 hexadecimal digits.
func Fingerprint(key []byte) string {
	h := sha256.Sum256(append([]byte("drover cluster key\x00"), key...))
	return hex.EncodeToString(h[:8])
}

// Check refuses a key of another length than 16, 24 or 32 bytes (AES-128, -192 or -256).
func Check(key []byte) error {
	switch n := len(key); n {
	case 16, 24, 32:
		return nil
	default:
		return fmt.Errorf("key of %d bytes: must be 16, 24 or 32", n)
	}
}

// CheckAll refuses a ring with too many keys, one of a wrong length, or one that is there twice.
func CheckAll(keys [][]byte) error {
	if len(keys) > MaxKeys {
		return fmt.Errorf("%d keys: at most %d", len(keys), MaxKeys)
	}
	for i, k := range keys {
		if err := Check(k); err != nil {
			return fmt.Errorf("key %d: %w", i+1, err)
		}
		if slices.ContainsFunc(keys[:i], func(o []byte) bool { return bytes.Equal(o, k) }) {
			return fmt.Errorf("key %d: is there twice", i+1)
		}
	}
	return nil
}

// ReadFile reads the keys of a file: one a line in base64, the first is the primary; empty lines and
// those that begin with # do not count. A file that others than its owner may read is refused.
func ReadFile(path string) ([][]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("failed to read the key file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("failed to read the key file: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("key file %s: is not a regular file", path)
	}
	if m := st.Mode().Perm(); m&0o077 != 0 {
		return nil, fmt.Errorf("key file %s: mode %04o lets others read or write it, must be 0600 or 0400", path, m)
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("failed to read the key file: %w", err)
	}
	keys, err := parseFile(content)
	if err != nil {
		return nil, fmt.Errorf("key file %s: %w", path, err)
	}
	return keys, nil
}

func parseFile(content []byte) (keys [][]byte, err error) {
	if len(content) > maxFile {
		return nil, fmt.Errorf("is longer than %d bytes", maxFile)
	}
	n := 0
	for line := range strings.Lines(string(content)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		k, err := Parse(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 {
		return nil, errors.New("has no key")
	}
	return keys, CheckAll(keys)
}

// WriteFile replaces a key file, whole or not at all, for its owner alone.
func WriteFile(path string, keys [][]byte) error {
	if err := CheckAll(keys); err != nil {
		return err
	}
	b := []byte("# Keys of the cluster, the first encrypts. Keep it secret.\n")
	for _, k := range keys {
		b = append(base64.StdEncoding.AppendEncode(b, k), '\n')
	}
	if err := renameio.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("failed to write the key file: %w", err)
	}
	return nil
}
