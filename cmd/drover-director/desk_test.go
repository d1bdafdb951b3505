package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cmd/internal/api"
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// deskKernel is a table that notes what is done to it.
type deskKernel struct {
	services []ipvs.ServiceEntry
	timeouts ipvs.Timeouts
	did      []ipvs.Command
	err      error
}

func (k *deskKernel) Services(context.Context) ([]ipvs.ServiceEntry, error) {
	return slices.Clone(k.services), k.err
}

func (k *deskKernel) Apply(_ context.Context, commands []ipvs.Command) []error {
	k.did = append(k.did, commands...)
	return make([]error, len(commands))
}
func (k *deskKernel) Timeouts(context.Context) (ipvs.Timeouts, error) { return k.timeouts, k.err }

func (k *deskKernel) SetTimeouts(_ context.Context, t ipvs.Timeouts) error {
	if t.TCP > time.Hour {
		return errors.New("too long")
	}
	for _, x := range []struct{ to, from *time.Duration }{{&k.timeouts.TCP, &t.TCP}, {&k.timeouts.TCPFin, &t.TCPFin}, {&k.timeouts.UDP, &t.UDP}} {
		if *x.from != 0 {
			*x.to = *x.from
		}
	}
	return nil
}

const deskFile = `
director: {interface: eth0}
vips: [192.0.2.10]
services:
  - {name: web, address: 192.0.2.10, port: 80, scheduler: rr, real_servers: []} # lost in values
  - {name: dns, address: 192.0.2.10, port: 53, protocol: udp, scheduler: rr, real_servers: []}
`

// A director that is alone answers what is asked of its services, and names its file where they are to be changed.
func TestDeskAlone(t *testing.T) {
	f, err := spec.Parse("director.yaml", []byte(deskFile))
	if err != nil {
		t.Fatal(err)
	}
	k := &deskKernel{timeouts: ipvs.Timeouts{TCP: 900 * time.Second, TCPFin: 120 * time.Second, UDP: 300 * time.Second}}
	for i := range f.Spec.Services {
		k.services = append(k.services, ipvs.ServiceEntry{Service: f.Spec.Services[i].Service})
	}
	d := &desk{kernel: k, health: health.New(health.Options{}), path: "/etc/drover/director.yaml"}
	d.alone.Store(f)
	h := handler(nil, nil, prometheus.NewRegistry(), d)
	ask := func(method, target, content string, out any) (status int, text string) {
		status, got := request(h, method, target, content)
		if err := json.Unmarshal([]byte(got), out); err != nil {
			t.Fatalf("%s %s: %q: %v", method, target, got, err)
		}
		return status, got
	}

	var doc api.Document
	if status, got := ask("GET", "/v1/spec", "", &doc); status != 200 || doc.Replicated || doc.Path != d.path || doc.Version != "" {
		t.Errorf("%d %s", status, got)
	}
	if back, err := spec.ParseSpec("", []byte(doc.Content)); err != nil || !back.Spec.Equal(&f.Spec) {
		t.Errorf("what is saved is not what is in force: %v\n%s", err, doc.Content)
	}
	var refused api.Error
	if status, got := ask("PUT", "/v1/spec", `{"content": ""}`, &refused); status != http.StatusUnprocessableEntity || !strings.Contains(refused.Text, "edit /etc/drover/director.yaml, ") {
		t.Errorf("%d %s", status, got)
	}

	var diff api.Diff
	if status, got := ask("GET", "/v1/diff", "", &diff); status != 200 || !diff.Equal || diff.Plan != "" || diff.Summary != "nothing to do" {
		t.Errorf("%d %s", status, got)
	}
	k.services = append(k.services[:1], ipvs.ServiceEntry{Service: ipvs.Service{Key: ipvs.Key{Family: ipvs.IPv6, FWMark: 9}, Scheduler: "rr"}})
	if status, got := ask("GET", "/v1/diff", "", &diff); status != 200 || diff.Equal || diff.Plan != "-A -u 192.0.2.10:53 -s rr\n" || !slices.Equal(diff.Strangers, []string{"FWM 9 IPv6"}) {
		t.Errorf("%d %s", status, got)
	}

	var zeroed api.Zeroed
	web := ipvs.Zero(f.Spec.Services[0].Key)
	for content, want := range map[string]ipvs.Command{`{}`: ipvs.ZeroAll(), `{"service": "web"}`: web, `{"service": "TCP 192.0.2.10:80"}`: web} {
		k.did = nil
		if status, got := ask("POST", "/v1/zero", content, &zeroed); status != 200 || !reflect.DeepEqual(k.did, []ipvs.Command{want}) {
			t.Errorf("%s: %d %s, did %v, want %v", content, status, got, k.did, want)
		}
	}
	k.did = nil
	for content, want := range map[string]int{`{"service": "shop"}`: 404, `{"service": "dns"}`: 500, `{"service": 7}`: 400} {
		if status, got := ask("POST", "/v1/zero", content, &refused); status != want || len(k.did) > 0 {
			t.Errorf("%s: %d %s, did %v", content, status, got, k.did)
		}
	}

	var list []api.NodeTimeouts
	if status, got := ask("GET", "/v1/timeouts", "", &list); status != 200 || len(list) != 1 || list[0] != (api.NodeTimeouts{Timeouts: api.Timeouts{TCP: 900, TCPFin: 120, UDP: 300}}) {
		t.Errorf("%d %s", status, got)
	}
	if status, got := ask("PUT", "/v1/timeouts", `{"tcp": 600}`, &list); status != 200 || list[0].Timeouts != (api.Timeouts{TCP: 600, TCPFin: 120, UDP: 300}) {
		t.Errorf("%d %s", status, got)
	}
	for content, want := range map[string]int{`{}`: 400, `{"tcp": 3601}`: 400, `{"tcp": -1}`: 400} {
		if status, got := ask("PUT", "/v1/timeouts", content, &refused); status != want {
			t.Errorf("%s: %d %s", content, status, got)
		}
	}
	k.err = errors.New("no kernel")
	for _, target := range []string{"/v1/diff", "/v1/timeouts"} {
		if status, got := ask("GET", target, "", &refused); status != 500 || refused.Text != "no kernel" {
			t.Errorf("%s: %d %s", target, status, got)
		}
	}
}
