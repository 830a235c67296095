package ir

import (
	"encoding/binary"
	"math"
	"unsafe"
)

var le = binary.LittleEndian

// floatsAt views b as float32s when it is aligned, which mapped weights are. Every platform that
// Go and ONNX Runtime share is little endian.
func floatsAt(b []byte, n int) ([]float32, bool) {
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%4 != 0 {
		return nil, false
	}
	return unsafe.Slice((*float32)(p), n), true
}

func uint16At(b []byte, n int) ([]uint16, bool) {
	p := unsafe.Pointer(unsafe.SliceData(b))
	if uintptr(p)%2 != 0 {
		return nil, false
	}
	return unsafe.Slice((*uint16)(p), n), true
}

// bytesOf views v as bytes.
func bytesOf(v []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), 4*len(v))
}

// decodeFloats converts len(dst) elements of type d at the start of b.
func decodeFloats(dst []float32, b []byte, d DType) {
	b = b[:len(dst)*d.Bits()/8] // what is viewed below must be there
	switch d {
	case Float32:
		copy(bytesOf(dst), b)
	case BFloat16, Float16:
		if src, ok := uint16At(b, len(dst)); ok { // twice as fast as reading bytes
			WidenHalf(dst, src, d == BFloat16)
			return
		}
		for i := range dst {
			WidenHalf(dst[i:i+1], []uint16{le.Uint16(b[2*i:])}, d == BFloat16)
		}
	case Float64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(le.Uint64(b[8*i:])))
		}
	}
}

// encodeFloats is the inverse of decodeFloats; it rounds to nearest, ties to even.
func encodeFloats(b []byte, src []float32, d DType) {
	switch d {
	case Float32:
		copy(b[:4*len(src)], bytesOf(src))
	case BFloat16:
		for i, x := range src {
			le.PutUint16(b[2*i:], Float32ToBFloat16(x))
		}
	case Float16:
		for i, x := range src {
			le.PutUint16(b[2*i:], Float32ToFloat16(x))
		}
	case Float64:
		for i, x := range src {
			le.PutUint64(b[8*i:], math.Float64bits(float64(x)))
		}
	}
}

// convert gives elements another type, by way of float32. It gives the index of the first finite number that
// does not fit, and that number; -1 where all do.
func convert(dst, src []byte, from, to DType) (int, float32) {
	fromSize, toSize := from.Bits()/8, to.Bits()/8
	if to == Float32 {
		if v, ok := floatsAt(dst, len(dst)/4); ok {
			decodeFloats(v, src, from)
			return -1, 0
		}
	}
	var buf [512]float32
	for done := 0; len(dst) > 0; {
		v := buf[:min(len(buf), len(dst)/toSize)]
		decodeFloats(v, src, from)
		if i := overflow(v, to); i >= 0 {
			return done + i, v[i]
		}
		encodeFloats(dst, v, to)
		dst, src, done = dst[len(v)*toSize:], src[len(v)*fromSize:], done+len(v)
	}
	return -1, 0
}

// overflow finds a finite number that would become infinite in type d: one from halfway between the
// largest that d has and the next power of two. It gives -1 where there is none.
func overflow(v []float32, d DType) int {
	var limit float32
	switch d {
	case Float16:
		limit = 65520
	case BFloat16:
		limit = 0x1.ffp127
	default:
		return -1
	}
	for i, x := range v {
		if (x >= limit || x <= -limit) && !math.IsInf(float64(x), 0) {
			return i
		}
	}
	return -1
}

// Float16ToFloat32 widens an IEEE 754 binary16 number; exact.
func Float16ToFloat32(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp := uint32(h>>10) & 0x1f
	frac := uint32(h) & 0x3ff
	switch exp {
	case 0: // zero or subnormal: frac × 2^-24
		f := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(f) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// Float32ToFloat16 narrows to IEEE 754 binary16, to nearest with ties to even; what is too large
// becomes infinite.
func Float32ToFloat16(f float32) uint16 {
	u := math.Float32bits(f)
	sign := uint16(u >> 16 & 0x8000)
	u &= 0x7fffffff
	switch {
	case u > 0x7f800000:
		return sign | 0x7e00
	case u >= 0x477ff000: // rounds beyond 65504
		return sign | 0x7c00
	case u >= 0x38800000: // normal
		u += 0xfff + (u >> 13 & 1)
		return sign | uint16((u-0x38000000)>>13)
	case u < 0x33000000: // below half of the smallest subnormal
		return sign
	}
	shift := 126 - u>>23 // 14 for the largest subnormals, up to 24
	frac := u&0x7fffff | 0x800000
	half := uint32(1) << (shift - 1)
	r := frac >> shift
	if rest := frac & (half<<1 - 1); rest > half || rest == half && r&1 == 1 {
		r++
	}
	return sign | uint16(r)
}

// Float32ToBFloat16 narrows to bfloat16, to nearest with ties to even.
func Float32ToBFloat16(f float32) uint16 {
	u := math.Float32bits(f)
	if u&0x7fffffff > 0x7f800000 {
		return uint16(u>>16) | 0x40
	}
	return uint16((u + 0x7fff + (u >> 16 & 1)) >> 16)
}

// WidenHalf converts float16, or bfloat16, elements to float32; exact. dst and src have one length.
func WidenHalf(dst []float32, src []uint16, bfloat bool) {
	src = src[:len(dst)]
	if bfloat {
		for i, x := range src {
			dst[i] = math.Float32frombits(uint32(x) << 16)
		}
		return
	}
	for i, x := range src {
		dst[i] = Float16ToFloat32(x)
	}
}
