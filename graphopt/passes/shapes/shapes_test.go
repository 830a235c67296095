package shapes_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/shapes"
)

func TestDecoder(t *testing.T) {
	m := graphtest.Decoder{}.Model(t)
	want := graphtest.Generate(t, m, 2, 4, 1)
	o := g.Options{Target: g.CoreML}
	r, err := g.Run(context.Background(), m, []*g.Pass{shapes.Pass}, o)
	require.NoError(t, err)
	require.Positive(t, r.Passes[0].Count)
	batch, seq := ir.Sym("batch_size"), ir.Sym("sequence_length")
	for name, dims := range map[string][]ir.Dim{
		"/model/layers.0/mlp/gate_proj/MatMul/out":     {batch, seq, ir.Fixed(40)},
		"/model/layers.0/self_attn/q_proj/Reshape/out": {batch, seq, ir.Fixed(4), ir.Fixed(16)},
	} {
		found := false
		for _, n := range m.Graph.Nodes() {
			require.True(t, n.Output(0).Type.HasShape(), "%v", n)
			if n.Output(0).Name == name {
				require.Equal(t, dims, n.Output(0).Type.Shape)
				found = true
			}
		}
		require.True(t, found, name)
	}
	graphtest.Near(t, want, graphtest.Generate(t, m, 2, 4, 1), 0)
	r, err = g.Run(context.Background(), m, []*g.Pass{shapes.Pass}, o)
	require.NoError(t, err)
	require.Zero(t, r.Passes[0].Count, "once is enough")
}

// What the file says already is left as it is; what cannot be known is left open.
func TestUnknown(t *testing.T) {
	m := ir.NewModel("g", 10, 21)
	x := m.Graph.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("n")))
	odd := m.Graph.Add(ir.NodeSpec{Op: "Frobnicate", Inputs: []*ir.Value{x}}).Output(0)
	odd.Type = &ir.Type{DType: ir.Float32}
	y := m.Graph.Op("Exp", "y", []*ir.Value{odd})
	y.Type = &ir.Type{DType: ir.Float32}
	m.Graph.AddOutput(y)
	r, err := g.Run(context.Background(), m, []*g.Pass{shapes.Pass}, g.Options{Target: g.CoreML})
	require.NoError(t, err)
	require.Zero(t, r.Passes[0].Count)
	require.False(t, odd.Type.HasShape())
}
