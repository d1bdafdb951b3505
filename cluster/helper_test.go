package cluster

import (
	"bytes"
	"log/slog"
	"sync"
)

// countingWriter counts lines.
type countingWriter struct {
	mu sync.Mutex // guards everything below
	n  int
}

func (w *countingWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n += bytes.Count(b, []byte("\n"))
	return len(b), nil
}

func (w *countingWriter) lines() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

func newTestLog(w *countingWriter) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
