package probe

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What waited in the socket counts from when the kernel had it, and not from when it is read.
func TestReceived(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	read := func() (ago time.Duration) {
		t.Helper()
		oob := make([]byte, 64)
		_, n, _, _, err := unix.Recvmsg(fd, make([]byte, 8), oob, unix.MSG_DONTWAIT)
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(received(oob[:n]))
	}
	// The kernel begins to stamp packets a moment after it is asked to; until then it takes the time of reading.
	for end := time.Now().Add(10 * time.Second); ; {
		if err := unix.Sendto(fd, []byte("hello"), 0, self); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
		ago := read()
		if ago >= 50*time.Millisecond && ago < 10*time.Second {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("received %s ago, and sent 50 ms ago", ago)
		}
	}
	if ago := time.Since(received(nil)); ago < 0 || ago > time.Second {
		t.Errorf("without a time it is %s ago", ago)
	}
}
