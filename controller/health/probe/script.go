package probe

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/drover-lb/drover/controller/health"
	"github.com/drover-lb/drover/internal/program"
)

// script runs a program in a process group of its own, which is killed as a whole when ctx ends. It gets no
// environment but PATH and where the probe goes, and no input.
func (w *wire) script(ctx context.Context) (weight int, err error) {
	s := &w.target.Check.Script
	argv := strings.Split(s.Command, "\n")
	to := w.target.Place.To
	cred, err := program.Credential(s.User, true)
	if err != nil {
		return health.AsConfigured, err
	}
	env := []string{"DROVER_RIP=" + to.Addr().String(), "DROVER_PORT=" + strconv.Itoa(int(to.Port())), "DROVER_VIP=" + w.target.Place.VIP()}
	c := program.New(ctx, cred, env, argv...)
	if err = c.Start(); err == nil {
		err = c.Wait()
	}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return health.AsConfigured, ctx.Err()
	case err == nil:
		return health.AsConfigured, nil
	case !errors.As(err, &exit):
		return health.AsConfigured, err
	}
	status := exit.ExitCode()
	if s.Dynamic && status >= 2 {
		return min(max(status-2, int(s.Min)), int(s.Max)), nil
	}
	if words := c.Words(); words != "" {
		return health.AsConfigured, fmt.Errorf("%v: %s", exit, words)
	}
	return health.AsConfigured, exit
}
