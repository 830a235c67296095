package calib

import (
	"fmt"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
	"github.com/qwenrt/qwenrt/quantize"
)

// inlineBytes is the size up to which a constant goes into a part's model. Larger ones, tables of the
// rotary embedding for instance, are given to it as inputs.
const inlineBytes = 64 << 10

// point is a place in the graph where activations are looked at: the input of one product or more.
type point struct {
	x       *ir.Value
	targets []quantize.Target // the weights that it is multiplied with; their last input is x
	before  part              // what leads to it
}

// part is a piece of the graph: the nodes that compute the input of a point from what is known at the
// points before it.
type part struct {
	nodes   []*ir.Node  // in graph order
	inputs  []*ir.Value // from other parts, and what the model is given
	outputs []*ir.Value // for other parts
	done    []*ir.Value // what no later part reads
}

// cutter divides a graph into parts.
type cutter struct {
	products map[*ir.Node]bool  // of the plan: their weight is no part of the graph
	given    map[*ir.Value]bool // inputs, and embeddings
	place    map[*ir.Node]int   // in graph order
}

// points groups the targets by what they are multiplied with, in graph order. A weight that is multiplied with
// several activations belongs to the last of them.
func points(targets []quantize.Target, place map[*ir.Node]int) []*point {
	var all []*point
	at := map[*ir.Value]*point{}
	for _, t := range targets {
		x := t.Inputs[len(t.Inputs)-1]
		p := at[x]
		if p == nil {
			p = &point{x: x}
			at[x] = p
			all = append(all, p)
		}
		p.targets = append(p.targets, t)
	}
	slices.SortStableFunc(all, func(a, b *point) int {
		return producerPlace(a.x, place) - producerPlace(b.x, place)
	})
	return all
}

func producerPlace(v *ir.Value, place map[*ir.Node]int) int {
	if n := v.Producer(); n != nil {
		return place[n]
	}
	return -1
}

// operands are the values that n reads: those of a part that n is in, or inputs of it.
func (c *cutter) operands(n *ir.Node) []*ir.Value {
	var all []*ir.Value
	for i, v := range n.Inputs() {
		if v != nil && !(c.products[n] && i == 1) {
			all = append(all, v)
		}
	}
	return all
}

// constant reports whether v has its content in the graph.
func constant(v *ir.Value) bool { return v.Const != nil }

// ancestors are the nodes that x depends on and that seen does not hold yet, in graph order.
func (c *cutter) ancestors(x *ir.Value, seen map[*ir.Node]bool) []*ir.Node {
	var found []*ir.Node
	todo := []*ir.Value{x}
	for len(todo) > 0 {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		n := v.Producer()
		if n == nil || c.given[v] || seen[n] {
			continue
		}
		seen[n] = true
		found = append(found, n)
		todo = append(todo, c.operands(n)...)
	}
	slices.SortFunc(found, func(a, b *ir.Node) int { return c.place[a] - c.place[b] })
	return found
}

// cut gives each point the part that leads to it. A node is in the first part that needs it.
func (c *cutter) cut(all []*point) error {
	seen := map[*ir.Node]bool{}
	first := map[*ir.Value]int{} // part that computes a value
	last := map[*ir.Value]int{}  // last part that reads it
	for i, p := range all {
		p.before.nodes = c.ancestors(p.x, seen)
		for _, n := range p.before.nodes {
			if n.HasGraph() {
				return fmt.Errorf("calib: %v has a body: models with control flow cannot be calibrated", n)
			}
			for _, v := range n.Outputs() {
				first[v] = i
			}
			for _, v := range c.operands(n) {
				last[v] = i
			}
		}
		last[p.x] = i
	}
	for i, p := range all {
		c.border(p, i, first, last)
	}
	return nil
}

// border finds what goes in and out of part i.
func (c *cutter) border(p *point, i int, first, last map[*ir.Value]int) {
	b := &p.before
	add := func(list *[]*ir.Value, v *ir.Value) {
		if !slices.Contains(*list, v) {
			*list = append(*list, v)
		}
	}
	read := []*ir.Value{p.x}
	for _, n := range b.nodes {
		read = append(read, c.operands(n)...)
		for _, v := range n.Outputs() {
			if v != nil && (last[v] > i || v == p.x) {
				add(&b.outputs, v)
			}
		}
	}
	for _, v := range read {
		if constant(v) {
			continue
		}
		if at, computed := first[v]; !computed || at < i {
			add(&b.inputs, v)
		}
		if last[v] == i {
			add(&b.done, v)
		}
	}
}

// operand is a constant that a part's model takes as an input: the weight of a product, or a large table.
type operand struct {
	name    string // of the input
	product *ir.Node
	table   *ir.Value // nil for weights
}

// model makes a model of a part. Weights of products, and large constants, become inputs.
func (c *cutter) model(b *part, opsets []ir.Opset, irVersion int64, types map[*ir.Value]*ir.Type) (m *ir.Model, constants []operand) {
	m = ir.NewModel("part", irVersion, 1)
	m.Opsets = slices.Clone(opsets)
	g := m.Graph
	values := map[*ir.Value]*ir.Value{}
	for _, v := range b.inputs {
		values[v] = g.AddInput(v.Name, types[v])
	}
	input := func(v *ir.Value) *ir.Value {
		switch {
		case v == nil:
			return nil
		case values[v] != nil:
		case v.Const.Data != nil && v.Const.ByteLen() > inlineBytes:
			values[v] = g.AddInput(v.Name, v.Type)
			constants = append(constants, operand{name: v.Name, table: v})
		default:
			values[v] = g.AddInitializer(v.Name, v.Const)
		}
		return values[v]
	}
	for _, n := range b.nodes {
		s := ir.NodeSpec{Op: n.OpType, Domain: n.Domain, Name: n.Name, Attrs: n.Attrs}
		if c.products[n] {
			s.Op, s.Domain, s.Attrs = "MatMul", "", nil
			w := g.AddInput(g.Fresh("weight of "+n.Name), ir.TensorType(ir.Float32, ir.Sym("k"), ir.Sym("n")))
			constants = append(constants, operand{name: w.Name, product: n})
			s.Inputs = []*ir.Value{input(n.Input(0)), w}
		} else {
			for _, v := range n.Inputs() {
				s.Inputs = append(s.Inputs, input(v))
			}
		}
		for _, v := range n.Outputs() {
			name := ""
			if v != nil {
				name = v.Name
			}
			s.Outputs = append(s.Outputs, name)
		}
		copied := g.Add(s)
		for i, v := range n.Outputs() {
			if v != nil {
				values[v] = copied.Output(i)
				if v.Type != nil {
					values[v].Type = v.Type
				}
			}
		}
	}
	for _, v := range b.outputs {
		g.AddOutput(values[v])
	}
	return m, constants
}

// typeOf is the type of a part's input: that of a tensor, with dimensions that may change from batch to
// batch.
func typeOf(t *ort.Tensor, name string) *ir.Type {
	dims := make([]ir.Dim, len(t.Shape()))
	for i := range dims {
		dims[i] = ir.Sym(fmt.Sprintf("%s.%d", name, i))
	}
	return ir.TensorType(ir.DType(t.DType()), dims...)
}
