package sysctl

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Compare says when the value found is as good as the wanted one.
type Compare uint8

const (
	Equal   Compare = iota // the same text; runs of white space count as one space
	AtLeast                // a whole number that is not smaller: a stronger value is left alone
)

// Row is one setting that a program wants.
type Row struct {
	Key      string // see [Path] for the forms
	Value    string
	Compare  Compare
	Reason   string // for people: what breaks without it
	Optional bool   // the kernel may lack it (IPv6 switched off, a module not loaded)
}

func (r Row) satisfiedBy(value string) bool {
	if r.Compare == AtLeast {
		have, err := strconv.ParseInt(value, 10, 64)
		want, werr := strconv.ParseInt(r.Value, 10, 64)
		return err == nil && werr == nil && have >= want
	}
	return same(value, r.Value)
}

func same(a, b string) bool { return slices.Equal(strings.Fields(a), strings.Fields(b)) }

// Action is what was done with one setting.
type Action uint8

const (
	Written  Action = iota // set to the wanted value
	Restored               // set back to the earlier value
	Left                   // not set back: somebody has given it a third value since, which is in From
	Released               // not set back: another holder still wants it
	Gone                   // not set back: the setting is there no more, as when its interface was removed
)

var actionNames = [...]string{"written", "restored", "left as somebody else set it", "left to another holder", "gone"}

func (a Action) String() string {
	if int(a) < len(actionNames) {
		return actionNames[a]
	}
	return fmt.Sprintf("Action(%d)", uint8(a))
}

// Change tells what was done with one setting.
type Change struct {
	Key    string
	Action Action
	From   string // value found
	To     string // value written; or, with Left and Gone, the earlier value that was not written
	Reason string // of the row; empty when no row wants the setting any more
}

func (c Change) String() string {
	switch c.Action {
	case Left:
		return fmt.Sprintf("%s is %s, %s (earlier value %s)", c.Key, c.From, c.Action, c.To)
	case Released:
		return fmt.Sprintf("%s is %s, %s", c.Key, c.From, c.Action)
	case Gone:
		return fmt.Sprintf("%s is gone (earlier value %s)", c.Key, c.To)
	}
	return fmt.Sprintf("%s %s: %s -> %s", c.Key, c.Action, c.From, c.To)
}

// DefaultRoot is where the kernel shows its settings.
const DefaultRoot = "/proc/sys"

// Options of a Keeper.
type Options struct {
	State  string // path of the state file; its directory is made when absent
	Holder string // name of the program in a shared state file, such as "director"
	Root   string // default DefaultRoot
}

// Keeper applies, repairs and restores settings. It is not safe for concurrent use; several
// processes may share its state file.
type Keeper struct {
	opts     Options
	rows     []Row    // what Apply was last called with, keys as paths
	recorded []*entry // what the state file held when last seen, should somebody remove it
}

// New returns a Keeper; it touches nothing yet.
func New(opts Options) (*Keeper, error) {
	if opts.State == "" || opts.Holder == "" {
		return nil, fmt.Errorf("sysctl state file (%q) and holder (%q) must be given", opts.State, opts.Holder)
	}
	if opts.Root == "" {
		opts.Root = DefaultRoot
	}
	return &Keeper{opts: opts}, nil
}

// validate returns rows with their keys as paths.
func validate(rows []Row) ([]Row, error) {
	out := slices.Clone(rows)
	seen := make(map[string]bool, len(rows))
	var errs []error
	for i, r := range rows {
		path, err := Path(r.Key)
		switch {
		case err != nil:
		case seen[path]:
			err = fmt.Errorf("sysctl %s is wanted twice", r.Key)
		case strings.TrimSpace(r.Value) == "" || strings.ContainsAny(r.Value, "\n\x00"):
			err = fmt.Errorf("sysctl %s: %q is not a value", r.Key, r.Value)
		case r.Compare == AtLeast:
			if _, perr := strconv.ParseInt(r.Value, 10, 64); perr != nil {
				err = fmt.Errorf("sysctl %s: %q is not a whole number, as at-least needs", r.Key, r.Value)
			}
		}
		seen[path] = true
		out[i].Key = path
		errs = append(errs, err)
	}
	return out, errors.Join(errs...)
}

// Apply makes rows the wanted settings, all of them: it records the earlier values, writes in the
// order of rows what is not as wanted, and then puts back what an earlier Apply (of this process or
// of a predecessor) wanted and rows do not. It goes on after a row that fails and returns all errors;
// nothing is written when rows are invalid or the earlier values cannot be recorded.
func (k *Keeper) Apply(rows []Row) ([]Change, error) {
	valid, err := validate(rows)
	if err != nil {
		return nil, err
	}
	k.rows = valid
	return k.write()
}

// Repair writes again what somebody has changed since Apply and returns what it found and wrote. It
// writes nothing, and does not touch the state file, while everything is as wanted.
func (k *Keeper) Repair() ([]Change, error) {
	if _, err := os.Stat(k.opts.State); errors.Is(err, fs.ErrNotExist) && len(k.recorded) > 0 {
		return k.write() // somebody removed the earlier values; we still know them
	}
	for _, r := range k.rows {
		value, err := k.read(r.Key)
		if err == nil && r.satisfiedBy(value) || r.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return k.write()
	}
	return nil, nil
}

func (k *Keeper) write() (changes []Change, err error) {
	st, unlock, err := k.open()
	if err != nil {
		return nil, err
	}
	defer unlock()

	var errs []error
	var todo []Change
	for _, r := range k.rows {
		value, err := k.read(r.Key)
		if err != nil {
			if r.Optional && errors.Is(err, fs.ErrNotExist) {
				continue
			}
			errs = append(errs, k.explain("read", r.Key, r.Value, r.Reason, err))
			continue
		}
		st.hold(r.Key, value, r.Value, k.opts.Holder)
		if !r.satisfiedBy(value) {
			todo = append(todo, Change{Key: r.Key, From: value, To: r.Value, Reason: r.Reason})
		}
	}
	k.recorded = slices.Clone(st.entries())
	if err := st.save(); err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	for _, c := range todo {
		// Writing an earlier row may have changed this one, either way.
		if err := k.put(c.Key, c.To); err != nil {
			errs = append(errs, k.explain("write", c.Key, c.To, c.Reason, err))
			continue
		}
		c.Key = Key(c.Key)
		changes = append(changes, c)
	}
	unwanted := func(key string) bool {
		return !slices.ContainsFunc(k.rows, func(r Row) bool { return r.Key == key })
	}
	more, err := k.release(st, unwanted)
	return append(changes, more...), errors.Join(append(errs, err)...)
}

// Restore puts the earlier values back in the reverse of the order in which they were recorded, and
// removes the state file when nobody else holds anything in it. A setting that somebody has given a
// third value since is left alone; the returned changes say so. What could not be written back stays
// recorded, and is in the error. Without a state file there is nothing to do.
func (k *Keeper) Restore() ([]Change, error) {
	k.rows = nil
	if _, err := os.Stat(k.opts.State); errors.Is(err, fs.ErrNotExist) && len(k.recorded) == 0 {
		return nil, nil
	}
	st, unlock, err := k.open()
	if err != nil {
		return nil, err
	}
	defer unlock()
	return k.release(st, func(string) bool { return true })
}

// open locks and reads the state file, and puts back what was removed from it behind our back: without
// that, our own values would be recorded as the earlier ones.
func (k *Keeper) open() (*state, func(), error) {
	st, unlock, err := openState(k.opts)
	if err != nil {
		return nil, nil, err
	}
	if len(st.entries()) == 0 && len(k.recorded) > 0 {
		for _, e := range k.recorded {
			e.Holders = []string{k.opts.Holder}
		}
		st.file.Namespaces[st.ns] = slices.Clone(k.recorded)
	}
	return st, unlock, nil
}

// release gives up the recorded settings of this holder that unwanted selects, last recorded first.
func (k *Keeper) release(st *state, unwanted func(key string) bool) ([]Change, error) {
	var changes []Change
	var errs []error
	touched := false
	for _, e := range slices.Backward(slices.Clone(st.entries())) {
		if !slices.Contains(e.Holders, k.opts.Holder) || !unwanted(e.Key) {
			continue
		}
		touched = true
		value, err := k.read(e.Key)
		c := Change{Key: Key(e.Key), From: value, To: e.Original}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			c.Action = Gone
		case err != nil:
			errs = append(errs, k.explain("read", e.Key, e.Original, "earlier value", err))
			continue
		case len(e.Holders) > 1:
			c.Action = Released
		case value == e.Original:
			st.drop(e.Key, k.opts.Holder)
			continue
		case !slices.ContainsFunc(e.Ours, func(ours string) bool { return same(value, ours) }):
			c.Action = Left
		default:
			if err := k.put(e.Key, e.Original); err != nil {
				errs = append(errs, k.explain("restore", e.Key, e.Original, "earlier value", err))
				continue
			}
			c.Action = Restored
		}
		st.drop(e.Key, k.opts.Holder)
		changes = append(changes, c)
	}
	if touched {
		k.recorded = slices.Clone(st.entries())
		errs = append(errs, st.save())
	}
	return changes, errors.Join(errs...)
}

// maxValue bounds what is read of one setting, in bytes; the kernel's own limit for one read is a page
// for numbers and 64 KiB for bitmaps.
const maxValue = 64 << 10

func (k *Keeper) read(path string) (string, error) {
	f, err := os.Open(filepath.Join(k.opts.Root, path))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxValue))
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(b), "\n"), nil
}

// put writes value in one system call, as /proc/sys needs, and reads it back: some settings are
// clamped or ignored without an error.
func (k *Keeper) put(path, value string) error {
	f, err := os.OpenFile(filepath.Join(k.opts.Root, path), os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value + "\n")
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	got, err := k.read(path)
	if err != nil {
		return err
	}
	if !same(got, value) {
		return fmt.Errorf("the kernel accepted it and shows %q", got)
	}
	return nil
}

func (k *Keeper) explain(verb, path, value, reason string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EROFS):
		hint = fmt.Sprintf(" (%s is mounted read-only, as in a container that is not privileged)", k.opts.Root)
	case errors.Is(err, fs.ErrPermission):
		hint = " (needs root or CAP_NET_ADMIN)"
	case errors.Is(err, fs.ErrNotExist):
		hint = " (no such interface, or a module or protocol that this kernel has not loaded)"
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the path repeats the key
	}
	return fmt.Errorf("failed to %s sysctl %s, value %s (%s): %w%s", verb, Key(path), value, reason, err, hint)
}
