package quantize

import "fmt"

// Format is a block format of MatMulNBits and GatherBlockQuantized. A weight of N rows (outputs)
// and K columns (inputs) is stored row by row, in blocks of BlockSize neighbours:
//
//	B           uint8  [N, Blocks(K), BlockBytes()]    the first of two 4-bit values is the low half
//	scales      float  [N, Blocks(K)]
//	zero_points uint8  [N, ZeroPointBytes(K)]          asymmetric only; packed as B is
//
// and stands for scale * (b - zero point). Symmetric formats have no zero points: the operators
// then take 2^(Bits-1). In the last block of a row whose length BlockSize does not divide, the
// values behind the row are 0 and not used.
type Format struct {
	Bits      int  // 4 or 8
	BlockSize int  // power of two, 16 to 256
	Symmetric bool // no zero points
}

// String gives the format in words, such as "int4 block 32 symmetric".
func (f Format) String() string {
	if f == perChannel {
		return "int8 per channel"
	}
	s := fmt.Sprintf("int%d block %d", f.Bits, f.BlockSize)
	if f.Symmetric {
		s += " symmetric"
	}
	return s
}

// Blocks is the number of blocks in a row of k weights.
func (f Format) Blocks(k int64) int64 {
	return (k + int64(f.BlockSize) - 1) / int64(f.BlockSize)
}

// BlockBytes is the size of a block's packed weights.
func (f Format) BlockBytes() int64 { return int64(f.BlockSize) * int64(f.Bits) / 8 }

// RowBytes is the size of the packed weights of a row of k, padded to whole blocks.
func (f Format) RowBytes(k int64) int64 { return f.Blocks(k) * f.BlockBytes() }

// ZeroPointBytes is the size of a row's packed zero points: 0 for symmetric formats.
func (f Format) ZeroPointBytes(k int64) int64 {
	if f.Symmetric {
		return 0
	}
	return (f.Blocks(k)*int64(f.Bits) + 7) / 8
}

// middle is the zero point of symmetric formats.
func (f Format) middle() int32 { return 1 << (f.Bits - 1) }

// top is the largest value.
func (f Format) top() int32 { return 1<<f.Bits - 1 }

// faults lists what is wrong with f, in words for a user.
func (f Format) faults() []error {
	var all []error
	if f.Bits != 4 && f.Bits != 8 {
		all = append(all, fmt.Errorf("%d bits a weight: block formats have 4 or 8", f.Bits))
	}
	if b := f.BlockSize; b < minBlock || b > maxBlock || b&(b-1) != 0 {
		all = append(all, fmt.Errorf("block size %d: it must be 16, 32, 64, 128 or 256", b))
	}
	return all
}

// The block sizes that MatMulNBits takes.
const (
	minBlock = 16
	maxBlock = 256
)
