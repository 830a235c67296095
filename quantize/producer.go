package quantize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// ErrNotFinite is reported, wrapped with tensor and place, for weights that are NaN or infinite, or so
// far apart that the range of a block is not a float32.
var ErrNotFinite = errors.New("not a finite weight")

// shardBytes is about how much of a weight is read at a time: it fits the second-level cache. A shard has
// a multiple of rowTile rows, so that a transposed source is read in whole cache lines.
const (
	shardBytes = 512 << 10
	rowTile    = 32
)

// The results of a producer.
const (
	outPadded = iota // weights, each row padded to whole blocks, as MatMulNBits has them
	outDense         // weights, rows not padded, as GatherBlockQuantized has them
	outScales
	outZeroPoints
	outputs
)

// producer quantises a matrix, some rows a shard.
type producer struct {
	rtn
	solver solver // nil: grids span their blocks
	name   string
	source *ir.Tensor // [n, k] of float32, float16 or bfloat16
	n, k   int64
	rows   int64 // of a shard
	stride int64 // every stride-th block is compared with its source
	errors []errorSums
	ready  *Levels   // found ahead; nil: they are computed here
	counts []float32 // how much an error counts, by column; nil: all the same
}

// errorSums is what has been compared in a shard. Each shard has its own, and they are added in order,
// so that the sum does not depend on the order in which the shards were done.
type errorSums struct {
	count         int64
	signal, noise float64 // sums of squares
}

// measuredWeights is how many weights of a tensor are compared with their source, at most: enough for the
// error to be known to a hundredth, and next to no time on tensors of millions.
const measuredWeights = 1 << 16

func newProducer(name string, source *ir.Tensor, f form, scaleType ir.DType) *producer {
	p := &producer{
		rtn: rtn{f.format, scaleType}, solver: f.solver(), name: name, source: source,
		n: source.Shape[0], k: source.Shape[1],
	}
	p.rows = max(1, shardBytes/(p.k*int64(source.DType.Bits()/8))/rowTile) * rowTile
	// Odd, so that it does not fall in step with rows of 2^n blocks.
	p.stride = max(1, p.n*p.k/measuredWeights) | 1
	p.errors = make([]errorSums, p.Shards())
	return p
}

// denseRow is the size of a row without padding.
func (p *producer) denseRow() int64 { return (p.k*int64(p.Bits) + 7) / 8 }

// padded reports whether rows have padding at all.
func (p *producer) padded() bool { return p.k%int64(p.BlockSize) != 0 }

// data gives the results, lazily. Where rows need no padding both forms of the weights are one.
func (p *producer) data() [outputs]ir.Data {
	d := ir.Produced(p,
		p.n*p.RowBytes(p.k),
		p.n*p.denseRow(),
		p.n*p.Blocks(p.k)*int64(p.scaleType.Bits()/8),
		p.n*p.ZeroPointBytes(p.k))
	if !p.padded() {
		d[outDense] = d[outPadded]
	}
	return [outputs]ir.Data(d)
}

// Shards implements ir.Producer.
func (p *producer) Shards() int { return int((p.n + p.rows - 1) / p.rows) }

// workspace is the memory in which a shard is quantised.
type workspace struct {
	source []byte
	block  [maxBlock]float32
	out    [outputs][]byte
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

func resize(b *[]byte, n int64) []byte {
	if int64(cap(*b)) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return *b
}

// Produce implements ir.Producer.
func (p *producer) Produce(shard int, out []io.WriterAt) error {
	first := int64(shard) * p.rows
	rows := min(p.rows, p.n-first)
	if p.ready != nil {
		return p.copyReady(first, rows, out)
	}
	ws := workspaces.Get().(*workspace)
	defer workspaces.Put(ws)

	size := p.k * int64(p.source.DType.Bits()/8)
	source := resize(&ws.source, rows*size)
	if _, err := p.source.Data.ReadAt(source, first*size); err != nil && err != io.EOF {
		return fmt.Errorf("quantize: read %s: %w", p.name, err)
	}
	widths := [outputs]int64{
		outPadded:     p.RowBytes(p.k),
		outScales:     p.Blocks(p.k) * int64(p.scaleType.Bits()/8),
		outZeroPoints: p.ZeroPointBytes(p.k),
	}
	if p.padded() {
		widths[outDense] = p.denseRow()
	}
	for i, w := range widths {
		resize(&ws.out[i], rows*w)
	}
	p.errors[shard] = errorSums{}
	for r := range rows {
		var dst row
		dst.padded = ws.out[outPadded][r*widths[outPadded]:][:widths[outPadded]]
		dst.scales = ws.out[outScales][r*widths[outScales]:][:widths[outScales]]
		dst.zeros = ws.out[outZeroPoints][r*widths[outZeroPoints]:][:widths[outZeroPoints]]
		if err := p.row(dst, source[r*size:][:size], ws.block[:], first+r, &p.errors[shard]); err != nil {
			return err
		}
		if p.padded() {
			copy(ws.out[outDense][r*widths[outDense]:][:widths[outDense]], dst.padded)
		}
	}
	for i, w := range widths {
		if w == 0 {
			continue
		}
		if _, err := out[i].WriteAt(ws.out[i], first*w); err != nil {
			return err
		}
	}
	return nil
}

// row is where a quantised row goes.
type row struct{ padded, scales, zeros []byte }

// row quantises row n of the matrix, which src holds in the source's type.
func (p *producer) row(dst row, src []byte, buf []float32, n int64, sums *errorSums) error {
	size := p.source.DType.Bits() / 8
	bs, k, packed := p.BlockSize, int(p.k), int(p.BlockBytes())
	blocks := int(p.Blocks(p.k))
	if p.Bits == 4 && blocks%2 == 1 && len(dst.zeros) > 0 {
		dst.zeros[len(dst.zeros)-1] = uint8(p.middle()) << 4 // the half that no block has, as ONNX Runtime fills it
	}
	next := int(p.stride - 1 - (n*int64(blocks)+p.stride-1)%p.stride) // block to be measured
	for b := range blocks {
		at := b * bs
		w := buf[:min(bs, k-at)]
		l := scan(w, src[at*size:(at+len(w))*size], p.source.DType)
		g, ok := p.grid(l, w[0])
		if !l.finite() || !ok {
			return p.notFinite(w, n, at)
		}
		switch {
		case p.counts != nil:
			g = p.weighted(w, p.counts[at:at+len(w)], l, g)
		case p.solver != nil:
			g = p.solver(&p.rtn, w, l, g)
		}
		p.pack(dst.padded[b*packed:(b+1)*packed], w, g)
		p.putScale(dst.scales, b, g.scale)
		if !p.Symmetric {
			putZero(dst.zeros, b, uint8(g.zero), p.Bits)
		}
		if b == next {
			sums.add(w, dst.padded[b*packed:(b+1)*packed], p.Bits, g)
			next += int(p.stride)
		}
	}
	return nil
}

func (p *producer) putScale(dst []byte, b int, scale float32) {
	switch p.scaleType {
	case ir.Float16:
		binary.LittleEndian.PutUint16(dst[2*b:], ir.Float32ToFloat16(scale))
	case ir.BFloat16:
		binary.LittleEndian.PutUint16(dst[2*b:], ir.Float32ToBFloat16(scale))
	default:
		binary.LittleEndian.PutUint32(dst[4*b:], math.Float32bits(scale))
	}
}

// putZero stores the zero point of block b.
func putZero(dst []byte, b int, z uint8, bits int) {
	switch {
	case bits == 8:
		dst[b] = z
	case b%2 == 0:
		dst[b/2] = dst[b/2]&0xf0 | z
	default:
		dst[b/2] = dst[b/2]&0x0f | z<<4
	}
}

// notFinite names the weight in w, which begins at column at of row n, that cannot be quantised.
func (p *producer) notFinite(w []float32, n int64, at int) error {
	for i, v := range w {
		if v-v != 0 {
			return fmt.Errorf("quantize: %w: %s has %v at output %d, input %d", ErrNotFinite, p.name, v, n, at+i)
		}
	}
	return fmt.Errorf("quantize: %w: the range of %s at output %d, inputs %d to %d, exceeds float32", ErrNotFinite, p.name, n, at, at+len(w)-1)
}

// add compares a block with its source.
func (s *errorSums) add(w []float32, packed []byte, bits int, g grid) {
	for i, v := range w {
		q := int32(unpack(packed, i, bits))
		d := float64(v) - float64(float32(q-g.zero)*g.scale)
		s.signal += float64(v) * float64(v)
		s.noise += d * d
	}
	s.count += int64(len(w))
}
