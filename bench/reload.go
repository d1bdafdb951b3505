package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// metrics of a director.
const (
	writes = "drover_director_ipvs_write_messages_total"
	passes = `drover_director_reconcile_passes_total{result="done"}`
)

// reload gives a director with a table its file again, unchanged and with one weight changed.
func reload(ctx context.Context, g *guest) (Section, error) {
	s := Section{
		Title: "Reloading: a table of 10,000 real servers (" + square.String() + " wlc) that is in the kernel",
		Peer:  "ipvsadm",
		Notes: []string{
			"messages: commands to the kernel that change its table, as the running drover-director counts them",
			"table: read the kernel's table, plan, apply, as the director does for a file that it has read",
			"director: from SIGHUP until the kernel has the weight, with the reading of the file; looked at every millisecond",
			"ipvsadm reads no files that were changed; beside a changed weight is one `ipvsadm -e`, which has to be told what changed",
		},
	}
	var (
		readFile   = Row{What: "file read and checked"}
		same       = Row{What: "unchanged, table"}
		sameWrites = Row{What: "unchanged, messages", Target: atMost(0)}
		edit       = Row{What: "one weight, table"}
		editWrites = Row{What: "one weight, messages", Target: atMost(2)}
		editWhole  = Row{What: "one weight, director"}
	)
	err := inNamespace(func() error {
		c, err := ipvs.Dial(ctx, ipvs.Config{})
		if err != nil {
			return err
		}
		defer c.Close()
		d, err := g.director(here, func(dir string) []byte { return square.yaml("wlc", dir, 1) })
		if err != nil {
			return err
		}
		defer d.kill()
		if err := d.await(); err != nil {
			return err
		}
		if err := square.count(ctx, c); err != nil {
			return err
		}
		path := filepath.Join(d.dir, "director.yaml")
		first, err := findServer(ctx, c)
		if err != nil {
			return err
		}
		weight := 1
		// hup has the director read its file again, and returns how many messages that took.
		hup := func(applied func(context.Context) error) (time.Duration, float64, error) {
			before, err := d.metrics(ctx)
			if err != nil {
				return 0, 0, err
			}
			began := time.Now()
			if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
				return 0, 0, err
			}
			if err := d.await(); err != nil {
				return 0, 0, err
			}
			if err := applied(ctx); err != nil {
				return 0, 0, err
			}
			took := time.Since(began)
			after, err := d.compared(ctx, before[passes]+1)
			return took, after[writes] - before[writes], err
		}
		unchanged := func() error {
			_, n, err := hup(func(context.Context) error { return nil })
			sameWrites.Drover.counted(Count, n)
			return err
		}
		changed := func() error {
			weight++
			if err := renameio.WriteFile(path, square.yaml("wlc", d.dir, weight), 0o644); err != nil {
				return err
			}
			took, n, err := hup(func(ctx context.Context) error { return first.await(ctx, c, weight) })
			editWhole.Drover.took(took)
			editWrites.Drover.counted(Count, n)
			return err
		}
		if err := g.repeat(unchanged, changed); err != nil {
			return err
		}
		if err := d.kill(); err != nil {
			return err
		}
		return g.repeat(
			func() error {
				began := time.Now()
				_, err := spec.Load(path)
				readFile.Drover.took(time.Since(began))
				return err
			},
			func() error {
				f, err := spec.Load(path)
				if err != nil {
					return err
				}
				began := time.Now()
				n, err := reconcile(ctx, c, f)
				same.Drover.took(time.Since(began))
				if n != 0 {
					err = errors.Join(err, fmt.Errorf("an unchanged table took %d commands", n))
				}
				return err
			},
			func() error {
				weight++
				if err := renameio.WriteFile(path, square.yaml("wlc", d.dir, weight), 0o644); err != nil {
					return err
				}
				f, err := spec.Load(path)
				if err != nil {
					return err
				}
				began := time.Now()
				n, err := reconcile(ctx, c, f)
				edit.Drover.took(time.Since(began))
				if n != 1 {
					err = errors.Join(err, fmt.Errorf("a weight took %d commands", n))
				}
				return err
			},
			func() error {
				// To the weight that the file has, so that the others find what they left.
				vip, at := fmt.Sprintf("%s:%d", square.vip(0), port(0)), fmt.Sprintf("%s:%d", server(0), port(0))
				took, err := command(ctx, nil, nil, g.ipvsadm, "-e", "-t", vip, "-r", at, "-g", "-w", strconv.Itoa(weight))
				edit.Peer.took(took)
				return err
			},
		)
	})
	editWhole.Peer = edit.Peer
	s.Rows = []Row{sameWrites, same, editWrites, edit, editWhole, readFile}
	return s, err
}

// watched is the server whose weight changes.
type watched struct{ service ipvs.ServiceEntry }

func findServer(ctx context.Context, c *ipvs.Client) (watched, error) {
	list, err := c.ListServices(ctx)
	if err != nil {
		return watched{}, err
	}
	for _, s := range list {
		if s.Addr == square.vip(0) && s.Port == uint16(port(0)) {
			return watched{s}, nil
		}
	}
	return watched{}, errors.New("the first service is not in the table")
}

// await waits until the server has a weight. IPVS tells nobody of changes, so it is asked.
func (w watched) await(ctx context.Context, c *ipvs.Client, weight int) error {
	list := []ipvs.ServiceEntry{w.service}
	for deadline := time.Now().Add(daemonTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		found := false
		err := c.EachDestination(ctx, list, func(_ int, d *ipvs.DestinationEntry) {
			found = found || d.Addr == server(0) && d.Weight == uint32(weight)
		})
		if err != nil || found {
			return err
		}
	}
	return fmt.Errorf("%s has not got weight %d within %s", server(0), weight, daemonTimeout)
}

// metrics asks a director for its metrics without labels and those of the constants above.
func (d *daemon) metrics(ctx context.Context) (map[string]float64, error) {
	client := http.Client{Timeout: daemonTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(d.dir, "director.sock"))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://director/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the director answers %s", res.Status)
	}
	m := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			m[name] = v
		}
	}
	for _, name := range []string{writes, passes} {
		if _, ok := m[name]; !ok {
			return nil, fmt.Errorf("the director has no metric %s", name)
		}
	}
	return m, lines.Err()
}

// compared waits until a director has made n comparisons with the kernel since its start.
func (d *daemon) compared(ctx context.Context, n float64) (map[string]float64, error) {
	for deadline := time.Now().Add(daemonTimeout); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		m, err := d.metrics(ctx)
		if err != nil || m[passes] >= n {
			return m, err
		}
	}
	return nil, fmt.Errorf("the director has not compared the table with the kernel within %s", daemonTimeout)
}
