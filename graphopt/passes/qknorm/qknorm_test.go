package qknorm_test

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/kernels"
	"github.com/qwenrt/qwenrt/graphopt/passes/attention"
	"github.com/qwenrt/qwenrt/graphopt/passes/projections"
	"github.com/qwenrt/qwenrt/graphopt/passes/qknorm"
	"github.com/qwenrt/qwenrt/graphopt/passes/rmsnorm"
)

// The CPU provider refuses norms inside GroupQueryAttention, so what runs here is the graph before; of
// the graph after, the structure is checked.

// fused is a decoder for CUDA up to where the pass comes in.
func fused(t *testing.T, d graphtest.Decoder, more ...*g.Pass) *ir.Model {
	t.Helper()
	d.DType = ir.Float16
	m := d.Model(t)
	_, err := g.Run(context.Background(), m, append([]*g.Pass{rmsnorm.Pass, attention.Pass}, more...), g.Options{Target: g.CUDA, MaxPositions: 64})
	require.NoError(t, err)
	return m
}

func run(t *testing.T, m *ir.Model) (n int, declined []string) {
	t.Helper()
	trace := func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}
	r, err := g.Run(context.Background(), m, []*g.Pass{qknorm.Pass}, g.Options{Target: g.CUDA, Trace: trace})
	require.NoError(t, err)
	return r.Passes[0].Count, declined
}

func attentions(m *ir.Model) []*ir.Node {
	return slices.DeleteFunc(m.Graph.Nodes(), func(n *ir.Node) bool { return n.OpType != "GroupQueryAttention" })
}

func TestNormsMoveInside(t *testing.T) {
	m := fused(t, graphtest.Decoder{Layers: 2})
	before := m.Graph.NumNodes()
	n, declined := run(t, m)
	require.Empty(t, declined)
	require.Equal(t, 2, n)
	require.Equal(t, before-2*6, m.Graph.NumNodes(), "two norms and their four reshapes in each layer")
	for i, a := range attentions(m) {
		layer := "model.layers." + string(rune('0'+i)) + ".self_attn."
		require.Len(t, a.Inputs(), 16)
		require.Equal(t, layer+"q_norm.weight", a.Input(14).Name)
		require.Equal(t, layer+"k_norm.weight", a.Input(15).Name)
		for j, w := range []string{"q", "k", "v"} {
			require.Equal(t, layer+w+"_proj.weight", a.Input(j).Producer().Input(1).Name)
		}
		require.InDelta(t, 1e-6, a.Float("qk_norm_epsilon", 0), 1e-9)
		for _, left := range []int{9, 10, 11, 12, 13} {
			require.Nil(t, a.Input(left))
		}
	}
	missing, err := kernels.Check(m, g.CUDA)
	require.NoError(t, err)
	require.Empty(t, missing)
	_, err = graphtest.TryOpen(t, m)
	require.NoError(t, err, "ONNX Runtime knows these operands and attributes")
	again, _ := run(t, m)
	require.Zero(t, again)
}

func TestJoinedProductGoesInWhole(t *testing.T) {
	m := fused(t, graphtest.Decoder{Layers: 2}, projections.Pass)
	n, declined := run(t, m)
	require.Empty(t, declined)
	require.Equal(t, 4, n)
	for _, a := range attentions(m) {
		require.Equal(t, "MatMul", a.Input(0).Producer().OpType)
		require.Equal(t, []int64{24, (4 + 2 + 2) * 16}, a.Input(0).Producer().Input(1).Const.Shape)
		require.Nil(t, a.Input(1))
		require.Nil(t, a.Input(2))
		require.NotNil(t, a.Input(14))
	}
	_, err := graphtest.TryOpen(t, m)
	require.NoError(t, err)

	// Types behind a packed node must still be known to the passes that follow.
	var logits *ir.Type
	look := &g.Pass{Name: "look", Doc: "asks for a type", Run: func(u *g.Unit) (int, error) {
		logits = u.Type(u.Model.Graph.Outputs()[0].Producer().Input(0))
		return 0, nil
	}}
	_, err = g.Run(context.Background(), m, []*g.Pass{look}, g.Options{Target: g.CUDA})
	require.NoError(t, err)
	require.True(t, logits.HasShape())
}

func TestDeclines(t *testing.T) {
	for _, c := range []struct {
		why    string
		change func(m *ir.Model, a *ir.Node)
		reason string
	}{
		{"one epsilon for both", func(_ *ir.Model, a *ir.Node) {
			a.Input(0).Producer().Input(0).Producer().SetAttr(ir.Float("epsilon", 1e-5))
		}, "different epsilons"},
		{"norms over another axis", func(_ *ir.Model, a *ir.Node) {
			a.Input(1).Producer().Input(0).Producer().SetAttr(ir.Int("axis", 2))
		}, "runs over axis 2"},
		{"a norm of other heads", func(_ *ir.Model, a *ir.Node) { a.SetAttr(ir.Int("num_heads", 8)) }, "not of 8 heads"},
		{"norms inside already", func(_ *ir.Model, a *ir.Node) {
			a.SetInput(14, a.Input(0).Producer().Input(0).Producer().Input(1))
			a.SetInput(15, a.Input(1).Producer().Input(0).Producer().Input(1))
		}, "inside already"},
		{"a norm that something else reads", func(m *ir.Model, a *ir.Node) {
			o := m.Graph.Op("Identity", "probe", []*ir.Value{a.Input(0).Producer().Input(0)})
			o.Type = &ir.Type{DType: ir.Float16}
			m.Graph.AddOutput(o)
		}, "read outside"},
	} {
		m := fused(t, graphtest.Decoder{})
		c.change(m, attentions(m)[0])
		n, declined := run(t, m)
		require.Zero(t, n, c.why)
		require.Len(t, declined, 1, c.why)
		require.Contains(t, declined[0], c.reason, c.why)
	}
}

// A product whose parts are read elsewhere, or in another order, is not handed over whole.
func TestDeclinesPacking(t *testing.T) {
	for _, c := range []struct {
		why    string
		change func(m *ir.Model, a *ir.Node)
		reason string
	}{
		{"keys and values change places", func(_ *ir.Model, a *ir.Node) {
			k, v := a.Input(1), a.Input(2)
			a.SetInput(1, v)
			a.SetInput(2, k)
		}, "not the other parts"},
		{"a part has another reader", func(m *ir.Model, a *ir.Node) {
			o := m.Graph.Op("Identity", "probe", []*ir.Value{a.Input(2)})
			o.Type = &ir.Type{DType: ir.Float16}
			m.Graph.AddOutput(o)
		}, "read elsewhere"},
	} {
		m := fused(t, graphtest.Decoder{FlatQK: true}, projections.Pass)
		c.change(m, attentions(m)[0])
		n, declined := run(t, m)
		require.Zero(t, n, c.why)
		require.Len(t, declined, 1, c.why)
		require.Contains(t, declined[0], c.reason, c.why)
	}
}
