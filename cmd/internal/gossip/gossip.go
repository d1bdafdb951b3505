package gossip

import (
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/cluster"
	"github.com/drover-lb/drover/cluster/election"
	"github.com/drover-lb/drover/cluster/lease"
	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/cmd/internal/app"
)

// Kinds of messages and requests.
const (
	KindLease    byte = 1 // datagrams of package election
	KindReplica  byte = 2 // requests of package replica
	KindHandover byte = 3 // requests for another active director, JSON
	KindChange   byte = 4 // requests for a change of the specification, JSON
	KindBeat     byte = 6 // datagrams of agents that are alive, JSON
	KindTable    byte = 5 // requests about the kernel's table of a director, JSON
)

// Keys of records.
const (
	DirectorRecord = "director" // JSON of api.Director
	AgentRecord    = "agent"    // JSON of api.Agent
	HealthRecord   = "health"   // JSON of health.Shared
)

// NewNode makes the node of a daemon. Nothing is on the network before it runs.
func NewNode(o *settings.Options, role cluster.Role, log *slog.Logger, reg prometheus.Registerer) (*cluster.Node, error) {
	seeds := make([]string, 0, len(o.Voters)+len(o.Join))
	for _, v := range o.Voters {
		if v.Name != o.Name {
			seeds = append(seeds, v.Address.String())
		}
	}
	for _, a := range o.Join {
		seeds = append(seeds, a.String())
	}
	version := app.Version()
	return cluster.New(cluster.Options{
		Name:     o.Name,
		Role:     role,
		Label:    o.Label,
		Bind:     o.Address,
		KeyFile:  o.KeyFile,
		Seeds:    seeds,
		Version:  version[:min(len(version), cluster.MaxVersion)],
		Log:      log.With("component", "gossip"),
		Registry: reg,
	})
}

// firstEpoch is when epochs begin to count: they are seconds since then, at the least.
var firstEpoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// NewKeeper makes the election's part of a node. epoch is the largest that is known to have been used. opts needs no
// Config and no Send.
func NewKeeper(o *settings.Options, node *cluster.Node, candidate bool, epoch uint64, log *slog.Logger, opts lease.Options) (*lease.Keeper, error) {
	var seed [16]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, err
	}
	mode := election.LeaseMode
	if o.Mode == settings.Priority {
		mode = election.PriorityMode
	}
	opts.Config = election.Config{
		Self:         o.Name,
		Candidate:    candidate,
		Voters:       o.Names(),
		Candidates:   o.Directors(),
		Groups:       o.Groups,
		Lease:        o.Lease,
		Priority:     o.Priority,
		PreemptDelay: o.PreemptDelay,
		Incarnation:  binary.BigEndian.Uint64(seed[:]) | 1,
		Seed:         binary.BigEndian.Uint64(seed[8:]),
		Epoch:        max(epoch, uint64(max(time.Since(firstEpoch)/time.Second, 1))),
		Mode:         mode,
	}
	opts.Log = log.With("component", "election")
	opts.Send = func(to string, message []byte) {
		addr, _ := o.Voter(to)
		if err := node.Send(to, addr, KindLease, message); err != nil {
			log.Debug("failed to send a message of the election", "to", to, "error", err)
		}
	}
	k, err := lease.New(opts)
	if err != nil {
		return nil, err
	}
	node.Handle(KindLease, k.Deliver)
	return k, nil
}
