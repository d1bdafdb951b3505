package edit

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/drover-lb/drover/conf"
	"github.com/drover-lb/drover/controller/spec"
)

// Change changes values. An error says why it does not apply to them.
type Change func(*spec.Spec) error

// Result is a changed document.
type Result struct {
	Text []byte
	Spec *spec.Spec // what it says
	// Rewritten: the document is written anew, and its comments and its layout are gone.
	Rewritten bool
	// Warnings are what the document says that is allowed but hardly meant, where the change brought it.
	Warnings []string
}

// empty is the document of a cluster that has none yet.
const empty = "vips: []\nservices: []\n"

// Apply makes the changes, one after the other, to a document that [spec.ParseSpec] takes, or an empty one. An
// error is that of the change if it does not apply, and otherwise an [*InvalidError].
func Apply(text []byte, changes ...Change) (*Result, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		text = []byte(empty)
	}
	old, err := spec.ParseSpec("the specification in force", text)
	if err != nil {
		return nil, err
	}
	want := old.Spec.Clone()
	for _, c := range changes {
		if err := c(&want); err != nil {
			return nil, err
		}
	}
	// What the values are held to is what a file is held to.
	anew := want.Format()
	read, err := spec.ParseSpec("", anew)
	if err != nil {
		return nil, complaint(err)
	}
	want = read.Spec
	out := &Result{Text: text, Spec: &want}
	for _, w := range read.Warnings {
		if !said(old.Warnings, w) {
			out.Warnings = append(out.Warnings, w.Place+": "+w.Message)
		}
	}
	if want.Equal(&old.Spec) {
		return out, nil
	}
	out.Text = patch(text, &old.Spec, &want)
	if got, err := spec.ParseSpec("", out.Text); err != nil || !got.Spec.Equal(&want) {
		out.Text, out.Rewritten = anew, true
	}
	return out, nil
}

// said reports whether a complaint of the same words is in list. Places move when lists change.
func said(list conf.Errors, w *conf.Error) bool {
	for _, o := range list {
		if o.Message == w.Message {
			return true
		}
	}
	return false
}

// InvalidError says that the changed values are none that a specification can have, whatever it was before.
type InvalidError struct{ text string }

// Error names each value, with its bounds.
func (e *InvalidError) Error() string { return e.text }

// complaint leaves out of complaints the lines of a document that nobody has seen.
func complaint(err error) error {
	var list conf.Errors
	if !errors.As(err, &list) {
		return err
	}
	lines := make([]string, len(list))
	for i, e := range list {
		lines[i] = strings.TrimPrefix(fmt.Sprintf("%s: %s", e.Place, e.Message), ": ")
	}
	return &InvalidError{strings.Join(lines, "\n")}
}
