package reshapes_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/reshapes"
)

func run(t *testing.T, m *ir.Model) (int, string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, []*g.Pass{reshapes.Pass}, g.Options{Trace: func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[0].Count, strings.Join(declined, "\n")
}

func TestReshapes(t *testing.T) {
	// x is [b, s, 24], c [b, 2, p, 4], and other [n] has a length of its own.
	type values struct{ x, c, other *ir.Value }
	dim := func(s *graphtest.Sketch, v *ir.Value, i int64) *ir.Value {
		return s.Op("Shape", []*ir.Value{v}, ir.Int("start", i), ir.Int("end", i+1))
	}
	shape := func(s *graphtest.Sketch, dims ...*ir.Value) *ir.Value { return s.Op("Concat", dims, ir.Int("axis", 0)) }
	cases := []struct {
		why    string
		data   func(s *graphtest.Sketch, v values) *ir.Value // x if nil
		shape  func(s *graphtest.Sketch, v values) *ir.Value
		attrs  []*ir.Attr
		want   []int64 // nil: left alone
		reason string
	}{
		{why: "heads split", want: []int64{0, 0, 4, 6}, shape: func(s *graphtest.Sketch, v values) *ir.Value {
			return shape(s, dim(s, v.x, 0), dim(s, v.x, 1), s.Ints(4), s.Ints(6))
		}},
		{why: "the sequence is the rest", want: []int64{0, 0, 4, 6}, shape: func(s *graphtest.Sketch, v values) *ir.Value {
			return shape(s, dim(s, v.x, 0), s.Ints(-1), s.Ints(4), s.Ints(6))
		}},
		{why: "rows joined", want: []int64{-1, 24}, shape: func(s *graphtest.Sketch, v values) *ir.Value {
			return shape(s, s.Op("Mul", []*ir.Value{dim(s, v.x, 0), dim(s, v.x, 1)}), s.Ints(24))
		}},
		{why: "arithmetic that comes to nothing", want: []int64{0, 0, 6, 4},
			shape: func(s *graphtest.Sketch, v values) *ir.Value {
				return shape(s, s.Op("Div", []*ir.Value{s.Op("Mul", []*ir.Value{dim(s, v.x, 0), s.Ints(6)}), s.Ints(6)}), dim(s, v.x, 1), s.Ints(6), s.Ints(4))
			}},
		{why: "a size by Gather of all of them", want: []int64{0, -1}, shape: func(s *graphtest.Sketch, v values) *ir.Value {
			all := s.Op("Shape", []*ir.Value{v.x})
			return shape(s, s.Op("Unsqueeze", []*ir.Value{s.Op("Gather", []*ir.Value{all, s.Graph.AddInitializer("zero", ir.Int64Scalar(0))}), s.Ints(0)}), s.Ints(-1))
		}},
		{why: "of another value of the same shape", want: []int64{0, 0, 24}, shape: func(s *graphtest.Sketch, v values) *ir.Value {
			return s.Op("Shape", []*ir.Value{s.Op("Neg", []*ir.Value{v.x})})
		}},
		{why: "allowzero goes: nothing is 0 here", want: []int64{0, 0, 24}, attrs: []*ir.Attr{ir.Int("allowzero", 1)}, shape: func(s *graphtest.Sketch, v values) *ir.Value {
			return shape(s, dim(s, v.x, 0), dim(s, v.x, 1), s.Ints(24))
		}},
		{why: "two dimensions that move", reason: "more than one dimension", shape: func(s *graphtest.Sketch, v values) *ir.Value {
			return shape(s, dim(s, v.x, 1), dim(s, v.x, 0), s.Ints(24))
		}},
		{why: "no past, no elements, no rest", reason: "without a past", attrs: []*ir.Attr{ir.Int("allowzero", 1)}, data: func(s *graphtest.Sketch, v values) *ir.Value { return v.c },
			shape: func(s *graphtest.Sketch, v values) *ir.Value {
				return shape(s, dim(s, v.c, 0), s.Op("Mul", []*ir.Value{dim(s, v.c, 2), s.Ints(2)}), s.Ints(4))
			}},
		{why: "a past that stays in its place", want: []int64{0, 2, 0, 2, 2}, data: func(s *graphtest.Sketch, v values) *ir.Value { return v.c },
			shape: func(s *graphtest.Sketch, v values) *ir.Value {
				return shape(s, dim(s, v.c, 0), s.Ints(2), dim(s, v.c, 2), s.Ints(2, 2))
			}},
		{why: "the shape is an input", reason: `depends on the content of "given"`, shape: func(s *graphtest.Sketch, v values) *ir.Value {
			t := graphtest.Ramp(ir.Float32, 1)
			t.DType, t.F, t.I = ir.Int64, nil, []int64{-1}
			return s.Input("given", t, ir.Fixed(1))
		}},
		{why: "the shape depends on content", reason: "takes part in the shape", shape: func(s *graphtest.Sketch, v values) *ir.Value {
			return shape(s, dim(s, s.Op("NonZero", []*ir.Value{v.other}), 0), s.Op("ReduceMax", []*ir.Value{s.Ints(-1)}, ir.Int("keepdims", 1)))
		}},
		{why: "behind an operator that nobody knows", reason: "not evaluated", shape: func(s *graphtest.Sketch, v values) *ir.Value {
			return shape(s, dim(s, s.Op("NonZero", []*ir.Value{v.other}), 0), s.Ints(-1))
		}},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := graphtest.NewSketch()
			v := values{
				x:     s.Input("x", graphtest.Ramp(ir.Float32, 2, 3, 24), ir.Sym("b"), ir.Sym("s"), ir.Fixed(24)),
				c:     s.Input("c", graphtest.Ramp(ir.Float32, 2, 2, 5, 4), ir.Sym("b"), ir.Fixed(2), ir.Sym("p"), ir.Fixed(4)),
				other: s.Input("other", graphtest.Ramp(ir.Float32, 6), ir.Sym("n")),
			}
			data := v.x
			if c.data != nil {
				data = c.data(s, v)
			}
			out := s.Graph.Op("Reshape", "under test", []*ir.Value{data, c.shape(s, v)}, c.attrs...)
			s.Output(out, "y")
			s.Output(s.Op("Neg", []*ir.Value{v.other}), "z")
			want := s.Run(t)
			n, reason := run(t, s.Model)
			node := graphtest.Named(t, s.Model, "under test")
			if c.want == nil {
				require.Zero(t, n)
				require.Nil(t, node.Input(1).Constant())
				require.Contains(t, reason, c.reason)
				return
			}
			require.Equal(t, 1, n, reason)
			got, err := node.Input(1).Constant().Int64s()
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			require.Nil(t, node.Attr("allowzero"))
			graphtest.Near(t, want, s.Run(t), 0)
		})
	}
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{ComputedShapes: true}.Model(t)
	want := graphtest.Generate(t, m, 2, 3, 1)
	n, reason := run(t, m)
	require.Equal(t, 4, n, reason)
	graphtest.Near(t, want, graphtest.Generate(t, m, 2, 3, 1), 0)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	graphtest.Golden(t, "reshapes", b.String())
}
