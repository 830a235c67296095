package rmsnorm_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
)

// norm is a normalisation in pieces. The zero value is what models/qwen3 writes in float32.
type norm struct {
	dtype    ir.DType // of x; default float32
	casts    bool     // statistics in float32
	back     ir.DType // default dtype
	square   string   // "Mul" for x·x
	axes     []int64  // default -1
	attr     bool     // axes as an attribute, as before opset 18
	keepdims int64    // default 1
	root     string   // "Div", "OneDiv" for x/√, x·(1/√)
	power    float32  // default 2
	epsilon  float32  // default 1e-5
	weight   func(s *graphtest.Sketch) *ir.Value
	dims     []ir.Dim // of x, default [batch, 3, 4]
	extra    string   // an inner node that is an output too
	commuted bool
}

func (c norm) sketch() *graphtest.Sketch {
	s := graphtest.NewSketch()
	if c.dtype == 0 {
		c.dtype = ir.Float32
	}
	if c.back == 0 {
		c.back = c.dtype
	}
	if c.dims == nil {
		c.dims = []ir.Dim{ir.Sym("batch"), ir.Fixed(3), ir.Fixed(4)}
	}
	if c.axes == nil {
		c.axes = []int64{-1}
	}
	if c.power == 0 {
		c.power = 2
	}
	if c.epsilon == 0 {
		c.epsilon = 1e-5
	}
	inner := c.dtype
	x := s.Input("x", graphtest.Ramp(c.dtype, 2, 3, 4), c.dims...)
	y := x
	if c.casts {
		inner = ir.Float32
		y = s.Op("Cast", []*ir.Value{x}, ir.Int("to", int64(ir.Float32)))
	}
	pair := func(op string, a, b *ir.Value) *ir.Value {
		if c.commuted {
			a, b = b, a
		}
		return s.Op(op, []*ir.Value{a, b})
	}
	var square *ir.Value
	if c.square == "Mul" {
		square = pair("Mul", y, y)
	} else {
		square = s.Op("Pow", []*ir.Value{y, s.Floats("two", inner, c.power)})
	}
	var mean *ir.Value
	if c.attr {
		s.Model.Opsets[0].Version = 17
		mean = s.Op("ReduceMean", []*ir.Value{square}, ir.Ints("axes", c.axes...), ir.Int("keepdims", 1-c.keepdims))
	} else {
		mean = s.Op("ReduceMean", []*ir.Value{square, s.Ints(c.axes...)}, ir.Int("keepdims", 1-c.keepdims))
	}
	root := s.Op("Sqrt", []*ir.Value{pair("Add", mean, s.Floats("epsilon", inner, c.epsilon))})
	switch c.root {
	case "Div":
		y = s.Op("Div", []*ir.Value{y, root})
	case "OneDiv":
		y = pair("Mul", y, s.Op("Div", []*ir.Value{s.Floats("one", inner, 1), root}))
	default:
		y = pair("Mul", y, s.Op("Reciprocal", []*ir.Value{root}))
	}
	if c.casts {
		y = s.Op("Cast", []*ir.Value{y}, ir.Int("to", int64(c.back)))
	}
	var w *ir.Value
	if c.weight != nil {
		w = c.weight(s)
	} else {
		w = s.Floats("weight", c.back, 0.5, 1, 1.5, -2)
	}
	s.Output(pair("Mul", y, w), "y")
	for _, n := range s.Graph.Nodes() {
		if c.extra != "" && n.OpType == c.extra {
			s.Output(s.Op("Neg", []*ir.Value{n.Output(0)}), "extra")
			break
		}
	}
	return s
}

func run(t *testing.T, m *ir.Model) (int, []string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, []*g.Pass{rmsnorm.Pass}, g.Options{Trace: func(e g.Event) {
		if e.Kind != g.Applied {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[0].Count, declined
}

func TestFuses(t *testing.T) {
	for why, c := range map[string]norm{
		"as models/qwen3 writes it":     {},
		"operands the other way round":  {commuted: true},
		"x·x":                           {square: "Mul"},
		"x over the root":               {root: "Div"},
		"x times one over the root":     {root: "OneDiv"},
		"axes as an attribute":          {attr: true},
		"another epsilon":               {epsilon: 1e-2},
		"float16 with casts":            {dtype: ir.Float16, casts: true},
		"float16 with casts, x·x":       {dtype: ir.Float16, casts: true, square: "Mul", commuted: true},
		"float16 without casts":         {dtype: ir.Float16, epsilon: 1e-3},
		"the only axis that is known":   {dims: []ir.Dim{ir.Sym("a"), ir.Sym("b"), ir.Fixed(4)}},
		"casts from float32 to float32": {casts: true},
	} {
		t.Run(why, func(t *testing.T) {
			s := c.sketch()
			want := s.Run(t)
			n, declined := run(t, s.Model)
			require.Equal(t, 1, n, declined)
			require.Equal(t, 1, s.Graph.NumNodes())
			eps := float32(1e-5)
			if c.epsilon != 0 {
				eps = c.epsilon
			}
			require.InEpsilon(t, eps, s.Graph.Nodes()[0].Float("epsilon", 0), 1e-3)
			tol := 1e-6
			if c.dtype == ir.Float16 {
				tol = 2e-3
			}
			graphtest.Near(t, want, s.Run(t), tol)
		})
	}
}

func TestDeclines(t *testing.T) {
	constant := func(shape []int64, v ...float32) func(s *graphtest.Sketch) *ir.Value {
		return func(s *graphtest.Sketch) *ir.Value {
			return s.Graph.AddInitializer("weight", ir.Float32Tensor(v, shape...))
		}
	}
	for why, c := range map[string]struct {
		norm
		reason string
	}{
		"over another axis":                  {norm{axes: []int64{1}}, "axes are [1], not the last"},
		"over two axes":                      {norm{axes: []int64{1, 2}}, "axes are [1 2], not the last"},
		"over another axis, as an attribute": {norm{attr: true, axes: []int64{1}}, "axes are [1], not the last"},
		"the axis is dropped":                {norm{keepdims: 1, dims: []ir.Dim{ir.Fixed(2), ir.Fixed(3), ir.Fixed(4)}}, "keepdims is 0, not [1]"},
		"x³":                                 {norm{power: 3}, "the constant is 3, not 2"},
		"no epsilon to speak of":             {norm{epsilon: -1}, "epsilon is -1"},
		"a weight for each row":              {norm{weight: constant([]int64{3, 1}, 1, 2, 3)}, "the weight has shape [3 1]"},
		"one weight for all":                 {norm{weight: constant([]int64{1}, 2)}, "the weight has 1 elements"},
		"a weight that comes from outside":   {norm{weight: func(s *graphtest.Sketch) *ir.Value { return s.Input("w", graphtest.Ramp(ir.Float32, 4), ir.Fixed(4)) }}, "is not a constant"},
		"a default is no constant": {norm{weight: func(s *graphtest.Sketch) *ir.Value {
			return s.Graph.AddOptionalInput("w", ir.Float32Tensor([]float32{1, 2, 3, 4}))
		}}, "is not a constant"},
		"the mean has other readers":              {norm{extra: "ReduceMean"}, "is also read outside of the match"},
		"the root has other readers":              {norm{extra: "Reciprocal"}, "is also read outside of the match"},
		"the width is not known":                  {norm{dims: []ir.Dim{ir.Sym("batch"), ir.Fixed(3), ir.Sym("width")}}, "does not"},
		"cast back to something else":             {norm{dtype: ir.Float16, casts: true, back: ir.Float32}, "x is float16, the result is cast to float32"},
		"float32 cast back to something narrower": {norm{casts: true, back: ir.Float16}, "x is float32, the result is cast to float16"},
	} {
		t.Run(why, func(t *testing.T) {
			s := c.sketch()
			var before, after strings.Builder
			require.NoError(t, g.Dump(&before, s.Model))
			n, declined := run(t, s.Model)
			require.Zero(t, n)
			require.NoError(t, g.Dump(&after, s.Model))
			require.Equal(t, before.String(), after.String())
			require.Contains(t, strings.Join(declined, "\n"), c.reason)
		})
	}
}

// RMSNormalization of opset 23 gets the name that the other passes know.
func TestStandard(t *testing.T) {
	for _, c := range []struct {
		why   string
		dims  []ir.Dim
		attrs []*ir.Attr
		alone bool
	}{
		{why: "its defaults"},
		{why: "the axis by its number, another epsilon", attrs: []*ir.Attr{ir.Int("axis", 2), ir.Float("epsilon", 1e-2)}},
		{why: "a free batch", dims: []ir.Dim{ir.Sym("batch"), ir.Fixed(3), ir.Fixed(4)}},
		{why: "a width that is not known", dims: []ir.Dim{ir.Fixed(2), ir.Fixed(3), ir.Sym("width")}, alone: true},
		{why: "statistics in a narrow type", attrs: []*ir.Attr{ir.Int("stash_type", 10)}, alone: true},
		{why: "two axes", attrs: []*ir.Attr{ir.Int("axis", 1)}, alone: true},
		{why: "no epsilon", attrs: []*ir.Attr{ir.Float("epsilon", 0)}, alone: true},
	} {
		t.Run(c.why, func(t *testing.T) {
			s := graphtest.NewSketch()
			s.Model.RequireOpset("", 23)
			if c.dims == nil {
				c.dims = []ir.Dim{ir.Fixed(2), ir.Fixed(3), ir.Fixed(4)}
			}
			x := s.Input("x", graphtest.Ramp(ir.Float32, 2, 3, 4), c.dims...)
			s.Output(s.Op("RMSNormalization", []*ir.Value{x, s.Floats("weight", ir.Float32, 0.5, 1, 1.5, -2)}, c.attrs...), "y")
			if c.alone {
				n, _ := run(t, s.Model)
				require.Zero(t, n)
				return
			}
			want := s.Run(t)
			n, declined := run(t, s.Model)
			require.Equal(t, 1, n, declined)
			require.Equal(t, 1, s.Count("SimplifiedLayerNormalization"))
			graphtest.Near(t, want, s.Run(t), 1e-6)
		})
	}
}

func TestGolden(t *testing.T) {
	m := graphtest.Decoder{DType: ir.Float16}.Model(t)
	_, err := g.Run(context.Background(), m, []*g.Pass{rmsnorm.Pass}, g.Options{})
	require.NoError(t, err)
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	graphtest.Golden(t, "rmsnorm", b.String())
}
