//go:build kernel

package ipvs_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/drover-lb/drover/ipvs/ipvstest"
)

// The examples do what they say: they end the test's process if anything fails.
func TestKernelExamples(t *testing.T) {
	ipvstest.NewNamespace(t)
	if out, err := exec.Command("ip", "link", "set", "d0", "down").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	if out, err := exec.Command("sh", "-c", "ip link set d0 name eth0 && ip link set eth0 up").CombinedOutput(); err != nil {
		t.Fatal(err, string(out))
	}
	ExampleClient_Apply()
	ExampleClient_Apply() // again
	ExampleZero()
	ExampleNewDest_tunnel()
	ExampleClient_SetTimeouts()
	ExampleClient_StartDaemon()
	ExampleClient_StartDaemon()
	ExampleClient_Services()
	ExampleClient_Connections()
	for _, x := range []struct{ args, want string }{
		{"-Sn", "-A -t 192.0.2.10:80 -s wlc\n-a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 1\n-a -t 192.0.2.10:80 -r 10.0.0.12:80 -g -w 1\n" +
			"-A -f 7 -s mh -b mh-fallback,mh-port\n-a -f 7 -r 10.0.0.11:80 -i -w 1 --tun-type gue --tun-port 6080 --tun-csum\n"},
		{"-L --timeout", "Timeout (tcp tcpfin udp): 600 30 300\n"},
		{"-L --daemon", "master sync daemon (mcast=eth0, syncid=1, maxlen=1472, group=224.0.0.81, port=8848, ttl=1)\n"},
	} {
		if have := ipvstest.Ipvsadm(t, strings.Fields(x.args)...); have != x.want {
			t.Errorf("ipvsadm %s: %q, want %q", x.args, have, x.want)
		}
	}
}
