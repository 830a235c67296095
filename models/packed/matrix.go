package packed

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/qwenrt/qwenrt/graphopt/ir"
	"github.com/qwenrt/qwenrt/models/safetensors"
)

// ErrMalformed is reported for a layer whose tensors contradict each other or the configuration.
var ErrMalformed = errors.New("malformed quantised layer")

// Weights finds a checkpoint's tensors; *safetensors.Checkpoint does.
type Weights interface {
	Tensor(name string) (*safetensors.Tensor, bool)
}

// Has reports whether a module, such as model.layers.0.mlp.up_proj, has quantised weights.
func Has(w Weights, module string) bool {
	_, ok := w.Tensor(module + ".qweight")
	return ok
}

// Matrix is the weights of a layer with K inputs and N outputs, in the form of MatMulNBits: (q - z) * s with levels q in blocks
// of BlockSize neighbouring inputs, taken in Order.
type Matrix struct {
	N, K      int64
	Bits      int   // 8 also where a zero point of 4 bits is 16, which 4 bits do not hold
	BlockSize int   // a power of two from 16 to 256: the group, or a part of it where that is none
	Order     []int // input j of the product is input Order[j] of the layer; nil: as they are

	Levels     *ir.Tensor // uint8 [N, blocks, BlockSize*Bits/8]
	Scales     *ir.Tensor // as the checkpoint has them, [N, blocks]
	ZeroPoints *ir.Tensor // uint8 [N, (blocks*Bits+7)/8]; nil where all are 2^(Bits-1)

	layer *layer
}

// layer decodes the tensors of a layer.
type layer struct {
	method                 Method
	module                 string
	n, k, groups           int64
	bits                   int   // as stored
	group                  int64 // inputs of a group
	place                  []int // of each input in the product
	rows                   []int // output r of the product is output rows[r] of the layer; nil: as they are
	qweight, qzeros        []byte
	scales                 *safetensors.Tensor
	add                    uint32 // to stored zero points
	outBits, block, blocks int64
}

// interleave is where AWQ has the levels of eight neighbouring outputs in a word, from the lowest four bits.
var interleave = [8]uint{0, 4, 1, 5, 2, 6, 3, 7}

// Open reads the layer of a module with n outputs and k inputs.
//
// Errors: ErrMalformed, ErrUnsupported.
func (c *Config) Open(w Weights, module string, n, k int64) (*Matrix, error) {
	m, err := c.open(w, module, n, k)
	if err != nil {
		return nil, fmt.Errorf("packed: %s: %w", module, err)
	}
	return m, nil
}

func (c *Config) open(w Weights, module string, n, k int64) (*Matrix, error) {
	l := &layer{method: c.Method, module: module, n: n, k: k}
	if _, ok := w.Tensor(module + ".bias"); ok {
		return nil, fmt.Errorf("%w: it has a bias", ErrUnsupported)
	}
	if err := l.readTensors(c, w); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if err := l.chooseBlock(); err != nil {
		return nil, err
	}
	order, err := l.readOrder(w)
	if err != nil {
		return nil, err
	}
	symmetric, err := l.readZeroPoints(c)
	if err != nil {
		return nil, err
	}
	m := &Matrix{N: n, K: k, Bits: int(l.outBits), BlockSize: int(l.block), Order: order, layer: l}
	return m, m.tensors(symmetric)
}

// tensors makes the lazy tensors.
func (m *Matrix) tensors(symmetric bool) error {
	l := m.layer
	bytes := l.block * l.outBits / 8
	var errs [3]error
	m.Levels, errs[0] = ir.NewTensor(ir.Uint8, []int64{l.n, l.blocks, bytes}, &rowData{l.n, l.blocks * bytes, l.putLevels})
	scale := map[safetensors.DType]ir.DType{safetensors.F16: ir.Float16, safetensors.BF16: ir.BFloat16, safetensors.F32: ir.Float32}[l.scales.DType]
	m.Scales, errs[1] = ir.NewTensor(scale, []int64{l.n, l.blocks}, &rowData{l.n, l.blocks * int64(scale.Bits()/8), l.putScales})
	m.ZeroPoints = nil
	if !symmetric {
		width := (l.blocks*l.outBits + 7) / 8
		m.ZeroPoints, errs[2] = ir.NewTensor(ir.Uint8, []int64{l.n, width}, &rowData{l.n, width, l.putZeroPoints})
	}
	return errors.Join(errs[:]...)
}

// Bytes is the size of the matrix in the form of MatMulNBits.
func (m *Matrix) Bytes() int64 {
	size := m.Levels.ByteLen() + m.Scales.ByteLen()
	if m.ZeroPoints != nil {
		size += m.ZeroPoints.ByteLen()
	}
	return size
}

// WithRows is the matrix with its outputs in another order: output r is output rows[r] of m, which stays as it is.
func (m *Matrix) WithRows(rows []int) (*Matrix, error) {
	if int64(len(rows)) != m.N || !slices.Equal(sorted(rows), upTo(int(m.N))) {
		return nil, fmt.Errorf("packed: %s: no order of %d outputs", m.layer.module, m.N)
	}
	l, other := *m.layer, *m
	l.rows = make([]int, len(rows))
	for i, r := range rows {
		l.rows[i] = m.layer.output(int64(r))
	}
	other.layer = &l
	return &other, other.tensors(m.ZeroPoints == nil)
}

func sorted(v []int) []int {
	v = slices.Clone(v)
	slices.Sort(v)
	return v
}

func upTo(n int) []int {
	v := make([]int, n)
	for i := range v {
		v[i] = i
	}
	return v
}

// perWord is how many levels or zero points a word holds.
func (l *layer) perWord() int64 { return int64(32 / l.bits) }

func (l *layer) readTensors(c *Config, w Weights) error {
	find := func(name string, types ...safetensors.DType) (*safetensors.Tensor, error) {
		t, ok := w.Tensor(l.module + "." + name)
		switch {
		case !ok:
			return nil, fmt.Errorf("it has no %s", name)
		case !slices.Contains(types, t.DType) || len(t.Shape) != 2:
			return nil, fmt.Errorf("%s is %s %v", name, t.DType, t.Shape)
		}
		return t, nil
	}
	qweight, err := find("qweight", safetensors.I32)
	if err != nil {
		return err
	}
	qzeros, err := find("qzeros", safetensors.I32)
	if err != nil {
		return err
	}
	if l.scales, err = find("scales", safetensors.F16, safetensors.BF16, safetensors.F32); err != nil {
		return err
	}
	l.bits, l.groups = c.Bits, l.scales.Shape[0]
	if c.Mixed && l.method == GPTQ && qweight.Shape[0] > 0 { // rows of words tell the bits
		if per := l.k / qweight.Shape[0]; per == 4 || per == 8 {
			l.bits = int(32 / per)
		}
	}
	words := []int64{l.k / l.perWord(), l.n}
	if l.method == AWQ {
		words = []int64{l.k, l.n / l.perWord()}
	}
	if l.k%l.perWord() != 0 || l.n%l.perWord() != 0 || !slices.Equal(qweight.Shape, words) {
		return fmt.Errorf("qweight is %v, want %v for %d outputs of %d inputs in %d bits", qweight.Shape, words, l.n, l.k, l.bits)
	}
	if l.groups < 1 || l.groups > l.k || !slices.Equal(l.scales.Shape, []int64{l.groups, l.n}) {
		return fmt.Errorf("scales are %v, want [groups, %d]", l.scales.Shape, l.n)
	}
	if want := []int64{l.groups, l.n / l.perWord()}; !slices.Equal(qzeros.Shape, want) {
		return fmt.Errorf("qzeros are %v, want %v", qzeros.Shape, want)
	}
	if err := l.sizeGroup(c); err != nil {
		return err
	}
	l.qweight, l.qzeros = qweight.Bytes(), qzeros.Bytes()
	return nil
}

// sizeGroup finds how many inputs share a scale.
func (l *layer) sizeGroup(c *Config) error {
	l.group = int64(c.GroupSize)
	switch {
	case l.groups == 1 && (c.GroupSize == -1 || l.group >= l.k || c.Mixed):
		l.group = l.k
	case c.Mixed && l.k%l.groups == 0:
		l.group = l.k / l.groups
	}
	if l.group < 1 || (l.k+l.group-1)/l.group != l.groups {
		return fmt.Errorf("%d groups, and a group_size of %d for %d inputs", l.groups, c.GroupSize, l.k)
	}
	return nil
}

// chooseBlock takes the group for a block, or the largest part of it that MatMulNBits has, whose scale is then
// repeated. One group for all inputs need not be divided evenly: the last block is padded.
func (l *layer) chooseBlock() error {
	switch l.group {
	case 16, 32, 64, 128, 256:
		l.block = l.group
	default:
		for l.block = 128; l.block >= 16 && l.group%l.block != 0 && l.groups > 1; l.block /= 2 {
		}
		if l.block < 16 {
			return fmt.Errorf("%w: groups of %d inputs have no blocks of 16 or more", ErrUnsupported, l.group)
		}
	}
	l.blocks = (l.k + l.block - 1) / l.block
	return nil
}

// readOrder reads g_idx: inputs are sorted by their group, so that groups are blocks.
func (l *layer) readOrder(w Weights) ([]int, error) {
	t, ok := w.Tensor(l.module + ".g_idx")
	if !ok {
		l.place = upTo(int(l.k))
		return nil, nil
	}
	if t.DType != safetensors.I32 || !slices.Equal(t.Shape, []int64{l.k}) {
		return nil, fmt.Errorf("%w: g_idx is %s %v, want I32 [%d]", ErrMalformed, t.DType, t.Shape, l.k)
	}
	data := t.Bytes()
	groups := make([]int64, l.k)
	sizes := make([]int64, l.groups)
	for i := range groups {
		g := int64(int32(binary.LittleEndian.Uint32(data[4*i:])))
		if g < 0 || g >= l.groups {
			return nil, fmt.Errorf("%w: input %d is in group %d of %d", ErrMalformed, i, g, l.groups)
		}
		groups[i] = g
		sizes[g]++
	}
	for g, size := range sizes {
		if want := min(l.group, l.k-int64(g)*l.group); size != want {
			return nil, fmt.Errorf("%w: group %d has %d inputs, want %d", ErrUnsupported, g, size, want)
		}
	}
	order := upTo(int(l.k))
	slices.SortStableFunc(order, func(a, b int) int { return int(groups[a] - groups[b]) })
	l.place = make([]int, l.k)
	for at, input := range order {
		l.place[input] = at
	}
	if slices.IsSorted(order) {
		return nil, nil
	}
	return order, nil
}

// readZeroPoints finds out what zero points mean, whether they are all in the middle, and in how many bits they fit.
func (l *layer) readZeroPoints(c *Config) (symmetric bool, err error) {
	if l.method == GPTQ && c.Version == 1 {
		l.add = 1
	}
	var seen [257]bool // of the sums that zero points are
	for g := range l.groups {
		for n := range l.n {
			seen[l.zero(g, n)] = true
		}
	}
	middle := uint32(1) << (l.bits - 1)
	only := func(z uint32) bool {
		for i, s := range seen {
			if s != (uint32(i) == z) {
				return false
			}
		}
		return true
	}
	l.outBits = int64(l.bits)
	switch {
	case l.method != GPTQ:
	case l.add == 1 && only(middle+1):
		l.add = 0
		return true, nil
	case l.add == 0 && only(middle-1):
		l.add = 1
		return true, nil
	case c.Symmetric && !c.Mixed && !only(middle):
		return false, fmt.Errorf("%w: config.json says sym, and its zero points are not all %d", ErrMalformed, middle)
	}
	if seen[1<<l.bits] { // z - 1 was stored, and is the largest level
		if l.bits == 8 {
			return false, fmt.Errorf("%w: a zero point of 256", ErrUnsupported)
		}
		l.outBits = 8
	}
	return l.outBits == int64(l.bits) && only(middle), nil
}

// zero is the zero point of output n in group g.
func (l *layer) zero(g, n int64) uint32 {
	per := l.perWord()
	word := binary.LittleEndian.Uint32(l.qzeros[4*(g*(l.n/per)+n/per):])
	return word>>l.shift(n)&(1<<l.bits-1) + l.add
}

// shift is the place of output n in a word of zero points, and in AWQ of levels.
func (l *layer) shift(n int64) uint {
	if l.method == AWQ {
		return 4 * interleave[n%8]
	}
	return uint(l.bits) * uint(n%l.perWord())
}

// output is the output of the layer that output r of the product is.
func (l *layer) output(r int64) int {
	if l.rows == nil {
		return int(r)
	}
	return l.rows[r]
}

// levels gives those of outputs from..to in the order of the product, each padded to width with 0.
func (l *layer) levels(dst []byte, from, to, width int64) {
	clear(dst)
	per, mask := l.perWord(), uint32(1)<<l.bits-1
	if l.method == AWQ {
		for k := range l.k {
			words := l.qweight[4*k*(l.n/per):]
			for r := from; r < to; r++ {
				n := int64(l.output(r))
				dst[(r-from)*width+int64(l.place[k])] = byte(binary.LittleEndian.Uint32(words[4*(n/per):]) >> l.shift(n) & mask)
			}
		}
		return
	}
	for w := range l.k / per {
		words, places := l.qweight[4*w*l.n:], l.place[w*per:][:per]
		for r := from; r < to; r++ {
			word, row := binary.LittleEndian.Uint32(words[4*l.output(r):]), dst[(r-from)*width:]
			for _, at := range places {
				row[at] = byte(word & mask)
				word >>= l.bits
			}
		}
	}
}

// tile is how many outputs are decoded at a time: a word of each, side by side in the file, is a few cache lines.
const tile = 64

// putLevels writes rows from..to of Levels.
func (l *layer) putLevels(dst []byte, from, to int64) error {
	width := l.blocks * l.block
	buffer := make([]byte, min(tile, to-from)*width)
	for ; from < to; from += tile {
		end := min(from+tile, to)
		levels := buffer[:(end-from)*width]
		l.levels(levels, from, end, width)
		if l.outBits == 8 {
			dst = dst[copy(dst, levels):]
			continue
		}
		for i := range len(levels) / 2 {
			dst[i] = levels[2*i] | levels[2*i+1]<<4
		}
		dst = dst[len(levels)/2:]
	}
	return nil
}

// putScales writes rows from..to of Scales.
func (l *layer) putScales(dst []byte, from, to int64) error {
	data := l.scales.Bytes()
	size := int64(len(data)) / (l.groups * l.n)
	for r := from; r < to; r++ {
		n := int64(l.output(r))
		for b := range l.blocks {
			g := b * l.block / l.group
			s := data[(g*l.n+n)*size:][:size]
			if !finite(s, l.scales.DType) {
				return fmt.Errorf("packed: %s: %w: the scale of output %d in group %d is not finite", l.module, ErrMalformed, n, g)
			}
			dst = dst[copy(dst, s):]
		}
	}
	return nil
}

// finite looks at the exponent of a float.
func finite(s []byte, d safetensors.DType) bool {
	switch d {
	case safetensors.F16:
		return binary.LittleEndian.Uint16(s)&0x7c00 != 0x7c00
	case safetensors.BF16:
		return binary.LittleEndian.Uint16(s)&0x7f80 != 0x7f80
	}
	x := math.Float32frombits(binary.LittleEndian.Uint32(s))
	return x-x == 0
}

// putZeroPoints writes rows from..to of ZeroPoints. The half byte that no block has is 0.
func (l *layer) putZeroPoints(dst []byte, from, to int64) error {
	width := (l.blocks*l.outBits + 7) / 8
	clear(dst)
	for r := from; r < to; r++ {
		n := int64(l.output(r))
		row := dst[(r-from)*width:][:width]
		for b := range l.blocks {
			z := byte(l.zero(b*l.block/l.group, n))
			if l.outBits == 8 {
				row[b] = z
			} else {
				row[b/2] |= z << (4 * (b % 2))
			}
		}
	}
	return nil
}

// rowData is a matrix of bytes that is computed row by row.
type rowData struct {
	rows, width int64
	put         func(dst []byte, from, to int64) error // writes whole rows
}

func (d *rowData) Len() int64 { return d.rows * d.width }

// Granule is some whole rows: a read of less decodes them all the same.
func (d *rowData) Granule() int64 { return d.width * min(tile, d.rows) }

// ReadAt implements ir.Data.
func (d *rowData) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || int64(len(p)) > d.Len()-off {
		return 0, fmt.Errorf("packed: read of %d bytes at %d of %d", len(p), off, d.Len())
	}
	if len(p) == 0 {
		return 0, nil
	}
	from, to := off/d.width, (off+int64(len(p))+d.width-1)/d.width
	if from*d.width == off && (to-from)*d.width == int64(len(p)) {
		if err := d.put(p, from, to); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	whole := make([]byte, (to-from)*d.width)
	if err := d.put(whole, from, to); err != nil {
		return 0, err
	}
	return copy(p, whole[off-from*d.width:]), nil
}
