package ipvs

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestStrings(t *testing.T) {
	for got, want := range map[string]string{
		key(TCP, "192.0.2.10:80").String():                  "TCP 192.0.2.10:80",
		key(SCTP, "[2001:db8::10]:9").String():              "SCTP [2001:db8::10]:9",
		mark(7, IPv4).String():                              "FWM 7",
		mark(1<<32-1, IPv6).String():                        "FWM 4294967295 IPv6",
		Protocol(50).String():                               "50",
		Forward(9).String():                                 "Forward(9)",
		DirectRoute.String() + Masq.String():                "RouteMasq",
		Tunnel.String() + Local.String():                    "TunnelLocal",
		Bypass.String():                                     "Bypass",
		TunnelIPIP.String() + TunnelGUE.String():            "ipipgue",
		TunnelGRE.String() + TunnelType(9).String():         "gretunnel(9)",
		TunnelNoChecksum.String():                           "none",
		TunnelChecksum.String():                             "checksum",
		TunnelRemoteChecksum.String():                       "remote",
		TunnelFlags(3).String():                             "flags(3)",
		(Sched1 | Sched2).SchedulerFlags("mh"):              "mh-fallback,mh-port",
		(Sched1 | Sched3).SchedulerFlags("sh"):              "sh-fallback,flag-3",
		(Persistent | Sched1 | Sched2).SchedulerFlags("rr"): "flag-1,flag-2",
		Flags(0).SchedulerFlags("mh"):                       "",
		Master.String() + Backup.String():                   "masterbackup",
		DaemonRole(3).String():                              "role(3)",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Compare is an order in which only equal keys are equal.
func TestKeyCompare(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	var keys []Key
	for range 300 {
		k := Key{Family: []Family{IPv4, IPv6}[r.IntN(2)]}
		if r.IntN(3) == 0 {
			k.FWMark = 1 + r.Uint32N(3)
		} else {
			k.Protocol, k.Port = []Protocol{TCP, UDP}[r.IntN(2)], uint16(r.IntN(2))
			k.Addr = netip.AddrFrom4([4]byte{byte(r.IntN(2)), 0, 0, byte(r.IntN(2))})
			if k.Family == IPv6 {
				k.Addr = netip.AddrFrom16([16]byte{0: byte(r.IntN(2)), 15: byte(r.IntN(2))})
			}
		}
		keys = append(keys, k)
	}
	for _, a := range keys {
		for _, b := range keys {
			if c := a.Compare(b); (c == 0) != (a == b) || c != -b.Compare(a) {
				t.Fatalf("%s and %s: %d, %d", a, b, c, b.Compare(a))
			}
		}
	}
	slices.SortFunc(keys, Key.Compare)
	if !slices.IsSortedFunc(keys, Key.Compare) {
		t.Error("not sorted")
	}
}

const procTable = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  C000020A:0050 mh persistent 300 FFFFFF00
  -> 0A00000B:0050      Route   5      0          0         
  -> 0A00000C:0050      Route   5      0          0         
UDP  [2001:0db8:0000:0000:0000:0000:0000:0010]:0035 rr
  -> [fd00:0000:0000:0000:0000:0000:0000:0001]:0035      Route   1      0          0         
`

// The fingerprint ignores connections and sees everything else.
func TestFingerprint(t *testing.T) {
	sum := func(s string) uint64 {
		v, err := fingerprint(t.Context(), strings.NewReader(s))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	want := sum(procTable)
	for _, same := range []string{
		strings.Replace(procTable, "size=4096", "size=8192", 1),
		strings.Replace(procTable, "Route   5      0          0         ", "Route   5      17         2         ", 1),
		strings.Replace(procTable, "Route   1      0          0         ", "Route   1      0          4294967295", 1),
		strings.Replace(procTable, "Route   1      0          0         ", "Route   1      4294967295 4294967295", 1),
	} {
		if sum(same) != want {
			t.Errorf("changed by\n%s", same)
		}
	}
	for _, other := range []string{
		"",
		strings.Replace(procTable, "mh", "sh", 1),
		strings.Replace(procTable, "300", "301", 1),
		strings.Replace(procTable, "FF00", "0000", 1),
		strings.Replace(procTable, "Route   5", "Masq    5", 1),
		strings.Replace(procTable, "Route   5", "Route   6", 1),
		strings.Replace(procTable, "  -> 0A00000C:0050      Route   5      0          0         \n", "", 1),
		strings.Replace(procTable, "rr\n", "rr ops\n", 1),
		strings.Replace(procTable, "0A00000C:0050", "0A00000C:0051", 1),
	} {
		if sum(other) == want {
			t.Errorf("not changed by\n%s", other)
		}
	}
	for _, odd := range []string{"x\n  ->", "x\n  -> ", "x\n  ->\n", "x\n  -> 1\n"} {
		sum(odd)
	}
	if _, err := fingerprint(t.Context(), strings.NewReader("x\n"+strings.Repeat("y", 1<<20))); err == nil {
		t.Error("a line of a megabyte was read")
	}
}
