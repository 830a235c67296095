package capture_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/attention"
	"github.com/qwenrt/qwenrt/graphopt/passes/capture"
	"github.com/qwenrt/qwenrt/graphopt/passes/lastlogits"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
)

func run(t *testing.T, m *ir.Model, passes ...*g.Pass) (n int, declined []string) {
	t.Helper()
	trace := func(e g.Event) {
		if e.Kind == g.Declined && e.Pass == "capture" {
			declined = append(declined, e.Reason)
		}
	}
	o := g.Options{Target: g.CUDA, MaxPositions: 64, DType: ir.Float16, Trace: trace}
	r, err := g.Run(context.Background(), m, append(passes, capture.Pass), o)
	require.NoError(t, err)
	return r.Passes[len(r.Passes)-1].Count, declined
}

// Of the optimised graph only the number of logits is computed from an input alone. With the shape in
// between the graph gives what it gave.
func TestDecoder(t *testing.T) {
	fuse := []*g.Pass{rmsnorm.Pass, attention.Pass, lastlogits.Pass}
	keep := func(m *ir.Model, n int64) graphtest.Tensors {
		in := graphtest.Tensors{lastlogits.Input: interp.Ints([]int64{1}, n)}
		for _, v := range m.Graph.Inputs() {
			switch v.Name {
			case "input_ids":
				in[v.Name] = interp.Ints([]int64{1, 4}, 5, 6, 7, 8)
			case "attention_mask":
				in[v.Name] = interp.Ints([]int64{1, 4}, 1, 1, 1, 1)
			case lastlogits.Input:
			default:
				in[v.Name] = interp.ShapeOnly(v.Type.DType, 1, v.Type.Shape[1].Size, 0, v.Type.Shape[3].Size)
			}
		}
		return graphtest.Open(t, m).Run(t, in)
	}
	model := func(more ...*g.Pass) *ir.Model {
		m := graphtest.Decoder{}.Model(t)
		_, err := g.Run(context.Background(), m, append(slices.Clone(fuse), more...), g.Options{Target: g.CUDA, MaxPositions: 64, DType: ir.Float16})
		require.NoError(t, err)
		return m
	}
	before, after := model(), model()
	n, declined := run(t, after)
	require.Empty(t, declined)
	require.Equal(t, 1, n)
	for _, rows := range []int64{0, 1, 3, 9} {
		graphtest.Near(t, keep(before, rows), keep(after, rows), 0)
	}
	again, declined := run(t, after)
	require.Zero(t, again)
	require.Empty(t, declined)
}

func TestOperands(t *testing.T) {
	type graph = ir.Graph
	for _, c := range []struct {
		why    string
		shape  func(gr *graph, ids, n *ir.Value) *ir.Value // operand of Expand
		moved  int
		reason string
	}{
		{"an input as it is", func(_ *graph, _, n *ir.Value) *ir.Value { return n }, 0, ""},
		{"arithmetic on shapes", func(gr *graph, ids, n *ir.Value) *ir.Value {
			s := gr.Op("Shape", "s", []*ir.Value{ids}, ir.Int("start", 1), ir.Int("end", 2))
			return gr.Op("Add", "a", []*ir.Value{s, n})
		}, 0, ""},
		{"arithmetic on inputs alone", func(gr *graph, _, n *ir.Value) *ir.Value {
			return gr.Op("Abs", "b", []*ir.Value{gr.Op("Neg", "a", []*ir.Value{n})})
		}, 1, ""},
		{"the content of a tensor", func(gr *graph, ids, _ *ir.Value) *ir.Value {
			axes := gr.AddInitializer("axes", ir.Int64Tensor([]int64{0}))
			sum := gr.Op("ReduceMax", "m", []*ir.Value{ids, axes}, ir.Int("keepdims", 0))
			return gr.Op("Abs", "b", []*ir.Value{gr.Op("Neg", "a", []*ir.Value{sum})})
		}, 0, `from the content of "input_ids"`},
	} {
		m := ir.NewModel("g", 10, 21)
		gr := m.Graph
		ids := gr.AddInput("input_ids", ir.TensorType(ir.Int64, ir.Fixed(1), ir.Fixed(1)))
		n := gr.AddInput("n", ir.TensorType(ir.Int64, ir.Fixed(1)))
		y := gr.Op("Expand", "y", []*ir.Value{ids, c.shape(gr, ids, n)})
		y.Type = &ir.Type{DType: ir.Int64}
		gr.AddOutput(y)
		in := graphtest.Tensors{"input_ids": interp.Ints([]int64{1, 1}, 3), "n": interp.Ints([]int64{1}, 2)}
		want := graphtest.Open(t, m).Run(t, in)
		moved, declined := run(t, m)
		require.Equal(t, c.moved, moved, c.why)
		if c.reason != "" {
			require.Len(t, declined, 1, c.why)
			require.Contains(t, declined[0], c.reason, c.why)
		} else {
			require.Empty(t, declined, c.why)
		}
		graphtest.Near(t, want, graphtest.Open(t, m).Run(t, in), 0)
	}
}
