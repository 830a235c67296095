package capi

// #include "shim.h"
import "C"

import "unsafe"

// Memory is what an OrtMemoryInfo says.
type Memory struct {
	Name   string // "Cpu", "Cuda", ...
	Kind   int    // an OrtMemoryInfoDeviceType; 0 is the CPU
	Vendor int    // PCI vendor
	ID     int    // of the device among those of its kind
	Host   bool   // it may be read from the CPU
}

// DescribeMemory reads info.
func DescribeMemory(info *MemoryInfo) (Memory, error) {
	var m C.capi_memory
	if err := take(C.capi_memory_describe(info, &m)); err != nil {
		return Memory{}, err
	}
	return Memory{Name: C.GoString(m.name), Kind: int(m.device), Vendor: int(m.vendor), ID: int(m.id), Host: m.host != 0}, nil
}

// SessionMemory returns where s takes its inputs from, or leaves its outputs, of
// which it has count. The infos belong to the session.
func SessionMemory(s *Session, list List, count int) ([]*MemoryInfo, error) {
	if count == 0 {
		return nil, nil
	}
	infos := make([]*MemoryInfo, count)
	return infos, take(C.capi_session_memory(s, C.int(list), unsafe.SliceData(infos), C.size_t(count)))
}

// WrapValue returns a tensor over memory that stays the caller's.
func WrapValue(info *MemoryInfo, data unsafe.Pointer, size int, shape []int64, dtype int) (*Value, error) {
	var v *Value
	return v, take(C.capi_value_wrap(info, data, C.size_t(size),
		(*C.int64_t)(unsafe.SliceData(shape)), C.size_t(len(shape)), C.ONNXTensorElementDataType(dtype), &v))
}

// NewAllocator returns the allocator that session has for memory of the kind info.
func NewAllocator(session *Session, info *MemoryInfo) (*Allocator, error) {
	var a *Allocator
	return a, take(C.capi_allocator_create(session, info, &a))
}

// ReleaseAllocator frees a. What a has allocated must be released before.
func ReleaseAllocator(a *Allocator) { C.capi_allocator_release(a) }

// AllocateValue returns a tensor, its elements unset, in memory of a.
func AllocateValue(a *Allocator, shape []int64, dtype int) (*Value, error) {
	var v *Value
	return v, take(C.capi_value_allocate(a, (*C.int64_t)(unsafe.SliceData(shape)), C.size_t(len(shape)),
		C.ONNXTensorElementDataType(dtype), &v))
}

// ReleaseValue frees v.
func ReleaseValue(v *Value) { C.capi_value_release(v) }

// TensorInfo says what a tensor is and where it lies.
type TensorInfo struct {
	DType  int
	Shape  []int64
	Data   unsafe.Pointer
	Size   int         // bytes
	Memory *MemoryInfo // belongs to the value
}

// DescribeValue reads what v is; ok is false where it is no tensor.
func DescribeValue(v *Value) (info TensorInfo, ok bool, err error) {
	var isTensor C.int
	if err := take(C.capi_value_is_tensor(v, &isTensor)); err != nil || isTensor == 0 {
		return TensorInfo{}, false, err
	}
	var shape *C.OrtTensorTypeAndShapeInfo
	if err := take(C.capi_value_shape(v, &shape)); err != nil {
		return TensorInfo{}, false, err
	}
	defer C.capi_shape_release(shape)
	if info.DType, info.Shape, _, err = readShape(shape); err != nil {
		return TensorInfo{}, false, err
	}
	if err := info.readMemory(v); err != nil {
		return TensorInfo{}, false, err
	}
	return info, true, nil
}

func (t *TensorInfo) readMemory(v *Value) error {
	var size C.size_t
	if err := take(C.capi_value_data(v, &t.Data)); err != nil {
		return err
	}
	if err := take(C.capi_value_size(v, &size)); err != nil {
		return err
	}
	t.Size = int(size)
	return take(C.capi_value_memory_info(v, &t.Memory))
}

// CopyMemory copies size bytes from src, which lies in the memory from, to dst, which
// lies in the memory to.
func CopyMemory(env *Env, to *MemoryInfo, dst unsafe.Pointer, from *MemoryInfo, src unsafe.Pointer, size int) error {
	return take(C.capi_memory_copy(env, to, dst, from, src, C.size_t(size)))
}
