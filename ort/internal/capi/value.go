package capi

// #include "shim.h"
import "C"

import "unsafe"

// Memory describes the memory called name ("Cpu", "Cuda", ...) of a device.
func Memory(name string, device int) (*MemoryInfo, error) {
	n := NewName(name)
	defer n.Free()
	var info *MemoryInfo
	return info, take(C.capi_memory_info(n.p, C.int(device), &info))
}

// ReleaseMemory frees info.
func ReleaseMemory(info *MemoryInfo) { C.capi_memory_info_release(info) }

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
	Name   string      // of the memory: "Cpu", "Cuda", ...
	Device int
	OnCPU  bool // Data may be read from here
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
	var (
		size   C.size_t
		memory *C.OrtMemoryInfo
		name   *C.char
		device C.int
		onCPU  C.int
	)
	if err := take(C.capi_value_data(v, &t.Data)); err != nil {
		return err
	}
	if err := take(C.capi_value_size(v, &size)); err != nil {
		return err
	}
	if err := take(C.capi_value_memory_info(v, &memory)); err != nil {
		return err
	}
	if err := take(C.capi_memory_info_device(memory, &name, &device, &onCPU)); err != nil {
		return err
	}
	t.Size, t.Memory, t.Name, t.Device, t.OnCPU = int(size), memory, C.GoString(name), int(device), onCPU != 0
	return nil
}

// CopyValue copies src's elements to dst, between devices if need be.
func CopyValue(env *Env, dst, src *Value) error { return take(C.capi_value_copy(env, src, dst)) }
