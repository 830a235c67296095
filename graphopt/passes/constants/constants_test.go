package constants_test

import (
	"context"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/constants"
)

func run(t *testing.T, m *ir.Model) (int, string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, []*g.Pass{constants.Pass}, g.Options{Trace: func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[0].Count, strings.Join(declined, "\n")
}

func TestConstants(t *testing.T) {
	literal := func(s *graphtest.Sketch, a *ir.Attr) *ir.Value { return s.Op("Constant", nil, a) }
	cases := []struct {
		why  string
		of   func(s *graphtest.Sketch, x *ir.Value) *ir.Value // joins x [n,4] with what folds
		want int                                              // nodes folded
		left int                                              // nodes left
	}{
		{"a Constant node", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Add", []*ir.Value{x, literal(s, ir.Float("value_float", 0.1))})
		}, 1, 1},
		{"an expression of constants", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			half := s.Op("Div", []*ir.Value{literal(s, ir.Float("value_float", 1)), s.Op("Sqrt", []*ir.Value{s.Floats("c", ir.Float32, 2)})})
			return s.Op("Mul", []*ir.Value{x, half})
		}, 3, 1},
		{"a shape of a constant", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Reshape", []*ir.Value{x, s.Op("Concat", []*ir.Value{s.Ints(-1), s.Op("Shape", []*ir.Value{s.Floats("c", ir.Float32, 1, 2, 3, 4)})}, ir.Int("axis", 0))})
		}, 2, 1},
		{"a large Constant node is lifted as it is", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("MatMul", []*ir.Value{x, literal(s, ir.TensorAttr("value", ir.Float32Tensor(make([]float32, 4*5000), 4, 5000)))})
		}, 1, 1},
		{"a large result stays an expression", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			big := s.Op("Expand", []*ir.Value{s.Floats("c", ir.Float32, 2), s.Ints(4, 5000)})
			return s.Op("MatMul", []*ir.Value{x, big})
		}, 0, 2},
		{"a transposed weight stays where it is used", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			w := s.Graph.AddInitializer("w", ir.Float32Tensor(make([]float32, 4*5000), 5000, 4))
			return s.Op("MatMul", []*ir.Value{x, s.Op("Transpose", []*ir.Value{w}, ir.Ints("perm", 1, 0))})
		}, 0, 2},
		{"an operator that is not known", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Add", []*ir.Value{x, s.Op("Erf", []*ir.Value{s.Floats("c", ir.Float32, 2)})})
		}, 0, 2},
		{"an input with a default may change", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Add", []*ir.Value{x, s.Op("Neg", []*ir.Value{s.Graph.AddOptionalInput("opt", ir.Float32Scalar(3))})})
		}, 0, 2},
		{"what depends on x", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Add", []*ir.Value{x, s.Op("Neg", []*ir.Value{x})})
		}, 0, 2},
		{"a random number is none", func(s *graphtest.Sketch, x *ir.Value) *ir.Value {
			return s.Op("Add", []*ir.Value{x, s.Op("Mul", []*ir.Value{s.Floats("zero", ir.Float32, 0), s.Op("RandomUniform", nil, ir.Ints("shape", 4))})})
		}, 0, 3},
	}
	for _, c := range cases {
		t.Run(c.why, func(t *testing.T) {
			s := graphtest.NewSketch()
			x := s.Input("x", graphtest.Ramp(ir.Float32, 3, 4), ir.Sym("n"), ir.Fixed(4))
			s.Output(c.of(s, x), "y")
			want := s.Run(t)
			n, declined := run(t, s.Model)
			require.Empty(t, declined)
			require.Equal(t, c.want, n)
			require.Equal(t, c.left, s.Graph.NumNodes())
			graphtest.Near(t, want, s.Run(t), 0)
		})
	}
}

// The names of values stay, so that a trace or a debugger finds them; and what is an output keeps its node.
func TestNames(t *testing.T) {
	s := graphtest.NewSketch()
	c := s.Op("Constant", nil, ir.Ints("value_ints", 1, 2))
	s.Output(c, "direct")
	d := s.Op("Constant", nil, ir.Ints("value_ints", 3, 4))
	d.Name = "named"
	s.Output(s.Op("Identity", []*ir.Value{d}), "y")
	want := s.Run(t)
	n, _ := run(t, s.Model)
	require.Equal(t, 1, n)
	require.Equal(t, "named", s.Graph.Initializers()[0].Name)
	require.Equal(t, "direct", s.Graph.Outputs()[0].Name)
	graphtest.Near(t, want, s.Run(t), 0)
}

// An expression that fails is left for ONNX Runtime to fail on, if it is ever reached.
func TestFailing(t *testing.T) {
	s := graphtest.NewSketch()
	s.Output(s.Op("Div", []*ir.Value{s.Ints(1), s.Ints(0)}), "y")
	s.Output(s.Op("Add", []*ir.Value{s.Op("Div", []*ir.Value{s.Ints(1), s.Ints(0)}), s.Ints(0)}), "z")
	n, declined := run(t, s.Model)
	require.Zero(t, n)
	require.Contains(t, declined, "division by zero")
}

// What a hostile graph asks to fold is bounded: here 2^40 elements, and as many again.
func TestHostile(t *testing.T) {
	s := graphtest.NewSketch()
	for range 2000 {
		s.Output(s.Op("Neg", []*ir.Value{s.Op("ConstantOfShape", []*ir.Value{s.Ints(1<<20, 1<<20)})}), "y")
		s.Output(s.Op("Neg", []*ir.Value{s.Op("Range", []*ir.Value{
			s.Graph.AddInitializer(s.Graph.Fresh("i"), ir.Int64Scalar(0)),
			s.Graph.AddInitializer(s.Graph.Fresh("i"), ir.Int64Scalar(math.MaxInt64)),
			s.Graph.AddInitializer(s.Graph.Fresh("i"), ir.Int64Scalar(1)),
		})}), "z")
	}
	n, _ := run(t, s.Model)
	require.Zero(t, n)
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	n := graphtest.Named(t, m, "/model/layers.0/self_attn/Mul")
	scale := m.Graph.Op("Div", "/scale/Div", []*ir.Value{
		m.Graph.Op("Constant", "/scale/one", nil, ir.TensorAttr("value", ir.Float32Scalar(1))),
		m.Graph.Op("Sqrt", "/scale/Sqrt", []*ir.Value{m.Graph.Op("Constant", "/scale/dim", nil, ir.TensorAttr("value", ir.Float32Scalar(16)))}),
	})
	n.SetInput(1, scale)
	folded, _ := run(t, m)
	require.Equal(t, 4, folded)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	graphtest.Golden(t, "constants", b.String())
}
