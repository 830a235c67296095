package quantize

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		why   string
		build func(g *ir.Graph, w *ir.Value) *ir.Value
		shape []int64 // as the operand sees it; nil: not a constant matrix
		dtype ir.DType
	}{
		{"itself", func(g *ir.Graph, w *ir.Value) *ir.Value { return w }, []int64{32, 16}, ir.BFloat16},
		{"an identity, as torch leaves for shared weights", func(g *ir.Graph, w *ir.Value) *ir.Value {
			return g.Op("Identity", "", []*ir.Value{w})
		}, []int64{32, 16}, ir.BFloat16},
		{"stored narrow, computed wide", func(g *ir.Graph, w *ir.Value) *ir.Value {
			return g.Op("Cast", "", []*ir.Value{w}, ir.Int("to", int64(ir.Float32)))
		}, []int64{32, 16}, ir.Float32},
		{"a Linear of torch, and its cast", func(g *ir.Graph, w *ir.Value) *ir.Value {
			turned := g.Op("Transpose", "", []*ir.Value{w}, ir.Ints("perm", 1, 0))
			return g.Op("Cast", "", []*ir.Value{turned}, ir.Int("to", int64(ir.Float32)))
		}, []int64{16, 32}, ir.Float32},
		{"Transpose without perm reverses", func(g *ir.Graph, w *ir.Value) *ir.Value {
			return g.Op("Transpose", "", []*ir.Value{w})
		}, []int64{16, 32}, ir.BFloat16},
		{"a perm that does nothing is not looked through", func(g *ir.Graph, w *ir.Value) *ir.Value {
			return g.Op("Transpose", "", []*ir.Value{w}, ir.Ints("perm", 0, 1))
		}, nil, 0},
		{"a Constant node", func(g *ir.Graph, w *ir.Value) *ir.Value {
			return g.Op("Constant", "", nil, ir.TensorAttr("value", w.Const))
		}, []int64{32, 16}, ir.BFloat16},
		{"the default of an input may be replaced", func(g *ir.Graph, w *ir.Value) *ir.Value {
			return g.AddOptionalInput("default", w.Const)
		}, nil, 0},
		{"computed", func(g *ir.Graph, w *ir.Value) *ir.Value {
			return g.Op("Neg", "", []*ir.Value{w})
		}, nil, 0},
		{"integers", func(g *ir.Graph, w *ir.Value) *ir.Value {
			return g.Op("Cast", "", []*ir.Value{w}, ir.Int("to", int64(ir.Int8)))
		}, nil, 0},
		{"a chain made to cost time", func(g *ir.Graph, w *ir.Value) *ir.Value {
			for range 100 {
				w = g.Op("Identity", "", []*ir.Value{w})
			}
			return w
		}, nil, 0},
		{"an operand that is left out", func(g *ir.Graph, w *ir.Value) *ir.Value { return nil }, nil, 0},
	} {
		g := ir.NewModel("m", 10, 21).Graph
		w := g.AddInitializer("w", as(t, ir.BFloat16, normal(1, 32*16), 32, 16))
		got := resolve(c.build(g, w))
		if c.shape == nil {
			require.Nil(t, got, c.why)
			continue
		}
		require.NotNil(t, got, c.why)
		require.Equal(t, c.shape, got.view.Shape, c.why)
		require.Equal(t, c.dtype, got.view.DType, c.why)
		require.Equal(t, c.shape[0] == 16, got.flipped, c.why)
		require.Same(t, w.Const.Data, got.root.Data, c.why)
	}
}

// A weight that an exporter has turned and widened lazily is read as the checkpoint stores it.
func TestStored(t *testing.T) {
	narrow := as(t, ir.BFloat16, normal(1, 32*16), 32, 16)
	turned, err := ir.Transpose(narrow)
	require.NoError(t, err)
	wide, err := ir.Cast(turned, ir.Float32) // the initializer of a graph, [K, N]
	require.NoError(t, err)
	rows, err := ir.Transpose(wide)
	require.NoError(t, err)
	require.Same(t, narrow.Data, stored(rows).Data)
	require.Equal(t, ir.BFloat16, stored(rows).DType)
	require.Equal(t, []int64{32, 16}, stored(rows).Shape)

	float := ir.Float32Tensor(normal(1, 32*16), 32, 16)
	require.Same(t, float, stored(float), "nothing narrower below")
	half, err := ir.Cast(float, ir.Float16)
	require.NoError(t, err)
	require.Same(t, half, stored(half), "a graph in float16 has float16's values, though its file has float32's")
}
