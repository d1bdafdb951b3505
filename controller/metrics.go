package controller

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/drover-lb/drover/controller/plan"
)

// Names of the metrics, without the prefix "drover_director_". Labels are bounded: words of this
// package, and the VIPs of the spec.
const (
	metricPasses       = "reconcile_passes_total"
	metricPassDuration = "reconcile_duration_seconds"
	metricOps          = "ipvs_changes_total"
	metricWrites       = "ipvs_write_messages_total"
	metricHeals        = "healed_changes_total"
	metricRenewals     = "vip_renewals_total"
	metricReloads      = "reloads_total"
	metricVIP          = "vip_held"
	metricGroup        = "group_active"
	metricSync         = "sync_daemon"
	metricConnections  = "connections"
	metricServices     = "services"
	metricServers      = "real_servers"
	metricPending      = "pending_changes"
	metricFailing      = "failing_changes"
	metricReachable    = "ipvs_reachable"
	metricLastPass     = "last_reconcile_timestamp_seconds"
)

const (
	metricNamespace = "drover"
	metricSubsystem = "director"
)

// metricsTimeout bounds the wait of a scrape for the loop.
const metricsTimeout = 5 * time.Second

type metrics struct {
	passes   *prometheus.CounterVec
	duration prometheus.Histogram
	ops      *prometheus.CounterVec
	heals    prometheus.Counter
	renewals *prometheus.CounterVec
	reloads  *prometheus.CounterVec
	counted  map[[2]string]uint64 // changes by kind and result, for the status
}

func newMetrics(reg prometheus.Registerer, c *Controller) (*metrics, error) {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: metricNamespace, Subsystem: metricSubsystem, Name: name, Help: help}
	}
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts(opts(name, help)), labels)
	}
	m := &metrics{
		passes: vec(metricPasses, "Comparisons of everything with the kernel, by result (done, failed).", "result"),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: metricNamespace, Subsystem: metricSubsystem, Name: metricPassDuration,
			Help:    "Time taken by comparing everything with the kernel and changing what differs.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 8), // 0.5 ms to 8 s
		}),
		ops:      vec(metricOps, "Changes of the IPVS table, by kind and result (done, failed, skipped, unknown).", "kind", "result"),
		heals:    prometheus.NewCounter(prometheus.CounterOpts(opts(metricHeals, "Changes of the IPVS table that undid somebody else's."))),
		renewals: vec(metricRenewals, "Renewals of a VIP's lifetime, by result (done, failed).", "result"),
		reloads:  vec(metricReloads, "New files, by result (done, failed).", "result"),
		counted:  make(map[[2]string]uint64),
	}
	writes := prometheus.NewCounterFunc(prometheus.CounterOpts(opts(metricWrites, "Commands sent to the kernel that change the IPVS table.")), func() float64 {
		return float64(c.kernel.Writes())
	})
	for _, result := range []string{"done", "failed"} {
		m.passes.WithLabelValues(result)
		m.renewals.WithLabelValues(result)
		m.reloads.WithLabelValues(result)
	}
	for _, col := range []prometheus.Collector{m.passes, m.duration, m.ops, m.heals, m.renewals, m.reloads, writes, newStateCollector(c)} {
		if err := reg.Register(col); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func result(ok bool) string {
	if ok {
		return "done"
	}
	return "failed"
}

func (m *metrics) pass(d time.Duration, ok bool) {
	m.passes.WithLabelValues(result(ok)).Inc()
	m.duration.Observe(d.Seconds())
}

func (m *metrics) op(k plan.Kind, result string) {
	m.ops.WithLabelValues(k.String(), result).Inc()
	m.counted[[2]string{k.String(), result}]++
}

func (m *metrics) heal(n int) { m.heals.Add(float64(n)) }

func (m *metrics) renewed(err error) { m.renewals.WithLabelValues(result(err == nil)).Inc() }

func (m *metrics) reload(ok bool) { m.reloads.WithLabelValues(result(ok)).Inc() }

// stateCollector asks the loop for its state when it is scraped.
type stateCollector struct {
	c                                                                    *Controller
	vip, services, servers, pending, failing, strangers, reachable, last *prometheus.Desc
	group, sync, connections                                             *prometheus.Desc
}

func newStateCollector(c *Controller) *stateCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName(metricNamespace, metricSubsystem, name), help, labels, nil)
	}
	return &stateCollector{
		c:           c,
		vip:         desc(metricVIP, "1 if the VIP is on its interface, else 0.", "vip", "interface"),
		group:       desc(metricGroup, "1 if this director is active for the group of VIPs, else 0.", "group"),
		sync:        desc(metricSync, "1 if the kernel's sync daemon of the role (master, backup) runs, else 0.", "role"),
		connections: desc(metricConnections, "Connections of the services in the IPVS table as last listed, by state (active, inactive).", "state"),
		services:    desc(metricServices, "Services of the spec."),
		servers:     desc(metricServers, "Real servers of all services of the spec."),
		pending:     desc(metricPending, "Differences between the spec and the IPVS table as last seen."),
		failing:     desc(metricFailing, "Changes of the IPVS table that the kernel refuses."),
		strangers:   desc("strangers", "Services in the IPVS table that are not ours and left alone."),
		reachable:   desc(metricReachable, "1 if the IPVS table could be read and changed at the last try, else 0."),
		last:        desc(metricLastPass, "When everything was compared with the kernel last."),
	}
}

func (s *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.vip, s.group, s.sync, s.connections, s.services, s.servers, s.pending, s.failing, s.strangers, s.reachable, s.last} {
		ch <- d
	}
}

func (s *stateCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), metricsTimeout)
	defer cancel()
	st, err := s.c.Status(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(s.last, err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	one := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, v := range st.VIPs {
		gauge(s.vip, one(v.State == VIPHeld || v.State == VIPStatic), v.Address.String(), v.Interface)
	}
	for _, g := range st.Groups {
		gauge(s.group, one(g.Role == "active"), g.Group)
	}
	if st.Sync != nil {
		for _, role := range []string{"master", "backup"} {
			gauge(s.sync, one(slices.ContainsFunc(st.Sync.Daemons, func(d DaemonStatus) bool { return d.Role == role })), role)
		}
	}
	if st.Connections != nil {
		gauge(s.connections, float64(st.Connections.Active), "active")
		gauge(s.connections, float64(st.Connections.Inactive), "inactive")
	}
	gauge(s.services, float64(len(st.want.Services)))
	gauge(s.servers, float64(st.want.Servers()))
	gauge(s.pending, float64(len(st.Pending.Ops)))
	gauge(s.failing, float64(len(st.Errors)))
	gauge(s.strangers, float64(len(st.Strangers)))
	gauge(s.reachable, one(st.Reconcile.Error == ""))
	gauge(s.last, float64(st.Reconcile.Last.UnixMilli())/1000)
}
