package main

import (
	"cmp"
	"slices"

	"github.com/drover-lb/drover/controller/owned"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// defaultStateDir is where a director keeps what its successor has to know.
const defaultStateDir = "/run/drover"

// public drops the services that a director on this host has for its health checks.
func public(services []ipvs.ServiceEntry) []ipvs.ServiceEntry {
	mark := cmp.Or(owned.CheckMark(defaultStateDir), spec.DefaultCheckMark)
	return slices.DeleteFunc(services, func(s ipvs.ServiceEntry) bool { return plan.Private(s.Key, mark) })
}
