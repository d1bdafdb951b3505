package spec

import (
	"bytes"
	"slices"
	"strings"
)

// Beside says in which VIPs, and in what else than the kernel's table has of services that both have, s differs from old:
// names, pools, checks, reactions to them, ends of drains, and adaptive weights. Each line is what is no more, after "- ", or
// new, after "+ ", as a file has it.
func Beside(old, s *Spec) (lines []string) {
	vips := func(s *Spec) (out []string) {
		for i := range s.VIPs {
			out = append(out, "vip: "+s.VIPs[i].Format())
		}
		return out
	}
	lines = differing(nil, "", vips(old), vips(s))
	for i := range s.Services {
		now := &s.Services[i]
		j := slices.IndexFunc(old.Services, func(x Service) bool { return x.Key == now.Key })
		if j < 0 {
			continue // all of it is new, as the table shows
		}
		lines = differing(lines, now.Name+": ", old.Services[j].beside(now), now.beside(now))
	}
	return lines
}

// beside are the lines of s in a file, with those of the table as the service same has them.
func (s *Service) beside(same *Service) (lines []string) {
	x := *s
	x.Service, x.RealServers = same.Service, nil
	for line := range bytes.Lines(x.Format()) {
		switch text := strings.TrimSpace(string(line)); {
		case text == "checks:":
		case strings.HasPrefix(text, "- {"):
			lines = append(lines, "check: "+text[len("- "):])
		default:
			lines = append(lines, strings.TrimPrefix(text, "- "))
		}
	}
	return lines
}

// differing appends the lines that only one of two lists has.
func differing(out []string, place string, old, now []string) []string {
	for _, l := range old {
		if !slices.Contains(now, l) {
			out = append(out, "- "+place+l)
		}
	}
	for _, l := range now {
		if !slices.Contains(old, l) {
			out = append(out, "+ "+place+l)
		}
	}
	return out
}
