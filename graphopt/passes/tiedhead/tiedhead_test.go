package tiedhead_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/tiedhead"
)

func run(t *testing.T, m *ir.Model) (int, string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, []*g.Pass{tiedhead.Pass}, g.Options{Trace: func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[0].Count, strings.Join(declined, "\n")
}

func TestTiedHead(t *testing.T) {
	matrix := func(s *graphtest.Sketch, d ir.DType, shape ...int64) *ir.Value {
		c, err := graphtest.Ramp(d, shape...).IR()
		require.NoError(t, err)
		return s.Graph.AddInitializer("table", c)
	}
	cases := []struct {
		why    string
		build  func(s *graphtest.Sketch) *ir.Value
		fuses  int
		reason string
	}{
		{why: "the table is read by Gather too, and stays one tensor", fuses: 1, build: func(s *graphtest.Sketch) *ir.Value {
			table := matrix(s, ir.Float32, 5, 4)
			x := s.Op("Gather", []*ir.Value{table, s.Ints(0, 3)})
			return s.Op("MatMul", []*ir.Value{x, s.Op("Transpose", []*ir.Value{table}, ir.Ints("perm", 1, 0))})
		}},
		{why: "three dimensions", fuses: 1, build: func(s *graphtest.Sketch) *ir.Value {
			x := s.Input("x", graphtest.Ramp(ir.Float32, 2, 3, 4), ir.Sym("b"), ir.Sym("s"), ir.Fixed(4))
			return s.Op("MatMul", []*ir.Value{x, s.Op("Transpose", []*ir.Value{matrix(s, ir.Float32, 5, 4)}, ir.Ints("perm", 1, 0))})
		}},
		{why: "nothing is transposed", build: func(s *graphtest.Sketch) *ir.Value {
			x := s.Input("x", graphtest.Ramp(ir.Float32, 3, 4), ir.Sym("s"), ir.Fixed(4))
			return s.Op("MatMul", []*ir.Value{x, s.Op("Transpose", []*ir.Value{matrix(s, ir.Float32, 4, 5)}, ir.Ints("perm", 0, 1))})
		}},
		{why: "three dimensions are transposed", build: func(s *graphtest.Sketch) *ir.Value {
			x := s.Input("x", graphtest.Ramp(ir.Float32, 3, 4), ir.Sym("s"), ir.Fixed(4))
			return s.Op("MatMul", []*ir.Value{x, s.Op("Transpose", []*ir.Value{matrix(s, ir.Float32, 2, 5, 4)}, ir.Ints("perm", 0, 2, 1))})
		}},
		{why: "an activation is transposed", build: func(s *graphtest.Sketch) *ir.Value {
			x := s.Input("x", graphtest.Ramp(ir.Float32, 3, 4), ir.Sym("s"), ir.Fixed(4))
			return s.Op("MatMul", []*ir.Value{x, s.Op("Transpose", []*ir.Value{x}, ir.Ints("perm", 1, 0))})
		}},
		{why: "the transposed table has other readers", reason: "is also read outside", build: func(s *graphtest.Sketch) *ir.Value {
			x := s.Input("x", graphtest.Ramp(ir.Float32, 3, 4), ir.Sym("s"), ir.Fixed(4))
			turned := s.Op("Transpose", []*ir.Value{matrix(s, ir.Float32, 5, 4)}, ir.Ints("perm", 1, 0))
			s.Output(s.Op("Neg", []*ir.Value{turned}), "other")
			return s.Op("MatMul", []*ir.Value{x, turned})
		}},
		{why: "float64 has no kernel", reason: "no kernel for float64", build: func(s *graphtest.Sketch) *ir.Value {
			x := s.Input("x", graphtest.Ramp(ir.Float64, 3, 4), ir.Sym("s"), ir.Fixed(4))
			return s.Op("MatMul", []*ir.Value{x, s.Op("Transpose", []*ir.Value{matrix(s, ir.Float64, 5, 4)}, ir.Ints("perm", 1, 0))})
		}},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := graphtest.NewSketch()
			s.Output(c.build(s), "y")
			want := s.Run(t)
			n, reason := run(t, s.Model)
			require.Equal(t, c.fuses, n, reason)
			require.Contains(t, reason, c.reason)
			require.Equal(t, c.fuses, s.Count("FusedMatMul"))
			graphtest.Near(t, want, s.Run(t), 1e-6)
		})
	}
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{Tied: true}.Model(t)
	want := graphtest.Generate(t, m, 1, 3)
	n, reason := run(t, m)
	require.Equal(t, 1, n, reason)
	graphtest.Near(t, want, graphtest.Generate(t, m, 1, 3), 1e-6)
	tables := 0
	for _, v := range m.Graph.Initializers() {
		if v.Const.Len() == 50*24 {
			tables++
		}
	}
	require.Equal(t, 1, tables)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	graphtest.Golden(t, "tiedhead", b.String())
}
