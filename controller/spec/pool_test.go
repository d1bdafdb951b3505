package spec

import (
	"net/netip"
	"testing"
	"time"
)

const pooled = `vips: [192.0.2.1, 192.0.2.2]
director: {interface: eth0}
services:
  - {address: 192.0.2.1, port: 80, pool: web, real_servers: [{name: a, address: 10.0.0.1, weight: 9}]}
  - {address: 192.0.2.2, port: 443, pool: web}
  - {address: 192.0.2.2, port: 53, protocol: udp, real_servers: []}
`

func TestMembersOfAPool(t *testing.T) {
	f, err := Parse("f.yaml", []byte(pooled))
	if err != nil {
		t.Fatal(err)
	}
	vip1, vip2 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	if p := f.Spec.Pools(); len(p) != 1 || len(p["web"]) != 2 || p["web"][0] != vip1 {
		t.Errorf("pools %v", p)
	}
	both := []netip.Addr{vip1, vip2}
	members := []Member{
		{"b", "web", netip.MustParseAddr("10.0.0.2"), 3, Drain{}, both},
		{"a", "web", netip.MustParseAddr("10.0.0.3"), 1, Drain{}, both},
		{"c", "web", netip.MustParseAddr("10.0.0.4"), 1, Drain{}, both[:1]}, // has one of the VIPs only
		{"d", "other", netip.MustParseAddr("10.0.0.5"), 1, Drain{}, both},   // of another pool
		{"e", "web", netip.MustParseAddr("10.0.0.1"), 1, Drain{}, both},     // listed in the spec
		{"f", "web", netip.MustParseAddr("fd00::1"), 1, Drain{}, both},      // of another family
		{"g", "web", netip.MustParseAddr("10.0.0.2"), 1, Drain{}, both},     // the address of b
	}
	before := f.Spec.Clone()
	got := f.Spec.WithMembers(members)
	if !f.Spec.Equal(&before) {
		t.Error("the spec itself was changed")
	}
	describe := func(s *Service) string {
		out := ""
		for _, d := range s.RealServers {
			out += d.Name + "=" + d.DestKey.String() + " "
		}
		return out
	}
	for i, want := range []string{
		"a=10.0.0.1:80 10.0.0.3=10.0.0.3:80 b=10.0.0.2:80 c=10.0.0.4:80 ",
		"a=10.0.0.3:443 b=10.0.0.2:443 e=10.0.0.1:443 ",
		"",
	} {
		if s := describe(&got.Services[i]); s != want {
			t.Errorf("service %d: got %q, want %q", i, s, want)
		}
	}
	if w := got.Services[0].RealServers[2].Weight; w != 3 {
		t.Errorf("weight %d", w)
	}
	// One that asks to be drained keeps its weight for afterwards, and ends as the service says.
	f.Spec.Services[1].Drain.Remove = true
	asked := Drain{On: true, Since: time.Unix(1, 0).UTC(), DrainPolicy: DrainPolicy{Deadline: time.Second}}
	got = f.Spec.WithMembers([]Member{{"b", "web", netip.MustParseAddr("10.0.0.2"), 3, asked, both}})
	f.Spec.Services[1].Drain.Remove = false
	first, second := got.Services[0].RealServers[1], got.Services[1].RealServers[0]
	if first.Weight != 3 || first.InForce() != 0 || first.Drain != asked || !second.Drain.Remove || second.Drain.Deadline != time.Second {
		t.Errorf("got %+v and %+v", first, second)
	}
	// A member whose VIPs are not there yet gets no traffic at all.
	if got := f.Spec.WithMembers([]Member{{"b", "web", netip.MustParseAddr("10.0.0.2"), 3, Drain{}, nil}}); !got.Equal(&before) {
		t.Errorf("got %v", got)
	}
}

func TestASharedSpecIsForNoDirectorAlone(t *testing.T) {
	const in = "vips: [192.0.2.1]\nservices:\n  - {address: 192.0.2.1, port: 80, real_servers: [10.0.0.1]}\n"
	shared, err := ParseSpec("s.yaml", []byte(in))
	if err != nil {
		t.Fatal(err)
	}
	own, err := Parse("d.yaml", []byte("director: {interface: eth7}\ncluster: {name: d1, key_file: /k, voters: [{name: d1, address: 10.0.0.1}]}\n"))
	if err != nil || !own.Replicated {
		t.Fatalf("%+v, %v", own, err)
	}
	f, err := own.With(shared)
	if err != nil || f.Director.Interface != "eth7" || !f.Spec.Equal(&shared.Spec) || f.Cluster == nil {
		t.Errorf("%+v, %v", f, err)
	}
	own.Director.Interface = ""
	if _, err := own.With(shared); err == nil {
		t.Error("a VIP without an interface was accepted")
	}
	for _, tc := range []struct{ in, want string }{
		{"director: {interface: eth0}\n" + in, `s.yaml:1:11: director: is a setting of one node and belongs into its own file: this one is for vips and services`},
		{"vips: []\n", `s.yaml:1:1: services: is required: write services: [] if there are none`},
	} {
		if _, err := ParseSpec("s.yaml", []byte(tc.in)); err == nil || err.Error() != tc.want {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
}
