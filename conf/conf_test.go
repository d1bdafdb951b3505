package conf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

type rawServer struct {
	Address Value `yaml:"address"`
	Weight  Value `yaml:"weight"`
}

type rawDoc struct {
	Name    Value           `yaml:"name"`
	Every   Value           `yaml:"every"`
	Keep    Value           `yaml:"keep"`
	Mode    Value           `yaml:"mode"`
	Servers []At[rawServer] `yaml:"servers"`
	Tags    []Value         `yaml:"tags"`
	Opt     At[rawServer]   `yaml:"opt"`
}

type doc struct {
	name, mode string
	every      time.Duration
	keep       bool
	servers    []netip.Addr
	weights    []int64
}

func read(content string) (doc, error) {
	var raw rawDoc
	r, err := Parse("f.yaml", []byte(content), &raw)
	if err != nil {
		return doc{}, err
	}
	d := doc{name: r.String(raw.Name, "none"), every: r.Duration(raw.Every, "every", time.Second, time.Minute, 5*time.Second),
		keep: r.Bool(raw.Keep, "keep", true), mode: OneOf(r, raw.Mode, "mode", "a", "a", "b")}
	for i, s := range raw.Servers {
		in := r.In("servers[%d]", i)
		if in.Required(s.V.Address, "address", s.Pos) {
			d.servers = append(d.servers, in.Addr(s.V.Address, "address"))
		}
		d.weights = append(d.weights, in.Int(s.V.Weight, "weight", 0, 65535, 1))
	}
	return d, r.Err()
}

func TestReadsWhatIsWritten(t *testing.T) {
	d, err := read("name: web\nevery: 250ms\n")
	if err == nil {
		t.Fatalf("250ms is below the bound, got %+v", d)
	}
	d, err = read(`
name: "web"
every: 2s
keep: false
mode: b
servers:
  - {address: 10.0.0.1, weight: 0}
  - address: "::ffff:10.0.0.2"
`)
	if err != nil {
		t.Fatal(err)
	}
	if d.name != "web" || d.every != 2*time.Second || d.keep || d.mode != "b" || len(d.servers) != 2 ||
		d.servers[1] != netip.MustParseAddr("10.0.0.2") || d.weights[0] != 0 || d.weights[1] != 1 {
		t.Errorf("got %+v", d)
	}
}

func TestComplaintsNamePlaceAndBound(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"unknown key", "name: x\nnmae: y\n", `f.yaml:2:1: unknown field "nmae": expected one of: name, every, keep, mode, servers, tags, opt`},
		{"unknown key deep", "servers:\n  - address: 10.0.0.1\n    wieght: 2\n", `f.yaml:3:5: servers[0]: unknown field "wieght": expected one of: address, weight`},
		{"twice", "name: x\nname: y\n", `f.yaml:2:1: mapping key "name" already defined at [1:1]`},
		{"no unit", "every: 5\n", `f.yaml:1:8: every: "5" has no unit: write 5s or 5ms, between 1s and 1m0s`},
		{"range", "servers:\n  - address: 10.0.0.1\n    weight: 70000\n", `f.yaml:3:13: servers[0]: weight: 70000 is out of range: must be between 0 and 65535`},
		{"huge", "servers:\n  - address: 10.0.0.1\n    weight: 99999999999999999999\n", `f.yaml:3:13: servers[0]: weight: 99999999999999999999 is out of range: must be between 0 and 65535`},
		{"missing", "servers:\n  - weight: 1\n", `f.yaml:2:5: servers[0]: address: is required`},
		{"missing, flow", "servers:\n  - {weight: 1}\n", `f.yaml:2:5: servers[0]: address: is required`},
		{"empty", "servers:\n  - address: \"\"\n", `f.yaml:2:14: servers[0]: address: is required`},
		{"list for scalar", "name: [a]\n", `f.yaml:1:7: name: expected a single value, found a list`},
		{"mapping for scalar", "name: {a: b}\n", `f.yaml:1:7: name: expected a single value, found a mapping`},
		{"list for mapping", "servers:\n  - [a]\n", `f.yaml:2:5: servers[0]: expected a mapping, found a list`},
		{"mapping for list", "servers:\n  address: 10.0.0.1\n", `f.yaml:2:3: servers: expected a list, found a mapping`},
		{"scalar for list", "servers: 10.0.0.1\n", `f.yaml:1:10: servers: expected a list, found a single value`},
		{"nothing in a list", "servers:\n  - address: 10.0.0.1\n  -\n", `f.yaml:3:5: servers[1]: address: is required`},
		{"list for document", "- a\n", `f.yaml:1:1: expected a mapping, found a list`},
		{"scalar for document", "a\n", `f.yaml:1:1: expected a mapping, found a single value`},
		{"enum", "mode: c\n", `f.yaml:1:7: mode: "c" is not one of: a, b`},
		{"bool", "keep: maybe\n", `f.yaml:1:7: keep: "maybe" is neither true nor false`},
		{"address", "servers: [{address: 10.0.0.256}]\n", `f.yaml:1:21: servers[0]: address: "10.0.0.256" is not an IPv4 or IPv6 address`},
		{"zone", "servers: [{address: fe80::1%eth0}]\n", `f.yaml:1:21: servers[0]: address: "fe80::1%eth0" has a zone: write the address without %eth0`},
		{"two documents", "name: a\n---\nname: b\n", `f.yaml:3:5: more than one YAML document in the file: expected exactly one`},
		{"unknown alias", "servers:\n  - *web\n", `f.yaml:2:5: *web refers to nothing: no &web before it`},
		{"merge of a list", "servers:\n  - <<: [a]\n", `f.yaml:2:5: << merges a mapping, such as <<: *name`},
		{"alias bomb", bomb(), `f.yaml:7:20: aliases make the document larger than 4194304 values`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := read(tc.in)
			if err == nil || err.Error() != tc.want {
				t.Errorf("\n got %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestEveryComplaintInFileOrder(t *testing.T) {
	_, err := read("servers:\n  - weight: -1\n    address: x\nkeep: 1\nmode: z\n")
	var es Errors
	if !errors.As(err, &es) || len(es) != 4 {
		t.Fatalf("want 4 complaints, got %v", err)
	}
	for i := 1; i < len(es); i++ {
		if es[i].Pos.Line < es[i-1].Pos.Line {
			t.Errorf("complaints are not in the order of the file:\n%v", err)
		}
	}
}

func TestEmptyFileIsAllDefaults(t *testing.T) {
	for _, in := range []string{"", "\n", "# only a comment\n", "name:\n"} {
		if d, err := read(in); err != nil || d.name != "none" {
			t.Errorf("%q: %+v, %v", in, d, err)
		}
	}
}

func TestLoadBoundsTheFile(t *testing.T) {
	p := filepath.Join(t.TempDir(), "big.yaml")
	f, err := os.Create(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(MaxFileSize + 1); err != nil {
		t.Fatal(err)
	}
	f.Close()
	var raw rawDoc
	if _, err := Load(p, &raw); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v", err)
	}
	if _, err := Load(p+".missing", &raw); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("name: web\nservers:\n  - {address: 10.0.0.1, weight: 1}\n")
	f.Add("a: &a [*a]\n")
	f.Add("? [")
	f.Add("servers: [{address: !!binary aGk=}]")
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > 1<<12 {
			return
		}
		_, err := read(in)
		var es Errors
		if err != nil && (!errors.As(err, &es) || len(es) == 0) {
			t.Errorf("error is not a list of complaints: %v", err)
		}
	})
}

// bomb is a short document that is 10^8 values long when its aliases are written out.
func bomb() string {
	var b strings.Builder
	b.WriteString("x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n")
	for i := 1; i < 8; i++ {
		fmt.Fprintf(&b, "x%d: &x%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d, ", i-1), 10), ", "))
	}
	return b.String()
}

func TestAnchorsAndMergeKeys(t *testing.T) {
	d, err := read("servers:\n  - &web {address: 10.0.0.1, weight: 7}\n  - {<<: *web, address: 10.0.0.2}\n  - *web\n")
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(d.servers, d.weights) != "[10.0.0.1 10.0.0.2 10.0.0.1] [7 7 7]" {
		t.Errorf("got %v %v", d.servers, d.weights)
	}
}
