package ort

import (
	"fmt"
	"reflect"
)

// A DType is the element type of a tensor, numbered as TensorProto.DataType in the
// ONNX specification (onnx.proto).
type DType int32

// The element types of ONNX. Strings and complex numbers can be described but not
// stored in a [Tensor].
const (
	Undefined    DType = 0
	Float32      DType = 1
	Uint8        DType = 2
	Int8         DType = 3
	Uint16       DType = 4
	Int16        DType = 5
	Int32        DType = 6
	Int64        DType = 7
	String       DType = 8
	Bool         DType = 9
	Float16      DType = 10
	Float64      DType = 11
	Uint32       DType = 12
	Uint64       DType = 13
	Complex64    DType = 14
	Complex128   DType = 15
	BFloat16     DType = 16
	Float8E4M3FN DType = 17
	Float8E4M3UZ DType = 18 // FLOAT8E4M3FNUZ
	Float8E5M2   DType = 19
	Float8E5M2UZ DType = 20 // FLOAT8E5M2FNUZ
	Uint4        DType = 21
	Int4         DType = 22
	Float4E2M1   DType = 23
)

// dtypes holds for each type its name, its size in bits, and the kind of Go value
// that holds an element or, below a byte, the elements packed into one.
var dtypes = [...]struct {
	name string
	bits int
	kind reflect.Kind
}{
	Undefined:    {"undefined", 0, reflect.Invalid},
	Float32:      {"float32", 32, reflect.Float32},
	Uint8:        {"uint8", 8, reflect.Uint8},
	Int8:         {"int8", 8, reflect.Int8},
	Uint16:       {"uint16", 16, reflect.Uint16},
	Int16:        {"int16", 16, reflect.Int16},
	Int32:        {"int32", 32, reflect.Int32},
	Int64:        {"int64", 64, reflect.Int64},
	String:       {"string", 0, reflect.Invalid},
	Bool:         {"bool", 8, reflect.Bool},
	Float16:      {"float16", 16, reflect.Uint16},
	Float64:      {"float64", 64, reflect.Float64},
	Uint32:       {"uint32", 32, reflect.Uint32},
	Uint64:       {"uint64", 64, reflect.Uint64},
	Complex64:    {"complex64", 0, reflect.Invalid},
	Complex128:   {"complex128", 0, reflect.Invalid},
	BFloat16:     {"bfloat16", 16, reflect.Uint16},
	Float8E4M3FN: {"float8e4m3fn", 8, reflect.Uint8},
	Float8E4M3UZ: {"float8e4m3fnuz", 8, reflect.Uint8},
	Float8E5M2:   {"float8e5m2", 8, reflect.Uint8},
	Float8E5M2UZ: {"float8e5m2fnuz", 8, reflect.Uint8},
	Uint4:        {"uint4", 4, reflect.Uint8},
	Int4:         {"int4", 4, reflect.Uint8},
	Float4E2M1:   {"float4e2m1", 4, reflect.Uint8},
}

// String returns the type's name, such as "float16".
func (d DType) String() string {
	if d.known() {
		return dtypes[d].name
	}
	return fmt.Sprintf("dtype(%d)", int32(d))
}

// Bits returns the size of one element in bits, or 0 for types that a tensor of
// this package cannot hold.
func (d DType) Bits() int {
	if d.known() {
		return dtypes[d].bits
	}
	return 0
}

func (d DType) known() bool { return d >= 0 && int(d) < len(dtypes) }

// size returns the bytes that n elements take: sub-byte elements are packed.
func (d DType) size(n int) int { return n/8*d.Bits() + (n%8*d.Bits()+7)/8 }

// holds reports whether Go values of kind are elements of d.
func (d DType) holds(kind reflect.Kind) bool {
	if !d.known() || kind == reflect.Invalid {
		return false
	}
	return dtypes[d].kind == kind || d == Bool && kind == reflect.Uint8
}
