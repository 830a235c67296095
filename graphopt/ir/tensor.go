package ir

import (
	"encoding/binary"
	"io"
	"math"
	"sync"
)

// Data is the content of a tensor: Len bytes, little endian and row-major, that any number of
// goroutines may read at any offset. Implementations are pointers: two tensors whose Data are equal
// share one range of the saved file.
type Data interface {
	Len() int64
	io.ReaderAt
}

// Tensor is a constant: an initializer, or the value of an attribute.
type Tensor struct {
	DType   DType
	Shape   []int64
	Data    Data     // nil for string tensors
	Strings [][]byte // string tensors only
}

// Buffer is Data that lies in memory, or in a mapped file.
type Buffer struct{ b []byte }

// NewBuffer wraps b, which must not change afterwards.
func NewBuffer(b []byte) *Buffer { return &Buffer{b} }

// Len is the number of bytes.
func (b *Buffer) Len() int64 { return int64(len(b.b)) }

// Bytes is the content itself; it must not be written to.
func (b *Buffer) Bytes() []byte { return b.b }

// ReadAt implements io.ReaderAt.
func (b *Buffer) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off > int64(len(b.b)) {
		return 0, errorf("read at %d of %d bytes: %w", off, len(b.b), io.ErrUnexpectedEOF)
	}
	n := copy(p, b.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// NewTensor makes a tensor and checks that data has the size that dtype and shape ask for.
func NewTensor(dtype DType, shape []int64, data Data) (*Tensor, error) {
	want, err := ByteSize(dtype, shape)
	if err != nil {
		return nil, err
	}
	if data == nil {
		return nil, errorf("%v%v has no data", dtype, shape)
	}
	if data.Len() != want {
		return nil, errorf("%v%v takes %d bytes, got %d", dtype, shape, want, data.Len())
	}
	return &Tensor{DType: dtype, Shape: shape, Data: data}, nil
}

// Float32Tensor makes a float32 tensor of v. Without a shape it is one-dimensional.
func Float32Tensor(v []float32, shape ...int64) *Tensor {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return literal(Float32, b, len(v), shape)
}

// Int64Tensor makes an int64 tensor of v. Without a shape it is one-dimensional.
func Int64Tensor(v []int64, shape ...int64) *Tensor {
	b := make([]byte, 0, 8*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(x))
	}
	return literal(Int64, b, len(v), shape)
}

// Int64Scalar makes an int64 tensor of rank 0.
func Int64Scalar(v int64) *Tensor {
	t := Int64Tensor([]int64{v})
	t.Shape = []int64{}
	return t
}

// Float32Scalar makes a float32 tensor of rank 0.
func Float32Scalar(v float32) *Tensor {
	t := Float32Tensor([]float32{v})
	t.Shape = []int64{}
	return t
}

func literal(d DType, b []byte, n int, shape []int64) *Tensor {
	if shape == nil {
		shape = []int64{int64(n)}
	}
	return &Tensor{DType: d, Shape: shape, Data: NewBuffer(b)}
}

// Rank is the number of dimensions.
func (t *Tensor) Rank() int { return len(t.Shape) }

// Len is the number of elements.
func (t *Tensor) Len() int64 {
	n, err := NumElements(t.Shape)
	if err != nil {
		return 0
	}
	return n
}

// ByteLen is the number of bytes of the content.
func (t *Tensor) ByteLen() int64 {
	if t.Data == nil {
		return 0
	}
	return t.Data.Len()
}

// Bytes is the whole content: without a copy where it lies in memory or in a mapped file,
// computed otherwise. It must not be written to.
func (t *Tensor) Bytes() ([]byte, error) {
	switch d := t.Data.(type) {
	case nil:
		return nil, errorf("a %v tensor has no bytes", t.DType)
	case *Buffer:
		return d.b, nil
	}
	b := make([]byte, t.Data.Len())
	if err := readFull(t.Data, b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// readFull fills p from d; data that ends early is an error.
func readFull(d Data, p []byte, off int64) error {
	n, err := d.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == nil || err == io.EOF:
		return errorf("data ends at byte %d of %d: %w", off+int64(n), d.Len(), io.ErrUnexpectedEOF)
	}
	return err
}

// ReadFloat32 fills dst with elements from index off on, converted from float32, float16,
// bfloat16 or float64.
func (t *Tensor) ReadFloat32(dst []float32, off int64) error {
	if !t.DType.Float() || t.Data == nil {
		return errorf("%v is not a floating point type", t.DType)
	}
	size := int64(t.DType.Bits() / 8)
	end := off + int64(len(dst))
	if off < 0 || end > t.Data.Len()/size {
		return errorf("elements %d to %d of %v%v are asked for", off, end, t.DType, t.Shape)
	}
	if b, ok := t.Data.(*Buffer); ok {
		decodeFloats(dst, b.b[off*size:end*size], t.DType)
		return nil
	}
	buf := scratch(len(dst) * int(size))
	defer release(buf)
	if err := readFull(t.Data, *buf, off*size); err != nil {
		return err
	}
	decodeFloats(dst, *buf, t.DType)
	return nil
}

// Float32s is the whole content as float32. It is meant for small tensors.
func (t *Tensor) Float32s() ([]float32, error) {
	v := make([]float32, t.Len())
	return v, t.ReadFloat32(v, 0)
}

// Int64s is the content of an integer or boolean tensor, widened.
func (t *Tensor) Int64s() ([]int64, error) {
	switch t.DType {
	case Int64, Uint64, Int32, Uint32, Int16, Uint16, Int8, Uint8, Bool:
	default:
		return nil, errorf("%v is not an integer type", t.DType)
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	b, err := t.Bytes()
	if err != nil {
		return nil, err
	}
	v := make([]int64, t.Len())
	le := binary.LittleEndian
	for i := range v {
		switch t.DType {
		case Int64, Uint64:
			v[i] = int64(le.Uint64(b[8*i:]))
		case Int32:
			v[i] = int64(int32(le.Uint32(b[4*i:])))
		case Uint32:
			v[i] = int64(le.Uint32(b[4*i:]))
		case Int16:
			v[i] = int64(int16(le.Uint16(b[2*i:])))
		case Uint16:
			v[i] = int64(le.Uint16(b[2*i:]))
		case Int8:
			v[i] = int64(int8(b[i]))
		default:
			v[i] = int64(b[i])
		}
	}
	return v, nil
}

// scratchPool holds the buffers through which computed data is read: one a worker is in use at a time.
var scratchPool = sync.Pool{New: func() any { return new([]byte) }}

func scratch(n int) *[]byte {
	b := scratchPool.Get().(*[]byte)
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	*b = (*b)[:n]
	return b
}

func release(b *[]byte) { scratchPool.Put(b) }
