package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
)

// contextWithTimeout bounds a command; the error says what the bound was.
func contextWithTimeout(c *cli.Context, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(c.Context, d, fmt.Errorf("not done after %s", d))
}

// passOn is the part of the environment that goes along into the lab: Go's and Drover's own settings.
func passOn() []string {
	var out []string
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "GO") || strings.HasPrefix(kv, "DROVER_") && !strings.HasPrefix(kv, "DROVER_UML") {
			out = append(out, kv)
		}
	}
	return out
}
