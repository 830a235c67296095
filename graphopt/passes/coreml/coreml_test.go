package coreml_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
	"github.com/qwenrt/qwenrt/graphopt/passes"
	"github.com/qwenrt/qwenrt/graphopt/passes/coreml"
)

// Core ML itself is not here: the rewritten graphs run on the CPU, and what the provider takes is looked up.

func TestRules(t *testing.T) {
	f32 := ir.TensorType(ir.Float32, ir.Fixed(1), ir.Fixed(2), ir.Fixed(1), ir.Fixed(3))
	for _, c := range []struct {
		why   string
		build func(gr *ir.Graph, x *ir.Value) *ir.Value
		want  string // the only operator that is left
	}{
		{"a square", func(gr *ir.Graph, x *ir.Value) *ir.Value {
			return gr.Op("Pow", "y", []*ir.Value{x, gr.AddInitializer("two", ir.Float32Scalar(2))})
		}, "Mul"},
		{"another power", func(gr *ir.Graph, x *ir.Value) *ir.Value {
			return gr.Op("Pow", "y", []*ir.Value{x, gr.AddInitializer("three", ir.Float32Scalar(3))})
		}, "Pow"},
		{"a sign", func(gr *ir.Graph, x *ir.Value) *ir.Value { return gr.Op("Neg", "y", []*ir.Value{x}) }, "Mul"},
		{"a factor that is a reciprocal", func(gr *ir.Graph, x *ir.Value) *ir.Value {
			return gr.Op("Mul", "y", []*ir.Value{gr.Op("Reciprocal", "r", []*ir.Value{x}), x})
		}, "Div"},
		{"a reciprocal", func(gr *ir.Graph, x *ir.Value) *ir.Value { return gr.Op("Reciprocal", "y", []*ir.Value{x}) }, "Div"},
		{"heads that are repeated", func(gr *ir.Graph, x *ir.Value) *ir.Value {
			return gr.Op("Expand", "y", []*ir.Value{x, gr.AddInitializer("s", ir.Int64Tensor([]int64{1, 1, 4, 1}))})
		}, "Tile"},
		{"an axis more", func(gr *ir.Graph, x *ir.Value) *ir.Value {
			return gr.Op("Expand", "y", []*ir.Value{x, gr.AddInitializer("s", ir.Int64Tensor([]int64{2, 1, 1, 1, 1}))})
		}, "Expand"},
	} {
		m := ir.NewModel("g", 10, 21)
		y := c.build(m.Graph, m.Graph.AddInput("x", f32))
		y.Type = &ir.Type{DType: ir.Float32}
		m.Graph.AddOutput(y)
		in := graphtest.Tensors{"x": interp.Floats([]int64{1, 2, 1, 3}, 1, -2, 0.5, 3, -0.25, 7)}
		want := graphtest.Open(t, m).Run(t, in)
		_, err := g.Run(context.Background(), m, []*g.Pass{coreml.Pass}, g.Options{Target: g.CoreML})
		require.NoError(t, err)
		require.Equal(t, 1, m.Graph.NumNodes(), c.why)
		require.Equal(t, c.want, m.Graph.Nodes()[0].OpType, c.why)
		graphtest.Near(t, want, graphtest.Open(t, m).Run(t, in), 1e-6)
	}
}

// In the layers of a decoder nothing is left to the CPU: nodes without a kernel compute from nothing but
// tokens, positions and the mask.
func TestLayersAreWhole(t *testing.T) {
	for _, d := range []ir.DType{ir.Float32, ir.Float16} {
		m := graphtest.Decoder{Layers: 2, Tied: true}.Model(t)
		_, err := g.Run(context.Background(), m, passes.All(), g.Options{
			Target: g.CoreML, Static: g.Lengths{Batch: 1, Sequence: 4, Total: 12}, MaxPositions: 64, DType: d,
		})
		require.NoError(t, err)
		missing, err := kernels.Check(m, g.CoreML)
		require.NoError(t, err)
		require.NotEmpty(t, missing)
		for _, x := range missing {
			require.Equal(t, kernels.OnCPU, x.Effect, "%v", x.Node)
			requireFirst(t, x.Node, map[*ir.Node]bool{})
		}
		for _, n := range m.Graph.Nodes() {
			require.Empty(t, n.Domain, "%v", n)
			for _, v := range n.Outputs() {
				require.LessOrEqual(t, len(v.Type.Shape), 5, "%v", n)
			}
		}
	}
}

// requireFirst makes sure that nothing of what n computes from is a weight or a cache.
func requireFirst(t *testing.T, n *ir.Node, seen map[*ir.Node]bool) {
	t.Helper()
	if seen[n] {
		return
	}
	seen[n] = true
	require.NotContains(t, []string{"MatMul", "Softmax"}, n.OpType)
	for _, v := range n.Inputs() {
		if v == nil {
			continue
		}
		require.NotContains(t, v.Name, "past_key_values")
		if p := v.Producer(); p != nil {
			requireFirst(t, p, seen)
		}
	}
}
