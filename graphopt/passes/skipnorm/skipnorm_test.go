package skipnorm_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/skipnorm"
)

func run(t *testing.T, m *ir.Model, passes ...*g.Pass) (int, string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, append(passes, skipnorm.Pass), g.Options{Trace: func(e g.Event) {
		if e.Pass == "skip-norm" && e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[len(r.Passes)-1].Count, strings.Join(declined, "\n")
}

func TestSkipNorm(t *testing.T) {
	type dims = []ir.Dim
	full := dims{ir.Sym("b"), ir.Sym("s"), ir.Fixed(4)}
	norm := func(s *graphtest.Sketch, x *ir.Value, axis int64) *ir.Value {
		return s.Op("SimplifiedLayerNormalization", []*ir.Value{x, s.Floats("w", ir.Float32, 1, 2, 3, 4)},
			ir.Int("axis", axis), ir.Float("epsilon", 1e-3), ir.Int("stash_type", 1))
	}
	cases := []struct {
		why    string
		build  func(s *graphtest.Sketch)
		fuses  int
		reason string
	}{
		{why: "the sum lives on", fuses: 1, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), full...), s.Input("b", graphtest.Ramp(ir.Float32, 2, 3, 4), full...)})
			s.Output(norm(s, sum, -1), "y")
			s.Output(s.Op("Neg", []*ir.Value{sum}), "z")
		}},
		{why: "nothing else reads the sum", fuses: 1, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), full...), s.Input("b", graphtest.Ramp(ir.Float32, 2, 3, 4), full...)})
			s.Output(norm(s, sum, 2), "y")
		}},
		{why: "two dimensions", fuses: 1, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 3, 4), full[1:]...), s.Input("b", graphtest.Ramp(ir.Float32, 3, 4), full[1:]...)})
			s.Output(norm(s, sum, -1), "y")
		}},
		{why: "two norms of one sum: the second stays", fuses: 1, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), full...), s.Input("b", graphtest.Ramp(ir.Float32, 2, 3, 4), full...)})
			s.Output(norm(s, sum, -1), "y")
			s.Output(norm(s, sum, -1), "z")
		}},
		{why: "a bias is no residual", reason: `is a constant, not a residual`, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), full...), s.Floats("bias", ir.Float32, 1, 2, 3, 4)})
			s.Output(norm(s, sum, -1), "y")
		}},
		{why: "a bias that comes from outside", reason: `different shapes`, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), full...), s.Input("b", graphtest.Ramp(ir.Float32, 4), full[2:]...)})
			s.Output(norm(s, sum, -1), "y")
		}},
		{why: "one row for all", reason: `different shapes`, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), full...), s.Input("b", graphtest.Ramp(ir.Float32, 2, 1, 4), ir.Sym("b"), ir.Fixed(1), ir.Fixed(4))})
			s.Output(norm(s, sum, -1), "y")
		}},
		{why: "lengths that are not known to be the same", reason: `different shapes`, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), full...), s.Input("b", graphtest.Ramp(ir.Float32, 2, 3, 4), ir.Sym("b"), ir.Sym("other"), ir.Fixed(4))})
			s.Output(norm(s, sum, -1), "y")
		}},
		{why: "lengths without a name", reason: `is not known`, build: func(s *graphtest.Sketch) {
			open := dims{{Size: -1}, {Size: -1}, ir.Fixed(4)}
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), open...), s.Input("b", graphtest.Ramp(ir.Float32, 2, 3, 4), open...)})
			s.Output(norm(s, sum, -1), "y")
		}},
		{why: "four dimensions", reason: `4 dimensions, not 2 or 3`, build: func(s *graphtest.Sketch) {
			four := append(dims{ir.Fixed(1)}, full...)
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 1, 2, 3, 4), four...), s.Input("b", graphtest.Ramp(ir.Float32, 1, 2, 3, 4), four...)})
			s.Output(norm(s, sum, -1), "y")
		}},
		{why: "the sum is an output of the graph", reason: `the sum is an output`, build: func(s *graphtest.Sketch) {
			sum := s.Op("Add", []*ir.Value{s.Input("a", graphtest.Ramp(ir.Float32, 2, 3, 4), full...), s.Input("b", graphtest.Ramp(ir.Float32, 2, 3, 4), full...)})
			s.Output(norm(s, sum, -1), "y")
			s.Output(sum, "sum")
		}},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := graphtest.NewSketch()
			c.build(s)
			want := s.Run(t)
			n, reason := run(t, s.Model)
			require.Equal(t, c.fuses, n, reason)
			require.Contains(t, reason, c.reason)
			require.Equal(t, c.fuses, s.Count("SkipSimplifiedLayerNormalization"))
			graphtest.Near(t, want, s.Run(t), 1e-6)
		})
	}
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{Layers: 2}.Model(t)
	want := graphtest.Generate(t, m, 2, 3, 1)
	n, reason := run(t, m, rmsnorm.Pass)
	require.Equal(t, 4, n, reason)
	graphtest.Near(t, want, graphtest.Generate(t, m, 2, 3, 1), 1e-5)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	graphtest.Golden(t, "skipnorm", b.String())
}
