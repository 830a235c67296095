package runner_test

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/runner"
)

// toy is a decoder with random weights in the form of an optimised export, small enough that its
// shape can be anything. The zero value has one layer, one head of size 8 and a vocabulary of 16.
type toy struct {
	layers, heads, kvHeads, headDim, vocab int

	unshared        bool     // presents go through another node, so that they cannot be the pasts
	positions       bool     // position_ids are read
	maskedElsewhere bool     // the mask is not only summed
	noKeep          bool     // no num_logits_to_keep
	scalarKeep      bool     // num_logits_to_keep has rank 0
	logits          ir.DType // default float32
	kv              ir.DType // default float32
	kvBits          int      // 8 or 4: the cache is quantised
	rotary          int64    // rows of the rotary tables. Default: none

	window int64 // tokens that attention looks back at. Default: all

	loud   int64               // a token that the head prefers to all others
	rename map[string]string   // of inputs and outputs
	shape  map[string]*ir.Type // of inputs and outputs, instead of the right one
	files  map[string]string   // beside the model
}

const toyContext = 2048 // of a toy whose files do not say otherwise

const toyReach = 2 // the largest number that a quantised cache holds

func (s toy) withDefaults() toy {
	for _, d := range []struct {
		field *int
		value int
	}{{&s.layers, 1}, {&s.heads, 1}, {&s.kvHeads, 1}, {&s.headDim, 8}, {&s.vocab, 16}} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if s.logits == ir.Undefined {
		s.logits = ir.Float32
	}
	if s.kv == ir.Undefined {
		s.kv = ir.Float32
	}
	return s
}

// folder writes the toy's model folder.
func (s toy) folder(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	m := s.withDefaults().model()
	require.NoError(tb, ir.Save(tb.Context(), m, filepath.Join(dir, "model.onnx"), ir.SaveOptions{}))
	files := map[string]string{"config.json": fmt.Sprintf(`{"max_position_embeddings": %d}`, toyContext)}
	for name, text := range s.files {
		files[name] = text
	}
	for name, text := range files {
		require.NoError(tb, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
	return dir
}

// open opens the toy, and closes it with the test.
func (s toy) open(tb testing.TB, o runner.Options) *runner.Runner {
	tb.Helper()
	return open(tb, s.folder(tb), o)
}

func open(tb testing.TB, dir string, o runner.Options) *runner.Runner {
	tb.Helper()
	r, err := runner.Open(tb.Context(), dir, o)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, r.Close()) })
	return r
}

func sequence(tb testing.TB, r *runner.Runner) *runner.Sequence {
	tb.Helper()
	s, err := r.NewSequence()
	require.NoError(tb, err)
	tb.Cleanup(s.Close)
	return s
}

// prompt is n tokens, any.
func (s toy) prompt(n int) []int32 {
	random := rand.New(rand.NewPCG(7, uint64(n)))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = random.Int32N(int32(s.withDefaults().vocab))
	}
	return ids
}

// fresh gives the logits behind tokens as a sequence of its own computes them, a token at a time.
func fresh(tb testing.TB, r *runner.Runner, tokens []int32) []float32 {
	tb.Helper()
	s, err := r.NewSequence()
	require.NoError(tb, err)
	defer s.Close()
	var logits []float32
	for _, t := range tokens {
		logits, err = s.Decode(context.Background(), t)
		require.NoError(tb, err)
	}
	return append([]float32(nil), logits...)
}

// builder makes the toy's graph.
type builder struct {
	toy
	g      *ir.Graph
	random *rand.Rand
}

func (s toy) model() *ir.Model {
	m := ir.NewModel("toy", 10, 21)
	m.RequireOpset("com.microsoft", 1)
	b := &builder{toy: s, g: m.Graph, random: rand.New(rand.NewPCG(1, 2))}
	b.build()
	return m
}

func (b *builder) typed(name string, t *ir.Type) *ir.Type {
	if other, ok := b.shape[name]; ok {
		return other
	}
	return t
}

func (b *builder) named(name string) string {
	if other, ok := b.rename[name]; ok {
		return other
	}
	return name
}

func (b *builder) input(name string, t *ir.Type) *ir.Value {
	return b.g.AddInput(b.named(name), b.typed(name, t))
}

func (b *builder) output(v *ir.Value, name string, t *ir.Type) {
	v.Type = b.typed(name, t)
	b.g.AddOutput(v)
}

func (b *builder) weight(name string, rows, columns int) *ir.Value {
	scale := 1 / math.Sqrt(float64(rows)) // a product's results are to be as large as its operand
	if name == "embed" || name == "positions" {
		scale = 1
	}
	w := make([]float32, rows*columns)
	for i := range w {
		w[i] = float32(scale * b.random.NormFloat64())
	}
	if name == "head" && b.loud > 0 {
		for i := int(b.loud); i < len(w); i += columns {
			w[i] = 1e4
		}
	}
	return b.g.AddInitializer(name+".weight", ir.Float32Tensor(w, int64(rows), int64(columns)))
}

func (b *builder) number(name string, n int64) *ir.Value {
	return b.g.AddInitializer(name, ir.Int64Tensor([]int64{n}, 1))
}

func (b *builder) cast(v *ir.Value, name string, to ir.DType) *ir.Value {
	return b.g.Op("Cast", name, []*ir.Value{v}, ir.Int("to", int64(to)))
}

func (b *builder) build() {
	hidden := b.heads * b.headDim
	batch, length := ir.Sym("batch"), ir.Sym("sequence")
	ids := b.input("input_ids", ir.TensorType(ir.Int64, batch, length))
	mask := b.input("attention_mask", ir.TensorType(ir.Int64, batch, ir.Sym("total")))
	one, zero := b.number("one", 1), b.number("zero", 0)
	count := b.g.Op("ReduceSum", "count", []*ir.Value{b.cast(mask, "mask", ir.Int64), one}, ir.Int("keepdims", 0))
	lengths := b.cast(b.g.Op("Sub", "last", []*ir.Value{count, one}), "seqlens_k", ir.Int32)
	width := b.g.Op("Shape", "width", []*ir.Value{mask}, ir.Int("start", 1))
	total := b.g.Op("Squeeze", "total", []*ir.Value{b.cast(width, "width32", ir.Int32), zero})

	x := b.g.Op("Gather", "embed", []*ir.Value{b.weight("embed", b.vocab, hidden), b.cast(ids, "ids", ir.Int64)})
	if b.positions {
		at := b.input("position_ids", ir.TensorType(ir.Int64, batch, length))
		table := b.weight("positions", toyContext, hidden)
		x = b.g.Op("Add", "place", []*ir.Value{x, b.g.Op("Gather", "position", []*ir.Value{table, at})})
	}
	if b.maskedElsewhere {
		last := b.g.Op("Gather", "mask_last", []*ir.Value{b.cast(mask, "mask_float", ir.Float32), b.number("mask_end", -1)}, ir.Int("axis", 1))
		x = b.g.Op("Mul", "masked", []*ir.Value{x, b.g.Op("Reshape", "mask_scale", []*ir.Value{last, b.g.AddInitializer("mask_shape", ir.Int64Tensor([]int64{-1, 1, 1}, 3))})})
	}
	for i := range b.layers {
		x = b.g.Op("Add", "residual", []*ir.Value{x, b.attention(i, x, lengths, total)})
	}
	if !b.noKeep {
		keep := ir.Int64Tensor([]int64{0})
		if b.scalarKeep {
			keep = ir.Int64Scalar(0)
		}
		rows := b.g.Op("Reshape", "rows", []*ir.Value{b.g.AddOptionalInput("num_logits_to_keep", keep), one})
		from := b.g.Op("Neg", "from", []*ir.Value{rows})
		x = b.g.Op("Slice", "kept", []*ir.Value{x, from, b.number("end", 1<<62), one})
	}
	head := b.g.Op("MatMul", "scores", []*ir.Value{x, b.weight("head", hidden, b.vocab)})
	logits := b.g.Add(ir.NodeSpec{Op: "Cast", Name: "logits_cast", Inputs: []*ir.Value{head},
		Outputs: []string{b.named("logits")}, Attrs: []*ir.Attr{ir.Int("to", int64(b.logits))}}).Output(0)
	b.output(logits, "logits", ir.TensorType(b.logits, batch, ir.Sym("rows"), ir.Fixed(int64(b.vocab))))
}

// attention is one layer: GroupQueryAttention behind projections of x.
func (b *builder) attention(layer int, x, lengths, total *ir.Value) *ir.Value {
	hidden := b.heads * b.headDim
	name := func(s string) string { return fmt.Sprintf("layer%d.%s", layer, s) }
	kv := func(s string) string { return fmt.Sprintf(s, layer) }
	project := func(s string, heads int) *ir.Value {
		w := b.weight(name(s), hidden, heads*b.headDim)
		return b.cast(b.g.Op("MatMul", name(s), []*ir.Value{x, w}), name(s+"_cast"), b.kv)
	}
	cache := func(length string) *ir.Type {
		dtype, width := b.kv, int64(b.headDim)
		switch b.kvBits {
		case 8:
			dtype = ir.Int8
		case 4:
			dtype, width = ir.Uint8, width/2
		}
		return ir.TensorType(dtype, ir.Sym("batch"), ir.Fixed(int64(b.kvHeads)), ir.Sym(length), ir.Fixed(width))
	}
	inputs := []*ir.Value{
		project("q", b.heads), project("k", b.kvHeads), project("v", b.kvHeads),
		b.input(kv("past_key_values.%d.key"), cache("past")), b.input(kv("past_key_values.%d.value"), cache("past")),
		lengths, total,
	}
	if b.rotary > 0 {
		for _, s := range []string{"cos", "sin"} {
			table := make([]float32, b.rotary*int64(b.headDim/2))
			for i := range table {
				table[i] = float32(b.random.NormFloat64())
			}
			inputs = append(inputs, b.g.AddInitializer(name(s), ir.Float32Tensor(table, b.rotary, int64(b.headDim/2))))
		}
	}
	names := []string{b.named(kv("present.%d.key")), b.named(kv("present.%d.value"))}
	outputs := names
	if b.unshared {
		outputs = []string{name("key"), name("value")}
	}
	node := b.g.Add(ir.NodeSpec{
		Op: "GroupQueryAttention", Domain: "com.microsoft", Name: name("attention"), Inputs: inputs,
		Outputs: append([]string{name("mixed")}, outputs...),
		Attrs: []*ir.Attr{ir.Int("num_heads", int64(b.heads)), ir.Int("kv_num_heads", int64(b.kvHeads)),
			ir.Int("do_rotary", min(b.rotary, 1)), ir.Int("local_window_size", cmp.Or(b.window, -1))},
	})
	if b.kvBits != 0 {
		for i, n := range []string{"k", "v"} {
			scales := make([]float32, b.kvHeads*b.headDim)
			for j := range scales {
				scales[j] = toyReach / float32(int(1)<<(b.kvBits-1)-1)
			}
			node.SetInput(12+i, b.g.AddInitializer(name(n+"_scale"), ir.Float32Tensor(scales, 1, int64(b.kvHeads), 1, int64(b.headDim))))
			node.SetAttr(ir.Str(n+"_quant_type", "PER_CHANNEL"))
		}
		node.SetAttr(ir.Int("kv_cache_bit_width", int64(b.kvBits)))
	}
	for i, n := range names {
		v := node.Output(1 + i)
		if b.unshared {
			v = b.g.Add(ir.NodeSpec{Op: "Identity", Name: n + ".identity", Inputs: []*ir.Value{v}, Outputs: []string{n}}).Output(0)
		}
		b.output(v, kv([]string{"present.%d.key", "present.%d.value"}[i]), cache("total"))
	}
	out := b.cast(node.Output(0), name("mixed_cast"), ir.Float32)
	return b.g.Op("MatMul", name("o"), []*ir.Value{out, b.weight(name("o"), hidden, hidden)})
}
