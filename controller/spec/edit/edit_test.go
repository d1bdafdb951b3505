package edit

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

var update = flag.Bool("update", false, "rewrite what the scenarios expect")

func tcp(addr string) ipvs.Key {
	ap := netip.MustParseAddrPort(addr)
	return ipvs.Key{Family: ipvs.FamilyOf(ap.Addr()), Protocol: ipvs.TCP, Addr: ap.Addr(), Port: ap.Port()}
}

func service(addr, scheduler string) spec.Service {
	k := tcp(addr)
	return spec.Service{Service: ipvs.Service{Key: k, Scheduler: scheduler, Netmask: uint8(k.Family.Bits())}}
}

func server(addr string, weight uint32) spec.RealServer {
	return spec.RealServer{Destination: ipvs.Destination{DestKey: ipvs.DestKey{Addr: netip.MustParseAddr(addr)}, Weight: weight, Forward: ipvs.DirectRoute}}
}

func at(addr string) ServerRef { return ServerRef{Addr: netip.MustParseAddr(addr)} }

func web(name string) Ref { return Ref{Name: name} }

// changes are what the scenarios in testdata do, by the words after "# do: ".
var changes = map[string]Change{
	"add service": AddService(service("192.0.2.20:443", "sh")),
	"add service with servers": AddService(func() spec.Service {
		s := service("192.0.2.20:443", "sh")
		s.Name, s.RealServers = "shop", []spec.RealServer{server("10.0.0.21", 1), server("10.0.0.22", 5)}
		for i := range s.RealServers {
			s.RealServers[i].Name, s.RealServers[i].Port = s.RealServers[i].Addr.String(), 443
		}
		return s
	}()),
	"add vip":         AddVIP(netip.MustParsePrefix("192.0.2.20/32")),
	"delete vip":      DeleteVIP(netip.MustParseAddr("192.0.2.11")),
	"delete web":      DeleteService(web("web")),
	"delete by key":   DeleteService(Ref{Key: tcp("192.0.2.10:80")}),
	"delete dns":      DeleteService(web("dns")),
	"scheduler":       EditService(web("web"), func(s *spec.Service) error { s.Scheduler = "lc"; return nil }),
	"rename":          EditService(web("web"), func(s *spec.Service) error { s.Name = "www"; return nil }),
	"persistence":     EditService(web("web"), func(s *spec.Service) error { s.Flags |= ipvs.Persistent; s.Timeout = 60; return nil }),
	"no persistence":  EditService(web("web"), func(s *spec.Service) error { s.Flags &^= ipvs.Persistent; s.Timeout = 0; return nil }),
	"pool":            EditService(web("web"), func(s *spec.Service) error { s.Pool = "front"; return nil }),
	"no pool":         EditService(web("web"), func(s *spec.Service) error { s.Pool = ""; return nil }),
	"add server":      AddServer(web("web"), server("10.0.0.19", 1)),
	"add heavy":       AddServer(web("web"), server("10.0.0.20", 100)),
	"weight of first": EditServer(web("web"), at("10.0.0.11"), func(d *spec.RealServer) error { d.Weight = 0; return nil }),
	"weight one":      EditServer(web("web"), at("10.0.0.12"), func(d *spec.RealServer) error { d.Weight = 1; return nil }),
	"weight of second": EditServer(web("web"), at("10.0.0.12"), func(d *spec.RealServer) error {
		d.Weight, d.Upper, d.Lower = 7, 100, 50
		return nil
	}),
	"no thresholds":  EditServer(web("web"), at("10.0.0.12"), func(d *spec.RealServer) error { d.Upper, d.Lower = 0, 0; return nil }),
	"delete first":   DeleteServer(web("web"), at("10.0.0.11")),
	"delete second":  DeleteServer(web("web"), at("10.0.0.12")),
	"delete third":   DeleteServer(web("web"), at("10.0.0.13")),
	"delete by name": DeleteServer(web("web"), ServerRef{Name: "third"}),
	"nothing":        EditService(web("web"), func(*spec.Service) error { return nil }),
	"tunnel": EditServer(web("web"), at("10.0.0.11"), func(d *spec.RealServer) error {
		d.Forward, d.TunnelType, d.TunnelPort = ipvs.Tunnel, ipvs.TunnelGUE, 6080
		return nil
	}),
}

// Each file in testdata has a document and, for each "# do: CHANGE; CHANGE" line, what becomes of it.
func TestScenarios(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) < 5 {
		t.Fatal(paths, err)
	}
	done := make(map[string]bool)
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(string(b), "# do: ")
		got := parts[0]
		for _, part := range parts[1:] {
			words, want, _ := strings.Cut(part, "\n")
			var list []Change
			for w := range strings.SplitSeq(words, "; ") {
				if changes[w] == nil {
					t.Fatalf("%s: no change %q", path, w)
				}
				done[w] = true
				list = append(list, changes[w])
			}
			r, err := Apply([]byte(parts[0]), list...)
			if err != nil {
				t.Errorf("%s: %s: %v", path, words, err)
				continue
			}
			text := string(r.Text)
			if r.Rewritten {
				text = "# rewritten\n" + text
			}
			for _, w := range r.Warnings {
				text += "# warning: " + w + "\n"
			}
			got += "# do: " + words + "\n" + text
			if text != want && !*update {
				t.Errorf("%s: %s: got\n%s\nwant\n%s", path, words, text, want)
			}
			if read, err := spec.ParseSpec("", r.Text); err != nil || !read.Spec.Equal(r.Spec) {
				t.Errorf("%s: %s: does not say what it should: %v", path, words, err)
			}
		}
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for w := range changes {
		if !done[w] {
			t.Errorf("no scenario does %q", w)
		}
	}
}

func TestRefused(t *testing.T) {
	const text = "vips: [192.0.2.10]\nservices:\n  - {name: web, address: 192.0.2.10, port: 80, real_servers: [10.0.0.11]}\n"
	svc := func(name string, s spec.Service) spec.Service { s.Name = name; return s }
	for _, tc := range []struct {
		change Change
		want   string
	}{
		{AddService(service("192.0.2.10:80", "rr")), `the service TCP 192.0.2.10:80 exists, with the name "web"`},
		{AddService(svc("web", service("192.0.2.10:81", "rr"))), `a service with the name "web" exists`},
		{AddService(service("192.0.2.10:81", "nope")), `services[1]: scheduler: "nope" is not one of: rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq, fo, ovf, mh, twos`},
		{DeleteService(web("shop")), `there is no service "shop": the services are web`},
		{DeleteService(Ref{Key: tcp("192.0.2.10:81")}), `there is no service TCP 192.0.2.10:81: the services are web`},
		{DeleteVIP(netip.MustParseAddr("192.0.2.10")), `the VIP 192.0.2.10 is that of the service "web"`},
		{AddServer(web("web"), server("10.0.0.11", 1)), `the service "web" lists the real server 10.0.0.11:80 already, with the name "10.0.0.11"`},
		{AddServer(web("web"), server("10.0.0.12", 65536)), `services[0] ("web"): real_servers[1] ("10.0.0.12"): weight: 65536 is out of range: must be between 0 and 65535`},
		{AddServer(web("web"), server("127.0.0.1", 1)), `services[0] ("web"): real_servers[1] ("127.0.0.1"): address: 127.0.0.1 is a loopback address: must be a unicast address that other hosts can reach`},
		{EditServer(web("web"), at("10.0.0.12"), nil), `the service "web" lists no real server 10.0.0.12: it lists 10.0.0.11`},
		{DeleteServer(web("web"), ServerRef{Name: "a"}), `the service "web" lists no real server "a": it lists 10.0.0.11`},
		{DeleteServer(web("web"), ServerRef{Addr: netip.MustParseAddr("10.0.0.11"), Port: 81}), `the service "web" lists no real server 10.0.0.11:81: it lists 10.0.0.11`},
		{EditServer(web("web"), at("10.0.0.11"), func(*spec.RealServer) error { return fmt.Errorf("no") }), "no"},
	} {
		if r, err := Apply([]byte(text), tc.change); r != nil || err == nil || err.Error() != tc.want {
			t.Errorf("got  %v\nwant %s", err, tc.want)
		}
	}
	if _, err := Apply([]byte("vips: [x]\nservices: []\n")); err == nil || !strings.HasPrefix(err.Error(), "the specification in force:1:8: ") {
		t.Error(err)
	}
	if r, err := Apply(nil, AddVIP(netip.MustParsePrefix("192.0.2.10/32"))); err != nil || string(r.Text) != "vips:\n  - 192.0.2.10\nservices: []\n" {
		t.Errorf("of nothing: %+v, %v", r, err)
	}
}

// Whatever the document: what comes out says the changed values, and nothing is lost of a document that the change
// does not concern.
func FuzzApply(f *testing.F) {
	paths, _ := filepath.Glob("testdata/*.txt")
	for _, path := range paths {
		b, _ := os.ReadFile(path)
		text, _, _ := strings.Cut(string(b), "# do: ")
		f.Add(text)
	}
	words := make([]string, 0, len(changes))
	for w := range changes {
		words = append(words, w)
	}
	slices.Sort(words)
	f.Fuzz(func(t *testing.T, text string) {
		before, err := spec.ParseSpec("", []byte(text))
		for _, w := range words {
			r, aerr := Apply([]byte(text), changes[w])
			if aerr != nil {
				continue
			}
			if err != nil && strings.TrimSpace(text) != "" {
				t.Fatalf("%s: a bad document was taken", w)
			}
			after, perr := spec.ParseSpec("", r.Text)
			if perr != nil || !after.Spec.Equal(r.Spec) {
				t.Fatalf("%s: %v\n%s", w, perr, r.Text)
			}
			if before != nil && before.Spec.Equal(r.Spec) && string(r.Text) != text {
				t.Fatalf("%s: the text changed and the values did not", w)
			}
		}
	})
}
