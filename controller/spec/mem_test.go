package spec

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// large is a file of services with n real servers in each, as a generator would write it.
func large(services, n int, short bool) string {
	var b strings.Builder
	b.WriteString("director: {interface: eth0}\nvips: [192.0.2.10]\nservices:\n")
	for i := range services {
		fmt.Fprintf(&b, "  - name: service%d\n    address: 192.0.2.10\n    port: %d\n    scheduler: wlc\n    real_servers:\n", i, i+1)
		for j := range n {
			addr := fmt.Sprintf("10.%d.%d.%d", j>>16, j>>8&255, j&255)
			if short {
				fmt.Fprintf(&b, "      - %s\n", addr)
			} else {
				fmt.Fprintf(&b, "      - name: server%d\n        address: %s\n        port: %d\n        weight: %d\n", j, addr, i+1, 1+j%10)
			}
		}
	}
	return b.String()
}

// What stays of 10,000 real servers is small: a director has 40 MiB for everything.
func TestLoadKeepsLittle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "director.yaml")
	for _, tc := range []struct{ services, servers int }{{1, 10000}, {100, 100}} {
		if err := os.WriteFile(path, []byte(large(tc.services, tc.servers, false)), 0o644); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		f, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if kept := int64(after.HeapAlloc) - int64(before.HeapAlloc); kept > 3<<20 {
			t.Errorf("%d x %d: %d bytes are kept", tc.services, tc.servers, kept)
		} else {
			t.Logf("%d x %d: %d KiB are kept", tc.services, tc.servers, kept>>10)
		}
		if n := f.servers(); n != 10000 {
			t.Errorf("%d servers", n)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for _, bc := range []struct {
		name              string
		services, servers int
		short             bool
	}{{"1x10000", 1, 10000, false}, {"1000x10", 1000, 10, false}, {"1x10000-short", 1, 10000, true}} {
		b.Run(bc.name, func(b *testing.B) {
			content := []byte(large(bc.services, bc.servers, bc.short))
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse("f.yaml", content); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
