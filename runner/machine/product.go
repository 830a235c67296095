package machine

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/ort"
)

// Weights is how the weights of products are stored, and with that which kernel computes them.
type Weights string

// The kinds of weights that MeasureProduct knows.
const (
	Float32     Weights = "fp32"         // MatMul
	Int8        Weights = "int8"         // MatMulNBits with 8 bits, symmetric, accuracy level 4
	Int4        Weights = "int4"         // MatMulNBits with 4 bits, symmetric, accuracy level 4
	DynamicInt8 Weights = "dynamic_int8" // DynamicQuantizeMatMul, one scale a column
)

// Rate is what a product kernel reaches, in weights times rows per second: a model with w weights in its products takes
// w/Decode seconds of them for a token, and n·w/Prefill for n tokens of a prompt.
type Rate struct {
	Decode  float64 `json:"decode"`  // one row
	Prefill float64 `json:"prefill"` // prefillRows rows
}

const (
	// side of the square matrices: large enough that starting a product costs nothing beside it.
	side = 2048
	// measuredBytes of weights are read in turn: more than the caches of a CPU hold for a few of its cores.
	measuredBytes = 96 << 20
	prefillRows   = 64
)

// MeasureProduct measures products with weights in blocks of the given size (Int4 and Int8 only), in a third of a second.
// Times are the least of some runs: what the kernel can do when nobody disturbs it.
func MeasureProduct(ctx context.Context, w Weights, block, threads int) (Rate, error) {
	m, count, err := productModel(w, block)
	if err != nil {
		return Rate{}, fmt.Errorf("machine: %w", err)
	}
	r, err := newRun(m, threads)
	if err != nil {
		return Rate{}, fmt.Errorf("machine: products of %s: %w", w, err)
	}
	defer r.close()
	one, err := r.products(ctx, 1, 4)
	if err != nil {
		return Rate{}, err
	}
	many, err := r.products(ctx, prefillRows, 1)
	if err != nil {
		return Rate{}, err
	}
	weights := float64(count) * side * side
	return Rate{Decode: weights / one.Seconds(), Prefill: prefillRows * weights / many.Seconds()}, nil
}

// productModel is a chain of products: x[rows, side] → y[rows, side].
func productModel(w Weights, block int) (m *ir.Model, count int, err error) {
	m = ir.NewModel("products", 10, 21)
	m.RequireOpset("com.microsoft", 1)
	g := m.Graph
	x := g.AddInput("x", ir.TensorType(ir.Float32, ir.Sym("rows"), ir.Fixed(side)))
	b := &builder{g: g}
	var product func(x *ir.Value) *ir.Value
	switch w {
	case Float32:
		product, count = b.float, measuredBytes/(4*side*side)
	case DynamicInt8:
		product, count = b.dynamic, measuredBytes/(side*side)
	case Int4, Int8:
		bits := map[Weights]int{Int4: 4, Int8: 8}[w]
		if block < 16 || block > 256 || block&(block-1) != 0 {
			return nil, 0, fmt.Errorf("block size %d: it must be 16, 32, 64, 128 or 256", block)
		}
		product = func(x *ir.Value) *ir.Value { return b.blocks(x, bits, block) }
		count = measuredBytes * 8 / (bits * side * side)
	default:
		return nil, 0, fmt.Errorf("weights %q are not measured: want %s, %s, %s or %s", w, Float32, Int8, Int4, DynamicInt8)
	}
	for range count {
		x = product(x)
	}
	g.AddOutput(x)
	return m, count, b.err
}

// builder adds products with weights of no meaning.
type builder struct {
	g      *ir.Graph
	random []byte
	used   int   // times that bytes was called
	err    error // the first
}

// bytes are random, and others each time: ONNX Runtime keeps equal weights once, which would then stay in the CPU's caches.
func (b *builder) bytes(n int) []byte {
	if b.random == nil {
		b.random = make([]byte, 0, 2*side*side)
		for r := rand.New(rand.NewPCG(1, 2)); len(b.random) < cap(b.random); {
			b.random = binary.LittleEndian.AppendUint64(b.random, r.Uint64())
		}
	}
	b.used++
	return b.random[64*b.used:][:n]
}

func (b *builder) tensor(name string, t ir.DType, raw []byte, shape ...int64) *ir.Value {
	x, err := ir.NewTensor(t, shape, ir.NewBuffer(raw))
	if err != nil && b.err == nil {
		b.err = err
	}
	return b.g.AddInitializer(b.g.Fresh(name), x)
}

// scales keep what flows through the chain near 1, so that no product meets infinities or denormal numbers.
func (b *builder) scales(n int, v float32) *ir.Value {
	all := make([]float32, n)
	for i := range all {
		all[i] = v
	}
	return b.g.AddInitializer(b.g.Fresh("scales"), ir.Float32Tensor(all, int64(n)))
}

func (b *builder) float(x *ir.Value) *ir.Value {
	all := make([]float32, side*side)
	for i, v := range b.bytes(len(all)) {
		all[i] = (float32(v) - 127.5) / 4096
	}
	w := b.g.AddInitializer(b.g.Fresh("w"), ir.Float32Tensor(all, side, side))
	return b.g.Op("MatMul", "product", []*ir.Value{x, w})
}

func (b *builder) blocks(x *ir.Value, bits, block int) *ir.Value {
	blocks, blob := side/block, block*bits/8
	w := b.tensor("w", ir.Uint8, b.bytes(side*blocks*blob), side, int64(blocks), int64(blob))
	scale := float32(0.005)
	if bits == 8 {
		scale /= 16
	}
	return b.g.Add(ir.NodeSpec{
		Op: "MatMulNBits", Domain: "com.microsoft", Inputs: []*ir.Value{x, w, b.scales(side*blocks, scale)},
		Attrs: []*ir.Attr{
			ir.Int("K", side), ir.Int("N", side), ir.Int("bits", int64(bits)),
			ir.Int("block_size", int64(block)), ir.Int("accuracy_level", 4),
		},
	}).Output(0)
}

func (b *builder) dynamic(x *ir.Value) *ir.Value {
	w := b.tensor("w", ir.Int8, b.bytes(side*side), side, side)
	return b.g.Add(ir.NodeSpec{
		Op: "DynamicQuantizeMatMul", Domain: "com.microsoft", Inputs: []*ir.Value{x, w, b.scales(side, 0.0003)},
	}).Output(0)
}

// products is the time of a run with some rows.
func (r *run) products(ctx context.Context, rows int64, runs int) (time.Duration, error) {
	x, err := r.tensor("x", ort.Float32, rows, side)
	if err != nil {
		return 0, err
	}
	if err := r.binding.BindInput("x", x); err != nil {
		return 0, err
	}
	if err := r.binding.BindOutputToDevice(r.session.Outputs()[0].Name, "Cpu", 0); err != nil {
		return 0, err
	}
	return r.least(ctx, runs)
}
