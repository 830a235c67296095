// Package cleanup removes nodes that only hand their operand on, and joins pairs of them.
//
//	Identity(x)                    ⇒ x
//	Concat(x) of nothing else      ⇒ x
//	Cast(x) to the type of x       ⇒ x
//	Cast(Cast(x, wider), t)        ⇒ Cast(x, t), or x
//	Transpose(Transpose(x))        ⇒ Transpose(x), or x
//	Reshape(Reshape(x), shape)     ⇒ Reshape(x, shape)
//	Reshape(x, the shape x has)    ⇒ x
//
// All are exact: of two casts only those are joined whose first type holds every value of x. A narrower one
// in between rounds, and what it rounds stays rounded.
package cleanup

import (
	"errors"
	"fmt"
	"slices"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Pass removes all such nodes of a graph.
var Pass = &g.Pass{
	Name:  "cleanup",
	Doc:   "nodes without effect go (Identity, Cast, Concat, Transpose, Reshape), and pairs of them become one",
	Needs: "nothing",
	After: []string{"constants"},
	Run: func(u *g.Unit) (int, error) {
		return u.Apply(identity, concatOfOne, castToSame, castOfCast, transposeOfNone, transposeOfTranspose, reshapeOfReshape, reshapeToSame)
	},
}

// Casts removes casts without effect alone, for passes that insert casts.
func Casts(u *g.Unit) (int, error) { return u.Apply(castToSame, castOfCast) }

var identity = &g.Rule{
	Name:    "identity",
	Doc:     "Identity(x)",
	Pattern: g.Op("Identity", g.Any("x")),
	Check:   func(m *g.Match) error { return replaceable(m, m.Value("x")) },
	Rewrite: operand,
}

var concatOfOne = &g.Rule{
	Name:    "concat-of-one",
	Doc:     "Concat(x), as tracing leaves where a list has one element",
	Pattern: g.Op("Concat", g.Any("x")),
	Check:   func(m *g.Match) error { return replaceable(m, m.Value("x")) },
	Rewrite: operand,
}

var castToSame = &g.Rule{
	Name:    "cast-to-same",
	Doc:     "Cast(x) to the type that x has",
	Pattern: g.Op("Cast", g.Any("x")),
	Check: func(m *g.Match) error {
		if t := m.Unit.Type(m.Value("x")); t == nil || t.DType != to(m.Root) {
			return errors.New("it changes the type, or that of its operand is not known")
		}
		return replaceable(m, m.Value("x"))
	},
	Rewrite: operand,
}

var castOfCast = &g.Rule{
	Name:    "cast-of-cast",
	Doc:     "Cast(Cast(x)) where the first cast loses nothing",
	Pattern: g.Op("Cast", g.Op("Cast", g.Any("x")).As("inner").Shared()),
	Check: func(m *g.Match) error {
		t := m.Unit.Type(m.Value("x"))
		if t == nil {
			return fmt.Errorf("the type of %q is not known", m.Value("x").Name)
		}
		if between := to(m.Node("inner")); !exact(t.DType, between) {
			return fmt.Errorf("a cast from %v to %v rounds", t.DType, between)
		}
		return nil
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		return m.Graph.Op("Cast", m.Root.Name, []*ir.Value{m.Value("x")}, ir.Int("to", int64(to(m.Root)))), nil
	},
}

var transposeOfNone = &g.Rule{
	Name:    "transpose-of-none",
	Doc:     "Transpose(x) that leaves every axis where it is",
	Pattern: g.Op("Transpose", g.Any("x")),
	Check: func(m *g.Match) error {
		if perm := m.Root.Ints("perm"); perm == nil || !ordered(perm) {
			return fmt.Errorf("perm is %v", perm)
		}
		return replaceable(m, m.Value("x"))
	},
	Rewrite: operand,
}

var transposeOfTranspose = &g.Rule{
	Name:    "transpose-of-transpose",
	Doc:     "Transpose(Transpose(x))",
	Pattern: g.Op("Transpose", g.Op("Transpose", g.Any("x")).As("inner").Shared()),
	Check: func(m *g.Match) error {
		_, err := composed(m)
		return err
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		perm, err := composed(m)
		if err != nil {
			return nil, err
		}
		return m.Graph.Op("Transpose", m.Root.Name, []*ir.Value{m.Value("x")}, ir.Ints("perm", perm...)), nil
	},
}

// composed is the permutation of both transpositions together.
func composed(m *g.Match) ([]int64, error) {
	inner, outer := m.Node("inner").Ints("perm"), m.Root.Ints("perm")
	perm := make([]int64, len(outer))
	for i, axis := range outer {
		if axis < 0 || axis >= int64(len(inner)) {
			return nil, fmt.Errorf("perms are %v and %v", inner, outer)
		}
		perm[i] = inner[axis]
	}
	if len(inner) != len(outer) || len(perm) == 0 {
		return nil, fmt.Errorf("perms are %v and %v", inner, outer) // reversal by default, of a rank not known
	}
	return perm, nil
}

var reshapeOfReshape = &g.Rule{
	Name:    "reshape-of-reshape",
	Doc:     "Reshape(Reshape(x)) to a shape without copied dimensions",
	Pattern: g.Op("Reshape", g.Op("Reshape", g.Any("x"), g.Any("")).Shared(), g.Const("shape")),
	Check: func(m *g.Match) error {
		shape, err := m.Ints("shape")
		if err == nil && slices.Contains(shape, 0) {
			err = fmt.Errorf("shape %v copies from the first", shape)
		}
		return err
	},
	Rewrite: func(m *g.Match) (*ir.Value, error) {
		return m.Graph.Op("Reshape", m.Root.Name, []*ir.Value{m.Value("x"), m.Value("shape")}), nil
	},
}

var reshapeToSame = &g.Rule{
	Name:    "reshape-to-same",
	Doc:     "Reshape(x) to the shape that x has",
	Pattern: g.Op("Reshape", g.Any("x"), g.Const("shape")).Attr("allowzero", 0, 0),
	Check: func(m *g.Match) error {
		shape, err := m.Ints("shape")
		if err != nil {
			return err
		}
		t := m.Unit.Type(m.Value("x"))
		if !t.HasShape() || !same(t.Shape, shape) {
			return fmt.Errorf("shape %v may differ from that of %q", shape, m.Value("x").Name)
		}
		return replaceable(m, m.Value("x"))
	},
	Rewrite: operand,
}

// same reports whether a tensor of these dimensions has them still behind a Reshape. A dimension is the same
// if it is copied or given as it is, and one that is inferred then has no choice.
func same(dims []ir.Dim, shape []int64) bool {
	if len(dims) != len(shape) {
		return false
	}
	inferred, copied := 0, 0
	for i, n := range shape {
		switch {
		case n == -1:
			inferred++
		case n == 0:
			copied++
		case n != dims[i].Size:
			return false
		}
	}
	return inferred == 0 || inferred == 1 && copied == 0 // beside a copied 0, -1 could not be inferred
}

func operand(m *g.Match) (*ir.Value, error) { return m.Value("x"), nil }

// replaceable reports whether readers of the root can read v in its place: an output of the graph must
// be the result of a node, and has a name of its own.
func replaceable(m *g.Match, v *ir.Value) error {
	if m.Root.Output(0).IsOutput() && (v.Producer() == nil || v.IsOutput() || v.Graph() != m.Graph) {
		return fmt.Errorf("%q is an output of the graph, and %q cannot take its place", m.Root.Output(0).Name, v.Name)
	}
	return nil
}

func to(n *ir.Node) ir.DType { return ir.DType(n.Int("to", 0)) }

// exact reports whether every value of one type is a value of another.
func exact(from, to ir.DType) bool {
	if from == to {
		return true
	}
	switch from {
	case ir.Bool:
		return to.Float() || to == ir.Int32 || to == ir.Int64
	case ir.Float16, ir.BFloat16:
		return to == ir.Float32 || to == ir.Float64
	case ir.Float32:
		return to == ir.Float64
	case ir.Int32:
		return to == ir.Int64 || to == ir.Float64
	}
	return false
}

func ordered(perm []int64) bool {
	for i, p := range perm {
		if p != int64(i) {
			return false
		}
	}
	return true
}
