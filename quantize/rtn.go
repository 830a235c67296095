package quantize

import (
	"encoding/binary"
	"math"

	"github.com/qwenrt/qwenrt/graphopt/ir"
)

// Round-to-nearest as MlasQuantizeBlockwise of ONNX Runtime does it (core/mlas/lib/q4_dq.cpp), in
// float32 throughout and to the bit:
//
//	symmetric:  scale = -(the weight of largest magnitude, negative in a tie) / 2^(bits-1)
//	            zero  = 2^(bits-1)
//	asymmetric: scale = (max(w, 0) - min(w, 0)) / (2^bits - 1)
//	            zero  = round(-min / scale), clamped
//	then        q     = round(w * (1/scale) + zero), clamped
//
// where scale is first rounded to the type in which it is stored, and round goes half away from zero.

// almostHalf is the largest float32 below one half: truncating x + almostHalf rounds x >= 0 to
// nearest, half up, where x + 0.5 would take 0.49999997 to 1.
const almostHalf = 0.49999997

// grid is how the weights of one block map to levels.
type grid struct {
	scale float32
	recip float32 // 1/scale, 0 for a scale of 0
	zero  int32
	fast  bool // the scale has all its digits, so that bias, below, is right
	cut   bool // weights may lie beyond the ends of the grid
}

// extremes are the two extremes of a block, as bits: the largest as a signed number and the largest as
// an unsigned one. Order of IEEE 754 numbers as integers makes the first the largest weight where any
// is positive, and the second the smallest where any is negative.
type extremes struct {
	hi int32
	lo uint32
}

// float32 bits.
const (
	signBit        = 1 << 31
	infBits        = 0x7f800000
	float16Normal  = 0x38800000 // 2^-14, float16's smallest normal number
	bfloat16Normal = 0x00800000 // 2^-126, bfloat16's
)

// finite reports whether no weight of the block is infinite or NaN.
func (l extremes) finite() bool { return l.hi < infBits && l.lo < signBit|infBits }

// bounds are max(w, 0) and min(w, 0), as bits.
func (l extremes) bounds() (hi, lo uint32) {
	return uint32(max(l.hi, 0)), l.lo & uint32(int32(l.lo)>>31)
}

// rtn quantises blocks to nearest.
type rtn struct {
	Format
	scaleType ir.DType // float32, float16 or bfloat16
}

// grid finds scale and zero point of a block that begins with the weight first. ok is false where
// max - min is too large for float32.
func (q *rtn) grid(l extremes, first float32) (g grid, ok bool) {
	hi, lo := l.bounds()
	if q.Symmetric {
		extreme := lo
		if hi > lo&^signBit { // integers, so that no branch has to guess
			extreme = hi
		}
		if hi|lo<<1 == 0 {
			extreme = math.Float32bits(first) // a zero: the scale takes its sign
		}
		g.scale = -math.Float32frombits(extreme) / float32(q.middle())
		g.zero = q.middle()
	} else {
		hi, lo := math.Float32frombits(hi), math.Float32frombits(lo)
		g.scale = (hi - lo) / float32(q.top())
		if g.scale != 0 {
			g.zero = min(int32(-lo/g.scale+almostHalf), q.top())
		}
	}
	return q.finish(g.scale, g.zero)
}

// finish is the grid with scale and zero point, as the format stores them. ok is false where the scale is
// infinite.
func (q *rtn) finish(scale float32, zero int32) (g grid, ok bool) {
	g.scale, g.zero = scale, zero
	var smallest uint32 // of the scales that have their full precision
	switch q.scaleType {
	case ir.Float16:
		g.scale, smallest = ir.Float16ToFloat32(ir.Float32ToFloat16(g.scale)), float16Normal
	case ir.BFloat16:
		g.scale, smallest = math.Float32frombits(uint32(ir.Float32ToBFloat16(g.scale))<<16), bfloat16Normal
	}
	size := math.Float32bits(g.scale) &^ signBit
	if size != 0 {
		g.recip = 1 / g.scale
	}
	g.fast = size == 0 || size >= smallest && math.Float32bits(g.recip)&^signBit < infBits
	return g, size < infBits
}

// bias is what the fast kernels add to w*recip before they truncate, to get round(w*recip + zero).
// Adding zero and one half at once rounds to the same level: just below each threshold n-1/2 and just
// below n float32 has the same spacing, except at 1/2, which w*recip + zero can come close to only
// without a zero point. Truncation takes what is between -1 and 0 to 0, so only the upper end is to
// be clamped; g.fast says that nothing lies further out.
func (g grid) bias() float32 {
	if g.zero == 0 {
		return almostHalf
	}
	return float32(g.zero) + 0.5
}

// level is the definition: one weight, any grid.
func (q *rtn) level(g grid, w float32) uint8 {
	x := float32(w*g.recip) + float32(g.zero)
	switch {
	case !(x > 0): // NaN too: 0 times an infinite reciprocal
		return 0
	case x >= float32(q.top()):
		return uint8(q.top())
	}
	return uint8(x + almostHalf)
}

// pack writes the levels of a block.
func (q *rtn) pack(dst []byte, w []float32, g grid) {
	switch {
	case !g.fast || len(w) != q.BlockSize:
		q.packAny(dst, w, g)
	case g.cut && q.Bits == 4:
		pack4Cut(dst, w, g.recip, g.bias())
	case g.cut:
		pack8Cut(dst, w, g.recip, g.bias())
	case q.Bits == 4:
		pack4(dst, w, g.recip, g.bias())
	default:
		pack8(dst, w, g.recip, g.bias())
	}
}

// packAny packs blocks that end early or whose scale is next to nothing.
func (q *rtn) packAny(dst []byte, w []float32, g grid) {
	clear(dst)
	for i, v := range w {
		if q.Bits == 4 {
			dst[i/2] |= q.level(g, v) << (i & 1 * 4)
		} else {
			dst[i] = q.level(g, v)
		}
	}
}

// pack4 packs len(w) levels, a multiple of 8, into dst. Eight levels of 0 to 16 stand in the bytes of
// a word, those at odd places in its upper half; 16 becomes 15 in all of them at once.
func pack4(dst []byte, w []float32, recip, bias float32) {
	for len(w) >= 8 && len(dst) >= 4 {
		v := (*[8]float32)(w)
		x := truncate(v[0], recip, bias) | truncate(v[2], recip, bias)<<8 |
			truncate(v[4], recip, bias)<<16 | truncate(v[6], recip, bias)<<24 |
			truncate(v[1], recip, bias)<<32 | truncate(v[3], recip, bias)<<40 |
			truncate(v[5], recip, bias)<<48 | truncate(v[7], recip, bias)<<56
		x -= x >> 4 & 0x0101010101010101
		binary.LittleEndian.PutUint32(dst, uint32(x)|uint32(x>>28))
		w, dst = w[8:], dst[4:]
	}
}

// pack8 packs len(w) levels, a multiple of 8, into dst.
func pack8(dst []byte, w []float32, recip, bias float32) {
	for len(w) >= 8 && len(dst) >= 8 {
		v := (*[8]float32)(w)
		d := (*[8]byte)(dst)
		for i := range v {
			d[i] = uint8(min(truncate(v[i], recip, bias), 255))
		}
		w, dst = w[8:], dst[8:]
	}
}

// pack8Cut is pack4Cut for levels of 8 bits.
func pack8Cut(dst []byte, w []float32, recip, bias float32) {
	for i, v := range w {
		dst[i] = uint8(min(max(int64(float32(v*recip)+bias), 0), 255))
	}
}

// pack4CutPortable is pack4Cut in Go, for a multiple of 8 weights.
func pack4CutPortable(dst []byte, w []float32, recip, bias float32) {
	for len(w) >= 8 && len(dst) >= 4 {
		v := (*[8]float32)(w)
		var x int64
		for i := range v {
			x |= min(max(int64(float32(v[i]*recip)+bias), 0), 15) << (4 * i)
		}
		binary.LittleEndian.PutUint32(dst, uint32(x))
		w, dst = w[8:], dst[4:]
	}
}

// truncate is w*recip + bias without its fraction. The conversion of the product keeps compilers from
// fusing it with the sum, which would round once where ONNX Runtime rounds twice.
func truncate(w, recip, bias float32) uint64 { return uint64(int64(float32(w*recip) + bias)) }

// scan decodes a block of source type into w and finds its extremes.
func scan(w []float32, src []byte, source ir.DType) extremes {
	switch source {
	case ir.BFloat16:
		return scanBFloat16(w, src)
	case ir.Float16:
		return scanFloat16(w, src)
	default:
		return scanFloat32(w, src)
	}
}

// In the loops below eight weights are compared in a tree: the chain from one turn to the next, which
// bounds the speed, is then one comparison long.

func scanBFloat16(w []float32, src []byte) extremes {
	hi, lo := int32(math.MinInt32), uint32(0)
	i := 0
	for ; i <= len(w)-4 && 2*i <= len(src)-8; i += 4 {
		v := (*[4]float32)(w[i:])
		x := binary.LittleEndian.Uint64(src[2*i:])
		a, b := uint32(x)<<16, uint32(x)&0xffff0000
		c, d := uint32(x>>32)<<16, uint32(x>>32)&0xffff0000
		v[0], v[1] = math.Float32frombits(a), math.Float32frombits(b)
		v[2], v[3] = math.Float32frombits(c), math.Float32frombits(d)
		hi = max(hi, max(max(int32(a), int32(b)), max(int32(c), int32(d))))
		lo = max(lo, max(max(a, b), max(c, d)))
	}
	l := extremes{hi, lo}
	for ; i < len(w); i++ {
		l.add(w, i, uint32(binary.LittleEndian.Uint16(src[2*i:]))<<16)
	}
	return l
}

func highest(a, b, c, d, e, f, g, h uint32) int32 {
	return max(max(max(int32(a), int32(b)), max(int32(c), int32(d))), max(max(int32(e), int32(f)), max(int32(g), int32(h))))
}

func lowest(a, b, c, d, e, f, g, h uint32) uint32 {
	return max(max(max(a, b), max(c, d)), max(max(e, f), max(g, h)))
}

func scanFloat32(w []float32, src []byte) extremes {
	hi, lo := int32(math.MinInt32), uint32(0)
	for len(w) >= 8 && len(src) >= 32 {
		v, s := (*[8]float32)(w), (*[32]byte)(src)
		le := binary.LittleEndian
		a, b, c, d := le.Uint32(s[0:]), le.Uint32(s[4:]), le.Uint32(s[8:]), le.Uint32(s[12:])
		e, f, g, h := le.Uint32(s[16:]), le.Uint32(s[20:]), le.Uint32(s[24:]), le.Uint32(s[28:])
		v[0], v[1] = math.Float32frombits(a), math.Float32frombits(b)
		v[2], v[3] = math.Float32frombits(c), math.Float32frombits(d)
		v[4], v[5] = math.Float32frombits(e), math.Float32frombits(f)
		v[6], v[7] = math.Float32frombits(g), math.Float32frombits(h)
		hi = max(hi, highest(a, b, c, d, e, f, g, h))
		lo = max(lo, lowest(a, b, c, d, e, f, g, h))
		w, src = w[8:], src[32:]
	}
	l := extremes{hi, lo}
	for i := range w {
		l.add(w, i, binary.LittleEndian.Uint32(src[4*i:]))
	}
	return l
}

func scanFloat16(w []float32, src []byte) extremes {
	hi, lo := int32(math.MinInt32), uint32(0)
	for i := range w {
		h := binary.LittleEndian.Uint16(src[2*i:])
		// As bits of a float32 a binary16 number is 2^112 times too small; the product is exact.
		f := math.Float32frombits(uint32(h&0x7fff)<<13) * 0x1p112
		if h&0x7c00 == 0x7c00 { // infinite or NaN
			f = math.Float32frombits(infBits | uint32(h&0x3ff)<<13)
		}
		u := math.Float32bits(f) | uint32(h&0x8000)<<16
		w[i] = math.Float32frombits(u)
		hi, lo = max(hi, int32(u)), max(lo, u)
	}
	return extremes{hi, lo}
}

func (l *extremes) add(w []float32, i int, bits uint32) {
	w[i] = math.Float32frombits(bits)
	l.hi, l.lo = max(l.hi, int32(bits)), max(l.lo, bits)
}
