package graphopt

import (
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/internal/sample"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// typeLengths are the two runs from which shapes are inferred. All lengths, their sums and small
// products differ within a run and between the runs, so a dimension that is the same in both is fixed.
var typeLengths = [2]sample.Lengths{{Batch: 2, Sequence: 3, Past: 5}, {Batch: 3, Sequence: 5, Past: 11}}

// types infers types by computing shapes for two sizes of the inputs.
type types struct {
	runs  [2]*interp.Evaluator
	names map[[2]int64]string
}

func newTypes(g *ir.Graph) *types {
	t := &types{names: map[[2]int64]string{}}
	in := sample.Find(g)
	var given [2]map[*ir.Value]*interp.Tensor
	for i, l := range typeLengths {
		given[i] = in.Given(in.Fit(l))
		t.runs[i] = interp.New(given[i])
	}
	for _, v := range g.Inputs() {
		a, b := given[0][v], given[1][v]
		if a == nil || b == nil {
			continue
		}
		for i, d := range v.Type.Shape {
			key := [2]int64{a.Shape[i], b.Shape[i]}
			if _, ok := t.names[key]; !ok && d.Param != "" {
				t.names[key] = d.Param
			}
		}
	}
	return t
}

// Type infers the element type and the shape of a value of the main graph: dimensions are fixed, or named
// as those of the graph's inputs, or open. It gives nil where the value depends on an operator
// whose shapes are not known, and the file does not say it either.
func (u *Unit) Type(v *ir.Value) *ir.Type {
	if v == nil {
		return nil
	}
	if u.types == nil {
		u.types = newTypes(u.Model.Graph)
	}
	a, err := u.types.runs[0].Shape(v)
	if err != nil {
		return v.Type
	}
	b, err := u.types.runs[1].Shape(v)
	if err != nil || len(a.Shape) != len(b.Shape) {
		return v.Type
	}
	dims := make([]ir.Dim, len(a.Shape))
	for i := range dims {
		if a.Shape[i] == b.Shape[i] {
			dims[i] = ir.Fixed(a.Shape[i])
		} else {
			dims[i] = ir.Sym(u.types.names[[2]int64{a.Shape[i], b.Shape[i]}])
		}
	}
	return ir.TensorType(a.DType, dims...)
}
