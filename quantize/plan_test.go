package quantize_test

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/quantize"
)

const (
	vocab  = 24
	hidden = 64
)

func weights(seed uint64, n int64) []float32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(rng.NormFloat64() * 0.1)
	}
	return v
}

// tiny builds a graph with the places in which a language model has weights: an embedding that is also
// the head, a product, and a norm.
type tiny struct {
	*ir.Model
	ids, embed, norm, up, down *ir.Value
	x                          *ir.Value // last activations, [batch, sequence, hidden]
}

func newTiny(dtype ir.DType) *tiny {
	m := ir.NewModel("tiny", 10, 21)
	g := m.Graph
	constant := func(name string, seed uint64, shape ...int64) *ir.Value {
		n, _ := ir.NumElements(shape)
		t, err := ir.Cast(ir.Float32Tensor(weights(seed, n), shape...), dtype)
		if err != nil {
			panic(err)
		}
		return g.AddInitializer(name, t)
	}
	t := &tiny{Model: m}
	t.ids = g.AddInput("input_ids", ir.TensorType(ir.Int64, ir.Sym("batch_size"), ir.Sym("sequence_length")))
	t.embed = constant("model.embed_tokens.weight", 1, vocab, hidden)
	t.norm = constant("model.norm.weight", 2, hidden)
	t.up = constant("model.up.weight", 3, hidden, 48)
	t.down = constant("model.down.weight", 4, 48, hidden)
	x := g.Op("Gather", "/model/embed_tokens/Gather", []*ir.Value{t.embed, t.ids})
	x = g.Op("Mul", "/model/norm/Mul", []*ir.Value{x, t.norm})
	x = g.Op("MatMul", "/model/up/MatMul", []*ir.Value{x, t.up})
	t.x = g.Op("MatMul", "/model/down/MatMul", []*ir.Value{x, t.down})
	return t
}

// finish makes v the output "logits".
func (t *tiny) finish(v *ir.Value) *ir.Model {
	v.Name = t.Graph.Fresh("logits")
	v.Type = ir.TensorType(ir.Float32, ir.Sym("batch_size"), ir.Sym("sequence_length"), ir.Sym("n"))
	t.Graph.AddOutput(v)
	return t.Model
}

// tied ends the graph as the exporter does: a product with the embedding, transposed.
func (t *tiny) tied() *ir.Model {
	g := t.Graph
	turned := g.Op("Transpose", "/lm_head/Transpose", []*ir.Value{t.embed}, ir.Ints("perm", 1, 0))
	return t.finish(g.Op("MatMul", "/lm_head/MatMul", []*ir.Value{t.x, turned}))
}

// fused ends it as the optimiser does.
func (t *tiny) fused() *ir.Model {
	return t.finish(t.Graph.Add(ir.NodeSpec{
		Op: "FusedMatMul", Domain: "com.microsoft", Name: "/lm_head/FusedMatMul",
		Inputs: []*ir.Value{t.x, t.embed}, Attrs: []*ir.Attr{ir.Int("transB", 1)},
	}).Output(0))
}

func apply(t *testing.T, m *ir.Model, o quantize.Options) *quantize.Plan {
	t.Helper()
	p, err := quantize.NewPlan(m, o)
	require.NoError(t, err)
	require.NoError(t, p.Apply(m))
	require.NoError(t, m.Validate())
	return p
}

func find(t *testing.T, m *ir.Model, op string) []*ir.Node {
	t.Helper()
	var all []*ir.Node
	m.Graph.Walk(func(n *ir.Node) {
		if n.OpType == op {
			all = append(all, n)
		}
	})
	return all
}

func TestTiedTableIsStoredOnce(t *testing.T) {
	for why, build := range map[string]func(*tiny) *ir.Model{
		"as exported":  (*tiny).tied,
		"as optimised": (*tiny).fused,
		"table behind an identity": func(t *tiny) *ir.Model {
			t.embed = t.Graph.Op("Identity", "/id", []*ir.Value{t.embed})
			return t.tied()
		},
	} {
		for _, symmetric := range []bool{true, false} {
			m := build(newTiny(ir.Float32))
			p, err := quantize.NewPlan(m, quantize.Options{Symmetric: symmetric})
			require.NoError(t, err, why)
			ds := p.Decisions()
			require.Len(t, ds, 3, why)
			require.Equal(t, "model.embed_tokens.weight", ds[0].Tensor)
			require.Len(t, ds[0].Nodes, 2, "the embedding and the head")
			require.Equal(t, int64(vocab), ds[0].Rows)
			require.NoError(t, p.Apply(m))

			gather := find(t, m, "GatherBlockQuantized")[0]
			products := find(t, m, "MatMulNBits")
			head := products[len(products)-1]
			require.Empty(t, find(t, m, "Transpose"), why)
			require.Empty(t, find(t, m, "MatMul"), why)
			require.Equal(t, []int64{vocab, 32}, gather.Input(0).Const.Shape)
			require.Equal(t, []int64{vocab, 2, 16}, head.Input(1).Const.Shape)
			require.Same(t, gather.Input(2), head.Input(2), "scales")
			require.Same(t, gather.Input(3), head.Input(3), "zero points, nil if symmetric")
			require.Equal(t, symmetric, gather.Input(3) == nil)

			path := filepath.Join(t.TempDir(), "model.onnx")
			require.NoError(t, ir.Save(context.Background(), m, path, ir.SaveOptions{InlineBytes: -1}))
			back, err := ir.Load(path)
			require.NoError(t, err)
			defer back.Close()
			products = find(t, back, "MatMulNBits")
			require.Same(t, find(t, back, "GatherBlockQuantized")[0].Input(0).Const.Data,
				products[len(products)-1].Input(1).Const.Data, "one range of the file")
		}
	}
}

// Where rows have padding for MatMulNBits, GatherBlockQuantized has none: two forms of one pass.
func TestTiedTableWithPadding(t *testing.T) {
	m := newTiny(ir.Float32).tied()
	apply(t, m, quantize.Options{BlockSize: 128})
	gather, products := find(t, m, "GatherBlockQuantized")[0], find(t, m, "MatMulNBits")
	head := products[len(products)-1]
	require.Equal(t, []int64{vocab, 32}, gather.Input(0).Const.Shape)
	require.Equal(t, []int64{vocab, 1, 64}, head.Input(1).Const.Shape)
	require.Same(t, gather.Input(2), head.Input(2))
	a, b := matrixOf(t, gather), matrixOf(t, head)
	for r := range int64(vocab) {
		require.Equal(t, row(t, a, r), row(t, b, r))
	}
}

func matrixOf(t *testing.T, n *ir.Node) *quantize.Matrix {
	t.Helper()
	m, err := quantize.MatrixOf(n)
	require.NoError(t, err)
	return m
}

func row(t *testing.T, m *quantize.Matrix, n int64) []float32 {
	t.Helper()
	v := make([]float32, m.K)
	require.NoError(t, m.Row(v, n))
	return v
}

func TestProductsKeepNamesAndOrientation(t *testing.T) {
	build := newTiny(ir.Float32)
	m := build.tied()
	want, err := build.up.Const.Float32s()
	require.NoError(t, err)
	apply(t, m, quantize.Options{Precision: quantize.Int8})
	n := find(t, m, "MatMulNBits")[0]
	require.Equal(t, "/model/up/MatMulNBits", n.Name)
	require.Equal(t, "model.up.weight_Q8", n.Input(1).Name)
	require.Equal(t, "model.up.weight_scales", n.Input(2).Name)
	require.Equal(t, "model.up.weight_zero_points", n.Input(3).Name)
	require.Equal(t, int64(hidden), n.Int("K", 0))
	require.Equal(t, int64(48), n.Int("N", 0))
	require.Equal(t, int64(8), n.Int("bits", 0))
	require.Equal(t, int64(32), n.Int("block_size", 0))
	require.Equal(t, int64(4), n.Int("accuracy_level", 0))
	require.Equal(t, int64(1), m.Opset("com.microsoft"))
	require.Equal(t, "logits", m.Graph.Outputs()[0].Name)
	mat := matrixOf(t, n)
	for r := range int64(48) {
		for i, v := range row(t, mat, r) {
			require.InDelta(t, want[i*48+int(r)], v, 0.002, "column %d of [K, N] is row %d", r, r)
		}
	}
}

func TestUntiedWeightsAreSeparate(t *testing.T) {
	b := newTiny(ir.Float32)
	head := b.Graph.AddInitializer("lm_head.weight", ir.Float32Tensor(weights(9, hidden*vocab), hidden, vocab))
	m := b.finish(b.Graph.Op("MatMul", "/lm_head/MatMul", []*ir.Value{b.x, head}))
	p := apply(t, m, quantize.Options{})
	require.Len(t, p.Decisions(), 4)
	require.Zero(t, p.Decisions()[0].AccuracyLevel, "only looked up")
	require.Equal(t, 4, p.Decisions()[3].AccuracyLevel)
}

// A weight that two products read is quantised once, also where it is stored as [K, N] and turned.
func TestSharedWeight(t *testing.T) {
	b := newTiny(ir.Float32)
	x := b.Graph.Op("MatMul", "/again/MatMul", []*ir.Value{b.x, b.up})
	m := b.finish(x)
	apply(t, m, quantize.Options{})
	ns := find(t, m, "MatMulNBits")
	require.Len(t, ns, 3)
	require.Same(t, ns[0].Input(1), ns[2].Input(1))
}

func TestFloat16Graph(t *testing.T) {
	m := newTiny(ir.Float16).tied()
	apply(t, m, quantize.Options{})
	for _, n := range append(find(t, m, "MatMulNBits"), find(t, m, "GatherBlockQuantized")...) {
		require.Equal(t, ir.Float16, n.Input(2).Const.DType, "scales have the type of the activations")
	}
}

func TestWhatIsLeftAlone(t *testing.T) {
	for _, c := range []struct {
		why, reason string
		build       func(*tiny) *ir.Value
		options     quantize.Options
	}{
		{"a frequency table is an outer product, not a layer", "1 inputs are less than the smallest block", func(b *tiny) *ir.Value {
			w := b.Graph.AddInitializer("w", ir.Float32Tensor(weights(1, 32), 1, 32))
			return b.Graph.Op("MatMul", "/n/MatMul", []*ir.Value{b.x, w})
		}, quantize.Options{}},
		{"MatMulNBits has no batch of weights", "shape [2 64 8] is not a matrix", func(b *tiny) *ir.Value {
			w := b.Graph.AddInitializer("w", ir.Float32Tensor(weights(1, 1024), 2, 64, 8))
			return b.Graph.Op("MatMul", "/n/MatMul", []*ir.Value{b.x, w})
		}, quantize.Options{}},
		{"rotary tables are looked up by position", "not looked up by input_ids, so it may be a table of positions", func(b *tiny) *ir.Value {
			pos := b.Graph.AddInput("position_ids", ir.TensorType(ir.Int64, ir.Sym("b"), ir.Sym("s")))
			w := b.Graph.AddInitializer("w", ir.Float32Tensor(weights(1, 64*64), 64, 64))
			return b.Graph.Op("Gather", "/n/Gather", []*ir.Value{w, pos})
		}, quantize.Options{}},
		{"alpha has no place in MatMulNBits", "the product scales or transposes its operands", func(b *tiny) *ir.Value {
			w := b.Graph.AddInitializer("w", ir.Float32Tensor(weights(1, 64*64), 64, 64))
			return b.Graph.Add(ir.NodeSpec{Op: "FusedMatMul", Domain: "com.microsoft", Name: "/n/FusedMatMul", Inputs: []*ir.Value{b.x, w}, Attrs: []*ir.Attr{ir.Float("alpha", 2)}}).Output(0)
		}, quantize.Options{}},
		{"asked for", "a rule keeps it", func(b *tiny) *ir.Value {
			w := b.Graph.AddInitializer("w", ir.Float32Tensor(weights(1, 64*64), 64, 64))
			return b.Graph.Op("MatMul", "/n/MatMul", []*ir.Value{b.x, w})
		}, quantize.Options{Rules: []quantize.Rule{{Match: "[w]", Keep: true}}}},
	} {
		b := newTiny(ir.Float32)
		m := b.finish(c.build(b))
		p := apply(t, m, c.options)
		require.Len(t, p.Kept(), 1, c.why)
		require.Equal(t, "w", p.Kept()[0].Tensor, c.why)
		require.Equal(t, c.reason, p.Kept()[0].Reason, c.why)
		require.NotEmpty(t, m.Graph.Outputs()[0].Producer().Inputs(), c.why)
	}
}

func TestFloatEmbedding(t *testing.T) {
	m := newTiny(ir.Float32).tied()
	p := apply(t, m, quantize.Options{FloatEmbedding: true})
	require.Len(t, find(t, m, "Gather"), 1)
	require.Len(t, find(t, m, "MatMulNBits"), 3, "the head still")
	require.Equal(t, "embeddings stay in their type", p.Kept()[0].Reason)
}

func TestRefusals(t *testing.T) {
	tied := func() *ir.Model { return newTiny(ir.Float32).tied() }
	bare := func() *ir.Model {
		m := ir.NewModel("bare", 10, 21)
		m.Graph.AddOutput(m.Graph.Op("Neg", "", []*ir.Value{m.Graph.AddInput("x", ir.TensorType(ir.Float32))}))
		return m
	}
	double := func() *ir.Model {
		b := newTiny(ir.Float32)
		w := &ir.Tensor{DType: ir.Float64, Shape: []int64{64, 16}, Data: ir.NewBuffer(make([]byte, 8*64*16))}
		return b.finish(b.Graph.Op("MatMul", "/double/MatMul", []*ir.Value{b.x, b.Graph.AddInitializer("double.weight", w)}))
	}
	quantised := func() *ir.Model {
		m := tied()
		apply(t, m, quantize.Options{})
		return m
	}
	for _, c := range []struct {
		why   string
		model func() *ir.Model
		o     quantize.Options
		is    error
		text  string
	}{
		{"no weights at all", bare, quantize.Options{}, quantize.ErrNothing, "quantize: nothing to quantise"},
		{"all excluded", tied, quantize.Options{Rules: []quantize.Rule{{Match: "*", Keep: true}}}, quantize.ErrNothing, "(model.embed_tokens.weight: a rule keeps it)"},
		{"a second time", quantised, quantize.Options{}, quantize.ErrQuantized, "start from the float model"},
		{"a type that no kernel takes", double, quantize.Options{}, nil, "double.weight of MatMul(/double/MatMul) is float64"},
		{"a misspelt tensor", tied, quantize.Options{Rules: []quantize.Rule{{Match: "lm_haed*", Keep: true}}}, nil, `rule "lm_haed*=keep" matches no weight: there are model.embed_tokens.weight, `},
		{"every bad option in one line", tied, quantize.Options{Precision: "int3", Method: "magic", BlockSize: 48, Scale: "big", AccuracyLevel: 9, Rules: []quantize.Rule{{Match: "[", Keep: true, BlockSize: 3}}}, nil,
			`quantize: precision "int3": it must be int4, int8, dynamic-int8 or static-int8; block size 48: it must be 16, 32, 64, 128 or 256; accuracy level 9: it must be 1 to 4; method "magic": it must be rtn, hqq, gptq, awq or awq+gptq; scale "big": it must be max or mse; ` +
				`rule "[=keep:b3": not a valid glob before the =; rule "[=keep:b3": weights that keep their type have no format; rule "[=keep:b3": block size 3: it must be 16, 32, 64, 128 or 256`},
	} {
		_, err := quantize.NewPlan(c.model(), c.o)
		require.ErrorContains(t, err, c.text, c.why)
		require.NotContains(t, err.Error(), "\n", c.why)
		if c.is != nil {
			require.ErrorIs(t, err, c.is, c.why)
		}
	}
}

func TestPlanIsForOneModelAndOneUse(t *testing.T) {
	m := newTiny(ir.Float32).tied()
	p, err := quantize.NewPlan(m, quantize.Options{})
	require.NoError(t, err)
	require.ErrorContains(t, p.Apply(newTiny(ir.Float32).tied()), "another model")
	require.NoError(t, p.Apply(m))
	require.ErrorContains(t, p.Apply(m), "already")
}

// A weight that is not a number is found while the model is written; nothing may stay behind.
func TestBadWeightLeavesNothing(t *testing.T) {
	b := newTiny(ir.Float32)
	v := weights(1, 64*16)
	v[5*16+2] = float32(nan())
	w := b.Graph.AddInitializer("bad.weight", ir.Float32Tensor(v, 64, 16))
	m := b.finish(b.Graph.Op("MatMul", "/bad/MatMul", []*ir.Value{b.x, w}))
	apply(t, m, quantize.Options{})
	dir := t.TempDir()
	err := ir.Save(context.Background(), m, filepath.Join(dir, "model.onnx"), ir.SaveOptions{InlineBytes: -1})
	require.ErrorIs(t, err, quantize.ErrNotFinite)
	require.ErrorContains(t, err, "bad.weight has NaN at output 2, input 5")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)
}

func nan() float64 { z := 0.0; return z / z }

func TestSameInputSameBytes(t *testing.T) {
	save := func() []byte {
		m := newTiny(ir.Float32).tied()
		apply(t, m, quantize.Options{})
		dir := t.TempDir()
		require.NoError(t, ir.Save(context.Background(), m, filepath.Join(dir, "model.onnx"), ir.SaveOptions{InlineBytes: -1}))
		var all []byte
		for _, name := range []string{"model.onnx", "model.onnx.data"} {
			b, err := os.ReadFile(filepath.Join(dir, name))
			require.NoError(t, err)
			all = append(all, b...)
		}
		return all
	}
	require.Equal(t, save(), save())
}

func TestReport(t *testing.T) {
	m := newTiny(ir.Float32).tied()
	p := apply(t, m, quantize.Options{Symmetric: true})
	require.NoError(t, ir.Save(context.Background(), m, filepath.Join(t.TempDir(), "model.onnx"), ir.SaveOptions{}))
	r := p.Report()
	require.Len(t, r.Tensors, 3)
	total := int64(vocab*hidden + hidden + 2*48*hidden)
	require.Equal(t, total, r.Weights)
	require.Equal(t, 4*total, r.BytesBefore)
	embed := r.Tensors[0]
	require.Equal(t, int64(4*vocab*hidden), embed.BytesBefore)
	require.Equal(t, int64(vocab*(hidden/2+2*4)), embed.BytesAfter, "packed, and two scales a row")
	require.InDelta(t, 20, embed.SNR, 3)
	require.InDelta(t, 0.01, embed.RMSE, 0.005)
	// 5 bits for what is quantised; down has rows of 48, so a quarter of its blocks is padding; the norm is float.
	down := int64(hidden * (2*16 + 2*4))
	up := int64(48 * (hidden/2 + 2*4))
	require.Equal(t, embed.BytesAfter+up+down+4*hidden, r.BytesAfter)
	require.InDelta(t, 8*float64(r.BytesAfter)/float64(total), r.BitsPerWeight(), 1e-12)
}
