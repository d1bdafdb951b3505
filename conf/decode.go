package conf

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
)

// decode fills v from a document whose aliases are written out. Raw structs are made of structs,
// lists and types with their own UnmarshalYAML, and these it reads itself: the library would turn
// every part of the document into maps first, once more for each [At] around it. Whatever else a raw
// struct holds is left to the library.
func decode(n ast.Node, v reflect.Value) error {
	if u, ok := v.Addr().Interface().(yaml.NodeUnmarshaler); ok {
		return u.UnmarshalYAML(n)
	}
	if n.Type() == ast.NullType {
		v.SetZero()
		return nil
	}
	switch v.Kind() {
	case reflect.Struct:
		if fields := fieldsOf(v.Type()); fields.byName != nil {
			return decodeStruct(n, v, fields)
		}
	case reflect.Slice:
		return decodeSlice(n, v)
	}
	return yaml.NodeToValue(n, v.Addr().Interface(), yaml.Strict())
}

// ScalarOr reads a value that has a short form: a single value goes into short, and a mapping into
// what mapping points to, a struct without an UnmarshalYAML of its own.
func ScalarOr(n ast.Node, short *Value, mapping any) error {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return decode(n, reflect.ValueOf(mapping).Elem())
	case *ast.SequenceNode:
		return &Error{Pos: startOf(n), Message: "expected a single value or a mapping, found a list"}
	}
	return short.UnmarshalYAML(n)
}

func decodeStruct(n ast.Node, v reflect.Value, fields *fields) error {
	var values []*ast.MappingValueNode
	switch x := n.(type) {
	case *ast.MappingNode:
		values = x.Values
	case *ast.MappingValueNode:
		values = []*ast.MappingValueNode{x}
	default:
		return &Error{Pos: startOf(n), Message: "expected a mapping, found " + kindOf(n)}
	}
	for _, kv := range values {
		key := kv.Key.GetToken().Value
		i, known := fields.byName[key]
		if !known {
			return &Error{Pos: posOf(kv.Key.GetToken()), Message: fmt.Sprintf("unknown field %q: expected one of: %s", key, fields.list)}
		}
		if err := decode(kv.Value, v.Field(i)); err != nil {
			return within(key, err)
		}
	}
	return nil
}

func decodeSlice(n ast.Node, v reflect.Value) error {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		return &Error{Pos: startOf(n), Message: "expected a list, found " + kindOf(n)}
	}
	v.Set(reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values)))
	for i, e := range seq.Values {
		if err := decode(e, v.Index(i)); err != nil {
			return within(fmt.Sprintf("[%d]", i), err)
		}
	}
	return nil
}

// within puts a key or an index in front of the place of an error of ours.
func within(outer string, err error) error {
	var own *Error
	if !errors.As(err, &own) {
		return err
	}
	switch {
	case own.Place == "":
		own.Place = outer
	case own.Place[0] == '[':
		own.Place = outer + own.Place
	default:
		own.Place = outer + ": " + own.Place
	}
	return own
}

// startOf is where n begins. The token of a mapping in block style is its first colon.
func startOf(n ast.Node) Pos {
	switch x := n.(type) {
	case *ast.MappingNode:
		if len(x.Values) > 0 && x.Start != nil && x.Start.Value != "{" {
			return posOf(x.Values[0].Key.GetToken())
		}
	case *ast.MappingValueNode:
		return posOf(x.Key.GetToken())
	}
	return posOf(n.GetToken())
}

func kindOf(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	}
	return "a single value"
}

// fields are the keys of a struct. byName is nil if the struct has fields for the library to handle.
type fields struct {
	byName map[string]int
	list   string // the keys in the order of the struct, for complaints
}

var fieldCache sync.Map // of reflect.Type to *fields

func fieldsOf(t reflect.Type) *fields {
	if f, ok := fieldCache.Load(t); ok {
		return f.(*fields)
	}
	f := &fields{byName: map[string]int{}}
	var names []string
	for i := range t.NumField() {
		sf := t.Field(i)
		name, options, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if sf.Anonymous || options != "" {
			f.byName = nil
			break
		}
		if name == "-" || !sf.IsExported() {
			continue
		}
		if name == "" {
			name = strings.ToLower(sf.Name)
		}
		f.byName[name] = i
		names = append(names, name)
	}
	f.list = strings.Join(names, ", ")
	fieldCache.Store(t, f)
	return f
}
