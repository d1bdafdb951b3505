package probe

import (
	"context"
	"fmt"
	"regexp"
	"time"
)

// datagram sends one, and gives what comes back to judge until that says that it is the answer.
func (w *wire) datagram(ctx context.Context, b []byte, judge func(answer []byte) (ours bool, err error)) error {
	c, err := w.dial(ctx, "udp")
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write(b); err != nil {
		return err
	}
	answer := make([]byte, maxDatagram)
	for {
		n, err := c.Read(answer)
		if err != nil {
			return err
		}
		if ours, err := judge(answer[:n]); ours {
			return err
		}
	}
}

// udp sends a datagram, and compares the first that comes back.
func (w *wire) udp(ctx context.Context) error {
	c := &w.target.Check
	re, err := regexp.Compile(c.Expect)
	if err != nil {
		return err
	}
	return w.datagram(ctx, []byte(c.Send), func(answer []byte) (bool, error) {
		if !re.Match(answer) {
			return true, fmt.Errorf("the answer of %d bytes does not match %q", len(answer), c.Expect)
		}
		return true, nil
	})
}
