package cluster

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	key := make([]byte, 32)
	mk := func(name, seed string) *Node {
		n, err := New(Options{Name: name, Role: Director, Label: "l", Bind: netip.MustParseAddrPort("127.0.0.1:0"), Keys: [][]byte{key}, Seeds: []string{seed}, Timing: FastTiming()})
		if err != nil {
			t.Fatal(err)
		}
		n.Handle(1, func(from string, p []byte) { t.Logf("%s got %q from %s", name, p, from) })
		n.HandleRequest(1, func(ctx context.Context, from string, p []byte) ([]byte, error) { return append(p, '!'), nil })
		go n.Run(ctx)
		<-n.Ready()
		return n
	}
	a := mk("a", "127.0.0.1:1")
	b := mk("b", a.Address().String())
	ch, stop := b.WatchMembers()
	defer stop()
	for range ch {
		if m, ok := b.Member("a"); ok && m.State == Alive {
			break
		}
	}
	t.Log(b.Members())
	if err := b.Send("a", netip.AddrPort{}, 1, []byte("x")); err != nil {
		t.Fatal(err)
	}
	r, err := b.Request(ctx, "a", 1, []byte("hello"))
	if err != nil || string(r) != "hello!" {
		t.Fatal(r, err)
	}
	time.Sleep(50 * time.Millisecond)
}
