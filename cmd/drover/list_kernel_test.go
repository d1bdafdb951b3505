//go:build kernel

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/drover-lb/drover/ipvs/ipvsadm"
	"github.com/drover-lb/drover/ipvs/ipvstest"
)

func TestKernelList(t *testing.T) {
	ipvstest.NewNamespace(t)
	ipvstest.IpvsadmInput(t, `
-A -t 192.0.2.10:80 -s mh -b mh-fallback -p 300 -M 255.255.255.0
-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 5 -x 100 -y 50
-a -t 192.0.2.10:80 -r 10.0.0.2:80 -i --tun-type gre
-A -u [2001:db8::10]:5060 -s rr -p 60 --pe sip -o
-a -u [2001:db8::10]:5060 -r [fd00::11]:5060 -g
-A -f 7 -6 -s sed
`, "-R")
	ipvstest.Ipvsadm(t, "--start-daemon", "master", "--mcast-interface", "d0", "--syncid", "5")
	for _, args := range []string{
		"", "--stats", "--rate", "--exact", "--stats --exact", "--thresholds", "--persistent-conn", "--tun-info", "--nosort",
		"-c", "-c --persistent-conn", "--timeout", "--daemon",
	} {
		out, status, err := runList(strings.Fields(args)...)
		if status != 0 || err != nil {
			t.Fatalf("%s: %d, %v", args, status, err)
		}
		if want := ipvstest.Ipvsadm(t, append([]string{"-L", "-n"}, strings.Fields(args)...)...); out != want {
			t.Errorf("drover list %s:\n%s\nipvsadm:\n%s", args, out, want)
		}
	}
	if plain, _, _ := runList(); plain == "" {
		t.Error("nothing is printed")
	} else if numeric, _, err := runList("-n"); err != nil || numeric != plain {
		t.Errorf("-n: %v\n%s", err, numeric)
	}
	for _, args := range []string{"-o json", "-nc -o json", "-c -o json", "--timeout -o json", "--daemon -o json"} {
		out, status, err := runList(strings.Fields(args)...)
		if status != 0 || err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%s: %d, %v\n%s", args, status, err, out)
		}
	}
	out, _, _ := runList("-o", "json")
	var table ipvsadm.TableJSON
	if err := json.Unmarshal([]byte(out), &table); err != nil {
		t.Fatal(err)
	}
	if len(table.Services) != 3 || len(table.Services[0].Servers) != 2 || table.Services[2].FWMark != 7 {
		t.Errorf("%s", out)
	}
}

// An ordinary user learns what is missing.
func TestKernelListPermission(t *testing.T) {
	if os.Getenv("DROVER_TEST_UNPRIVILEGED") != "" {
		_, status, err := runList()
		fmt.Println(err)
		os.Exit(status)
	}
	ipvstest.NewNamespace(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestKernelListPermission$")
	cmd.Env = append(os.Environ(), "DROVER_TEST_UNPRIVILEGED=1")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "failed to connect to IPVS: CAP_NET_ADMIN is missing: operation not permitted") {
		t.Errorf("%v: %s", err, out)
	}
}
