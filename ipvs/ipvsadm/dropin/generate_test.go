package dropin

import (
	"errors"
	"math/rand/v2"
	"testing"
)

// What generated command lines are made of: for each option that takes an argument, good and bad ones.
var (
	tcpAddresses = []string{"192.0.2.10:80", "192.0.2.10:443", "192.0.2.11:80", "192.0.2.10:http", "[2001:db8::10]:80", "[2001:db8::10]:https", "192.0.2.12", "192.0.2.3.4:1", "[::1]", "80", "192.0.2.10:x", ""}
	marks        = []string{"1", "2", "3", "4294967295", "0", "-1", "x"}
	servers      = []string{"10.0.0.1", "10.0.0.2:80", "10.0.0.3:8080", "10.4", "[fd00::1]:80", "fd00::2", "224.0.0.1", "x:y:z", "1"}
	masks        = []string{"255.255.255.0", "64", "128", "255.0.255.0", "0", "129", "::"}

	arguments = map[option][]string{
		scheduler:      {"rr", "wrr", "lc", "wlc", "sh", "mh", "none", ""},
		persistent:     {"300", "1", "2678400", "2678401", "0", "x"},
		netmask:        masks,
		engine:         {"sip", ""},
		schedFlags:     {"flag-1", "flag-2,flag-3", "sh-port", "mh-fallback,mh-port", "sh-fallback,flag-3", "flag-4", ","},
		server:         servers,
		weight:         {"0", "1", "100", "65535", "2147483647", "2147483648", "-1", " 5", "5 "},
		upper:          {"0", "10", "100", "2147483647", "x"},
		lower:          {"0", "5", "50", "2147483647", ""},
		tunType:        {"ipip", "gue", "gre", "gre", "vxlan"},
		tunPort:        {"6080", "1", "65535", "0", "65536"},
		syncID:         {"0", "255", "256"},
		syncMaxLen:     {"1400", "65507", "65508"},
		mcastInterface: {"d0", "d0", "nosuch"},
		mcastGroup:     {"224.0.0.81", "ff05::51", "10.0.0.1", "fd00::1"},
		mcastPort:      {"8848", "1", "0"},
		mcastTTL:       {"1", "255", "256"},
	}
)

// generate makes a command line, more often than not one that means something, written in any of the ways
// there are.
func generate(r *rand.Rand) []string {
	commands := []Action{
		AddService, AddService, AddService, EditService, EditService, DeleteService, AddServer, AddServer, AddServer, AddServer,
		EditServer, EditServer, DeleteServer, Zero, List, List, Save, SetTimeouts, StartDaemon, StopDaemon,
	}
	action := commands[r.IntN(len(commands))]
	// Words are written one behind the other; short ones may be put together.
	line := &writer{r: r}
	for _, w := range words {
		if w.action == action {
			line.write(w, pick(r, "master", "backup", "backup", "none"))
			break
		}
	}
	u := uses[action]
	var options []word
	for _, w := range words {
		if w.option == command || w.option == sort || w.option == ipv6 {
			continue
		}
		chance := 0 // of 100
		switch {
		case w.option == service || u.exclusive.has(w.option): // chosen below, or rarely
		case u.mandatory.has(w.option):
			chance = 97
		case u.free.has(w.option):
			chance = 22
		default:
			chance = 1
		}
		if w.option == service && u.mandatory.has(service) || u.exclusive.has(w.option) {
			chance = 20
		}
		if r.IntN(100) < chance {
			options = append(options, w)
		}
	}
	if r.IntN(5) > 0 { // in any order, but as a rule the service is first
		r.Shuffle(len(options), func(i, j int) { options[i], options[j] = options[j], options[i] })
		for i := range options {
			if options[i].option == service {
				options[0], options[i] = options[i], options[0]
			}
		}
	}
	if u.mandatory.has(service) && (len(options) == 0 || options[0].option != service) {
		options = append([]word{*byShort[pick[byte](r, 't', 't', 't', 'u', 'f')]}, options...)
	}
	for _, w := range options {
		switch {
		case w.option == service && w.value == protoMark:
			line.write(w, marks[r.IntN(len(marks))])
			if r.IntN(2) == 0 {
				line.write(*byShort['6'], "")
			}
		case w.option == service:
			// The first ones more often.
			line.write(w, tcpAddresses[min(r.IntN(len(tcpAddresses)), r.IntN(len(tcpAddresses)))])
		default:
			from := arguments[w.option]
			if len(from) == 0 {
				from = []string{"1"}
			}
			line.write(w, from[min(r.IntN(len(from)), r.IntN(len(from)))])
		}
	}
	if action == SetTimeouts {
		for range 3 + r.IntN(12)/11 {
			line.words = append(line.words, pick(r, "0", "10", "900", "2678400", "x"))
		}
	}
	if action == List || action == Save {
		line.write(*byLong["numeric"], "")
	}
	if r.IntN(40) == 0 {
		line.words = append(line.words, pick(r, "extra", "--", "-", "--nosuch", "-q", "--sort", ""))
	}
	return line.words
}

// writer writes options in the ways that popt knows.
type writer struct {
	r     *rand.Rand
	words []string
	open  bool // the last word is one of short options without arguments
}

func (l *writer) write(w word, arg string) {
	short := w.short != 0 && l.r.IntN(3) > 0
	takes := w.argument == required || w.argument == optional && l.r.IntN(2) == 0
	switch {
	case short && l.open && l.r.IntN(2) == 0:
		l.words[len(l.words)-1] += string(w.short)
	case short:
		l.words = append(l.words, "-"+string(w.short))
	default:
		l.words = append(l.words, "--"+w.long)
	}
	l.open = short && w.argument == none
	if !takes {
		return
	}
	last := &l.words[len(l.words)-1]
	switch how := l.r.IntN(4); {
	case how == 0:
		*last += "=" + arg
	case how == 1 && short && arg != "":
		*last += arg
	default:
		l.words = append(l.words, arg)
	}
}

// Generated command lines are of all kinds: enough are understood, and refused in many ways.
func TestGeneratedLinesAreOfAllKinds(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	understood, refused := map[Action]int{}, map[string]int{}
	const lines = 5000
	for range lines {
		c, err := Parse(append([]string{"ipvsadm"}, generate(r)...), book{})
		var e *Error
		if errors.As(err, &e) {
			refused[e.Text]++
		} else {
			understood[c.Action]++
		}
	}
	total := 0
	for a := range uses {
		switch a {
		case Clear, Restore: // there are lines of these by hand
		default:
			if understood[a] < 20 {
				t.Errorf("%s was understood %d times", a, understood[a])
			}
			total += understood[a]
		}
	}
	if len(refused) < 100 || total < lines/4 || total > lines*3/4 {
		t.Errorf("%d of %d were understood, and refused in %d ways", total, lines, len(refused))
	}
}
