package safetensors

// DType is an element type, by the name that the format gives it.
type DType string

// The element types of the format (enum Dtype of the reference implementation, safetensors 0.7).
const (
	Bool    DType = "BOOL" // one byte an element
	F4      DType = "F4"   // E2M1, two elements a byte
	F6E2M3  DType = "F6_E2M3"
	F6E3M2  DType = "F6_E3M2"
	U8      DType = "U8"
	I8      DType = "I8"
	F8E5M2  DType = "F8_E5M2"
	F8E4M3  DType = "F8_E4M3" // without infinities ("FN")
	F8E8M0  DType = "F8_E8M0"
	F8E4M3U DType = "F8_E4M3FNUZ"
	F8E5M2U DType = "F8_E5M2FNUZ"
	I16     DType = "I16"
	U16     DType = "U16"
	F16     DType = "F16"
	BF16    DType = "BF16"
	I32     DType = "I32"
	U32     DType = "U32"
	F32     DType = "F32"
	C64     DType = "C64" // two F32: real, imaginary
	F64     DType = "F64"
	I64     DType = "I64"
	U64     DType = "U64"
)

// Bits returns the width of one element in bits, or 0 for a name that the format does not know.
// Elements narrower than a byte are packed.
func (d DType) Bits() int {
	switch d {
	case F4:
		return 4
	case F6E2M3, F6E3M2:
		return 6
	case Bool, U8, I8, F8E5M2, F8E4M3, F8E8M0, F8E4M3U, F8E5M2U:
		return 8
	case I16, U16, F16, BF16:
		return 16
	case I32, U32, F32:
		return 32
	case C64, F64, I64, U64:
		return 64
	}
	return 0
}
