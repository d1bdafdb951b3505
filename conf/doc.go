// Package conf reads Drover's YAML files strictly: unknown keys are refused, and every complaint
// names file, line, column, the place in the document and the bound that was broken.
//
// A file goes through two steps. [Load] decodes it into raw structs whose leaves are [Value]: the
// text as it was written, with its position, and whether it was written at all, so that unset, empty
// and zero stay different things. Then the owner of the file turns each Value into a real type with
// the methods of [Reader], which collect every complaint instead of stopping at the first.
//
//	var raw struct {
//		VIPs []conf.At[rawVIP] `yaml:"vips"`
//	}
//	r, err := conf.Load("director.yaml", &raw)
//	...
//	weight := r.Int(raw.Weight, "weight", 0, 65535, 1)
//	return r.Err()
package conf
