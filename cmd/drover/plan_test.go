package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// runPlanCommand runs one command as main does, and returns the exit status and what it wrote.
func runPlanCommand(ctx context.Context, cmd *cli.Command, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	app := &cli.App{
		Name: "drover", Commands: []*cli.Command{cmd}, Writer: &out, ErrWriter: &errs,
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return cli.Exit(err, 2) },
	}
	err := app.RunContext(ctx, append([]string{"drover", cmd.Name}, args...))
	if err != nil {
		status = 1
		var ec cli.ExitCoder
		if errors.As(err, &ec) {
			status = ec.ExitCode()
		}
		errs.WriteString(err.Error())
	}
	return status, out.String(), errs.String()
}

// A file or a command line that is wrong is told before the kernel is asked anything.
func TestPlanRefusesBeforeItAsksTheKernel(t *testing.T) {
	bad, err := filepath.Glob("../../controller/spec/testdata/bad/*.yaml")
	if err != nil || len(bad) == 0 {
		t.Fatal(bad, err)
	}
	for _, path := range bad {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		line, _, _ := strings.Cut(string(b), "\n")
		want := path + ":" + strings.TrimPrefix(line, "# want: ") + "\n"
		if status, out, errs := runPlanCommand(t.Context(), planCommand(), "-f", path); status != 2 || out != "" || errs != want {
			t.Errorf("%s: exit status %d, %q, %q", path, status, out, errs)
		}
	}
	good := "../../controller/spec/testdata/good/minimal.yaml"
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"-f", "/nowhere/director.yaml"}, "no such file"},
		{[]string{"-f", good, "-o", "xml"}, `output "xml" is not one of: text, json`},
		{[]string{"-f", good, "--ownership", "mine"}, `ownership "mine" is not one of: all, listed`},
		{[]string{"-f", good, "more"}, `unexpected argument "more"`},
	} {
		if status, out, errs := runPlanCommand(t.Context(), planCommand(), tc.args...); status != 2 || out != "" || !strings.Contains(errs, tc.want) {
			t.Errorf("%v: exit status %d, %q, %q", tc.args, status, out, errs)
		}
	}
}

func TestPrintPlan(t *testing.T) {
	k := ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80}
	for _, tc := range []struct {
		p            plan.Plan
		output, want string
	}{
		{plan.Plan{}, "text", "# nothing to do\n"},
		{plan.Plan{Ops: []plan.Op{{Kind: plan.DeleteService, Service: ipvs.Service{Key: k}}}, Strangers: []ipvs.Key{{Family: ipvs.IPv6, FWMark: 3}}}, "text",
			"-D -t 192.0.2.10:80\n# services: 1 deleted\n# left alone: FWM 3 IPv6\n"},
		{plan.Plan{Beside: []string{"- web: check: {type: tcp}"}}, "text", "# nothing to do in the table\n# - web: check: {type: tcp}\n"},
	} {
		var b bytes.Buffer
		if err := printPlan(&b, tc.p, tc.output); err != nil || b.String() != tc.want {
			t.Errorf("got %q, %v, want %q", b.String(), err, tc.want)
		}
	}
}

// What a file changes beside the table is asked of the director that runs, if one does.
func TestBesideOfTheDirector(t *testing.T) {
	const content = "vips: [192.0.2.10]\nservices: [{name: web, address: 192.0.2.10, port: 80, checks: [tcp], real_servers: []}]\n"
	socket := filepath.Join(t.TempDir(), "d.sock")
	file, err := spec.Parse("f.yaml", []byte("director: {interface: eth0, socket: "+socket+"}\n"+strings.Replace(content, "[tcp]", "[{type: tcp, fall: 5}]", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := beside(t.Context(), file); got != nil || err != nil {
		t.Errorf("without a director: %q, %v", got, err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	answer := api.Document{Content: content}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(answer) })}
	go func() { _ = srv.Serve(l) }()
	defer srv.Close()
	want := []string{
		"- web: check: {type: tcp, path: vip, interval: 1s, fast_interval: 200ms, timeout: 1s, rise: 2, fall: 3}",
		"+ web: check: {type: tcp, path: vip, interval: 1s, fast_interval: 200ms, timeout: 1s, rise: 2, fall: 5}"}
	if got, err := beside(t.Context(), file); err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	answer.Content = "nonsense"
	if got, err := beside(t.Context(), file); err == nil {
		t.Errorf("of nonsense: %q", got)
	}
}
