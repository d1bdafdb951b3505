package ipvs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestReadsBackWhatWasWritten(t *testing.T) {
	_, c := newFake(t)
	want := everything()
	cmds := commands(want)
	apply(t, c, cmds...)
	if d := diff(table(t, c), want); d != "" {
		t.Error(d)
	}
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
	services, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i < len(services); i++ {
		if services[i-1].Key.Compare(services[i].Key) >= 0 {
			t.Errorf("%s comes before %s", services[i-1].Key, services[i].Key)
		}
	}
	if c.Writes() != 2*uint64(len(cmds)) || c.Counters().Writes != c.Writes() {
		t.Errorf("%d writes, want %d", c.Writes(), 2*len(cmds))
	}
}

// Commands go out in batches, and each failure is that of its command.
func TestApplyBatches(t *testing.T) {
	k, c := newFake(t)
	svc := key(TCP, "192.0.2.10:80")
	apply(t, c, NewService(service(svc, "rr")))
	r := rand.New(rand.NewPCG(7, 8))
	for _, n := range []int{0, 1, 127, 128, 129, 500, 1000} {
		cmds := make([]Command, n)
		want := make([]error, n)
		unsent := 0
		for i := range cmds {
			switch r.IntN(4) {
			case 0:
				cmds[i], want[i] = DelDest(svc, DestKey{netip.MustParseAddr("10.9.9.9"), 80}), unix.ENOENT
			case 1:
				cmds[i], want[i] = NewService(service(svc, "no such scheduler")), errors.New("scheduler (")
				unsent++
			default:
				cmds[i] = SetService(service(svc, "wlc"))
			}
		}
		k.mu.Lock()
		before, sends := c.Writes(), k.sends
		k.mu.Unlock()
		errs := c.Apply(t.Context(), cmds)
		if len(errs) != 0 && len(errs) != n {
			t.Fatalf("%d errors for %d commands", len(errs), n)
		}
		for i, err := range errs {
			switch {
			case (err == nil) != (want[i] == nil):
				t.Fatalf("%d of %d: got %v, want %v", i, n, err, want[i])
			case err != nil && !errors.Is(err, want[i]) && !strings.Contains(err.Error(), want[i].Error()):
				t.Fatalf("%d of %d: got %v, want %v", i, n, err, want[i])
			}
		}
		if got := int(c.Writes() - before); got != n-unsent {
			t.Errorf("%d writes for %d commands of which %d make no sense", got, n, unsent)
		}
		k.mu.Lock()
		if got, want := k.sends-sends, (n-unsent+batchSize-1)/batchSize; got != want {
			t.Errorf("%d system calls for %d commands, want %d", got, n-unsent, want)
		}
		k.mu.Unlock()
	}
}

// A family that has got another number is found again by changes and listings.
func TestFamilyChanges(t *testing.T) {
	k, c := newFake(t)
	svc := key(TCP, "192.0.2.10:80")
	for round := range 4 {
		k.mu.Lock()
		k.family++
		k.mu.Unlock()
		if round%2 == 0 {
			apply(t, c, Flush(), NewService(service(svc, "rr")))
		}
		if n := len(table(t, c)); n != 1 {
			t.Errorf("%d services", n)
		}
	}
	// A single missing server looks like a family that is gone, but is not tried again.
	before := c.Writes()
	errs := c.Apply(t.Context(), []Command{DelDest(svc, DestKey{netip.MustParseAddr("10.9.9.9"), 80})})
	if len(errs) != 1 || !errors.Is(errs[0], unix.ENOENT) || c.Writes() != before+1 {
		t.Errorf("%v, %d writes", errs, c.Writes()-before)
	}
}

// Services that come and go between two chunks, or between the services and their servers.
func TestListingWhileOthersWrite(t *testing.T) {
	k, c := newFake(t)
	var stable, passing []ServiceEntry
	for i := range 10 {
		s := ServiceEntry{Service: service(key(TCP, fmt.Sprintf("192.0.2.10:%d", 1+i)), "rr")}
		for j := range i {
			s.Destinations = append(s.Destinations, DestinationEntry{Destination: dest(fmt.Sprintf("10.0.0.%d:%d", 1+j, 1+i), 1)})
		}
		stable = append(stable, s)
	}
	for i := range 3 {
		passing = append(passing, ServiceEntry{Service: service(key(UDP, fmt.Sprintf("192.0.2.10:%d", 1+i)), "rr")})
	}
	r := rand.New(rand.NewPCG(9, 10))
	for round := range 200 {
		k.mu.Lock()
		changes := r.IntN(6)
		k.services = append([]ServiceEntry{}, stable...)
		k.hook = func() {
			if changes > 0 && r.IntN(3) == 0 {
				changes--
				k.services = append(append([]ServiceEntry{}, passing[:r.IntN(4)]...), stable...)
			}
		}
		k.mu.Unlock()
		services, err := c.Services(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen := map[Key]int{}
		for _, s := range services {
			seen[s.Key]++
			if s.Protocol == TCP && len(s.Destinations) != int(s.Port)-1 {
				t.Errorf("round %d: %s has %d servers", round, s.Key, len(s.Destinations))
			}
		}
		for k, n := range seen {
			if n != 1 {
				t.Errorf("round %d: %s is listed %d times", round, k, n)
			}
		}
		for _, s := range stable {
			if seen[s.Key] == 0 {
				t.Errorf("round %d: %s is missing", round, s.Key)
			}
		}
	}

	// A table that changes all the time is not read for ever.
	k.mu.Lock()
	port := uint16(0)
	k.hook = func() {
		port++
		k.services = []ServiceEntry{{Service: service(Key{Family: IPv4, Protocol: TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: port}, "rr")}}
	}
	k.mu.Unlock()
	reads := c.Counters().Reads
	if _, err := c.Services(t.Context()); err != nil {
		t.Error(err)
	}
	if reads = c.Counters().Reads - reads; reads > 20 {
		t.Errorf("%d requests", reads)
	}
}

// A table of any length is read without keeping it.
func TestEachDestination(t *testing.T) {
	_, c := newFake(t)
	want := everything()
	apply(t, c, commands(want)...)
	services, err := c.ListServices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	have := map[Service][]Destination{}
	for part := range slices.Chunk(services, 7) {
		dests := make([][]Destination, len(part))
		last := 0
		err := c.EachDestination(t.Context(), part, func(i int, d *DestinationEntry) {
			if i < last {
				t.Errorf("a server of service %d after one of %d", i, last)
			}
			last = i
			dests[i] = append(dests[i], d.Destination)
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, s := range part {
			slices.SortFunc(dests[i], func(a, b Destination) int { return a.DestKey.Compare(b.DestKey) })
			have[s.Service] = dests[i]
			if dests[i] == nil {
				have[s.Service] = []Destination{}
			}
		}
	}
	if d := diff(have, want); d != "" {
		t.Error(d)
	}
	gone := []ServiceEntry{{Service: service(mark(99, IPv4), "rr")}}
	err = c.EachDestination(t.Context(), gone, func(_ int, d *DestinationEntry) { t.Errorf("%+v", d) })
	if err != nil {
		t.Error(err)
	}
}

func TestConcurrentUse(t *testing.T) {
	_, c := newFake(t)
	ctx := t.Context()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 20 {
				k := key(TCP, fmt.Sprintf("192.0.2.%d:%d", i, 1+j))
				if errs := c.Apply(ctx, []Command{NewService(service(k, "rr")), NewDest(k, dest("10.0.0.1:80", 1))}); errs != nil {
					t.Error(errs)
				}
				if services, err := c.Services(ctx); err != nil || len(services) == 0 {
					t.Error(len(services), err)
				}
				if errs := c.Apply(ctx, []Command{DelService(k), DelService(k)}); len(errs) != 2 || errs[0] != nil || !errors.Is(errs[1], unix.ESRCH) {
					t.Error(errs)
				}
				short, cancel := context.WithTimeout(ctx, time.Duration(j)*20*time.Microsecond)
				if _, err := c.Services(short); err != nil && !errors.Is(err, ErrTimeout) {
					t.Error(err)
				}
				c.Counters()
				cancel()
			}
		})
	}
	wg.Wait()
	if n := len(table(t, c)); n != 0 {
		t.Errorf("%d services left", n)
	}
}

// A peer that does not answer.
func TestTimeout(t *testing.T) {
	k, c := newFake(t)
	c.timeout = 50 * time.Millisecond
	k.mu.Lock()
	k.silent = true
	k.mu.Unlock()
	start := time.Now()
	if _, err := c.Services(t.Context()); !errors.Is(err, ErrTimeout) {
		t.Errorf("Services: %v", err)
	}
	errs := c.Apply(t.Context(), []Command{Flush()})
	if len(errs) != 1 || !errors.Is(errs[0], ErrTimeout) || !errors.Is(errs[0], ErrNotSent) {
		t.Errorf("Apply behind a call that hangs: %v", errs)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if err := c.SetTimeouts(ctx, Timeouts{UDP: time.Second}); !errors.Is(err, context.Canceled) || errors.Is(err, ErrTimeout) {
		t.Errorf("SetTimeouts: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Services(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// Answers are lost, wrong, or say more than a number.
func TestAnswers(t *testing.T) {
	svc := service(key(TCP, "192.0.2.10:80"), "rr")
	for name, tt := range map[string]struct {
		answers [][]byte // to messages 1 and 2
		want    []string // of two commands, in part
	}{
		"both executed": {
			[][]byte{errorMessage(2, 0, "")},
			nil,
		},
		"the first failed": {
			[][]byte{errorMessage(1, unix.EEXIST, ""), errorMessage(2, 0, "")},
			[]string{"the service exists already (EEXIST)", ""},
		},
		"both failed, with a text": {
			[][]byte{errorMessage(1, unix.EPERM, ""), errorMessage(2, unix.EINVAL, "Attribute failed policy validation")},
			[]string{"CAP_NET_ADMIN is missing (EPERM)", "(EINVAL): Attribute failed policy validation"},
		},
		"one datagram": {
			[][]byte{append(errorMessage(1, unix.ENOMEM, ""), errorMessage(2, 0, "")...)},
			[]string{"the kernel is out of memory (ENOMEM)", ""},
		},
		"of earlier requests": {
			[][]byte{errorMessage(0, unix.EPERM, ""), errorMessage(1<<31, unix.EPERM, ""), doneMessage(2), errorMessage(2, 0, "")},
			nil,
		},
		"lost": {
			nil,
			[]string{"the result is not known", "the result is not known"},
		},
		"one lost": {
			[][]byte{errorMessage(1, unix.EEXIST, "")},
			[]string{"the service exists already (EEXIST)", "the result is not known"},
		},
		"cut": {
			[][]byte{errorMessage(1, unix.EEXIST, "")[:18]},
			[]string{"malformed", "malformed"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := socketPair(t)
			defer theirs.Close()
			defer ours.Close()
			for _, b := range tt.answers {
				if _, err := theirs.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			c := newClient(t, ours, false)
			errs := c.Apply(t.Context(), []Command{NewService(svc), NewService(svc)})
			if len(errs) != len(tt.want) {
				t.Fatalf("got %v, want %q", errs, tt.want)
			}
			for i, want := range tt.want {
				if (errs[i] == nil) != (want == "") || errs[i] != nil && !strings.Contains(errs[i].Error(), want) {
					t.Errorf("command %d: got %v, want %q", i, errs[i], want)
				}
			}
		})
	}
}

func TestCommandText(t *testing.T) {
	k := key(TCP, "192.0.2.10:80")
	d := dest("10.0.0.2:80", 1)
	for want, c := range map[string]Command{
		"add service TCP 192.0.2.10:80":                    NewService(service(k, "rr")),
		"change service TCP 192.0.2.10:80":                 SetService(service(k, "rr")),
		"delete service FWM 7 IPv6":                        DelService(mark(7, IPv6)),
		"add server 10.0.0.2:80 to TCP 192.0.2.10:80":      NewDest(k, d),
		"change server 10.0.0.2:80 of TCP 192.0.2.10:80":   SetDest(k, d),
		"delete server 10.0.0.2:80 from TCP 192.0.2.10:80": DelDest(k, d.DestKey),
		"zero counters of UDP [2001:db8::10]:53":           Zero(key(UDP, "[2001:db8::10]:53")),
		"zero all counters":                                ZeroAll(),
		"flush the table":                                  Flush(),
	} {
		if got := c.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// What makes no sense is not sent.
func TestCheck(t *testing.T) {
	k := key(TCP, "192.0.2.10:80")
	svc := func(f func(*Service)) Command { s := service(k, "rr"); f(&s); return NewService(s) }
	dst := func(f func(*Destination)) Command { d := dest("10.0.0.2:80", 1); f(&d); return NewDest(k, d) }
	for want, c := range map[string]Command{
		"unknown op(0)":                                                 {},
		"unknown op(200)":                                               {Op: 200},
		"address family (0) must be 2 or 10":                            DelService(Key{}),
		"address (invalid IP) must be of family 2":                      DelService(Key{Family: IPv4}),
		"address (192.0.2.10) must be of family 10":                     DelService(Key{Family: IPv6, Addr: k.Addr}),
		"protocol (1) must be TCP, UDP or SCTP":                         svc(func(s *Service) { s.Protocol = 1 }),
		`scheduler ("") must be 1 to 15 of a-z, 0-9 and _`:              svc(func(s *Service) { s.Scheduler = "" }),
		`scheduler ("a-b") must be 1 to 15 of a-z, 0-9 and _`:           svc(func(s *Service) { s.Scheduler = "a-b" }),
		`persistence engine ("SIP") must be up to 15 of a-z, 0-9 and _`: svc(func(s *Service) { s.PE = "SIP" }),
		"netmask (33) must be between 0 and 32":                         svc(func(s *Service) { s.Netmask = 33 }),
		"netmask (0) must be between 1 and 128":                         NewService(Service{Key: key(TCP, "[2001:db8::10]:80"), Scheduler: "rr"}),
		"server address (invalid IP) must be valid":                     DelDest(k, DestKey{}),
		"forwarding method (5) must be between 0 and 4":                 dst(func(d *Destination) { d.Forward = 5 }),
		"weight (65536) must be between 0 and 65535":                    dst(func(d *Destination) { d.Weight = 65536 }),
		"lower threshold (2) must be at most the upper threshold (1)":   dst(func(d *Destination) { d.Upper, d.Lower = 1, 2 }),
		"tunnel type (3) must be between 0 and 2":                       dst(func(d *Destination) { d.TunnelType = 3 }),
		"tunnel port (0) must be between 1 and 65535 for GUE":           dst(func(d *Destination) { d.TunnelType = TunnelGUE }),
	} {
		err := c.check()
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	// A stranger of any kind can be deleted.
	for _, c := range []Command{
		DelService(Key{Family: IPv4, Protocol: 1, Addr: k.Addr}), DelDest(k, DestKey{Addr: netip.IPv6Unspecified()}),
	} {
		if err := c.check(); err != nil {
			t.Error(err)
		}
	}
}

// A system without IPVS is told which module it lacks. Where there is IPVS the client works.
func TestDialHere(t *testing.T) {
	c, err := Dial(t.Context(), Config{})
	var missing *ErrModule
	switch {
	case err == nil:
		c.Close()
	case errors.As(err, &missing):
		if missing.Module != "ip_vs" || !strings.HasPrefix(err.Error(), "failed to connect to IPVS: the kernel has no IPVS: module ip_vs cannot be loaded: ") {
			t.Error(err)
		}
	case errors.Is(err, os.ErrPermission):
		if !strings.Contains(err.Error(), "CAP_NET_ADMIN is missing") {
			t.Error(err)
		}
	default:
		t.Error(err)
	}
	if _, err := Dial(t.Context(), Config{NetNS: 1 << 20}); err == nil || !strings.Contains(err.Error(), "failed to open network namespace") {
		t.Error(err)
	}
}
