package conf

import (
	"fmt"

	"github.com/goccy/go-yaml/ast"
)

// maxNodes bounds a document with its aliases written out, so that a short file cannot grow without
// limit in memory. 10,000 real servers are about 100,000 nodes.
const maxNodes = 4 << 20

// aliases writes out anchors, aliases and merge keys of a document (YAML 1.2.2, 7.1; merge key "<<").
// The library resolves them only while it decodes a whole document, and [At] decodes parts.
type aliases struct {
	anchors map[string]ast.Node
	nodes   int
}

func tooLarge(at ast.Node) error {
	return &Error{Pos: posOf(at.GetToken()), Message: fmt.Sprintf("aliases make the document larger than %d values", maxNodes)}
}

// resolve returns n without anchors, aliases and merge keys.
func (a *aliases) resolve(n ast.Node) (ast.Node, error) {
	if a.nodes++; a.nodes > maxNodes {
		return nil, tooLarge(n)
	}
	switch x := n.(type) {
	case *ast.AnchorNode:
		name := x.Name.GetToken().Value
		v, err := a.resolve(x.Value) // before it is known: an alias inside to itself is unknown
		if err != nil {
			return nil, err
		}
		a.anchors[name] = v
		return v, nil
	case *ast.AliasNode:
		name := x.Value.GetToken().Value
		v, ok := a.anchors[name]
		if !ok {
			return nil, &Error{Pos: posOf(x.GetToken()), Message: "*" + name + " refers to nothing: no &" + name + " before it"}
		}
		if !a.fits(v) {
			return nil, tooLarge(x)
		}
		return v, nil
	case *ast.MappingNode:
		return x, a.mapping(x)
	case *ast.MappingValueNode:
		v, err := a.resolve(x.Value)
		x.Value = v
		return x, err
	case *ast.SequenceNode:
		for i, e := range x.Values {
			v, err := a.resolve(e)
			if err != nil {
				return nil, err
			}
			x.Values[i] = v
		}
	}
	return n, nil
}

// fits adds the size of a tree that is used once more, and reports whether the document is still
// within its bound.
func (a *aliases) fits(n ast.Node) bool {
	if a.nodes++; a.nodes > maxNodes {
		return false
	}
	switch x := n.(type) {
	case *ast.MappingNode:
		for _, v := range x.Values {
			if !a.fits(v.Value) {
				return false
			}
		}
	case *ast.MappingValueNode:
		return a.fits(x.Value)
	case *ast.SequenceNode:
		for _, v := range x.Values {
			if !a.fits(v) {
				return false
			}
		}
	}
	return true
}

// mapping resolves the values of m and puts in what it merges; keys of m itself win.
func (a *aliases) mapping(m *ast.MappingNode) error {
	var own, merged []*ast.MappingValueNode
	has := map[string]bool{}
	for _, v := range m.Values {
		value, err := a.resolve(v.Value)
		if err != nil {
			return err
		}
		v.Value = value
		if !v.Key.IsMergeKey() {
			own = append(own, v)
			has[v.Key.GetToken().Value] = true
			continue
		}
		switch x := value.(type) {
		case *ast.MappingNode:
			merged = append(merged, x.Values...)
		case *ast.MappingValueNode:
			merged = append(merged, x)
		default:
			return &Error{Pos: posOf(v.Key.GetToken()), Message: "<< merges a mapping, such as <<: *name"}
		}
	}
	for _, v := range merged {
		if k := v.Key.GetToken().Value; !has[k] {
			has[k] = true
			own = append(own, v)
		}
	}
	m.Values = own
	return nil
}
