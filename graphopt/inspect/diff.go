package inspect

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Changes says what differs between two models. Things are paired by name, nodes without one by the name
// of their first result. Lists are in the order of the model that has the thing, operators by name.
type Changes struct {
	Model        []Change  `json:"model"` // versions, operator sets, functions
	Inputs       Set       `json:"inputs"`
	Outputs      Set       `json:"outputs"`
	Operators    []Recount `json:"operators"`
	Nodes        Set       `json:"nodes"` // of the main graph, with their bodies
	Initializers Set       `json:"initializers"`
	// BytesBefore and BytesAfter are the sizes of all initializers, shared ones counted once.
	BytesBefore int64 `json:"bytes_before"`
	BytesAfter  int64 `json:"bytes_after"`
}

// Set says what was added to, taken from and changed in a set of named things.
type Set struct {
	Added   []Item   `json:"added"`
	Removed []Item   `json:"removed"`
	Changed []Change `json:"changed"`
}

// Item is a thing that only one of the models has, with its operator or its type.
type Item struct {
	Name string `json:"name"`
	What string `json:"what"`
}

// Change is a thing that both models have, in two forms. Where content alone differs, the forms are the
// same.
type Change struct {
	Name   string `json:"name"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Recount is an operator that occurs more or less often than before.
type Recount struct {
	Name   string `json:"name"`
	Before int    `json:"before"`
	After  int    `json:"after"`
}

// Empty reports whether nothing differs. The order of nodes and of initializers, and what a producer
// says of itself, do not count.
func (c *Changes) Empty() bool {
	return len(c.Model)+len(c.Operators) == 0 &&
		c.Inputs.empty() && c.Outputs.empty() && c.Nodes.empty() && c.Initializers.empty()
}

func (s *Set) empty() bool { return len(s.Added)+len(s.Removed)+len(s.Changed) == 0 }

// Diff compares two models. Constants of one name, type and shape are compared byte by byte.
func Diff(ctx context.Context, before, after *ir.Model) (*Changes, error) {
	c := &Changes{
		Model:       changes(heads(before), heads(after)),
		Operators:   recounts(operators(before.Graph), operators(after.Graph)),
		BytesBefore: totalBytes(before.Graph),
		BytesAfter:  totalBytes(after.Graph),
	}
	for _, part := range []struct {
		set    *Set
		things func(*ir.Graph) []thing
	}{{&c.Inputs, inputs}, {&c.Outputs, outputs}, {&c.Nodes, nodes}, {&c.Initializers, initializers}} {
		var err error
		if *part.set, err = compare(ctx, part.things(before.Graph), part.things(after.Graph)); err != nil {
			return nil, fmt.Errorf("inspect: %w", err)
		}
	}
	return c, nil
}

// thing is one of a set: equal to another if both form and content are.
type thing struct {
	name, what, form string
	content          *ir.Tensor // nil where the form says all
}

func inputs(g *ir.Graph) []thing {
	return list(g.Inputs(), func(v *ir.Value) thing { return typed(v, typeText(v.Type)) })
}

func outputs(g *ir.Graph) []thing {
	return list(g.Outputs(), func(v *ir.Value) thing { return typed(v, typeText(v.Type)) })
}

func typed(v *ir.Value, text string) thing { return thing{name: v.Name, what: text, form: text} }

func initializers(g *ir.Graph) []thing {
	return list(g.Initializers(), func(v *ir.Value) thing {
		text := tensorText(v.Const)
		return thing{v.Name, text, text, v.Const}
	})
}

func nodes(g *ir.Graph) []thing {
	return list(g.Nodes(), func(n *ir.Node) thing { return thing{name: nodeName(n), what: opName(n), form: nodeText(n)} })
}

func list[T any](items []T, f func(T) thing) []thing {
	things := make([]thing, len(items))
	for i, x := range items {
		things[i] = f(x)
	}
	return things
}

// nodeName is what a node is known by.
func nodeName(n *ir.Node) string {
	if n.Name != "" {
		return n.Name
	}
	for _, o := range n.Outputs() {
		if o != nil {
			return o.Name
		}
	}
	return n.OpType
}

// compare pairs things by name; where a name is there several times, in order.
func compare(ctx context.Context, before, after []thing) (Set, error) {
	s := Set{Added: []Item{}, Removed: []Item{}, Changed: []Change{}}
	left := map[string][]thing{}
	for _, b := range after {
		left[b.name] = append(left[b.name], b)
	}
	for _, a := range before {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		if len(left[a.name]) == 0 {
			s.Removed = append(s.Removed, Item{a.name, a.what})
			continue
		}
		b := left[a.name][0]
		left[a.name] = left[a.name][1:]
		same := a.form == b.form
		if same && a.content != nil {
			var err error
			if same, err = sameContent(a.content, b.content); err != nil {
				return s, fmt.Errorf("%s: %w", a.name, err)
			}
		}
		if !same {
			s.Changed = append(s.Changed, Change{a.name, a.form, b.form})
		}
	}
	unpaired := map[string]int{} // of those behind the paired ones
	for name, rest := range left {
		unpaired[name] = len(rest)
	}
	for i := len(after) - 1; i >= 0; i-- { // the last ones of a name are those that are left
		if b := after[i]; unpaired[b.name] > 0 {
			unpaired[b.name]--
			s.Added = append(s.Added, Item{b.name, b.what})
		}
	}
	slices.Reverse(s.Added)
	return s, nil
}

// compareBytes is how much of two tensors is compared at once.
const compareBytes = 1 << 20

// sameContent compares tensors of one type and shape.
func sameContent(a, b *ir.Tensor) (bool, error) {
	if a.Data == nil || b.Data == nil {
		return slices.EqualFunc(a.Strings, b.Strings, bytes.Equal), nil
	}
	if a.Data == b.Data {
		return true, nil
	}
	x, xok := a.Data.(*ir.Buffer)
	y, yok := b.Data.(*ir.Buffer)
	if xok && yok {
		return bytes.Equal(x.Bytes(), y.Bytes()), nil
	}
	return sameStream(io.NewSectionReader(a.Data, 0, a.Data.Len()), io.NewSectionReader(b.Data, 0, b.Data.Len()))
}

func sameStream(a, b *io.SectionReader) (bool, error) {
	if a.Size() != b.Size() {
		return false, nil
	}
	p, q := make([]byte, compareBytes), make([]byte, compareBytes)
	for left := a.Size(); left > 0; left -= int64(len(p)) {
		p, q = p[:min(left, compareBytes)], q[:min(left, compareBytes)]
		if _, err := io.ReadFull(a, p); err != nil {
			return false, err
		}
		if _, err := io.ReadFull(b, q); err != nil {
			return false, err
		}
		if !bytes.Equal(p, q) {
			return false, nil
		}
	}
	return true, nil
}

// heads are the facts of a model beside its graph, by name.
func heads(m *ir.Model) map[string]string {
	facts := map[string]string{"IR version": fmt.Sprint(m.IRVersion)}
	for _, o := range m.Opsets {
		facts["opset "+domain(o.Domain)] = fmt.Sprint(o.Version)
	}
	for _, f := range m.Functions {
		facts["function "+domain(f.Domain)+"."+f.Name] = "defined"
	}
	return facts
}

// changes lists what differs between facts; one that is not there is "".
func changes(before, after map[string]string) []Change {
	list := []Change{}
	for _, name := range union(before, after) {
		if before[name] != after[name] {
			list = append(list, Change{name, before[name], after[name]})
		}
	}
	return list
}

func recounts(before, after map[string]int) []Recount {
	list := []Recount{}
	for _, name := range union(before, after) {
		if before[name] != after[name] {
			list = append(list, Recount{name, before[name], after[name]})
		}
	}
	return list
}

// union gives the keys of both, sorted.
func union[V any](a, b map[string]V) []string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

func totalBytes(g *ir.Graph) (n int64) {
	for _, c := range constants(g) {
		n += c.Bytes
	}
	return n
}
