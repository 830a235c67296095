package quantize

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"sync"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// In the two INT8 modes products are computed in integers: weights have one scale for each output
// channel, activations one scale and zero point for the whole tensor, found while the model runs
// (DynamicInt8, by com.microsoft's DynamicQuantizeMatMul) or beforehand (StaticInt8, as QuantizeLinear
// and DequantizeLinear around the product, which ONNX Runtime fuses to MatMulIntegerToFloat). Both take
// weights as [K, N].

// Int8Weights is the range of levels that a weight with a scale for each output channel takes.
// Activations are unsigned in any case.
type Int8Weights string

// The ranges. On x86 ONNX Runtime multiplies unsigned activations with signed weights in pairs that
// are added in 16 bits where the CPU has no VNNI instructions; there full signed levels can saturate.
const (
	// SignedInt8 is -127 to 127: the fastest on CPUs with VNNI or AMX, and on ARM.
	SignedInt8 Int8Weights = "s8"
	// ReducedInt8 is -63 to 63, whose pairs fit 16 bits: as fast, one bit less exact.
	ReducedInt8 Int8Weights = "s7"
	// UnsignedInt8 is 1 to 255 around 128, equal to SignedInt8 in exact arithmetic: exact on every CPU,
	// at about half the speed on those that have VNNI.
	UnsignedInt8 Int8Weights = "u8"
)

// top is the largest level, counted from the middle.
func (r Int8Weights) top() float32 {
	if r == ReducedInt8 {
		return 63
	}
	return 127
}

// Int8Ranges lists what ParseInt8Weights takes.
func Int8Ranges() []Int8Weights { return []Int8Weights{SignedInt8, ReducedInt8, UnsignedInt8} }

// ParseInt8Weights reads a range of levels as a user writes it.
func ParseInt8Weights(s string) (Int8Weights, error) {
	return exported(parse("int8 weights", s, Int8Ranges()))
}

// Activation is how a tensor of activations is stored in 8 bits: x ≈ Scale * (q - Zero), q from 0 to
// 255.
type Activation struct {
	Scale float32
	Zero  uint8
}

// perChannel is the format of weights with a scale for each row.
var perChannel = Format{Bits: 8, Symmetric: true}

// The results of channels.
const (
	outColumns = iota // weights [K, N]
	outChannelScales
	channelOutputs
)

// channels quantises a matrix to 8 bits with a scale for each row, and transposes it.
type channels struct {
	name   string
	levels Int8Weights
	source *ir.Tensor // [n, k] of float32, float16 or bfloat16
	n, k   int64
	rows   int64 // of a shard
	stride int64 // every stride-th row is compared with its source
	errors []errorSums
}

// channelBytes bounds the packed weights of a shard. They are written in runs as long as the shard has
// rows, one for each input: short runs would cost a system call for a few bytes.
const channelBytes = 8 << 20

func newChannels(name string, source *ir.Tensor, levels Int8Weights) *channels {
	c := &channels{name: name, levels: levels, source: source, n: source.Shape[0], k: source.Shape[1]}
	c.rows = min(1024, max(1, channelBytes/c.k/rowTile)*rowTile)
	c.stride = max(1, c.n*c.k/measuredWeights)
	c.errors = make([]errorSums, c.Shards())
	return c
}

func (c *channels) data() []ir.Data { return ir.Produced(c, c.n*c.k, 4*c.n) }

// bytes is the size of the results, zero points included.
func (c *channels) bytes() int64 {
	if c.levels == UnsignedInt8 {
		return c.n * (c.k + 5)
	}
	return c.n * (c.k + 4)
}

// Shards implements ir.Producer.
func (c *channels) Shards() int { return int((c.n + c.rows - 1) / c.rows) }

// channelSpace is the memory in which a shard is quantised.
type channelSpace struct {
	source, tile, columns, scales []byte
	row                           []float32
}

var channelSpaces = sync.Pool{New: func() any { return new(channelSpace) }}

// Produce implements ir.Producer.
func (c *channels) Produce(shard int, out []io.WriterAt) error {
	first := int64(shard) * c.rows
	rows := min(c.rows, c.n-first)
	ws := channelSpaces.Get().(*channelSpace)
	defer channelSpaces.Put(ws)

	size := c.k * int64(c.source.DType.Bits()/8)
	resize(&ws.columns, rows*c.k)
	resize(&ws.scales, 4*rows)
	ws.row = slices.Grow(ws.row[:0], int(c.k))[:c.k]
	var sums errorSums
	for at := int64(0); at < rows; at += rowTile {
		n := min(rowTile, rows-at)
		source := resize(&ws.source, n*size)
		if _, err := c.source.Data.ReadAt(source, (first+at)*size); err != nil && err != io.EOF {
			return fmt.Errorf("quantize: read %s: %w", c.name, err)
		}
		tile := resize(&ws.tile, n*c.k)
		for r := range n {
			scale, err := c.row(tile[r*c.k:][:c.k], ws.row, source[r*size:][:size], first+at+r, &sums)
			if err != nil {
				return err
			}
			binary.LittleEndian.PutUint32(ws.scales[4*(at+r):], math.Float32bits(scale))
		}
		turn(ws.columns[at:], tile, int(n), int(c.k), int(rows))
	}
	c.errors[shard] = sums
	for k := range c.k {
		if _, err := out[outColumns].WriteAt(ws.columns[k*rows:][:rows], k*c.n+first); err != nil {
			return err
		}
	}
	_, err := out[outChannelScales].WriteAt(ws.scales, 4*first)
	return err
}

// turn writes a tile of rows of k bytes as columns of dst, whose rows are stride apart.
func turn(dst, tile []byte, rows, k, stride int) {
	r := 0
	for ; r+8 <= rows; r += 8 {
		t := tile[r*k:]
		t0, t1, t2, t3 := t[:k], t[k:][:k], t[2*k:][:k], t[3*k:][:k]
		t4, t5, t6, t7 := t[4*k:][:k], t[5*k:][:k], t[6*k:][:k], t[7*k:][:k]
		for i := range t0 {
			x := uint64(t0[i]) | uint64(t1[i])<<8 | uint64(t2[i])<<16 | uint64(t3[i])<<24 |
				uint64(t4[i])<<32 | uint64(t5[i])<<40 | uint64(t6[i])<<48 | uint64(t7[i])<<56
			binary.LittleEndian.PutUint64(dst[i*stride+r:], x)
		}
	}
	for ; r < rows; r++ {
		for i, b := range tile[r*k:][:k] {
			dst[i*stride+r] = b
		}
	}
}

// nearest added to a float32 between -2^22 and 2^22 leaves it rounded to nearest, ties to even, in the
// low bits.
const nearest = 3 << 22

// row quantises row n, which src holds in the source's type. w is memory for it.
func (c *channels) row(dst []byte, w []float32, src []byte, n int64, sums *errorSums) (scale float32, err error) {
	l := scan(w, src, c.source.DType)
	if !l.finite() {
		return 0, notFiniteRow(c.name, w, n)
	}
	hi, lo := l.bounds()
	scale = math.Float32frombits(max(hi, lo&^signBit)) / c.levels.top()
	recip := 1 / scale
	if math.Float32bits(recip)&^signBit >= infBits { // nothing but zeros, or next to it
		scale, recip = 1, 0
	}
	flip := uint8(0)
	if c.levels == UnsignedInt8 {
		flip = 0x80
	}
	dst = dst[:len(w)]
	for i, v := range w {
		// The conversion of the product keeps compilers from fusing it with the sum.
		dst[i] = uint8(math.Float32bits(float32(v*recip)+nearest)) ^ flip
	}
	if n%c.stride == 0 {
		for i, v := range w {
			d := float64(v) - float64(float32(int8(dst[i]^flip))*scale)
			sums.signal += float64(v) * float64(v)
			sums.noise += d * d
		}
		sums.count += int64(len(w))
	}
	return scale, nil
}

// zeroPoints are n zero points in the middle of the unsigned range.
func zeroPoints(n int64) *ir.Tensor {
	b := make([]byte, n)
	for i := range b {
		b[i] = 128
	}
	return &ir.Tensor{DType: ir.Uint8, Shape: []int64{n}, Data: ir.NewBuffer(b)}
}

// newChannelOperands adds the initializers of a weight with a scale for each output channel to g.
func newChannelOperands(g *ir.Graph, w *weight) (*operands, error) {
	c := w.c
	data := c.data()
	dtype := ir.Int8
	if c.levels == UnsignedInt8 {
		dtype = ir.Uint8
	}
	columns, err := ir.NewTensor(dtype, []int64{c.k, c.n}, data[outColumns])
	if err != nil {
		return nil, err
	}
	scales, err := ir.NewTensor(ir.Float32, []int64{c.n}, data[outChannelScales])
	if err != nil {
		return nil, err
	}
	o := &operands{
		product: g.AddInitializer(g.Fresh(w.name+"_Q8"), columns),
		scales:  g.AddInitializer(g.Fresh(w.name+"_scales"), scales),
	}
	w.levels = o.product
	if c.levels == UnsignedInt8 {
		o.zeros = g.AddInitializer(g.Fresh(w.name+"_zero_points"), zeroPoints(c.n))
	}
	return o, nil
}

// Integers are, by name of the initializer that holds their levels, the weights whose products are computed
// in integers. They are known once the plan has been applied.
func (p *Plan) Integers() map[string]string {
	all := map[string]string{}
	for _, w := range p.weights {
		if w.levels != nil {
			all[w.levels.Name] = w.name
		}
	}
	return all
}

// integerProduct puts a product in integers in the place of a node.
func (p *Plan) integerProduct(s site, o *operands) error {
	g, name := s.node.Graph(), s.node.Name
	var y *ir.Value
	if s.w.method == Method(DynamicInt8) {
		inputs := []*ir.Value{s.node.Input(0), o.product, o.scales}
		if o.zeros != nil {
			inputs = append(inputs, o.zeros)
		}
		y = g.Add(ir.NodeSpec{
			Op: "DynamicQuantizeMatMul", Domain: microsoft, Inputs: inputs, Name: renamed(s.node, "DynamicQuantizeMatMul"),
		}).Output(0)
	} else {
		x, err := p.staticInput(g, s.node.Input(0))
		if err != nil {
			return err
		}
		w := []*ir.Value{o.product, o.scales}
		if o.zeros != nil {
			w = append(w, o.zeros)
		}
		float := g.Op("DequantizeLinear", renamed(s.node, "DequantizeLinear"), w, ir.Int("axis", 1))
		y = g.Op("MatMul", renamed(s.node, "MatMul"), []*ir.Value{x, float})
		y.Producer().Name = g.Fresh(name + "/int8")
	}
	if err := g.Replace(s.node.Output(0), y); err != nil {
		return err
	}
	return g.Remove(s.node)
}

// staticInput is x in 8 bits and back, made once for all products that read it.
func (p *Plan) staticInput(g *ir.Graph, x *ir.Value) (*ir.Value, error) {
	if v := p.rounded[x]; v != nil {
		return v, nil
	}
	a, ok := p.set.Int8.Activations[x.Name]
	if !ok {
		return nil, fmt.Errorf("no range of %s", x.Name)
	}
	scale := g.AddInitializer(g.Fresh(x.Name+"/scale"), ir.Float32Scalar(a.Scale))
	zero := g.AddInitializer(g.Fresh(x.Name+"/zero_point"), &ir.Tensor{DType: ir.Uint8, Data: ir.NewBuffer([]byte{a.Zero})})
	q := g.Op("QuantizeLinear", x.Name+"/QuantizeLinear", []*ir.Value{x, scale, zero})
	v := g.Op("DequantizeLinear", x.Name+"/DequantizeLinear", []*ir.Value{q, scale, zero})
	p.rounded[x] = v
	return v, nil
}

// Int8Options are for DynamicInt8 and StaticInt8.
type Int8Options struct {
	// Weights is the range of levels. Default: SignedInt8.
	Weights Int8Weights
	// Activations has, for StaticInt8, the ranges of the products' inputs by name of the value, as
	// [Smoother] finds them. A product whose input is not there keeps blocks of 8 bits.
	Activations map[string]Activation
	// Expected is, by name of the weight, the ratio of signal to noise in decibels that is expected of its
	// products in integers, as [Expected] gives it. Weights with less than LeastSNR, which integers do not
	// suit, are stored in blocks of 8 bits, unless a rule asks for integers. 0 is no limit.
	Expected map[string]float64
	LeastSNR float64
}

func (o Int8Options) faults(of Options) []error {
	var all []error
	fault := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if !of.Precision.integer() {
		return nil
	}
	if !slices.Contains(Int8Ranges(), o.Weights) {
		fault("int8 weights %q: they must be %s", string(o.Weights), list(Int8Ranges()))
	}
	if of.Method != RTN && of.Method != HQQ {
		fault("method %s is for int4 and int8: %s rounds weights to nearest", of.Method, of.Precision)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Activations)) {
		if s := o.Activations[name].Scale; !(s > 0) || s > math.MaxFloat32 {
			fault("activations %s have a scale of %v", name, s)
		}
	}
	return all
}

// integers says which of DynamicInt8 and StaticInt8 is asked for the product n with weight c, and why it
// cannot be had. A product whose result is the model's is left to blocks: its errors are the prediction's.
func (b *planner) integers(n *ir.Node, c *constant, r recipe) (asked Precision, reason string) {
	if r.integers == "" || r.keep || givesOutput(n) {
		return "", ""
	}
	if c.view.DType != ir.Float32 {
		b.fault("%s of %v is %v: products in integers take float32, so export the model as fp32", c.name, n, c.view.DType)
		return "", ""
	}
	if _, ok := b.set.Int8.Activations[n.Input(0).Name]; !ok && r.integers == StaticInt8 {
		return r.integers, "calibration has seen no range of its input"
	}
	if snr, ok := b.set.Int8.Expected[c.name]; ok && b.set.Int8.LeastSNR != 0 && snr < b.set.Int8.LeastSNR && !r.chosen {
		return r.integers, fmt.Sprintf("%.1f dB between signal and noise expected in %s", snr, r.integers)
	}
	return r.integers, ""
}

// givesOutput reports whether a result of n is an output of the graph, casts left aside.
func givesOutput(n *ir.Node) bool {
	for range maxChain {
		v := n.Output(0)
		if v.IsOutput() {
			return true
		}
		if n = v.SoleUse(); n == nil || !n.Is("", "Cast") {
			return false
		}
	}
	return false
}
