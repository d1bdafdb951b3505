package ipvs

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Op is what a [Command] asks of the kernel.
type Op uint8

const (
	OpNewService Op = iota + 1 // fails if the service exists
	OpSetService               // fails if it does not; may change the scheduler of a service in use
	OpDelService               // with all its destinations
	OpNewDest                  // fails if the destination exists
	OpSetDest                  // fails if it does not
	OpDelDest                  // connections to it stay, and stay served, until they end or expire
	OpZero                     // counters of a service and its destinations
	OpZeroAll                  // counters of all services
	OpFlush                    // deletes all services, of everyone
)

// String says what is done, with what: "add service", "change server".
func (o Op) String() string {
	switch o {
	case OpNewService:
		return "add service"
	case OpSetService:
		return "change service"
	case OpDelService:
		return "delete service"
	case OpNewDest:
		return "add server"
	case OpSetDest:
		return "change server"
	case OpDelDest:
		return "delete server"
	case OpZero:
		return "zero counters of"
	case OpZeroAll:
		return "zero all counters"
	case OpFlush:
		return "flush the table"
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// genl is the kernel's number of the command, 0 if there is none.
func (o Op) genl() uint8 {
	switch o {
	case OpNewService:
		return cmdNewService
	case OpSetService:
		return cmdSetService
	case OpDelService:
		return cmdDelService
	case OpNewDest:
		return cmdNewDest
	case OpSetDest:
		return cmdSetDest
	case OpDelDest:
		return cmdDelDest
	case OpZero, OpZeroAll:
		return cmdZero
	case OpFlush:
		return cmdFlush
	}
	return 0
}

func (o Op) onDest() bool { return o == OpNewDest || o == OpSetDest || o == OpDelDest }

// Command is one change of the kernel's table. The functions that make them fill in what each needs.
type Command struct {
	Op      Op
	Service Service     // the whole for OpNewService and OpSetService, else the Key alone
	Dest    Destination // the whole for OpNewDest and OpSetDest, the DestKey for OpDelDest

	// Verbatim commands go to the kernel unchecked; see [Verbatim].
	Verbatim bool
	// RawNetmask is the mask of the service in a verbatim command, in place of Service.Netmask, as
	// [ServiceEntry] has it.
	RawNetmask uint32
}

// NewService adds a service.
func NewService(s Service) Command { return Command{Op: OpNewService, Service: s} }

// SetService changes everything of a service but its key, the scheduler included. Its destinations
// and connections stay.
func SetService(s Service) Command { return Command{Op: OpSetService, Service: s} }

// DelService deletes a service with its destinations.
func DelService(k Key) Command { return Command{Op: OpDelService, Service: Service{Key: k}} }

// NewDest adds a destination to a service.
func NewDest(k Key, d Destination) Command {
	return Command{Op: OpNewDest, Service: Service{Key: k}, Dest: d}
}

// SetDest changes everything of a destination but its key.
func SetDest(k Key, d Destination) Command {
	return Command{Op: OpSetDest, Service: Service{Key: k}, Dest: d}
}

// DelDest deletes a destination from a service.
func DelDest(k Key, d DestKey) Command {
	return Command{Op: OpDelDest, Service: Service{Key: k}, Dest: Destination{DestKey: d}}
}

// Zero sets the counters of a service and its destinations to zero.
func Zero(k Key) Command { return Command{Op: OpZero, Service: Service{Key: k}} }

// ZeroAll sets all counters to zero.
func ZeroAll() Command { return Command{Op: OpZeroAll} }

// Flush deletes every service of the network namespace, whoever made it.
func Flush() Command { return Command{Op: OpFlush} }

// Verbatim makes of c a command that the kernel alone judges, with the service's mask as the kernel has
// it: an IPv4 mask with the first octet on top, which need not be a prefix, or an IPv6 prefix length. It
// is for programs that pass on what somebody asked for in the kernel's own words, as ipvsadm does: weights
// up to 2^31-1, any name of a scheduler, servers at addresses that are no host's. The kernel takes much
// that means nothing, see [Client.Apply].
func Verbatim(c Command, netmask uint32) Command {
	c.Verbatim, c.RawNetmask = true, netmask
	return c
}

// String is the command in words: "add server 10.0.0.11:80 to TCP 192.0.2.10:80".
func (c Command) String() string {
	switch c.Op {
	case OpZeroAll, OpFlush:
		return c.Op.String()
	case OpNewDest:
		return fmt.Sprintf("%s %s to %s", c.Op, c.Dest.DestKey, c.Service.Key)
	case OpSetDest:
		return fmt.Sprintf("%s %s of %s", c.Op, c.Dest.DestKey, c.Service.Key)
	case OpDelDest:
		return fmt.Sprintf("%s %s from %s", c.Op, c.Dest.DestKey, c.Service.Key)
	}
	return fmt.Sprintf("%s %s", c.Op, c.Service.Key)
}

// MaxWeight is the largest weight of a destination that Drover accepts. The kernel takes those up to
// 2^31-1, but several of its schedulers multiply weights with numbers of connections in 32 bits
// (ip_vs_wlc.c, ip_vs_sed.c).
const MaxWeight = 65535

// check refuses what cannot be said in the kernel's words, and what the kernel would take although
// it means nothing (ip_vs_ctl.c: any forwarding method, any protocol). Deleting is allowed for
// anything that can be listed.
func (c Command) check() error {
	if c.Op.genl() == 0 {
		return fmt.Errorf("unknown %s", c.Op)
	}
	if c.Op == OpZeroAll || c.Op == OpFlush || c.Verbatim {
		return nil
	}
	s := &c.Service
	if s.Family != IPv4 && s.Family != IPv6 {
		return fmt.Errorf("address family (%d) must be %d or %d", s.Family, IPv4, IPv6)
	}
	if s.FWMark == 0 && (!s.Addr.IsValid() || FamilyOf(s.Addr) != s.Family) {
		return fmt.Errorf("address (%s) must be of family %d", s.Addr, s.Family)
	}
	if c.Op == OpNewService || c.Op == OpSetService {
		if err := s.check(); err != nil {
			return err
		}
	}
	if c.Op.onDest() && !c.Dest.Addr.IsValid() {
		return fmt.Errorf("server address (%s) must be valid", c.Dest.Addr)
	}
	if c.Op == OpNewDest || c.Op == OpSetDest {
		return c.Dest.check()
	}
	return nil
}

func (s *Service) check() error {
	switch {
	case s.FWMark == 0 && s.Protocol != TCP && s.Protocol != UDP && s.Protocol != SCTP:
		return fmt.Errorf("protocol (%d) must be TCP, UDP or SCTP", s.Protocol)
	case !moduleWord(s.Scheduler):
		return fmt.Errorf("scheduler (%q) must be 1 to 15 of a-z, 0-9 and _", s.Scheduler)
	case s.PE != "" && !moduleWord(s.PE):
		return fmt.Errorf("persistence engine (%q) must be up to 15 of a-z, 0-9 and _", s.PE)
	case s.Family == IPv4 && s.Netmask > 32:
		return fmt.Errorf("netmask (%d) must be between 0 and 32", s.Netmask)
	case s.Family == IPv6 && (s.Netmask < 1 || s.Netmask > 128):
		return fmt.Errorf("netmask (%d) must be between 1 and 128", s.Netmask)
	}
	return nil
}

func (d *Destination) check() error {
	switch {
	case d.Forward > Bypass:
		return fmt.Errorf("forwarding method (%d) must be between %d and %d", d.Forward, Masq, Bypass)
	case d.Weight > MaxWeight:
		return fmt.Errorf("weight (%d) must be between 0 and %d", d.Weight, MaxWeight)
	case d.Lower > d.Upper:
		return fmt.Errorf("lower threshold (%d) must be at most the upper threshold (%d)", d.Lower, d.Upper)
	case d.TunnelType > TunnelGRE:
		return fmt.Errorf("tunnel type (%d) must be between %d and %d", d.TunnelType, TunnelIPIP, TunnelGRE)
	case d.TunnelType == TunnelGUE && d.TunnelPort == 0:
		return fmt.Errorf("tunnel port (0) must be between 1 and 65535 for GUE")
	}
	return nil
}

// moduleWord says whether s can be the name of a scheduler or persistence engine
// (IP_VS_SCHEDNAME_MAXLEN and IP_VS_PENAME_MAXLEN are 16 with the terminating zero). It is also what
// may be handed to modprobe.
func moduleWord(s string) bool {
	if len(s) < 1 || len(s) > 15 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return true
}

// CommandError is the failure of one command.
type CommandError struct {
	Command Command
	Err     error  // what the kernel answered, a unix.Errno, or why the command was not sent
	Kernel  string // the kernel's own words (NLMSGERR_ATTR_MSG), mostly empty
}

// Error says which command failed and why, with the kernel's error number in parentheses.
func (e *CommandError) Error() string {
	errno, ok := e.Err.(unix.Errno)
	if !ok {
		return fmt.Sprintf("failed to %s: %v", e.Command, e.Err)
	}
	text := fmt.Sprintf("failed to %s: %s (%s)", e.Command, e.reason(errno), unix.ErrnoName(errno))
	if e.Kernel != "" {
		text += ": " + e.Kernel
	}
	return text
}

func (e *CommandError) Unwrap() error { return e.Err }

// reason says what errno means to the command (ip_vs_genl_set_cmd and what it calls, ip_vs_ctl.c).
func (e *CommandError) reason(errno unix.Errno) string {
	s, d := &e.Command.Service, &e.Command.Dest
	onService := e.Command.Op == OpNewService || e.Command.Op == OpSetService
	switch errno {
	case unix.EPERM:
		return "CAP_NET_ADMIN is missing"
	case unix.ESRCH:
		return "there is no such service"
	case unix.EEXIST:
		if e.Command.Op.onDest() {
			return "the service has this server already"
		}
		return "the service exists already"
	case unix.ENOENT:
		if !onService {
			return "the service has no such server"
		}
		if s.PE != "" && (s.Scheduler == "none" || moduleLoaded(schedulerModule(s.Scheduler))) {
			return missingModule("persistence engine", s.PE, peModule(s.PE))
		}
		return missingModule("scheduler", s.Scheduler, schedulerModule(s.Scheduler))
	case unix.EAFNOSUPPORT:
		return "the kernel has no IPv6, or IPVS without it"
	case unix.ERANGE:
		return fmt.Sprintf("weight %d, upper threshold %d or lower threshold %d is out of range", d.Weight, d.Upper, d.Lower)
	case unix.EINVAL:
		switch {
		case onService:
			return fmt.Sprintf("netmask %d or another value is invalid", s.Netmask)
		case FamilyOf(d.Addr) != s.Family && d.Forward != Tunnel:
			return "a server of the other address family needs forwarding by tunnel"
		case FamilyOf(d.Addr) != s.Family:
			return "no server of the other address family can be added while a sync daemon runs"
		}
		return "the address is not that of a host, or another value is invalid"
	case unix.ENOMEM:
		return "the kernel is out of memory"
	}
	return errno.Error()
}
