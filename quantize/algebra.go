package quantize

import "context"

// Algebra multiplies matrices of float32, which lie in memory row by row. Calibrated methods spend
// their time in it: package calib has one on ONNX Runtime.
type Algebra interface {
	// Alloc gives n zeros. Products read and write such memory, and parts of it, without a copy.
	Alloc(n int) ([]float32, error)
	// Free takes memory back that Alloc has given; it must not be used any more.
	Free([]float32)
	// Gemm computes a product. Slices that are not from Alloc are allowed.
	Gemm(ctx context.Context, g Gemm) error
}

// Gemm is the product Y = C + alpha · A · B, with A [M, K] and B [K, N], either of them stored
// transposed, and with C and Y [M, N], which must not overlap. Without C it is alpha · A · B.
type Gemm struct {
	M, N, K        int
	A, B, C, Y     []float32
	TransA, TransB bool
	Negative       bool // alpha is -1, and 1 otherwise
}
