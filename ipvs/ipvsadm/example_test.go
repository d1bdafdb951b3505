package ipvsadm_test

import (
	"log"
	"net/netip"
	"os"

	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/ipvs/ipvsadm"
)

var table = []ipvs.ServiceEntry{{
	Service: ipvs.Service{
		Key:       ipvs.Key{Family: ipvs.IPv4, Protocol: ipvs.TCP, Addr: netip.MustParseAddr("192.0.2.10"), Port: 80},
		Scheduler: "wlc", Flags: ipvs.Persistent, Timeout: 300,
	},
	RawNetmask: 0xffffffff,
	Destinations: []ipvs.DestinationEntry{{
		Destination: ipvs.Destination{
			DestKey: ipvs.DestKey{Addr: netip.MustParseAddr("10.0.0.11"), Port: 80},
			Forward: ipvs.DirectRoute, Weight: 5,
		},
		Counts: ipvs.Counts{Active: 7, Inactive: 30},
	}},
}}

func ExampleTable() {
	err := ipvsadm.Service(os.Stdout, table[0], nil, ipvsadm.Options{View: ipvsadm.PersistentConn})
	if err != nil {
		log.Fatal(err)
	}
}

func ExampleRules() {
	if err := ipvsadm.Rules(os.Stdout, table, nil, nil); err != nil {
		log.Fatal(err)
	}
	// Output:
	// -A -t 192.0.2.10:80 -s wlc -p 300
	// -a -t 192.0.2.10:80 -r 10.0.0.11:80 -g -w 5
}
