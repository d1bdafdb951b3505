package controller

import (
	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/controller/plan"
	"github.com/drover-lb/drover/controller/spec"
	"github.com/drover-lb/drover/ipvs"
)

// Health says which real servers are fit for traffic; [health.Engine] does. Its methods do not block.
type Health interface {
	// SetSpec says what is to be checked. The controller does not change s any more.
	SetSpec(s *spec.Spec)
	// SetPath says whether IPVS forwards what this host sends itself. A standby's does not as long as connections
	// are synchronised to it (net.ipv4.vs.backup_only): a marked packet would go to the active director.
	SetPath(viaVIP bool)
	// SetLead says whether this director is active for anything.
	SetLead(active bool)
	// Changed has a value when View or Private may say something new.
	Changed() <-chan struct{}
	View() health.View
	// Private are services that the checks need in the table.
	Private() plan.State
	// Programmed says which of them are in the kernel.
	Programmed(plan.State)
}

// noHealth takes all real servers for fit.
type noHealth struct{}

func (noHealth) SetSpec(*spec.Spec)       {}
func (noHealth) SetPath(bool)             {}
func (noHealth) SetLead(bool)             {}
func (noHealth) Changed() <-chan struct{} { return nil }
func (noHealth) View() health.View        { return nil }
func (noHealth) Private() plan.State      { return plan.State{} }
func (noHealth) Programmed(plan.State)    {}

// admit makes c.want the table that the file and the health of its servers ask for, where have is in the kernel.
// It returns the changes that this asks for since the last time, which are nobody else's doing.
func (c *Controller) admit(have plan.State) map[opKey]bool {
	want := c.wantedOf(have)
	moved := make(map[opKey]bool)
	p := plan.Diff(want, c.want, func(ipvs.Key) bool { return true })
	for i := range p.Ops {
		moved[keyOf(&p.Ops[i])] = true
	}
	c.want = want
	return moved
}

// wantedOf is the table that is wanted if have is in the kernel.
func (c *Controller) wantedOf(have plan.State) plan.State {
	if c.opts.Health == (noHealth{}) {
		return c.drains.apply(plan.Want(&c.file.Spec))
	}
	return c.drains.apply(health.Want(&c.file.Spec, c.opts.Health.View(), have))
}

// privately reports whether a change is one of the private services.
func (c *Controller) privately(o *plan.Op) bool {
	return plan.Private(o.Service.Key, c.file.Director.CheckMark)
}

// count counts a change by its result, unless it is private.
func (c *Controller) count(o *plan.Op, result string) {
	if !c.privately(o) {
		c.metrics.op(o.Kind, result)
	}
}
