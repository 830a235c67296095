package ir

import (
	"math"
	"unsafe"
)

// floatsAt views b as float32s when it is aligned, which mapped weights are. Every platform that
// Go and ONNX Runtime share is little endian.
func floatsAt(b []byte, n int) ([]float32, bool) {
	p := unsafe.SliceData(b)
	if uintptr(unsafe.Pointer(p))%4 != 0 {
		return nil, false
	}
	return unsafe.Slice((*float32)(unsafe.Pointer(p)), n), true
}

func uint16At(b []byte, n int) ([]uint16, bool) {
	p := unsafe.SliceData(b)
	if uintptr(unsafe.Pointer(p))%2 != 0 {
		return nil, false
	}
	return unsafe.Slice((*uint16)(unsafe.Pointer(p)), n), true
}

// decodeFloats converts len(dst) elements of type d at the start of b.
func decodeFloats(dst []float32, b []byte, d DType) {
	if len(dst) == 0 {
		return
	}
	switch d {
	case Float32:
		if src, ok := floatsAt(b, len(dst)); ok {
			copy(dst, src)
			return
		}
		for i := range dst {
			dst[i] = math.Float32frombits(le32(b[4*i:]))
		}
	case BFloat16:
		if src, ok := uint16At(b, len(dst)); ok {
			for i, x := range src {
				dst[i] = math.Float32frombits(uint32(x) << 16)
			}
			return
		}
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(le16(b[2*i:])) << 16)
		}
	case Float16:
		for i := range dst {
			dst[i] = Float16ToFloat32(le16(b[2*i:]))
		}
	case Float64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(uint64(le32(b[8*i:])) | uint64(le32(b[8*i+4:]))<<32))
		}
	}
}

// encodeFloats is the inverse of decodeFloats; it rounds to nearest, ties to even.
func encodeFloats(b []byte, src []float32, d DType) {
	switch d {
	case Float32:
		if len(src) == 0 {
			return
		}
		if dst, ok := floatsAt(b, len(src)); ok {
			copy(dst, src)
			return
		}
		for i, x := range src {
			put32(b[4*i:], math.Float32bits(x))
		}
	case BFloat16:
		for i, x := range src {
			put16(b[2*i:], Float32ToBFloat16(x))
		}
	case Float16:
		for i, x := range src {
			put16(b[2*i:], Float32ToFloat16(x))
		}
	case Float64:
		for i, x := range src {
			u := math.Float64bits(float64(x))
			put32(b[8*i:], uint32(u))
			put32(b[8*i+4:], uint32(u>>32))
		}
	}
}

func le16(b []byte) uint16 { _ = b[1]; return uint16(b[0]) | uint16(b[1])<<8 }
func le32(b []byte) uint32 {
	_ = b[3]
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
func put16(b []byte, x uint16) { _ = b[1]; b[0], b[1] = byte(x), byte(x>>8) }
func put32(b []byte, x uint32) {
	_ = b[3]
	b[0], b[1], b[2], b[3] = byte(x), byte(x>>8), byte(x>>16), byte(x>>24)
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
	for i, x := range src {
		if bfloat {
			dst[i] = math.Float32frombits(uint32(x) << 16)
		} else {
			dst[i] = Float16ToFloat32(x)
		}
	}
}
