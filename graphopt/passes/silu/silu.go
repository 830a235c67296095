// Package silu fuses x·sigmoid(x), the SiLU of Qwen3's gated MLP (Elfwing et al., arXiv:1702.03118),
// into one operator.
//
//	Mul(x, Sigmoid(x)) ⇒ QuickGelu(x; alpha 1)
//
// QuickGelu (com.microsoft, version 1) is x·sigmoid(alpha·x). ONNX Runtime's CPU provider has no
// operator for the whole of silu(gate)·up; the product with up stays.
package silu

import (
	"fmt"
	"path"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass fuses all SiLUs of a graph.
var Pass = &g.Pass{
	Name:    "silu",
	Doc:     "x·sigmoid(x) becomes QuickGelu with alpha 1",
	Needs:   "float32, float16 or bfloat16",
	Targets: []g.Target{g.CPU, g.CUDA},
	Run:     func(u *g.Unit) (int, error) { return u.Apply(rule) },
}

var rule = &g.Rule{
	Name:    "silu",
	Doc:     "Mul(x, Sigmoid(x))",
	Pattern: g.Op("Mul", g.Any("x"), g.Op("Sigmoid", g.Any("x"))),
	Check: func(m *g.Match) error {
		switch t := m.Unit.Type(m.Value("x")); {
		case t == nil:
			return fmt.Errorf("the type of %q is not known", m.Value("x").Name)
		case t.DType != ir.Float32 && t.DType != ir.Float16 && t.DType != ir.BFloat16:
			return fmt.Errorf("there is no kernel for %v", t.DType)
		}
		return nil
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		g.Require(m.Unit.Model, g.Microsoft)
		return m.Graph.Add(ir.NodeSpec{
			Op: "QuickGelu", Domain: g.Microsoft, Name: path.Join(path.Dir(m.Root.Name), "QuickGelu"),
			Inputs: []*ir.Value{m.Value("x")}, Attrs: []*ir.Attr{ir.Float("alpha", 1)},
		}).Output(0), nil
	},
}
