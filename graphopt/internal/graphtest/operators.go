package graphtest

import (
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Core is how a layer's attention is written.
type Core int

// The forms of attention.
const (
	Pieces        Core = iota
	Standard           // RotaryEmbedding and Attention of opset 23
	StandardCache      // the same; Attention itself appends to the past
	MultiHead          // ONNX Runtime's RotaryEmbedding, with tables by position, and MultiHeadAttention
)

const microsoft = "com.microsoft"

// tableRows is how many positions the tables of MultiHead have.
const tableRows = 128

// opsets are those of the operators in use.
func (d Decoder) opsets(m *ir.Model) {
	switch d.Core {
	case Standard, StandardCache:
		m.RequireOpset("", 23)
	case MultiHead:
		m.RequireOpset(microsoft, 1)
	}
}

// standard is attention by the operators of opset 23. Queries, keys and values are [B,H,S,D].
func (b *builder) standard(i int, path string, q, k, v *ir.Value) (*ir.Value, [2]*ir.Value) {
	var interleaved int64
	if b.Rotary == Interleaved {
		interleaved = 1
	}
	rotate := func(name string, x *ir.Value) *ir.Value {
		return b.attrs("RotaryEmbedding", path+name, []*ir.Value{x, b.cos, b.sin}, ir.Int("interleaved", interleaved))
	}
	q, k = rotate("/q_rotary", q), rotate("/k_rotary", k)
	in := []*ir.Value{q, k, v, b.bias}
	if b.Core == StandardCache {
		in = append(in, b.past[2*i], b.past[2*i+1])
	} else {
		in[1] = b.attrs("Concat", path+"/key_cache/Concat", []*ir.Value{b.past[2*i], k}, ir.Int("axis", -2))
		in[2] = b.attrs("Concat", path+"/value_cache/Concat", []*ir.Value{b.past[2*i+1], v}, ir.Int("axis", -2))
	}
	spec := ir.NodeSpec{Op: "Attention", Name: path + "/Attention", Inputs: in, Attrs: []*ir.Attr{ir.Float("scale", float32(b.Scale))}}
	if b.Core == Standard {
		n := b.g.Add(spec)
		return b.swap(path, n.Output(0)), [2]*ir.Value{in[1], in[2]}
	}
	spec.Outputs = []string{path + "/Attention/y", path + "/Attention/key", path + "/Attention/value"}
	n := b.g.Add(spec)
	return b.swap(path, n.Output(0)), [2]*ir.Value{n.Output(1), n.Output(2)}
}

// multiHead is attention as onnxruntime-genai's builder writes it where there is no GroupQueryAttention:
// queries and keys are normalised as rows [B,S·H,D]. q, k and v are [B,S,H·D].
func (b *builder) multiHead(i int, path, w string, q, k, v *ir.Value) (*ir.Value, [2]*ir.Value) {
	D := int64(b.HeadDim)
	norm := func(name string, x *ir.Value, heads int) *ir.Value {
		rows := b.op("Reshape", path+name+"/Reshape_1", x, b.ints(0, -1, D))
		rows = b.norm(path+name, rows, b.weight(w+name[1:]+".weight", 1, b.HeadDim))
		return b.op("Reshape", path+name+"/Reshape_2", rows, b.ints(0, -1, int64(heads)*D))
	}
	q, k = norm("/q_norm", q, b.Heads), norm("/k_norm", k, b.KVHeads)
	table := func(name string, f func(float64) float64) *ir.Value {
		return b.constant(name, func() *ir.Tensor {
			var t []float32
			for p := range tableRows {
				for j := range b.HeadDim / 2 {
					t = append(t, float32(f(float64(p)*math.Pow(10000, -2*float64(j)/float64(D)))))
				}
			}
			return b.typed(ir.Float32Tensor(t, tableRows, D/2), b.DType)
		})
	}
	rotate := func(name string, x *ir.Value) *ir.Value {
		n := b.g.Add(ir.NodeSpec{Op: "RotaryEmbedding", Domain: microsoft, Name: path + name,
			Inputs: []*ir.Value{x, b.pos, table("cos_cache", math.Cos), table("sin_cache", math.Sin)}})
		return n.Output(0)
	}
	q, k = rotate("/q_rotary", q), rotate("/k_rotary", k)
	var kv [2]*ir.Value
	flat := func(name string, x, past *ir.Value) (present, y *ir.Value) {
		x = b.swap(path+name, b.reshape(path+name, x, 0, 0, int64(b.KVHeads), D))
		present = b.attrs("Concat", path+name+"/cache/Concat", []*ir.Value{past, x}, ir.Int("axis", 2))
		y = b.swap(path+name+"/back", b.repeat(path+name+"/repeat", present))
		return present, b.op("Reshape", path+name+"/Reshape_3", y, b.ints(0, 0, int64(b.Heads)*D))
	}
	kv[0], k = flat("/k", k, b.past[2*i])
	kv[1], v = flat("/v", v, b.past[2*i+1])
	n := b.g.Add(ir.NodeSpec{Op: "MultiHeadAttention", Domain: microsoft, Name: path + "/MultiHeadAttention",
		Inputs: []*ir.Value{q, k, v, nil, nil, b.bias}, Attrs: []*ir.Attr{ir.Int("num_heads", int64(b.Heads)), ir.Float("scale", float32(b.Scale))}})
	return n.Output(0), kv
}
