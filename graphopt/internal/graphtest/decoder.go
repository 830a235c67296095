package graphtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Decoder describes a small Qwen3. The zero value is one layer of 4 heads on 2 KV heads of size 16 in float32,
// in the form in which models/qwen3 writes it. The fields choose other forms that exporters give
// the same function, and forms that are another function.
type Decoder struct {
	Layers, Heads, KVHeads, HeadDim, Hidden, MLP, Vocab int // defaults 1, 4, 2, 16, 24, 40, 50

	DType ir.DType // default float32; others have casts around norms and softmax
	Tied  bool     // the head is the transposed embedding

	// The same function in other words.
	Commuted        bool     // both operands of commutative operators change places
	FlatQK          bool     // no q/k norms
	JoinedQKV       bool     // one product for q, k and v, and a Split
	ComputedShapes  bool     // target shapes of Reshape are computed from shapes
	PresentIdentity bool     // present outputs are Identity of the concatenation
	SafeSoftmax     bool     // rows without a visible key give 0
	OwnTables       bool     // each layer computes mask and rotary tables again
	HalfTables      bool     // cosines and sines of half the head size; halves rotate apart
	ScaleQuery      bool     // the scale is on the queries, not on the scores
	MulSquare       bool     // x·x rather than Pow(x, 2)
	Positions       Position // where positions come from
	Core            Core     // attention in pieces, or by operators
	// Lengths that are fixed; 0 leaves one free.
	Batch, Sequence, Past int64

	// Other functions.
	Mask       Mask
	Rotary     Rotary
	Scale      float64 // default 1/√HeadDim
	TiledHeads bool    // KV heads repeat as 0 1 0 1, not as 0 0 1 1
	NoPast     bool    // no KV cache
	Scores     bool    // the attention weights are an output too
	PadByToken bool    // token 0 is padding, whatever the mask says
	LengthRope bool    // positions are stretched when the sequence is long

	// ShapeOnly gives weights no content, so that models of any size can be made.
	ShapeOnly bool
}

// Mask is a form of attention mask.
type Mask int

// The masks. All but Causal are other functions, except CausalTrilu.
const (
	Causal        Mask = iota
	CausalTrilu        // the same, by Trilu of ones
	NextToken          // off by one: each token sees the next one too
	SlidingWindow      // keys more than 16 positions back are hidden
	NoMask
	KeysCut // the last 16 keys and values take part, the others are cut off
)

// Rotary is a form of rotary embedding.
type Rotary int

// The rotary embeddings. All but Halves are other functions.
const (
	Halves      Rotary = iota
	SwapHalves         // the sign is on the other half
	Interleaved        // neighbours are pairs
	NoRotary
)

// Position says where positions come from.
type Position int

// The sources of positions.
const (
	FromInput Position = iota // position_ids
	FromPast                  // the length of the cache
	FromMask                  // a running sum of attention_mask
)

func (d Decoder) defaults() Decoder {
	for _, f := range []struct {
		field *int
		def   int
	}{{&d.Layers, 1}, {&d.Heads, 4}, {&d.KVHeads, 2}, {&d.HeadDim, 16}, {&d.Hidden, 24}, {&d.MLP, 40}, {&d.Vocab, 50}} {
		if *f.field == 0 {
			*f.field = f.def
		}
	}
	if d.DType == ir.Undefined {
		d.DType = ir.Float32
	}
	if d.Scale == 0 {
		d.Scale = 1 / math.Sqrt(float64(d.HeadDim))
	}
	return d
}

// Window is the length of the windows of SlidingWindow and KeysCut.
const Window = 16

// Model builds the decoder. Its weights are random, and the same each time.
func (d Decoder) Model(tb testing.TB) *ir.Model {
	tb.Helper()
	d = d.defaults()
	m := ir.NewModel("decoder", 10, 21)
	b := &builder{Decoder: d, tb: tb, g: m.Graph, rng: rand.New(rand.NewPCG(7, 7)), shared: map[string]*ir.Value{}}
	b.build()
	d.opsets(m)
	require.NoError(tb, m.Validate())
	return m
}

type builder struct {
	Decoder
	tb     testing.TB
	g      *ir.Graph
	rng    *rand.Rand
	shared map[string]*ir.Value

	ids, mask, pos *ir.Value
	past           []*ir.Value
	cos, sin, bias *ir.Value
}

func (b *builder) op(op, name string, inputs ...*ir.Value) *ir.Value {
	return b.attrs(op, name, inputs)
}

func (b *builder) attrs(op, name string, inputs []*ir.Value, attrs ...*ir.Attr) *ir.Value {
	if b.Commuted && len(inputs) == 2 {
		switch op {
		case "Add", "Mul", "And", "Or":
			inputs = []*ir.Value{inputs[1], inputs[0]}
		}
	}
	return b.g.Op(op, name, inputs, attrs...)
}

func (b *builder) ints(v ...int64) *ir.Value {
	return b.constant(fmt.Sprint("ints", v), func() *ir.Tensor { return ir.Int64Tensor(v) })
}

func (b *builder) scalar(v int64) *ir.Value {
	return b.constant(fmt.Sprint("int", v), func() *ir.Tensor { return ir.Int64Scalar(v) })
}

func (b *builder) float(d ir.DType, v float64) *ir.Value {
	return b.constant(fmt.Sprint(d, v), func() *ir.Tensor { return b.typed(ir.Float32Scalar(float32(v)), d) })
}

func (b *builder) constant(name string, make func() *ir.Tensor) *ir.Value {
	if b.shared[name] == nil {
		b.shared[name] = b.g.AddInitializer("constants."+name, make())
	}
	return b.shared[name]
}

func (b *builder) typed(t *ir.Tensor, d ir.DType) *ir.Tensor {
	c, err := ir.Cast(t, d)
	require.NoError(b.tb, err)
	return c
}

// zeros is content that takes no memory.
type zeros int64

func (z *zeros) Len() int64 { return int64(*z) }
func (z *zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// weight makes a weight of numbers around at.
func (b *builder) weight(name string, at float64, shape ...int) *ir.Value {
	if v := b.shared[name]; v != nil {
		return v
	}
	dims, n := make([]int64, len(shape)), int64(1)
	for i, s := range shape {
		dims[i] = int64(s)
		n *= dims[i]
	}
	var t *ir.Tensor
	if b.ShapeOnly {
		size := zeros(n * int64(b.DType.Bits()/8))
		t = &ir.Tensor{DType: b.DType, Shape: dims, Data: &size}
	} else {
		v := make([]float32, n)
		for i := range v {
			v[i] = float32(at + b.rng.NormFloat64()*0.3)
		}
		t = b.typed(ir.Float32Tensor(v, dims...), b.DType)
	}
	b.shared[name] = b.g.AddInitializer(name, t)
	return b.shared[name]
}

func (b *builder) cast(name string, x *ir.Value, from, to ir.DType) *ir.Value {
	if from == to {
		return x
	}
	return b.attrs("Cast", name, []*ir.Value{x}, ir.Int("to", int64(to)))
}

// length is one dimension of a value, of rank 0.
func (b *builder) length(name string, x *ir.Value, axis int64) *ir.Value {
	s := b.attrs("Shape", name+"/Shape", []*ir.Value{x}, ir.Int("start", axis), ir.Int("end", axis+1))
	return b.op("Squeeze", name+"/Squeeze", s, b.ints(0))
}

const batch, seq, past, total = "batch_size", "sequence_length", "past_sequence_length", "total_sequence_length"

// dim is a dimension by its name, or its fixed length.
func (b *builder) dim(name string) ir.Dim {
	n := map[string]int64{batch: b.Batch, seq: b.Sequence, past: b.Past}[name]
	if name == total && b.Sequence > 0 && b.Past > 0 {
		n = b.Sequence + b.Past
	}
	if n > 0 {
		return ir.Fixed(n)
	}
	return ir.Sym(name)
}

func (b *builder) build() {
	dim := func(names ...string) *ir.Type {
		var dims []ir.Dim
		for _, n := range names {
			dims = append(dims, b.dim(n))
		}
		return ir.TensorType(ir.Int64, dims...)
	}
	b.ids = b.g.AddInput("input_ids", dim(batch, seq))
	b.mask = b.g.AddInput("attention_mask", dim(batch, total))
	if b.Positions == FromInput {
		b.pos = b.g.AddInput("position_ids", dim(batch, seq))
	}
	cache := func(n string) *ir.Type {
		return ir.TensorType(b.DType, b.dim(batch), ir.Fixed(int64(b.KVHeads)), b.dim(n), ir.Fixed(int64(b.HeadDim)))
	}
	for i := range b.Layers {
		if !b.NoPast {
			b.past = append(b.past, b.g.AddInput(fmt.Sprintf("past_key_values.%d.key", i), cache(past)),
				b.g.AddInput(fmt.Sprintf("past_key_values.%d.value", i), cache(past)))
		}
	}
	x := b.op("Gather", "/model/embed_tokens/Gather", b.weight("model.embed_tokens.weight", 0, b.Vocab, b.Hidden), b.ids)
	var presents []*ir.Value
	for i := range b.Layers {
		if i == 0 || b.OwnTables {
			b.tables(fmt.Sprintf("/model/tables.%d", i))
		}
		var kv [2]*ir.Value
		x, kv = b.layer(i, x)
		presents = append(presents, kv[:]...)
	}
	x = b.norm("/model/norm", x, b.weight("model.norm.weight", 1, b.Hidden))
	var head *ir.Value
	if b.Tied {
		head = b.attrs("Transpose", "/lm_head/Transpose", []*ir.Value{b.weight("model.embed_tokens.weight", 0)}, ir.Ints("perm", 1, 0))
	} else {
		head = b.weight("lm_head.weight", 0, b.Hidden, b.Vocab)
	}
	logits := b.cast("/lm_head/Cast", b.op("MatMul", "/lm_head/MatMul", x, head), b.DType, ir.Float32)
	logits.Name = b.g.Fresh("logits")
	logits.Type = ir.TensorType(ir.Float32, b.dim(batch), b.dim(seq), ir.Fixed(int64(b.Vocab)))
	b.g.AddOutput(logits)
	for i, p := range presents {
		if p == nil {
			continue
		}
		p.Name = b.g.Fresh(fmt.Sprintf("present.%d.%s", i/2, [2]string{"key", "value"}[i%2]))
		p.Type = cache(total)
		b.g.AddOutput(p)
	}
}

// tables makes the mask and the cosines and sines.
func (b *builder) tables(path string) {
	total := b.length(path+"/total", b.mask, 1)
	seq := b.length(path+"/sequence", b.ids, 1)
	past := b.op("Sub", path+"/past/Sub", total, seq)
	b.angles(path, past, total)
	if b.Mask == NoMask {
		return
	}
	query := b.op("Unsqueeze", path+"/query/Unsqueeze", b.op("Range", path+"/query/Range", past, total, b.scalar(1)), b.ints(1))
	key := b.op("Unsqueeze", path+"/key/Unsqueeze", b.op("Range", path+"/key/Range", b.scalar(0), total, b.scalar(1)), b.ints(0))
	allowed := b.op("LessOrEqual", path+"/LessOrEqual", key, query)
	switch b.Mask {
	case CausalTrilu:
		shape := b.attrs("Concat", path+"/square/Concat", []*ir.Value{b.op("Unsqueeze", path+"/s/Unsqueeze", seq, b.ints(0)),
			b.op("Unsqueeze", path+"/t/Unsqueeze", total, b.ints(0))}, ir.Int("axis", 0))
		one := b.attrs("ConstantOfShape", path+"/ones", []*ir.Value{shape}, ir.TensorAttr("value", ir.Int64Tensor([]int64{1})))
		tri := b.attrs("Trilu", path+"/Trilu", []*ir.Value{one, past}, ir.Int("upper", 0))
		allowed = b.attrs("Cast", path+"/allowed/Cast", []*ir.Value{tri}, ir.Int("to", int64(ir.Bool)))
	case NextToken:
		allowed = b.op("LessOrEqual", path+"/next/LessOrEqual", key, b.op("Add", path+"/next/Add", query, b.scalar(1)))
	case SlidingWindow:
		near := b.op("Less", path+"/window/Less", b.op("Sub", path+"/window/Sub", query, key), b.scalar(Window))
		allowed = b.op("And", path+"/window/And", allowed, near)
	}
	visible := b.cast(path+"/mask/Cast", b.mask, ir.Int64, ir.Bool)
	allowed = b.op("And", path+"/And", allowed, b.op("Unsqueeze", path+"/mask/Unsqueeze", visible, b.ints(1, 2)))
	if b.PadByToken {
		pad := b.op("Unsqueeze", path+"/pad/Unsqueeze", b.op("Equal", path+"/pad/Equal", b.ids, b.scalar(0)), b.ints(1, 3))
		allowed = b.op("And", path+"/pad/And", allowed, b.op("Not", path+"/pad/Not", pad))
	}
	b.bias = b.op("Where", path+"/Where", allowed, b.float(b.DType, 0), b.float(b.DType, b.hidden()))
	if b.Mask == KeysCut {
		b.bias = b.cut(path+"/bias", b.bias, 3)
	}
}

func (b *builder) hidden() float64 {
	if b.DType == ir.Float16 {
		return -32768
	}
	return -math.MaxFloat32 / 2
}

// cut keeps the last Window elements of an axis.
func (b *builder) cut(path string, x *ir.Value, axis int64) *ir.Value {
	return b.op("Slice", path+"/cut/Slice", x, b.ints(-Window), b.ints(math.MaxInt64), b.ints(axis))
}

func (b *builder) angles(path string, past, total *ir.Value) {
	var pos *ir.Value
	switch b.Positions {
	case FromInput:
		pos = b.pos
	case FromPast:
		r := b.op("Range", path+"/positions/Range", past, total, b.scalar(1))
		pos = b.op("Unsqueeze", path+"/positions/Unsqueeze", r, b.ints(0))
	case FromMask:
		sum := b.op("Sub", path+"/positions/Sub", b.op("CumSum", path+"/positions/CumSum", b.mask, b.scalar(1)), b.scalar(1))
		first := b.op("Unsqueeze", path+"/positions/first/Unsqueeze", past, b.ints(0))
		pos = b.op("Slice", path+"/positions/Slice", sum, first, b.ints(math.MaxInt64), b.ints(1))
	}
	freq := make([]float32, b.HeadDim/2)
	for i := range freq {
		freq[i] = float32(math.Pow(10000, -2*float64(i)/float64(b.HeadDim)))
	}
	inv := b.constant("inv_freq", func() *ir.Tensor { return ir.Float32Tensor(freq, 1, 1, int64(len(freq))) })
	p := b.op("Unsqueeze", path+"/Unsqueeze", b.cast(path+"/Cast", pos, ir.Int64, ir.Float32), b.ints(2))
	if b.LengthRope {
		long := b.op("Greater", path+"/long/Greater", total, b.scalar(Window))
		p = b.op("Mul", path+"/long/Mul", p, b.op("Where", path+"/long/Where", long, b.float(ir.Float32, 0.5), b.float(ir.Float32, 1)))
	}
	a := b.op("Mul", path+"/angles/Mul", p, inv)
	if !b.HalfTables && b.Core == Pieces {
		a = b.attrs("Concat", path+"/angles/Concat", []*ir.Value{a, a}, ir.Int("axis", -1))
	}
	table := func(op string) *ir.Value {
		t := b.cast(path+"/"+op+"/Cast", b.op(op, path+"/"+op, a), ir.Float32, b.DType)
		if b.Core != Pieces {
			return t
		}
		return b.op("Unsqueeze", path+"/"+op+"/Unsqueeze", t, b.ints(1))
	}
	b.cos, b.sin = table("Cos"), table("Sin")
}

func (b *builder) norm(path string, x, w *ir.Value) *ir.Value {
	y := b.cast(path+"/Cast", x, b.DType, ir.Float32)
	var square *ir.Value
	if b.MulSquare {
		square = b.op("Mul", path+"/Square", y, y)
	} else {
		square = b.op("Pow", path+"/Pow", y, b.float(ir.Float32, 2))
	}
	mean := b.attrs("ReduceMean", path+"/ReduceMean", []*ir.Value{square, b.ints(-1)}, ir.Int("keepdims", 1))
	root := b.op("Sqrt", path+"/Sqrt", b.op("Add", path+"/Add", mean, b.float(ir.Float32, 1e-6)))
	y = b.op("Mul", path+"/Mul", y, b.op("Reciprocal", path+"/Reciprocal", root))
	return b.op("Mul", path+"/Mul_1", w, b.cast(path+"/Cast_1", y, ir.Float32, b.DType))
}

func (b *builder) layer(i int, x *ir.Value) (*ir.Value, [2]*ir.Value) {
	path, w := fmt.Sprintf("/model/layers.%d", i), fmt.Sprintf("model.layers.%d.", i)
	h := b.norm(path+"/input_layernorm", x, b.weight(w+"input_layernorm.weight", 1, b.Hidden))
	a, kv := b.attention(i, path+"/self_attn", w+"self_attn.", h)
	x = b.op("Add", path+"/Add", x, a)
	h = b.norm(path+"/post_attention_layernorm", x, b.weight(w+"post_attention_layernorm.weight", 1, b.Hidden))
	gate := b.op("MatMul", path+"/mlp/gate_proj/MatMul", h, b.weight(w+"mlp.gate_proj.weight", 0, b.Hidden, b.MLP))
	up := b.op("MatMul", path+"/mlp/up_proj/MatMul", h, b.weight(w+"mlp.up_proj.weight", 0, b.Hidden, b.MLP))
	silu := b.op("Mul", path+"/mlp/act_fn/Mul", gate, b.op("Sigmoid", path+"/mlp/act_fn/Sigmoid", gate))
	m := b.op("MatMul", path+"/mlp/down_proj/MatMul", b.op("Mul", path+"/mlp/Mul", silu, up), b.weight(w+"mlp.down_proj.weight", 0, b.MLP, b.Hidden))
	return b.op("Add", path+"/Add_1", x, m), kv
}

// reshape gives x [B,S,·] a shape of which 0 copies a dimension.
func (b *builder) reshape(path string, x *ir.Value, shape ...int64) *ir.Value {
	if !b.ComputedShapes {
		return b.op("Reshape", path+"/Reshape", x, b.ints(shape...))
	}
	var parts []*ir.Value
	for i, d := range shape {
		if d == 0 {
			parts = append(parts, b.attrs("Shape", fmt.Sprintf("%s/Shape_%d", path, i), []*ir.Value{x}, ir.Int("start", int64(i)), ir.Int("end", int64(i+1))))
			continue
		}
		parts = append(parts, b.ints(d))
	}
	return b.op("Reshape", path+"/Reshape", x, b.attrs("Concat", path+"/shape/Concat", parts, ir.Int("axis", 0)))
}

func (b *builder) swap(path string, x *ir.Value) *ir.Value {
	return b.attrs("Transpose", path+"/Transpose", []*ir.Value{x}, ir.Ints("perm", 0, 2, 1, 3))
}

func (b *builder) attention(i int, path, w string, x *ir.Value) (*ir.Value, [2]*ir.Value) {
	D := int64(b.HeadDim)
	q, k, v := b.project(path, w, x)
	output := func(a *ir.Value) *ir.Value {
		return b.op("MatMul", path+"/o_proj/MatMul", a, b.weight(w+"o_proj.weight", 0, b.Heads*b.HeadDim, b.Hidden))
	}
	if b.Core == MultiHead {
		a, kv := b.multiHead(i, path, w, q, k, v)
		return output(a), kv
	}
	head := func(name string, x *ir.Value, n int) *ir.Value { return b.reshape(path+"/"+name, x, 0, 0, int64(n), D) }
	q, k, v = head("q_proj", q, b.Heads), head("k_proj", k, b.KVHeads), head("v_proj", v, b.KVHeads)
	if !b.FlatQK {
		q = b.norm(path+"/q_norm", q, b.weight(w+"q_norm.weight", 1, b.HeadDim))
		k = b.norm(path+"/k_norm", k, b.weight(w+"k_norm.weight", 1, b.HeadDim))
	}
	q, k, v = b.swap(path+"/q", q), b.swap(path+"/k", k), b.swap(path+"/v", v)
	if b.Core != Pieces {
		a, kv := b.standard(i, path, q, k, v)
		return output(b.reshape(path, a, 0, 0, int64(b.Heads)*D)), kv
	}
	q, k = b.rotate(path+"/q_rotary", q), b.rotate(path+"/k_rotary", k)
	if b.ScaleQuery {
		q = b.op("Mul", path+"/q_scale/Mul", q, b.float(b.DType, b.Scale))
	}
	var kv [2]*ir.Value
	if !b.NoPast {
		k = b.attrs("Concat", path+"/key_cache/Concat", []*ir.Value{b.past[2*i], k}, ir.Int("axis", 2))
		v = b.attrs("Concat", path+"/value_cache/Concat", []*ir.Value{b.past[2*i+1], v}, ir.Int("axis", 2))
		kv = [2]*ir.Value{k, v}
		if b.PresentIdentity {
			kv = [2]*ir.Value{b.op("Identity", path+"/key_cache/Identity", k), b.op("Identity", path+"/value_cache/Identity", v)}
		}
	}
	if b.Mask == KeysCut {
		k, v = b.cut(path+"/k", k, 2), b.cut(path+"/v", v, 2)
	}
	k, v = b.repeat(path+"/repeat_k", k), b.repeat(path+"/repeat_v", v)
	k = b.attrs("Transpose", path+"/k/Transpose_1", []*ir.Value{k}, ir.Ints("perm", 0, 1, 3, 2))
	scores := b.op("MatMul", path+"/MatMul", q, k)
	if !b.ScaleQuery {
		scores = b.op("Mul", path+"/Mul", scores, b.float(b.DType, b.Scale))
	}
	if b.bias != nil {
		scores = b.op("Add", path+"/Add", scores, b.bias)
	}
	p := b.attrs("Softmax", path+"/Softmax", []*ir.Value{b.cast(path+"/Cast", scores, b.DType, ir.Float32)}, ir.Int("axis", -1))
	if b.SafeSoftmax {
		p = b.op("Where", path+"/safe/Where", b.op("IsNaN", path+"/safe/IsNaN", p), b.float(ir.Float32, 0), p)
	}
	p = b.cast(path+"/Cast_1", p, ir.Float32, b.DType)
	if b.Scores {
		b.g.AddOutput(p)
	}
	a := b.swap(path, b.op("MatMul", path+"/MatMul_1", p, v))
	a = b.reshape(path, a, 0, 0, int64(b.Heads)*D)
	return output(a), kv
}

func (b *builder) project(path, w string, x *ir.Value) (q, k, v *ir.Value) {
	nq, nkv := b.Heads*b.HeadDim, b.KVHeads*b.HeadDim
	if b.JoinedQKV {
		all := b.op("MatMul", path+"/qkv_proj/MatMul", x, b.weight(w+"qkv_proj.weight", 0, b.Hidden, nq+2*nkv))
		n := b.g.Add(ir.NodeSpec{Op: "Split", Name: path + "/qkv_proj/Split", Inputs: []*ir.Value{all, b.ints(int64(nq), int64(nkv), int64(nkv))},
			Outputs: []string{path + "/q", path + "/k", path + "/v"}, Attrs: []*ir.Attr{ir.Int("axis", -1)}})
		return n.Output(0), n.Output(1), n.Output(2)
	}
	part := func(name string, n int) *ir.Value {
		return b.op("MatMul", path+"/"+name+"/MatMul", x, b.weight(w+name+".weight", 0, b.Hidden, n))
	}
	return part("q_proj", nq), part("k_proj", nkv), part("v_proj", nkv)
}

func (b *builder) rotate(path string, x *ir.Value) *ir.Value {
	half, dim := int64(b.HeadDim/2), int64(b.HeadDim)
	slice := func(name string, from, to int64) *ir.Value {
		return b.op("Slice", path+name, x, b.ints(from), b.ints(to), b.ints(3))
	}
	join := func(name string, x, y *ir.Value) *ir.Value {
		return b.attrs("Concat", path+name, []*ir.Value{x, y}, ir.Int("axis", -1))
	}
	var turned *ir.Value
	switch b.Rotary {
	case NoRotary:
		return x
	case Halves:
		x1, x2 := slice("/Slice", 0, half), slice("/Slice_1", half, dim)
		if b.HalfTables {
			mul := func(name string, x, y *ir.Value) *ir.Value { return b.op("Mul", path+name, x, y) }
			a := b.op("Sub", path+"/Sub", mul("/Mul", x1, b.cos), mul("/Mul_1", x2, b.sin))
			c := b.op("Add", path+"/Add", mul("/Mul_2", x2, b.cos), mul("/Mul_3", x1, b.sin))
			return join("/Concat", a, c)
		}
		turned = join("/Concat", b.op("Neg", path+"/Neg", x2), x1)
	case SwapHalves:
		x1, x2 := slice("/Slice", 0, half), slice("/Slice_1", half, dim)
		turned = join("/Concat", x2, b.op("Neg", path+"/Neg", x1))
	case Interleaved:
		pairs := b.op("Reshape", path+"/pairs/Reshape", x, b.ints(0, 0, -1, half, 2))
		pick := func(name string, i int64) *ir.Value {
			return b.op("Slice", path+name, pairs, b.ints(i), b.ints(i+1), b.ints(4))
		}
		t := join("/Concat", b.op("Neg", path+"/Neg", pick("/Slice_1", 1)), pick("/Slice", 0))
		turned = b.op("Reshape", path+"/back/Reshape", t, b.ints(0, 0, -1, dim))
	}
	return b.op("Add", path+"/Add", b.op("Mul", path+"/Mul", x, b.cos), b.op("Mul", path+"/Mul_1", turned, b.sin))
}

// repeat gives every query head a KV head.
func (b *builder) repeat(path string, x *ir.Value) *ir.Value {
	rep := int64(b.Heads / b.KVHeads)
	if rep == 1 {
		return x
	}
	axis, shape := int64(2), []int64{1, 1, rep, 1, 1}
	if b.TiledHeads {
		axis, shape = 1, []int64{1, rep, 1, 1, 1}
	}
	x = b.op("Expand", path+"/Expand", b.op("Unsqueeze", path+"/Unsqueeze", x, b.ints(axis)), b.ints(shape...))
	return b.op("Reshape", path+"/Reshape", x, b.ints(0, int64(b.Heads), -1, int64(b.HeadDim)))
}
