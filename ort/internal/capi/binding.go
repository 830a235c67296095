package capi

// #include "shim.h"
import "C"

import "unsafe"

// NewBinding returns an I/O binding of s.
func NewBinding(s *Session) (*Binding, error) {
	var b *Binding
	return b, take(C.capi_binding_create(s, &b))
}

// ReleaseBinding frees b.
func ReleaseBinding(b *Binding) { C.capi_binding_release(b) }

// BindInput binds an input.
func BindInput(b *Binding, name Name, v *Value) error {
	return take(C.capi_binding_input(b, name.p, v))
}

// BindOutput binds an output to memory that exists.
func BindOutput(b *Binding, name Name, v *Value) error {
	return take(C.capi_binding_output(b, name.p, v))
}

// BindOutputTo binds an output to memory that ONNX Runtime allocates.
func BindOutputTo(b *Binding, name Name, info *MemoryInfo) error {
	return take(C.capi_binding_output_to(b, name.p, info))
}

// ClearBinding removes all that is bound.
func ClearBinding(b *Binding) { C.capi_binding_clear(b) }

// RunBinding runs s on what b binds. options may be nil.
func RunBinding(s *Session, options *RunOptions, b *Binding) error {
	return take(C.capi_session_run_binding(s, options, b))
}

// BoundOutputs returns the names of the bound outputs and their values, which are
// the caller's.
func BoundOutputs(b *Binding) ([]string, []*Value, error) {
	allocator, err := DefaultAllocator()
	if err != nil {
		return nil, nil, err
	}
	names, err := boundNames(b, allocator)
	if err != nil || len(names) == 0 {
		return nil, nil, err
	}
	var (
		values **Value
		count  C.size_t
	)
	if err := take(C.capi_binding_output_values(b, allocator, &values, &count)); err != nil {
		return nil, nil, err
	}
	list := append([]*Value(nil), unsafe.Slice(values, count)...)
	return names, list, take(C.capi_allocator_free(allocator, unsafe.Pointer(values)))
}

// boundNames reads the names of the bound outputs: one buffer without separators,
// and a length for each.
func boundNames(b *Binding, allocator *Allocator) ([]string, error) {
	var (
		buffer  *C.char
		lengths *C.size_t
		count   C.size_t
	)
	if err := take(C.capi_binding_output_names(b, allocator, &buffer, &lengths, &count)); err != nil || count == 0 {
		return nil, err
	}
	names := make([]string, count)
	at := unsafe.Pointer(buffer)
	for i, n := range unsafe.Slice(lengths, count) {
		names[i] = C.GoStringN((*C.char)(at), C.int(n))
		at = unsafe.Add(at, n)
	}
	if err := take(C.capi_allocator_free(allocator, unsafe.Pointer(buffer))); err != nil {
		return nil, err
	}
	return names, take(C.capi_allocator_free(allocator, unsafe.Pointer(lengths)))
}
