// Package static gives a decoder fixed lengths.
//
//	input_ids [batch, sequence], past [batch, 2, past, 128]
//	⇒ input_ids [1, 1], past [1, 2, 4095, 128], for Options.Static {Batch 1, Sequence 1, Total 4096}
//
// Core ML compiles a program for the shapes that it is given, and leaves what has others to the CPU. What is
// computed from shapes alone, such as the causal part of the mask, becomes a constant.
//
// The cache then always has the same length: Total less Sequence before a run, and Total behind it. Tokens
// stand at its end; what is before them is hidden by attention_mask, and position_ids go on counting the
// tokens. Behind a run the last Total−Sequence rows of present are the next past. A model for prompts and
// one for single tokens share a cache if they have one Total.
package static

import (
	"errors"
	"fmt"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass fixes the lengths of a graph.
var Pass = &g.Pass{
	Name:    "static",
	Doc:     "dimensions get the lengths asked for, and what depends on them alone becomes constant",
	Needs:   "lengths (Static); inputs named as a decoder's are, and position_ids among them",
	After:   []string{"opset", "constants"},
	Targets: []g.Target{g.CoreML},
	Check: func(o g.Options) error {
		l := o.Static
		if l != (g.Lengths{}) && (l.Batch <= 0 || l.Sequence <= 0 || l.Total < l.Sequence) {
			return fmt.Errorf("lengths %+v: want a batch and a sequence of one or more, and a total of no less than the sequence", l)
		}
		return nil
	},
	Run: run,
}

const passName = "static"

func run(u *g.Unit) (int, error) {
	if u.Static == (g.Lengths{}) {
		return 0, nil
	}
	graph, in := u.Model.Graph, sample.Find(u.Model.Graph)
	if in.IDs == nil || in.Mask == nil || in.Position == nil {
		return 0, errors.New("the model has no input_ids, attention_mask and position_ids of two dimensions")
	}
	l := sample.Lengths{Batch: u.Static.Batch, Sequence: u.Static.Sequence, Past: u.Static.Total - u.Static.Sequence}
	given := in.Given(l)
	sizes := map[string]int64{}
	known := []*ir.Value{in.IDs, in.Mask, in.Position}
	known = append(known, in.Past...)
	for _, v := range known {
		for i, d := range v.Type.Shape {
			if n := given[v].Shape[i]; d.Size >= 0 && d.Size != n {
				return 0, fmt.Errorf("%q has a dimension of %d, not %d", v.Name, d.Size, n)
			} else if was, ok := sizes[d.Param]; ok && was != n {
				return 0, fmt.Errorf("dimension %q would be %d and %d", d.Param, was, n)
			} else if d.Param != "" {
				sizes[d.Param] = n
			}
		}
	}
	for _, v := range graph.Inputs() {
		if given[v] == nil || !slices.Contains(known, v) && slices.ContainsFunc(v.Type.Shape, func(d ir.Dim) bool { return d.Size < 0 }) {
			return 0, fmt.Errorf("no length is known for input %q", v.Name)
		}
	}
	fixed := 0
	for v, t := range given {
		given[v] = interp.ShapeOnly(t.DType, t.Shape...) // what the masks and positions of a run are is not known
	}
	for _, v := range graph.Inputs() {
		fixed += fix(v, given[v].Shape)
	}
	shapes := interp.New(given)
	for _, n := range graph.Nodes() {
		for _, v := range n.Outputs() {
			if v == nil {
				continue
			}
			t, err := shapes.Shape(v)
			if err != nil {
				v.Type = named(v.Type, sizes)
				continue
			}
			if v.Type == nil {
				v.Type = &ir.Type{DType: t.DType}
			}
			fixed += fix(v, t.Shape)
		}
	}
	u.Applied(passName, "")
	return fixed, fold(u, given)
}

// fix gives a value a shape, and reports whether it had a free dimension.
func fix(v *ir.Value, shape []int64) int {
	dims, free := make([]ir.Dim, len(shape)), 0
	for i, n := range shape {
		dims[i] = ir.Fixed(n)
		if i >= len(v.Type.Shape) || v.Type.Shape[i].Size < 0 {
			free = 1
		}
	}
	v.Type = ir.TensorType(v.Type.DType, dims...)
	return free
}

// named gives the dimensions that have names their sizes.
func named(t *ir.Type, sizes map[string]int64) *ir.Type {
	if t == nil {
		return nil
	}
	fixed := *t
	fixed.Shape = nil
	for _, d := range t.Shape {
		if n, ok := sizes[d.Param]; ok && d.Param != "" {
			d = ir.Fixed(n)
		}
		fixed.Shape = append(fixed.Shape, d)
	}
	return &fixed
}

const (
	// maxElements bounds a constant that replaces what is computed from shapes: the mask of 2,048 queries and
	// 4,096 keys is one. In a graph with a longer one it goes on being computed.
	maxElements = 1 << 23
	// smallElements bounds the constants that take part: others are weights.
	smallElements = 4096
)

// fold makes constants of what is computed from shapes and small constants alone.
func fold(u *g.Unit, given map[*ir.Value]*interp.Tensor) error {
	graph := u.Model.Graph
	e := interp.New(given)
	e.MaxElements = maxElements
	values := map[*ir.Value]*interp.Tensor{}
	for _, n := range graph.Nodes() {
		if len(n.Outputs()) != 1 || !settled(n, values) {
			continue
		}
		if t, err := e.Value(n.Output(0)); err == nil {
			values[n.Output(0)] = t
		}
	}
	for _, n := range graph.Nodes() {
		v := n.Output(0)
		t := values[v]
		if t == nil || v.IsOutput() || !needed(v, values) {
			continue
		}
		c, err := t.IR()
		if err != nil {
			return err
		}
		if err := graph.Replace(v, graph.AddInitializer(graph.Fresh(v.Name+"/static"), c)); err != nil {
			return err
		}
		u.Applied(passName, n.String())
	}
	graph.Prune()
	return nil
}

// settled reports whether a node gives a shape, or computes from what is settled and small constants. What
// is computed from constants alone is left to others, or to be as it is: a transposed weight.
func settled(n *ir.Node, values map[*ir.Value]*interp.Tensor) bool {
	if n.Is("", "Shape") || n.Is("", "Size") {
		return true
	}
	found := false
	for _, v := range n.Inputs() {
		c := v.Constant()
		if v != nil && values[v] == nil && (c == nil || c.Len() > smallElements) {
			return false
		}
		found = found || values[v] != nil
	}
	return found
}

// needed reports whether something that is not settled itself reads v.
func needed(v *ir.Value, values map[*ir.Value]*interp.Tensor) bool {
	for _, u := range v.Uses() {
		if values[u.Node.Output(0)] == nil {
			return true
		}
	}
	return false
}
