package kernels

import (
	"embed"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Schema is one version of an operator's definition.
type Schema struct {
	Name, Domain string
	Since        int64
	in, out      []string              // type parameters of the operands and results; the last may repeat
	types        map[string][]ir.DType // what a type parameter may be
}

// Input is the type parameter of operand i, "" where the schema does not say.
func (s *Schema) Input(i int) string { return formal(s.in, i) }

// Output is the type parameter of result i, "" where the schema does not say.
func (s *Schema) Output(i int) string { return formal(s.out, i) }

// Allows reports whether a type parameter may be d.
func (s *Schema) Allows(param string, d ir.DType) bool { return slices.Contains(s.types[param], d) }

func formal(params []string, i int) string {
	if i < 0 || len(params) == 0 {
		return ""
	}
	p, repeats := strings.CutSuffix(params[min(i, len(params)-1)], "*")
	if i >= len(params) && !repeats || p == "?" {
		return ""
	}
	return p
}

// kernel is one implementation of an operator, for some of its versions and types.
type kernel struct {
	since, until int64                 // versions; until 0: since alone
	types        map[string][]ir.DType // those of a parameter that is not there do not matter
}

// computes reports whether k implements the version of s. An open range is that one version: later
// versions of an operator have kernels of their own (KernelRegistry in ONNX Runtime).
func (k *kernel) computes(s *Schema) bool {
	return k.since == s.Since || k.since < s.Since && s.Since <= k.until
}

type key struct{ domain, name string }

// table is what one provider has.
type table struct {
	provider string // for messages
	version  string // of ONNX Runtime
	kernels  map[key][]kernel
}

//go:embed tables/*.txt
var files embed.FS

var schemas = sync.OnceValue(func() map[key][]*Schema {
	m := map[key][]*Schema{}
	read("schemas", func(k key, f []string) {
		since, _ := strconv.ParseInt(f[0], 10, 64)
		s := &Schema{Name: k.name, Domain: k.domain, Since: since, types: params(f[3:])}
		s.in, s.out = list(strings.TrimPrefix(f[1], "in=")), list(strings.TrimPrefix(f[2], "out="))
		m[k] = append(m[k], s)
	})
	for _, versions := range m {
		slices.SortFunc(versions, func(a, b *Schema) int { return int(a.Since - b.Since) })
	}
	return m
})

var tables = map[graphopt.Target]func() *table{
	graphopt.CPU:    sync.OnceValue(func() *table { return load("cpu", "the CPU") }),
	graphopt.CUDA:   sync.OnceValue(func() *table { return load("cuda", "CUDA") }),
	graphopt.CoreML: sync.OnceValue(func() *table { return load("coreml", "Core ML") }),
}

func load(file, provider string) *table {
	t := &table{provider: provider, kernels: map[key][]kernel{}}
	t.version = read(file, func(k key, f []string) {
		since, _ := strconv.ParseInt(f[0], 10, 64)
		until, _ := strconv.ParseInt(f[1], 10, 64) // "-" is 0
		t.kernels[k] = append(t.kernels[k], kernel{since, until, params(f[2:])})
	})
	return t
}

// read calls row for each line of a table and gives the version of ONNX Runtime that its header names.
// The tables are part of the program and their form is a matter of its tests, so nothing is checked here.
func read(file string, row func(key, []string)) (version string) {
	b, _ := files.ReadFile("tables/" + file + ".txt") // embedded: it is there
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if f[0] == "#" {
			if f[1] == "onnxruntime" {
				version = strings.TrimSuffix(f[2], ",")
			}
			continue
		}
		row(key{domain(f[1]), f[0]}, f[2:])
	}
	return version
}

// domain gives ONNX's own domain the one of its two names that the tables are looked up by.
func domain(d string) string {
	if d == "ai.onnx" {
		return ""
	}
	return d
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func params(fields []string) map[string][]ir.DType {
	m := make(map[string][]ir.DType, len(fields))
	for _, f := range fields {
		name, types, _ := strings.Cut(f, "=")
		for _, t := range list(types) {
			m[name] = append(m[name], dtypes[t])
		}
	}
	return m
}

var dtypes = func() map[string]ir.DType {
	m := map[string]ir.DType{}
	for d := ir.Float32; d <= ir.Int2; d++ {
		m[d.String()] = d
	}
	return m
}()

// Lookup finds the definition of an operator in a model of the given opset; nil if there is none.
// Those of com.microsoft have one version.
func Lookup(dom, name string, opset int64) *Schema {
	versions := schemas()[key{domain(dom), name}]
	for _, s := range slices.Backward(versions) {
		if domain(dom) != "" || s.Since <= opset {
			return s
		}
	}
	return nil
}

// Of is the definition of a node's operator in its model; nil if it is not known.
func Of(m *ir.Model, n *ir.Node) *Schema { return Lookup(n.Domain, n.OpType, m.Opset("")) }

// has reports whether one of the kernels computes s with these types.
func (t *table) has(s *Schema, types map[string]ir.DType) bool {
next:
	for _, k := range t.kernels[key{s.Domain, s.Name}] {
		if !k.computes(s) {
			continue
		}
		for param, d := range types {
			if allowed, ok := k.types[param]; ok && d != ir.Undefined && !slices.Contains(allowed, d) {
				continue next
			}
		}
		return true
	}
	return false
}

// Version is the version of ONNX Runtime that a target's table describes.
func Version(t graphopt.Target) string {
	if load := tables[t]; load != nil {
		return load().version
	}
	return ""
}

func tableOf(t graphopt.Target) (*table, error) {
	load := tables[t]
	if load == nil {
		return nil, fmt.Errorf("kernels: unknown target %q", t)
	}
	return load(), nil
}
