// Package sink reads the `notify:` list of a director's file: whom to tell of what happens, and how.
//
// It is a leaf: values in, complaints with line and column out. Package notify does the telling.
package sink
