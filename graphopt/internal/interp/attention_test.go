package interp_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/internal/graphtest"
	"github.com/qwenrt/qwenrt/graphopt/internal/interp"
	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// opset makes the node one of ONNX's opset 23, or of ONNX Runtime's own operators.
func opset(m *ir.Model, n *ir.Node, microsoft bool) {
	m.RequireOpset("", 23)
	if microsoft {
		n.Domain = "com.microsoft"
		m.RequireOpset(n.Domain, 1)
	}
}

// Attention and rotary embedding as single operators give what ONNX Runtime gives.
func TestAttention(t *testing.T) {
	attr := func(a ...*ir.Attr) []*ir.Attr { return a }
	q, k, v := ramp(ir.Float32, 2, 4, 3, 8), ramp(ir.Float32, 2, 2, 5, 8), positive(ir.Float32, 2, 2, 5, 8)
	flat := func(x T, heads int64) T { return f32(sh(2, int64(x.Len())/(16*heads), 8*heads), x.F...) }
	hides := as(ir.Bool, i64(sh(3, 5), 1, 0, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0))
	adds := ramp(ir.Float32, 2, 1, 3, 5)
	cos, sin := ramp(ir.Float32, 2, 3, 4), positive(ir.Float32, 2, 3, 4)
	table, other := ramp(ir.Float32, 9, 4), positive(ir.Float32, 9, 4)
	flatQ, wide := flat(q, 4), ramp(ir.Float32, 2, 3, 32)
	for _, c := range []struct {
		node
		microsoft bool
	}{
		{node: node{why: "more heads than KV heads", op: "Attention", in: []T{q, k, v}}},
		{node: node{why: "a mask that hides", op: "Attention", in: []T{q, k, v, hides}}},
		{node: node{why: "a mask that adds", op: "Attention", in: []T{q, k, v, adds}}},
		{node: node{why: "a scale", op: "Attention", attrs: attr(ir.Float("scale", 0.5)), in: []T{q, k, v}}},
		{node: node{why: "a past", op: "Attention", outs: 3, in: []T{q, k, v, nil, ramp(ir.Float32, 2, 2, 4, 8), ramp(ir.Float32, 2, 2, 4, 8)}}},
		{node: node{why: "an empty past", op: "Attention", outs: 3, in: []T{q, k, v, nil, ramp(ir.Float32, 2, 2, 0, 8), ramp(ir.Float32, 2, 2, 0, 8)}}},
		{node: node{why: "heads side by side", op: "Attention", attrs: attr(ir.Int("q_num_heads", 4), ir.Int("kv_num_heads", 4)),
			in: []T{flatQ, flatQ, wide, as(ir.Bool, i64(sh(3, 3), 1, 0, 0, 1, 1, 0, 1, 1, 1))}}},
		{microsoft: true, node: node{why: "", op: "MultiHeadAttention", attrs: attr(ir.Int("num_heads", 4)), in: []T{flatQ, wide, wide}}},
		{microsoft: true, node: node{why: "a bias of the scores, and a scale", op: "MultiHeadAttention", attrs: attr(ir.Int("num_heads", 4), ir.Float("scale", 0.25)),
			in: []T{flatQ, wide, wide, nil, nil, ramp(ir.Float32, 1, 1, 3, 3)}}},
		{microsoft: true, node: node{why: "a past", op: "MultiHeadAttention", outs: 3, attrs: attr(ir.Int("num_heads", 4)),
			in: []T{flatQ, wide, wide, nil, nil, nil, ramp(ir.Float32, 2, 4, 2, 8), ramp(ir.Float32, 2, 4, 2, 8)}}},

		{node: node{why: "row by row", op: "RotaryEmbedding", in: []T{ramp(ir.Float32, 2, 4, 3, 8), cos, sin}}},
		{node: node{why: "by position", op: "RotaryEmbedding", in: []T{ramp(ir.Float32, 2, 4, 3, 8), table, other, i64(sh(2, 3), 4, 5, 6, 0, 8, 2)}}},
		{node: node{why: "heads side by side", op: "RotaryEmbedding", attrs: attr(ir.Int("num_heads", 4)), in: []T{wide, cos, sin}}},
		{microsoft: true, node: node{why: "by position", op: "RotaryEmbedding", in: []T{wide, i64(sh(2, 3), 4, 5, 6, 0, 8, 2), table, other}}},
		{microsoft: true, node: node{why: "from a position on", op: "RotaryEmbedding", in: []T{wide, vec(3), table, other}}},
	} {
		t.Run(c.String(), func(t *testing.T) {
			m, in, n := c.model()
			opset(m, n, c.microsoft)
			want := graphtest.Open(t, m).Run(t, in)
			given := map[*ir.Value]T{}
			for _, v := range m.Graph.Inputs() {
				given[v] = in[v.Name]
			}
			e, got := interp.New(given), graphtest.Tensors{}
			for _, o := range n.Outputs() {
				x, err := e.Value(o)
				require.NoError(t, err)
				got[o.Name] = x
				shape, err := interp.New(given).Shape(o)
				require.NoError(t, err)
				require.Equal(t, x.Shape, shape.Shape)
			}
			graphtest.Near(t, want, got, 2e-6)
		})
	}
}

// What is not computed is not guessed at; what does not go together is an error.
func TestAttentionDeclines(t *testing.T) {
	q, k := ramp(ir.Float32, 1, 2, 3, 8), ramp(ir.Float32, 1, 2, 5, 8)
	flat, table := ramp(ir.Float32, 1, 3, 16), ramp(ir.Float32, 9, 4)
	heads := ir.Int("num_heads", 2)
	for _, c := range []struct {
		node
		microsoft bool
		reason    string
	}{
		{node{op: "Attention", in: []T{q, k, k}, attrs: []*ir.Attr{ir.Int("is_causal", 1)}}, false, "is_causal"},
		{node{op: "Attention", in: []T{q, k, k}, attrs: []*ir.Attr{ir.Float("softcap", 50)}}, false, "softcap"},
		{node{op: "Attention", in: []T{q, k, k, nil, nil, nil, vec(1)}}, false, "nonpad_kv_seqlen"},
		{node{op: "Attention", in: []T{q, k, q}}, false, "queries [1 2 3 8], keys [1 2 5 8], values [1 2 3 8]"},
		{node{op: "Attention", in: []T{q, k, k, ramp(ir.Float32, 3, 4)}}, false, "a mask [3 4] for scores [1 2 3 5]"},
		{node{op: "Attention", in: []T{q, k, k, nil, ramp(ir.Float32, 1, 3, 4, 8)}}, false, "a past [1 3 4 8]"},
		{node{op: "Attention", in: []T{flat, flat, flat}}, false, "operand [1 3 16] for 0 heads"},
		{node{op: "Attention", in: []T{vec(1), vec(1), vec(1)}}, false, "not defined for int64"},
		{node{op: "MultiHeadAttention", attrs: []*ir.Attr{heads}, in: []T{flat, flat, flat, ramp(ir.Float32, 48)}}, true, "bias"},
		{node{op: "MultiHeadAttention", attrs: []*ir.Attr{heads}, in: []T{flat, flat, flat, nil, vec(3)}}, true, "key_padding_mask"},
		{node{op: "MultiHeadAttention", attrs: []*ir.Attr{heads, ir.Int("unidirectional", 1)}, in: []T{flat, flat, flat}}, true, "unidirectional"},
		{node{op: "MultiHeadAttention", attrs: []*ir.Attr{heads}, in: []T{flat, flat, nil}}, true, "packed operands"},
		{node{op: "RotaryEmbedding", attrs: []*ir.Attr{ir.Int("interleaved", 1)}, in: []T{q, ramp(ir.Float32, 1, 3, 4), ramp(ir.Float32, 1, 3, 4)}}, false, "content of"},
		{node{op: "RotaryEmbedding", in: []T{q, ramp(ir.Float32, 1, 3, 2), ramp(ir.Float32, 1, 3, 2)}}, false, "content of"},
		{node{op: "RotaryEmbedding", in: []T{q, table, table, vec(1, 2, 9)}}, false, "index 9 of 9"},
		{node{op: "RotaryEmbedding", in: []T{q, table, ramp(ir.Float32, 9, 5), vec(1, 2, 3)}}, false, "cosines [9 4], sines [9 5]"},
	} {
		t.Run(c.reason, func(t *testing.T) {
			m, in, n := c.model()
			opset(m, n, c.microsoft)
			given := map[*ir.Value]T{}
			for _, v := range m.Graph.Inputs() {
				given[v] = in[v.Name]
			}
			_, err := interp.New(given).Value(n.Output(0))
			require.ErrorContains(t, err, c.reason)
		})
	}
}

// Of products whose weights are packed, and of Gemm, only shapes are known.
func TestProductShapes(t *testing.T) {
	m := ir.NewModel("m", 10, 21)
	given := map[*ir.Value]T{}
	in := func(d ir.DType, shape ...int64) *ir.Value {
		v := m.Graph.AddInput(m.Graph.Fresh("in"), nil)
		given[v] = interp.ShapeOnly(d, shape...)
		return v
	}
	op := func(domain, op string, attrs []*ir.Attr, in ...*ir.Value) *ir.Value {
		return m.Graph.Add(ir.NodeSpec{Op: op, Domain: domain, Inputs: in, Attrs: attrs}).Output(0)
	}
	const ms = "com.microsoft"
	sizes := []*ir.Attr{ir.Int("K", 8), ir.Int("N", 5)}
	a, b := in(ir.Float32, 3, 8), in(ir.Float32, 8, 5)
	ids, scales := in(ir.Int64, 2, 3), in(ir.Float16, 9, 2)
	for _, c := range []struct {
		v     *ir.Value
		dtype ir.DType
		want  []int64
	}{
		{op("", "Gemm", nil, a, b), ir.Float32, sh(3, 5)},
		{op("", "Gemm", []*ir.Attr{ir.Int("transA", 1)}, b, a), 0, nil},
		{op("", "Gemm", []*ir.Attr{ir.Int("transA", 1), ir.Int("transB", 1)}, b, a), ir.Float32, sh(5, 3)},
		{op("", "Gemm", nil, in(ir.Float32, 1, 3, 8), b), 0, nil},
		{op(ms, "MatMulNBits", sizes, in(ir.Float32, 2, 3, 8), in(ir.Uint8, 5, 1, 4), in(ir.Float32, 5)), ir.Float32, sh(2, 3, 5)},
		{op(ms, "MatMulNBits", sizes, in(ir.Float32, 2, 3, 7), in(ir.Uint8, 5, 1, 4), in(ir.Float32, 5)), 0, nil},
		{op(ms, "GatherBlockQuantized", nil, in(ir.Uint8, 9, 16), ids, scales), ir.Float16, sh(2, 3, 32)},
		{op(ms, "GatherBlockQuantized", []*ir.Attr{ir.Int("bits", 8)}, in(ir.Uint8, 9, 16), ids, scales), ir.Float16, sh(2, 3, 16)},
		{op(ms, "GatherBlockQuantized", nil, in(ir.Int4, 9, 32), ids, scales), ir.Float16, sh(2, 3, 32)},
		{op(ms, "GatherBlockQuantized", []*ir.Attr{ir.Int("gather_axis", 1)}, in(ir.Int4, 9, 32), ids, scales), 0, nil},
	} {
		got, err := interp.New(given).Shape(c.v)
		if c.want == nil {
			require.Error(t, err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, interp.ShapeOnly(c.dtype, c.want...), got)
	}
}
