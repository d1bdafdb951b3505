package app

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// watchQuiet is how long a file has to be left alone before it is read: editors and copies
	// write in several steps.
	watchQuiet = 150 * time.Millisecond
	// watchLimit bounds the wait for quiet.
	watchLimit = 2 * time.Second
	// watchPoll is how often the file is looked at without a notification: some file systems send
	// none (NFS, FUSE, the lab's view of its host).
	watchPoll = 5 * time.Second
	// watchLinks bounds the symbolic links that are followed, as the kernel does.
	watchLinks = 40
)

// Watch calls changed each time that the content of path may be another, until ctx ends: written in
// place, replaced by a rename, or reached through symbolic links of which any was swapped, as Kubernetes
// does with the files of a ConfigMap. Bursts make one call. A file that is gone makes none before
// it is back. Watch does not read the file; who has read it already tells since when to watch with the
// Signature taken before reading.
func Watch(ctx context.Context, path string, log *slog.Logger, changed func(), since ...Signature) {
	path, err := filepath.Abs(path)
	if err != nil {
		log.Error("failed to watch the configuration file", "path", path, "error", err)
		return
	}
	var events chan fsnotify.Event
	var errs chan error
	w, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("the kernel has no notifications of files for us; the configuration file is looked at now and then", "every", watchPoll, "error", err)
	} else {
		defer w.Close()
		events, errs = w.Events, w.Errors
	}
	refresh := func() {
		if w == nil {
			return
		}
		dirs := directories(path)
		for _, have := range w.WatchList() {
			if !slices.Contains(dirs, have) {
				_ = w.Remove(have)
			}
		}
		for _, d := range dirs {
			_ = w.Add(d) // one that cannot be watched, or is not there yet, is polled
		}
	}
	refresh()
	before := SignatureOf(path)

	poll := time.NewTicker(watchPoll)
	defer poll.Stop()
	quiet, limit := time.NewTimer(0), time.NewTimer(0)
	quiet.Stop()
	limit.Stop()
	defer quiet.Stop()
	defer limit.Stop()
	waiting := false
	if len(since) > 0 && since[0] != before {
		before = since[0]
		quiet.Reset(watchQuiet)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			quiet.Reset(watchQuiet)
			if !waiting {
				waiting = true
				limit.Reset(watchLimit)
			}
			continue
		case <-errs: // an overflow: something has happened
			quiet.Reset(watchQuiet)
			continue
		case <-poll.C:
			if waiting {
				continue
			}
		case <-quiet.C:
		case <-limit.C:
		}
		waiting = false
		quiet.Stop()
		limit.Stop()
		now := SignatureOf(path)
		if now == (Signature{}) || now == before {
			continue
		}
		before = now
		refresh()
		changed()
	}
}

// directories are those in which a change can make path another file: its own, and those of all
// links on the way.
func directories(path string) []string {
	var out []string
	for range watchLinks {
		if d := filepath.Dir(path); !slices.Contains(out, d) {
			out = append(out, d)
		}
		target, err := os.Readlink(path)
		if err != nil {
			return out // no link, or not there
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return out
}

// Signature changes when a file is replaced or written. It is zero when there is no such file.
type Signature struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// SignatureOf looks at the file at path, through symbolic links.
func SignatureOf(path string) Signature {
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		return Signature{}
	}
	return Signature{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}
