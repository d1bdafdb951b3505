package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/drover-lb/drover/cmd/internal/api"
)

const minInterval, maxInterval = 100 * time.Millisecond, time.Hour

func topCommand() *cli.Command {
	return &cli.Command{
		Name: "top", Usage: "show connections, packets and bytes a second, of services and real servers, as they happen",
		UsageText: "drover top [--interval TIME] [-n COUNT] [--sort COLUMN] [--director ADDRESS]",
		Description: "Rates are the differences between two looks at the counters of all directors. Keys: q ends it; n, c, p, b\n" +
			"and a sort by name, connections, packets, bytes a second, and active connections; s hides the servers;\n" +
			"arrows, PgUp and PgDn scroll. With -n it prints so many looks one below the other, and needs no terminal.",
		Flags: []cli.Flag{directorFlag,
			&cli.DurationFlag{Name: "interval", Aliases: []string{"i"}, Value: time.Second, Usage: "look every `TIME`, 100ms to 1h"},
			&cli.IntFlag{Name: "count", Aliases: []string{"n"}, Usage: "look `COUNT` times, print, and end"},
			&cli.StringFlag{Name: "sort", Value: "name", Usage: "sort by `COLUMN`: name, connections, packets, bytes, active"},
		},
		Action: topAction,
	}
}

// look asks for a sample.
func look(ctx context.Context, d *api.Client) (*sample, error) {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	s := &sample{services: new(api.Services), cluster: new(api.Cluster)}
	if err := d.Do(ctx, "GET", "/v1/services", nil, s.services); err != nil {
		return nil, err
	}
	var refused *api.Error
	if err := d.Do(ctx, "GET", "/v1/cluster", nil, s.cluster); errors.As(err, &refused) {
		s.cluster = nil // it is alone
	} else if err != nil {
		return nil, err
	}
	return s, nil
}

func topAction(c *cli.Context) error {
	if c.Args().Present() {
		return wrong(c, "unexpected argument %q", c.Args().First())
	}
	interval, count := c.Duration("interval"), c.Int("count")
	if interval < minInterval || interval > maxInterval {
		return wrong(c, "--interval (%s) must be between %s and %s", interval, minInterval, maxInterval)
	}
	if count < 0 {
		return wrong(c, "--count (%d) must be at least 1", count)
	}
	orders := map[string]topOrder{"name": byName, "connections": byConns, "packets": byPackets, "bytes": byBytes, "active": byActive}
	s := &topScreen{order: orders[c.String("sort")], servers: true}
	if s.order == 0 {
		return wrong(c, "--sort (%q) must be one of: name, connections, packets, bytes, active", c.String("sort"))
	}
	d, err := api.NewClient(c.String("director"))
	if err != nil {
		return cli.Exit(err, 2)
	}
	if count > 0 {
		return topPrint(c, d, s, interval, count)
	}
	in, ok := c.App.Reader.(*os.File)
	out, ok2 := c.App.Writer.(*os.File)
	if !ok || !ok2 || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return cli.Exit("top: this is no terminal: -n 2 prints two looks", 2)
	}
	s.paint = paintFor(c)
	// A first look by the rules of all commands: without a director there is no screen.
	first, err := look(c.Context, d)
	if err != nil {
		return askFailed(err)
	}
	s.take(first)
	return topTerminal(c.Context, d, s, interval, in, out)
}

// topPrint prints looks one below the other. The first has no rates.
func topPrint(c *cli.Context, d *api.Client, s *topScreen, interval time.Duration, count int) error {
	for i := range count {
		if i > 0 {
			select {
			case <-time.After(interval):
			case <-c.Context.Done():
				return nil
			}
		}
		x, err := look(c.Context, d)
		if err != nil {
			return askFailed(err)
		}
		s.take(x)
		s.width, s.height = 200, 1<<20
		rows := topRows(s.before, s.after, s.order, s.servers)
		s.height = len(s.head()) + 1 + len(rows) + 1
		lines := s.lines()
		for _, l := range lines[:len(lines)-1] {
			fmt.Fprintln(c.App.Writer, strings.TrimRight(l, " "))
		}
		fmt.Fprintln(c.App.Writer)
	}
	return nil
}

// topTerminal draws until a key ends it, and leaves the terminal as it was.
func topTerminal(ctx context.Context, d *api.Client, s *topScreen, interval time.Duration, in, out *os.File) error {
	old, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return fmt.Errorf("failed to prepare the terminal: %w", err)
	}
	// The alternate screen, without cursor and without wrapping of lines (xterm's private modes).
	fmt.Fprint(out, "\x1b[?1049h\x1b[?25l\x1b[?7l")
	defer func() {
		fmt.Fprint(out, "\x1b[?7h\x1b[?25h\x1b[?1049l")
		term.Restore(int(in.Fd()), old)
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	keys := make(chan string)
	go func() { // ends with the program: a terminal cannot be read with a bound in time
		buf := make([]byte, 64)
		for {
			n, err := in.Read(buf)
			if err != nil {
				cancel()
				return
			}
			for _, k := range splitKeys(string(buf[:n])) {
				select {
				case keys <- k:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	type answer struct {
		s   *sample
		err error
	}
	answers := make(chan answer, 1)
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	asking := false
	for {
		if w, h, err := term.GetSize(int(out.Fd())); err == nil {
			s.width, s.height = w, h
		}
		var b strings.Builder
		b.WriteString("\x1b[H")
		for i, l := range s.lines() {
			if i > 0 {
				b.WriteString("\r\n")
			}
			b.WriteString(l + "\x1b[K")
		}
		b.WriteString("\x1b[J")
		if _, err := out.WriteString(b.String()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case k := <-keys:
			if s.key(k) {
				return nil
			}
		case <-resized:
		case <-tick.C:
			if !asking {
				asking = true
				go func() {
					x, err := look(ctx, d)
					answers <- answer{x, err}
				}()
			}
		case a := <-answers:
			asking = false
			if a.err != nil {
				s.trouble = a.err.Error()
			} else {
				s.take(a.s)
			}
		}
	}
}

// splitKeys takes apart what was typed: a letter, or what a terminal sends for an arrow (ECMA-48, 5.4).
func splitKeys(text string) []string {
	var out []string
	for len(text) > 0 {
		n := 1
		if strings.HasPrefix(text, "\x1b[") {
			for n = 2; n < len(text) && (text[n] < 0x40 || text[n] > 0x7e); n++ {
			}
			n = min(n+1, len(text))
		} else if strings.HasPrefix(text, "\x1bO") && len(text) > 2 { // arrows in application mode
			out = append(out, "\x1b["+text[2:3])
			text = text[3:]
			continue
		}
		out = append(out, text[:n])
		text = text[n:]
	}
	return out
}
