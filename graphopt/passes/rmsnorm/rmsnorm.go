// Package rmsnorm fuses the pieces of a root-mean-square normalisation (Zhang and Sennrich,
// arXiv:1910.07467) into SimplifiedLayerNormalization.
//
//	x ── Pow 2 ── ReduceMean ── Add ε ── Sqrt ── Reciprocal ── Mul x ── Mul w
//	⇒ SimplifiedLayerNormalization(x, w; axis −1, epsilon ε)
//
// ONNX Runtime registers SimplifiedLayerNormalization in ONNX's own domain. It computes the statistics
// in float32 whatever the type of x, so the casts that float16 and bfloat16 graphs have around them go too.
package rmsnorm

import (
	"fmt"
	"path"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass fuses all normalisations of a graph.
var Pass = &g.Pass{
	Name:    "rmsnorm",
	Doc:     "RMSNorm in pieces becomes SimplifiedLayerNormalization",
	Needs:   "norms over the last axis with a constant weight",
	Targets: []g.Target{g.CPU, g.CUDA},
	Run:     func(u *g.Unit) (int, error) { return u.Apply(plain, mixed) },
}

// normalised is x over the root of its mean square, as exporters write it.
func normalised(x *g.Pattern) *g.Pattern {
	square := g.Or(g.Op("Pow", x, g.Scalar(2)), g.Op("Mul", x, x))
	lastAxis := func(n *ir.Node) error {
		if got := n.Ints("axes"); len(got) != 1 || got[0] != -1 {
			return fmt.Errorf("axes are %v, not the last", got)
		}
		return nil
	}
	mean := g.Or(
		g.Op("ReduceMean", square, g.Ints(-1)).Attr("keepdims", 1, 1),
		g.Op("ReduceMean", square).Where(lastAxis), // before opset 18
	)
	root := g.Op("Sqrt", g.Op("Add", mean, g.Const("epsilon")))
	return g.Or(
		g.Op("Mul", x, g.Op("Reciprocal", root)),
		g.Op("Mul", x, g.Op("Div", g.Scalar(1), root)),
		g.Op("Div", x, root),
	)
}

var plain = &g.Rule{
	Name:    "rmsnorm",
	Doc:     "all in one type",
	Pattern: g.Op("Mul", g.Const("weight"), normalised(g.Any("x"))),
	Check:   check,
	Rewrite: rewrite,
}

var mixed = &g.Rule{
	Name: "rmsnorm-mixed",
	Doc:  "x is cast to float32 for the statistics, and the result back",
	Pattern: g.Op("Mul", g.Const("weight"),
		g.Op("Cast", normalised(g.Op("Cast", g.Any("x")).Attr("to", 0, int64(ir.Float32)))).As("back")),
	Check: func(m *g.Match) error {
		to := ir.DType(m.Node("back").Int("to", 0))
		if x := m.Value("x"); x.Type != nil && x.Type.DType != to {
			return fmt.Errorf("x is %v, the result is cast to %v", x.Type.DType, to)
		}
		if w := m.Const("weight"); w.DType != to {
			return fmt.Errorf("the weight is %v, the result is cast to %v", w.DType, to)
		}
		return check(m)
	},
	Rewrite: rewrite,
}

func check(m *g.Match) error {
	if w := m.Const("weight"); len(w.Shape) != 1 {
		return fmt.Errorf("the weight has shape %v, not one dimension", w.Shape)
	}
	eps, err := g.ScalarValue(m.Const("epsilon"))
	if err != nil {
		return err
	}
	if eps <= 0 || eps > 1 {
		return fmt.Errorf("epsilon is %g", eps)
	}
	return nil
}

func rewrite(m *g.Match) (*ir.Value, error) {
	eps, err := g.ScalarValue(m.Const("epsilon"))
	if err != nil {
		return nil, err
	}
	return m.Graph.Op("SimplifiedLayerNormalization", path.Join(path.Dir(m.Root.Name), "SimplifiedLayerNormalization"),
		[]*ir.Value{m.Value("x"), m.Value("weight")},
		ir.Int("axis", -1), ir.Float("epsilon", float32(eps)), ir.Int("stash_type", 1)), nil
}
