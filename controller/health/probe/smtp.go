package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/textproto"
	"time"
)

// maxSMTP bounds what is read of a mail server, in bytes.
const maxSMTP = 64 << 10

// smtp greets a mail server (RFC 5321, section 3.1 and 3.2), and says goodbye.
func (w *wire) smtp(ctx context.Context) error {
	c, err := w.dial(ctx, "tcp")
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	t := textproto.NewConn(struct {
		io.Reader
		io.Writer
		io.Closer
	}{io.LimitReader(c, maxSMTP), c, c})
	if err := reply(t, "", 220); err != nil {
		return err
	}
	if err := reply(t, "EHLO "+w.target.Check.Helo, 250); err != nil {
		return err
	}
	return reply(t, "QUIT", 221)
}

// reply sends a command and expects a code.
func reply(t *textproto.Conn, command string, code int) error {
	if command != "" {
		if err := t.PrintfLine("%s", command); err != nil {
			return err
		}
	}
	_, _, err := t.ReadResponse(code)
	var refused *textproto.Error
	if errors.As(err, &refused) {
		return fmt.Errorf("%d %.200s, expected %d", refused.Code, refused.Msg, code)
	}
	return err
}
