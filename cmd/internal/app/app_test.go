package app

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestNewLogger(t *testing.T) {
	var b bytes.Buffer
	log, err := NewLogger(&b, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("quiet")
	log.Warn("loud", "n", 7)
	var line struct {
		Level, Msg string
		N          int
	}
	if err := json.Unmarshal(b.Bytes(), &line); err != nil || line.Msg != "loud" || line.Level != "WARN" || line.N != 7 {
		t.Errorf("got %s, %v", b.String(), err)
	}
	for _, bad := range [][2]string{{"loud", "text"}, {"info", "xml"}, {"INFO", "text"}, {"", ""}} {
		if _, err := NewLogger(&b, bad[0], bad[1]); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// init is a process that takes a lock and holds it until its input ends.
func init() {
	if dir := os.Getenv("DROVER_TEST_LOCK"); dir != "" {
		if _, err := Lock(dir, "x"); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		_, _ = io.Copy(io.Discard, os.Stdin)
		select {}
	}
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run/drover")
	unlock, err := Lock(dir, "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Lock(dir, "y"); err != nil {
		t.Errorf("another name: %v", err)
	}
	_, err = Lock(dir, "x")
	if want := fmt.Sprintf("process %d holds ", os.Getpid()); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	unlock()

	// The kernel frees the lock of a process that was killed.
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DROVER_TEST_LOCK="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 7)
	if _, err := io.ReadFull(out, b); err != nil || string(b) != "locked\n" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, err := Lock(dir, "x"); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("process %d ", cmd.Process.Pid)) {
		t.Errorf("got %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	unlock, err = Lock(dir, "x")
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

// watching counts the calls of a Watch on path.
func watching(t *testing.T, path string, since ...Signature) (calls func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n := make(chan struct{}, 1000)
	var wg sync.WaitGroup
	wg.Go(func() {
		Watch(ctx, path, slog.New(slog.DiscardHandler), func() { n <- struct{}{} }, since...)
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return func() int { return len(n) }
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(watchPoll + 5*time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	write := func(path, s string) error { return os.WriteFile(path, []byte(s), 0o644) }
	for _, tc := range []struct {
		name    string
		setup   func(dir string) (path string, err error)
		changes []func(dir string) error
	}{
		{"written in place", func(dir string) (string, error) {
			return dir + "/f", write(dir+"/f", "1")
		}, []func(string) error{
			func(dir string) error { return write(dir+"/f", "22") },
			func(dir string) error { return write(dir+"/f", "333") },
		}},
		{"replaced by a rename", func(dir string) (string, error) {
			return dir + "/f", write(dir+"/f", "1")
		}, []func(string) error{
			func(dir string) error { return errors.Join(write(dir+"/.f", "2"), os.Rename(dir+"/.f", dir+"/f")) },
			func(dir string) error { return errors.Join(write(dir+"/.f", "3"), os.Rename(dir+"/.f", dir+"/f")) },
		}},
		{"removed and made anew", func(dir string) (string, error) {
			return dir + "/f", write(dir+"/f", "1")
		}, []func(string) error{
			func(dir string) error {
				err := os.Remove(dir + "/f")
				time.Sleep(2 * watchQuiet)
				return errors.Join(err, write(dir+"/f", "1"))
			},
		}},
		{"links swapped as Kubernetes does", func(dir string) (string, error) {
			return dir + "/f", errors.Join(
				os.Mkdir(dir+"/..1", 0o755), write(dir+"/..1/f", "1"),
				os.Symlink("..1", dir+"/..data"), os.Symlink("..data/f", dir+"/f"))
		}, []func(string) error{
			func(dir string) error {
				return errors.Join(
					os.Mkdir(dir+"/..2", 0o755), write(dir+"/..2/f", "2"),
					os.Symlink("..2", dir+"/..tmp"), os.Rename(dir+"/..tmp", dir+"/..data"), os.RemoveAll(dir+"/..1"))
			},
			func(dir string) error { return write(dir+"/..2/f", "in place, behind two links") },
		}},
		{"a link to another folder", func(dir string) (string, error) {
			return dir + "/a/f", errors.Join(os.Mkdir(dir+"/a", 0o755), os.Mkdir(dir+"/b", 0o755), write(dir+"/b/g", "1"), os.Symlink(dir+"/b/g", dir+"/a/f"))
		}, []func(string) error{
			func(dir string) error { return write(dir+"/b/g", "22") },
			func(dir string) error {
				return errors.Join(write(dir+"/b/.g", "3"), os.Rename(dir+"/b/.g", dir+"/b/g"))
			},
		}},
		{"not there at first", func(dir string) (string, error) {
			return dir + "/f", nil
		}, []func(string) error{
			func(dir string) error { return write(dir+"/f", "1") },
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			path, err := tc.setup(dir)
			must(t, err)
			since := SignatureOf(path)
			calls := watching(t, path, since)
			for i, change := range tc.changes {
				must(t, change(dir))
				eventually(t, fmt.Sprintf("change %d", i), func() bool { return calls() == i+1 })
			}
			// Neither a neighbour nor a touch of the folder is a change.
			must(t, write(dir+"/neighbour", "x"), os.Remove(dir+"/neighbour"))
			time.Sleep(2 * watchQuiet)
			if n := calls(); n != len(tc.changes) {
				t.Errorf("%d calls, want %d", n, len(tc.changes))
			}
		})
	}
}

func TestWatchSeesWhatHappenedBeforeIt(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(path, []byte("1"), 0o644))
	since := SignatureOf(path)
	must(t, os.WriteFile(path, []byte("22"), 0o644))
	calls := watching(t, path, since)
	eventually(t, "the change before", func() bool { return calls() == 1 })
}

func TestWatchMakesOneCallOfABurst(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(path, nil, 0o644))
	calls := watching(t, path, SignatureOf(path))
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	for range 20 {
		_, err := f.WriteString("more\n")
		must(t, err)
		time.Sleep(5 * time.Millisecond)
	}
	must(t, f.Close())
	eventually(t, "the burst", func() bool { return calls() >= 1 })
	time.Sleep(2 * watchQuiet)
	if n := calls(); n > 2 {
		t.Errorf("%d calls", n)
	}
}

// notifySocket is systemd's end.
func notifySocket(t *testing.T) (read func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		t.Helper()
		must(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		b := make([]byte, 4096)
		n, err := c.Read(b)
		must(t, err)
		return string(b[:n])
	}
}

func TestNotifier(t *testing.T) {
	read := notifySocket(t)
	t.Setenv("WATCHDOG_USEC", "80000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	n := NewNotifier(slog.New(slog.DiscardHandler))
	if got := n.Heartbeat(); got != 20*time.Millisecond {
		t.Errorf("heartbeat %s", got)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); n.Run(stop) }()
	n.Status("2 of 2")
	n.Ready()
	n.Reloading()
	got := []string{read(), read(), read()}
	got[2], _, _ = strings.Cut(got[2], "=1\nMONOTONIC_USEC=")
	if want := []string{"STATUS=2 of 2", "READY=1", "RELOADING"}; !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	for range 50 {
		n.Alive()
	}
	if got := read(); got != "WATCHDOG=1" {
		t.Errorf("got %q", got)
	}
	n.Stopping()
	close(stop)
	<-done
	for got := read(); got != "STOPPING=1"; got = read() {
		if got != "WATCHDOG=1" {
			t.Errorf("got %q", got)
		}
	}
}

func TestNotifierWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n := NewNotifier(slog.New(slog.DiscardHandler))
	if n.Heartbeat() != 0 {
		t.Errorf("heartbeat %s", n.Heartbeat())
	}
	for range 100 { // nobody reads
		n.Ready()
		n.Alive()
	}
	stop := make(chan struct{})
	close(stop)
	n.Run(stop)
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run/d.sock")
	l, err := Listen(path)
	must(t, err)
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != SocketMode {
		t.Errorf("%v, %v", fi, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, 200, map[string]int{"a": 1}) }))
	}()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
	resp, err := client.Get("http://x/")
	must(t, err)
	b, err := io.ReadAll(resp.Body)
	must(t, err, resp.Body.Close())
	if string(b) != "{\"a\":1}\n" || resp.Header.Get("Content-Type") != "application/json" {
		t.Errorf("got %q, %v", b, resp.Header)
	}
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "another process answers") {
		t.Errorf("a second one: %v", err)
	}
	client.CloseIdleConnections()
	cancel()
	must(t, <-done)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}

	// What a killed process left is replaced, anything else is not.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close())
	l, err = Listen(path)
	must(t, err)
	must(t, l.Close())
	must(t, os.WriteFile(path, []byte("mine"), 0o600))
	if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), "something else") {
		t.Errorf("a file in the way: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestVersion(t *testing.T) {
	if Version() == "" {
		t.Error("empty")
	}
}
