package ipvs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"os"
)

// fingerprintSeed is of the process: fingerprints mean nothing to another one.
var fingerprintSeed = maphash.MakeSeed()

// Fingerprint is a number that stays the same while the table does, at a quarter of the cost of a
// listing. It covers the services with scheduler, persistence and netmask, and the destinations with
// forwarding method and weight. What /proc/net/ip_vs does not show it does not see: thresholds,
// scheduler flags, persistence engines, kinds of tunnel. It tells whether a listing is worth its
// while, and means nothing to another process.
func (c *Client) Fingerprint(ctx context.Context) (uint64, error) {
	var file *os.File
	err := c.inNetNS(func() (err error) {
		file, err = os.Open("/proc/thread-self/net/ip_vs")
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("failed to read the table: %w", err)
	}
	defer file.Close()
	sum, err := fingerprint(ctx, file)
	if err != nil {
		return 0, fmt.Errorf("failed to read the table: %w", err)
	}
	return sum, nil
}

// fingerprint sums up the lines of /proc/net/ip_vs (ip_vs_info_seq_show in ip_vs_ctl.c):
//
//	TCP  C000020A:0050 mh persistent 300 FFFFFF00
//	  -> 0A00000B:0050      Route   5      0          0
//
// The two counters at the end of a destination go on by themselves and are left out.
func fingerprint(ctx context.Context, r io.Reader) (uint64, error) {
	var h maphash.Hash
	h.SetSeed(fingerprintSeed)
	b := bufio.NewReaderSize(r, 256<<10) // the kernel fills what it is given
	for line := 0; ; line++ {
		text, err := b.ReadSlice('\n')
		if line%4096 == 0 && ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if line >= 1 { // the first has the size of the table of connections
			if bytes.HasPrefix(text, []byte("  ->")) {
				for range 2 {
					text = bytes.TrimRight(text, " \n")
					text = text[:bytes.LastIndexByte(text, ' ')+1]
				}
			}
			h.Write(text)
		}
		switch err {
		case nil:
		case io.EOF:
			return h.Sum64(), nil
		default:
			return 0, err
		}
	}
}
