package ipvsadm

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/drover-lb/drover/ipvs"
)

// A connection is read and printed.
func BenchmarkConnections(b *testing.B) {
	var text strings.Builder
	text.WriteString("Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData\n")
	const lines = 1000
	for i := range lines {
		fmt.Fprintf(&text, "UDP 0A02%04X 03E8 0A006401 1388 0A010000 1388 UDP             %3d\n", i, i%300)
	}
	in := text.String()
	b.ReportAllocs()
	for range b.N / lines {
		p := NewConnections(io.Discard, false)
		for c, err := range ipvs.Connections(strings.NewReader(in)) {
			if err != nil {
				b.Fatal(err)
			}
			if err := p.Print(c); err != nil {
				b.Fatal(err)
			}
		}
		p.Close()
	}
}
