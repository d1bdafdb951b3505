package realserver

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/conf"
)

func TestConfig(t *testing.T) {
	c, err := Parse("f.yaml", []byte("vips: [192.0.2.10, '2001:DB8::10', \"::ffff:192.0.2.11\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10"), netip.MustParseAddr("192.0.2.11")}
	if !slices.Equal(c.VIPs, want) || c.Device != "lo" || c.CheckInterval != 5*time.Second || c.OnStop != Release {
		t.Errorf("defaults: got %+v", c)
	}
	c, err = Parse("f.yaml", []byte("vips:\n  - 192.0.2.10\ndevice: dummy\ncheck_interval: 250ms\non_stop: keep\n"))
	if err != nil || c.Device != "drover" || c.CheckInterval != 250*time.Millisecond || c.OnStop != Keep {
		t.Errorf("got %+v, %v", c, err)
	}
	c, err = Parse("f.yaml", []byte("pool: web\ncluster: {name: w, key_file: /k, voters: [{name: w, address: 10.0.0.9, director: false}]}\n"))
	if err != nil || !c.Learn || c.Pool != "web" || c.Weight != 1 || c.Address != netip.MustParseAddr("10.0.0.9") {
		t.Errorf("member of a pool: got %+v, %v", c, err)
	}
	c, err = Parse("f.yaml", []byte("vips: []\ncluster: {name: w, key_file: /k, voters: [{name: w, address: 10.0.0.9, director: false}]}\n"))
	if err != nil || c.Learn || len(c.VIPs) != 0 {
		t.Errorf("witness: got %+v, %v", c, err)
	}
	c, err = Parse("f.yaml", []byte("vips: [192.0.2.10]\ndevice: dummy\ndummy: vips.0\n"))
	if err != nil || c.Device != "vips.0" {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestReferenceConfigurationIsGoodAndComplete(t *testing.T) {
	c, err := Load("../packaging/realserver.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.VIPs) != 2 || c.Device != "lo" || c.CheckInterval != 5*time.Second || c.OnStop != Release {
		t.Errorf("it shows other values than the defaults: %+v", c)
	}
}

// Each is wrong in one way, and gets one complaint.
func TestBadConfigurations(t *testing.T) {
	const name15 = "a23456789012345"
	const inCluster = "cluster: {name: w, key_file: /k, voters: [{name: w, address: 10.0.0.9, director: false}]}\n"
	for _, tc := range []struct{ name, in, want string }{
		{"empty", "", "f.yaml:1:1: vips: is required: a list of at least one address"},
		{"no VIPs", "device: lo\n", "f.yaml:1:1: vips: is required: a list of at least one address"},
		{"empty list", "vips: []\n", "f.yaml:1:1: vips: is required: a list of at least one address"},
		{"unknown key", "vips: [192.0.2.1]\nvip: 192.0.2.1\n", `f.yaml:2:1: unknown field "vip": expected one of: vips, device, dummy, check_interval, on_stop, cluster, pool, address, weight, drain, load`},
		{"pool without cluster", "vips: [192.0.2.1]\npool: web\n", "f.yaml:2:7: pool: is that of a cluster: it needs cluster"},
		{"pool and VIPs", "vips: [192.0.2.1]\npool: web\n" + inCluster, "f.yaml:1:7: vips: are those of the pool: leave out vips or pool"},
		{"bad pool", "pool: a b\n" + inCluster, `f.yaml:1:7: pool: "a b" must be 1 to 63 of a-z, 0-9 and -, not beginning or ending with -`},
		{"weight without pool", "weight: 2\n" + inCluster, "f.yaml:1:9: weight: is that of a member of a pool: it needs pool"},
		{"drain without pool", "drain: 2s\n" + inCluster, "f.yaml:1:8: drain: is that of a member of a pool: it needs pool"},
		{"weight too large", "pool: web\nweight: 70000\n" + inCluster, "f.yaml:2:9: weight: 70000 is out of range: must be between 0 and 65535"},
		{"one VIP without list", "vips: 192.0.2.1\n", "f.yaml:1:7: vips: expected a list, found a single value"},
		{"VIP as a mapping", "vips: [{address: 192.0.2.1}]\n", "f.yaml:1:8: vips[0]: expected a single value, found a mapping"},
		{"null VIP", "vips: [192.0.2.1, ~]\n", "f.yaml:1:19: vips[1]: is required"},
		{"empty VIP", "vips: ['']\n", "f.yaml:1:8: vips[0]: is required"},
		{"not an address", "vips: [192.0.2.256]\n", `f.yaml:1:8: vips[0]: "192.0.2.256" is not an IPv4 or IPv6 address`},
		{"name", "vips:\n  - www.example.org\n", `f.yaml:2:5: vips[0]: "www.example.org" is not an IPv4 or IPv6 address`},
		{"with port", "vips: ['192.0.2.1:80']\n", `f.yaml:1:8: vips[0]: "192.0.2.1:80" is not an IPv4 or IPv6 address`},
		{"with prefix", "vips: [192.0.2.1/24]\n", `f.yaml:1:8: vips[0]: "192.0.2.1/24" has a prefix length: a real server has its VIPs as /32 and /128 only, write 192.0.2.1 without /24`},
		{"with zone", "vips: ['2001:db8::1%eth0']\n", `f.yaml:1:8: vips[0]: "2001:db8::1%eth0" has a zone: write the address without %eth0`},
		{"unspecified", "vips: [0.0.0.0]\n", "f.yaml:1:8: vips[0]: 0.0.0.0 cannot be a VIP: it stands for no address"},
		{"unspecified 6", "vips: ['::']\n", "f.yaml:1:8: vips[0]: :: cannot be a VIP: it stands for no address"},
		{"loopback", "vips: [127.0.0.2]\n", "f.yaml:1:8: vips[0]: 127.0.0.2 cannot be a VIP: it is a loopback address"},
		{"multicast", "vips: [224.0.0.18]\n", "f.yaml:1:8: vips[0]: 224.0.0.18 cannot be a VIP: it is a multicast or broadcast address"},
		{"broadcast", "vips: [255.255.255.255]\n", "f.yaml:1:8: vips[0]: 255.255.255.255 cannot be a VIP: it is a multicast or broadcast address"},
		{"multicast 6", "vips: ['ff02::1']\n", "f.yaml:1:8: vips[0]: ff02::1 cannot be a VIP: it is a multicast or broadcast address"},
		{"link-local", "vips: ['fe80::1']\n", "f.yaml:1:8: vips[0]: fe80::1 cannot be a VIP: it is a link-local address, which no router passes on"},
		{"twice", "vips:\n  - 2001:db8::1\n  - 192.0.2.1\n  - '2001:DB8:0::1'\n", "f.yaml:4:5: vips[2]: 2001:db8::1 is listed already in line 2"},
		{"device", "vips: [192.0.2.1]\ndevice: eth0\n", `f.yaml:2:9: device: "eth0" is not one of: lo, dummy`},
		{"dummy without dummy", "vips: [192.0.2.1]\ndummy: vip0\n", "f.yaml:2:8: dummy: names an interface that is not made: it needs device: dummy"},
		{"dummy too long", "vips: [192.0.2.1]\ndevice: dummy\ndummy: " + name15 + "6\n", `f.yaml:3:8: dummy: "` + name15 + `6" is not a name for an interface: 1 to 15 characters without spaces, slashes and colons, and not lo, all or default`},
		{"dummy is lo", "vips: [192.0.2.1]\ndevice: dummy\ndummy: lo\n", `f.yaml:3:8: dummy: "lo" is not a name for an interface: 1 to 15 characters without spaces, slashes and colons, and not lo, all or default`},
		{"dummy with a slash", "vips: [192.0.2.1]\ndevice: dummy\ndummy: a/b\n", `f.yaml:3:8: dummy: "a/b" is not a name for an interface: 1 to 15 characters without spaces, slashes and colons, and not lo, all or default`},
		{"interval without unit", "vips: [192.0.2.1]\ncheck_interval: 5\n", `f.yaml:2:17: check_interval: "5" has no unit: write 5s or 5ms, between 100ms and 1h0m0s`},
		{"interval too short", "vips: [192.0.2.1]\ncheck_interval: 99ms\n", "f.yaml:2:17: check_interval: 99ms is out of range: must be between 100ms and 1h0m0s"},
		{"interval too long", "vips: [192.0.2.1]\ncheck_interval: 61m\n", "f.yaml:2:17: check_interval: 61m is out of range: must be between 100ms and 1h0m0s"},
		{"on_stop", "vips: [192.0.2.1]\non_stop: leave\n", `f.yaml:2:10: on_stop: "leave" is not one of: release, keep`},
		{"two documents", "vips: [192.0.2.1]\n---\nvips: [192.0.2.2]\n", "f.yaml:3:5: more than one YAML document in the file: expected exactly one"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Parse("f.yaml", []byte(tc.in))
			var es conf.Errors
			if !errors.As(err, &es) || err.Error() != tc.want || c != nil {
				t.Errorf("\n got %v\nwant %s", err, tc.want)
			}
		})
	}
	var b strings.Builder
	b.WriteString("vips:\n")
	for i := range MaxVIPs + 1 {
		b.WriteString("  - " + netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}).Next().String() + "\n")
	}
	if _, err := Parse("f.yaml", []byte(b.String())); err == nil || err.Error() != "f.yaml:4098:5: vips: 4097 addresses: at most 4096" {
		t.Errorf("too many: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("vips: [192.0.2.1, '2001:db8::1']\ndevice: dummy\ndummy: x\ncheck_interval: 1s\non_stop: keep\n")
	f.Add("vips: &a [*a]")
	f.Add("vips: [~, '', 1, 1.5, true]")
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > 1<<12 {
			return
		}
		c, err := Parse("f.yaml", []byte(in))
		if (c == nil) == (err == nil) {
			t.Fatalf("%v, %v", c, err)
		}
		if err == nil && (len(c.VIPs) == 0 && c.Cluster == nil || c.Device == "" || len(c.Device) > 15) {
			t.Errorf("accepted %+v", c)
		}
	})
}
