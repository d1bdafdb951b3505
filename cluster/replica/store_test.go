package replica

import (
	"bytes"
	"io/fs"
	"maps"
	"slices"
	"sync"
)

// memDisk is a disk that keeps what was written, and fails on request.
type memDisk struct {
	mu    sync.Mutex
	files map[string][]byte
	err   error // of the next writes
	after bool  // the error comes when the file is there already
	stuck error // of the next removals
}

var _ disk = (*memDisk)(nil)

func newMemDisk() *memDisk { return &memDisk{files: make(map[string][]byte)} }

func (d *memDisk) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *memDisk) path(name string) string { return "/mem/" + name }

func (d *memDisk) list() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.files)), nil
}

func (d *memDisk) read(name string, limit int) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(b[:min(len(b), limit+1)]), nil
}

func (d *memDisk) write(name string, b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil || d.after {
		d.files[name] = bytes.Clone(b)
	}
	return d.err
}

func (d *memDisk) remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stuck != nil {
		return d.stuck
	}
	if _, ok := d.files[name]; !ok {
		return fs.ErrNotExist
	}
	delete(d.files, name)
	return nil
}

func (d *memDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, ok := d.files[from]
	if !ok {
		return fs.ErrNotExist
	}
	delete(d.files, from)
	d.files[to] = b
	return nil
}

func (d *memDisk) sync() error { return nil }
