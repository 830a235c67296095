package cleanup_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/cleanup"
)

func run(t *testing.T, m *ir.Model) int {
	t.Helper()
	r, err := g.Run(context.Background(), m, []*g.Pass{cleanup.Pass}, g.Options{})
	require.NoError(t, err)
	return r.Passes[0].Count
}

type graph struct {
	*ir.Graph
	x *ir.Value // float32 [n, 3, 4]
}

func (g graph) cast(x *ir.Value, d ir.DType) *ir.Value {
	return g.Op("Cast", "Cast", []*ir.Value{x}, ir.Int("to", int64(d)))
}

func (g graph) transpose(x *ir.Value, perm ...int64) *ir.Value {
	return g.Op("Transpose", "Transpose", []*ir.Value{x}, ir.Ints("perm", perm...))
}

func (g graph) reshape(x *ir.Value, shape ...int64) *ir.Value {
	return g.Op("Reshape", "Reshape", []*ir.Value{x, g.AddInitializer(g.Fresh("shape"), ir.Int64Tensor(shape))})
}

func (g graph) op(op string, in ...*ir.Value) *ir.Value { return g.Op(op, op, in) }

func TestCleanup(t *testing.T) {
	for _, c := range []struct {
		why   string
		build func(g graph) []*ir.Value
		left  int // nodes
	}{
		{"an identity inside goes", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.op("Identity", g.op("Neg", g.x)))}
		}, 2},
		{"an identity that is an output gives its name to what it hands on", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Identity", g.op("Exp", g.x))}
		}, 1},
		{"one between input and output must stay", func(g graph) []*ir.Value { return []*ir.Value{g.op("Identity", g.x)} }, 1},
		{"one between two outputs must stay", func(g graph) []*ir.Value {
			e := g.op("Exp", g.x)
			return []*ir.Value{e, g.op("Identity", e)}
		}, 2},
		{"a cast to the same type goes", func(g graph) []*ir.Value { return []*ir.Value{g.op("Exp", g.cast(g.x, ir.Float32))} }, 1},
		{"there and back through a wider type: nothing is left", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.cast(g.cast(g.x, ir.Float64), ir.Float32))}
		}, 1},
		{"through a narrower type values are rounded", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.cast(g.cast(g.x, ir.Float16), ir.Float32))}
		}, 3},
		{"of a chain, what loses nothing goes", func(g graph) []*ir.Value {
			narrow := g.cast(g.x, ir.Float16)
			return []*ir.Value{g.op("Exp", g.cast(g.cast(g.cast(narrow, ir.Float32), ir.Float16), ir.Float32))}
		}, 3},
		{"truncation to integers is no detour", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.cast(g.cast(g.x, ir.Int64), ir.Float32))}
		}, 3},
		{"a list of one goes", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.Op("Concat", "Concat", []*ir.Value{g.x}, ir.Int("axis", 1)))}
		}, 1},
		{"a list of two stays", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.Op("Concat", "Concat", []*ir.Value{g.x, g.x}, ir.Int("axis", 2)))}
		}, 2},
		{"transpositions that cancel", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.transpose(g.transpose(g.x, 1, 2, 0), 2, 0, 1))}
		}, 1},
		{"transpositions that do not", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.transpose(g.transpose(g.x, 1, 2, 0), 1, 2, 0))}
		}, 2},
		{"the first has another reader", func(g graph) []*ir.Value {
			first := g.transpose(g.x, 0, 2, 1)
			return []*ir.Value{g.op("Exp", g.transpose(first, 0, 2, 1)), g.op("Neg", first)}
		}, 3},
		{"a transposition of nothing", func(g graph) []*ir.Value { return []*ir.Value{g.op("Exp", g.transpose(g.x, 0, 1, 2))} }, 1},
		{"of two shapes the last counts", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.reshape(g.reshape(g.x, -1), -1, 6))}
		}, 2},
		{"but not where it copies from the first", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.reshape(g.reshape(g.x, -1, 4), 0, 2, 2))}
		}, 3},
		{"the shape that is there already", func(g graph) []*ir.Value {
			return []*ir.Value{g.op("Exp", g.reshape(g.x, 0, 3, 4)), g.op("Neg", g.reshape(g.x, -1, 3, 4))}
		}, 2},
		{"the same number of dimensions, but others", func(g graph) []*ir.Value { return []*ir.Value{g.op("Exp", g.reshape(g.x, -1, 4, 3))} }, 2},
	} {
		t.Run(c.why, func(t *testing.T) {
			m := ir.NewModel("g", 10, 21)
			gr := graph{Graph: m.Graph}
			gr.x = m.Graph.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("n"), ir.Fixed(3), ir.Fixed(4)))
			for _, o := range c.build(gr) {
				o.Type = &ir.Type{DType: ir.Float32}
				m.Graph.AddOutput(o)
			}
			require.NoError(t, m.Validate())
			x := interp.Floats([]int64{2, 3, 4}, make([]float64, 24)...)
			for i := range x.F {
				x.F[i] = float64(i)/7 - 1.3
			}
			in := graphtest.Tensors{"x": x}
			want := graphtest.Open(t, m).Run(t, in)
			run(t, m)
			require.Equal(t, c.left, m.Graph.NumNodes())
			graphtest.Near(t, want, graphtest.Open(t, m).Run(t, in), 0)
			require.Zero(t, run(t, m), "once is enough")
		})
	}
}

// Nothing of a decoder is without effect, except presents under another name.
func TestDecoder(t *testing.T) {
	plain := graphtest.Decoder{}.Model(t)
	require.Zero(t, run(t, plain))
	m := graphtest.Decoder{PresentIdentity: true}.Model(t)
	want := graphtest.Generate(t, m, 2, 4, 1)
	require.Equal(t, 2, run(t, m))
	require.Equal(t, plain.Graph.NumNodes(), m.Graph.NumNodes())
	graphtest.Near(t, want, graphtest.Generate(t, m, 2, 4, 1), 0)
}
