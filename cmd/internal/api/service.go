package api

import "time"

// Document is the specification that a director has, as text.
type Document struct {
	Content    string `json:"content"`
	Version    string `json:"version,omitempty"` // EPOCH.INDEX if replicated, "" before the first change
	Replicated bool   `json:"replicated"`
	Path       string `json:"path,omitempty"` // of the file it stands in, if it is not replicated
}

// Services is what a director knows of the services: what is wanted, what the kernels have and count, and why a
// real server gets nothing.
type Services struct {
	Node    string    `json:"node,omitempty"` // who says this; "" for a director that is alone
	When    time.Time `json:"when"`
	Version string    `json:"version,omitempty"` // of the specification, if replicated
	// Counted are the directors whose counters are summed up, Missing those that did not answer, and why.
	Counted  []string          `json:"counted,omitempty"`
	Missing  map[string]string `json:"missing,omitempty"`
	Services []Service         `json:"services"`
}

// States of services and real servers.
const (
	In       = "in"       // gets new connections
	Draining = "draining" // has weight 0 and connections left
	Drained  = "drained"  // has weight 0 and no connections
	Out      = "out"      // is not in the kernel's table
	Standby  = "standby"  // of a service: no director is active for its VIP
)

// Service is a virtual service. Counters are those of all directors, connections those of the active one.
type Service struct {
	Name      string   `json:"name"`
	Service   string   `json:"service"` // such as "TCP 192.0.2.10:80"
	Command   string   `json:"command"` // in the words of ipvsadm
	Scheduler string   `json:"scheduler"`
	Pool      string   `json:"pool,omitempty"`
	Group     string   `json:"group,omitempty"`  // of its VIP
	Active    string   `json:"active,omitempty"` // the director that has the VIP
	State     string   `json:"state"`
	Reasons   []Reason `json:"reasons,omitempty"`
	Counts    Counts   `json:"counts"`
	Traffic   Traffic  `json:"traffic"`
	Servers   []Server `json:"servers"`
}

// Server is a real server of a service.
type Server struct {
	Name    string `json:"name"`
	Server  string `json:"server"`         // address and port
	Node    string `json:"node,omitempty"` // whose agent announced it
	Listed  bool   `json:"listed"`         // in the specification; otherwise a member of the pool
	Forward string `json:"forward"`
	Weight  uint32 `json:"weight"`
	Drain   *Drain `json:"drain,omitempty"` // nil if it is not drained
	// Adaptive is nil if the weights of the service do not follow loads.
	Adaptive *Adaptive  `json:"adaptive,omitempty"`
	State    string     `json:"state"`
	Since    *time.Time `json:"since,omitempty"` // of State, if it began while this director ran
	Reasons  []Reason   `json:"reasons,omitempty"`
	Counts   Counts     `json:"counts"`
	Traffic  Traffic    `json:"traffic"`
}

// Expired is the state of a drain that has passed its deadline with connections left. The others are Draining and
// Drained.
const Expired = "expired"

// Drain is how far the drain of a real server is.
type Drain struct {
	State string     `json:"state"` // draining, drained, or expired: past its deadline with connections left
	Since time.Time  `json:"since"`
	Until *time.Time `json:"until,omitempty"` // the deadline; nil for none
	Then  string     `json:"then"`            // keep with weight 0, or remove
	Text  string     `json:"text"`            // such as "12 connections, 25 s left"
}

// Adaptive is what the load of a real server has come to, as the director that says this hears it.
type Adaptive struct {
	Factor float64 `json:"factor"` // of the configured weight
	Load   float64 `json:"load"`   // smoothed; 1 means fully used
	Mean   float64 `json:"mean"`   // of the loads of the service, by what each server gets
	Text   string  `json:"text"`   // such as "adaptive weight, 55% of the configured one: load 0.61, that of all is 0.60, which is even"
}

// Reason is one reason for a state, and what would change it. A server may have several.
type Reason struct {
	Source string     `json:"source"` // who knows: specification, agent, gossip, kernel, election
	Text   string     `json:"text"`
	Since  *time.Time `json:"since,omitempty"`
	Change string     `json:"change,omitempty"`
}

// Counts are connections at a time.
type Counts struct {
	Active     uint64 `json:"active"`
	Inactive   uint64 `json:"inactive"`
	Persistent uint64 `json:"persistent"`
}

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	c.Active += o.Active
	c.Inactive += o.Inactive
	c.Persistent += o.Persistent
}

// Traffic counts since a service or server was made or zeroed.
type Traffic struct {
	Connections uint64 `json:"connections"`
	InPackets   uint64 `json:"in_packets"`
	OutPackets  uint64 `json:"out_packets"`
	InBytes     uint64 `json:"in_bytes"`
	OutBytes    uint64 `json:"out_bytes"`
}

// Add adds o to t.
func (t *Traffic) Add(o Traffic) {
	t.Connections += o.Connections
	t.InPackets += o.InPackets
	t.OutPackets += o.OutPackets
	t.InBytes += o.InBytes
	t.OutBytes += o.OutBytes
}

// Zero sets counters back, on all directors.
type Zero struct {
	Service string `json:"service,omitempty"` // its name or what [Service] has in Service; "" for all
}

// Zeroed says where counters were set back, and where not and why.
type Zeroed struct {
	Done   []string          `json:"done"`
	Failed map[string]string `json:"failed,omitempty"`
}

// Diff says in what a kernel differs from what is wanted.
type Diff struct {
	Equal     bool     `json:"equal"`
	Plan      string   `json:"plan"` // in the words of ipvsadm, one change to a line
	Summary   string   `json:"summary"`
	Strangers []string `json:"strangers,omitempty"` // services that are left alone
}

// Timeouts of connections without packets, seconds. To set, 0 leaves one as it is.
type Timeouts struct {
	TCP    uint32 `json:"tcp"`
	TCPFin uint32 `json:"tcpfin"`
	UDP    uint32 `json:"udp"`
}

// NodeTimeouts are those in the kernel of one director.
type NodeTimeouts struct {
	Node  string `json:"node,omitempty"`
	Error string `json:"error,omitempty"`
	Timeouts
}
