package conf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxFileSize bounds a configuration file, in bytes. 10,000 real servers take about 1 MiB.
const MaxFileSize = 64 << 20

// Pos is a place in a file; line and column count from 1. The zero Pos is "no place".
type Pos struct{ Line, Column int }

func posOf(t *token.Token) Pos {
	if t == nil || t.Position == nil {
		return Pos{}
	}
	return Pos{Line: t.Position.Line, Column: t.Position.Column}
}

// Error is one complaint about a file. It prints as "file:line:column: place: message".
type Error struct {
	File    string
	Pos     Pos
	Place   string // such as `services[2] ("web"): weight`; may be empty
	Message string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Pos.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Pos.Line, e.Pos.Column)
	}
	b.WriteString(": ")
	if e.Place != "" {
		b.WriteString(e.Place + ": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Errors is every complaint about one file, in the order of the file, one to a line.
type Errors []*Error

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives errors.As access to each complaint.
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// Value is one scalar of a file as it was written.
type Value struct {
	Text string // without quotes
	Set  bool   // false when the key is absent, or its value is null
	Pos  Pos
}

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (v *Value) UnmarshalYAML(n ast.Node) error {
	for {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
			continue
		case *ast.TagNode:
			n = x.Value
			continue
		}
		break
	}
	pos := posOf(n.GetToken())
	switch x := n.(type) {
	case *ast.NullNode:
		*v = Value{Pos: pos}
	case *ast.StringNode:
		*v = Value{Text: x.Value, Set: true, Pos: pos}
	case *ast.LiteralNode:
		*v = Value{Text: x.Value.Value, Set: true, Pos: pos}
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		*v = Value{Text: strings.TrimSpace(n.GetToken().Value), Set: true, Pos: pos}
	case *ast.MappingNode, *ast.MappingValueNode:
		return &Error{Pos: pos, Message: "expected a single value, found a mapping"}
	case *ast.SequenceNode:
		return &Error{Pos: pos, Message: "expected a single value, found a list"}
	default:
		return &Error{Pos: pos, Message: fmt.Sprintf("expected a single value, found %s", n.Type())}
	}
	return nil
}

// At is a mapping (or any other value) together with the place where it starts, for complaints
// about what is missing from it.
type At[T any] struct {
	V   T
	Pos Pos
	Set bool
}

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (a *At[T]) UnmarshalYAML(n ast.Node) error {
	a.Pos = startOf(n)
	if _, null := n.(*ast.NullNode); null {
		return nil
	}
	a.Set = true
	return decode(n, reflect.ValueOf(&a.V).Elem())
}

// Reader turns Values into real types and collects complaints. Its methods return the default when
// the value is absent or wrong, so that a caller can go on to the next field.
type Reader struct {
	file   string
	prefix string
	errs   *Errors
}

// Load decodes the YAML file at path into raw, a pointer to a struct. An error is of type [Errors]
// when the content is at fault, and otherwise what the file system said.
func Load(path string, raw any) (*Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("failed to read %q: %w", path, err)
	}
	if len(b) > MaxFileSize {
		return nil, Errors{{File: path, Message: fmt.Sprintf("file is larger than %d bytes", MaxFileSize)}}
	}
	return Parse(path, b, raw)
}

// Parse is Load for content that is already in memory; name stands for the file in complaints.
func Parse(name string, content []byte, raw any) (r *Reader, err error) {
	defer func() {
		// The YAML library has panicked on hostile input before; a file must not be able to stop a daemon.
		if p := recover(); p != nil {
			r, err = nil, Errors{{File: name, Message: fmt.Sprintf("not readable as YAML (%v)", p)}}
		}
	}()
	doc, err := parser.ParseBytes(content, 0)
	if err != nil {
		return nil, Errors{convert(name, err)}
	}
	var body ast.Node
	for _, d := range doc.Docs {
		if d.Body == nil {
			continue
		}
		if body != nil {
			return nil, Errors{{File: name, Pos: posOf(d.Body.GetToken()), Message: "more than one YAML document in the file: expected exactly one"}}
		}
		body = d.Body
	}
	if body == nil {
		return &Reader{file: name, errs: new(Errors)}, nil
	}
	body, err = (&aliases{anchors: map[string]ast.Node{}}).resolve(body)
	if err == nil {
		err = decode(body, reflect.ValueOf(raw).Elem())
	}
	if err != nil {
		return nil, Errors{convert(name, err)}
	}
	return &Reader{file: name, errs: new(Errors)}, nil
}

// convert gives an error of the YAML library our form.
func convert(name string, err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return &Error{File: name, Pos: own.Pos, Place: own.Place, Message: own.Message}
	}
	var ye yaml.Error
	if errors.As(err, &ye) {
		return &Error{File: name, Pos: posOf(ye.GetToken()), Message: ye.GetMessage()}
	}
	return &Error{File: name, Message: err.Error()}
}

// In returns a Reader whose complaints are prefixed with place; it shares the list of complaints.
func (r *Reader) In(format string, args ...any) *Reader {
	p := fmt.Sprintf(format, args...)
	if r.prefix != "" {
		p = r.prefix + ": " + p
	}
	return &Reader{file: r.file, prefix: p, errs: r.errs}
}

// Errorf adds a complaint about field (may be empty) at pos.
func (r *Reader) Errorf(pos Pos, field, format string, args ...any) {
	place := r.prefix
	if field != "" {
		if place != "" {
			place += ": "
		}
		place += field
	}
	*r.errs = append(*r.errs, &Error{File: r.file, Pos: pos, Place: place, Message: fmt.Sprintf(format, args...)})
}

// Err returns nil, or all complaints as [Errors] sorted by their place in the file.
func (r *Reader) Err() error {
	if len(*r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(*r.errs, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Pos.Line, b.Pos.Line), cmp.Compare(a.Pos.Column, b.Pos.Column))
	})
	return *r.errs
}

// Failed reports whether there has been any complaint.
func (r *Reader) Failed() bool { return len(*r.errs) > 0 }

// String returns the text of v, or def when it is absent.
func (r *Reader) String(v Value, def string) string {
	if !v.Set {
		return def
	}
	return v.Text
}

// Int reads a decimal whole number between lo and hi, both included.
func (r *Reader) Int(v Value, field string, lo, hi, def int64) int64 {
	if !v.Set {
		return def
	}
	n, err := strconv.ParseInt(v.Text, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && (n < lo || n > hi):
		if hi == math.MaxInt64 {
			r.Errorf(v.Pos, field, "%s is out of range: must be at least %d", v.Text, lo)
		} else {
			r.Errorf(v.Pos, field, "%s is out of range: must be between %d and %d", v.Text, lo, hi)
		}
		return def
	case err != nil:
		r.Errorf(v.Pos, field, "%q is not a whole number between %d and %d", v.Text, lo, hi)
		return def
	}
	return n
}

// Float reads a number between lo and hi, both included.
func (r *Reader) Float(v Value, field string, lo, hi, def float64) float64 {
	if !v.Set {
		return def
	}
	f, err := strconv.ParseFloat(v.Text, 64)
	if err != nil || math.IsNaN(f) || f < lo || f > hi {
		r.Errorf(v.Pos, field, "%q is not a number between %g and %g", v.Text, lo, hi)
		return def
	}
	return f
}

// Bool reads true or false.
func (r *Reader) Bool(v Value, field string, def bool) bool {
	if !v.Set {
		return def
	}
	switch v.Text {
	case "true":
		return true
	case "false":
		return false
	}
	r.Errorf(v.Pos, field, "%q is neither true nor false", v.Text)
	return def
}

// Duration reads a time with its unit, such as 250ms, 5s or 1h30m, between lo and hi, both included.
func (r *Reader) Duration(v Value, field string, lo, hi, def time.Duration) time.Duration {
	if !v.Set {
		return def
	}
	d, err := time.ParseDuration(v.Text)
	if err != nil {
		if _, nerr := strconv.ParseFloat(v.Text, 64); nerr == nil {
			r.Errorf(v.Pos, field, "%q has no unit: write %ss or %sms, between %s and %s", v.Text, v.Text, v.Text, lo, hi)
		} else {
			r.Errorf(v.Pos, field, "%q is not a time such as 250ms or 5s, between %s and %s", v.Text, lo, hi)
		}
		return def
	}
	if d < lo || d > hi {
		r.Errorf(v.Pos, field, "%s is out of range: must be between %s and %s", v.Text, lo, hi)
		return def
	}
	return d
}

// Addr reads an IPv4 or IPv6 address. The zero Addr stands for absent or wrong. An address with a
// zone is refused.
func (r *Reader) Addr(v Value, field string) netip.Addr {
	if !v.Set {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(v.Text)
	switch {
	case err != nil:
		r.Errorf(v.Pos, field, "%q is not an IPv4 or IPv6 address", v.Text)
		return netip.Addr{}
	case a.Zone() != "":
		r.Errorf(v.Pos, field, "%q has a zone: write the address without %%%s", v.Text, a.Zone())
		return netip.Addr{}
	}
	return a.Unmap()
}

// Prefix reads an address with prefix length, or a bare address, which gets the full length. The
// host bits are kept.
func (r *Reader) Prefix(v Value, field string) netip.Prefix {
	if !v.Set {
		return netip.Prefix{}
	}
	if !strings.Contains(v.Text, "/") {
		a := r.Addr(v, field)
		if !a.IsValid() {
			return netip.Prefix{}
		}
		return netip.PrefixFrom(a, a.BitLen())
	}
	p, err := netip.ParsePrefix(v.Text)
	if err != nil || p.Addr().Is4In6() {
		r.Errorf(v.Pos, field, "%q is not an address with prefix length, such as 192.0.2.10/24 (0 to 32) or 2001:db8::10/64 (0 to 128)", v.Text)
		return netip.Prefix{}
	}
	return p
}

// OneOf reads a word out of allowed.
func OneOf[T ~string](r *Reader, v Value, field string, def T, allowed ...T) T {
	if !v.Set {
		return def
	}
	if slices.Contains(allowed, T(v.Text)) {
		return T(v.Text)
	}
	words := make([]string, len(allowed))
	for i, a := range allowed {
		words[i] = string(a)
	}
	r.Errorf(v.Pos, field, "%q is not one of: %s", v.Text, strings.Join(words, ", "))
	return def
}

// Required complains when v is absent or empty, at pos (where the mapping starts), and reports
// whether it is there.
func (r *Reader) Required(v Value, field string, pos Pos) bool {
	if v.Set && v.Text != "" {
		return true
	}
	if v.Pos != (Pos{}) {
		pos = v.Pos
	}
	r.Errorf(pos, field, "is required")
	return false
}

// List is one scalar or a list of scalars, so that `start: a` and `start: [a, b]` both read.
type List []Value

// UnmarshalYAML implements yaml.NodeUnmarshaler.
func (l *List) UnmarshalYAML(n ast.Node) error {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		var v Value
		if err := v.UnmarshalYAML(n); err != nil {
			return err
		}
		*l = nil
		if v.Set {
			*l = List{v}
		}
		return nil
	}
	*l = make(List, len(seq.Values))
	for i, e := range seq.Values {
		if err := (*l)[i].UnmarshalYAML(e); err != nil {
			return err
		}
	}
	return nil
}

// Texts returns the words of the list.
func (l List) Texts() []string {
	out := make([]string, len(l))
	for i, v := range l {
		out[i] = v.Text
	}
	return out
}
