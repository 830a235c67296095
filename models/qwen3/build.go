package qwen3

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// The versions that a model is written for: opset 21 is the first with 4-bit integers, and IR
// version 10 the one that came with it.
const (
	Opset     = 21
	IRVersion = 10
)

// The names of the dimensions that are free.
const (
	batchDim  = "batch_size"
	seqDim    = "sequence_length"
	pastDim   = "past_sequence_length"
	totalDim  = "total_sequence_length" // past + sequence
	inputIDs  = "input_ids"
	maskInput = "attention_mask"
	positions = "position_ids"
	logitsOut = "logits"
)

// Options says how a graph is built. The zero value works.
type Options struct {
	// DType is the type of weights, activations and KV cache: ir.Float32, ir.Float16 or
	// ir.BFloat16. Default: ir.Float32. In the two narrow types the statistics of RMSNorm, rotary
	// angles and softmax are computed in float32, as transformers does.
	DType ir.DType
	// AccuracyLevel is that of the products of weights that the checkpoint has quantised, MatMulNBits: the type in which
	// they are computed, 1 float32, 2 float16, 3 bfloat16, 4 int8. Default: 4, the fastest on CPUs.
	AccuracyLevel int
}

// Build makes the graph of a model, with weights that are read when it is saved.
//
// Inputs (F is Options.DType; B batch, S sequence, P past, T = P+S, H KV heads, D head size):
//
//	input_ids                    int64 [B, S]
//	attention_mask               int64 [B, T]  0 for padding, else 1
//	position_ids                 int64 [B, S]
//	past_key_values.N.key/value  F     [B, H, P, D]
//
// Outputs:
//
//	logits               float32 [B, S, vocabulary]
//	present.N.key/value  F       [B, H, T, D]
//
// A token attends to those before it in the cache that attention_mask does not hide; where it stands
// for rotary embedding is position_ids' matter, so rows of a batch may be padded on the left.
//
// Weights that do not fit the configuration are reported as by CheckWeights.
func Build(c *Config, w Weights, o Options) (*ir.Model, error) {
	switch o.DType {
	case ir.Undefined:
		o.DType = ir.Float32
	case ir.Float32, ir.Float16, ir.BFloat16:
	default:
		return nil, fmt.Errorf("qwen3: cannot build a model in %v: want float32, float16 or bfloat16", o.DType)
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := CheckWeights(c, w); err != nil {
		return nil, err
	}
	m := ir.NewModel("qwen3", IRVersion, Opset)
	if c.Packed != nil {
		m.RequireOpset(microsoft, 1)
	}
	m.ProducerName = "qwenrt"
	b := &builder{
		cfg: c, weights: w, g: m.Graph, dtype: o.DType, level: cmp.Or(o.AccuracyLevel, 4),
		shared: map[string]*ir.Value{}, ordered: map[string]*ir.Value{},
	}
	b.model()
	if b.err != nil {
		return nil, fmt.Errorf("qwen3: %w", b.err)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("qwen3: %w", err)
	}
	return m, nil
}

// builder adds nodes to a graph. Its methods take the path of the node or module to add, as
// transformers names it, and give the result.
type builder struct {
	cfg     *Config
	weights Weights
	g       *ir.Graph
	dtype   ir.DType             // F
	level   int                  // accuracy level of products of packed weights
	ordered map[string]*ir.Value // activations in the order that packed weights want
	shared  map[string]*ir.Value // initializers by name: constants and weights are stored once
	err     error                // the first
}

func (b *builder) model() {
	ids := b.input(inputIDs, ir.Int64, ir.Sym(batchDim), ir.Sym(seqDim))
	mask := b.input(maskInput, ir.Int64, ir.Sym(batchDim), ir.Sym(totalDim))
	pos := b.input(positions, ir.Int64, ir.Sym(batchDim), ir.Sym(seqDim))
	past := make([]cache, b.cfg.NumLayers)
	for i := range past {
		past[i] = cache{b.cacheInput(i, "key"), b.cacheInput(i, "value")}
	}

	h := b.op("Gather", "/model/embed_tokens/Gather", b.weight(embedName), ids)
	shared := attentionInputs{rotary: b.rotaryTable(pos), bias: b.attentionBias(ids, mask)}
	present := make([]cache, b.cfg.NumLayers)
	for i := range b.cfg.NumLayers {
		h, present[i] = b.layer(i, h, past[i], shared)
	}
	h = b.rmsNorm("/model/norm", h, normName)

	b.output(b.logits(h), ir.Float32, ir.Sym(batchDim), ir.Sym(seqDim), ir.Fixed(int64(b.cfg.VocabSize)))
	for _, p := range present {
		b.cacheOutput(p.key)
		b.cacheOutput(p.value)
	}
}

func (b *builder) layer(i int, h *ir.Value, past cache, in attentionInputs) (*ir.Value, cache) {
	path, weights := "/model/layers."+strconv.Itoa(i), layerPrefix(i)
	x := b.rmsNorm(path+"/input_layernorm", h, weights+"input_layernorm.weight")
	a, present := b.attention(i, path+"/self_attn", weights+"self_attn.", x, past, in)
	h = b.op("Add", path+"/Add", h, a)
	x = b.rmsNorm(path+"/post_attention_layernorm", h, weights+"post_attention_layernorm.weight")
	return b.op("Add", path+"/Add_1", h, b.mlp(path+"/mlp", weights+"mlp.", x)), present
}

// mlp is SwiGLU: down(silu(gate(x)) · up(x)), silu(g) = g · sigmoid(g).
func (b *builder) mlp(path, weights string, x *ir.Value) *ir.Value {
	m := b.openMLP(weights)
	gate := b.product(path+"/gate_proj", x, weights+"gate_proj", m.gate)
	up := b.product(path+"/up_proj", x, weights+"up_proj", m.up)
	silu := b.op("Mul", path+"/act_fn/Mul", gate, b.op("Sigmoid", path+"/act_fn/Sigmoid", gate))
	return b.product(path+"/down_proj", b.op("Mul", path+"/Mul", silu, up), weights+"down_proj", m.down)
}

// logits are float32 whatever F is: sampling compares and exponentiates them.
func (b *builder) logits(h *ir.Value) *ir.Value {
	if head := b.openHead(); head != nil {
		narrow := b.product("/lm_head", h, "lm_head", head)
		return b.named("Cast", "/lm_head/Cast", logitsOut, []*ir.Value{narrow}, castTo(ir.Float32))
	}
	var w *ir.Value
	if b.cfg.TiedEmbeddings { // one stored matrix for both ends of the model
		w = b.g.Op("Transpose", "/lm_head/Transpose", []*ir.Value{b.weight(embedName)}, ir.Ints("perm", 1, 0))
	} else {
		w = b.transposed(headName)
	}
	if b.dtype == ir.Float32 {
		return b.named("MatMul", "/lm_head/MatMul", logitsOut, []*ir.Value{h, w})
	}
	narrow := b.op("MatMul", "/lm_head/MatMul", h, w)
	return b.named("Cast", "/lm_head/Cast", logitsOut, []*ir.Value{narrow}, castTo(ir.Float32))
}

// rmsNorm is x / sqrt(mean(x²) + eps) · w over the last axis; the part before w in float32.
func (b *builder) rmsNorm(path string, x *ir.Value, weight string) *ir.Value {
	x = b.cast(path+"/Cast", x, b.dtype, ir.Float32)
	square := b.op("Pow", path+"/Pow", x, b.float("two", 2))
	mean := b.g.Op("ReduceMean", path+"/ReduceMean", []*ir.Value{square, b.ints("axes.last", -1)}, ir.Int("keepdims", 1))
	root := b.op("Sqrt", path+"/Sqrt", b.op("Add", path+"/Add", mean, b.float("rms_norm_eps", b.cfg.RMSNormEps)))
	x = b.op("Mul", path+"/Mul", x, b.op("Reciprocal", path+"/Reciprocal", root))
	x = b.cast(path+"/Cast_1", x, ir.Float32, b.dtype)
	return b.op("Mul", path+"/Mul_1", x, b.weight(weight))
}

// linear is x · W, for a weight that the checkpoint stores as [out, in].
func (b *builder) linear(path string, x *ir.Value, weight string) *ir.Value {
	module := strings.TrimSuffix(weight, ".weight")
	return b.product(path, x, module, b.open(module))
}

func (b *builder) op(op, name string, inputs ...*ir.Value) *ir.Value { return b.g.Op(op, name, inputs) }

// named is op for a result that is an output of the graph.
func (b *builder) named(op, name, result string, inputs []*ir.Value, attrs ...*ir.Attr) *ir.Value {
	return b.g.Add(ir.NodeSpec{Op: op, Name: name, Inputs: inputs, Outputs: []string{result}, Attrs: attrs}).Output(0)
}

// cast is x in another type, x itself where that is its own.
func (b *builder) cast(name string, x *ir.Value, from, to ir.DType) *ir.Value {
	if from == to {
		return x
	}
	return b.g.Op("Cast", name, []*ir.Value{x}, castTo(to))
}

func castTo(d ir.DType) *ir.Attr { return ir.Int("to", int64(d)) }

// weight is a tensor of the checkpoint in F, in the order in which it is stored.
func (b *builder) weight(name string) *ir.Value {
	return b.stored(name, func(t *ir.Tensor) (*ir.Tensor, error) { return t, nil })
}

// transposed is a matrix of the checkpoint in F as MatMul takes it, [in, out].
func (b *builder) transposed(name string) *ir.Value { return b.stored(name, ir.Transpose) }

func (b *builder) stored(name string, view func(*ir.Tensor) (*ir.Tensor, error)) *ir.Value {
	return b.initializer(name, func() (*ir.Tensor, error) {
		t, err := lazy(b.weights, name)
		if err != nil {
			return nil, err
		}
		if t, err = view(t); err != nil {
			return nil, err
		}
		return ir.Cast(t, b.dtype)
	})
}

func (b *builder) initializer(name string, make func() (*ir.Tensor, error)) *ir.Value {
	if v := b.shared[name]; v != nil {
		return v
	}
	t, err := make()
	if err != nil {
		if b.err == nil {
			b.err = fmt.Errorf("tensor %s: %w", name, err)
		}
		t = ir.Float32Scalar(0) // never seen: Build fails
	}
	v := b.g.AddInitializer(name, t)
	b.shared[name] = v
	return v
}

// ints is a constant vector, such as a shape or a list of axes.
func (b *builder) ints(name string, v ...int64) *ir.Value {
	return b.initializer("constants."+name, func() (*ir.Tensor, error) { return ir.Int64Tensor(v), nil })
}

// scalar is an integer constant of rank 0.
func (b *builder) scalar(name string, v int64) *ir.Value {
	return b.initializer("constants."+name, func() (*ir.Tensor, error) { return ir.Int64Scalar(v), nil })
}

// float is a float32 constant of rank 0.
func (b *builder) float(name string, v float64) *ir.Value {
	return b.initializer("constants."+name, func() (*ir.Tensor, error) { return ir.Float32Scalar(float32(v)), nil })
}

// floatF is a constant of rank 0 in F.
func (b *builder) floatF(name string, v float64) *ir.Value {
	return b.initializer("constants."+name, func() (*ir.Tensor, error) {
		return ir.Cast(ir.Float32Scalar(float32(v)), b.dtype)
	})
}

func (b *builder) input(name string, d ir.DType, shape ...ir.Dim) *ir.Value {
	return b.g.AddInput(name, ir.TensorType(d, shape...))
}

func (b *builder) output(v *ir.Value, d ir.DType, shape ...ir.Dim) {
	v.Type = ir.TensorType(d, shape...)
	b.g.AddOutput(v)
}
