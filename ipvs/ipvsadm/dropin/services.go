package dropin

import (
	"bufio"
	"io"
	"strconv"
	"strings"

	"github.com/drover-lb/drover/ipvs"
)

// services is what /etc/services says (services(5)). Unlike net.LookupPort it knows SCTP, upper from lower
// case, and no names of its own; and it finds the name of a port.
type services struct {
	ports map[serviceName]uint16
	names map[servicePort]string
}

type serviceName struct {
	name     string
	protocol ipvs.Protocol
}

type servicePort struct {
	port     uint16
	protocol ipvs.Protocol
}

// readServices reads lines of the form "http 80/tcp www # comment". What is not understood it skips, and of
// several lines for the same name or port the first counts.
func readServices(r io.Reader) *services {
	s := &services{ports: map[serviceName]uint16{}, names: map[servicePort]string{}}
	for lines := bufio.NewScanner(r); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		number, proto, _ := strings.Cut(fields[1], "/")
		port, err := strconv.ParseUint(number, 10, 16)
		p, ok := protocols[proto]
		if err != nil || !ok {
			continue
		}
		if k := (servicePort{uint16(port), p}); s.names[k] == "" {
			s.names[k] = fields[0]
		}
		fields[1] = fields[0]
		for _, name := range fields[1:] {
			k := serviceName{name, p}
			if _, known := s.ports[k]; !known {
				s.ports[k] = uint16(port)
			}
		}
	}
	return s
}

var protocols = map[string]ipvs.Protocol{"tcp": ipvs.TCP, "udp": ipvs.UDP, "sctp": ipvs.SCTP}

func (s *services) port(name string, p ipvs.Protocol) (uint16, bool) {
	port, ok := s.ports[serviceName{name, p}]
	return port, ok
}

func (s *services) name(port uint16, p ipvs.Protocol) (string, bool) {
	name, ok := s.names[servicePort{port, p}]
	return name, ok
}
