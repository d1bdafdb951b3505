package spec

import (
	"github.com/goccy/go-yaml/ast"

	"github.com/drover-lb/drover/cluster/settings"
	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/notify/sink"
)

// The file as it is written. Keys that are not here are refused.
type (
	rawFile struct {
		Director conf.At[rawDirector]           `yaml:"director"`
		Cluster  conf.At[settings.Raw]          `yaml:"cluster"`
		VIPs     conf.At[[]conf.At[rawVIP]]     `yaml:"vips"`
		Services conf.At[[]conf.At[rawService]] `yaml:"services"`
	}

	rawDirector struct {
		Interface         conf.Value                   `yaml:"interface"`
		Ownership         conf.Value                   `yaml:"ownership"`
		OnStop            conf.Value                   `yaml:"on_stop"`
		ReconcileInterval conf.Value                   `yaml:"reconcile_interval"`
		VIPLifetime       conf.Value                   `yaml:"vip_lifetime"`
		Sysctls           conf.Value                   `yaml:"sysctls"`
		CheckMark         conf.Value                   `yaml:"check_mark"`
		Scripts           conf.Value                   `yaml:"scripts"`
		Socket            conf.Value                   `yaml:"socket"`
		Notify            conf.At[[]conf.At[sink.Raw]] `yaml:"notify"`
	}

	rawVIP struct {
		Address   conf.Value `yaml:"address"`
		Interface conf.Value `yaml:"interface"`
		Group     conf.Value `yaml:"group"`
	}

	rawService struct {
		Name           conf.Value                    `yaml:"name"`
		Address        conf.Value                    `yaml:"address"`
		Port           conf.Value                    `yaml:"port"`
		Protocol       conf.Value                    `yaml:"protocol"`
		FWMark         conf.Value                    `yaml:"fwmark"`
		Family         conf.Value                    `yaml:"family"`
		Scheduler      conf.Value                    `yaml:"scheduler"`
		SchedulerFlags []conf.Value                  `yaml:"scheduler_flags"`
		OnePacket      conf.Value                    `yaml:"one_packet"`
		Persistence    conf.At[rawPersistence]       `yaml:"persistence"`
		Forwarding     conf.Value                    `yaml:"forwarding"`
		Tunnel         conf.At[rawTunnel]            `yaml:"tunnel"`
		Pool           conf.Value                    `yaml:"pool"`
		Checks         conf.At[[]conf.At[rawCheck]]  `yaml:"checks"`
		Health         conf.At[rawHealth]            `yaml:"health"`
		Drain          conf.At[rawDrain]             `yaml:"drain"`
		Adaptive       conf.At[rawAdaptive]          `yaml:"adaptive"`
		RealServers    conf.At[[]conf.At[rawServer]] `yaml:"real_servers"`
	}

	rawPersistence struct {
		Timeout conf.Value `yaml:"timeout"`
		Netmask conf.Value `yaml:"netmask"`
		Engine  conf.Value `yaml:"engine"`
	}

	rawTunnel struct {
		Type     conf.Value `yaml:"type"`
		Port     conf.Value `yaml:"port"`
		Checksum conf.Value `yaml:"checksum"`
	}

	rawServer struct {
		Name           conf.Value         `yaml:"name"`
		Address        conf.Value         `yaml:"address"`
		Port           conf.Value         `yaml:"port"`
		Weight         conf.Value         `yaml:"weight"`
		UpperThreshold conf.Value         `yaml:"upper_threshold"`
		LowerThreshold conf.Value         `yaml:"lower_threshold"`
		Forwarding     conf.Value         `yaml:"forwarding"`
		Tunnel         conf.At[rawTunnel] `yaml:"tunnel"`
		Drain          conf.At[rawDrain]  `yaml:"drain"`
	}
)

// Some mappings have a short form, a single value that stands for their most important key.

func (v *rawVIP) UnmarshalYAML(n ast.Node) error {
	type mapping rawVIP
	return conf.ScalarOr(n, &v.Address, (*mapping)(v))
}

func (p *rawPersistence) UnmarshalYAML(n ast.Node) error {
	type mapping rawPersistence
	return conf.ScalarOr(n, &p.Timeout, (*mapping)(p))
}

func (t *rawTunnel) UnmarshalYAML(n ast.Node) error {
	type mapping rawTunnel
	return conf.ScalarOr(n, &t.Type, (*mapping)(t))
}

func (d *rawDrain) UnmarshalYAML(n ast.Node) error {
	type mapping rawDrain
	return conf.ScalarOr(n, &d.On, (*mapping)(d))
}

func (s *rawServer) UnmarshalYAML(n ast.Node) error {
	type mapping rawServer
	return conf.ScalarOr(n, &s.Address, (*mapping)(s))
}
