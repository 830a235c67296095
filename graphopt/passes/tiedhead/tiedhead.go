// Package tiedhead keeps tied embeddings one tensor.
//
//	MatMul(x, Transpose(E)) ⇒ FusedMatMul(x, E; transB 1)
//
// E [vocabulary, hidden] is the embedding table, which Gather reads as well. Left as it is, ONNX
// Runtime folds the transposition into a second copy of what is the largest tensor of a small model.
// FusedMatMul is com.microsoft, version 1.
package tiedhead

import (
	"fmt"
	"path"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass rewrites products with a transposed constant.
var Pass = &g.Pass{
	Name:    "tied-head",
	Doc:     "a product with a transposed weight becomes FusedMatMul, so that tied embeddings stay one tensor",
	Needs:   "a constant behind the Transpose",
	Targets: []g.Target{g.CPU, g.CUDA},
	Run:     func(u *g.Unit) (int, error) { return u.Apply(rule) },
}

var rule = &g.Rule{
	Name:    "tied-head",
	Doc:     "MatMul(x, Transpose(constant matrix))",
	Pattern: g.Op("MatMul", g.Any("x"), g.Op("Transpose", g.Const("table")).Perm(1, 0)),
	Check: func(m *g.Match) error {
		t := m.Const("table")
		if len(t.Shape) != 2 {
			return fmt.Errorf("the constant has shape %v", t.Shape)
		}
		if t.DType != ir.Float32 && t.DType != ir.Float16 && t.DType != ir.BFloat16 {
			return fmt.Errorf("there is no kernel for %v", t.DType)
		}
		return nil
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		g.Require(m.Unit.Model, g.Microsoft)
		return m.Graph.Add(ir.NodeSpec{
			Op: "FusedMatMul", Domain: g.Microsoft, Name: path.Join(path.Dir(m.Root.Name), "FusedMatMul"),
			Inputs: []*ir.Value{m.Value("x"), m.Value("table")}, Attrs: []*ir.Attr{ir.Int("transB", 1)},
		}).Output(0), nil
	},
}
