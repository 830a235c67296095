// Package skipnorm fuses a residual sum with the normalisation behind it.
//
//	SimplifiedLayerNormalization(Add(a, b), w)
//	⇒ SkipSimplifiedLayerNormalization(a, b, w), whose fourth result is the sum
//
// The sum lives on as the next residual; the fused kernel (com.microsoft, version 1) writes it while
// it computes the norm, and saves one pass over the activations.
package skipnorm

import (
	"fmt"
	"path"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass fuses all residual sums of a graph with their norms.
var Pass = &g.Pass{
	Name:    "skip-norm",
	Doc:     "residual sum and RMSNorm become SkipSimplifiedLayerNormalization",
	Needs:   "SimplifiedLayerNormalization nodes, so it runs behind rmsnorm",
	After:   []string{"rmsnorm"},
	Targets: []g.Target{g.CPU, g.CUDA},
	Run:     func(u *g.Unit) (int, error) { return u.Apply(rule) },
}

var rule = &g.Rule{
	Name: "skip-norm",
	Doc:  "the sum may have other readers",
	Pattern: g.Op("SimplifiedLayerNormalization",
		g.Op("Add", g.Any("input"), g.Any("skip")).As("sum").Shared(), g.Const("weight")),
	Check: func(m *g.Match) error {
		// The kernel does not broadcast: a bias is no residual.
		var shapes [2][]ir.Dim
		for i, name := range []string{"input", "skip"} {
			v := m.Value(name)
			if v.Constant() != nil {
				return fmt.Errorf("%q is a constant, not a residual", v.Name)
			}
			t := m.Unit.Type(v)
			if !t.HasShape() || slices.Contains(t.Shape, ir.Sym("")) {
				return fmt.Errorf("the shape of %q is not known", v.Name)
			}
			if t.DType == ir.Float64 {
				return fmt.Errorf("there is no kernel for %v", t.DType)
			}
			shapes[i] = t.Shape
		}
		if len(shapes[0]) != 2 && len(shapes[0]) != 3 {
			return fmt.Errorf("the sum has %d dimensions, not 2 or 3", len(shapes[0]))
		}
		if !slices.Equal(shapes[0], shapes[1]) {
			return fmt.Errorf("%q and %q have different shapes", m.Value("input").Name, m.Value("skip").Name)
		}
		if axis := m.Root.Int("axis", -1); axis != -1 && axis != int64(len(shapes[0]))-1 {
			return fmt.Errorf("the norm runs over axis %d", axis)
		}
		if m.Value("sum").IsOutput() {
			return fmt.Errorf("the sum is an output of the graph")
		}
		return nil
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		g.Require(m.Unit.Model, g.Microsoft)
		n := m.Graph.Add(ir.NodeSpec{
			Op: "SkipSimplifiedLayerNormalization", Domain: g.Microsoft,
			Name:    path.Join(path.Dir(m.Root.Name), "SkipSimplifiedLayerNormalization"),
			Inputs:  []*ir.Value{m.Value("input"), m.Value("skip"), m.Value("weight")},
			Outputs: []string{m.Root.Output(0).Name + "/fused", "", "", m.Value("sum").Name + "/fused"},
			Attrs:   []*ir.Attr{ir.Float("epsilon", m.Root.Float("epsilon", 1e-5))},
		})
		return n.Output(0), m.Graph.Replace(m.Value("sum"), n.Output(3))
	},
}
