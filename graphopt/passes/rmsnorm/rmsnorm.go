// Package rmsnorm fuses the pieces of a root-mean-square normalisation (Zhang and Sennrich,
// arXiv:1910.07467) into SimplifiedLayerNormalization.
//
//	x ── Pow 2 ── ReduceMean ── Add ε ── Sqrt ── Reciprocal ── Mul x ── Mul w
//	⇒ SimplifiedLayerNormalization(x, w; axis −1, epsilon ε)
//
// RMSNormalization, which ONNX has from opset 23 on, is the same operator under another name; the passes
// behind this one, and ONNX Runtime's own fusions, know the older one.
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
	Run:     func(u *g.Unit) (int, error) { return u.Apply(plain, mixed, standard) },
}

// normalised is x over the root of its mean square, as exporters write it.
func normalised(x *g.Pattern) *g.Pattern {
	square := g.Or(g.Op("Pow", x, g.Scalar(2)), g.Op("Mul", x, x))
	mean := g.Op("ReduceMean", square, g.Opt(g.Const(""))).Where(lastAxis).Attr("keepdims", 1, 1)
	root := g.Op("Sqrt", g.Op("Add", mean, g.Const("epsilon")))
	return g.Or(
		g.Op("Mul", x, g.Op("Reciprocal", root)),
		g.Op("Mul", x, g.Op("Div", g.Scalar(1), root)),
		g.Op("Div", x, root),
	)
}

// lastAxis makes sure that a mean runs over the last axis, given as an operand or, before opset 18, as an
// attribute.
func lastAxis(mean *ir.Node) error {
	axes := mean.Ints("axes")
	if c := mean.Input(1).Constant(); c != nil && c.Len() < 8 {
		axes, _ = c.Int64s() // no integers, no axes
	}
	if len(axes) != 1 || axes[0] != -1 {
		return fmt.Errorf("axes are %v, not the last", axes)
	}
	return nil
}

var plain = &g.Rule{
	Name:    "rmsnorm",
	Doc:     "all in one type",
	Pattern: g.Op("Mul", normalised(g.Any("x")), g.Const("weight")),
	Check:   check,
	Rewrite: rewrite,
}

var mixed = &g.Rule{
	Name: "rmsnorm-mixed",
	Doc:  "x is cast to float32 for the statistics, and the result back",
	Pattern: g.Op("Mul",
		g.Op("Cast", normalised(g.Op("Cast", g.Any("x")).Attr("to", 0, int64(ir.Float32)))).As("back"), g.Const("weight")),
	Check: func(m *g.Match) error {
		to := ir.DType(m.Node("back").Int("to", 0))
		if x := m.Unit.Type(m.Value("x")); x != nil && x.DType != to {
			return fmt.Errorf("x is %v, the result is cast to %v", x.DType, to)
		}
		return check(m)
	},
	Rewrite: rewrite,
}

var standard = &g.Rule{
	Name: "rmsnorm-standard",
	Doc:  "RMSNormalization of opset 23",
	Pattern: g.Op("RMSNormalization", g.Any("x"), g.Const("weight")).Attr("stash_type", 1, 1).Where(func(n *ir.Node) error {
		if eps := n.Float("epsilon", 1e-5); eps <= 0 || eps > 1 {
			return fmt.Errorf("epsilon is %g", eps)
		}
		return nil
	}),
	Check: func(m *g.Match) error {
		if err := elementwise(m); err != nil {
			return err
		}
		rank := int64(len(m.Unit.Type(m.Value("x")).Shape))
		if axis := m.Root.Int("axis", -1); axis != -1 && axis != rank-1 {
			return fmt.Errorf("the norm runs from axis %d on", axis)
		}
		return nil
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) { return replacement(m, m.Root.Float("epsilon", 1e-5)), nil },
}

// check makes sure that the weight scales elements one by one, and that there is an epsilon.
func check(m *g.Match) error {
	if err := elementwise(m); err != nil {
		return err
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

// elementwise makes sure that the weight scales elements one by one: the operator does not broadcast.
func elementwise(m *g.Match) error {
	w, x := m.Const("weight"), m.Unit.Type(m.Value("x"))
	if len(w.Shape) != 1 {
		return fmt.Errorf("the weight has shape %v, not one dimension", w.Shape)
	}
	if !x.HasShape() || len(x.Shape) == 0 {
		return fmt.Errorf("the shape of %q is not known", m.Value("x").Name)
	}
	if last := x.Shape[len(x.Shape)-1]; last.Size != w.Shape[0] {
		return fmt.Errorf("the weight has %d elements, the last axis of %q does not", w.Shape[0], m.Value("x").Name)
	}
	if w.DType != x.DType {
		return fmt.Errorf("x is %v, the weight %v", x.DType, w.DType)
	}
	return nil
}

func rewrite(m *g.Match) (*ir.Value, error) {
	eps, err := g.ScalarValue(m.Const("epsilon"))
	if err != nil {
		return nil, err
	}
	return replacement(m, float32(eps)), nil
}

func replacement(m *g.Match, epsilon float32) *ir.Value {
	return m.Graph.Op("SimplifiedLayerNormalization", path.Join(path.Dir(m.Root.Name), "SimplifiedLayerNormalization"),
		[]*ir.Value{m.Value("x"), m.Value("weight")},
		ir.Int("axis", -1), ir.Float("epsilon", epsilon), ir.Int("stash_type", 1))
}
