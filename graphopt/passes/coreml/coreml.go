// Package coreml writes operators that Core ML's provider does not take, or takes for something else, in
// others.
//
//	Pow(x, 2)               ⇒ Mul(x, x)       Pow is taken in float32 only
//	Mul(x, Reciprocal(r))   ⇒ Div(x, r)       Core ML's inverse adds 1e-4 to r
//	Reciprocal(r)           ⇒ Div(1, r)
//	Neg(x)                  ⇒ Mul(x, -1)
//	Expand(x, shape)        ⇒ Tile(x, repeats)
//
// Each node that is not taken splits the model in two programs with copies between them, so one such node
// in a layer costs more than all others together. Operators of com.microsoft are not taken at all, and so
// norms, attention and SiLU stay in pieces: the passes that fuse them do not serve this target. What is left
// to the CPU behind this pass reads inputs of the model: tokens, positions and the mask.
//
// The forms are those of onnxruntime's coreml_supported_mlprogram_ops.md; see also package kernels.
package coreml

import (
	"errors"
	"fmt"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass rewrites a graph for Core ML.
var Pass = &g.Pass{
	Name:    "coreml",
	Doc:     "operators that Core ML does not take (Neg, Expand, Pow, Reciprocal) are written in others",
	Needs:   "fixed shapes for Expand, so it runs behind static",
	After:   []string{"constants", "static"},
	Targets: []g.Target{g.CoreML},
	Run: func(u *g.Unit) (int, error) {
		n, err := u.Apply(square, quotient, negative, repeat)
		if err != nil {
			return n, err
		}
		rest, err := u.Apply(reciprocal) // those that quotient has left
		return n + rest, err
	},
}

var square = &g.Rule{
	Name:    "square",
	Doc:     "Pow(x, 2)",
	Pattern: g.Op("Pow", g.Any("x"), g.Scalar(2)),
	Check:   func(m *g.Match) error { return float(m, "x") },
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		x := m.Value("x")
		return m.Graph.Op("Mul", m.Root.Name, []*ir.Value{x, x}), nil
	},
}

var quotient = &g.Rule{
	Name:    "quotient",
	Doc:     "Mul(x, Reciprocal(r))",
	Pattern: g.Op("Mul", g.Any("x"), g.Op("Reciprocal", g.Any("r"))),
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		return m.Graph.Op("Div", m.Root.Name, []*ir.Value{m.Value("x"), m.Value("r")}), nil
	},
}

var reciprocal = &g.Rule{
	Name:    "reciprocal",
	Doc:     "Reciprocal(r) that is no factor",
	Pattern: g.Op("Reciprocal", g.Any("r")),
	Check:   func(m *g.Match) error { return float(m, "r") },
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		one, err := constant(m, "r", 1)
		if err != nil {
			return nil, err
		}
		return m.Graph.Op("Div", m.Root.Name, []*ir.Value{one, m.Value("r")}), nil
	},
}

var negative = &g.Rule{
	Name:    "negative",
	Doc:     "Neg(x)",
	Pattern: g.Op("Neg", g.Any("x")),
	Check:   func(m *g.Match) error { return float(m, "x") },
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		minus, err := constant(m, "x", -1)
		if err != nil {
			return nil, err
		}
		return m.Graph.Op("Mul", m.Root.Name, []*ir.Value{m.Value("x"), minus}), nil
	},
}

// maxRank is what Core ML has of dimensions.
const maxRank = 5

var repeat = &g.Rule{
	Name:    "repeat",
	Doc:     "Expand(x) that repeats x along axes of one element",
	Pattern: g.Op("Expand", g.Any("x"), g.Const("shape")),
	Check: func(m *g.Match) error {
		_, err := repeats(m)
		return err
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		n, err := repeats(m)
		if err != nil {
			return nil, err
		}
		times := m.Graph.AddInitializer(m.Graph.Fresh(m.Root.Name+"/repeats"), ir.Int64Tensor(n))
		return m.Graph.Op("Tile", m.Root.Name, []*ir.Value{m.Value("x"), times}), nil
	},
}

// repeats says how often an Expand repeats each axis.
func repeats(m *g.Match) ([]int64, error) {
	if err := float(m, "x"); err != nil {
		return nil, err
	}
	shape, err := m.Ints("shape")
	if err != nil {
		return nil, err
	}
	dims := m.Unit.Type(m.Value("x")).Shape
	if len(shape) != len(dims) || len(dims) > maxRank {
		return nil, fmt.Errorf("from %d dimensions to %d", len(dims), len(shape))
	}
	n := make([]int64, len(shape))
	for i, d := range shape {
		switch {
		case d == 1 || d == dims[i].Size:
			n[i] = 1
		case dims[i].Size == 1:
			n[i] = d
		default:
			return nil, fmt.Errorf("dimension %d is not known to be 1 or %d", i, d)
		}
	}
	return n, nil
}

func float(m *g.Match, name string) error {
	t := m.Unit.Type(m.Value(name))
	switch {
	case !t.HasShape():
		return fmt.Errorf("the type of %q is not known", m.Value(name).Name)
	case t.DType != ir.Float32 && t.DType != ir.Float16:
		return errors.New("it is no floating point number")
	}
	return nil
}

// constant is a scalar of the type of a value.
func constant(m *g.Match, like string, v float32) (*ir.Value, error) {
	t, err := ir.Cast(ir.Float32Scalar(v), m.Unit.Type(m.Value(like)).DType)
	if err != nil {
		return nil, err
	}
	return m.Graph.AddInitializer(m.Graph.Fresh(m.Root.Name+"/constant"), t), nil
}
