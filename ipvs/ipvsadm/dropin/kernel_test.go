//go:build kernel

package dropin

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvstest"
)

// The tests of this file run command lines through Debian's ipvsadm 1.31 and through the drop-in, on two fresh
// tables in one boot. They need a kernel with IPVS, as in `drover lab exec`, and root.

// differences are all that may differ, each with the heading of docs/ipvsadm.md that gives the reason. A
// difference that is not listed fails, and so does one that is listed and never seen.
var differences = []struct {
	heading string
	lines   *regexp.Regexp // a command line, its words joined with blanks, or a line of what -R reads
	what    string         // "stdout" or "stderr"; exit status and table are always the same
}{
	{"The text of -h", regexp.MustCompile(`(?m)^(-h.*|--help)$`), "stdout"},
	{"The line of -v", regexp.MustCompile(`(?m)^(-v.*|--version)$`), "stdout"},
}

// TestMain gives both the same names of hosts, and no servers to ask for more. The files are those of a
// kernel in user mode, which ends with the test.
func TestMain(m *testing.M) {
	if cpu, err := os.ReadFile("/proc/cpuinfo"); err != nil || !bytes.Contains(cpu, []byte("User Mode Linux")) {
		fmt.Fprintln(os.Stderr, "these tests change files in /etc: run them by `make kernel-test`, in a kernel in user mode")
		os.Exit(1)
	}
	for name, text := range map[string]string{
		"/etc/nsswitch.conf": "hosts: files\nservices: files\n",
		"/etc/hosts": `127.0.0.1 localhost
::1 localhost6 ip6-localhost
192.0.2.10 vip.example vip
10.0.0.1 server-1.example
10.0.0.9 a-server-with-a-name-that-is-longer-than-any-column.of-the-table.example
10.0.0.10 another-one.with-a-name-of-just-such-a-length-as-fits.a-buffer.example
2001:db8::10 vip6.example
fd00::3 server-3-of-the-sixth-version-of-the-protocol.with-a-long-name.example
2001:db8::77 six-only.example
192.0.2.77 two.example
192.0.2.78 two.example
`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// result is what a run has shown.
type result struct {
	status         int
	stdout, stderr string
}

// original runs Debian's ipvsadm in the namespace of the thread, under its plain name.
func original(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/sbin/ipvsadm", args...)
	cmd.Args[0] = "ipvsadm"
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); ctx.Err() != nil || err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", cmd, errors.Join(err, ctx.Err()))
	}
	if strings.Contains(stdin+strings.Join(args, " "), "start-daemon") {
		settle(t)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// settle waits until the threads of the sync daemons have begun. Of a daemon that is stopped before that the kernel
// says nothing (kthread_stop returns EINTR, which netlink_rcv_skb does not answer), and the original waits for ever.
func settle(t *testing.T) {
	t.Helper()
	for began := time.Now(); !begun(t); {
		if time.Since(began) > time.Minute {
			t.Fatal("a thread of a sync daemon does not begin")
		}
	}
}

// begun says whether no thread of a sync daemon is still to be run.
func begun(t *testing.T) bool {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		stat, err := os.ReadFile(f)
		if err == nil && waiting.Match(stat) {
			return false
		}
	}
	return true
}

var waiting = regexp.MustCompile(`\(ipvs-[mb]:.*\) [RD]`)

// dropIn runs the drop-in in this process.
func dropIn(stdin string, args ...string) result {
	var out, errs bytes.Buffer
	status := Run(append([]string{"ipvsadm"}, args...), strings.NewReader(stdin), &out, &errs)
	return result{status, out.String(), errs.String()}
}

// state is everything that can be set in the namespace of the thread, as the kernel tells it.
func state(t *testing.T, c *ipvs.Client) string {
	t.Helper()
	services, err := c.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, s := range services {
		s.Stats = ipvs.Stats{}
		fmt.Fprintf(&b, "%s %+v %#x\n", s.Key, s.Service, s.RawNetmask)
		for _, d := range s.Destinations {
			fmt.Fprintf(&b, "  %s %+v %+v\n", d.DestKey, d.Destination, d.Counts)
		}
	}
	timeouts, err := c.Timeouts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	daemons, err := c.Daemons(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proc, err := os.ReadFile("/proc/thread-self/net/ip_vs")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "%+v %+v\n%s", timeouts, daemons, sortBlocks(string(proc)))
	return b.String()
}

// sortBlocks sorts the services of a list together with the lines of their servers: the kernel's own order
// goes by a hash in which the namespace has a part. The three lines of the head stay.
func sortBlocks(list string) string {
	lines := strings.SplitAfter(list, "\n")
	head := min(3, len(lines))
	var blocks []string
	for _, line := range lines[head:] {
		if strings.HasPrefix(line, " ") && len(blocks) > 0 {
			blocks[len(blocks)-1] += line
		} else {
			blocks = append(blocks, line)
		}
	}
	slices.Sort(blocks)
	return strings.Join(lines[:head], "") + strings.Join(blocks, "")
}

// differential runs command lines through both, one after the other, each in a namespace of its own. First all of
// one, then all of the other, so that there is one table in the kernel at any time: /proc/net/ip_vs is
// wrong where other namespaces have services too (ip_vs_info_seq_next counts those of all, ip_vs_info_array
// those of one).
type differential struct {
	steps []step
	seen  map[string]bool // headings of differences
}

// step is one command line, with what it has shown and left; or else a look at the whole with the original.
type step struct {
	look  bool
	stdin string
	args  []string
	want  result
	state string
	lists []result
}

func (s *step) String() string {
	name := "ipvsadm"
	for _, a := range s.args {
		name += fmt.Sprintf(" %q", a)
	}
	if s.stdin != "" {
		name += fmt.Sprintf(" <<< %q", s.stdin)
	}
	return name
}

// run adds a command line.
func (d *differential) run(stdin string, args ...string) {
	d.steps = append(d.steps, step{stdin: stdin, args: args})
}

// look adds a comparison of what the original says of both tables.
func (d *differential) look() { d.steps = append(d.steps, step{look: true}) }

// looks are the command lines of such a comparison.
var looks = [][]string{{"-Sn"}, {"-Ln"}, {"-Ln", "--thresholds"}, {"-Ln", "--tun-info"}, {"-Ln", "--stats"}}

// compare runs everything.
func (d *differential) compare(t *testing.T) {
	t.Helper()
	d.seen = map[string]bool{}
	c := newTable(t)
	for i := range d.steps {
		s := &d.steps[i]
		if s.look {
			for _, args := range looks {
				s.lists = append(s.lists, original(t, "", args...))
			}
			continue
		}
		s.want = original(t, s.stdin, s.args...)
		s.state = state(t, c)
	}
	if errs := c.Apply(t.Context(), []ipvs.Command{ipvs.Flush()}); errs != nil {
		t.Fatal(errs)
	}
	c = newTable(t)
	for i := range d.steps {
		s := &d.steps[i]
		if s.look {
			for j, args := range looks {
				if have := original(t, "", args...); have != s.lists[j] {
					t.Fatalf("ipvsadm %s on both tables differs\nhave %+v\nwant %+v", args, have, s.lists[j])
				}
			}
			continue
		}
		have, want := dropIn(s.stdin, s.args...), s.want
		if strings.Contains(strings.Join(s.args, " "), "--nosort") {
			want.stdout, have.stdout = sortBlocks(want.stdout), sortBlocks(have.stdout)
		}
		if have.status != want.status {
			t.Errorf("%s: exit status %d, want %d (%q, want %q)", s, have.status, want.status, have.stderr, want.stderr)
		}
		d.same(t, s, "stdout", have.stdout, want.stdout)
		d.same(t, s, "stderr", have.stderr, want.stderr)
		if have := state(t, c); have != s.state {
			t.Fatalf("%s: the tables differ\nhave %s\nwant %s", s, have, s.state)
		}
	}
	if errs := c.Apply(t.Context(), []ipvs.Command{ipvs.Flush()}); errs != nil {
		t.Fatal(errs)
	}
	t.Logf("%d command lines", len(d.steps))
}

// newTable moves the thread into a new namespace.
func newTable(t *testing.T) *ipvs.Client {
	t.Helper()
	ipvstest.NewNamespace(t)
	c, err := ipvs.Dial(t.Context(), ipvs.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// same fails for a difference that is not listed.
func (d *differential) same(t *testing.T, s *step, what, have, want string) {
	t.Helper()
	if have == want {
		return
	}
	for _, x := range differences {
		if x.what == what && x.lines.MatchString(strings.Join(s.args, " ")+"\n"+s.stdin) {
			d.seen[x.heading] = true
			return
		}
	}
	t.Errorf("%s: %s differs\nhave %q\nwant %q", s, what, have, want)
}

// split splits a line into words as a shell does, with single quotes only.
func split(line string) (words []string) {
	for len(line) > 0 {
		line = strings.TrimLeft(line, " ")
		word := ""
		quoted := false
		i := 0
		for ; i < len(line) && (quoted || line[i] != ' '); i++ {
			if line[i] == '\'' || line[i] == '"' {
				quoted = !quoted
			} else {
				word += line[i : i+1]
			}
		}
		if i > 0 {
			words = append(words, word)
		}
		line = line[i:]
	}
	return words
}

// allLines takes a minute more on a slow machine: `make soak` has it.
var allLines = flag.Bool("all", false, "take all lines of testdata/lines.txt, not three of five")

func TestKernelSameAsIpvsadm(t *testing.T) {
	d := &differential{}
	text, err := os.ReadFile("testdata/lines.txt")
	if err != nil {
		t.Fatal(err)
	}
	d.run("") // no argument
	n := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "#") {
			continue
		}
		if n++; !*allLines && n%5 >= 3 && line != "-C" {
			continue
		}
		if line == "-C" || len(d.steps)%200 == 0 {
			d.look()
		}
		d.run("", split(line)...)
	}
	d.look()
	for _, input := range restores {
		d.run("", "-C")
		d.run(input, "-R")
	}
	d.compare(t)
	docs, err := os.ReadFile(filepath.FromSlash("../../../docs/ipvsadm.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range differences {
		if *allLines && !d.seen[x.heading] {
			t.Errorf("difference %q is listed, but there is none", x.heading)
		}
		if !bytes.Contains(docs, []byte("\n### "+x.heading+"\n")) {
			t.Errorf("docs/ipvsadm.md says nothing of difference %q", x.heading)
		}
	}
}

// restores are inputs of -R, good and bad.
var restores = []string{
	"",
	"\n",
	" ",
	"-A -t 192.0.2.1:1 -s rr\n-A -t 192.0.2.1:1\n-A -t 192.0.2.1:2 -s rr",
	"-A -t 192.0.2.1:1 -s rr\n-A -t 192.0.2.1:1\n",
	"-A -t 192.0.2.1:1 -s rr\nbad\n-A -t 192.0.2.1:2 -s rr\n",
	"-A -t 192.0.2.1:1 -s rr\n-A -q\n-A -t 192.0.2.1:2 -s rr\n",
	"-A -t 192.0.2.1:1 -s rr\n-A -q\n",
	"-A -t 192.0.2.1:1 -s rr\n-A -t x\n-A -t 192.0.2.1:2 -s rr\n",
	"-A -t 192.0.2.1:1 -s rr\n-a -t 192.0.2.1:1 -r 10.0.0.1 -w 70000000000\n-A -t 192.0.2.1:2 -s rr\n",
	"ipvsadm -A -t 192.0.2.1:1 ipvsadm -s rr\r\n\n  \n\t-C\t \n -L -n\n-R\n-A -t 192.0.2.1:2\n",
	"-A -t 192.0.2.1:1",
	"-A -t 192.0.2.1:1 ",
	"-A -t 192.0.2.1:1  ",
	"-A -t 192.0.2.1:1 \t",
	"-A -t 192.0.2.1:1\r",
	"-A -t 192.0.2.1:1  -p\n\n   ",
	"-A -t 192.0.2.1:1\n-A -t 192.0.2.1:2   ",
	"# c\n-A -t 192.0.2.1:1\n",
	"-A -t 192.0.2.1:1 # c\n-A -t 192.0.2.1:2\n",
	"-A -t 192.0.2.1:1\n-v\n-A -t 192.0.2.1:2\n",
	"-A -t 192.0.2.1:1 -q",
	"/sbin/ipvsadm -A -t 192.0.2.1:1\n",
	"-A -t 192.0.2.1:1\x00junk -p\n",
	"\x00\n-A -t 192.0.2.1:1\n",
	"-A -t 192.0.2.1:1\n-D -t 192.0.2.1:1\n-D -t 192.0.2.1:1\n-Sn\n",
	"-A -t 192.0.2.1:1\n-Ln\n-a -t 192.0.2.1:1 -r 10.0.0.1\n-Ln --stats\n-Z\n-Sn\n--set 7 8 9\n-Ln --timeout\n",
	"-A -t 192.0.2.1:1\n-Ln -t 192.0.2.1:2\n-A -t 192.0.2.1:2\n",
	"--set 900 120 300\n--start-daemon master --mcast-interface d0\n-Ln --daemon\n",
	"--stop-daemon master\n--stop-daemon master\n",
	"-A -t 192.0.2.1:1 -p" + strings.Repeat(" ", 5000) + "7\n",
	"-A -t 192.0.2.1:1 " + strings.Repeat("-6", 2000) + "\n-A -t 192.0.2.1:2\n",
	"ipvsadm\nipvsadm ipvsadm\n\v-A\n",
	"-A -t 192.0.2.1:1 -s ''\n",
}

// A large restore, and what is printed then.
func TestKernelRestoreOfMany(t *testing.T) {
	input := ""
	for i := range 100 {
		input += fmt.Sprintf("-A -t 192.0.2.%d:80 -s wrr -p %d\n-a -t 192.0.2.%[1]d:80 -r 10.0.0.%[1]d -w %[1]d -i\n", 1+i%250, 1+i)
		if i%9 == 0 {
			input += fmt.Sprintf("-A -f %d -6 -p -M 64 -s sh -b sh-port\n-a -f %[1]d -6 -r [fd00::%[1]d]:80 -m\n", 1+i)
		}
	}
	d := &differential{}
	d.run(input, "-R")
	d.run("", "-Sn")
	d.run("", "-Ln", "--nosort")
	d.look()
	d.compare(t)
}

// generated is how many command lines are made.
var generated = flag.Int("lines", 0, "run `N` generated command lines, others each time, instead of 100 that are always the same")

// Generated command lines, on a table that they make themselves.
func TestKernelSameForGeneratedLines(t *testing.T) {
	n, seed := 100, uint64(1)
	if *generated > 0 {
		n, seed = *generated, rand.Uint64()
		t.Logf("seed %d", seed)
	}
	d := &differential{}
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range n {
		d.run("", generate(r)...)
		if i%50 == 49 {
			d.look()
		}
	}
	d.compare(t)
}
