package spec

import (
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestBeside(t *testing.T) {
	const base = "vips: [192.0.2.10]\nservices:\n" +
		"  - {name: web, address: 192.0.2.10, port: 80, scheduler: rr, real_servers: [10.0.0.11], checks: [tcp, {type: http, uri: /health}]}\n" +
		"  - {name: dns, address: 192.0.2.10, port: 53, protocol: udp, real_servers: [10.0.0.21]}\n"
	read := func(text string) *Spec {
		f, err := ParseSpec("f.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		return &f.Spec
	}
	for _, tc := range []struct {
		from, to string // replaced in base
		want     []string
	}{
		{"", "", nil},
		// What the table shows.
		{"scheduler: rr", "scheduler: wrr", nil},
		{"10.0.0.11", "{address: 10.0.0.12, weight: 5, drain: true}", nil},
		{"  - {name: dns", "  - {name: more, address: 192.0.2.10, port: 81, checks: [tcp], real_servers: []}\n  - {name: dns", nil},
		// And what it does not.
		{"uri: /health", "uri: /health, interval: 5s, fast_interval: 1s", []string{
			"- web: check: {type: http, path: vip, interval: 1s, fast_interval: 200ms, timeout: 1s, rise: 2, fall: 3, uri: \"/health\"}",
			"+ web: check: {type: http, path: vip, interval: 5s, fast_interval: 1s, timeout: 1s, rise: 2, fall: 3, uri: \"/health\"}"}},
		{", checks: [tcp, {type: http, uri: /health}]", "", []string{
			"- web: check: {type: tcp, path: vip, interval: 1s, fast_interval: 200ms, timeout: 1s, rise: 2, fall: 3}",
			"- web: check: {type: http, path: vip, interval: 1s, fast_interval: 200ms, timeout: 1s, rise: 2, fall: 3, uri: \"/health\"}"}},
		{"rr, real", "rr, health: {slow_start: 30s, sorry_server: 10.0.0.99}, real", []string{"+ web: health: {slow_start: 30s, sorry_server: 10.0.0.99, panic_threshold: 100}"}},
		{"rr, real", "rr, drain: {deadline: 5m}, pool: x, real", []string{"+ web: pool: x", "+ web: drain: {deadline: 5m}"}},
		{"name: dns", "name: names", []string{"- names: name: dns", "+ names: name: names"}},
		{"[192.0.2.10]", "[192.0.2.10, 192.0.2.11]", []string{"+ vip: 192.0.2.11"}},
		{"[192.0.2.10]", "[192.0.2.10/24]", []string{"- vip: 192.0.2.10", "+ vip: 192.0.2.10/24"}},
	} {
		if tc.from != "" && !strings.Contains(base, tc.from) {
			t.Fatalf("there is no %q", tc.from)
		}
		if got := Beside(read(base), read(strings.Replace(base, tc.from, tc.to, 1))); !slices.Equal(got, tc.want) {
			t.Errorf("%s:\n%s\nwant\n%s", tc.to, strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
		}
	}
}

// A field that Service gets is one of the table's, of those that Beside shows, or of the real servers.
func TestBesideIsWhole(t *testing.T) {
	known := []string{"Name", "Service", "Pool", "Checks", "Health", "Drain", "Adaptive", "RealServers"}
	for i, typ := 0, reflect.TypeFor[Service](); i < typ.NumField(); i++ {
		if name := typ.Field(i).Name; !slices.Contains(known, name) {
			t.Errorf("%s: does Beside show that it has changed?", name)
		}
	}
}
