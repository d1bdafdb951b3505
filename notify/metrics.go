package notify

import "github.com/prometheus/client_golang/prometheus"

// collector reads the sinks when it is scraped. Its labels are the names of sinks, of which a file has sink.MaxSinks at the most.
type collector struct {
	n                                       *Notifier
	events, tries, queued, failing, success *prometheus.Desc
}

func newCollector(n *Notifier) *collector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(prometheus.BuildFQName("drover", "notify", name), help, labels, nil)
	}
	return &collector{
		n:       n,
		events:  desc("events_total", "Events for a sink, by result (sent, dropped).", "sink", "result"),
		tries:   desc("failed_tries_total", "Tries to tell a sink that failed.", "sink"),
		queued:  desc("queued_events", "Events that wait for a sink.", "sink"),
		failing: desc("failing", "1 if the last try to tell the sink failed, else 0.", "sink"),
		success: desc("last_success_timestamp_seconds", "When a sink was last told of something; 0: never.", "sink"),
	}
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.events, c.tries, c.queued, c.failing, c.success} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	for _, s := range c.n.Status() {
		counter := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
		}
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, s.Name)
		}
		counter(c.events, s.Sent, s.Name, "sent")
		counter(c.events, s.Dropped, s.Name, "dropped")
		counter(c.tries, s.Failed, s.Name)
		gauge(c.queued, float64(s.Queued))
		failing, last := 0.0, 0.0
		if !s.Failing.IsZero() {
			failing = 1
		}
		if !s.Last.IsZero() {
			last = float64(s.Last.UnixMilli()) / 1000
		}
		gauge(c.failing, failing)
		gauge(c.success, last)
	}
}
