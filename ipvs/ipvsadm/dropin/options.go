package dropin

import (
	"fmt"
	"strings"
)

// option is an option of the command line. Its order is that in which the original checks which options
// a command may have, and so decides which of several mistakes is told.
type option uint8

const (
	numeric option = iota
	connection
	service
	scheduler
	persistent
	netmask
	server
	forward
	weight
	upper
	lower
	mcastInterface
	timeout
	daemon
	stats
	rate
	thresholds
	persistentConn
	nosort
	syncID
	exact
	ops
	engine
	schedFlags
	mcastGroup
	mcastPort
	mcastTTL
	syncMaxLen
	tunInfo
	tunType
	tunPort
	tunNoCsum
	tunCsum
	tunRemCsum
	optionCount // of those above, which are told apart when they are checked

	sort // does nothing
	ipv6
	command
)

// optionNames are how messages call options.
var optionNames = [optionCount]string{
	"numeric", "connection", "service-address", "scheduler", "persistent", "netmask", "real-server",
	"forwarding-method", "weight", "u-threshold", "l-threshold", "mcast-interface", "timeout", "daemon",
	"stats", "rate", "thresholds", "persistent-conn", "nosort", "syncid", "exact", "ops", "pe", "sched-flags",
	"mcast-group", "mcast-port", "mcast-ttl", "sync-maxlen", "tun-info", "tun-type", "tun-port",
	"tun-nocsum", "tun-csum", "tun-remcsum",
}

// optionSet is a set of options.
type optionSet uint64

func setOf(options ...option) (s optionSet) {
	for _, o := range options {
		s |= 1 << o
	}
	return s
}

func (s optionSet) has(o option) bool { return s&(1<<o) != 0 }

// argument says whether an option takes one.
type argument uint8

const (
	none argument = iota
	required
	optional // in the same word, or the next word unless that begins with a dash
)

// word is one way to write an option.
type word struct {
	long     string
	short    byte // 0 if there is none
	argument argument
	option   option
	action   Action // of a command
	value    uint8  // of -t, -u and the like: the protocol; of -g, -i and -m: the method
}

var words = []word{
	{long: "add-service", short: 'A', option: command, action: AddService},
	{long: "edit-service", short: 'E', option: command, action: EditService},
	{long: "delete-service", short: 'D', option: command, action: DeleteService},
	{long: "clear", short: 'C', option: command, action: Clear},
	{long: "list", short: 'L', option: command, action: List},
	{long: "list", short: 'l', option: command, action: List},
	{long: "zero", short: 'Z', option: command, action: Zero},
	{long: "add-server", short: 'a', option: command, action: AddServer},
	{long: "edit-server", short: 'e', option: command, action: EditServer},
	{long: "delete-server", short: 'd', option: command, action: DeleteServer},
	{long: "set", option: command, action: SetTimeouts},
	{long: "help", short: 'h', option: command, action: Help},
	{long: "version", short: 'v', option: command, action: Version},
	{long: "restore", short: 'R', option: command, action: Restore},
	{long: "save", short: 'S', option: command, action: Save},
	{long: "start-daemon", argument: required, option: command, action: StartDaemon},
	{long: "stop-daemon", argument: required, option: command, action: StopDaemon},

	{long: "tcp-service", short: 't', argument: required, option: service, value: protoTCP},
	{long: "udp-service", short: 'u', argument: required, option: service, value: protoUDP},
	{long: "sctp-service", argument: required, option: service, value: protoSCTP},
	{long: "fwmark-service", short: 'f', argument: required, option: service, value: protoMark},
	{long: "ipv6", short: '6', option: ipv6},
	{long: "scheduler", short: 's', argument: required, option: scheduler},
	{long: "persistent", short: 'p', argument: optional, option: persistent},
	{long: "netmask", short: 'M', argument: required, option: netmask},
	{long: "pe", argument: required, option: engine},
	{long: "sched-flags", short: 'b', argument: required, option: schedFlags},
	{long: "ops", short: 'o', option: ops},

	{long: "real-server", short: 'r', argument: required, option: server},
	{long: "masquerading", short: 'm', option: forward, value: forwardMasq},
	{long: "ipip", short: 'i', option: forward, value: forwardTunnel},
	{long: "gatewaying", short: 'g', option: forward, value: forwardRoute},
	{long: "tun-type", argument: required, option: tunType},
	{long: "tun-port", argument: required, option: tunPort},
	{long: "tun-nocsum", option: tunNoCsum},
	{long: "tun-csum", option: tunCsum},
	{long: "tun-remcsum", option: tunRemCsum},
	{long: "weight", short: 'w', argument: required, option: weight},
	{long: "u-threshold", short: 'x', argument: required, option: upper},
	{long: "l-threshold", short: 'y', argument: required, option: lower},

	{long: "numeric", short: 'n', option: numeric},
	{long: "connection", short: 'c', option: connection},
	{long: "timeout", option: timeout},
	{long: "daemon", option: daemon},
	{long: "stats", option: stats},
	{long: "rate", option: rate},
	{long: "thresholds", option: thresholds},
	{long: "persistent-conn", option: persistentConn},
	{long: "tun-info", option: tunInfo},
	{long: "exact", short: 'X', option: exact},
	{long: "sort", option: sort},
	{long: "nosort", option: nosort},

	{long: "mcast-interface", argument: required, option: mcastInterface},
	{long: "syncid", argument: required, option: syncID},
	{long: "sync-maxlen", argument: required, option: syncMaxLen},
	{long: "mcast-group", argument: required, option: mcastGroup},
	{long: "mcast-port", argument: required, option: mcastPort},
	{long: "mcast-ttl", argument: required, option: mcastTTL},
}

// What a command line may have wrong in the eyes of popt, in its words.
const (
	noError          = ""
	unknownOption    = "unknown option"
	missingArgument  = "missing argument"
	unwantedArgument = "option does not take an argument"
)

// byLong and byShort find words.
var (
	byLong  = map[string]*word{}
	byShort [256]*word
)

func init() {
	for i := range words {
		w := &words[i]
		if byLong[w.long] == nil {
			byLong[w.long] = w
		}
		if w.short != 0 {
			byShort[w.short] = w
		}
	}
}

// scanner reads the options of a command line one by one.
type scanner struct {
	args      []string
	rest      string // of a word of short options
	inWord    bool   // there is such a rest
	plain     bool   // behind "--"
	arguments []string
	last      string // the word that was read last
}

// next reads the next option with its argument. At the end it returns nil and noError. What is no option
// is collected in s.arguments.
func (s *scanner) next() (w *word, arg string, hasArg bool, problem string) {
	if !s.inWord {
		for {
			if len(s.args) == 0 {
				return nil, "", false, noError
			}
			s.last, s.args = s.args[0], s.args[1:]
			switch {
			case s.plain || s.last == "-" || !strings.HasPrefix(s.last, "-"):
				s.arguments = append(s.arguments, s.last)
				continue
			case s.last == "--":
				s.plain = true
				continue
			}
			break
		}
		if long, ok := strings.CutPrefix(s.last, "--"); ok {
			long, value, given := strings.Cut(long, "=")
			if w = byLong[long]; w == nil {
				return nil, "", false, unknownOption
			}
			if given && w.argument == none {
				return nil, "", false, unwantedArgument
			}
			return s.argument(w, value, given)
		}
		s.rest = s.last[1:]
	}
	s.inWord = false
	if w = byShort[s.rest[0]]; w == nil {
		return nil, "", false, unknownOption
	}
	s.rest = s.rest[1:]
	if s.rest == "" {
		return s.argument(w, "", false)
	}
	value, given := strings.CutPrefix(s.rest, "=")
	if w.argument != none {
		return s.argument(w, value, true)
	}
	if given {
		return nil, "", false, unwantedArgument
	}
	s.inWord = true
	return w, "", false, noError
}

// argument finds the argument of w: value if that is given in the word itself, or the next word.
func (s *scanner) argument(w *word, value string, given bool) (*word, string, bool, string) {
	switch {
	case w.argument == none || given:
		return w, value, given, noError
	case len(s.args) == 0 && w.argument == required:
		return nil, "", false, missingArgument
	case len(s.args) == 0 || w.argument == optional && strings.HasPrefix(s.args[0], "-"):
		return w, "", false, noError
	}
	s.last, s.args = s.args[0], s.args[1:]
	return w, s.last, true, noError
}

// use is what a command or a kind of tunnel does with options: those that are in no set are refused.
type use struct {
	name                       string
	mandatory, exclusive, free optionSet // of the exclusive ones at most one
}

var serviceOptions = setOf(scheduler, persistent, netmask, ops, engine, schedFlags)
var serverOptions = setOf(forward, weight, upper, lower, tunType, tunPort, tunNoCsum, tunCsum, tunRemCsum)

var uses = map[Action]use{
	AddService:    {name: "add-service", mandatory: setOf(service), free: serviceOptions},
	EditService:   {name: "edit-service", mandatory: setOf(service), free: serviceOptions},
	DeleteService: {name: "delete-service", mandatory: setOf(service)},
	Clear:         {name: "flush"},
	List: {
		name: "list", exclusive: setOf(connection, service, timeout, daemon),
		free: setOf(numeric, stats, rate, thresholds, persistentConn, nosort, syncID, exact, tunInfo),
	},
	AddServer:    {name: "add-server", mandatory: setOf(service, server), free: serverOptions},
	DeleteServer: {name: "delete-server", mandatory: setOf(service, server)},
	EditServer:   {name: "edit-server", mandatory: setOf(service, server), free: serverOptions},
	SetTimeouts:  {name: "set"},
	StartDaemon:  {name: "start-daemon", free: setOf(mcastInterface, syncID, mcastGroup, mcastPort, mcastTTL, syncMaxLen)},
	StopDaemon:   {name: "stop-daemon", free: setOf(syncID)},
	Restore:      {name: "restore"},
	Save:         {name: "save", free: setOf(numeric)},
	Zero:         {name: "zero", free: setOf(service)},
}

// tunnelOptions are those that tunnelUses speak of.
var tunnelOptions = setOf(tunPort, tunNoCsum, tunCsum, tunRemCsum)

// tunnelUses are in the order of ipvs.TunnelType.
var tunnelUses = []use{
	{name: "ipip"},
	{name: "gue", mandatory: setOf(tunPort), exclusive: setOf(tunNoCsum, tunCsum, tunRemCsum)},
	{name: "gre", exclusive: setOf(tunNoCsum, tunCsum)},
}

// check refuses options that do not go with u; kind is "command" or "tunnel type".
func (u use) check(kind string, given optionSet) error {
	last := optionCount
	for o := range optionCount {
		switch {
		case !given.has(o):
			if u.mandatory.has(o) {
				return refuse("You need to supply the '%s' option for the '%s' %s", optionNames[o], u.name, kind)
			}
		case u.exclusive.has(o):
			if last != optionCount {
				return refuse("The option '%s' conflicts with the '%s' option in the '%s' %s",
					optionNames[o], optionNames[last], u.name, kind)
			}
			last = o
		case !u.mandatory.has(o) && !u.free.has(o):
			return refuse("Illegal '%s' option with the '%s' %s", optionNames[o], u.name, kind)
		}
	}
	return nil
}

// Error is why a command line is refused.
type Error struct {
	Text   string // in the words of the original
	Status int    // of the program's exit
	// Ends says that a restore ends with the line; after others it goes on with the next line.
	Ends bool
}

func (e *Error) Error() string { return e.Text }

// refuse is a command line whose options make no sense.
func refuse(format string, args ...any) error {
	return &Error{Text: fmt.Sprintf(format, args...), Status: statusUsage, Ends: true}
}

// help is a command line of which not even the command is clear.
func help(program string) error {
	return &Error{Text: fmt.Sprintf("Try `%s -h' or '%[1]s --help' for more information.", program), Status: statusFailed, Ends: true}
}
