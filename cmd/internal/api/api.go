package api

import (
	"encoding/json"
	"net/netip"
	"time"

	"github.com/drover-lb/drover/controller/health"
)

// Cluster is what a director knows of its cluster. Times without a date are in seconds.
type Cluster struct {
	Node        string          `json:"node"` // who says this
	Label       string          `json:"label"`
	Mode        string          `json:"mode"` // lease or priority
	Lease       float64         `json:"lease_seconds"`
	Fingerprint string          `json:"fingerprint"` // of voters, mode and lease
	Started     time.Time       `json:"started"`
	Maintenance bool            `json:"maintenance"`
	Fence       string          `json:"fence"` // how the kernel enforces the lease, or why it does not
	Spec        Spec            `json:"spec"`
	Groups      []Group         `json:"groups"`
	Members     []Member        `json:"members"`
	Sync        Sync            `json:"sync"`
	Checks      []health.Report `json:"checks"`
	Drains      []DrainedServer `json:"drains,omitempty"`
	Notify      []Sink          `json:"notify,omitempty"`
	Warnings    []string        `json:"warnings,omitempty"` // what an operator should know
}

// DrainedServer is a real server of a service with its drain.
type DrainedServer struct {
	Service string `json:"service"` // names
	Server  string `json:"server"`
	Drain
}

// Spec says which specification is in force.
type Spec struct {
	Source  string `json:"source"`  // a file's path, or "replicated"
	Version string `json:"version"` // EPOCH.INDEX if replicated
	Acked   string `json:"acknowledged,omitempty"`
	Hash    string `json:"hash"`            // SHA-256 of its values
	Error   string `json:"error,omitempty"` // why a newer one is not in force
}

// Group is a group of VIPs with the one director that may have it.
type Group struct {
	Name     string    `json:"name"`
	VIPs     []string  `json:"vips"`
	Role     string    `json:"role"`             // of the node that says this
	Active   string    `json:"active,omitempty"` // the director that has it, as far as known
	Since    time.Time `json:"since"`            // of Role
	Epoch    uint64    `json:"epoch"`
	Margin   float64   `json:"margin_seconds"` // until the lease ends unless renewed
	Why      string    `json:"why"`
	Eligible bool      `json:"eligible"`
	Reason   string    `json:"ineligible_because,omitempty"`
	Votes    []Vote    `json:"votes"`
}

// Vote is what one voter says about a group.
type Vote struct {
	Voter  string  `json:"voter"`
	For    string  `json:"for,omitempty"`
	Left   float64 `json:"left_seconds,omitempty"` // of its grant, counted with caution
	Reason string  `json:"reason,omitempty"`       // why it does not vote for the node that says this
}

// Member is a node of the cluster.
type Member struct {
	Name    string      `json:"name"`
	Role    string      `json:"role"` // director, realserver or witness
	Address string      `json:"address"`
	State   string      `json:"state"` // alive, left or failed
	Since   time.Time   `json:"since"`
	Version string      `json:"version"`
	Voter   bool        `json:"voter"`
	Active  []string    `json:"active,omitempty"` // groups
	Spec    *Spec       `json:"spec,omitempty"`
	Agent   *Agent      `json:"agent,omitempty"`
	Conns   *Conns      `json:"connections,omitempty"`
	Sync    *SyncReport `json:"sync,omitempty"`
}

// BeatEvery is how often the agent of a real server tells the directors that it is alive, in a cluster of up to a
// hundred nodes.
const BeatEvery = 200 * time.Millisecond

// BeatStep divides the intervals of beats: agents send them while they look after their services.
const BeatStep = 100 * time.Millisecond

// BeatInterval is how often it does so in a cluster of that many nodes: a director hears at most some 500 beats a
// second. It is a multiple of BeatStep.
func BeatInterval(nodes int) time.Duration {
	every := max(BeatEvery, time.Duration(nodes)*BeatEvery/100)
	return (every + BeatStep - 1) / BeatStep * BeatStep
}

// Beat is what the agent of a real server tells the directors in a datagram, every EveryMS milliseconds and whenever
// something changes.
type Beat struct {
	Address netip.Addr `json:"address"`
	EveryMS int64      `json:"every_ms,omitempty"` // BeatEvery if it does not say
	// Down says why services are down at the host, by service such as "TCP 192.0.2.10:80".
	Down map[string]string `json:"down,omitempty"`
	// Load of the host in thousandths, where 1000 means fully used; nil if it is not measured, or cannot be.
	Load *int64 `json:"load,omitempty"`
}

// Every is the interval of beats, from BeatEvery to ten seconds.
func (b *Beat) Every() time.Duration {
	return min(max(BeatEvery, time.Duration(b.EveryMS)*time.Millisecond), 10*time.Second)
}

// Agent is what a real server announces. It travels as a replicated record.
type Agent struct {
	Pool     string     `json:"pool,omitempty"`
	Address  netip.Addr `json:"address"`
	Weight   uint32     `json:"weight"`
	Draining bool       `json:"draining,omitempty"`
	// DrainingSince is when it began to ask to be drained, Drain the seconds that it waits for its connections.
	DrainingSince time.Time    `json:"draining_since,omitzero"`
	Drain         float64      `json:"drain_seconds,omitempty"`
	VIPs          []AgentVIP   `json:"vips"`
	Foreign       []netip.Addr `json:"foreign,omitempty"`
	// Down says why services are down at the host, by service such as "TCP 192.0.2.10:80".
	Down map[string]string `json:"down,omitempty"`
	// Repairs are what somebody has undone on the host and the agent has put right, a few of them, the newest last.
	Repairs []Repair `json:"repairs,omitempty"`
}

// Repair is something that was put right.
type Repair struct {
	When time.Time  `json:"when"` // by the clock of the host
	What string     `json:"what"`
	VIP  netip.Addr `json:"vip,omitzero"` // that it was about; none: it was about all of the host
}

// AgentVIP is the state of a VIP on a real server.
type AgentVIP struct {
	Address netip.Addr `json:"address"`
	Phase   string     `json:"phase"`
	Ready   bool       `json:"ready"` // bound, and not answering for it
	Reason  string     `json:"reason,omitempty"`
}

// Director is what a director announces. It travels as a replicated record.
type Director struct {
	Spec   Spec                    `json:"spec"`
	Active []string                `json:"active,omitempty"`
	Pools  map[string][]netip.Addr `json:"pools,omitempty"`
	// Services are those of each pool, such as "TCP 192.0.2.10:80".
	Services map[string][]string `json:"services,omitempty"`
	// Adaptive are the pools whose agents are to tell their loads.
	Adaptive []string    `json:"adaptive,omitempty"`
	Conns    *Conns      `json:"connections,omitempty"`
	Sync     *SyncReport `json:"sync,omitempty"`
	MACs     []string    `json:"macs,omitempty"`
	// Drained are the members of pools that asked to be drained and get no new connections from this director.
	Drained []string `json:"drained,omitempty"`
	// Unfit are the groups that it could not have, with why.
	Unfit map[string]string `json:"unfit,omitempty"`
	Reach *Reach            `json:"reach,omitempty"`
	// StorageError is why its disk does not take changes of the specification.
	StorageError string `json:"storage_error,omitempty"`
	// TableError is why its IPVS table cannot be read or changed.
	TableError string `json:"table_error,omitempty"`
}

// Reach says how many real servers answered a director when it last tried some of them.
type Reach struct {
	Asked   int `json:"asked"`
	Reached int `json:"reached"`
}

// Conns counts the connections in a director's kernel.
type Conns struct {
	Active   uint64 `json:"active"`
	Inactive uint64 `json:"inactive"`
}

// Sync is the connection synchronisation of the node that says this.
type Sync = SyncReport

// SyncReport says which daemons of the kernel's connection synchronisation run.
type SyncReport struct {
	Enabled bool     `json:"enabled"`
	Roles   []string `json:"roles,omitempty"` // master, backup
	Detail  string   `json:"detail,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// Handover asks for another active director.
type Handover struct {
	Group string `json:"group,omitempty"` // "": every group
	To    string `json:"to,omitempty"`    // "": whoever comes first
	Why   string `json:"why,omitempty"`
	// Force: even if To lacks acknowledged changes, which are lost then.
	Force bool `json:"force,omitempty"`
	// Forwarded: another director asks for it, who took this one for the one that is meant.
	Forwarded bool `json:"forwarded,omitempty"`
}

// Maintenance takes a director out of the election, or puts it back.
type Maintenance struct {
	On bool `json:"on"`
}

// Change is a new specification for all directors.
type Change struct {
	Content   string `json:"content"`
	Who       string `json:"who,omitempty"`
	What      string `json:"what,omitempty"`
	IfVersion string `json:"if_version,omitempty"` // only if this is the version in force
	DryRun    bool   `json:"dry_run,omitempty"`
}

// Changed answers a Change.
type Changed struct {
	Version   string            `json:"version"`
	Unchanged bool              `json:"unchanged,omitempty"`
	Stored    []string          `json:"stored"` // the directors that have it on disk
	Missing   map[string]string `json:"missing,omitempty"`
	Plan      json.RawMessage   `json:"plan,omitempty"`
	Warnings  []string          `json:"warnings,omitempty"`
}

// Entry is a past change.
type Entry struct {
	Version string    `json:"version"`
	When    time.Time `json:"when"`
	Who     string    `json:"who"`
	What    string    `json:"what"`
	Node    string    `json:"node"`
	Hash    string    `json:"hash"`
	Acked   bool      `json:"acknowledged"`
	Content string    `json:"content,omitempty"`
}

// Event is something that happened.
type Event struct {
	Seq   uint64    `json:"seq"`
	When  time.Time `json:"when"`
	Kind  string    `json:"kind"`
	Level string    `json:"level,omitempty"` // info, warn or error
	Text  string    `json:"text"`
	// What it is about, where that is one of these; names.
	Group   string `json:"group,omitempty"`
	Service string `json:"service,omitempty"`
	Server  string `json:"server,omitempty"`
	State   string `json:"state,omitempty"` // that what it is about has now
	Sink    string `json:"sink,omitempty"`
}

// Sink is somebody whom a director tells of events.
type Sink struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"` // webhook, script or mail
	Queued  int       `json:"queued"`
	Sent    uint64    `json:"sent"`
	Dropped uint64    `json:"dropped"`
	Failed  uint64    `json:"failed_tries"`
	Last    time.Time `json:"last_sent,omitzero"`
	// Failing is since when each try has failed, if the last one has.
	Failing time.Time `json:"failing_since,omitzero"`
	Error   string    `json:"last_error,omitempty"`
	ErrorAt time.Time `json:"last_error_at,omitzero"`
}

// SinkTest asks for a test event to be sent.
type SinkTest struct {
	Sink string `json:"sink,omitempty"` // "": to all
	Who  string `json:"who,omitempty"`
}

// SinkTested is what a sink answered to a test event.
type SinkTested struct {
	Name  string  `json:"name"`
	Kind  string  `json:"kind"`
	Took  float64 `json:"took_seconds"`
	Said  string  `json:"said,omitempty"` // what it answered when it took it
	Error string  `json:"error,omitempty"`
}

// Key is an operation on the keys of the cluster: list, add, use or remove.
type Key struct {
	Op  string `json:"op"`
	Key string `json:"key,omitempty"` // base64; for remove also the fingerprint that list shows
}

// KeyAnswer is what one node says to a Key.
type KeyAnswer struct {
	Node  string   `json:"node"`
	Keys  []string `json:"keys,omitempty"` // fingerprints, the primary first
	Error string   `json:"error,omitempty"`
}
