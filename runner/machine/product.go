package machine

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/klauspost/cpuid/v2"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// Weights is how the weights of products are stored, and with that which kernel computes them.
type Weights string

// The kinds of weights that MeasureProducts knows.
const (
	Float32     Weights = "fp32"         // MatMul
	Int8        Weights = "int8"         // MatMulNBits with 8 bits, symmetric, accuracy level 4
	Int4        Weights = "int4"         // MatMulNBits with 4 bits, symmetric, accuracy level 4
	DynamicInt8 Weights = "dynamic_int8" // DynamicQuantizeMatMul, one scale a column
	StaticInt8  Weights = "static_int8"  // QuantizeLinear, DequantizeLinear and MatMul, which become MatMulIntegerToFloat
)

// Rate is what a product kernel reaches, in weights times rows per second: a model with w weights in its products takes
// w/Decode seconds of them for a token, and n·w/Prefill for n tokens of a prompt.
type Rate struct {
	Decode  float64 `json:"decode"`  // one row at a time
	Prefill float64 `json:"prefill"` // many
}

// Matrix is the shape of a product's weights.
type Matrix struct{ In, Out int64 }

// Products are the matrices of a layer as graphopt leaves them: q, k and v joined, o, gate and up joined, down.
func (s Shape) Products() []Matrix {
	return []Matrix{
		{s.Hidden, (s.Heads + 2*s.KVHeads) * s.HeadDim},
		{s.Heads * s.HeadDim, s.Hidden},
		{s.Hidden, 2 * s.Intermediate},
		{s.Intermediate, s.Hidden},
	}
}

const (
	// prefillRows are enough for kernels to be at their full speed; products of integers, which are much faster and
	// share their work by rows, want integerRows.
	prefillRows = 64
	integerRows = 256
	// maxSide cuts large matrices down: beyond it the time of a product is in proportion to its weights.
	maxSide = 4096
)

// measuredBytes of weights are read in turn: more than the last cache of the CPU holds, within reason.
func measuredBytes() int64 {
	return int64(min(max(cpuid.CPU.Cache.L3*3/2, 48<<20), 256<<20))
}

// MeasureProducts measures the products of layers of shape s, with weights in blocks of the given size (Int4 and Int8
// only), in about a third of a second. Times are the median of some runs.
func MeasureProducts(ctx context.Context, s Shape, w Weights, block, threads int) (Rate, error) {
	fail := func(err error) (Rate, error) { return Rate{}, fmt.Errorf("machine: products of %s: %w", w, err) }
	if err := s.validate(); err != nil {
		return fail(err)
	}
	m, weights, err := productModel(s, w, block)
	if err != nil {
		return fail(err)
	}
	r, err := newRun(m, threads)
	if err != nil {
		return fail(err)
	}
	defer r.close()
	one, err := r.products(ctx, 1, 5)
	if err != nil {
		return fail(err)
	}
	rows := int64(prefillRows)
	if w == DynamicInt8 || w == StaticInt8 {
		rows = integerRows
	}
	many, err := r.products(ctx, rows, 1)
	if err != nil {
		return fail(err)
	}
	return Rate{Decode: weights / one.Seconds(), Prefill: float64(rows) * weights / many.Seconds()}, nil
}

// productModel multiplies its inputs x.K[rows, K] with the matrices of some layers, and counts their weights.
func productModel(s Shape, w Weights, block int) (m *ir.Model, weights float64, err error) {
	m = ir.NewModel("products", 10, 21)
	m.RequireOpset("com.microsoft", 1)
	b := &builder{g: m.Graph}
	var product func(x *ir.Value, m Matrix) *ir.Value
	bits := int64(8)
	switch w {
	case Float32:
		product, bits = b.float, 32
	case DynamicInt8:
		product = b.dynamic
	case StaticInt8:
		product = b.static
	case Int4, Int8:
		if w == Int4 {
			bits = 4
		}
		if block < 16 || block > 256 || block&(block-1) != 0 {
			return nil, 0, fmt.Errorf("block size %d: it must be 16, 32, 64, 128 or 256", block)
		}
		product = func(x *ir.Value, m Matrix) *ir.Value { return b.blocks(x, m, bits, int64(block)) }
	default:
		return nil, 0, fmt.Errorf("not measured: want %s, %s, %s, %s or %s", Float32, Int8, Int4, DynamicInt8, StaticInt8)
	}
	inputs := map[int64]*ir.Value{}
	for done := int64(0); done*bits/8 < measuredBytes(); {
		for _, p := range s.Products() {
			p = Matrix{min(p.In, maxSide), min(p.Out, maxSide)}
			if inputs[p.In] == nil {
				inputs[p.In] = m.Graph.AddInput(fmt.Sprintf("x.%d", p.In), ir.TensorType(ir.Float32, ir.Sym("rows"), ir.Fixed(p.In)))
			}
			m.Graph.AddOutput(product(inputs[p.In], p))
			done += p.In * p.Out
		}
		weights = float64(done)
	}
	return m, weights, b.err
}

// builder adds products with weights of no meaning.
type builder struct {
	g      *ir.Graph
	random []byte
	used   int   // times that bytes was called
	err    error // the first
}

// bytes are random, and others each time: ONNX Runtime keeps equal weights once, which would then stay in the CPU's caches.
func (b *builder) bytes(n int64) []byte {
	if b.random == nil {
		b.random = make([]byte, 0, maxSide*maxSide+1<<20)
		for r := rand.New(rand.NewPCG(1, 2)); len(b.random) < cap(b.random); {
			b.random = binary.LittleEndian.AppendUint64(b.random, r.Uint64())
		}
	}
	b.used++
	return b.random[b.used*64%(1<<20):][:n]
}

func (b *builder) tensor(name string, t ir.DType, raw []byte, shape ...int64) *ir.Value {
	x, err := ir.NewTensor(t, shape, ir.NewBuffer(raw))
	if err != nil && b.err == nil {
		b.err = err
	}
	return b.g.AddInitializer(b.g.Fresh(name), x)
}

// scales are so small that results stay near 1.
func (b *builder) scales(n int64, v float32) *ir.Value {
	return b.g.AddInitializer(b.g.Fresh("scales"), ir.Float32Tensor(fill(n, v), n))
}

func fill(n int64, v float32) []float32 {
	all := make([]float32, n)
	for i := range all {
		all[i] = v
	}
	return all
}

func (b *builder) float(x *ir.Value, m Matrix) *ir.Value {
	all := make([]float32, m.In*m.Out)
	for i, v := range b.bytes(m.In * m.Out) {
		all[i] = (float32(v) - 127.5) / 4096
	}
	w := b.g.AddInitializer(b.g.Fresh("w"), ir.Float32Tensor(all, m.In, m.Out))
	return b.g.Op("MatMul", "product", []*ir.Value{x, w})
}

func (b *builder) blocks(x *ir.Value, m Matrix, bits, block int64) *ir.Value {
	blocks, blob := (m.In+block-1)/block, block*bits/8
	w := b.tensor("w", ir.Uint8, b.bytes(m.Out*blocks*blob), m.Out, blocks, blob)
	return b.g.Add(ir.NodeSpec{
		Op: "MatMulNBits", Domain: "com.microsoft", Inputs: []*ir.Value{x, w, b.scales(m.Out*blocks, 0.001)},
		Attrs: []*ir.Attr{
			ir.Int("K", m.In), ir.Int("N", m.Out), ir.Int("bits", bits),
			ir.Int("block_size", block), ir.Int("accuracy_level", 4),
		},
	}).Output(0)
}

func (b *builder) dynamic(x *ir.Value, m Matrix) *ir.Value {
	w := b.tensor("w", ir.Int8, b.bytes(m.In*m.Out), m.In, m.Out)
	return b.g.Add(ir.NodeSpec{
		Op: "DynamicQuantizeMatMul", Domain: "com.microsoft", Inputs: []*ir.Value{x, w, b.scales(m.Out, 0.0003)},
	}).Output(0)
}

// static quantises x for each product anew, as a layer does: another scale each time keeps ONNX Runtime from doing it once.
func (b *builder) static(x *ir.Value, m Matrix) *ir.Value {
	quantise := func(op string, x, scale, zero *ir.Value, attrs ...*ir.Attr) *ir.Value {
		return b.g.Op(op, "quantised", []*ir.Value{x, scale, zero}, attrs...)
	}
	scale := b.g.AddInitializer(b.g.Fresh("scale"), ir.Float32Tensor([]float32{1.0/64 + float32(b.used)/(1<<20)}))
	zero := b.tensor("zero", ir.Uint8, []byte{128})
	x = quantise("DequantizeLinear", quantise("QuantizeLinear", x, scale, zero), scale, zero)
	w := b.tensor("w", ir.Int8, b.bytes(m.In*m.Out), m.In, m.Out)
	w = quantise("DequantizeLinear", w, b.scales(m.Out, 0.0003), b.tensor("zeros", ir.Int8, make([]byte, m.Out), m.Out), ir.Int("axis", 1))
	return b.g.Op("MatMul", "product", []*ir.Value{x, w})
}

// products is the time of a run with some rows.
func (r *run) products(ctx context.Context, rows int64, runs int) (time.Duration, error) {
	for _, in := range r.session.Inputs() {
		x, err := r.tensor(in.Name, ort.Float32, rows, in.Shape[1])
		if err != nil {
			return 0, err
		}
		if err := r.binding.BindInput(in.Name, x); err != nil {
			return 0, err
		}
	}
	for _, out := range r.session.Outputs() {
		if err := r.binding.BindOutputTo(out.Name, ort.Location{}); err != nil {
			return 0, err
		}
	}
	return r.median(ctx, runs)
}
