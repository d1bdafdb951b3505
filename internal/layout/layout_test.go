package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/drover-lb/drover/"

// rules: what a folder of the module, with everything below it, may import of the module. Folders
// that no row covers may import nothing of it. The longest matching row counts.
var rules = []struct {
	folder string
	may    []string
	reason string
}{
	{"conf", nil, "a leaf: strict YAML with positions"},
	{"cluster/election", nil, "a pure leaf: messages and ticks in, messages and roles out"},
	{"sysctl", nil, "a leaf: kernel settings with reasons"},
	{"ipvs", nil, "a leaf that others can import too: the kernel's IPVS"},
	{"ipvs/ipvsadm", []string{"ipvs"}, "prints what ipvs reads"},
	{"ipvs/ipvsadm/dropin", []string{"ipvs", "ipvs/ipvsadm"}, "ipvsadm on what ipvs reads and writes"},
	{"arp", []string{"arp", "internal/dump"}, "frames and announcements know nothing of clusters"},
	{"cluster/replica", nil, "a leaf: the order of opaque documents, and their files"},
	{"cluster/lease", []string{"cluster/election"}, "runs the election on a clock and a network that it is given"},
	{"cluster/keyring", nil, "a leaf: keys and their file, without gossip"},
	{"cluster", []string{"cluster/clustertest", "cluster/keyring"}, "a leaf on memberlist: gossip knows nothing of directors and servers"},
	{"cluster/settings", []string{"conf"}, "a leaf: the mapping that the files of all daemons share"},
	{"controller/spec", []string{"conf", "ipvs", "cluster/settings", "notify/sink"}, "pure: the desired state"},
	{"controller/spec/edit", []string{"controller/spec", "conf", "ipvs"}, "pure: changes of the text of a specification"},
	{"controller/plan", []string{"controller/spec", "ipvs"}, "pure: the difference between tables"},
	{"controller/adapt", nil, "pure: loads in, factors of weights out"},
	{"controller/drain", []string{"controller/spec"}, "pure: how far drains are"},
	{"controller/owned", []string{"ipvs", "sysctl"}, "a leaf: what is a director's own, on disk"},
	{"controller", []string{"controller", "conf", "ipvs", "sysctl", "internal/program", "internal/dump"}, "what it needs of its siblings it declares as interfaces"},
	{"notify/sink", []string{"conf"}, "a leaf: whom to tell, as it is written in a file"},
	{"notify", []string{"notify/sink", "internal/program"}, "tells of events; what it needs to know of a director it is told"},
	{"realserver", []string{"realserver", "conf", "sysctl", "arp/frame", "cluster/settings", "internal/program", "internal/dump"}, "arp/frame and cluster/settings are pure leaves; what it needs of its siblings it declares as interfaces"},
	{"lab/uml", nil, "boots kernels; knows nothing of clusters"},
	{"lab/topology", []string{"internal/dump"}, "builds hosts; knows nothing of what runs on them"},
	{"lab/probe", []string{"arp"}, "measures from outside"},
	{"lab", []string{"lab", "conf", "ipvs", "controller/plan"}, "runs the programs, not their packages"},
	{"internal", nil, "leaves"},
	{"bench", []string{""}, "measures everything"},
	{"examples", []string{"lab"}, "runs the labs"},
	{"cmd", []string{""}, "joins everything"},
}

type pkg struct {
	ImportPath, Name, Doc              string
	Imports, TestImports, XTestImports []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Name,Doc,Imports", "../../...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !below(strings.TrimPrefix(p.ImportPath, module), "build") {
			pkgs = append(pkgs, p)
		}
	}
	if len(pkgs) < 10 {
		t.Fatalf("go list found %d packages only", len(pkgs))
	}
	return pkgs
}

// below reports whether folder is root or lies below it; root "" is the module.
func below(folder, root string) bool {
	return root == "" || folder == root || strings.HasPrefix(folder, root+"/")
}

func TestImportsFollowTheLayout(t *testing.T) {
	for _, p := range packages(t) {
		folder := strings.TrimPrefix(p.ImportPath, module)
		best := -1
		for i, r := range rules {
			if below(folder, r.folder) && (best < 0 || len(r.folder) > len(rules[best].folder)) {
				best = i
			}
		}
		if best < 0 {
			t.Errorf("%s: no rule says what it may import: add one", folder)
			continue
		}
		for _, imp := range p.Imports {
			to, own := strings.CutPrefix(imp, module)
			if !own || to == folder {
				continue
			}
			ok := strings.HasPrefix(to, "internal/") && below(folder, "cmd")
			for _, may := range rules[best].may {
				ok = ok || below(to, may) && (may != "ipvs" || to == "ipvs" || below(folder, "cmd"))
			}
			if !ok {
				t.Errorf("%s imports %s, but %s: %s", folder, to, rules[best].folder, rules[best].reason)
			}
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	for _, p := range packages(t) {
		prefix := "Package " + p.Name + " "
		if p.Name == "main" {
			prefix = "Command " + p.ImportPath[strings.LastIndex(p.ImportPath, "/")+1:] + " "
		}
		if !strings.HasPrefix(p.Doc, prefix) {
			t.Errorf("%s: its documentation should begin with %q, it is %q", p.ImportPath, prefix, p.Doc)
		}
	}
}
