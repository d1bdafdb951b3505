package cluster

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Names of the metrics.
const (
	metricMembers   = "drover_cluster_members"
	metricMessages  = "drover_cluster_messages_total"
	metricDropped   = "drover_cluster_messages_dropped_total"
	metricRefused   = "drover_cluster_packets_refused_total"
	metricBytes     = "drover_cluster_bytes_total"
	metricConflicts = "drover_cluster_name_conflicts_total"
	metricRecords   = "drover_cluster_records"
	metricLog       = "drover_cluster_gossip_log_total"
)

// Reasons for which a message is dropped.
const (
	dropMalformed  = "malformed"
	dropReplayed   = "replayed"
	dropMisdirect  = "not_for_this_node"
	dropQueueFull  = "queue_full"
	dropNoHandler  = "no_handler"
	dropFull       = "records_full"
	dropNoRequest  = "no_such_request"
	refuseDecrypt  = "undecryptable"
	refuseLabel    = "label"
	refusePlain    = "unencrypted"
	refuseGarbled  = "garbled"
	refuseTooMany  = "too_many_connections"
	refuseLongWait = "timed_out"
)

type metrics struct {
	members   *prometheus.GaugeVec
	messages  *prometheus.CounterVec
	dropped   *prometheus.CounterVec
	refused   *prometheus.CounterVec
	bytes     *prometheus.CounterVec
	conflicts prometheus.Counter
	records   prometheus.Gauge
	log       *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		members:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: metricMembers, Help: "Members of the cluster, this node counted, by state."}, []string{"state"}),
		messages:  counter(metricMessages, "Messages sent and received, by direction (in, out), type and kind.", "direction", "type", "kind"),
		dropped:   counter(metricDropped, "Messages of members that were dropped, by kind and reason.", "kind", "reason"),
		refused:   counter(metricRefused, "Packets and connections that were refused before they were understood, by reason.", "reason"),
		bytes:     counter(metricBytes, "Bytes of packets and streams, without those of IP, UDP and TCP headers.", "direction", "transport"),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{Name: metricConflicts, Help: "Times that a second node of a name was seen."}),
		records:   prometheus.NewGauge(prometheus.GaugeOpts{Name: metricRecords, Help: "Records that are held, of all nodes."}),
		log:       counter(metricLog, "Lines that the gossip library logged, by level.", "level"),
	}
	for _, c := range []prometheus.Collector{m.members, m.messages, m.dropped, m.refused, m.bytes, m.conflicts, m.records, m.log} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func kindLabel(kind byte) string { return strconv.Itoa(int(kind)) }

func (m *metrics) drop(kind, reason string, n int) {
	m.dropped.WithLabelValues(kind, reason).Add(float64(n))
}
