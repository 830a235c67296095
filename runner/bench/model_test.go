package bench

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// The shape of the toy model.
const (
	vocabulary    = 32
	hidden        = 16
	heads         = 2
	kvHeads       = 1
	headDim       = 8
	contextLength = 1024
	// embedding, q, k, v, head
	parameters = vocabulary*hidden + hidden*(heads+2*kvHeads)*headDim + hidden*vocabulary
)

// toy writes a decoder of one attention layer, as an optimised export has it: GroupQueryAttention,
// whose KV cache is shared, and logits for the rows asked for.
func toy(t testing.TB) string {
	t.Helper()
	m := ir.NewModel("toy", 10, 21)
	m.RequireOpset("com.microsoft", 1)
	g := m.Graph
	rows := func(last ...ir.Dim) *ir.Type {
		return ir.TensorType(ir.Float32, append([]ir.Dim{ir.Sym("batch"), ir.Sym("sequence")}, last...)...)
	}
	ids := g.AddInput("input_ids", ir.TensorType(ir.Int64, ir.Sym("batch"), ir.Sym("sequence")))
	mask := g.AddInput("attention_mask", ir.TensorType(ir.Int64, ir.Sym("batch"), ir.Sym("total")))
	cache := ir.TensorType(ir.Float32, ir.Sym("batch"), ir.Fixed(kvHeads), ir.Sym("past"), ir.Fixed(headDim))
	key, value := g.AddInput("past_key_values.0.key", cache), g.AddInput("past_key_values.0.value", cache)
	keep := g.AddOptionalInput("num_logits_to_keep", ir.Int64Tensor([]int64{0}, 1))
	seed := float32(0)
	weight := func(name string, shape ...int64) *ir.Value {
		w := make([]float32, shape[0]*shape[1])
		for i := range w {
			seed = seed*1.7 + 0.31
			seed -= float32(int(seed))
			w[i] = seed - 0.5
		}
		return g.AddInitializer(name, ir.Float32Tensor(w, shape...))
	}
	number := func(name string, n int64) *ir.Value { return g.AddInitializer(name, ir.Int64Tensor([]int64{n}, 1)) }

	x := g.Op("Gather", "embed", []*ir.Value{weight("embed.weight", vocabulary, hidden), ids})
	project := func(name string, n int64) *ir.Value {
		return g.Op("MatMul", name, []*ir.Value{x, weight(name+".weight", hidden, n)})
	}
	one, zero := number("one", 1), number("zero", 0)
	last := g.Op("Sub", "last", []*ir.Value{g.Op("ReduceSum", "tokens", []*ir.Value{mask, one}, ir.Int("keepdims", 0)), one})
	seqlens := g.Op("Cast", "seqlens_k", []*ir.Value{last}, ir.Int("to", int64(ir.Int32)))
	width := g.Op("Cast", "width", []*ir.Value{g.Op("Shape", "shape", []*ir.Value{mask}, ir.Int("start", 1))}, ir.Int("to", int64(ir.Int32)))
	total := g.Op("Squeeze", "total", []*ir.Value{width, zero})
	attention := g.Add(ir.NodeSpec{
		Op: "GroupQueryAttention", Domain: "com.microsoft",
		Inputs: []*ir.Value{
			project("q", heads*headDim), project("k", kvHeads*headDim), project("v", kvHeads*headDim), key, value, seqlens, total,
		},
		Outputs: []string{"attention", "present.0.key", "present.0.value"},
		Attrs:   []*ir.Attr{ir.Int("num_heads", heads), ir.Int("kv_num_heads", kvHeads)},
	})
	from := g.Op("Neg", "from", []*ir.Value{keep})
	kept := g.Op("Slice", "kept", []*ir.Value{attention.Output(0), from, number("end", 1<<62), one})
	logits := g.Add(ir.NodeSpec{Op: "MatMul", Name: "head", Inputs: []*ir.Value{kept, weight("head.weight", hidden, vocabulary)}, Outputs: []string{"logits"}}).Output(0)
	logits.Type = rows(ir.Fixed(vocabulary))
	attention.Output(1).Type, attention.Output(2).Type = cache, cache
	for _, v := range []*ir.Value{logits, attention.Output(1), attention.Output(2)} {
		g.AddOutput(v)
	}

	dir := t.TempDir()
	require.NoError(t, ir.Save(t.Context(), m, filepath.Join(dir, "model.onnx"), ir.SaveOptions{}))
	config := []byte(`{"model_type": "toy", "max_position_embeddings": 1024}`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666))
	return dir
}

func TestDescribe(t *testing.T) {
	dir := toy(t)
	m, err := Describe(dir)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "model.onnx"), m.File)
	require.Equal(t, "toy 0.00M float32", m.Type)
	require.EqualValues(t, parameters, m.Params)
	require.EqualValues(t, 4*parameters+4*8, m.Size, "weights and four int64 of the graph")

	file, err := Describe(m.File)
	require.NoError(t, err)
	require.Equal(t, m, file, "the folder means its model.onnx")

	data := m.File + ".data"
	weights, err := os.ReadFile(data)
	require.NoError(t, err)
	weights[len(weights)-1] ^= 1
	require.NoError(t, os.WriteFile(data, weights, 0o666))
	changed, err := Describe(dir)
	require.NoError(t, err)
	require.NotEqual(t, m.Hash, changed.Hash, "weights are part of the hash")

	_, err = Describe(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, "bench: ")
}

// TestWeights has the operators of quantised graphs, in which most constants are no weights.
func TestWeights(t *testing.T) {
	bytes := func(n int64, shape ...int64) *ir.Tensor {
		c, err := ir.NewTensor(ir.Uint8, shape, ir.NewBuffer(make([]byte, n)))
		require.NoError(t, err)
		return c
	}
	int4 := []*ir.Attr{ir.Int("bits", 4), ir.Int("block_size", 32)}
	product := append([]*ir.Attr{ir.Int("N", 3), ir.Int("K", 50)}, int4...)
	for _, c := range []struct {
		why, op  string
		operand  int
		constant *ir.Tensor
		attrs    []*ir.Attr
		want     int64
		form     string
	}{
		{"K is not a whole number of blocks", "MatMulNBits", 1, bytes(96, 3, 2, 16), product, 150, "int4 b32"},
		{"scales", "MatMulNBits", 2, ir.Float32Tensor(make([]float32, 6), 6), product, 0, ""},
		{"zero points", "MatMulNBits", 3, bytes(6, 6), product, 0, ""},
		{"two weights a byte", "GatherBlockQuantized", 0, bytes(64, 4, 16), int4, 128, "int4 b32"},
		{"scales", "GatherBlockQuantized", 2, ir.Float32Tensor(make([]float32, 4), 4), int4, 0, ""},
		{"quantised in the file", "DequantizeLinear", 0, bytes(12, 12), nil, 12, "uint8"},
		{"scales", "DequantizeLinear", 1, ir.Float32Tensor(make([]float32, 12), 12), nil, 0, ""},
		{"dynamic int8", "MatMulInteger", 1, bytes(12, 3, 4), nil, 12, "uint8"},
		{"rotary table", "GroupQueryAttention", 7, ir.Float32Tensor(make([]float32, 8), 8), nil, 0, ""},
		{"norm", "SimplifiedLayerNormalization", 1, ir.Float32Tensor(make([]float32, 8), 8), nil, 8, "float32"},
		{"epsilon", "Add", 1, ir.Float32Scalar(1e-6), nil, 0, ""},
		{"shape", "Reshape", 1, ir.Int64Tensor([]int64{0, -1}, 2), nil, 0, ""},
	} {
		g := ir.NewModel("test", 10, 21).Graph
		v := g.AddInitializer("constant", c.constant)
		inputs := make([]*ir.Value, c.operand+1)
		inputs[c.operand] = v
		g.Add(ir.NodeSpec{Op: c.op, Inputs: inputs, Attrs: c.attrs})
		n, form := weights(v, c.constant)
		require.Equal(t, c.want, n, "%s of %s", c.why, c.op)
		require.Equal(t, c.form, form, "%s of %s", c.why, c.op)
	}

	g := ir.NewModel("test", 10, 21).Graph
	v := g.AddInitializer("table", bytes(96, 3, 32))
	three := g.Op("Reshape", "three", []*ir.Value{v, g.AddInitializer("shape", ir.Int64Tensor([]int64{3, 2, 16}, 3))})
	g.Add(ir.NodeSpec{Op: "MatMulNBits", Inputs: []*ir.Value{nil, three}, Attrs: product})
	n, form := weights(v, v.Const)
	require.EqualValues(t, 150, n, "through a Reshape")
	require.Equal(t, "int4 b32", form)
}
