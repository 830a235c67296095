package qwen3

import (
	"fmt"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// cache is the keys and values of one layer, [B, KV heads, length, head size].
type cache struct{ key, value *ir.Value }

// attentionInputs is what all layers share.
type attentionInputs struct {
	rotary rotary
	bias   *ir.Value // [B, 1, S, T], added to scores: 0, or so low that softmax gives 0
}

// rotary is the table of rotary embedding at the positions of this run, [B, 1, S, head size].
type rotary struct{ cos, sin *ir.Value }

func (b *builder) cacheInput(layer int, what string) *ir.Value {
	return b.input(fmt.Sprintf("past_key_values.%d.%s", layer, what), b.dtype, b.cacheShape(pastDim)...)
}

func (b *builder) cacheOutput(v *ir.Value) { b.output(v, b.dtype, b.cacheShape(totalDim)...) }

func (b *builder) cacheShape(length string) []ir.Dim {
	c := b.cfg
	return []ir.Dim{ir.Sym(batchDim), ir.Fixed(int64(c.NumKVHeads)), ir.Sym(length), ir.Fixed(int64(c.HeadDim))}
}

func (b *builder) attention(layer int, path, weights string, x *ir.Value, past cache, in attentionInputs) (*ir.Value, cache) {
	c := b.cfg
	q := b.heads(path+"/q_proj", x, weights+"q_proj.weight", "q", c.NumHeads)
	k := b.heads(path+"/k_proj", x, weights+"k_proj.weight", "kv", c.NumKVHeads)
	v := b.heads(path+"/v_proj", x, weights+"v_proj.weight", "kv", c.NumKVHeads)
	q = b.rmsNorm(path+"/q_norm", q, weights+"q_norm.weight")
	k = b.rmsNorm(path+"/k_norm", k, weights+"k_norm.weight")
	q = b.rotate(path+"/q_rotary", b.swap(path+"/q/Transpose", q), in.rotary)
	k = b.rotate(path+"/k_rotary", b.swap(path+"/k/Transpose", k), in.rotary)
	v = b.swap(path+"/v/Transpose", v)

	present := cache{
		key:   b.extend(path+"/key_cache/Concat", past.key, k, fmt.Sprintf("present.%d.key", layer)),
		value: b.extend(path+"/value_cache/Concat", past.value, v, fmt.Sprintf("present.%d.value", layer)),
	}
	a := b.attend(path, q, b.repeat(path+"/repeat_k", present.key), b.repeat(path+"/repeat_v", present.value), in.bias)
	joined := b.ints("shape.joined", 0, 0, int64(c.NumHeads*c.HeadDim))
	a = b.op("Reshape", path+"/Reshape", b.swap(path+"/Transpose", a), joined)
	return b.linear(path+"/o_proj", a, weights+"o_proj.weight"), present
}

// attend is softmax(q·kᵀ / sqrt(head size) + bias)·v.
func (b *builder) attend(path string, q, k, v, bias *ir.Value) *ir.Value {
	k = b.g.Op("Transpose", path+"/k/Transpose_1", []*ir.Value{k}, ir.Ints("perm", 0, 1, 3, 2))
	scale := b.floatF("scale", 1/math.Sqrt(float64(b.cfg.HeadDim)))
	scores := b.op("Mul", path+"/Mul", b.op("MatMul", path+"/MatMul", q, k), scale)
	return b.op("MatMul", path+"/MatMul_1", b.softmax(path, b.op("Add", path+"/Add", scores, bias)), v)
}

// heads projects x and splits the result, [B, S, n, head size].
func (b *builder) heads(path string, x *ir.Value, weight, kind string, n int) *ir.Value {
	shape := b.ints("shape.heads."+kind, 0, 0, int64(n), int64(b.cfg.HeadDim)) // 0: as in the input
	return b.op("Reshape", path+"/Reshape", b.linear(path, x, weight), shape)
}

// swap exchanges the axes of sequence and heads.
func (b *builder) swap(name string, x *ir.Value) *ir.Value {
	return b.g.Op("Transpose", name, []*ir.Value{x}, ir.Ints("perm", 0, 2, 1, 3))
}

// extend appends to the cache.
func (b *builder) extend(node string, past, x *ir.Value, result string) *ir.Value {
	return b.named("Concat", node, result, []*ir.Value{past, x}, ir.Int("axis", 2))
}

// repeat gives every query head a KV head: each is repeated for the query heads that share it
// (grouped-query attention, arXiv 2305.13245).
func (b *builder) repeat(path string, x *ir.Value) *ir.Value {
	share := b.cfg.NumHeads / b.cfg.NumKVHeads
	if share == 1 {
		return x
	}
	x = b.op("Unsqueeze", path+"/Unsqueeze", x, b.ints("axes.2", 2))
	x = b.op("Expand", path+"/Expand", x, b.ints("shape.repeat", 1, 1, int64(share), 1, 1))
	return b.op("Reshape", path+"/Reshape", x, b.ints("shape.repeated", 0, int64(b.cfg.NumHeads), -1, int64(b.cfg.HeadDim)))
}

func (b *builder) softmax(path string, scores *ir.Value) *ir.Value {
	scores = b.cast(path+"/Cast", scores, b.dtype, ir.Float32)
	p := b.g.Op("Softmax", path+"/Softmax", []*ir.Value{scores}, ir.Int("axis", -1))
	return b.cast(path+"/Cast_1", p, ir.Float32, b.dtype)
}

// rotate turns each pair (x[i], x[i+D/2]) by its angle: x·cos + (-x2, x1)·sin for halves x1, x2.
func (b *builder) rotate(path string, x *ir.Value, r rotary) *ir.Value {
	half, end := int64(b.cfg.HeadDim/2), int64(b.cfg.HeadDim)
	axis := b.ints("axes.3", 3)
	slice := func(name string, from, to *ir.Value) *ir.Value {
		return b.op("Slice", path+name, x, from, to, axis)
	}
	x1 := slice("/Slice", b.ints("bound.first", 0), b.ints("bound.half", half))
	x2 := slice("/Slice_1", b.ints("bound.half", half), b.ints("bound.end", end))
	turned := b.g.Op("Concat", path+"/Concat", []*ir.Value{b.op("Neg", path+"/Neg", x2), x1}, ir.Int("axis", -1))
	return b.op("Add", path+"/Add", b.op("Mul", path+"/Mul", x, r.cos), b.op("Mul", path+"/Mul_1", turned, r.sin))
}

// rotaryTable computes angles from positions rather than looking them up: the plain graph holds no
// table of the model's full context.
func (b *builder) rotaryTable(positions *ir.Value) rotary {
	const path = "/model/rotary_emb"
	freq := b.initializer("model.rotary_emb.inv_freq", func() (*ir.Tensor, error) {
		f := b.cfg.Rope.InvFreq(b.cfg.HeadDim)
		return ir.Float32Tensor(f, 1, 1, int64(len(f))), nil
	})
	p := b.cast(path+"/Cast", positions, ir.Int64, ir.Float32)
	angle := b.op("Mul", path+"/Mul", b.op("Unsqueeze", path+"/Unsqueeze", p, b.ints("axes.2", 2)), freq)
	angle = b.g.Op("Concat", path+"/Concat", []*ir.Value{angle, angle}, ir.Int("axis", -1))
	table := func(function, name string) *ir.Value {
		x := b.op(function, path+"/"+function, angle)
		if factor := b.cfg.Rope.AttentionFactor(); factor != 1 {
			x = b.op("Mul", path+"/"+name+"/Mul", x, b.float("attention_factor", factor))
		}
		x = b.cast(path+"/"+name+"/Cast", x, ir.Float32, b.dtype)
		return b.op("Unsqueeze", path+"/"+name+"/Unsqueeze", x, b.ints("axes.1", 1))
	}
	return rotary{cos: table("Cos", "cos"), sin: table("Sin", "sin")}
}

// attentionBias hides from each token those behind it and those that attention_mask hides. Order
// is order in the cache, not position_ids: these may repeat or jump where rows are padded.
func (b *builder) attentionBias(ids, mask *ir.Value) *ir.Value {
	const path = "/model/attention_bias"
	length := func(name string, x *ir.Value) *ir.Value {
		n := b.g.Op("Shape", path+name+"/Shape", []*ir.Value{x}, ir.Int("start", 1), ir.Int("end", 2))
		return b.op("Squeeze", path+name+"/Squeeze", n, b.ints("axes.0", 0))
	}
	zero, one := b.scalar("zero", 0), b.scalar("one", 1)
	total := length("/total", mask)
	past := b.op("Sub", path+"/Sub", total, length("/sequence", ids))
	query := b.op("Range", path+"/query/Range", past, total, one)
	key := b.op("Range", path+"/key/Range", zero, total, one)
	causal := b.op("LessOrEqual", path+"/LessOrEqual", // [S, T]
		b.op("Unsqueeze", path+"/key/Unsqueeze", key, b.ints("axes.0", 0)),
		b.op("Unsqueeze", path+"/query/Unsqueeze", query, b.ints("axes.1", 1)))
	visible := b.op("Unsqueeze", path+"/mask/Unsqueeze", // [B, 1, 1, T]
		b.cast(path+"/mask/Cast", mask, ir.Int64, ir.Bool), b.ints("axes.1_2", 1, 2))
	allowed := b.op("And", path+"/And", causal, visible)
	return b.op("Where", path+"/Where", allowed, b.floatF("allowed", 0), b.floatF("hidden", hiddenBias(b.dtype)))
}

// hiddenBias is what hides a score: the lowest finite number, so that a row in which everything is
// hidden (padding on the left) stays free of NaN. To the lowest float16, -65504, a score of -16
// would already add up to -Inf, so there it is half of that.
func hiddenBias(d ir.DType) float64 {
	switch d {
	case ir.Float16:
		return -32768
	case ir.BFloat16:
		return -0x1.FEp127
	}
	return -math.MaxFloat32
}
