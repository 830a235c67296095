package machine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// Shape is that of a decoder layer.
type Shape struct {
	Hidden, Heads, KVHeads, HeadDim, Intermediate int64
}

func (s Shape) validate() error {
	const most = 1 << 20 // of any of them
	for _, n := range []int64{s.Hidden, s.Heads, s.KVHeads, s.HeadDim, s.Intermediate} {
		if n <= 0 || n > most {
			return fmt.Errorf("a layer of %+v: sizes must be positive, and at most %d", s, most)
		}
	}
	if s.Heads%s.KVHeads != 0 || s.HeadDim%16 != 0 {
		return fmt.Errorf("a layer of %+v: heads must be a multiple of KV heads, the head size of 16", s)
	}
	return nil
}

// Cache is the type of the KV cache.
type Cache string

// The types. MeasureRest knows the first two.
const (
	CacheFloat32 Cache = "fp32"
	CacheInt8    Cache = "int8" // with a scale for each channel
	CacheFloat16 Cache = "fp16"
)

// Bytes is the size of a number.
func (c Cache) Bytes() float64 {
	switch c {
	case CacheInt8:
		return 1
	case CacheFloat16:
		return 2
	}
	return 4
}

// Rest is what a layer takes beside its products: norms, rotary embedding, attention and activation function.
type Rest struct {
	// Decode is the time of one token with next to nothing in the cache, and DecodeKV what each cached token adds.
	Decode, DecodeKV time.Duration
	// Prefill is the time for each of restRows tokens behind nothing.
	Prefill time.Duration
}

const (
	restLayers = 4
	restRows   = 256
	restPast   = 2048 // tokens: the caches of restLayers layers are then larger than those of a few cores
)

// MeasureRest measures a layer's operators other than products, in about a quarter of a second.
func MeasureRest(ctx context.Context, s Shape, c Cache, threads int) (Rest, error) {
	fail := func(err error) (Rest, error) { return Rest{}, fmt.Errorf("machine: %w", err) }
	if err := s.validate(); err != nil {
		return fail(err)
	}
	if c != CacheFloat32 && c != CacheInt8 {
		return fail(fmt.Errorf("a cache in %s: not measured: want %s or %s", c, CacheFloat32, CacheInt8))
	}
	r, err := newRun(restModel(s, c), threads)
	if err != nil {
		return fail(err)
	}
	defer r.close()
	step := func(rows, past int64, runs int) (time.Duration, error) {
		if err := r.bindRest(rows, past); err != nil {
			return 0, err
		}
		d, err := r.median(ctx, runs)
		return d / restLayers, err
	}
	short, err := step(1, 1, 20)
	if err != nil {
		return fail(err)
	}
	long, err := step(1, restPast, 5)
	if err != nil {
		return fail(err)
	}
	prompt, err := step(restRows, 0, 1)
	if err != nil {
		return fail(err)
	}
	return Rest{Decode: short, DecodeKV: max(0, long-short) / restPast, Prefill: prompt / restRows}, nil
}

// restModel is restLayers layers of Qwen3 as graphopt leaves them, with inputs in the place of products.
func restModel(s Shape, c Cache) *ir.Model {
	m := ir.NewModel("rest", 10, 21)
	m.RequireOpset("com.microsoft", 1)
	g := m.Graph
	input := func(name string, t ir.DType, dims ...ir.Dim) *ir.Value {
		return g.AddInput(name, ir.TensorType(t, dims...))
	}
	row := func(name string, width int64) *ir.Value {
		return input(name, ir.Float32, ir.Fixed(1), ir.Sym("rows"), ir.Fixed(width))
	}
	x, q, k, v := row("x", s.Hidden), row("q", s.Heads*s.HeadDim), row("k", s.KVHeads*s.HeadDim), row("v", s.KVHeads*s.HeadDim)
	gate, up := row("gate", s.Intermediate), row("up", s.Intermediate)
	lengths := input("seqlens_k", ir.Int32, ir.Fixed(1))
	total := input("total", ir.Int32)
	table := input("table", ir.Float32, ir.Fixed(restPast+restRows), ir.Fixed(s.HeadDim/2))
	ones := func(name string, n int64) *ir.Value {
		return g.AddInitializer(name, ir.Float32Tensor(fill(n, 1), n))
	}
	hidden, head := ones("hidden_weight", s.Hidden), ones("head_weight", s.HeadDim)
	toHeads := g.AddInitializer("to_heads", ir.Int64Tensor([]int64{0, -1, s.HeadDim}, 3))
	norm := func(x *ir.Value, width int64) *ir.Value {
		flat := g.AddInitializer(g.Fresh("flat"), ir.Int64Tensor([]int64{0, -1, width}, 3))
		x = g.Op("Reshape", "heads", []*ir.Value{x, toHeads})
		x = g.Op("SimplifiedLayerNormalization", "norm", []*ir.Value{x, head}, ir.Int("axis", -1), ir.Float("epsilon", 1e-6))
		return g.Op("Reshape", "flat", []*ir.Value{x, flat})
	}
	skip := func(x, y *ir.Value) *ir.Value {
		return g.Add(ir.NodeSpec{
			Op: "SkipSimplifiedLayerNormalization", Domain: "com.microsoft", Inputs: []*ir.Value{x, y, hidden},
			Outputs: []string{"norm", "", "", "sum"}, Attrs: []*ir.Attr{ir.Float("epsilon", 1e-6)},
		}).Output(3)
	}
	dtype := ir.Float32
	attrs := []*ir.Attr{ir.Int("num_heads", s.Heads), ir.Int("kv_num_heads", s.KVHeads), ir.Int("do_rotary", 1)}
	var scales []*ir.Value
	if c == CacheInt8 {
		dtype = ir.Int8
		attrs = append(attrs, ir.Str("k_quant_type", "PER_CHANNEL"), ir.Str("v_quant_type", "PER_CHANNEL"), ir.Int("kv_cache_bit_width", 8))
		scale := g.AddInitializer("cache_scale", ir.Float32Tensor(fill(s.KVHeads*s.HeadDim, 1.0/64), 1, s.KVHeads, 1, s.HeadDim))
		scales = []*ir.Value{nil, nil, nil, scale, scale}
	}
	for i := range restLayers {
		x = skip(x, x)
		cache := func(part string) *ir.Value {
			return input(fmt.Sprintf("past.%d.%s", i, part), dtype, ir.Fixed(1), ir.Fixed(s.KVHeads), ir.Fixed(restPast+restRows), ir.Fixed(s.HeadDim))
		}
		n := g.Add(ir.NodeSpec{
			Op: "GroupQueryAttention", Domain: "com.microsoft",
			Inputs: append([]*ir.Value{norm(q, s.Heads*s.HeadDim), norm(k, s.KVHeads*s.HeadDim), v, cache("key"), cache("value"), lengths, total, table, table},
				scales...),
			Outputs: []string{"attention", fmt.Sprintf("present.%d.key", i), fmt.Sprintf("present.%d.value", i)},
			Attrs:   attrs,
		})
		for _, v := range n.Outputs() {
			g.AddOutput(v)
		}
		x = skip(x, x)
		act := g.Add(ir.NodeSpec{Op: "QuickGelu", Domain: "com.microsoft", Inputs: []*ir.Value{gate}, Attrs: []*ir.Attr{ir.Float("alpha", 1)}}).Output(0)
		g.AddOutput(g.Op("Mul", "mlp", []*ir.Value{act, up}))
	}
	g.AddOutput(x)
	return m
}

// bindRest binds rows new tokens behind past cached ones.
func (r *run) bindRest(rows, past int64) error {
	if err := r.binding.Clear(); err != nil {
		return err
	}
	for _, in := range r.session.Inputs() {
		shape := slices.Clone(in.Shape)
		for i, d := range shape {
			if d < 0 {
				shape[i] = rows
			}
		}
		t, err := r.tensor(in.Name, in.DType, shape...)
		if err != nil {
			return err
		}
		switch in.Name {
		case "seqlens_k":
			ort.Data[int32](t)[0] = int32(past + rows - 1)
		case "total":
			ort.Data[int32](t)[0] = int32(past + rows)
		}
		if err := r.binding.BindInput(in.Name, t); err != nil {
			return err
		}
		if which, ok := strings.CutPrefix(in.Name, "past."); ok { // in place, as the runner does it
			if err := r.binding.BindOutput("present."+which, t); err != nil {
				return err
			}
		}
	}
	for _, out := range r.session.Outputs() {
		if !strings.HasPrefix(out.Name, "present.") {
			if err := r.binding.BindOutputTo(out.Name, ort.Location{}); err != nil {
				return err
			}
		}
	}
	return nil
}
