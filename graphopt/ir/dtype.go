package ir

import "fmt"

// DType is an element type, numbered as TensorProto.DataType in onnx.proto.
type DType int32

// The element types of ONNX up to IR version 13.
const (
	Undefined      DType = 0
	Float32        DType = 1
	Uint8          DType = 2
	Int8           DType = 3
	Uint16         DType = 4
	Int16          DType = 5
	Int32          DType = 6
	Int64          DType = 7
	String         DType = 8
	Bool           DType = 9
	Float16        DType = 10
	Float64        DType = 11
	Uint32         DType = 12
	Uint64         DType = 13
	Complex64      DType = 14
	Complex128     DType = 15
	BFloat16       DType = 16
	Float8E4M3FN   DType = 17
	Float8E4M3FNUZ DType = 18
	Float8E5M2     DType = 19
	Float8E5M2FNUZ DType = 20
	Uint4          DType = 21
	Int4           DType = 22
	Float4E2M1     DType = 23
	Float8E8M0     DType = 24
	Uint2          DType = 25
	Int2           DType = 26
)

var dtypes = [...]struct {
	name string
	bits int
}{
	Undefined: {"undefined", 0}, Float32: {"float32", 32}, Uint8: {"uint8", 8}, Int8: {"int8", 8},
	Uint16: {"uint16", 16}, Int16: {"int16", 16}, Int32: {"int32", 32}, Int64: {"int64", 64},
	String: {"string", 0}, Bool: {"bool", 8}, Float16: {"float16", 16}, Float64: {"float64", 64},
	Uint32: {"uint32", 32}, Uint64: {"uint64", 64}, Complex64: {"complex64", 64},
	Complex128: {"complex128", 128}, BFloat16: {"bfloat16", 16}, Float8E4M3FN: {"float8e4m3fn", 8},
	Float8E4M3FNUZ: {"float8e4m3fnuz", 8}, Float8E5M2: {"float8e5m2", 8},
	Float8E5M2FNUZ: {"float8e5m2fnuz", 8}, Uint4: {"uint4", 4}, Int4: {"int4", 4},
	Float4E2M1: {"float4e2m1", 4}, Float8E8M0: {"float8e8m0", 8}, Uint2: {"uint2", 2}, Int2: {"int2", 2},
}

func (d DType) known() bool { return d > Undefined && int(d) < len(dtypes) }

// String gives the type's name, such as "float32" or "bfloat16".
func (d DType) String() string {
	if d < 0 || int(d) >= len(dtypes) {
		return fmt.Sprintf("dtype(%d)", int32(d))
	}
	return dtypes[d].name
}

// Bits is the size of one element in bits; 0 for strings and unknown types.
func (d DType) Bits() int {
	if !d.known() {
		return 0
	}
	return dtypes[d].bits
}

// Float reports whether d is one of the types in which weights and activations are computed:
// float32, float16, bfloat16 or float64.
func (d DType) Float() bool {
	return d == Float32 || d == Float16 || d == BFloat16 || d == Float64
}

// NumElements is the product of shape. It fails on negative dimensions and on products that
// do not fit an int64.
func NumElements(shape []int64) (int64, error) {
	n := int64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, errorf("negative dimension in shape %v", shape)
		}
		if d != 0 && n > (1<<62)/d {
			return 0, errorf("shape %v has too many elements", shape)
		}
		n *= d
	}
	return n, nil
}

// ByteSize is the number of bytes that a tensor of this type and shape takes; types below a byte
// are packed, the last byte padded.
func ByteSize(d DType, shape []int64) (int64, error) {
	n, err := NumElements(shape)
	if err != nil {
		return 0, err
	}
	bits := int64(d.Bits())
	if bits == 0 {
		return 0, errorf("element type %v has no fixed size", d)
	}
	if n > (1<<62)/bits {
		return 0, errorf("shape %v of %v has too many bytes", shape, d)
	}
	return (n*bits + 7) / 8, nil
}
