package ort

import (
	"fmt"
	"math"
	"reflect"
	"sync/atomic"
	"unsafe"

	"github.com/qwenrt/qwenrt/ort/internal/capi"
)

// A Tensor is an array of elements of one type in memory outside Go's heap,
// aligned to 64 bytes.
//
// Its elements may be read and written as long as no run uses it. Its methods are
// not safe for concurrent use; a tensor that stays as it is may be an input of
// many runs at once.
type Tensor struct {
	mem    *memory
	value  *capi.Value // over mem; nil once closed
	dtype  DType
	shape  []int64
	offset int // of the first element in mem
	size   int // bytes
}

// memory is a block that one tensor and its views share, and the bindings that
// have bound them.
type memory struct {
	refs      atomic.Int32
	info      *capi.MemoryInfo
	data      unsafe.Pointer
	size      int
	owner     *capi.Value     // the value that the block belongs to; nil where capi.Alloc made it
	allocator *capi.Allocator // to be released after owner; nil where ONNX Runtime sees to it
	model     *model          // to be released after allocator; nil on the CPU
	at        Location
}

func (m *memory) retain() *memory {
	m.refs.Add(1)
	return m
}

func (m *memory) release() {
	if m.refs.Add(-1) > 0 {
		return
	}
	if m.owner == nil {
		capi.Free(m.data, m.size)
		return
	}
	capi.ReleaseValue(m.owner)
	if m.allocator != nil {
		capi.ReleaseAllocator(m.allocator)
	}
	if m.model != nil {
		m.model.release()
	}
}

// value returns a value over a part of m, which is the caller's.
func (m *memory) value(dtype DType, offset, size int, shape []int64) (*capi.Value, error) {
	return capi.WrapValue(m.info, unsafe.Add(m.data, offset), size, shape, int(dtype))
}

// NewTensor returns a tensor of zeros. A dimension of 0 is allowed, no dimension
// makes a scalar. Tensors of a megabyte and more are pages that the system
// provides as they are touched.
//
// Errors: ErrInvalidArgument for a negative dimension, a size that overflows or a
// type that cannot be stored; ErrRuntime where memory is short.
func NewTensor(dtype DType, shape ...int64) (*Tensor, error) {
	size, err := byteSize(dtype, shape)
	if err != nil {
		return nil, err
	}
	lib, err := current()
	if err != nil {
		return nil, err
	}
	m := &memory{info: lib.cpu, size: max(size, 1)}
	if m.data = capi.Alloc(m.size); m.data == nil {
		return nil, fmt.Errorf("ort: %w: no memory for a tensor of %d bytes", ErrRuntime, size)
	}
	return m.tensor(dtype, 0, shape)
}

// NewTensor returns a tensor in the memory at: as the function NewTensor where that
// is the CPU's, otherwise its elements unset, from the allocator that the session
// has for it. at is where an input or an output of the session lies. A tensor that
// is not on the CPU has no Bytes: see [Copy]. It may outlive the session, but the
// model's memory is kept until it is closed.
//
// Errors: as for the function NewTensor; ErrInvalidArgument for memory that the
// session does not use; ErrClosed.
func (s *Session) NewTensor(at Location, dtype DType, shape ...int64) (*Tensor, error) {
	if at == (Location{}) {
		return NewTensor(dtype, shape...)
	}
	if _, err := byteSize(dtype, shape); err != nil {
		return nil, err
	}
	if err := s.acquire(); err != nil {
		return nil, err
	}
	defer s.use.RUnlock()
	info, err := s.memoryAt(at)
	if err != nil {
		return nil, err
	}
	what := "tensor in memory " + at.String()
	allocator, err := capi.NewAllocator(s.handle(), info)
	if err != nil {
		return nil, wrap(what, err)
	}
	value, err := capi.AllocateValue(allocator, shape, int(dtype))
	if err != nil {
		capi.ReleaseAllocator(allocator)
		return nil, wrap(what, err)
	}
	t, err := s.model.adopt(what, value)
	if err != nil {
		capi.ReleaseAllocator(allocator)
		return nil, err
	}
	t.mem.allocator = allocator
	return t, nil
}

// adopt makes a tensor of a value that a session of the model allocated. The value
// is the tensor's, and released if there is an error.
func (m *model) adopt(what string, value *capi.Value) (*Tensor, error) {
	var at Location
	info, ok, err := capi.DescribeValue(value)
	if err == nil && !ok {
		err = fmt.Errorf("%w: the value is no tensor", ErrInvalidArgument)
	}
	if err == nil && DType(info.DType).Bits() == 0 {
		err = fmt.Errorf("%w: tensors of %s cannot be read", ErrInvalidArgument, DType(info.DType))
	}
	if err == nil {
		at, err = locate(info.Memory)
	}
	if err != nil {
		capi.ReleaseValue(value)
		return nil, wrap(what, err)
	}
	mem := &memory{info: info.Memory, data: info.Data, size: info.Size, owner: value, at: at}
	if at != (Location{}) {
		mem.model = m.retain()
	}
	return mem.tensor(DType(info.DType), 0, info.Shape)
}

// tensor returns a tensor over m, which holds enough bytes.
func (m *memory) tensor(dtype DType, offset int, shape []int64) (*Tensor, error) {
	t := &Tensor{mem: m.retain(), dtype: dtype, offset: offset, shape: make([]int64, 0, max(len(shape), 4))}
	if err := t.Reshape(shape...); err != nil {
		m.release()
		return nil, err
	}
	return t, nil
}

// byteSize returns the bytes that a tensor takes.
func byteSize(dtype DType, shape []int64) (int, error) {
	if dtype.Bits() == 0 {
		return 0, invalid("a tensor of %s", dtype)
	}
	n := int64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, invalid("shape %v has a negative dimension", copyOf(shape))
		}
		if d > 0 && n > math.MaxInt/8/d {
			return 0, invalid("shape %v is too large", copyOf(shape))
		}
		n *= d
	}
	return dtype.size(int(n)), nil
}

// copyOf keeps a shape that goes into an error message from being moved to the
// heap where there is no error.
func copyOf(shape []int64) []int64 { return append([]int64(nil), shape...) }

// View returns another tensor over the same memory, which stays until both are
// closed. offset is in bytes from t's first element and a multiple of the
// element's size.
func (t *Tensor) View(offset int, shape ...int64) (*Tensor, error) {
	if t.value == nil {
		return nil, t.closedError()
	}
	size, err := byteSize(t.dtype, shape)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > t.size || size > t.size-offset {
		return nil, invalid("view of %d bytes at byte %d of a tensor of %d bytes", size, offset, t.size)
	}
	if unit := max(t.dtype.Bits()/8, 1); offset%unit != 0 {
		return nil, invalid("view at byte %d, not a multiple of the %d bytes of %s", offset, unit, t.dtype)
	}
	return t.mem.tensor(t.dtype, t.offset+offset, shape)
}

// Reshape gives t another shape over the same memory, from its first element on:
// smaller, or larger up to what the memory holds. It does not allocate on Go's
// heap unless the rank grows beyond 4. What has bound t keeps the old shape until
// it binds t again.
func (t *Tensor) Reshape(shape ...int64) error {
	if t.mem == nil {
		return t.closedError()
	}
	size, err := byteSize(t.dtype, shape)
	if err != nil {
		return err
	}
	if size > t.mem.size-t.offset {
		return invalid("shape %v of %s needs %d bytes, the tensor's memory has %d",
			copyOf(shape), t.dtype, size, t.mem.size-t.offset)
	}
	value, err := t.mem.value(t.dtype, t.offset, size, shape)
	if err != nil {
		return wrap("tensor", err)
	}
	if t.value != nil {
		capi.ReleaseValue(t.value)
	}
	t.value, t.size, t.shape = value, size, append(t.shape[:0], shape...)
	return nil
}

// DType returns the element type.
func (t *Tensor) DType() DType { return t.dtype }

// Shape returns the dimensions. The slice is the tensor's own: Reshape changes it.
func (t *Tensor) Shape() []int64 { return t.shape }

// Capacity returns how many bytes Reshape may use.
func (t *Tensor) Capacity() int {
	if t.mem == nil {
		return 0
	}
	return t.mem.size - t.offset
}

// Location returns the memory that t lies in, that of the CPU for a closed tensor.
func (t *Tensor) Location() Location {
	if t.mem == nil {
		return Location{}
	}
	return t.mem.at
}

// OnCPU reports whether t has Bytes: whether it is not closed, and lies where this
// process can read it.
func (t *Tensor) OnCPU() bool { return t.mem != nil && t.mem.at.OnCPU() }

// Bytes returns the elements as they lie in memory, without a copy; nil for a
// tensor on a device and for a closed one. The slice must not be used after Close.
func (t *Tensor) Bytes() []byte {
	if !t.OnCPU() {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Add(t.mem.data, t.offset)), t.size)
}

// Element lists the Go types that elements are seen as.
type Element interface {
	~bool | ~int8 | ~uint8 | ~int16 | ~uint16 | ~int32 | ~uint32 | ~int64 | ~uint64 | ~float32 | ~float64
}

// Data returns t's elements, without a copy. T is the Go type of the same name;
// uint16 for float16 and bfloat16, uint8 for the 8-bit floats and, if wanted, bool;
// and uint8 for types below 8 bits, two elements in one, the first in the low bits.
// Data returns nil where T does not fit, for a tensor on a device and for a closed
// one. The slice must not be used after Close.
func Data[T Element](t *Tensor) []T {
	data := t.Bytes()
	if data == nil || !t.dtype.holds(reflect.TypeFor[T]().Kind()) {
		return nil
	}
	var element T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(data))), len(data)/int(unsafe.Sizeof(element)))
}

// Close releases the tensor; its memory goes when no view and no binding holds it.
// A second Close does nothing.
func (t *Tensor) Close() {
	if t.mem == nil {
		return
	}
	capi.ReleaseValue(t.value)
	t.mem.release()
	t.mem, t.value = nil, nil
}

func (t *Tensor) closedError() error { return fmt.Errorf("ort: tensor: %w", ErrClosed) }

// usable returns the value of t for what, which begins the error.
func (t *Tensor) usable(what, name string) (*capi.Value, error) {
	if t == nil {
		return nil, fmt.Errorf("ort: %s %s: %w: no tensor", what, name, ErrInvalidArgument)
	}
	if t.value == nil {
		return nil, fmt.Errorf("ort: %s %s: tensor: %w", what, name, ErrClosed)
	}
	return t.value, nil
}

// Copy copies the elements of src to dst, which has the same type and as many
// bytes. Either may lie on a device: then OrtApi::CopyTensors does it, with the
// data transfer that a provider library has brought (RegisterProviderLibrary);
// without one it fails.
func Copy(dst, src *Tensor) error {
	if err := copyable(dst, src); err != nil {
		return err
	}
	if dst.dtype != src.dtype || dst.size != src.size {
		return invalid("copy of %s %v to %s %v", src.dtype, src.shape, dst.dtype, dst.shape)
	}
	return CopyBytes(dst, 0, src, 0, dst.size)
}

// CopyBytes copies n bytes of src, from the byte from on, to dst, from the byte to on,
// whatever their types and shapes; for the rest it is as [Copy]. It does not allocate
// on Go's heap.
func CopyBytes(dst *Tensor, to int, src *Tensor, from, n int) error {
	if err := copyable(dst, src); err != nil {
		return err
	}
	if n < 0 || to < 0 || n > dst.size-to || from < 0 || n > src.size-from {
		return invalid("copy of %d bytes, from byte %d of %d to byte %d of %d", n, from, src.size, to, dst.size)
	}
	if n == 0 {
		return nil
	}
	if dst.OnCPU() && src.OnCPU() {
		copy(dst.Bytes()[to:][:n], src.Bytes()[from:])
		return nil
	}
	lib, err := current()
	if err != nil {
		return err
	}
	return wrap("copy", capi.CopyMemory(lib.env, dst.mem.info, unsafe.Add(dst.mem.data, dst.offset+to),
		src.mem.info, unsafe.Add(src.mem.data, src.offset+from), n))
}

// copyable reports a tensor that is missing or closed.
func copyable(dst, src *Tensor) error {
	if _, err := dst.usable("copy", "destination"); err != nil {
		return err
	}
	_, err := src.usable("copy", "source")
	return err
}
