package ipvs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Module is the kernel module with IPVS itself.
const Module = "ip_vs"

func schedulerModule(name string) string { return "ip_vs_" + name }
func peModule(name string) string        { return "ip_vs_pe_" + name }

func missingModule(what, name, module string) string {
	return fmt.Sprintf("the kernel has no %s %q: module %s is missing", what, name, module)
}

// moduleLoaded says whether the kernel shows the module; of parts built into the kernel it shows none.
func moduleLoaded(module string) bool {
	_, err := os.Stat("/sys/module/" + module)
	return err == nil
}

// ErrModule is why a part of the kernel that IPVS needs cannot be had.
type ErrModule struct {
	What   string // "scheduler", "persistence engine" or "IPVS"
	Name   string // mh, sip
	Module string // ip_vs_mh
	Err    error  // what modprobe said
}

func (e *ErrModule) Error() string {
	what := e.What
	if e.Name != "" {
		what = fmt.Sprintf("%s %q", e.What, e.Name)
	}
	return fmt.Sprintf("the kernel has no %s: module %s cannot be loaded: %v", what, e.Module, e.Err)
}

func (e *ErrModule) Unwrap() error { return e.Err }

// LoadScheduler loads the module of a scheduler (ip_vs_NAME) unless it is there. Without it the
// kernel loads the module itself when a service is made, but does so with the whole table locked.
//
// The error is an [*ErrModule]. As modprobe may be missing where the scheduler is built into the
// kernel, a caller that can do without the check may go on and let the kernel decide.
func LoadScheduler(ctx context.Context, name string) error {
	if name == "none" { // the kernel's word for no scheduler
		return nil
	}
	if !moduleWord(name) {
		return fmt.Errorf("scheduler (%q) must be 1 to 15 of a-z, 0-9 and _", name)
	}
	return load(ctx, "scheduler", name, schedulerModule(name))
}

// LoadPE loads the module of a persistence engine (ip_vs_pe_NAME) unless it is there.
func LoadPE(ctx context.Context, name string) error {
	if !moduleWord(name) {
		return fmt.Errorf("persistence engine (%q) must be 1 to 15 of a-z, 0-9 and _", name)
	}
	return load(ctx, "persistence engine", name, peModule(name))
}

func load(ctx context.Context, what, name, module string) error {
	if moduleLoaded(module) {
		return nil
	}
	if err := modprobe(ctx, module); err != nil {
		return &ErrModule{What: what, Name: name, Module: module, Err: err}
	}
	return nil
}

// modprobe runs modprobe for at most the time of ctx, and DefaultTimeout.
func modprobe(ctx context.Context, module string) error {
	path, err := exec.LookPath("modprobe")
	for _, p := range []string{"/sbin/modprobe", "/usr/sbin/modprobe"} { // not in an ordinary user's PATH
		if err == nil {
			break
		}
		path, err = exec.LookPath(p)
	}
	if err != nil {
		return errors.New("modprobe is not installed (Debian package kmod)")
	}
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, module)
	cmd.WaitDelay = 100 * time.Millisecond
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		return fmt.Errorf("%s %s: %w", path, module, context.Cause(ctx))
	}
	if err != nil {
		if text := strings.Join(strings.Fields(out.String()), " "); text != "" {
			return errors.New(text)
		}
		return fmt.Errorf("%s %s: %w", path, module, err)
	}
	return nil
}
