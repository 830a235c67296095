package silu_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/silu"
)

func run(t *testing.T, m *ir.Model) (int, string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, []*g.Pass{silu.Pass}, g.Options{Trace: func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[0].Count, strings.Join(declined, "\n")
}

func TestSiLU(t *testing.T) {
	cases := []struct {
		why    string
		dtype  ir.DType
		build  func(s *graphtest.Sketch, x *ir.Value) *ir.Value
		fuses  int
		reason string
	}{
		{why: "x·sigmoid(x)", fuses: 1, build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Mul", []*ir.Value{x, s.Op("Sigmoid", []*ir.Value{x})})
		}},
		{why: "sigmoid(x)·x", fuses: 1, build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Mul", []*ir.Value{s.Op("Sigmoid", []*ir.Value{x}), x})
		}},
		{why: "inside the gated product", fuses: 1, build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			y := s.Op("Neg", []*ir.Value{x})
			return s.Op("Mul", []*ir.Value{y, s.Op("Mul", []*ir.Value{s.Op("Sigmoid", []*ir.Value{x}), x})})
		}},
		{why: "in float16", dtype: ir.Float16, fuses: 1, build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Mul", []*ir.Value{x, s.Op("Sigmoid", []*ir.Value{x})})
		}},
		{why: "the gate of something else", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Mul", []*ir.Value{s.Op("Neg", []*ir.Value{x}), s.Op("Sigmoid", []*ir.Value{x})})
		}},
		{why: "the sigmoid has other readers", reason: "is also read outside", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			y := s.Op("Sigmoid", []*ir.Value{x})
			s.Output(s.Op("Neg", []*ir.Value{y}), "other")
			return s.Op("Mul", []*ir.Value{x, y})
		}},
		{why: "float64 has no kernel", dtype: ir.Float64, reason: "there is no kernel for float64", build: func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Mul", []*ir.Value{x, s.Op("Sigmoid", []*ir.Value{x})})
		}},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			if c.dtype == 0 {
				c.dtype = ir.Float32
			}
			s := graphtest.NewSketch()
			x := s.Input("x", graphtest.Ramp(c.dtype, 2, 23), ir.Sym("n"), ir.Fixed(23))
			s.Output(c.build(s, x), "y")
			want := s.Run(t)
			n, reason := run(t, s.Model)
			require.Equal(t, c.fuses, n)
			require.Contains(t, reason, c.reason)
			require.Equal(t, c.fuses, s.Count("QuickGelu"))
			require.Equal(t, 1-c.fuses, s.Count("Sigmoid"))
			tol := 1e-6
			if c.dtype == ir.Float16 {
				tol = 1e-3
			}
			graphtest.Near(t, want, s.Run(t), tol)
		})
	}
}

func TestUnknownType(t *testing.T) {
	s := graphtest.NewSketch()
	x := s.Op("Mystery", []*ir.Value{s.Input("x", graphtest.Ramp(ir.Float32, 2), ir.Fixed(2))})
	s.Output(s.Op("Mul", []*ir.Value{x, s.Op("Sigmoid", []*ir.Value{x})}), "y")
	n, reason := run(t, s.Model)
	require.Zero(t, n)
	require.Contains(t, reason, "is not known")
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	n, _ := run(t, m)
	require.Equal(t, 1, n)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	graphtest.Golden(t, "silu", b.String())
}
