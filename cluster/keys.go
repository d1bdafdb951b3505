package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/memberlist"

	"github.com/drover-lb/drover/cluster/keyring"
)

// ring is memberlist's, with its file and without its traps.
type ring struct {
	ring *memberlist.Keyring
	file string

	mu   sync.Mutex // guards everything below, and every change of ring
	keys [][]byte   // those of ring; never changed in place
}

func newKeyring(keys [][]byte, file string) (*ring, error) {
	k := &ring{file: file}
	for _, key := range keys {
		k.keys = append(k.keys, bytes.Clone(key))
	}
	var primary []byte
	if len(k.keys) > 0 {
		primary = k.keys[0]
	}
	var err error
	k.ring, err = memberlist.NewKeyring(k.keys, primary)
	return k, err
}

var errNoKeys = errors.New("the cluster is insecure, it has no keys")

func (k *ring) fingerprints() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return fingerprints(k.keys)
}

func fingerprints(keys [][]byte) []string {
	out := make([]string, len(keys))
	for i, key := range keys {
		out[i] = keyring.Fingerprint(key)
	}
	return out
}

func (k *ring) index(fp string) int {
	return slices.IndexFunc(k.keys, func(key []byte) bool { return keyring.Fingerprint(key) == fp })
}

// set writes the file and then changes the ring by f.
func (k *ring) set(keys [][]byte, f func() error) error {
	if k.file != "" {
		if err := keyring.WriteFile(k.file, keys); err != nil {
			return err
		}
	}
	if err := f(); err != nil {
		return err
	}
	k.keys = keys
	return nil
}

func (k *ring) add(key []byte) error {
	if err := keyring.Check(key); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case len(k.keys) == 0:
		return errNoKeys
	case k.index(keyring.Fingerprint(key)) >= 0:
		return nil
	case len(k.keys) >= keyring.MaxKeys:
		return fmt.Errorf("has %d keys already: remove one first", len(k.keys))
	}
	return k.set(append(slices.Clone(k.keys), key), func() error { return k.ring.AddKey(key) })
}

func (k *ring) use(fp string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	i := k.index(fp)
	if i < 0 {
		return fmt.Errorf("does not have the key %s", fp)
	}
	if i == 0 {
		return nil
	}
	keys := slices.Clone(k.keys)
	keys[0], keys[i] = keys[i], keys[0]
	return k.set(keys, func() error { return k.ring.UseKey(keys[0]) })
}

func (k *ring) remove(fp string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch i := k.index(fp); {
	case i < 0:
		return nil
	case i == 0:
		return fmt.Errorf("the key %s is in use: use another first", fp)
	default: // the last, as there are two at most
		key := k.keys[i]
		return k.set(slices.Delete(slices.Clone(k.keys), i, i+1), func() error { return k.ring.RemoveKey(key) })
	}
}

// KeyState is what one node said about its keys.
type KeyState struct {
	Node string
	Keys []string // fingerprints, the one in use first; as they are after the operation
	Err  error    // it did not answer, or refused
}

const kindKeys = 0xff

// Operations on keys, the first byte of a request of kindKeys. It is followed by the key for opAdd, and by the
// fingerprint for opUse and opRemove. The reply is the fingerprints, with spaces between.
const (
	opList byte = iota
	opAdd
	opUse
	opRemove
)

func (n *Node) serveKeys(_ context.Context, from string, b []byte) ([]byte, error) {
	if len(b) == 0 {
		return nil, errors.New("malformed request")
	}
	var err error
	switch op, arg := b[0], b[1:]; op {
	case opList:
	case opAdd:
		err = n.keys.add(bytes.Clone(arg))
	case opUse:
		err = n.keys.use(string(arg))
	case opRemove:
		err = n.keys.remove(string(arg))
	default:
		err = errors.New("unknown operation on keys")
	}
	if err != nil {
		return nil, err
	}
	if b[0] != opList {
		n.log.Info("keys changed", "by", from, "keys", n.keys.fingerprints())
	}
	return []byte(strings.Join(n.keys.fingerprints(), " ")), nil
}

// askAll makes a request about keys of every live member, this node last.
func (n *Node) askAll(ctx context.Context, op byte, arg []byte) ([]KeyState, error) {
	var out []KeyState
	for _, m := range n.Members() {
		if m.State == Alive && m.Name != n.opt.Name {
			out = append(out, KeyState{Node: m.Name})
		}
	}
	ask := func(s *KeyState) {
		b, err := n.Request(ctx, s.Node, kindKeys, append([]byte{op}, arg...))
		s.Keys, s.Err = strings.Fields(string(b)), err
	}
	var wg sync.WaitGroup
	gate := make(chan struct{}, maxSends/2)
	for i := range out {
		gate <- struct{}{}
		wg.Go(func() { ask(&out[i]); <-gate })
	}
	wg.Wait()
	self := KeyState{Node: n.opt.Name}
	ask(&self)
	out = append(out, self)
	slices.SortFunc(out, func(a, b KeyState) int { return strings.Compare(a.Node, b.Node) })
	var errs []error
	for _, s := range out {
		if s.Err != nil {
			errs = append(errs, fmt.Errorf("node %s: %w", s.Node, s.Err))
		}
	}
	return out, errors.Join(errs...)
}

// Keys asks every live member for its keys. The error joins those of single nodes.
func (n *Node) Keys(ctx context.Context) ([]KeyState, error) { return n.askAll(ctx, opList, nil) }

// AddKey gives a key, in base64, to every live member, which from then on understands it.
func (n *Node) AddKey(ctx context.Context, key string) ([]KeyState, error) {
	b, err := keyring.Parse(key)
	if err != nil {
		return nil, err
	}
	return n.askAll(ctx, opAdd, b)
}

// UseKey has every live member encrypt with a key, given in base64 or by its fingerprint. It changes nothing if not all
// live members have it.
func (n *Node) UseKey(ctx context.Context, key string) ([]KeyState, error) {
	return n.change(ctx, opUse, key, func(s KeyState, fp string) error {
		if !slices.Contains(s.Keys, fp) {
			return fmt.Errorf("node %s does not have the key %s: add it first", s.Node, fp)
		}
		return nil
	})
}

// RemoveKey takes a key, given in base64 or by its fingerprint, from every live member. It changes nothing if one of
// them encrypts with it.
func (n *Node) RemoveKey(ctx context.Context, key string) ([]KeyState, error) {
	return n.change(ctx, opRemove, key, func(s KeyState, fp string) error {
		if len(s.Keys) > 0 && s.Keys[0] == fp {
			return fmt.Errorf("node %s encrypts with the key %s: use another first", s.Node, fp)
		}
		return nil
	})
}

func (n *Node) change(ctx context.Context, op byte, key string, may func(KeyState, string) error) ([]KeyState, error) {
	fp := key
	if !isFingerprint(key) {
		b, err := keyring.Parse(key)
		if err != nil {
			return nil, err
		}
		fp = keyring.Fingerprint(b)
	}
	states, err := n.Keys(ctx)
	if err != nil {
		return states, fmt.Errorf("nothing was changed: %w", err)
	}
	var errs []error
	found := false
	for _, s := range states {
		errs = append(errs, may(s, fp))
		found = found || slices.Contains(s.Keys, fp)
	}
	if !found {
		errs = []error{fmt.Errorf("no node has the key %s", fp)}
	}
	if err := errors.Join(errs...); err != nil {
		return states, fmt.Errorf("nothing was changed: %w", err)
	}
	return n.askAll(ctx, op, []byte(fp))
}

func isFingerprint(s string) bool {
	return len(s) == 16 && strings.Trim(s, "0123456789abcdef") == ""
}
