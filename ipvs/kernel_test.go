//go:build kernel

package ipvs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/drover-lb/drover/ipvs/ipvstest"
)

// The tests of this file need a kernel with IPVS, as in `drover lab exec`, and root.

func dial(t testing.TB) *Client {
	t.Helper()
	c, err := Dial(t.Context(), Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestKernelReadsBackWhatWasWritten(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	want := everything()
	cmds := commands(want)
	apply(t, c, cmds...)
	if d := diff(table(t, c), want); d != "" {
		t.Error(d)
	}
	if c.Writes() != uint64(len(cmds)) {
		t.Errorf("%d writes for %d commands", c.Writes(), len(cmds))
	}
	if min, got := uint64(len(cmds)+batchSize-1)/batchSize, c.Counters(); got.Sends > got.Reads+min {
		t.Errorf("%d sends for %d reads and %d batches", got.Sends, got.Reads, min)
	}

	// Setting what is there changes nothing.
	for i, cmd := range cmds {
		switch cmd.Op {
		case OpNewService:
			cmds[i].Op = OpSetService
		case OpNewDest:
			cmds[i].Op = OpSetDest
		}
	}
	apply(t, c, cmds...)
	if d := diff(table(t, c), want); d != "" {
		t.Error(d)
	}
	apply(t, c, Flush())
	if have := table(t, c); len(have) != 0 {
		t.Errorf("%d services after flush", len(have))
	}
}

// Random changes to random tables: what is set is what is read.
func TestKernelRandomChanges(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	r := rand.New(rand.NewPCG(1, 2))
	have := map[Key]Service{}
	dests := map[Key]map[DestKey]Destination{}
	randomService := func(k Key) Service {
		s := service(k, schedulers[r.IntN(len(schedulers))])
		s.Flags = Flags(r.Uint32()) & SettableFlags
		s.Timeout = r.Uint32N(1 << 20)
		s.Netmask = uint8(1 + r.IntN(k.Family.Bits()))
		if r.IntN(4) == 0 {
			s.PE = "sip"
		}
		return s
	}
	randomDest := func(k DestKey, f Family) Destination {
		d := Destination{DestKey: k, Forward: Forward(r.IntN(5)), Weight: r.Uint32N(MaxWeight + 1), Upper: r.Uint32()}
		d.Lower = uint32(r.Uint64N(uint64(d.Upper) + 1))
		if FamilyOf(k.Addr) != f {
			d.Forward = Tunnel
		}
		if d.Forward == Tunnel {
			d.TunnelType = TunnelType(r.IntN(3))
			d.TunnelFlags = TunnelFlags(r.IntN(3))
			if d.TunnelType == TunnelGUE {
				d.TunnelPort = uint16(1 + r.IntN(65535))
			}
		}
		return d
	}
	randomAddr := func(f Family) netip.Addr {
		if f == IPv4 {
			return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + r.IntN(20))})
		}
		return netip.AddrFrom16([16]byte{0: 0xfd, 15: byte(1 + r.IntN(20))})
	}
	for round := range 60 {
		var cmds []Command
		for range r.IntN(300) {
			k := Key{Family: []Family{IPv4, IPv6}[r.IntN(2)]}
			if r.IntN(4) == 0 {
				k.FWMark = 1 + r.Uint32N(10)
			} else {
				k.Protocol = []Protocol{TCP, UDP, SCTP}[r.IntN(3)]
				k.Addr, k.Port = randomAddr(k.Family), uint16(r.IntN(3))
			}
			_, ok := have[k]
			switch {
			case !ok:
				s := randomService(k)
				have[k], dests[k] = s, map[DestKey]Destination{}
				cmds = append(cmds, NewService(s))
			case r.IntN(10) == 0:
				delete(have, k)
				delete(dests, k)
				cmds = append(cmds, DelService(k))
			case r.IntN(4) == 0:
				have[k] = randomService(k)
				cmds = append(cmds, SetService(have[k]))
			default:
				f := k.Family
				if r.IntN(8) == 0 {
					f = []Family{IPv4, IPv6}[r.IntN(2)]
				}
				dk := DestKey{randomAddr(f), k.Port}
				_, ok := dests[k][dk]
				switch {
				case !ok:
					dests[k][dk] = randomDest(dk, k.Family)
					cmds = append(cmds, NewDest(k, dests[k][dk]))
				case r.IntN(3) == 0:
					delete(dests[k], dk)
					cmds = append(cmds, DelDest(k, dk))
				default:
					dests[k][dk] = randomDest(dk, k.Family)
					cmds = append(cmds, SetDest(k, dests[k][dk]))
				}
			}
		}
		apply(t, c, cmds...)
		want := map[Service][]Destination{}
		for k, s := range have {
			list := []Destination{}
			for _, d := range dests[k] {
				list = append(list, d)
			}
			slices.SortFunc(list, func(a, b Destination) int { return a.DestKey.Compare(b.DestKey) })
			want[s] = list
		}
		if d := diff(table(t, c), want); d != "" {
			t.Fatalf("round %d:\n%s", round, d)
		}
	}
}

// A scheduler may be changed under a service with servers, also from none, which the kernel has
// for a service without one.
func TestKernelSchedulerChange(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	k := key(TCP, "192.0.2.10:80")
	want := map[Service][]Destination{service(k, "none"): {dest("10.0.0.2:80", 1), dest("10.0.0.3:80", 2)}}
	apply(t, c, commands(want)...)
	if d := diff(table(t, c), want); d != "" {
		t.Fatal(d)
	}
	for _, from := range schedulers {
		for _, to := range append(schedulers, "none") {
			apply(t, c, SetService(service(k, from)), SetService(service(k, to)))
			want = map[Service][]Destination{service(k, to): {dest("10.0.0.2:80", 1), dest("10.0.0.3:80", 2)}}
			if d := diff(table(t, c), want); d != "" {
				t.Fatalf("%s to %s: %s", from, to, d)
			}
		}
	}
}

// An ipvsadm of someone else may set a netmask that is no prefix.
func TestKernelIrregularNetmask(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	ipvstest.Ipvsadm(t, "-A", "-t", "192.0.2.10:80", "-s", "rr", "-p", "60", "-M", "255.0.255.0")
	services, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(services) != 1 || services[0].Netmask != IrregularNetmask || services[0].RawNetmask != 0xff00ff00 {
		t.Fatalf("%+v", services)
	}
	s := services[0].Service
	s.Netmask = 24
	apply(t, c, SetService(s))
	if d := diff(table(t, c), map[Service][]Destination{s: {}}); d != "" {
		t.Error(d)
	}
}

// Failures among hundreds of commands are those of the right commands, and all others are executed.
func TestKernelBatchErrors(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	k := key(TCP, "192.0.2.10:80")
	missing := key(TCP, "192.0.2.10:81")
	apply(t, c, NewService(service(k, "rr")))
	r := rand.New(rand.NewPCG(3, 4))
	for _, failures := range []int{0, 1, 2, 5, 50, 100, 4000} { // of 4000 all fail
		var cmds []Command
		want := map[int]error{}
		for i := range 500 {
			if r.IntN(4000) >= failures*8 {
				cmds = append(cmds, NewDest(k, Destination{DestKey: DestKey{netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 80}, Forward: DirectRoute, Weight: 1}))
				continue
			}
			switch r.IntN(6) {
			case 0:
				cmds, want[i] = append(cmds, DelDest(k, DestKey{netip.MustParseAddr("10.9.9.9"), 80})), unix.ENOENT
			case 1:
				cmds, want[i] = append(cmds, NewDest(missing, dest("10.9.9.9:80", 1))), unix.ESRCH
			case 2:
				cmds, want[i] = append(cmds, NewService(service(k, "rr"))), unix.EEXIST
			case 3:
				cmds, want[i] = append(cmds, NewDest(k, dest("224.0.0.1:80", 1))), unix.EINVAL
			case 4:
				cmds, want[i] = append(cmds, DelService(missing)), unix.ESRCH
			case 5:
				cmds, want[i] = append(cmds, NewDest(k, dest("10.9.9.9:80", MaxWeight+1))), nil
			}
		}
		before := c.Writes()
		errs := c.Apply(t.Context(), cmds)
		if len(want) == 0 && errs != nil {
			t.Fatalf("%d errors, want none: %v", len(errs), errors.Join(errs...))
		}
		refused := 0
		for i := range errs {
			errno, failed := want[i]
			var ce *CommandError
			switch {
			case !failed && errs[i] == nil:
			case !failed || errs[i] == nil:
				t.Fatalf("command %d (%s): got %v, want %v", i, cmds[i], errs[i], errno)
			case !errors.As(errs[i], &ce) || ce.Command != cmds[i]:
				t.Fatalf("command %d (%s): error of another: %v", i, cmds[i], errs[i])
			case errno == nil: // not sent
				refused++
				if !strings.Contains(errs[i].Error(), "weight (65536) must be between 0 and 65535") {
					t.Fatalf("command %d: %v", i, errs[i])
				}
			case !errors.Is(errs[i], errno):
				t.Fatalf("command %d (%s): got %v, want %v", i, cmds[i], errs[i], errno)
			}
		}
		if got := c.Writes() - before; got != uint64(500-refused) {
			t.Errorf("%d writes, want %d", got, 500-refused)
		}
		services, err := c.Services(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(services) != 1 || len(services[0].Destinations) != 500-len(want) {
			t.Fatalf("%d servers after %d failures of 500", len(services[0].Destinations), len(want))
		}
		apply(t, c, DelService(k), NewService(service(k, "rr")))
	}
}

// Answers that do not fit into the receive buffer leave results unknown, never wrong.
func TestKernelLostAnswers(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	k := key(TCP, "192.0.2.10:80")
	apply(t, c, NewService(service(k, "rr")))
	if err := c.sock.closer.(*netlink.Conn).SetReadBuffer(1); err != nil { // the kernel makes it some 2 KiB
		t.Fatal(err)
	}
	var cmds []Command
	for range 300 {
		cmds = append(cmds, DelDest(k, DestKey{netip.MustParseAddr("10.9.9.9"), 80}))
	}
	errs := c.Apply(t.Context(), cmds)
	known, unknown := 0, 0
	for i, err := range errs {
		switch {
		case errors.Is(err, unix.ENOENT):
			known++
		case errors.Is(err, ErrUnknown):
			unknown++
		default:
			t.Fatalf("command %d: %v", i, err)
		}
	}
	if known == 0 || unknown == 0 {
		t.Errorf("%d results known, %d unknown", known, unknown)
	}
	if _, err := c.Services(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestKernelErrors(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	k := key(TCP, "192.0.2.10:80")
	k6 := key(TCP, "[2001:db8::10]:80")
	missing := key(TCP, "192.0.2.10:81")
	apply(t, c, NewService(service(k, "rr")), NewService(service(k6, "rr")), NewDest(k, dest("10.0.0.2:80", 1)))
	with := func(s Service, f func(*Service)) Service { f(&s); return s }
	for _, tt := range []struct {
		cmd   Command
		errno error
		text  string
	}{
		{NewService(service(k, "rr")), unix.EEXIST, "failed to add service TCP 192.0.2.10:80: the service exists already (EEXIST)"},
		{NewService(service(missing, "nosuch")), unix.ENOENT, `failed to add service TCP 192.0.2.10:81: the kernel has no scheduler "nosuch": module ip_vs_nosuch is missing (ENOENT)`},
		{SetService(service(k, "nosuch")), unix.ENOENT, `failed to change service TCP 192.0.2.10:80: the kernel has no scheduler "nosuch": module ip_vs_nosuch is missing (ENOENT)`},
		{NewService(with(service(missing, "rr"), func(s *Service) { s.PE = "nosuch" })), unix.ENOENT, `failed to add service TCP 192.0.2.10:81: the kernel has no persistence engine "nosuch": module ip_vs_pe_nosuch is missing (ENOENT)`},
		{NewService(with(service(missing, "nosuch"), func(s *Service) { s.PE = "nosuch" })), unix.ENOENT, `failed to add service TCP 192.0.2.10:81: the kernel has no scheduler "nosuch": module ip_vs_nosuch is missing (ENOENT)`},
		{SetService(service(missing, "rr")), unix.ESRCH, "failed to change service TCP 192.0.2.10:81: there is no such service (ESRCH)"},
		{DelService(missing), unix.ESRCH, "failed to delete service TCP 192.0.2.10:81: there is no such service (ESRCH)"},
		{DelService(mark(9, IPv6)), unix.ESRCH, "failed to delete service FWM 9 IPv6: there is no such service (ESRCH)"},
		{Zero(missing), unix.ESRCH, "failed to zero counters of TCP 192.0.2.10:81: there is no such service (ESRCH)"},
		{NewDest(missing, dest("10.0.0.2:80", 1)), unix.ESRCH, "failed to add server 10.0.0.2:80 to TCP 192.0.2.10:81: there is no such service (ESRCH)"},
		{NewDest(k, dest("10.0.0.2:80", 1)), unix.EEXIST, "failed to add server 10.0.0.2:80 to TCP 192.0.2.10:80: the service has this server already (EEXIST)"},
		{SetDest(k, dest("10.0.0.3:80", 1)), unix.ENOENT, "failed to change server 10.0.0.3:80 of TCP 192.0.2.10:80: the service has no such server (ENOENT)"},
		{DelDest(k, DestKey{netip.MustParseAddr("10.0.0.3"), 80}), unix.ENOENT, "failed to delete server 10.0.0.3:80 from TCP 192.0.2.10:80: the service has no such server (ENOENT)"},
		{NewDest(k, dest("224.0.0.1:80", 1)), unix.EINVAL, "failed to add server 224.0.0.1:80 to TCP 192.0.2.10:80: the address is not that of a host, or another value is invalid (EINVAL)"},
		{NewDest(k, dest("[fd00::3]:80", 1)), unix.EINVAL, "failed to add server [fd00::3]:80 to TCP 192.0.2.10:80: a server of the other address family needs forwarding by tunnel (EINVAL)"},
		{NewDest(k6, dest("10.0.0.3:80", 1)), unix.EINVAL, "failed to add server 10.0.0.3:80 to TCP [2001:db8::10]:80: a server of the other address family needs forwarding by tunnel (EINVAL)"},
		{NewDest(k6, dest("[fe80::1]:80", 1)), unix.EINVAL, "failed to add server [fe80::1]:80 to TCP [2001:db8::10]:80: the address is not that of a host, or another value is invalid (EINVAL)"},
	} {
		errs := c.Apply(t.Context(), []Command{tt.cmd})
		if len(errs) != 1 || !errors.Is(errs[0], tt.errno) || errs[0].Error() != tt.text {
			t.Errorf("%s:\n got %v\nwant %s", tt.cmd, errs, tt.text)
		}
	}

	d := dest("[fd00::3]:80", 1)
	d.Forward = Tunnel
	if err := c.StartDaemon(t.Context(), Daemon{Role: Master, Interface: "d0"}); err != nil {
		t.Fatal(err)
	}
	errs := c.Apply(t.Context(), []Command{NewDest(k, d)})
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "while a sync daemon runs (EINVAL)") {
		t.Error(errs)
	}
}

func TestKernelModules(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	if info := c.Info(); info.Version != "1.2.1" || info.ConnTableSize == 0 {
		t.Errorf("%+v", info)
	}
	for _, name := range schedulers {
		if err := LoadScheduler(t.Context(), name); err != nil {
			t.Error(err)
		}
		if !moduleLoaded(schedulerModule(name)) {
			t.Errorf("%s is not loaded", schedulerModule(name))
		}
	}
	if err := LoadPE(t.Context(), "sip"); err != nil || !moduleLoaded("ip_vs_pe_sip") {
		t.Errorf("sip: %v", err)
	}
	var missing *ErrModule
	err := LoadScheduler(t.Context(), "nosuch")
	if !errors.As(err, &missing) || !strings.HasPrefix(err.Error(), `the kernel has no scheduler "nosuch": module ip_vs_nosuch cannot be loaded: `) {
		t.Error(err)
	}
	err = LoadPE(t.Context(), "nosuch")
	if !errors.As(err, &missing) || !strings.HasPrefix(err.Error(), `the kernel has no persistence engine "nosuch": module ip_vs_pe_nosuch cannot be loaded: `) {
		t.Error(err)
	}
	for _, name := range []string{"", "-r", "a b", "../x", "abcdefghijklmnop"} {
		if err := LoadScheduler(t.Context(), name); err == nil || errors.As(err, &missing) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// slowModprobe makes the kernel's own loading of modules take its time, during which it holds the
// table.
func slowModprobe(t *testing.T, c *Client, d time.Duration) {
	t.Helper()
	const setting = "/proc/sys/kernel/modprobe"
	old, err := os.ReadFile(setting)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(setting, []byte(strings.TrimSpace(string(old))), 0) })
	script := t.TempDir() + "/modprobe"
	ran := script + ".ran"
	// The kernel starts it from the root of its own threads, of which ours may be a part.
	for _, root := range []string{"", "/tmp/root"} {
		text := fmt.Sprintf("#!/bin/sh\n[ -e %[1]s ] && exec sleep %.1[2]f\n: >%[1]s\n", root+ran, d.Seconds())
		if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(setting, []byte(root+script), 0); err != nil {
			t.Fatal(err)
		}
		c.Apply(t.Context(), []Command{NewService(service(key(TCP, "192.0.2.10:1"), "nosuch"))})
		if _, err := os.Stat(ran); err == nil {
			return
		}
	}
	t.Fatalf("the kernel does not run %s to load modules", script)
}

// A kernel that does not answer holds no caller longer than it agreed to, and the client is of use
// again as soon as the kernel is.
func TestKernelDeadline(t *testing.T) {
	ipvstest.NewNamespace(t)
	c, err := Dial(t.Context(), Config{Timeout: 700 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	k := key(TCP, "192.0.2.10:80")
	var cmds []Command
	for i := range 300 {
		cmds = append(cmds, NewService(service(key(UDP, fmt.Sprintf("192.0.2.10:%d", i+1)), "rr")))
	}
	apply(t, c, NewService(service(k, "rr")))
	slowModprobe(t, c, 3*time.Second)
	cmds[150] = SetService(service(k, "nosuch")) // in the second batch

	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	errs := c.Apply(ctx, cmds)
	if took := time.Since(start); took > 600*time.Millisecond {
		t.Errorf("Apply took %v, its deadline was 300ms", took)
	}
	for i, err := range errs {
		switch {
		case i < 128 && err != nil,
			i >= 128 && (!errors.Is(err, ErrTimeout) || !errors.Is(err, context.DeadlineExceeded)),
			i >= 256 && !errors.Is(err, ErrNotSent):
			t.Fatalf("command %d: %v", i, err)
		}
	}

	// While the kernel hangs every call ends in time, without a deadline too.
	start = time.Now()
	if _, err := c.Services(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Services with an expired context: %v", err)
	}
	if _, err := c.Services(t.Context()); !errors.Is(err, ErrTimeout) {
		t.Errorf("Services: %v", err)
	}
	if took := time.Since(start); took > 1200*time.Millisecond {
		t.Errorf("Services took %v, the client's timeout is 700ms", took)
	}
	start = time.Now()
	if _, err := Dial(t.Context(), Config{Timeout: 300 * time.Millisecond}); !errors.Is(err, ErrTimeout) {
		t.Errorf("Dial: %v", err)
	}
	if took := time.Since(start); took > 800*time.Millisecond {
		t.Errorf("Dial took %v, its timeout is 300ms", took)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Timeouts(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("Timeouts with a cancelled context: %v", err)
	}

	// Then it goes on: the batch that hung was executed, the next was not sent.
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	services, err := c.Services(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(services) != 1+255 {
		t.Errorf("%d services, want 256", len(services))
	}
	if err := c.SetTimeouts(t.Context(), Timeouts{UDP: time.Minute}); err != nil {
		t.Error(err)
	}
}

// Close does not wait for a call that hangs, and ends those that wait for it.
func TestKernelClose(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	slowModprobe(t, c, 2*time.Second)
	hung := make(chan []error)
	go func() {
		hung <- c.Apply(context.Background(), []Command{NewService(service(key(TCP, "192.0.2.10:80"), "nosuch"))})
	}()
	for len(c.token) == 0 {
		time.Sleep(time.Millisecond)
	}
	waiting := make(chan error)
	go func() {
		_, err := c.Services(context.Background())
		waiting <- err
	}()
	start := time.Now()
	time.Sleep(50 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("waiting call: %v", err)
	}
	if _, err := c.Services(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("call after Close: %v", err)
	}
	if err := c.Connections(t.Context(), func(Connection) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Connections after Close: %v", err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("Close took %v", took)
	}
	if errs := <-hung; len(errs) != 1 || !errors.Is(errs[0], unix.ENOENT) {
		t.Errorf("hung call: %v", errs)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

// Many goroutines share a client.
func TestKernelConcurrentUse(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	apply(t, c, NewService(service(key(TCP, "192.0.2.10:1"), "rr")))
	var wg sync.WaitGroup
	ctx := t.Context()
	check := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	for i := range 4 {
		wg.Go(func() {
			for j := range 25 {
				k := key(TCP, fmt.Sprintf("192.0.2.%d:%d", 50+i, 1+j))
				cmds := []Command{NewService(service(k, "wlc"))}
				for d := range 20 {
					cmds = append(cmds, NewDest(k, dest(fmt.Sprintf("10.0.0.%d:%d", 1+d, 1+j), 1)))
				}
				check(errors.Join(c.Apply(ctx, cmds)...))
				services, err := c.Services(ctx)
				check(err)
				found := false
				for _, s := range services {
					if s.Key == k {
						found = len(s.Destinations) == 20
					}
				}
				if !found {
					t.Errorf("%s is not listed with its servers", k)
				}
				check(errors.Join(c.Apply(ctx, []Command{DelService(k)})...))
			}
		})
		wg.Go(func() {
			for range 50 {
				_, err := c.Timeouts(ctx)
				check(err)
				_, err = c.Daemons(ctx)
				check(err)
				check(c.Connections(ctx, func(Connection) error { return nil }))
				check(c.SetTimeouts(ctx, Timeouts{UDP: time.Duration(1+i) * time.Second}))
				c.Counters()
			}
		})
	}
	wg.Wait()
	if n := len(table(t, c)); n != 1 {
		t.Errorf("%d services left, want 1", n)
	}
}

// While another program adds and deletes services and servers all the time, a listing has each of
// the others exactly once. A single reading of the kernel misses some.
func TestKernelListingWhileOthersWrite(t *testing.T) {
	big := service(key(UDP, "192.0.2.10:1"), "rr")
	if os.Getenv("IPVS_TEST_WRITER") != "" { // the other program
		c := dial(t)
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			for i := range 20 { // one by one, to be in the midst of a listing
				k := key(SCTP, fmt.Sprintf("192.0.2.10:%d", 1+i))
				apply(t, c, NewService(service(k, "rr")))
				apply(t, c, NewDest(big.Key, dest(fmt.Sprintf("10.0.2.%d:1", i), 1)))
			}
			for i := range 20 {
				k := key(SCTP, fmt.Sprintf("192.0.2.10:%d", 1+i))
				apply(t, c, DelService(k))
				apply(t, c, DelDest(big.Key, DestKey{netip.AddrFrom4([4]byte{10, 0, 2, byte(i)}), 1}))
			}
		}
		return
	}
	ipvstest.NewNamespace(t)
	c := dial(t)
	stable := map[Service][]Destination{}
	for i := range 1000 {
		stable[service(key(TCP, fmt.Sprintf("192.0.2.10:%d", 1+i)), "rr")] = []Destination{}
	}
	for i := range 250 {
		stable[big] = append(stable[big], dest(fmt.Sprintf("10.0.1.%d:1", i), 1))
	}
	apply(t, c, commands(stable)...)

	writer := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKernelListingWhileOthersWrite$")
	writer.Env = append(os.Environ(), "IPVS_TEST_WRITER=1")
	writer.Stderr = os.Stderr
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	defer writer.Wait()
	defer writer.Process.Kill()

	missed, listings, passing := 0, 0, 0
	for start := time.Now(); time.Since(start) < 6*time.Second; listings++ {
		services, err := c.Services(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen := map[Key]int{}
		for _, s := range services {
			seen[s.Key]++
			if s.Protocol == SCTP {
				passing++
			}
			dests := map[DestKey]int{}
			for _, d := range s.Destinations {
				if dests[d.DestKey]++; dests[d.DestKey] > 1 {
					t.Errorf("%s: %s is listed twice", s.Key, d.DestKey)
				}
			}
			for _, d := range stable[s.Service] {
				if dests[d.DestKey] == 0 {
					missed++
				}
			}
		}
		for s := range stable {
			switch seen[s.Key] {
			case 0:
				missed++
			case 1:
			default:
				t.Errorf("%s is listed %d times", s.Key, seen[s.Key])
			}
		}
	}
	t.Logf("%d listings, %d entries missed, %d passing services seen", listings, missed, passing)
	if missed > 0 || passing == 0 {
		t.Errorf("%d entries missed in %d listings, %d passing services seen", missed, listings, passing)
	}
}

// The fingerprint changes with the table, not with traffic, and is the same for the same table.
func TestKernelFingerprint(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	sum := func() uint64 {
		t.Helper()
		v, err := c.Fingerprint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	seen := map[uint64]string{sum(): "empty"}
	k := key(TCP, "192.0.2.10:80")
	k6 := key(UDP, "[2001:db8::10]:53")
	with := func(s Service, f func(*Service)) Service { f(&s); return s }
	masq := dest("10.0.0.1:80", 2)
	masq.Forward = Masq
	for _, cmd := range []Command{
		NewService(service(k, "rr")),
		NewService(service(k6, "rr")),
		NewService(service(mark(7, IPv6), "rr")),
		SetService(service(k, "wlc")),
		SetService(with(service(k, "wlc"), func(s *Service) { s.Flags, s.Timeout = Persistent, 300 })),
		SetService(with(service(k, "wlc"), func(s *Service) { s.Flags, s.Timeout = Persistent, 301 })),
		SetService(with(service(k, "wlc"), func(s *Service) { s.Flags, s.Timeout, s.Netmask = Persistent, 301, 24 })),
		SetService(with(service(k6, "wlc"), func(s *Service) { s.Flags = OnePacket })),
		NewDest(k, dest("10.0.0.1:80", 1)),
		NewDest(k6, dest("[fd00::1]:53", 1)),
		SetDest(k, dest("10.0.0.1:80", 2)),
		SetDest(k, masq),
		NewDest(k, dest("10.0.0.2:80", 2)),
	} {
		apply(t, c, cmd)
		v := sum()
		if old, ok := seen[v]; ok {
			t.Errorf("%s: the same as after %s", cmd, old)
		}
		seen[v] = cmd.String()
	}
	before := sum()
	l, err := net.Listen("tcp", "192.0.2.10:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 20 {
		conn, err := net.DialTimeout("tcp", "192.0.2.10:80", 50*time.Millisecond)
		if err == nil {
			defer conn.Close()
		}
	}
	apply(t, c, ZeroAll())
	if sum() != before {
		t.Error("traffic makes a difference")
	}
	second := dest("10.0.0.2:80", 2)
	apply(t, c, DelDest(k, second.DestKey))
	if sum() == before {
		t.Error("a deleted server makes no difference")
	}
	apply(t, c, NewDest(k, second))
	if sum() != before {
		t.Error("the same table makes a difference")
	}
}

func TestKernelTimeouts(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	want := Timeouts{TCP: 15 * time.Minute, TCPFin: 2 * time.Minute, UDP: 5 * time.Minute}
	for _, set := range []Timeouts{{}, {TCP: time.Second}, {TCPFin: time.Hour}, {UDP: 7 * time.Second}, {100 * time.Hour, 90 * time.Second, 24 * 24 * time.Hour}} {
		if err := c.SetTimeouts(t.Context(), set); err != nil {
			t.Fatal(err)
		}
		if set.TCP != 0 {
			want.TCP = set.TCP
		}
		if set.TCPFin != 0 {
			want.TCPFin = set.TCPFin
		}
		if set.UDP != 0 {
			want.UDP = set.UDP
		}
		if have, err := c.Timeouts(t.Context()); err != nil || have != want {
			t.Errorf("set %+v: have %+v, want %+v, %v", set, have, want, err)
		}
	}
	for _, bad := range []Timeouts{{TCP: -time.Second}, {UDP: time.Millisecond}, {TCPFin: maxTimeout + time.Second}} {
		if err := c.SetTimeouts(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "must be whole seconds") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestKernelDaemons(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	list := func(want ...Daemon) {
		t.Helper()
		if have, err := c.Daemons(t.Context()); err != nil || !slices.Equal(have, want) {
			t.Errorf("have %+v, want %+v, %v", have, want, err)
		}
	}
	list()
	master := Daemon{Role: Master, Interface: "d0", SyncID: 5, MaxLen: 1472, Group: netip.MustParseAddr("224.0.0.81"), Port: 8848, TTL: 1}
	backup := Daemon{Role: Backup, Interface: "d0", SyncID: 255, MaxLen: 1400, Group: netip.MustParseAddr("ff05::51"), Port: 8849, TTL: 255}
	if err := c.StartDaemon(t.Context(), Daemon{Role: Master, Interface: "d0", SyncID: 5}); err != nil {
		t.Fatal(err)
	}
	list(master)
	if err := c.StartDaemon(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	list(master, backup)
	if err := c.StartDaemon(t.Context(), master); !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "one runs already") {
		t.Error(err)
	}
	if err := c.StopDaemon(t.Context(), Master); err != nil {
		t.Error(err)
	}
	list(backup)
	if err := c.StopDaemon(t.Context(), Master); !errors.Is(err, unix.ESRCH) || !strings.Contains(err.Error(), "none runs") {
		t.Error(err)
	}
	if err := c.StartDaemon(t.Context(), Daemon{Role: Master, Interface: "nosuch"}); !errors.Is(err, unix.ENODEV) || !strings.Contains(err.Error(), `on "nosuch": no such interface`) {
		t.Error(err)
	}
	for _, bad := range []Daemon{
		{Role: 3, Interface: "d0"}, {Interface: "d0"}, {Role: Master}, {Role: Master, Interface: "abcdefghijklmnop"},
		{Role: Master, Interface: "d0", Group: netip.MustParseAddr("10.0.0.1")},
	} {
		if err := c.StartDaemon(t.Context(), bad); err == nil || errors.As(err, new(unix.Errno)) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := c.StopDaemon(t.Context(), 3); err == nil {
		t.Error("role 3 was stopped")
	}
	if err := c.StopDaemon(t.Context(), Backup); err != nil {
		t.Error(err)
	}
	list()
	if got := c.Counters(); got.Settings != 7 || got.Writes != 0 {
		t.Errorf("%+v", got)
	}
}

// Traffic is counted, listed as connections, and counted from zero again on request.
func TestKernelTraffic(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	for _, tt := range []struct{ vip, server string }{{"192.0.2.10:80", "10.0.0.1:80"}, {"[2001:db8::10]:80", "[fd00::1]:80"}} {
		k := key(TCP, tt.vip)
		s := service(k, "rr")
		s.Flags, s.Timeout = Persistent, 600
		apply(t, c, NewService(s), NewDest(k, dest(tt.server, 1)))
		listener, err := net.Listen("tcp", tt.vip)
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		client, err := net.DialTimeout("tcp", tt.vip, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		accepted, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()

		server := netip.MustParseAddrPort(tt.server)
		from := client.LocalAddr().(*net.TCPAddr).AddrPort()
		var listed []Connection
		if err := c.Connections(t.Context(), func(conn Connection) error {
			if conn.Virtual == netip.MustParseAddrPort(tt.vip) {
				listed = append(listed, conn)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		slices.SortFunc(listed, func(a, b Connection) int { return int(a.Client.Port()) - int(b.Client.Port()) })
		if len(listed) != 2 {
			t.Fatalf("%s: %+v", k, listed)
		}
		for i, want := range []Connection{
			{TCP, netip.AddrPortFrom(from.Addr(), 0), addrPort(k), server, "ASSURED", 600 * time.Second, "", ""},
			{TCP, from, addrPort(k), server, "ESTABLISHED", 900 * time.Second, "", ""},
		} {
			if left := want.Expires - listed[i].Expires; left < 0 || left > 10*time.Second {
				t.Errorf("expires in %v, want %v", listed[i].Expires, want.Expires)
			}
			want.Expires = listed[i].Expires
			if listed[i] != want {
				t.Errorf("\nhave %+v\nwant %+v", listed[i], want)
			}
		}
		entry := func() ServiceEntry {
			t.Helper()
			services, err := c.Services(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range services {
				if s.Key == k {
					return s
				}
			}
			t.Fatalf("%s is not listed", k)
			panic("")
		}
		e := entry()
		for i := 0; e.Stats.Connections == 0 && i < 100; i++ { // the kernel adds them up every two seconds
			time.Sleep(50 * time.Millisecond)
			e = entry()
		}
		if e.Destinations[0].Counts != (Counts{Active: 1, Persistent: 1}) {
			t.Errorf("%+v", e.Destinations[0].Counts)
		}
		for _, stats := range []Stats{e.Stats, e.Destinations[0].Stats} {
			if stats.Connections != 1 || stats.InPackets < 2 || stats.InBytes < 80 || stats.OutPackets < 1 || stats.OutBytes < 40 {
				t.Errorf("%+v", stats)
			}
		}
		apply(t, c, Zero(k))
		if e := entry(); e.Stats.Connections != 0 || e.Destinations[0].Stats.InBytes != 0 {
			t.Errorf("not zero: %+v", e)
		}
	}
	apply(t, c, ZeroAll())
}

// A client stays in its namespace, wherever the goroutine that uses it runs.
func TestKernelNamespaces(t *testing.T) {
	ipvstest.NewNamespace(t)
	first := dial(t)
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	second := dial(t)
	third, err := Dial(t.Context(), Config{NetNS: fd})
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	unix.Close(fd)
	k := key(TCP, "192.0.2.10:80")
	apply(t, first, NewService(service(k, "rr")), NewDest(k, dest("10.0.0.1:80", 1)))
	for i, c := range []*Client{first, second, third} {
		if n := len(table(t, c)); n != 1-i%2 {
			t.Errorf("client %d sees %d services", i, n)
		}
	}
	// Connections are of the namespace too.
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		_, err := enter(first.netns)
		if err == nil {
			var l net.Listener
			if l, err = net.Listen("tcp", "192.0.2.10:80"); err == nil {
				defer l.Close()
				var conn net.Conn
				if conn, err = net.DialTimeout("tcp", "192.0.2.10:80", 5*time.Second); err == nil {
					conn.Close()
				}
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i, c := range []*Client{first, second, third} {
		n := 0
		if err := c.Connections(t.Context(), func(Connection) error { n++; return nil }); err != nil || n != 1-i%2 {
			t.Errorf("client %d sees %d connections, %v", i, n, err)
		}
	}
	// So is a socket that replaces a broken one.
	for i, c := range []*Client{first, second, third} {
		c.sock.close()
		if _, err := c.Services(t.Context()); err == nil {
			t.Error("a closed socket was read")
		}
		if n := len(table(t, c)); n != 1-i%2 {
			t.Errorf("client %d sees %d services with a new socket", i, n)
		}
	}
}

// ip_vs can be unloaded under a client and loaded again.
func TestKernelModuleReload(t *testing.T) {
	ipvstest.NewNamespace(t)
	c := dial(t)
	k := key(TCP, "192.0.2.10:80")
	for round := range 3 {
		old := c.family
		unload(t)
		switch round {
		case 0: // a change finds out
			apply(t, c, NewService(service(k, "rr")), NewDest(k, dest("10.0.0.1:80", 1)))
		case 1: // a listing finds out
		case 2: // a setting finds out
			if err := c.SetTimeouts(t.Context(), Timeouts{UDP: time.Second}); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(table(t, c)); (n == 1) != (round == 0) {
			t.Errorf("round %d: %d services", round, n)
		}
		if c.family == old {
			t.Errorf("round %d: the family is still %d", round, old)
		}
		apply(t, c, Flush())
	}
}

// unload unloads ip_vs and all that uses it.
func unload(t *testing.T) {
	t.Helper()
	// Namespaces of earlier tests end in the background, one after the other, and hold the module until then;
	// on a busy machine that takes its time.
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		entries, err := os.ReadDir("/sys/module")
		if err != nil {
			t.Fatal(err)
		}
		var loaded []string
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), "ip_vs_") {
				loaded = append(loaded, e.Name())
			}
		}
		var failed error
		for _, m := range append(loaded, "ip_vs") {
			if err := unix.DeleteModule(m, unix.O_NONBLOCK); err != nil && err != unix.ENOENT {
				failed = fmt.Errorf("failed to unload %s: %w", m, err)
			}
		}
		if failed == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(failed)
		}
	}
}

// Without CAP_NET_ADMIN the error says so.
func TestKernelPermission(t *testing.T) {
	if os.Getenv("IPVS_TEST_UNPRIVILEGED") != "" {
		_, err := Dial(t.Context(), Config{})
		fmt.Printf("dial: %v, %v\n", err, errors.Is(err, os.ErrPermission))
		return
	}
	ipvstest.NewNamespace(t)
	dial(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKernelPermission$", "-test.v")
	cmd.Env = append(os.Environ(), "IPVS_TEST_UNPRIVILEGED=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "dial: failed to connect to IPVS: CAP_NET_ADMIN is missing: operation not permitted, true") {
		t.Errorf("%v\n%s", err, out)
	}
}
