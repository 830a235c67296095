package quantize

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Matrix is a weight in a block format, as a node of a graph holds it: one made by this package, or by
// another tool.
type Matrix struct {
	Format Format
	N, K   int64 // rows (outputs, or vocabulary) and columns

	packed, scales *ir.Tensor
	zeros          *ir.Tensor // nil: the middle
	stride         int64      // bytes from row to row of packed
}

// MatrixOf is the weight of a MatMulNBits node, or of a GatherBlockQuantized node over rows of bytes.
func MatrixOf(n *ir.Node) (*Matrix, error) {
	m := &Matrix{Format: Format{Bits: int(n.Int("bits", 4)), BlockSize: int(n.Int("block_size", 0))}}
	var data, scales, zeros *ir.Value
	switch {
	case n.Is(microsoft, "MatMulNBits"):
		data, scales, zeros = n.Input(1), n.Input(2), n.Input(3)
		if n.Input(4) != nil {
			return nil, fmt.Errorf("quantize: %v has a g_idx, which is not read", n)
		}
	case n.Is(microsoft, "GatherBlockQuantized"):
		data, scales, zeros = n.Input(0), n.Input(2), n.Input(3)
		if n.Attr("block_size") == nil {
			m.Format.BlockSize = 128 // the operator's default
		}
		if axis := n.Int("quantize_axis", 1); n.Int("gather_axis", 0) != 0 || axis != 1 && axis != -1 {
			return nil, fmt.Errorf("quantize: %v does not gather rows quantised along their length", n)
		}
	default:
		return nil, fmt.Errorf("quantize: %v holds no block-quantised weight", n)
	}
	m.packed = data.Constant()
	if c := resolve(scales); c != nil { // through the Cast of scales that are stored in float16
		m.scales = c.view
	}
	if m.packed == nil || m.scales == nil || zeros != nil && zeros.Constant() == nil {
		return nil, fmt.Errorf("quantize: the weight of %v is computed in the graph", n)
	}
	m.zeros = zeros.Constant()
	m.Format.Symmetric = m.zeros == nil
	if faults := m.Format.faults(); len(faults) > 0 {
		return nil, fmt.Errorf("quantize: %v: %w", n, oneLine{faults})
	}
	if m.packed.DType != ir.Uint8 || m.packed.Rank() < 2 {
		return nil, fmt.Errorf("quantize: the weight of %v is %v%v, not bytes in rows", n, m.packed.DType, m.packed.Shape)
	}
	if n.OpType == "MatMulNBits" {
		m.N, m.K = n.Int("N", 0), n.Int("K", 0)
		m.stride = m.Format.RowBytes(m.K)
	} else {
		m.N, m.stride = m.packed.Shape[0], m.packed.Shape[1]
		m.K = m.stride * 8 / int64(m.Format.Bits)
	}
	return m, m.check(n)
}

// check compares sizes with what the attributes ask for.
func (m *Matrix) check(n *ir.Node) error {
	const limit = 1 << 40 // keeps the products below from overflowing
	if m.N < 1 || m.K < 1 || m.N > limit || m.K > limit {
		return fmt.Errorf("quantize: %v has a weight of %d by %d", n, m.N, m.K)
	}
	for _, part := range []struct {
		what string
		t    *ir.Tensor
		want []int64 // one dimension a row, or flattened
	}{
		{"weight", m.packed, []int64{m.N, m.stride}},
		{"scales", m.scales, []int64{m.N, m.Format.Blocks(m.K)}},
		{"zero points", m.zeros, []int64{m.N, m.zeroWidth()}},
	} {
		if part.t == nil {
			continue
		}
		if want, err := ir.NumElements(part.want); err != nil || part.t.Len() != want {
			return fmt.Errorf("quantize: %v: %s of shape %v, want %v", n, part.what, part.t.Shape, part.want)
		}
	}
	if !m.scales.DType.Float() || m.zeros != nil && m.zeros.DType != ir.Uint8 && !m.zeros.DType.Float() {
		return fmt.Errorf("quantize: %v has scales or zero points of a type that is not read", n)
	}
	return nil
}

// zeroWidth is how many elements a row's zero points are: packed bytes, or floats.
func (m *Matrix) zeroWidth() int64 {
	if m.zeros == nil || m.zeros.DType.Float() {
		return m.Format.Blocks(m.K)
	}
	return m.Format.ZeroPointBytes(m.K)
}

// Row dequantises row n into dst, which takes K weights.
func (m *Matrix) Row(dst []float32, n int64) error {
	if n < 0 || n >= m.N || int64(len(dst)) != m.K {
		return fmt.Errorf("quantize: row %d of %d into %d of %d weights", n, m.N, len(dst), m.K)
	}
	blocks := m.Format.Blocks(m.K)
	scales, zeros := make([]float32, blocks), make([]float32, blocks)
	if err := m.scales.ReadFloat32(scales, n*blocks); err != nil {
		return fmt.Errorf("quantize: %w", err)
	}
	if err := m.readZeros(zeros, n); err != nil {
		return fmt.Errorf("quantize: %w", err)
	}
	packed := make([]byte, m.stride)
	if _, err := m.packed.Data.ReadAt(packed, n*m.stride); err != nil && err != io.EOF {
		return fmt.Errorf("quantize: %w", err)
	}
	for i := range dst {
		b := i / m.Format.BlockSize
		dst[i] = (float32(unpack(packed, i, m.Format.Bits)) - zeros[b]) * scales[b]
	}
	return nil
}

func (m *Matrix) readZeros(dst []float32, n int64) error {
	switch {
	case m.zeros == nil:
		for i := range dst {
			dst[i] = float32(m.Format.middle())
		}
		return nil
	case m.zeros.DType.Float():
		return m.zeros.ReadFloat32(dst, n*int64(len(dst)))
	}
	packed := make([]byte, m.zeroWidth())
	if _, err := m.zeros.Data.ReadAt(packed, n*m.zeroWidth()); err != nil && err != io.EOF {
		return err
	}
	for i := range dst {
		dst[i] = float32(unpack(packed, i, m.Format.Bits))
	}
	return nil
}

// unpack is value i of packed values of 4 or 8 bits.
func unpack(packed []byte, i, bits int) uint8 {
	if bits == 8 {
		return packed[i]
	}
	return packed[i/2] >> (i & 1 * 4) & 0xf
}

// rounded gives the weight after quantisation, [n, k] in float32. It is quantised when it is first read.
func (p *producer) rounded() (*ir.Tensor, error) {
	results := p.data()
	m := &Matrix{Format: p.Format, N: p.n, K: p.k, stride: p.RowBytes(p.k)}
	var errs []error
	tensor := func(dtype ir.DType, d ir.Data, shape ...int64) *ir.Tensor {
		t, err := ir.NewTensor(dtype, shape, d)
		errs = append(errs, err)
		return t
	}
	m.packed = tensor(ir.Uint8, results[outPadded], p.n, m.stride)
	m.scales = tensor(p.scaleType, results[outScales], p.n, p.Blocks(p.k))
	if !p.Symmetric {
		m.zeros = tensor(ir.Uint8, results[outZeroPoints], p.n, p.ZeroPointBytes(p.k))
	}
	t := tensor(ir.Float32, matrixData{m}, p.n, p.k)
	return t, errors.Join(errs...)
}

// matrixData is a matrix as float32, row by row.
type matrixData struct{ m *Matrix }

// Len implements ir.Data.
func (d matrixData) Len() int64 { return 4 * d.m.N * d.m.K }

// Granule is what is best read at a time: a row.
func (d matrixData) Granule() int64 { return 4 * d.m.K }

// ReadAt implements ir.Data.
func (d matrixData) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("quantize: read at %d", off)
	}
	row, line := make([]float32, d.m.K), make([]byte, d.Granule())
	done := 0
	for n := off / d.Granule(); n < d.m.N && done < len(p); n++ {
		if err := d.m.Row(row, n); err != nil {
			return done, err
		}
		for i, v := range row {
			binary.LittleEndian.PutUint32(line[4*i:], math.Float32bits(v))
		}
		done += copy(p[done:], line[off+int64(done)-n*d.Granule():])
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}
