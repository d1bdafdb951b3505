package spec

import (
	"net/netip"
	"slices"
	"time"

	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/ipvs"
	"github.com/drover-lb/drover/notify/sink"
)

// Spec is the desired state: what all directors of a cluster are to agree on.
type Spec struct {
	VIPs     []VIP
	Services []Service
}

// VIP is a virtual IP that the active director puts on an interface.
type VIP struct {
	Prefix    netip.Prefix // address with prefix length, host bits kept; /32 or /128 unless written
	Interface string       // empty: the director's default interface
	// Group names the VIPs that are with one director together; DefaultGroup unless written. A director
	// that is alone holds all groups.
	Group string
}

// DefaultGroup is the group of VIPs that name none.
const DefaultGroup = "default"

// Groups lists the groups of the VIPs, sorted.
func (s *Spec) Groups() []string {
	groups := make([]string, len(s.VIPs))
	for i := range s.VIPs {
		groups[i] = s.VIPs[i].Group
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// Service is one virtual service with its real servers. Fields shared with the kernel are in
// ipvs.Service; Name is for people.
type Service struct {
	Name string // unique; by default the key, such as "TCP 192.0.2.10:80"
	ipvs.Service
	// Pool names real servers that announce themselves, in addition to RealServers; "" for none.
	Pool        string
	Checks      []Check // all have to pass; none: every real server is taken for up
	Health      Health
	Drain       DrainPolicy // of drains that do not say otherwise
	Adaptive    Adaptive    // weights follow loads
	RealServers []RealServer
}

// RealServer is one destination of a service.
type RealServer struct {
	Name string // for people, unique in its service; by default the address, with the port where it differs
	ipvs.Destination
	Drain Drain
}

// Ownership says which services of the kernel's table a director may delete.
type Ownership string

const (
	OwnAll    Ownership = "all"    // the table is the director's: strangers are deleted
	OwnListed Ownership = "listed" // only services that the spec lists, or listed before, are touched
)

// OnStop says what a director leaves behind on a clean stop.
type OnStop string

const (
	Release OnStop = "release" // VIPs, own services and sysctls are taken back
	Keep    OnStop = "keep"    // everything goes on; VIPs without lifetime
)

// Options are the settings of one director daemon, the `director:` mapping of its file.
type Options struct {
	Interface         string        // default interface of VIPs; required when a VIP names none
	Ownership         Ownership     // default listed
	OnStop            OnStop        // default release
	ReconcileInterval time.Duration // 100 ms .. 1 h, default 5 s
	VIPLifetime       time.Duration // whole seconds, 2 s .. 1 h, default 4 s: the kernel drops an unrenewed VIP after it
	Sysctls           bool          // whether to set the director's sysctls; default true
	// CheckMark is the first of CheckMarks firewall marks for the checks' own use; default DefaultCheckMark.
	CheckMark uint32
	Scripts   bool   // whether checks may run programs on this host; default false
	Socket    string // path of the status socket; default /run/drover/director.sock, "" for none
}

// File is a director's whole file.
type File struct {
	Director Options
	// Notify are whom this director tells of what happens.
	Notify []sink.Sink
	// Cluster is nil for a director that is alone.
	Cluster *settings.Options
	// Replicated: the file says nothing of VIPs and services, which the directors of the cluster replicate.
	Replicated bool
	// Unknown: it is replicated, and not known here yet. What the kernel's table has is left as it is.
	Unknown bool
	Spec    Spec
	// Warnings are what the file says that is allowed but hardly meant. They print as errors do.
	Warnings conf.Errors
}
