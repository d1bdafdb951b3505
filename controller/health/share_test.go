package health

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// A pool of many servers whose weights follow loads does not push out what other directors have to know first.
func TestShareOfManyAdaptiveServers(t *testing.T) {
	var list []string
	for i := range maxShared + 20 {
		list = append(list, fmt.Sprintf("10.0.%d.%d", i/200, 1+i%200))
	}
	s, err := spec.ParseSpec("t", []byte("vips: [192.0.2.10]\nservices:\n"+
		"  - {name: web, address: 192.0.2.10, port: 80, pool: web, adaptive: true, real_servers: ["+strings.Join(list, ", ")+"]}\n"+
		"  - {name: db, address: 192.0.2.10, port: 5432, checks: [{type: tcp}], real_servers: [10.1.0.1]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	v := View{}
	for i := range s.Spec.Services {
		x := &Service{Servers: map[ipvs.DestKey]Verdict{}}
		for _, r := range s.Spec.Services[i].RealServers {
			x.Servers[r.DestKey] = Verdict{State: Up, Memory: Memory{Checks: Up, Factor: 1.05}}
			if s.Spec.Services[i].Name == "db" {
				x.Servers[r.DestKey] = Verdict{State: Down, Reason: "refused", Memory: Memory{Checks: Down, Flaps: 2}}
			}
		}
		v[s.Spec.Services[i].Key] = x
	}
	got := Share(&s.Spec, v, time.Now())
	if db := got.Services["TCP 192.0.2.10:5432"]; len(db) != 1 || len(got.Services["TCP 192.0.2.10:80"]) != maxShared-1 {
		t.Errorf("%d of db, %d of web", len(db), len(got.Services["TCP 192.0.2.10:80"]))
	}
}
