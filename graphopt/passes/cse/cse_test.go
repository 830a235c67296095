package cse_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/cse"
)

func run(t *testing.T, m *ir.Model) int {
	t.Helper()
	r, err := g.Run(context.Background(), m, []*g.Pass{cse.Pass}, g.Options{})
	require.NoError(t, err)
	return r.Passes[0].Count
}

// graph builds a model of float32 [2,3] operands x and y.
type graph struct {
	*ir.Graph
	m    *ir.Model
	x, y *ir.Value
}

func newGraph() *graph {
	m := ir.NewModel("g", 10, 21)
	g := &graph{Graph: m.Graph, m: m}
	g.x = g.AddInput("x", ir.TensorType(ir.Float32, ir.Fixed(2), ir.Fixed(3)))
	g.y = g.AddInput("y", ir.TensorType(ir.Float32, ir.Fixed(2), ir.Fixed(3)))
	return g
}

func (g *graph) op(op string, in ...*ir.Value) *ir.Value { return g.Op(op, op, in) }

func (g *graph) out(vs ...*ir.Value) {
	for _, v := range vs {
		if v.Type == nil {
			v.Type = ir.TensorType(ir.Float32, ir.Fixed(2), ir.Fixed(3))
		}
		g.AddOutput(v)
	}
}

func TestJoins(t *testing.T) {
	for _, c := range []struct {
		why   string
		build func(g *graph)
		want  int // nodes joined
	}{
		{"a chain computed twice goes as a whole", func(g *graph) {
			one := g.op("Exp", g.op("Add", g.x, g.y))
			two := g.op("Exp", g.op("Add", g.x, g.y))
			g.out(g.op("Mul", one, two))
		}, 2},
		{"operands in another order may round differently", func(g *graph) {
			g.out(g.op("Mul", g.op("Sub", g.x, g.y), g.op("Sub", g.y, g.x)))
		}, 0},
		{"equal small constants are one", func(g *graph) {
			axes := func() *ir.Value { return g.AddInitializer(g.Fresh("axes"), ir.Int64Tensor([]int64{1})) }
			a, b := g.op("ReduceSum", g.x, axes()), g.op("ReduceSum", g.x, axes())
			g.out(g.op("Mul", g.op("Add", g.x, a), b))
		}, 1},
		{"constants of equal bytes but another type are not", func(g *graph) {
			zero := g.AddInitializer("zero", ir.Float32Tensor([]float32{0, 0}, 2, 1))
			axis := g.AddInitializer("axis", ir.Int64Tensor([]int64{0}, 1))
			sum := g.op("ReduceSum", g.x, axis)
			g.out(g.op("Add", g.op("Add", g.x, zero), sum))
		}, 0},
		{"attributes tell nodes apart", func(g *graph) {
			a := g.Op("Softmax", "a", []*ir.Value{g.x}, ir.Int("axis", 0))
			b := g.Op("Softmax", "b", []*ir.Value{g.x}, ir.Int("axis", 1))
			g.out(g.op("Add", a, b))
		}, 0},
		{"the order of attributes does not", func(g *graph) {
			two := g.AddInitializer("two", ir.Int64Tensor([]int64{1}))
			a := g.Op("ReduceSum", "a", []*ir.Value{g.x, two}, ir.Int("keepdims", 1), ir.Int("noop_with_empty_axes", 0))
			b := g.Op("ReduceSum", "b", []*ir.Value{g.x, two}, ir.Int("noop_with_empty_axes", 0), ir.Int("keepdims", 1))
			g.out(g.op("Add", g.op("Add", g.x, a), b))
		}, 1},
		{"an output takes over where the first is none", func(g *graph) {
			inner, outer := g.op("Exp", g.x), g.op("Exp", g.x)
			g.out(outer, g.op("Add", inner, g.y))
		}, 1},
		{"two outputs stay two", func(g *graph) { g.out(g.op("Exp", g.x), g.op("Exp", g.x)) }, 0},
		{"random numbers differ each time", func(g *graph) {
			a, b := g.op("RandomUniformLike", g.x), g.op("RandomUniformLike", g.x)
			g.out(g.op("Mul", g.op("Sub", a, a), g.op("Sub", b, b)))
		}, 0},
		{"all results of a node", func(g *graph) {
			sizes := g.AddInitializer("sizes", ir.Int64Tensor([]int64{1, 2}))
			split := func(name string) *ir.Node {
				return g.Add(ir.NodeSpec{Op: "Split", Name: name, Inputs: []*ir.Value{g.x, sizes}, Outputs: []string{name + "0", name + "1"}, Attrs: []*ir.Attr{ir.Int("axis", 1)}})
			}
			a, b := split("a"), split("b")
			joined := g.Op("Concat", "c", []*ir.Value{a.Output(1), b.Output(0)}, ir.Int("axis", 1))
			g.out(g.op("Add", g.op("Add", joined, a.Output(0)), b.Output(0)))
		}, 1},
	} {
		t.Run(c.why, func(t *testing.T) {
			g := newGraph()
			c.build(g)
			require.NoError(t, g.m.Validate())
			in := graphtest.Tensors{
				"x": interp.Floats([]int64{2, 3}, 1, -2, 3, 0.5, 0.25, -1), "y": interp.Floats([]int64{2, 3}, 2, 1, -1, 3, 0, 0.125),
			}
			want := graphtest.Open(t, g.m).Run(t, in)
			require.Equal(t, c.want, run(t, g.m))
			graphtest.Near(t, want, graphtest.Open(t, g.m).Run(t, in), 0)
			require.Zero(t, run(t, g.m), "once is enough")
		})
	}
}

// A decoder that computes tables in each layer becomes one that computes them once.
func TestDecoder(t *testing.T) {
	apart, shared := graphtest.Decoder{Layers: 3, OwnTables: true}.Model(t), graphtest.Decoder{Layers: 3}.Model(t)
	want := graphtest.Generate(t, apart, 2, 4, 1)
	require.Positive(t, run(t, apart))
	run(t, shared)
	require.Equal(t, shared.Graph.NumNodes(), apart.Graph.NumNodes())
	graphtest.Near(t, want, graphtest.Generate(t, apart, 2, 4, 1), 0)
}

// Bodies read values of the main graph; they read what those have become.
func TestControlFlow(t *testing.T) {
	m, err := ir.Parse(graphtest.ControlFlow())
	require.NoError(t, err)
	want := graphtest.Open(t, m).Run(t, graphtest.ControlFlowInputs())
	run(t, m)
	graphtest.Near(t, want, graphtest.Open(t, m).Run(t, graphtest.ControlFlowInputs()), 0)
}
