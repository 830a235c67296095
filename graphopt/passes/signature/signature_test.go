package signature_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	g "github.com/qwenrt/qwenrt/graphopt"
	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/graphopt/passes/signature"
)

func run(t *testing.T, m *ir.Model) (int, []string) {
	t.Helper()
	var declined []string
	r, err := g.Run(context.Background(), m, []*g.Pass{signature.Pass}, g.Options{Trace: func(e g.Event) {
		if e.Kind == g.Declined {
			declined = append(declined, e.Reason)
		}
	}})
	require.NoError(t, err)
	return r.Passes[0].Count, declined
}

func dump(t *testing.T, m *ir.Model) string {
	t.Helper()
	require.NoError(t, m.Graph.Sort())
	m.Graph.Prune()
	var b strings.Builder
	require.NoError(t, g.Dump(&b, m))
	return b.String()
}

// anonymous calls all inputs and outputs what an exporter may call them.
func anonymous(m *ir.Model) *ir.Model {
	for i, v := range m.Graph.Inputs() {
		v.Name = m.Graph.Fresh(fmt.Sprintf("arg%d_1", i))
	}
	for i, v := range m.Graph.Outputs() {
		v.Name = m.Graph.Fresh(fmt.Sprintf("cat_%d", i))
	}
	return m
}

// Names that were made up become those of a graph that has the right ones, whatever form it has.
func TestNames(t *testing.T) {
	for why, form := range map[string]graphtest.Decoder{
		"two layers":                 {Layers: 2},
		"presents under other names": {Layers: 2, PresentIdentity: true},
		"positions from the cache":   {Positions: graphtest.FromPast},
		"one row of KV heads":        {KVHeads: 1, Layers: 3, SafeSoftmax: true},
		"as many KV heads":           {KVHeads: 4, ScaleQuery: true},
		"tied":                       {Tied: true, OwnTables: true},
		"float16":                    {DType: ir.Float16},
		"Attention":                  {Layers: 2, Core: graphtest.Standard},
		"Attention with a cache":     {Layers: 2, Core: graphtest.StandardCache},
		"MultiHeadAttention":         {Layers: 2, Core: graphtest.MultiHead},
	} {
		t.Run(why, func(t *testing.T) {
			want := form.Model(t)
			m := anonymous(form.Model(t))
			n, declined := run(t, m)
			require.Empty(t, declined)
			require.Equal(t, len(want.Graph.Inputs())+len(want.Graph.Outputs()), n)
			require.Equal(t, dump(t, want), dump(t, m))
			n, _ = run(t, m)
			require.Zero(t, n, "once is enough")
		})
	}
}

// A value inside may have one of the names; it gives it up. Inputs may have each other's.
func TestNamesTaken(t *testing.T) {
	m := anonymous(graphtest.Decoder{}.Model(t))
	in := m.Graph.Inputs()
	in[3].Name, in[4].Name = "past_key_values.0.value", "past_key_values.0.key"
	graphtest.Named(t, m, "/model/embed_tokens/Gather").Output(0).Name = "logits"
	n, declined := run(t, m)
	require.Empty(t, declined)
	require.Positive(t, n)
	want := graphtest.Decoder{}.Model(t)
	graphtest.Near(t, graphtest.Generate(t, want, 1, 4, 1), graphtest.Generate(t, m, 1, 4, 1), 0)
}

// Where there is a doubt, all names stay.
func TestDoubt(t *testing.T) {
	for _, c := range []struct {
		why    string
		change func(m *ir.Model)
		reason string
	}{
		{"mask or positions: no dimension has a name", func(m *ir.Model) {
			for _, v := range m.Graph.Inputs()[:3] {
				v.Type = ir.TensorType(ir.Int64, ir.Sym(""), ir.Sym(""))
			}
		}, "may be a mask or positions"},
		{"two inputs with the columns of a mask", func(m *ir.Model) {
			m.Graph.Inputs()[2].Type = m.Graph.Inputs()[1].Type
		}, "more than one input could be attention_mask"},
		{"tokens that choose nothing", func(m *ir.Model) {
			w := graphtest.Named(t, m, "/model/embed_tokens/Gather").Input(0)
			graphtest.Named(t, m, "/model/embed_tokens/Gather").SetInput(0, m.Graph.AddInput("embedding", w.Type))
		}, "0 inputs choose rows"},
		{"values that are no output", func(m *ir.Model) {
			n := graphtest.Named(t, m, "/model/layers.0/self_attn/value_cache/Concat")
			outputs := m.Graph.Outputs()
			require.Same(t, outputs[2], n.Output(0))
			require.NoError(t, m.Graph.Replace(n.Output(0), m.Graph.Op("Neg", "neg", []*ir.Value{m.Graph.Op("Abs", "abs", []*ir.Value{n.Input(0)})})))
		}, "1 keys and 0 values"},
	} {
		t.Run(c.why, func(t *testing.T) {
			m := anonymous(graphtest.Decoder{}.Model(t))
			c.change(m)
			before := dump(t, m)
			n, declined := run(t, m)
			require.Zero(t, n)
			require.Len(t, declined, 1)
			require.Contains(t, declined[0], c.reason)
			require.Equal(t, before, dump(t, m))
		})
	}
	n, declined := run(t, graphtest.Decoder{NoPast: true}.Model(t))
	require.Zero(t, n)
	require.Empty(t, declined, "no decoder with a cache, nothing to say")
}

// The head size of a cache is found where the file leaves it open.
func TestSizes(t *testing.T) {
	open := func(m *ir.Model) {
		for _, v := range append(m.Graph.Inputs()[3:], m.Graph.Outputs()[1:]...) {
			s := v.Type.Shape
			v.Type = ir.TensorType(v.Type.DType, s[0], ir.Sym("heads"), s[2], ir.Sym("kv_cache_dim"))
		}
	}
	want := graphtest.Decoder{Layers: 2}.Model(t)
	m := graphtest.Decoder{Layers: 2}.Model(t)
	open(m)
	n, declined := run(t, m)
	require.Empty(t, declined)
	require.Equal(t, dump(t, want), dump(t, m))
	require.Equal(t, 8, n)

	// GroupQueryAttention says how many heads its queries have.
	m = ir.NewModel("m", 10, 21)
	gr := m.Graph
	x := gr.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("b"), ir.Sym("s"), ir.Fixed(32)))
	kv := gr.AddInput("kv", ir.TensorType(ir.Float32, ir.Sym("b"), ir.Sym("s"), ir.Fixed(16)))
	cache := func() *ir.Type {
		return ir.TensorType(ir.Float32, ir.Sym("b"), ir.Fixed(2), ir.Sym("p"), ir.Sym("kv_cache_dim"))
	}
	key, val := gr.AddInput("k", cache()), gr.AddInput("v", cache())
	lens := gr.AddInitializer("lens", ir.Int64Tensor([]int64{1}))
	g.Require(m, g.Microsoft)
	gqa := gr.Add(ir.NodeSpec{Op: "GroupQueryAttention", Domain: g.Microsoft, Inputs: []*ir.Value{x, kv, kv, key, val, lens, lens},
		Outputs: []string{"y", "pk", "pv"}, Attrs: []*ir.Attr{ir.Int("num_heads", 4), ir.Int("kv_num_heads", 2)}})
	for i, o := range gqa.Outputs() {
		o.Type = cache()
		if i == 0 {
			o.Type = x.Type
		}
		gr.AddOutput(o)
	}
	n, _ = run(t, m)
	require.Equal(t, 4, n)
	for _, v := range []*ir.Value{key, val, gqa.Output(1), gqa.Output(2)} {
		require.Equal(t, ir.Fixed(8), v.Type.Shape[3], v.Name)
	}
}
